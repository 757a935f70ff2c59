//! What every lab needs and no lab teaches.
//!
//! - [`play`] and [`Stage`]: experiments, questions, verdicts, the scoreboard
//! - [`kernel`]: the kernel's own table of TCP sockets
//! - [`At`]: errors that name the call, the address and the errno
//! - [`Stop`], [`Pause`], [`Screen`]: Ctrl-C, Enter before each call, output
//! - [`Role`]: a lecture program as a child process
//!
//! The rule of this crate: it makes no call on a lab's socket. Delete it, and every socket call of the course still
//! stands in the labs.

#[cfg(not(target_os = "linux"))]
compile_error!("These labs are about the Linux kernel: build on Linux 5.10 or newer. WSL2 and virtual machines count.");

#[cfg(target_os = "linux")]
mod cli;
mod errors;
#[cfg(target_os = "linux")]
pub mod kernel;
#[cfg(target_os = "linux")]
mod role;
mod screen;
#[cfg(target_os = "linux")]
mod stage;
#[cfg(target_os = "linux")]
mod stop;

#[cfg(target_os = "linux")]
pub use self::{
    cli::{DemoArgs, run, sheet, socket_addr},
    errors::{At, CallError, returned},
    role::{NAMESPACE, NotSeen, Role, wait_until},
    screen::{Screen, escaped},
    stage::{Experiment, Lesson, Need, Predicts, Question, Stage, Verdict, play},
    stop::{Pause, Stop},
};
