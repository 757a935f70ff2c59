//! All eleven states, one after another, and the diagram with the way through it.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use shared::{Pause, Screen, Stop};

use crate::{
    TourArgs,
    log::Log,
    reach::reach,
    states::{STATES, diagram, linear},
};

/// A state is looked at and left again: far longer than that takes, unless a class looks on.
const LONG_ENOUGH: u32 = 40;

/// Reaches each state, reads it from the kernel, says what there is to know of it.
pub fn run(args: &TourArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    let mut log = Log { screen: Screen::new(), pause: Pause::new(args.pause, &stop) };
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mut seen = Vec::new();
    for (place, facts) in STATES.iter().enumerate() {
        let heading = format!("{:<10}{}", place + 1, facts.state);
        log.screen.line(log.screen.bold(&heading));
        let reached = reach(facts.state, any_port, LONG_ENOUGH, &mut log)?;
        log.say("by", facts.caused_by);
        log.say("names", format_args!("ss {}, netstat {}", facts.ss, facts.netstat));
        log.say("held", facts.held);
        log.say("orphaned", facts.orphaned);
        log.say("a pile", facts.pile);
        log.screen.line("");
        seen.push(reached.state);
        drop(reached); // close(2) on all of its sockets
        if stop.requested() {
            break;
        }
    }
    log.screen.line(diagram(&seen));
    log.screen.line("\nthe same as text, from the socket call on");
    for (place, facts) in STATES.iter().enumerate().filter(|(_, facts)| seen.contains(&facts.state)) {
        log.say(&format!("{:>2}", place + 1), linear(facts.path));
    }
    log.screen.line(format_args!("\n{} of {} states seen standing still", seen.len(), STATES.len()));
    Ok(())
}
