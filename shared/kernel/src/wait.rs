//! Waiting for something that has no descriptor to poll: look, look again, and a limit.

use std::fmt;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::SigSet;

/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// No more than this is counted between two looks: whoever looks more often was stopped or starved in between.
const TICK: Duration = Duration::from_millis(100);

/// Something that was waited for did not come within the limit.
#[derive(Debug)]
pub struct NotSeen {
    /// What was waited for.
    pub what: String,
    /// How long.
    pub limit: Duration,
    /// What came instead.
    pub instead: String,
}

impl std::error::Error for NotSeen {}

impl fmt::Display for NotSeen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not seen within {:.0?}: {}", self.limit, self.what)?;
        if self.instead.is_empty() { Ok(()) } else { write!(f, "; seen instead: {:?}", self.instead) }
    }
}

/// A limit on waiting that counts only time in which this program ran: Ctrl-Z, and fg a minute later, use up nothing.
pub struct Patience {
    left: Duration,
    last_look: Instant,
}

impl Patience {
    /// Patience for `limit` from now on.
    pub fn new(limit: Duration) -> Self {
        Patience { left: limit, last_look: Instant::now() }
    }

    /// Whether the limit has passed. Ask at least ten times a second: at most 100 ms are counted for each time.
    pub fn is_over(&mut self) -> bool {
        let now = Instant::now();
        self.left = self.left.saturating_sub(now.duration_since(self.last_look).min(TICK));
        self.last_look = now;
        self.left.is_zero()
    }

    /// How long a blocking call may take before [`Patience::is_over`] wants to be asked again.
    pub fn step(&self) -> Duration {
        self.left.min(TICK)
    }
}

/// Looks again and again until `look` finds something; its limit is counted as by [`Patience`].
///
/// # Errors
/// [`NotSeen`] once the limit has passed; whatever `look` fails with.
pub fn wait_until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let mut patience = Patience::new(limit);
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if patience.is_over() {
            bail!(NotSeen { what: what.into(), limit, instead: String::new() });
        }
        thread::sleep(LOOK_AGAIN); // a bounded poll: the limit is above
    }
}

/// A second pair of eyes, in a thread of its own because whoever is watched may be stuck in a system call.
pub struct Watchdog(Sender<Option<String>>);

impl Watchdog {
    /// Calls `on_silence` with the last report if none follows within `limit`, counted as by [`Patience`].
    ///
    /// # Errors
    /// EAGAIN where no more threads are allowed.
    pub fn start(limit: Duration, on_silence: fn(&str)) -> Result<Watchdog> {
        let (sender, reports) = channel::<Option<String>>();
        let watch = move || {
            let _ = SigSet::all().thread_block(); // signals are for the thread that is watched
            let (mut report, mut patience) = (None, Patience::new(limit));
            loop {
                let next = match reports.recv_timeout(patience.step()) {
                    Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) if !patience.is_over() => continue,
                    Err(RecvTimeoutError::Timeout) => reports.try_recv().ok(), // what came in this very moment counts
                    Ok(next) => Some(next),
                };
                match (next, &report) {
                    (Some(next), _) => report = next,
                    (None, Some(report)) => on_silence(report),
                    (None, None) => {}
                }
                patience = Patience::new(limit);
            }
        };
        thread::Builder::new().spawn(watch).context("cannot start a thread; see the limit: ulimit -u")?;
        Ok(Watchdog(sender))
    }

    /// What to report unless something else follows in time; `None`: nothing has to follow.
    pub fn expect(&self, report: Option<String>) {
        let _ = self.0.send(report); // the thread lives as long as the sender
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::RecvTimeoutError::Timeout;
    use std::sync::{Mutex, mpsc::sync_channel};

    use super::*;

    #[test]
    fn a_long_stop_uses_up_no_more_than_a_tick() {
        let mut patience = Patience::new(2 * TICK);
        thread::sleep(4 * TICK); // as if stopped
        assert!(!patience.is_over());
        thread::sleep(TICK);
        assert!(patience.is_over());
    }

    #[test]
    fn what_never_comes_is_named_with_its_limit() {
        let error = wait_until::<()>("a word", Duration::from_millis(3), || Ok(None)).unwrap_err();
        assert_eq!(error.to_string(), "not seen within 3ms: a word");
    }

    #[test]
    fn the_watchdog_reports_silence_and_nothing_that_is_over() {
        static REPORTS: Mutex<Vec<String>> = Mutex::new(Vec::new());
        let watchdog = Watchdog::start(TICK, |report| REPORTS.lock().unwrap().push(report.into())).unwrap();
        let (_sender, nothing) = sync_channel::<()>(0);
        watchdog.expect(Some("over".into()));
        watchdog.expect(None);
        assert_eq!(nothing.recv_timeout(3 * TICK), Err(Timeout));
        assert!(REPORTS.lock().unwrap().is_empty());
        watchdog.expect(Some("silence".into()));
        let reported = || Ok(REPORTS.lock().unwrap().first().cloned());
        assert_eq!(wait_until("the report", Duration::from_secs(10), reported).unwrap(), "silence");
    }
}
