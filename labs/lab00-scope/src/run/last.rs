//! When the last process has ended: what the kernel still does, and what it all comes to.

use std::time::{Duration, Instant};

use anyhow::Result;
use kernel::State;

use super::engine::Engine;

/// What is in flight when the last process has ended.
const LAST_LOOK: Duration = Duration::from_secs(1);
/// Exit status after Ctrl-C, as of a shell.
const INTERRUPTED: u8 = 130;
/// While something is in flight.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Nobody runs any more: what is still in flight, and what the kernel keeps.
///
/// # Errors
/// What the instruments and the sinks fail with.
pub fn last_look(engine: &mut Engine) -> Result<()> {
    let began = Instant::now();
    loop {
        engine.print_outputs(true)?;
        engine.between_steps(true)?;
        use State::*;
        let moves = |state| matches!(state, FinWait1 | LastAck | Closing | SynSent | SynReceived);
        if !engine.states.ends().any(|(_, _, state)| moves(state)) || began.elapsed() > LAST_LOOK {
            break;
        }
        engine.signals.sleep(LOOK_AGAIN)?;
    }
    let left: Vec<String> = engine
        .states
        .ends()
        .filter(|(_, _, state)| *state != State::Listen)
        .map(|(local, peer, state)| format!("{state} {local} > {peer}"))
        .collect();
    if !left.is_empty() {
        engine.note(None, format!("the kernel still keeps: {}", left.join(", ")))?;
    }
    Ok(())
}

/// What the commands' exit statuses come to.
///
/// # Errors
/// What the sinks fail with.
pub fn status(engine: &mut Engine, interrupted: bool, ended_by_us: &[usize]) -> Result<u8> {
    if interrupted {
        return Ok(INTERRUPTED);
    }
    let mut worst = u8::from(engine.failed);
    for at in 0..engine.commands.len() {
        let command = &engine.commands[at];
        let name = command.words[0].clone();
        match command.status {
            Some(0) | None => {}
            Some(status @ 126..=127) if !command.began => return Ok(status as u8),
            Some(_) if ended_by_us.contains(&at) => {}
            Some(status) => {
                engine.note(None, format!("{name} ended with exit status {status}"))?;
                worst = 1;
            }
        }
    }
    Ok(worst)
}
