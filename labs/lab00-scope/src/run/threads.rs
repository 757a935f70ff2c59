//! The threads that are traced: where each stands, and whether it sleeps.

use std::fs;
use std::time::{Duration, Instant};

use super::calls::Entered;
use super::model::Socket;

/// Asleep for as long: it waits, and is not only on its way.
const SETTLED: Duration = Duration::from_millis(2);
/// A thread that naps is waited for as long after each of its calls, so that the same run has the same order.
const PATIENCE: Duration = Duration::from_millis(200);
/// And one that computes, until it has used as many hundredths of a second.
const PATIENCE_TICKS: u64 = 10;
/// And one that does neither.
const PATIENCE_AT_MOST: Duration = Duration::from_secs(5);
/// A thread that was stopped by a signal reaches its stop within this time, or was continued before.
const ARRIVES: Duration = Duration::from_millis(500);

/// A thread.
pub struct Thread {
    /// Its number.
    pub id: i32,
    /// The number of its process.
    pub process: i32,
    /// Where it stands.
    pub place: Place,
    /// When it was first seen.
    pub seen_since: Instant,
    /// When it was let into its last socket call or went on behind it, or was first seen.
    free_since: Instant,
    /// The processor time that it had used by then, in ticks; looked up later.
    free_at: Option<u64>,
    /// The number of the step in which it was last let into a call: who waited longest is next.
    pub let_in: u64,
    /// It was asleep whenever it was looked at, since then.
    asleep_since: Option<Instant>,
    /// Since when it stands still, if it does.
    pub stopped_at: Option<Instant>,
}

/// Where a thread stands.
pub enum Place {
    /// In its program, or in a system call that is not about sockets.
    Runs,
    /// Stopped before a socket call.
    Asks(Box<Entered>),
    /// In the kernel, in a socket call.
    Inside(Box<Inside>),
    /// Stopped behind a socket call that returned this.
    Back(Box<Inside>, i64),
    /// The last thread of its process, stopped before the kernel closes its descriptors.
    AsksToEnd,
    /// On its way out.
    Ends,
    /// Stopped by a signal as a shell stops a job, and not traced until it goes on.
    Suspended(Suspended),
}

/// A thread on its way to a stop, or there.
pub struct Suspended {
    /// When it was let go.
    since: Instant,
    /// It was seen there.
    arrived: bool,
}

impl Suspended {
    /// Let go now.
    pub fn new() -> Suspended {
        Suspended { since: Instant::now(), arrived: false }
    }

    /// Whether it goes on: it was seen stopped and is not now, or it never gets there.
    pub fn is_over(&mut self, thread: i32) -> bool {
        let stands = matches!(Look::at(thread), Some(Look { state: b'T' | b't', .. }));
        self.arrived |= stands;
        !stands && (self.arrived || self.since.elapsed() > ARRIVES)
    }
}

/// A socket call that was let in.
#[derive(Clone)]
pub struct Inside {
    /// Its number in the output.
    pub number: u64,
    /// What it is.
    pub call: Entered,
    /// When it was let in.
    pub since: Instant,
    /// It sleeps there, or did.
    pub waits: bool,
    /// It was shown that it does.
    pub wait_shown: bool,
    /// The socket it is about, as it was before the call.
    pub socket: Option<Socket>,
}

impl Thread {
    /// A thread that has just been seen for the first time.
    pub fn new(id: i32, process: i32) -> Thread {
        Thread {
            id,
            process,
            place: Place::Runs,
            seen_since: Instant::now(),
            free_since: Instant::now(),
            free_at: None,
            let_in: 0,
            asleep_since: None,
            stopped_at: None,
        }
    }

    /// It did something.
    pub fn moved(&mut self) {
        self.asleep_since = None;
    }

    /// Whether it sleeps in the kernel until somebody else does something; looks at it now.
    pub fn settled(&mut self) -> bool {
        match Look::at(self.id) {
            None => true, // it is gone; waitpid tells
            // The main thread has ended before the others: it is told of once they have ended, too.
            Some(Look { state: b'Z' | b'X', .. }) => true,
            Some(look) if look.sleeps() => self.asleep_since.get_or_insert_with(Instant::now).elapsed() >= SETTLED,
            Some(_) => {
                self.asleep_since = None;
                false
            }
        }
    }

    /// It goes on: into a socket call, or behind one.
    pub fn set_free(&mut self) {
        (self.free_since, self.free_at) = (Instant::now(), None);
    }

    /// Whether others need not wait for it: it sleeps, or it has computed or napped for long since its last socket call. On a
    /// busy machine it may not have run at all: that is no reason to go on without it.
    pub fn lets_others_go(&mut self) -> bool {
        if self.settled() {
            return true;
        }
        let Some(look) = Look::at(self.id) else { return true };
        if self.starves(&look) {
            return false;
        }
        let since = self.free_since.elapsed();
        look.ready() || look.sleeps() && since > PATIENCE || since > PATIENCE_AT_MOST
    }

    /// Whether it is inside a call and can be left alone there: it sleeps, or `long` has passed in which it had its turn.
    pub fn makes_room(&mut self, long: bool) -> bool {
        Look::at(self.id).is_none_or(|look| look.sleeps() || long && !self.starves(&look))
    }

    /// Whether it wants a processor and has not had one for long since it was let go: a busy machine is no reason to go on
    /// without it, however long that takes. A stop that was not reported yet is on its way to us, too.
    fn starves(&mut self, look: &Look) -> bool {
        let computed = look.ticks.saturating_sub(*self.free_at.get_or_insert(look.ticks));
        look.state == b't' || look.ready() && computed < PATIENCE_TICKS
    }
}

/// A line of /proc/PID/stat.
pub struct Look {
    /// R, S, D, T, t, Z ...: proc(5).
    pub state: u8,
    /// Processor time used so far, in hundredths of a second (USER_HZ).
    pub ticks: u64,
}

impl Look {
    /// Looks at a thread; `None` once it is gone.
    pub fn at(thread: i32) -> Option<Look> {
        let stat = fs::read_to_string(format!("/proc/{thread}/stat")).ok()?;
        let mut fields = stat.rsplit_once(") ")?.1.split(' '); // behind the name, which may have blanks
        let state = *fields.next()?.as_bytes().first()?;
        let mut times = fields.skip(10).filter_map(|field| field.parse::<u64>().ok());
        Some(Look { state, ticks: times.next()? + times.next()? })
    }

    /// Has a processor, or waits for one.
    fn ready(&self) -> bool {
        self.state == b'R'
    }

    /// Asleep in the kernel, with (S) or without (D) an ear for signals; a parent in vfork is in D.
    pub fn sleeps(&self) -> bool {
        matches!(self.state, b'S' | b'D')
    }
}

/// The number of the process that a thread belongs to, and that of its parent.
pub fn family(thread: i32) -> Option<(i32, i32)> {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let number = |key: &str| status.lines().find_map(|line| line.strip_prefix(key))?.trim().parse().ok();
    Some((number("Tgid:")?, number("PPid:")?))
}

/// The program of a process, without folders, and its first word if that says more: `python3 server.py`.
pub fn program(process: i32) -> String {
    const MOST: usize = 24;
    let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    let mut words = line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
    let file = |word: &str| word.rsplit('/').next().unwrap_or_default().to_string();
    let name = file(&words.next().unwrap_or_default());
    match words.next().map(|word| if word.starts_with('-') { String::new() } else { file(&word) }) {
        Some(word) if !word.is_empty() && name.len() + word.len() < MOST => format!("{name} {word}"),
        _ => name,
    }
}
