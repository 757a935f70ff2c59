//! What a look costs, and when the next one may come: a board of 20,000 sockets must not slow down what it shows.

use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

/// Looks take at most one part in so many of a processor's time: where a look costs more, the next one comes later.
const SHARE: u32 = 10;

/// The processor time of one look, running.
pub struct Cost(Duration);

impl Cost {
    pub fn begin() -> Cost {
        Cost(processor_time())
    }

    /// Since the beginning.
    pub fn so_far(&self) -> Duration {
        processor_time().saturating_sub(self.0)
    }

    /// How long to wait for the next look, where `wanted` was asked for.
    pub fn interval(&self, wanted: Duration) -> Duration {
        wanted.max(self.so_far() * SHARE)
    }
}

/// Of this process, in the kernel and out of it.
fn processor_time() -> Duration {
    let used = getrusage(UsageWho::RUSAGE_SELF).map(|used| used.user_time() + used.system_time());
    used.map_or(Duration::ZERO, |used| Duration::from_micros(used.num_microseconds().unsigned_abs()))
}
