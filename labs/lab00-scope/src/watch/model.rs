//! What the board knows: every socket seen at the last look, and what has changed of late. No system call is in here.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;
use std::time::Duration;

use kernel::State;

use super::sock::{Key, Mixed, Protocol, Sock, TimerKind};

/// What changed is marked for so long.
pub const MARKED: Duration = Duration::from_secs(1);
/// So many changes are kept to be shown.
const KEPT: usize = 40;

/// How a socket differs from what it was at the look before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    New,
    State,
    Queue,
    Resent,
    Gone,
}

/// One socket, before and after: `None` while it is in no table.
#[derive(Clone, Debug)]
pub struct Change {
    pub at: Duration,
    pub before: Option<Sock>,
    pub after: Option<Sock>,
}

#[derive(Debug)]
pub struct Entry {
    pub key: Key,
    pub sock: Sock,
    /// What changed last, and when; `None` if nothing has since the first look.
    pub mark: Option<(Mark, Duration)>,
    look: u64,
}

/// Times are durations since the start.
#[derive(Default)]
pub struct Model {
    entries: HashMap<Key, Entry, BuildHasherDefault<Mixed>>,
    looks: u64,
    pub now: Duration,
    /// The latest changes of a state, the newest first.
    pub latest: VecDeque<Change>,
    /// TCP sockets in each state, by its number.
    counts: [usize; 13],
    /// When a socket came into a state, or left it.
    stirred: [Option<Duration>; 13],
    /// UDP sockets without and with a fixed peer.
    pub udp: [usize; 2],
}

impl Model {
    /// Takes what a look has seen and returns what is different; at the first look, every socket.
    pub fn update(&mut self, now: Duration, socks: Vec<(Key, Sock)>) -> Vec<Change> {
        let first = self.looks == 0;
        self.looks += 1;
        self.now = now;
        let mut changes = Vec::new();
        for (key, sock) in socks {
            let Some(entry) = self.entries.get_mut(&key) else {
                changes.push(Change { at: now, before: None, after: Some(sock.clone()) });
                let mark = (!first).then_some((Mark::New, now));
                self.entries.insert(key, Entry { key, sock, mark, look: self.looks });
                continue;
            };
            // A pair of addresses can be used again before the mark of its end is gone.
            let before = (!matches!(entry.mark, Some((Mark::Gone, _)))).then_some(&entry.sock);
            let mark = before.map_or(Some(Mark::New), |before| difference(before, &sock));
            if let Some(mark) = mark {
                changes.push(Change { at: now, before: before.cloned(), after: Some(sock.clone()) });
                // A state is worth more than a queue.
                let covered = matches!(mark, Mark::Queue | Mark::Resent)
                    && matches!(entry.mark, Some((Mark::New | Mark::State, at)) if now - at < MARKED);
                if !covered {
                    entry.mark = Some((mark, now));
                }
            }
            entry.sock = sock;
            entry.look = self.looks;
        }
        let looks = self.looks;
        self.entries.retain(|_, entry| match entry.mark {
            _ if entry.look == looks => true,
            Some((Mark::Gone, at)) => now.saturating_sub(at) < MARKED,
            _ => {
                changes.push(Change { at: now, before: Some(entry.sock.clone()), after: None });
                entry.mark = Some((Mark::Gone, now));
                true
            }
        });
        self.note(&changes, first);
        changes
    }

    /// Counts anew, and remembers which states were entered and left.
    fn note(&mut self, changes: &[Change], first: bool) {
        (self.counts, self.udp) = ([0; 13], [0; 2]);
        for sock in self.entries.values().filter(|entry| !entry.is_gone()).map(|entry| &entry.sock) {
            match sock.protocol {
                Protocol::Tcp => self.counts[sock.state as usize] += 1,
                Protocol::Udp => self.udp[usize::from(sock.state == State::Established)] += 1,
            }
        }
        if first {
            return;
        }
        let moved = changes.iter().filter(|change| change.of_a_state());
        for sock in moved.clone().flat_map(|change| [&change.before, &change.after]).flatten() {
            if sock.protocol == Protocol::Tcp {
                self.stirred[sock.state as usize] = Some(self.now);
            }
        }
        for change in moved.take(KEPT) {
            self.latest.push_front(change.clone());
        }
        self.latest.truncate(KEPT);
    }

    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// How many TCP sockets are in this state.
    pub fn count(&self, state: State) -> usize {
        self.counts[state as usize]
    }

    /// All TCP sockets, all UDP sockets.
    pub fn totals(&self) -> (usize, usize) {
        (self.counts.iter().sum(), self.udp.iter().sum())
    }

    /// A socket came into this state, or left it, within the last second.
    pub fn is_stirred(&self, state: State) -> bool {
        self.stirred[state as usize].is_some_and(|at| self.now.saturating_sub(at) < MARKED)
    }
}

impl Entry {
    /// What changed within the last second.
    pub fn fresh(&self, now: Duration) -> Option<Mark> {
        self.mark.filter(|(_, at)| now.saturating_sub(*at) < MARKED).map(|(mark, _)| mark)
    }

    pub fn is_gone(&self) -> bool {
        matches!(self.mark, Some((Mark::Gone, _)))
    }
}

impl Change {
    pub fn of_a_state(&self) -> bool {
        self.before.as_ref().map(|sock| sock.state) != self.after.as_ref().map(|sock| sock.state)
    }
}

/// The timers run down all the time: that is no change, but another try is one.
fn difference(before: &Sock, after: &Sock) -> Option<Mark> {
    let tries = |sock: &Sock| match sock.timer {
        Some(timer) if timer.kind != TimerKind::End => timer.tries,
        _ => 0,
    };
    if before.state != after.state {
        Some(Mark::State)
    } else if (before.recv_queue, before.send_queue) != (after.recv_queue, after.send_queue) {
        Some(Mark::Queue)
    } else if tries(after) > tries(before) {
        Some(Mark::Resent)
    } else {
        None
    }
}
