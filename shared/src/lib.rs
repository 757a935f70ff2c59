//! What speaks to the class: experiments, questions, verdicts, the scoreboard, the sheet.
//!
//! - [`Stage`]: where an experiment asks, says what happens, and is decided
//! - [`Lesson`], [`play`]: a lab's experiments, chosen and played in a row
//! - [`parse`], [`run`], [`sheet`]: every lab's way in and out, and its sheet
//! - from `roles`: addresses, errors, output, Ctrl-C, timelines, a lecture program as a child process
//!
//! The rule of this crate, of `roles` and of `kernel`: none of them makes a call on a lab's socket that changes it.
//! Delete them, and every socket call of the course still stands in the labs.

#[cfg(target_os = "linux")]
mod cli;
#[cfg(target_os = "linux")]
mod lesson;
#[cfg(target_os = "linux")]
mod stage;

#[cfg(target_os = "linux")]
pub use self::{
    cli::{DemoArgs, SheetArgs, at_least_one, parse, run, sheet},
    lesson::{Experiment, Lesson, play},
    stage::{Predicts, Question, Stage, Verdict},
};
#[cfg(target_os = "linux")]
pub use roles::{
    At, CallError, DOUBLE_PRESS, PARENT, Pause, Place, Role, Screen, SplitMix64, Stop, Timeline, TimelinePhase,
    TimelineRow, address, destination, escaped, own_program, returned,
};
