//! Each member's texts by number. What is missing between them is asked for: repair by negative acknowledgement.
//!
//! The sender of a text sends it once and hears nothing if all went well. Who holds a later text, or hears in a heartbeat of
//! one, sees the gap and asks: the sender first, then the others, one after the other. So the dead are repaired, too.

use std::{collections::BTreeMap, rc::Rc, time::Duration};

use super::{Id, Item, ItemId};

/// So many texts of each sender are kept for others who may ask.
pub const KEPT: usize = 1000;
/// Texts of no more senders are kept: a heartbeat has to name them all in one datagram.
const SENDERS: usize = 500;
/// A stranger's number makes no gap longer than this.
const GAP: u32 = 1000;
/// After so many questions to each member, nobody has it.
const QUESTIONS: u32 = 20;

/// A question that is due.
struct Question {
    at: Duration,
    asked: u32,
}

/// The texts of one sender.
pub struct Stream {
    /// Texts up to this one are not wanted (any more).
    base: u32,
    /// Texts up to this one are in the log; order none does not use it.
    pub delivered: u32,
    /// The last one known of.
    high: u32,
    held: BTreeMap<u32, Rc<Item>>,
    missing: BTreeMap<u32, Question>,
}

impl Stream {
    fn new(base: u32) -> Stream {
        Stream { base, delivered: base, high: base, held: BTreeMap::new(), missing: BTreeMap::new() }
    }

    fn heard_of(&mut self, number: u32, first_question: Duration) {
        let number = number.min(self.high.saturating_add(GAP));
        let first = self.high.saturating_add(1);
        for missing in first..=number.max(self.high) {
            if missing <= self.high {
                break; // the last number there is
            }
            self.missing.insert(missing, Question { at: first_question, asked: 0 });
        }
        self.high = self.high.max(number);
    }

    fn start_at(&mut self, base: u32) {
        self.base = self.base.max(base);
        self.delivered = self.delivered.max(base);
        self.high = self.high.max(base);
        self.held = self.held.split_off(&base.saturating_add(1));
        self.missing = self.missing.split_off(&base.saturating_add(1));
    }
}

/// The texts of all senders.
#[derive(Default)]
pub struct Streams(BTreeMap<Id, Stream>);

impl Streams {
    /// The stream of a sender; a new one begins behind `base`.
    pub fn of(&mut self, id: Id, base: u32) -> &mut Stream {
        self.0.entry(id).or_insert_with(|| Stream::new(base))
    }

    fn is_full(&self, id: Id) -> bool {
        self.0.len() >= SENDERS && !self.0.contains_key(&id)
    }

    /// Takes a text; false for one that is here already, or not wanted.
    pub fn store(&mut self, item: &Rc<Item>, first_question: Duration, base: u32) -> bool {
        if self.is_full(item.from) {
            return false;
        }
        let stream = self.of(item.from, base);
        if item.number <= stream.base {
            return false;
        }
        stream.heard_of(item.number, first_question);
        if item.number > stream.high || stream.held.contains_key(&item.number) {
            return false;
        }
        stream.missing.remove(&item.number);
        stream.held.insert(item.number, Rc::clone(item));
        if stream.held.len() > KEPT {
            stream.held.pop_first();
            let first = stream.held.first_key_value().map_or(0, |(number, _)| *number);
            stream.base = stream.base.max(first - 1);
        }
        true
    }

    /// Somebody has the texts of `id` up to this one.
    pub fn heard_of(&mut self, (id, number): ItemId, first_question: Duration, base: u32) {
        if self.is_full(id) {
            return;
        }
        let stream = self.of(id, base);
        if number > stream.high {
            stream.heard_of(number, first_question);
        }
    }

    /// A text that is here.
    pub fn item(&self, (id, number): ItemId) -> Option<&Rc<Item>> {
        self.0.get(&id)?.held.get(&number)
    }

    /// How much of a sender is in the log.
    pub fn delivered(&self, id: Id) -> u32 {
        self.0.get(&id).map_or(0, |stream| stream.delivered)
    }

    /// The next text of a sender behind what is in the log, counted as delivered now, if it is here and `fits`.
    pub fn next(&mut self, id: Id, fits: impl Fn(&Item, &Streams) -> bool) -> Option<Rc<Item>> {
        let stream = self.0.get(&id)?;
        let item = Rc::clone(stream.held.get(&stream.delivered.saturating_add(1))?);
        if !fits(&item, self) {
            return None;
        }
        self.of(id, 0).delivered = item.number;
        Some(item)
    }

    /// All senders.
    pub fn ids(&self) -> Vec<Id> {
        self.0.keys().copied().collect()
    }

    /// The last text held of each sender, for the heartbeat.
    pub fn highs(&self) -> Vec<ItemId> {
        let high = |(id, stream): (&Id, &Stream)| {
            let held = stream.held.last_key_value().map_or(stream.base, |(number, _)| *number);
            (held > 0).then_some((*id, held))
        };
        self.0.iter().filter_map(high).collect()
    }

    /// How many texts are held of each sender, and how far; members with the same texts have the same.
    pub fn held(&self) -> Vec<(Id, usize, u32)> {
        let held = self.0.iter().map(|(id, stream)| (*id, stream.held.len(), stream.held.keys().sum()));
        held.filter(|(_, count, _)| *count > 0).collect()
    }

    /// For each sender how much of it is in the log: the vector clock of what comes next.
    pub fn clock(&self, but: Id) -> Vec<ItemId> {
        let delivered = self.0.iter().map(|(id, stream)| (*id, stream.delivered));
        delivered.filter(|(id, number)| *id != but && *number > 0).collect()
    }

    /// Texts up to `base` are not wanted: a newcomer's log begins behind them.
    pub fn start_at(&mut self, id: Id, base: u32) {
        self.of(id, base).start_at(base);
    }

    /// The questions that are due: whom to ask, for what. Each is due again later, another member then.
    pub fn questions(&mut self, now: Duration, alive: &[Id], pause: Duration) -> BTreeMap<Id, Vec<ItemId>> {
        let mut questions: BTreeMap<Id, Vec<ItemId>> = BTreeMap::new();
        for (id, stream) in &mut self.0 {
            for (number, question) in &mut stream.missing {
                if question.at > now || alive.is_empty() || question.asked > QUESTIONS * alive.len() as u32 {
                    continue;
                }
                let sender = question.asked % 2 == 0 && alive.contains(id);
                let whom = if sender { *id } else { alive[question.asked as usize / 2 % alive.len()] };
                question.asked += 1;
                question.at = now + pause * question.asked.min(4);
                questions.entry(whom).or_default().push((*id, *number));
            }
        }
        questions
    }
}
