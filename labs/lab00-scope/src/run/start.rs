//! When the next command starts.

use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;

use super::end::{Ending, end_all};
use super::engine::Engine;

/// A command that neither listens nor waits for a socket, and does nothing: the next one starts all the same.
pub const SILENCE: Duration = Duration::from_secs(3);

/// Starts the commands whose turn it is.
pub fn start_due(engine: &mut Engine, ending: &mut Ending) -> Result<()> {
    if ending.sent.is_some() {
        return Ok(());
    }
    let Some(next) = engine.commands.iter().position(|command| command.process.is_none()) else { return Ok(()) };
    if next > 0 {
        let silent = engine.last_activity.elapsed() > SILENCE && engine.idle();
        let idle = engine.idle();
        let before = &engine.commands[next - 1];
        let (ended, name) = (before.status.is_some(), before.words[0].clone());
        let due = match &engine.commands[next].after {
            Some(text) => before.has_printed(text),
            None => before.ready || before.listens && idle,
        };
        // A shell or an interpreter that is still being loaded has had no time to listen.
        let anyhow = silent && before.began && engine.commands[next].after.is_none();
        if !(due || ended || anyhow) {
            if silent && !std::mem::replace(&mut ending.told_silence, true) {
                let text = engine.commands[next].after.clone().unwrap_or_default();
                engine.note(None, format!("{name} waits, and has not printed {text:?} yet; Ctrl-C ends the run"))?;
            }
            return Ok(());
        }
        if let Some(text) = engine.commands[next].after.clone().filter(|_| !due) {
            engine.note(None, format!("{name} has ended and never printed {text:?}"))?;
            end_all(engine, ending, Signal::SIGINT);
            engine.failed = true;
            return Ok(());
        }
        if !due && !ended {
            engine.note(None, format!("{name} neither listens nor waits for a socket: the next command starts"))?;
        }
    }
    let process = engine.commands[next].start()?;
    engine.tracer.seize(process, next)?;
    engine.active();
    Ok(())
}
