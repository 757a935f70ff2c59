//! One member: hears datagrams, says texts, and delivers in the order asked for.

use std::{rc::Rc, time::Duration};

use super::{Alive, Datagram, Event, Id, Item, Order, Presence, Sequence, Settings, Streams};

/// No more texts are asked for in one datagram.
const ASKED: usize = 50;
/// After so many heartbeats a newcomer has heard of everybody.
const SETTLED: u32 = 3;

/// What all parts of a member use.
pub struct Core {
    pub id: Id,
    pub settings: Settings,
    pub streams: Streams,
    pub presence: Presence,
    pub out: Vec<Datagram>,
    pub events: Vec<Event>,
    pub now: Duration,
    next_beat: Duration,
    beats: u32,
    /// How many texts it has said.
    said: u32,
    excluded: bool,
}

impl Core {
    /// A gap may be no loss: the text may only be late.
    pub fn first_question(&self) -> Duration {
        self.now + self.settings.heartbeat / 4
    }

    /// It has been here long enough to have heard of everybody.
    pub fn settled(&self) -> bool {
        self.beats > SETTLED
    }

    /// The next heartbeat is due at once.
    pub fn beat_now(&mut self) {
        self.next_beat = self.now;
    }

    /// The others go on without this member.
    pub fn exclude(&mut self) {
        if !self.excluded {
            self.excluded = true;
            self.events.push(Event::Excluded);
        }
    }

    /// Where the stream of an unknown sender begins: a newcomer takes what it hears first for the beginning. Order total
    /// tells it.
    fn base(&self, first_heard: u32) -> u32 {
        if self.settled() || self.settings.order == Order::Total { 0 } else { first_heard }
    }
}

/// One member of a group.
pub struct Member {
    core: Core,
    name: String,
    sequence: Sequence,
}

impl Member {
    /// A newcomer. It knows nobody yet.
    pub fn new(id: Id, name: &str, settings: Settings, now: Duration) -> Member {
        let core = Core {
            id,
            settings,
            streams: Streams::default(),
            presence: Presence::default(),
            out: Vec::new(),
            events: Vec::new(),
            now,
            next_beat: now,
            beats: 0,
            said: 0,
            excluded: false,
        };
        Member { core, name: name.into(), sequence: Sequence::default() }
    }

    /// One of several who begin together and know each other.
    pub fn founder(id: Id, settings: Settings, all: &[Id], now: Duration) -> Member {
        let mut member = Member::new(id, &format!("m{id}"), settings, now);
        member.core.beats = SETTLED + 1;
        for other in all.iter().filter(|other| **other != id) {
            member.core.presence.expect(*other, now);
        }
        member.sequence = Sequence::founded(all.to_vec());
        member
    }

    /// Says a text to the group.
    pub fn say(&mut self, text: &str, now: Duration) {
        let core = &mut self.core;
        core.now = now;
        let clock = if core.settings.merge_clock && core.settings.order >= Order::Causal {
            core.streams.clock(core.id)
        } else {
            Vec::new()
        };
        core.said += 1;
        let number = core.said;
        let item = Rc::new(Item { from: core.id, number, clock, text: text.into() });
        core.out.push(Datagram::Item(Rc::clone(&item)));
        core.streams.store(&item, now, 0);
        self.deliver(&item);
    }

    /// Takes what came.
    pub fn hear(&mut self, datagram: &Datagram, now: Duration) {
        let (core, sequence) = (&mut self.core, &mut self.sequence);
        core.now = now;
        if core.excluded {
            return;
        }
        match datagram {
            Datagram::Item(item) if item.from != core.id => {
                let first_question = core.first_question();
                for (id, number) in item.clock.iter().filter(|(id, _)| *id != core.id) {
                    core.streams.heard_of((*id, *number), first_question, core.base(*number));
                }
                if core.streams.store(item, first_question, core.base(item.number - 1)) {
                    self.deliver(item);
                }
            }
            Datagram::Alive(alive) if alive.from != core.id => self.hear_alive(alive),
            Datagram::Ask { from, to, wanted } if *to == core.id && *from != core.id => {
                let held = wanted.iter().filter_map(|wanted| core.streams.item(*wanted));
                core.out.extend(held.take(ASKED).cloned().map(Datagram::Item));
            }
            Datagram::Leave { from } if *from != core.id && core.presence.bury(*from) => {
                core.events.push(Event::Left(*from));
            }
            _ if core.settings.order != Order::Total => {}
            Datagram::Order { epoch, first, entries } => sequence.hear_order(core, *epoch, *first, entries),
            Datagram::AskOrder { epoch, first, .. } => sequence.hear_ask_order(core, *epoch, *first),
            Datagram::Propose { epoch, length, view } => sequence.hear_propose(core, *epoch, *length, view),
            Datagram::State { from, epoch, joined, length, first, tail } => {
                sequence.hear_state(core, *from, *epoch, joined.then_some(*length), *first, tail);
            }
            Datagram::Welcome { to, epoch, base, view, ordered } if *to == core.id => {
                sequence.hear_welcome(core, *epoch, *base, view, ordered);
            }
            _ => {}
        }
    }

    fn hear_alive(&mut self, alive: &Alive) {
        let core = &mut self.core;
        if alive.dead.contains(&core.id) {
            return core.exclude();
        }
        for id in &alive.dead {
            if core.presence.bury(*id) {
                core.events.push(Event::Dead(*id, 0));
            }
        }
        if core.presence.hear(core.id, alive, core.now) {
            core.events.push(Event::Here(alive.from));
            core.beat_now(); // so that a newcomer soon knows everybody
        }
        for (id, number) in alive.highs.iter().filter(|(id, _)| *id != core.id) {
            core.streams.heard_of((*id, *number), core.first_question(), core.base(*number));
        }
        if core.settings.order == Order::Total && !core.presence.is_dead(alive.from) {
            self.sequence.hear_alive(core, alive);
        }
    }

    /// Puts into the log what can be, now that this text is here.
    fn deliver(&mut self, item: &Rc<Item>) {
        let core = &mut self.core;
        match core.settings.order {
            Order::None => core.events.push(Event::Delivered(Rc::clone(item))),
            Order::Fifo => {
                while let Some(item) = core.streams.next(item.from, |_, _| true) {
                    core.events.push(Event::Delivered(item));
                }
            }
            Order::Causal => {
                let ready = |item: &Item, streams: &Streams| {
                    item.clock.iter().all(|(id, number)| streams.delivered(*id) >= *number)
                };
                let ids = core.streams.ids();
                while let Some(item) = ids.iter().find_map(|id| core.streams.next(*id, ready)) {
                    core.events.push(Event::Delivered(item));
                }
            }
            Order::Total => self.sequence.deliver(core),
        }
    }

    /// Does what is due. Call it each [`Settings::tick`].
    pub fn tick(&mut self, now: Duration) {
        let core = &mut self.core;
        core.now = now;
        if core.excluded {
            return;
        }
        for (id, beats) in core.presence.silent(now, &core.settings) {
            if core.presence.bury(id) {
                core.events.push(Event::Dead(id, beats));
            }
        }
        if core.settings.order == Order::Total {
            self.sequence.tick(core);
        }
        if core.settings.repair && (core.settled() || core.settings.order != Order::Total) {
            let alive = core.presence.alive();
            for (to, wanted) in core.streams.questions(now, &alive, core.settings.heartbeat) {
                let asks =
                    wanted.chunks(ASKED).map(|wanted| Datagram::Ask { from: core.id, to, wanted: wanted.to_vec() });
                core.out.extend(asks);
            }
        }
        if now >= core.next_beat {
            core.next_beat = now + core.settings.heartbeat;
            core.beats = core.beats.saturating_add(1);
            let total = core.settings.order == Order::Total;
            let Sequence { epoch, promised, .. } = self.sequence;
            core.out.push(Datagram::Alive(Alive {
                from: core.id,
                name: self.name.clone(),
                joined: !total || self.sequence.joined,
                epoch,
                promised,
                length: self.sequence.length(),
                view: self.sequence.view.clone(),
                dead: core.presence.dead().to_vec(),
                highs: core.streams.highs(),
            }));
        }
    }

    /// What to send to the group.
    pub fn take_out(&mut self) -> Vec<Datagram> {
        std::mem::take(&mut self.core.out)
    }

    /// What to show.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.core.events)
    }

    /// Its number.
    pub fn id(&self) -> Id {
        self.core.id
    }

    /// The group has taken it in: what it says now reaches all.
    pub fn is_settled(&self) -> bool {
        if self.core.settings.order == Order::Total { self.sequence.joined } else { self.core.settled() }
    }

    /// All who are there hold all that this member has said, as far as it knows.
    pub fn is_heard(&self) -> bool {
        let (id, said) = (self.core.id, self.core.said);
        let placed = self.core.settings.order != Order::Total || self.core.streams.delivered(id) == said;
        placed && self.core.presence.peers().all(|(_, peer)| peer.holds_mine >= said)
    }

    /// Who is there, and the texts.
    pub fn parts(&self) -> (&Presence, &Streams, &Sequence) {
        (&self.core.presence, &self.core.streams, &self.sequence)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::group::wire::tests::datagrams;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_strangers_send_a_member_lives_and_its_own_texts_are_counted_on(
            noise in vec(datagrams(), 0..60), order in 0..4usize, me in 1..4u32,
        ) {
            let order = [Order::None, Order::Fifo, Order::Causal, Order::Total][order];
            let settings = Settings::new(order, Duration::from_millis(50));
            let mut member = Member::founder(me, settings, &[1, 2, 3], Duration::ZERO);
            let mut now = Duration::ZERO;
            for datagram in noise {
                now += settings.tick();
                member.hear(&datagram, now);
                member.tick(now);
                member.take_events();
                let out = member.take_out();
                prop_assert!(out.iter().all(|datagram| datagram.bytes().len() < 60_000));
            }
            member.say("mine", now);
            let first = |datagram: &Datagram| matches!(datagram, Datagram::Item(item) if item.from == me && item.number == 1);
            prop_assert!(member.take_out().iter().any(first));
        }
    }
}
