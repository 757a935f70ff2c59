//! One order for all: a sequencer gives each text its place. When it dies, the next member in the view takes over.
//!
//! A view has a number, a sequencer and members. Its sequencer sends the places; a member delivers a text once it has the
//! text and its place, so each log is the beginning of the sequencer's. The members of a new view first bring their logs to
//! the same length (the flush): whatever one of them has delivered, all of them deliver. What no member of the new view has
//! delivered gets a new place.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Event, Id, ItemId,
    member::Core,
    wire::{Alive, Datagram, Epoch},
};

/// No more places go into one datagram.
const PLACES: usize = 100;

/// A view that is not agreed yet.
struct Proposal {
    epoch: Epoch,
    view: Vec<Id>,
    /// Who has agreed, and how long its log is; `None`: a newcomer without one.
    states: BTreeMap<Id, Option<u32>>,
    sent_at: Option<Duration>,
}

/// A member's share in the order of all.
#[derive(Default)]
pub struct Sequence {
    pub joined: bool,
    pub epoch: Epoch,
    pub view: Vec<Id>,
    /// The highest view this member has agreed to. Until it begins, the old one is frozen.
    pub promised: Epoch,
    /// The highest one heard of.
    seen: Epoch,
    proposal: Option<Proposal>,
    /// The log begins behind so many texts.
    pub start: u32,
    log: Vec<ItemId>,
    /// Places of texts that are not delivered yet.
    places: BTreeMap<u32, ItemId>,
    /// How many texts of each sender have a place in the log.
    ordered: BTreeMap<Id, u32>,
    /// What a newcomer of the present view begins behind.
    base: (u32, Vec<ItemId>),
    /// Since when a view has been promised that does not begin.
    stuck: Option<Duration>,
}

impl Sequence {
    /// A member of the first view.
    pub fn founded(view: Vec<Id>) -> Sequence {
        let epoch = Epoch(1, view.first().copied().unwrap_or_default());
        Sequence { joined: true, epoch, promised: epoch, seen: epoch, view, ..Sequence::default() }
    }

    /// How many texts are delivered, those before this member's time counted.
    pub fn length(&self) -> u32 {
        self.start.saturating_add(self.log.len() as u32)
    }

    /// Whether this member gives the places now.
    fn is_sequencer(&self, me: Id) -> bool {
        self.joined && self.epoch.1 == me && self.promised == self.epoch
    }

    /// Gives places to texts that have none, if this member is the sequencer; delivers what can be delivered.
    pub fn deliver(&mut self, core: &mut Core) {
        if self.is_sequencer(core.id) {
            let (first, mut entries) = (self.length(), Vec::new());
            let ids = core.streams.ids();
            while let Some(next) = ids.iter().find_map(|id| self.without_place(core, *id)) {
                self.take(core, next);
                entries.push(next);
            }
            for (at, entries) in entries.chunks(PLACES).enumerate() {
                let first = first + (at * PLACES) as u32;
                core.out.push(Datagram::Order { epoch: self.epoch, first, entries: entries.to_vec() });
            }
            return;
        }
        while let Some(next) = self.places.get(&self.length()).copied() {
            if core.streams.item(next).is_none() {
                core.streams.heard_of(next, core.first_question(), 0);
                break;
            }
            self.places.remove(&self.length());
            self.take(core, next);
        }
    }

    /// The next text of a sender that has no place yet, if it is here and what its sender had delivered before has one. A
    /// dead sequencer may have delivered, and answered, what nobody else had: without the clock the answer could get a place
    /// before its question.
    fn without_place(&self, core: &Core, id: Id) -> Option<ItemId> {
        let count = |id: &Id| self.ordered.get(id).copied().unwrap_or(0);
        let next = (id, count(&id).saturating_add(1));
        let item = core.streams.item(next)?;
        item.clock.iter().all(|(id, number)| count(id) >= *number).then_some(next)
    }

    /// The next text of the log.
    fn take(&mut self, core: &mut Core, next: ItemId) {
        let Some(item) = core.streams.item(next).cloned() else { return };
        self.log.push(next);
        self.ordered.insert(next.0, next.1);
        core.streams.of(next.0, 0).delivered = next.1;
        core.events.push(Event::Delivered(item));
    }

    pub fn hear_alive(&mut self, core: &mut Core, alive: &Alive) {
        self.seen = self.seen.max(alive.epoch).max(alive.promised);
        if !alive.joined || alive.epoch < self.epoch {
            return;
        }
        let is_member = alive.view.contains(&core.id);
        if !self.joined {
            if is_member {
                core.out.push(self.state(core.id, alive.epoch, 0));
            }
        } else if alive.epoch > self.epoch && !is_member {
            core.exclude();
        } else if alive.epoch > self.epoch && (alive.epoch == self.promised || !core.settings.flush) {
            self.begin(core, alive.epoch, alive.view.clone());
        } else if alive.epoch == self.epoch && self.epoch == self.promised && alive.from == self.epoch.1 {
            self.ask_for_places(core, alive.length);
        }
    }

    fn ask_for_places(&self, core: &mut Core, length: u32) {
        let first = self.length();
        if first < length && !self.places.contains_key(&first) && core.settings.repair {
            core.out.push(Datagram::AskOrder { from: core.id, epoch: self.promised, first });
        }
    }

    /// A view begins.
    fn begin(&mut self, core: &mut Core, epoch: Epoch, view: Vec<Id>) {
        (self.epoch, self.promised, self.view) = (epoch, epoch.max(self.promised), view);
        self.seen = self.seen.max(epoch);
        (self.proposal, self.stuck) = (None, None);
        self.places.clear();
        self.base = (self.length(), self.ordered.iter().map(|(id, number)| (*id, *number)).collect());
        core.events.push(Event::View(epoch.1, self.view.len()));
        core.beat_now();
        self.deliver(core);
    }

    pub fn hear_order(&mut self, core: &mut Core, epoch: Epoch, first: u32, entries: &[ItemId]) {
        if !self.joined || epoch != self.promised || epoch.1 == core.id && epoch == self.epoch {
            return;
        }
        self.add_places(core, first, entries);
    }

    fn add_places(&mut self, core: &mut Core, first: u32, entries: &[ItemId]) {
        for (at, entry) in entries.iter().enumerate() {
            let place = first.saturating_add(at as u32);
            if place >= self.length() {
                self.places.insert(place, *entry);
            }
        }
        self.deliver(core);
    }

    pub fn hear_ask_order(&mut self, core: &mut Core, epoch: Epoch, first: u32) {
        let mine = self.joined && epoch.1 == core.id && epoch == self.promised;
        if let Some(entries) = self.log_from(first).filter(|entries| mine && !entries.is_empty()) {
            core.out.push(Datagram::Order { epoch, first, entries });
        }
    }

    fn log_from(&self, first: u32) -> Option<Vec<ItemId>> {
        let log = self.log.get(first.checked_sub(self.start)? as usize..)?;
        Some(log[..log.len().min(PLACES)].to_vec())
    }

    pub fn hear_propose(&mut self, core: &mut Core, epoch: Epoch, length: u32, view: &[Id]) {
        self.seen = self.seen.max(epoch);
        let outdated = epoch < self.promised || epoch <= self.epoch;
        if outdated || !view.contains(&core.id) || core.presence.is_dead(epoch.1) {
            return;
        }
        if epoch > self.promised {
            self.promised = epoch;
            self.proposal = None;
            self.places.clear();
        }
        core.out.push(self.state(core.id, epoch, length));
        if self.joined {
            self.ask_for_places(core, length);
        }
    }

    /// What the proposer has to know: this log's length, and what its own log of `length` lacks.
    fn state(&self, me: Id, epoch: Epoch, length: u32) -> Datagram {
        let tail = if self.joined { self.log_from(length).unwrap_or_default() } else { Vec::new() };
        Datagram::State { from: me, epoch, joined: self.joined, length: self.length(), first: length, tail }
    }

    pub fn hear_state(
        &mut self,
        core: &mut Core,
        from: Id,
        epoch: Epoch,
        log: Option<u32>,
        first: u32,
        tail: &[ItemId],
    ) {
        if self.joined && epoch == self.epoch && epoch.1 == core.id && log.is_none() {
            let (base, ordered) = self.base.clone();
            core.out.push(Datagram::Welcome { to: from, epoch, base, view: self.view.clone(), ordered });
        }
        let Some(proposal) = self.proposal.as_mut().filter(|proposal| proposal.epoch == epoch) else { return };
        if epoch == self.promised {
            proposal.states.insert(from, log);
            self.add_places(core, first, tail);
            self.begin_if_agreed(core);
        }
    }

    /// All have agreed, and all logs have the same length.
    fn begin_if_agreed(&mut self, core: &mut Core) {
        let Some(proposal) = &self.proposal else { return };
        let length = self.length();
        let ready =
            |id: &Id| *id == core.id || matches!(proposal.states.get(id), Some(log) if log.unwrap_or(length) == length);
        if proposal.view.iter().all(ready) || !core.settings.flush {
            let (epoch, view) = (proposal.epoch, proposal.view.clone());
            self.begin(core, epoch, view);
        }
    }

    pub fn hear_welcome(&mut self, core: &mut Core, epoch: Epoch, base: u32, view: &[Id], ordered: &[ItemId]) {
        if self.joined || epoch < self.promised {
            return;
        }
        self.joined = true;
        self.start = base;
        for (id, number) in ordered {
            core.streams.start_at(*id, *number);
            self.ordered.insert(*id, *number);
        }
        self.begin(core, epoch, view.to_vec());
    }

    /// Sees to it that a view with dead members, or without those who wait, is replaced.
    pub fn tick(&mut self, core: &mut Core) {
        if !self.joined {
            return self.found_if_alone(core);
        }
        let dead = |id: &Id| core.presence.is_dead(*id);
        if self.view.iter().find(|id| !dead(id)) != Some(&core.id) {
            return; // somebody before me in the view is alive
        }
        let mut wanted: Vec<Id> = self.view.iter().filter(|id| !dead(id)).copied().collect();
        let waiting = core.presence.peers().filter(|(id, peer)| !peer.joined && !self.view.contains(id));
        wanted.extend(waiting.map(|(id, _)| *id));

        let outdated = |proposal: &mut Proposal| proposal.epoch < self.promised || proposal.view.iter().any(dead);
        self.proposal.take_if(outdated);
        if self.promised.max(self.seen) > self.epoch && self.proposal.is_none() {
            self.stuck.get_or_insert(core.now);
        } else {
            self.stuck = None;
        }
        let waited = self.stuck.is_some_and(|since| core.now - since > core.settings.silence());
        if self.proposal.is_none() && (wanted != self.view || waited) {
            let epoch = Epoch(self.promised.max(self.seen).0.saturating_add(1), core.id);
            (self.promised, self.seen) = (epoch, epoch);
            self.places.clear();
            self.proposal = Some(Proposal { epoch, view: wanted, states: BTreeMap::new(), sent_at: None });
        }
        self.begin_if_agreed(core);
        let length = self.length();
        if let Some(proposal) = &mut self.proposal
            && proposal.sent_at.is_none_or(|sent_at| core.now >= sent_at + core.settings.heartbeat / 2)
        {
            proposal.sent_at = Some(core.now);
            core.out.push(Datagram::Propose { epoch: proposal.epoch, length, view: proposal.view.clone() });
        }
    }

    /// Nobody has a view: whoever waits with the smallest number founds the first one.
    fn found_if_alone(&mut self, core: &mut Core) {
        let others = || core.presence.peers();
        if core.settled() && others().all(|(id, peer)| !peer.joined && *id > core.id) {
            *self = Sequence::founded(vec![core.id]);
            self.begin(core, Epoch(1, core.id), vec![core.id]);
        }
    }
}
