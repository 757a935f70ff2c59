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
/// The kernel tells its sockets in the same order at each look. So many that are gone are skipped in one place.
const SKIPPED: usize = 16;

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

/// A socket as a look has seen it.
#[derive(Clone, Debug)]
pub struct Entry {
    pub key: Key,
    pub sock: Sock,
    /// What changed last, and when; `None` if nothing has since the first look.
    pub mark: Option<(Mark, Duration)>,
}

/// Times are durations since the start.
#[derive(Default)]
pub struct Model {
    /// In the order of the last look.
    entries: Vec<Entry>,
    /// Gone within the last second.
    gone: Vec<Entry>,
    /// The memory of the look before the last, for the next one.
    pub spare: Vec<Entry>,
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
    pub fn update(&mut self, now: Duration, mut socks: Vec<Entry>) -> Vec<Change> {
        let first = self.looks == 0;
        self.looks += 1;
        self.now = now;
        self.gone.retain(|entry| matches!(entry.mark, Some((_, at)) if now.saturating_sub(at) < MARKED));
        (self.counts, self.udp) = ([0; 13], [0; 2]);
        let (mut changes, mut strangers, mut left) = (Vec::new(), Vec::new(), Vec::new());
        let mut at = 0;
        for (place, entry) in socks.iter_mut().enumerate() {
            self.count_of(&entry.sock, |count| *count += 1);
            // Almost always it stands where it stood: no search in a table that no cache has room for.
            let near = &self.entries[at..self.entries.len().min(at + SKIPPED)];
            match near.iter().position(|before| before.key == entry.key) {
                Some(skipped) => {
                    left.extend(at..at + skipped);
                    at += skipped;
                    entry.follow(&self.entries[at], now, &mut changes);
                    at += 1;
                }
                None => strangers.push(place),
            }
        }
        left.extend(at..self.entries.len());
        let keyed = left.iter().map(|at| (self.entries[*at].key, *at));
        let mut elsewhere: HashMap<Key, usize, BuildHasherDefault<Mixed>> = keyed.collect();
        let doubles = doubles(&socks, &strangers);
        for place in strangers {
            if doubles.iter().any(|(older, _)| *older == place) {
                continue;
            }
            let twin = doubles.iter().find(|(_, newer)| *newer == place).map(|(older, _)| socks[*older].clone());
            let entry = &mut socks[place];
            match (elsewhere.remove(&entry.key), twin) {
                (Some(at), _) => entry.follow(&self.entries[at], now, &mut changes),
                (None, Some(twin)) => entry.follow(&twin, now, &mut changes),
                (None, None) => {
                    // A pair of addresses can be used again before the mark of its end is gone.
                    self.gone.retain(|gone| gone.key != entry.key);
                    entry.mark = (!first).then_some((Mark::New, now));
                    changes.push(Change { at: now, before: None, after: Some(entry.sock.clone()) });
                }
            }
        }
        for at in left.into_iter().filter(|at| elsewhere.contains_key(&self.entries[*at].key)) {
            let entry = &self.entries[at];
            changes.push(Change { at: now, before: Some(entry.sock.clone()), after: None });
            self.gone.push(Entry { mark: Some((Mark::Gone, now)), ..entry.clone() });
        }
        for (older, _) in doubles.iter().rev() {
            self.count_of(&socks.remove(*older).sock, |count| *count -= 1);
        }
        self.spare = std::mem::replace(&mut self.entries, socks);
        if !first {
            self.note(&changes);
        }
        changes
    }

    fn count_of(&mut self, sock: &Sock, count: impl FnOnce(&mut usize)) {
        count(match sock.protocol {
            Protocol::Tcp => &mut self.counts[sock.state as usize],
            Protocol::Udp => &mut self.udp[usize::from(sock.state == State::Established)],
        });
    }

    /// Remembers which states were entered and left.
    fn note(&mut self, changes: &[Change]) {
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
        self.entries.iter().chain(&self.gone)
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
    /// Compares itself with what it was at the look before.
    fn follow(&mut self, before: &Entry, now: Duration, changes: &mut Vec<Change>) {
        self.mark = before.mark;
        let Some(mark) = difference(&before.sock, &self.sock) else { return };
        changes.push(Change { at: now, before: Some(before.sock.clone()), after: Some(self.sock.clone()) });
        // A state is worth more than a queue.
        let covered = matches!(mark, Mark::Queue | Mark::Resent)
            && matches!(before.mark, Some((Mark::New | Mark::State, at)) if now - at < MARKED);
        if !covered {
            self.mark = Some((mark, now));
        }
    }

    /// What changed within the last second.
    pub fn fresh(&self, now: Duration) -> Option<Mark> {
        self.mark.filter(|(_, at)| now.saturating_sub(*at) < MARKED).map(|(mark, _)| mark)
    }
}

impl Change {
    pub fn of_a_state(&self) -> bool {
        self.before.as_ref().map(|sock| sock.state) != self.after.as_ref().map(|sock| sock.state)
    }
}

/// Sockets that one look has seen twice, as the kernel goes on meanwhile: the older and the newer, in the order of the
/// older. One of both is a stranger: its place is not where it was at the look before.
fn doubles(socks: &[Entry], strangers: &[usize]) -> Vec<(usize, usize)> {
    if strangers.is_empty() {
        return Vec::new();
    }
    let keyed = strangers.iter().map(|place| (socks[*place].key, *place));
    let strangers: HashMap<Key, usize, BuildHasherDefault<Mixed>> = keyed.collect();
    let twin = |(place, entry): (usize, &Entry)| Some((place, *strangers.get(&entry.key)?));
    let twins = socks.iter().enumerate().filter_map(twin).filter(|(one, other)| one != other);
    let mut doubles: Vec<(usize, usize)> = twins.map(|(one, other)| (one.min(other), one.max(other))).collect();
    doubles.sort_unstable();
    doubles.dedup_by_key(|(older, _)| *older);
    doubles
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
