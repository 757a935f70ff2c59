//! All eleven states, one after another, and the diagram with the way through it.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use shared::{Pause, Screen, Stop};

use crate::{
    TourArgs,
    log::{Interrupted, Log},
    reach::{Reached, reach},
    states::{STATES, diagram, linear},
};

/// A state must last until it was read; with `--pause` until the class has looked at it.
const LOOK_SECONDS: u32 = 40;
const CLASS_LOOKS_SECONDS: u32 = 900;
/// Rows that the text of one state and the diagram below it need.
const WHOLE_STATE: usize = 46;

/// Reaches each state, reads it from the kernel, says what there is to know of it.
pub fn run(args: &TourArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    let mut enter = Pause::new(args.pause, &stop);
    let mut log = Log { screen: Screen::new(), pause: Pause::new(false, &stop), stop: &stop };
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let seconds = if args.pause { CLASS_LOOKS_SECONDS } else { LOOK_SECONDS };
    let mut seen = Vec::new();
    let mut held: Option<Reached> = None;
    for (place, facts) in STATES.iter().enumerate() {
        enter.before(&mut log.screen, facts.state); // one Enter a state: until then the class can look at the last one
        drop(held.take()); // close(2) on all of its sockets
        if stop.requested() {
            break;
        }
        let heading = format!("{:<10}{}", place + 1, facts.state);
        log.screen.line(log.screen.bold(&heading));
        let reached = match reach(facts.state, any_port, seconds, &mut log) {
            Err(error) if error.is::<Interrupted>() => break,
            reached => reached?,
        };
        log.say("by", facts.caused_by);
        log.say("names", format_args!("ss {}, netstat {}", facts.ss, facts.netstat));
        log.say("held", facts.held);
        log.say("orphaned", facts.orphaned);
        log.say("if many", facts.pile);
        log.screen.line("");
        seen.push(reached.state);
        if args.pause {
            log.screen.measure();
            if log.screen.rows().is_some_and(|rows| rows < WHOLE_STATE) {
                enter.before(&mut log.screen, "the diagram"); // else the text above is gone before it was read
            }
            log.screen.line(diagram(&seen, &reached.ends()?));
            log.say("now", "C the client's end, S the server's end; numbers: states seen before");
            if reached.port > 0 {
                log.say("look", format_args!("scripts/states.sh {}", reached.port));
            }
        }
        held = Some(reached);
    }
    if !stop.requested() {
        enter.before(&mut log.screen, "the way through all of them");
    }
    drop(held);
    if seen.is_empty() {
        return Ok(()); // Ctrl-C
    }
    log.screen.line(diagram(&seen, &[]));
    log.screen.line("\nthe same as text, from the socket call on");
    for (place, facts) in STATES.iter().enumerate().filter(|(_, facts)| seen.contains(&facts.state)) {
        log.say(&format!("{:>2}", place + 1), linear(facts.path));
    }
    log.screen.line(format_args!("\n{} of {} states seen standing still", seen.len(), STATES.len()));
    Ok(())
}
