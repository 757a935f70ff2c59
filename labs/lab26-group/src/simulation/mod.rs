//! A group over a simulated network that loses and reorders, with members that crash and members that are stopped. The same
//! seed gives the same run. Time is simulated, too. The members are those of `group`: the same code as over real sockets.

mod check;
#[cfg(test)]
mod tests;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    rc::Rc,
    time::Duration,
};

use shared::SplitMix64;

pub use self::check::check;
use crate::group::{Datagram, Event, Id, ItemId, Member, Order, Settings};

/// A group that is not at rest so long after the last crash never will be.
const REST_LIMIT: Duration = Duration::from_secs(60);
/// In this time, in milliseconds, members speak, crash and are stopped.
const BUSY_MS: u64 = 600;

/// What a run consists of.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub settings: Settings,
    pub members: u32,
    /// What the network loses, in percent of the datagrams on their way to a member.
    pub loss: u64,
    /// The longest way, in milliseconds; the shortest takes 1. So datagrams overtake each other.
    pub longest_ms: u64,
    /// Texts that each member says, answers not counted.
    pub texts: u32,
    /// So many members crash, at any time.
    pub crashes: u32,
    /// So many members are stopped for a while.
    pub stops: u32,
}

/// One member's life: it ends by a crash, or when the others declare it dead.
pub struct Life {
    pub id: Id,
    /// It was there from the beginning to the end.
    pub whole: bool,
    /// It was there at the end.
    pub at_end: bool,
    /// Order total: its log begins behind so many texts.
    pub start: u32,
    pub log: Vec<ItemId>,
    /// What it has said, and what it had delivered of each sender before.
    pub said: Vec<Vec<ItemId>>,
}

/// What came of a run.
#[derive(Default)]
pub struct Outcome {
    pub lives: Vec<Life>,
    pub texts: u32,
    /// Datagrams sent to the group: by the sender's one call each.
    pub sent: BTreeMap<&'static str, u64>,
    /// What arrived: one for each member that a datagram reached.
    pub received: u64,
    pub lost: u64,
    /// When the group was at rest.
    pub rest: Option<Duration>,
}

enum Happening {
    Arrival(usize, Rc<Datagram>),
    Tick(usize),
    Say(usize),
    Crash(usize),
    Stop(usize, Duration),
    GoOn(usize),
    Look,
}

/// A member on its machine.
struct Node {
    member: Member,
    life: Life,
    crashed: bool,
    /// Stopped: the kernel keeps what arrives.
    stopped: Option<Vec<Rc<Datagram>>>,
}

struct Run<'a> {
    plan: &'a Plan,
    random: SplitMix64,
    now: Duration,
    queue: BinaryHeap<Reverse<(Duration, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    next: u64,
    nodes: Vec<Node>,
    next_id: Id,
    outcome: Outcome,
}

/// Plays one run.
pub fn play(plan: &Plan, seed: u64) -> Outcome {
    let all: Vec<Id> = (1..=plan.members).collect();
    let founder = |id: &Id| Node {
        member: Member::founder(*id, plan.settings, &all, Duration::ZERO),
        life: life(*id, true),
        crashed: false,
        stopped: None,
    };
    let mut run = Run {
        plan,
        random: SplitMix64::new(seed),
        now: Duration::ZERO,
        queue: BinaryHeap::new(),
        happenings: BTreeMap::new(),
        next: 0,
        nodes: all.iter().map(founder).collect(),
        next_id: plan.members + 1,
        outcome: Outcome::default(),
    };
    run.schedule();
    run.go();
    let Run { nodes, mut outcome, .. } = run;
    outcome.lives.extend(nodes.into_iter().map(|node| {
        let start = node.member.parts().2.start;
        Life { at_end: !node.crashed, start, ..node.life }
    }));
    outcome
}

fn life(id: Id, whole: bool) -> Life {
    Life { id, whole, at_end: false, start: 0, log: Vec::new(), said: Vec::new() }
}

impl Run<'_> {
    fn below(&mut self, limit: u64) -> u64 {
        self.random.draw() % limit.max(1)
    }

    fn at(&mut self, when: Duration, what: Happening) {
        self.next += 1;
        self.queue.push(Reverse((when, self.next)));
        self.happenings.insert(self.next, what);
    }

    fn schedule(&mut self) {
        let tick = self.plan.settings.tick();
        for at in 0..self.nodes.len() {
            let first = Duration::from_micros(self.below(tick.as_micros() as u64));
            self.at(first, Happening::Tick(at));
            for _ in 0..self.plan.texts {
                let when = Duration::from_millis(self.below(BUSY_MS));
                self.at(when, Happening::Say(at));
            }
        }
        let mut nodes: Vec<usize> = (0..self.nodes.len()).collect();
        for number in 0..(self.plan.crashes + self.plan.stops).min(self.plan.members) {
            let chosen = self.below(nodes.len() as u64) as usize;
            let at = nodes.swap_remove(chosen);
            let when = Duration::from_millis(self.below(BUSY_MS));
            if number < self.plan.crashes {
                self.at(when, Happening::Crash(at));
            } else {
                let length = self.plan.settings.heartbeat * self.below(12) as u32;
                self.at(when, Happening::Stop(at, length));
            }
        }
        self.at(Duration::from_millis(BUSY_MS), Happening::Look);
    }

    fn go(&mut self) {
        let Settings { heartbeat, .. } = self.plan.settings;
        let tick = self.plan.settings.tick();
        let end = Duration::from_millis(BUSY_MS) + REST_LIMIT;
        while let Some(Reverse((when, number))) = self.queue.pop() {
            let Some(happening) = self.happenings.remove(&number) else { continue };
            self.now = when;
            match happening {
                Happening::Arrival(at, datagram) => self.arrive(at, datagram),
                Happening::Tick(at) => {
                    if !self.nodes[at].crashed {
                        self.at(when + tick, Happening::Tick(at));
                    }
                    if self.runs(at) {
                        self.nodes[at].member.tick(when);
                        self.after(at);
                    }
                }
                Happening::Say(at) => {
                    if self.runs(at) {
                        self.say(at);
                    }
                }
                Happening::Crash(at) => self.nodes[at].crashed = true,
                Happening::Stop(at, length) => {
                    self.nodes[at].stopped = Some(Vec::new());
                    self.at(when + length, Happening::GoOn(at));
                }
                Happening::GoOn(at) => {
                    let kept = self.nodes[at].stopped.take().unwrap_or_default();
                    kept.into_iter().for_each(|datagram| self.arrive(at, datagram));
                }
                Happening::Look => {
                    if self.at_rest() {
                        self.outcome.rest = Some(when);
                        return;
                    }
                    if when > end {
                        return;
                    }
                    self.at(when + heartbeat, Happening::Look);
                }
            }
        }
    }

    fn runs(&self, at: usize) -> bool {
        !self.nodes[at].crashed && self.nodes[at].stopped.is_none()
    }

    fn arrive(&mut self, at: usize, datagram: Rc<Datagram>) {
        let node = &mut self.nodes[at];
        if node.crashed {
            return;
        }
        if let Some(kept) = &mut node.stopped {
            return kept.push(datagram);
        }
        self.outcome.received += 1;
        node.member.hear(&datagram, self.now);
        self.after(at);
    }

    fn say(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let mut before: BTreeMap<Id, u32> = BTreeMap::new();
        node.life.log.iter().for_each(|(id, number)| _ = before.insert(*id, *number));
        node.life.said.push(before.into_iter().collect());
        self.outcome.texts += 1;
        node.member.say("", self.now);
        self.after(at);
    }

    /// Sends what the member has to send, and notes what it has to tell.
    fn after(&mut self, at: usize) {
        let mut answers = 0;
        for event in self.nodes[at].member.take_events() {
            match event {
                Event::Delivered(item) => {
                    self.nodes[at].life.log.push((item.from, item.number));
                    let answer =
                        self.below(4 * u64::from(self.plan.members)) == 0 && self.now < Duration::from_millis(BUSY_MS);
                    answers += u32::from(answer && item.from != self.nodes[at].life.id);
                }
                Event::Excluded => return self.come_back(at),
                _ => {}
            }
        }
        for datagram in self.nodes[at].member.take_out() {
            *self.outcome.sent.entry(kind(&datagram)).or_default() += 1;
            let datagram = Rc::new(datagram);
            for to in 0..self.nodes.len() {
                if to == at || self.nodes[to].crashed {
                    continue;
                }
                if self.below(100) < self.plan.loss {
                    self.outcome.lost += 1;
                } else {
                    let way = Duration::from_micros(1000 + self.below(self.plan.longest_ms * 1000));
                    self.at(self.now + way, Happening::Arrival(to, Rc::clone(&datagram)));
                }
            }
        }
        (0..answers).for_each(|_| self.say(at));
    }

    /// A member that was declared dead comes back as somebody new, with an empty log.
    fn come_back(&mut self, at: usize) {
        let id = self.next_id;
        self.next_id += 1;
        let node = &mut self.nodes[at];
        let start = node.member.parts().2.start;
        let old = std::mem::replace(&mut node.life, life(id, false));
        self.outcome.lives.push(Life { whole: false, start, ..old });
        node.member = Member::new(id, &format!("m{id}"), self.plan.settings, self.now);
    }

    /// All know who is there, and what one has, all have.
    fn at_rest(&self) -> bool {
        let alive: Vec<&Node> = self.nodes.iter().filter(|node| !node.crashed).collect();
        let ids: BTreeSet<Id> = alive.iter().map(|node| node.life.id).collect();
        let knows_all = |node: &&Node| {
            let (presence, _, sequence) = node.member.parts();
            let mut known: BTreeSet<Id> = presence.alive().into_iter().collect();
            known.insert(node.life.id);
            let in_view = self.plan.settings.order != Order::Total
                || sequence.joined
                    && sequence.epoch == sequence.promised
                    && sequence.view.iter().copied().collect::<BTreeSet<_>>() == ids;
            node.stopped.is_none() && known == ids && in_view && node.member.is_settled()
        };
        let mut whole = alive.iter().filter(|node| node.life.whole).map(|node| node.member.parts().1.held());
        let first = whole.next();
        let mut lengths = alive.iter().map(|node| node.member.parts().2.length());
        let length = lengths.next();
        alive.iter().all(knows_all)
            && whole.all(|held| Some(&held) == first.as_ref())
            && lengths.all(|other| Some(other) == length)
    }
}

fn kind(datagram: &Datagram) -> &'static str {
    match datagram {
        Datagram::Item(_) => "texts",
        Datagram::Alive(_) => "heartbeats",
        Datagram::Ask { .. } | Datagram::AskOrder { .. } => "questions",
        Datagram::Order { .. } => "orders",
        _ => "views",
    }
}
