//! Who is there: heartbeats, and silence that is taken for death.
//!
//! Nobody can tell a dead member from a slow one. So the declaration itself is what counts: it is told to all in the
//! heartbeats, it is never taken back, and a member that hears of its own death has to come back as somebody new.

use std::{collections::BTreeMap, time::Duration};

use super::{Alive, Id, Settings};

/// No more members are listened to.
const PEERS: usize = 500;
/// So many dead are remembered.
const GRAVES: usize = 200;

/// Somebody whose heartbeats come.
pub struct Peer {
    pub joined: bool,
    last_heard: Duration,
    /// How far it holds this member's own texts.
    pub holds_mine: u32,
}

/// Who is there, and who was.
#[derive(Default)]
pub struct Presence {
    peers: BTreeMap<Id, Peer>,
    dead: Vec<Id>,
    last_look: Duration,
}

impl Presence {
    /// A member that is taken for alive from now on.
    pub fn expect(&mut self, id: Id, now: Duration) {
        let peer = Peer { joined: true, last_heard: now, holds_mine: 0 };
        self.peers.insert(id, peer);
    }

    /// A heartbeat came; true for the first one of somebody.
    pub fn hear(&mut self, me: Id, alive: &Alive, now: Duration) -> bool {
        if self.is_dead(alive.from) {
            return false; // our next heartbeat tells it so
        }
        let new = !self.peers.contains_key(&alive.from);
        if new && self.peers.len() >= PEERS {
            return false;
        }
        if new {
            self.expect(alive.from, now);
        }
        if let Some(peer) = self.peers.get_mut(&alive.from) {
            peer.last_heard = now;
            peer.joined = alive.joined;
            let mine = alive.highs.iter().find(|(id, _)| *id == me);
            peer.holds_mine = mine.map_or(peer.holds_mine, |(_, number)| *number);
        }
        new
    }

    /// Who has been silent for too long, and for how many heartbeats.
    pub fn silent(&mut self, now: Duration, settings: &Settings) -> Vec<(Id, u32)> {
        // Whoever did not look for a while was stopped itself: then the others' heartbeats wait unread.
        let away = now.saturating_sub(self.last_look);
        self.last_look = now;
        if away > settings.heartbeat {
            self.peers.values_mut().for_each(|peer| peer.last_heard += away);
        }
        let beats =
            |peer: &Peer| (now.saturating_sub(peer.last_heard).as_micros() / settings.heartbeat.as_micros()) as u32;
        let silent = self.peers.iter().map(|(id, peer)| (*id, beats(peer)));
        silent.filter(|(_, beats)| *beats >= settings.limit).collect()
    }

    /// Declares somebody dead; false if that was known.
    pub fn bury(&mut self, id: Id) -> bool {
        if self.is_dead(id) {
            return false;
        }
        self.peers.remove(&id);
        self.dead.push(id);
        if self.dead.len() > GRAVES {
            self.dead.remove(0);
        }
        true
    }

    /// Whether somebody was declared dead.
    pub fn is_dead(&self, id: Id) -> bool {
        self.dead.contains(&id)
    }

    /// All who were declared dead.
    pub fn dead(&self) -> &[Id] {
        &self.dead
    }

    /// All who are there, this member not counted.
    pub fn alive(&self) -> Vec<Id> {
        self.peers.keys().copied().collect()
    }

    /// Those who are there.
    pub fn peers(&self) -> impl Iterator<Item = (&Id, &Peer)> {
        self.peers.iter()
    }
}
