//! The kernel's view of a connection, shown while bytes wait for their acknowledgement.

use std::time::{Duration, Instant};

use anyhow::Result;
use kernel::{Pair, tcp_socket};
use nix::poll::PollTimeout;
use shared::{At, Screen};
use socket2::Socket;

use crate::cable::{Repeats, repeats};

/// Between two looks.
const LOOK_AGAIN_MS: u16 = 100;
/// A wait that is over before is none to look at: a kernel may send the last bytes again within milliseconds.
const SHORT_WAIT: Duration = Duration::from_millis(150);

/// Looks at one end of a connection.
pub struct Watch {
    pair: Pair,
    /// Since when some bytes may wait for their acknowledgement.
    since: Option<Instant>,
    /// What the kernel had repeated at the last look.
    repeats: Repeats,
    /// Some of it was shown, so the end of the wait is shown, too.
    shown: bool,
}

impl Watch {
    /// Nothing waits yet. `pair` are the two addresses of `sock`.
    pub fn new(sock: &Socket, pair: Pair) -> Result<Watch> {
        let repeats = repeats(sock).at("getsockopt TCP_INFO", pair.local)?;
        Ok(Watch { pair, since: None, repeats, shown: false })
    }

    /// Bytes were sent.
    pub fn sent(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    /// How long to wait for anything else before the next look.
    pub fn timeout(&self) -> PollTimeout {
        if self.since.is_some() { PollTimeout::from(LOOK_AGAIN_MS) } else { PollTimeout::NONE }
    }

    /// Shows the kernel's view after each repetition, and once more when all is acknowledged.
    pub fn look(&mut self, sock: &Socket, screen: &mut Screen) -> Result<()> {
        if self.since.is_none_or(|since| since.elapsed() < SHORT_WAIT) {
            return Ok(());
        }
        let Some(row) = tcp_socket(self.pair)? else { return Ok(()) };
        let now = repeats(sock).at("getsockopt TCP_INFO", self.pair.local)?;
        let news = (now.sent_again, now.doubled) != (self.repeats.sent_again, self.repeats.doubled);
        self.repeats = now;
        if row.send_queue == 0 {
            if std::mem::take(&mut self.shown) {
                screen.line(format_args!("  {}, Send-Q 0: all is acknowledged", row.state));
            }
            self.since = None;
        } else if news {
            let timer = row.timer.map_or("none".into(), |timer| format!("{:.1} s", timer.as_secs_f64()));
            let (queue, again) = (row.send_queue, now.sent_again);
            screen.line(format_args!("  {}, Send-Q {queue}, sent again {again}, timer {timer}", row.state));
            self.shown = true;
        }
        Ok(())
    }
}
