//! From the first command to the end of all: who starts when, what is still waited for, and who has to be ended.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use anyhow::Result;
use kernel::Patience;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::engine::Engine;
use super::last::{last_look, status};
use super::start::{SILENCE, start_due};
use super::threads::Place;
use super::wire::Wire;

/// While somebody is on the way, look again after this long.
const SOON: Duration = Duration::from_millis(1);
/// While everybody waits: timers of the kernel may have changed a state without a packet.
const NOW_AND_THEN: Duration = Duration::from_millis(100);
/// Servers whose clients are gone wait for the next; so long we wait with them.
const LONELY: Duration = Duration::from_secs(1);
/// A process that its command left behind may work on for as long.
const LEFT_BEHIND: Duration = Duration::from_secs(3);
/// Between SIGINT, SIGTERM and SIGKILL, in which nobody waits for a processor.
const GRACE: Duration = Duration::from_secs(2);

/// How the run is brought to its end.
#[derive(Default)]
pub struct Ending {
    /// The signal sent last, and what is left of the time to obey it.
    pub sent: Option<(Signal, Patience)>,
    /// Somebody pressed Ctrl-C.
    interrupted: bool,
    /// It was told that a command says nothing.
    pub told_silence: bool,
    /// How many requests to end were answered.
    answered: u32,
    /// Commands whose status says nothing, as they were ended by us.
    ended_by_us: Vec<usize>,
}

/// Plays the run. The exit status.
///
/// # Errors
/// What the instruments and the sinks fail with.
pub fn play(engine: &mut Engine) -> Result<u8> {
    let mut ending = Ending::default();
    let mut looked = Instant::now();
    loop {
        start_due(engine, &mut ending)?;
        while engine.advance()? && engine.signals.asked_to_end == ending.answered {}
        let waiting = engine.commands.iter().any(|command| command.process.is_none());
        if engine.tracer.processes.is_empty() && (!waiting || ending.sent.is_some()) {
            break;
        }
        bring_to_an_end(engine, &mut ending)?;
        rouse(engine)?;
        let idle = engine.idle();
        wait(engine, idle)?;
        if idle && engine.idle() || looked.elapsed() > NOW_AND_THEN && !engine.in_a_step() {
            engine.between_steps(true)?;
            looked = Instant::now();
        }
    }
    last_look(engine)?;
    let status = status(engine, ending.interrupted, &ending.ended_by_us)?;
    let (stopped, lived) = (engine.tracer.stopped.as_secs_f64(), engine.tracer.lived.as_secs_f64());
    let slowed = format!(
        "traced: the commands' threads stood still for {stopped:.2} s of the {lived:.2} s that they lived, at {} stops; \
         the run took {:.2} s",
        engine.tracer.stops,
        engine.elapsed().as_secs_f64()
    );
    engine.note(None, slowed)?;
    engine.end()?;
    Ok(status)
}

/// Ends what would never end: Ctrl-C, servers without clients, processes left behind.
fn bring_to_an_end(engine: &mut Engine, ending: &mut Ending) -> Result<()> {
    let asked = engine.signals.asked_to_end;
    if asked > ending.answered {
        let again = ending.interrupted;
        (ending.answered, ending.interrupted) = (asked, true);
        if again {
            end_all(engine, ending, Signal::SIGKILL);
        } else if engine.signals.from_terminal {
            ending.sent = Some((Signal::SIGINT, Patience::new(GRACE))); // the terminal has sent it to all of them
        } else {
            end_all(engine, ending, Signal::SIGINT);
        }
        return Ok(());
    }
    if engine.commands.iter().any(|command| command.status.is_some_and(|status| status >= 126) && !command.began) {
        end_all(engine, ending, Signal::SIGKILL); // a command that is not there
    }
    let settled = engine.all_settled();
    if let Some((signal, patience)) = &mut ending.sent {
        let signal = *signal;
        let next = if signal == Signal::SIGINT { Signal::SIGTERM } else { Signal::SIGKILL };
        // Whoever wants a processor to obey and does not get one has not refused.
        if settled && patience.is_over() {
            engine.note(None, format!("{next} to what has not ended after {signal}"))?;
            end_all(engine, ending, next);
        }
        return Ok(());
    }
    let quiet = engine.last_activity.elapsed();
    let all_started = engine.commands.iter().all(|command| command.process.is_some());
    let all_ended = engine.commands.iter().all(|command| command.status.is_some());
    if all_ended && quiet > LEFT_BEHIND && settled {
        let left: Vec<String> =
            engine.tracer.processes.iter().map(|(id, process)| format!("{id} {}", process.program)).collect();
        engine.note(None, format!("left behind, and ended now: {}", left.join(", ")))?;
        end_all(engine, ending, Signal::SIGTERM);
    } else if all_started && engine.commands.len() > 1 && quiet > LONELY && settled {
        let last_ended = engine.commands.last().is_some_and(|command| command.status.is_some());
        if last_ended && !all_ended && only_servers(engine) {
            engine.note(None, "the last command has ended and the others only wait: they get SIGINT")?;
            end_all(engine, ending, Signal::SIGINT);
        }
    }
    Ok(())
}

/// Whether everybody who is left listens, or sleeps in a socket call.
fn only_servers(engine: &Engine) -> bool {
    engine.tracer.threads.values().all(|thread| {
        let command = engine.tracer.processes.get(&thread.process).map(|process| process.command);
        let listens = command.is_some_and(|command| engine.commands[command].listens);
        listens || matches!(&thread.place, Place::Inside(inside) if inside.waits)
    })
}

/// Sends a signal to every process that is left; SIGINT and SIGTERM only to the commands, and to what they left behind.
pub fn end_all(engine: &mut Engine, ending: &mut Ending, signal: Signal) {
    for (at, command) in engine.commands.iter().enumerate() {
        if command.process.is_some() && command.status.is_none() {
            ending.ended_by_us.push(at);
        }
    }
    for (id, process) in &engine.tracer.processes {
        let its_command = &engine.commands[process.command];
        if signal == Signal::SIGKILL || its_command.process == Some(*id) || its_command.status.is_some() {
            let _ = kill(Pid::from_raw(*id), signal); // ESRCH: it has ended
            if signal != Signal::SIGKILL {
                let _ = kill(Pid::from_raw(*id), Signal::SIGCONT); // or it could not end
            }
        }
    }
    ending.sent = Some((signal, Patience::new(GRACE)));
}

/// A process that was stopped by a signal and that nobody continues.
fn rouse(engine: &mut Engine) -> Result<()> {
    if engine.last_activity.elapsed() < SILENCE {
        return Ok(());
    }
    let processes: Vec<i32> = engine.tracer.processes.keys().copied().collect();
    for process in processes {
        if engine.tracer.is_suspended(process) {
            engine.note(Some(process), "nobody continues it: it gets SIGCONT")?;
            engine.tracer.rouse(process);
            engine.active();
        }
    }
    Ok(())
}

/// Waits for a report, for output, and while everybody waits for the wire.
fn wait(engine: &mut Engine, idle: bool) -> Result<()> {
    let mut others: Vec<BorrowedFd> =
        engine.commands.iter().flat_map(|command| command.open_outputs()).map(|file| file.as_fd()).collect();
    let suspended = engine.tracer.threads.values().any(|thread| matches!(thread.place, Place::Suspended(_)));
    if idle {
        others.extend(engine.wire.iter().flat_map(Wire::fds));
    }
    engine.signals.wait(&others, if idle && !suspended { NOW_AND_THEN } else { SOON })
}
