//! Terminal 1: a socket that stands still in one state, so that a class can look at it.

use std::{
    io::stdout,
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsFd,
    process,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use kernel::State;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use shared::{At, Pause, Screen, Stop};

use crate::{
    HoldArgs,
    log::{Interrupted, Log},
    reach::reach,
    states::facts,
};

/// Between two looks at the state.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// TIME-WAIT lasts 60 s and nothing holds it longer; a new one is made before the old one ends.
const RENEW_TIME_WAIT: Duration = Duration::from_secs(50);

/// Holds the state until the time is over, or Ctrl-C; fails if the kernel leaves it before.
pub fn run(args: &HoldArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    let mut log = Log { screen: Screen::new(), pause: Pause::new(args.pause, &stop), stop: &stop };
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
    let facts = facts(args.state);
    let mut reached = match reach(args.state, addr, args.seconds, &mut log) {
        Err(error) if error.is::<Interrupted>() => {
            log.screen.line("Terminating ...");
            return Ok(());
        }
        reached => reached?,
    };
    let port = reached.port;

    log.say("by", facts.caused_by);
    match reached.pair {
        Some(pair) => {
            log.say("look", format_args!("scripts/states.sh {port}"));
            log.say("ss", format_args!("ss -tan 'sport = :{port} or dport = :{port}'"));
            log.say("", format_args!("{} {} {}", facts.ss, pair.local, as_written(pair.peer)));
            log.say("netstat", format_args!("netstat -tan | grep ':{port} '"));
            log.say("", format_args!("{} {} {}", pair.local, as_written(pair.peer), facts.netstat));
        }
        None => log.say("look", format_args!("scripts/fds.sh {}   (in no table)", process::id())),
    }
    log.say("held", facts.held);
    log.say("orphaned", facts.orphaned);
    log.say("if many", facts.pile);
    log.screen.line(format_args!("Holding {} for {} seconds ... (Ctrl-C ends it)", args.state, args.seconds));

    let start = Instant::now();
    let (end, mut renewed) = (start + Duration::from_secs(args.seconds.into()), start);
    let mut looks = 0;
    while Instant::now() < end && wait(&stop, LOOK_AGAIN.min(end.saturating_duration_since(Instant::now())))? {
        if args.state == State::TimeWait && renewed.elapsed() > RENEW_TIME_WAIT {
            log.screen.line("The kernel forgets this one after 60 s; here is another:");
            reached = reach(args.state, SocketAddr::from((Ipv4Addr::LOCALHOST, port)), args.seconds, &mut log)?;
            renewed = Instant::now();
        }
        let now = reached.now()?;
        ensure!(now == Some(args.state), "{} lasted {:.1?}, then {now:?}", args.state, start.elapsed());
        looks += 1;
    }
    log.screen.line(format_args!("{} stood still: {looks} looks in {:.0?}", args.state, start.elapsed()));
    drop(reached); // close(2) on all of its sockets
    log.screen.line("Terminating ...");
    Ok(())
}

/// A peer as ss and netstat write it; a listener has none.
fn as_written(peer: SocketAddr) -> String {
    if peer.port() == 0 { format!("{}:*", peer.ip()) } else { peer.to_string() }
}

/// Waits; false after Ctrl-C, and once nobody reads the output any more.
fn wait(stop: &Stop, time: Duration) -> Result<bool> {
    let output = stdout();
    let reader_gone = PollFlags::empty(); // poll says POLLERR without being asked
    let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(output.as_fd(), reader_gone)];
    let rounded_up = time + Duration::from_millis(1); // poll counts milliseconds; 0 would not wait at all
    match poll(&mut fds, PollTimeout::try_from(rounded_up)?) {
        Ok(_) => Ok(!fds.iter().any(|fd| fd.any().unwrap_or(true))),
        Err(Errno::EINTR) => Ok(true), // after a signal handler: signal(7)
        Err(errno) => Ok(Err(errno).at("poll", "")?),
    }
}
