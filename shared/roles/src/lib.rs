//! What the lecture programs share and no lab teaches. Labs reach it through `shared`.
//!
//! - [`address`], [`Place`]: where to bind or connect, as people type it
//! - [`At`]: errors that name the call, the address and the errno
//! - [`Screen`], [`Stop`], [`Pause`]: output, Ctrl-C, Enter before each call
//! - [`Keys`]: single keys on a terminal, lines elsewhere
//! - [`SplitMix64`]: a series of numbers from a seed
//! - [`Timeline`]: what happened at the same time, as a picture
//! - [`Role`]: a lecture program as a child process

#[cfg(target_os = "linux")]
mod errors;
#[cfg(target_os = "linux")]
mod keys;
#[cfg(target_os = "linux")]
mod place;
#[cfg(target_os = "linux")]
mod random;
#[cfg(target_os = "linux")]
mod role;
#[cfg(target_os = "linux")]
mod screen;
#[cfg(target_os = "linux")]
mod stop;
#[cfg(target_os = "linux")]
mod timeline;

#[cfg(target_os = "linux")]
pub use self::{
    errors::{At, CallError, returned},
    keys::{DOUBLE_PRESS, KEYS, Keys, Pressed, let_signals_end_us},
    place::{Place, address, destination},
    random::SplitMix64,
    role::{PARENT, Role, end_with_parent, own_program},
    screen::{Screen, escaped},
    stop::{Pause, Stop},
    timeline::{Timeline, TimelinePhase, TimelineRow},
};
