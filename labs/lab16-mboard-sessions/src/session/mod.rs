//! Sessions: messages of any size in numbered blocks, each confirmed. No socket in here, and no clock.
//!
//! The programs hand in what came and what time it is; they get back what to send and when to ask again. So the same code
//! runs over a real socket and over the simulated link in `simulation.rs`.
//!
//! - [`wire`]: the six kinds of datagram
//! - [`Outgoing`]: a message on its way out: blocks, window, repetition
//! - [`Assembly`]: a message on its way in: its blocks in order, each once
//! - [`ClientEnd`]: one request and its answer, as the client sees them
//! - [`Sessions`]: all sessions of a server

mod assembly;
mod client_end;
mod outgoing;
mod server_end;
#[cfg(test)]
mod simulation;
pub mod wire;

use std::time::Duration;

pub use self::{
    assembly::{Assembly, Taken},
    client_end::ClientEnd,
    outgoing::Outgoing,
    server_end::{Event, Limits, Sessions},
};

/// The bytes of a message that one block carries, as in the lecture.
pub const BLOCK_LEN: usize = 1024;
/// More blocks than this are never on their way unconfirmed; a receiver keeps no block beyond.
pub const WINDOW_LIMIT: u32 = 64;

/// When to repeat what was not confirmed.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The first repetition comes after this time, the next after twice the time, and so on.
    pub first: Duration,
    /// No pause is longer.
    pub most: Duration,
    /// After so many attempts the other end counts as gone.
    pub attempts: u32,
}

impl Timing {
    /// How long to wait after attempt number `attempt`, counted from 1.
    fn pause(&self, attempt: u32) -> Duration {
        let doubled = 2u32.saturating_pow(attempt.saturating_sub(1));
        self.first.saturating_mul(doubled).min(self.most)
    }
}

/// Something that is said again until the other end answers.
#[derive(Clone, Copy, Debug)]
struct Repeat {
    /// When it is due.
    at: Duration,
    /// How often it was said.
    attempts: u32,
}

impl Repeat {
    fn due_at(at: Duration) -> Self {
        Repeat { at, attempts: 0 }
    }

    /// Whether to say it now. `None`: it was said often enough, in vain.
    fn now(&mut self, now: Duration, timing: &Timing) -> Option<bool> {
        if now < self.at {
            return Some(false);
        }
        if self.attempts >= timing.attempts {
            return None;
        }
        self.attempts += 1;
        self.at = now + timing.pause(self.attempts);
        Some(true)
    }
}
