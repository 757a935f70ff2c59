//! `vote`: the class answers a demo's questions from its phones, before the kernel does.
//!
//! One process, one thread, one poll(2) loop: the demo on a pseudo-terminal, the lecturer's keys, the class over HTTP.

mod ballot;
mod connection;
mod console;
mod crowd;
mod demo;
mod http;
#[cfg(test)]
mod http_tests;
mod page;
mod picture;
mod reader;
mod room;
mod routes;
mod save;
mod server;
mod session;

use std::io::{Write, stderr, stdin};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use shared::{At, Stop, address};

use console::{Console, Key};
use room::Room;
use routes::Class;
use save::Save;
use server::Server;
use session::{Session, Show};

/// How often deadlines and counts are looked at, in milliseconds.
const TICK_MS: u16 = 200;
/// Descriptors that are polled before those of the server.
const FIXED: usize = 3;
const INTERRUPTED: u8 = 130;

/// The options of `vote`.
#[derive(clap::Args)]
pub struct VoteArgs {
    /// Where the page is served; 0.0.0.0:8007 for the room
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8007", value_parser = address("127.0.0.1:8007"))]
    listen: SocketAddr,
    /// Votes on each question; the class talks in between
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=ballot::MOST_ROUNDS as i64))]
    rounds: u8,
    /// Append the votes on each question to FILE (CSV; see scripts/votes.sh)
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// The demo to play, as in `lab07 demo 1 3`; LAB is lab07, lab07-multiclient or a path
    #[arg(last = true, required = true, value_names = ["LAB", "demo [NAME"])]
    command: Vec<String>,
}

/// Plays the demo, and lets the class vote.
pub fn run(args: &VoteArgs) -> Result<ExitCode> {
    let (lab, names) = args.command.split_first().map_or(("", &[][..]), |(lab, names)| (lab.as_str(), names));
    let names = if names.first().is_some_and(|word| word == "demo") { &names[1..] } else { names };
    for option in ["--predict", "--list", "--help", "-h"] {
        if names.iter().any(|name| name == option) {
            return Ok(usage(&format!("{option} is nothing to vote on: lab00-scope vote -- {lab} demo [NAME...]")));
        }
    }
    let program = match demo::find(lab) {
        Ok(program) => program,
        Err(problem) => return Ok(usage(&problem)),
    };
    let names: Vec<String> = names.iter().filter(|name| *name != "--pause").cloned().collect();
    if let Err(code) = demo::check(&program, &names)? {
        return Ok(ExitCode::from(code));
    }
    let stop = Stop::on_signals()?;
    let server = Server::listen(args.listen)?;
    let console = Console::new();
    let room = Room::new(server.local_addr()?, console.draws());
    let (class, save) = (Class::new(args.rounds.into())?, Save::new(args.save.as_deref())?);
    hold(&mut Session::new(Show { program, names }, room, class, console, save), server, &stop)
}

/// The lecture, from the first key to the last.
fn hold(session: &mut Session, mut server: Server, stop: &Stop) -> Result<ExitCode> {
    let mut no_input = false;
    session.draw();
    while !session.is_over() {
        let Some(ready) = wait(session, &server, stop, no_input)? else { continue };
        if stop.requested() {
            return interrupted(session);
        }
        session.follow()?;
        server.serve(&ready[FIXED..], &mut session.class, Instant::now());
        let mut key = session.console.key().filter(|_| session.waits());
        if key.is_none() && session.waits() && !ready[1].is_empty() {
            key = session.console.read();
        }
        no_input |= key == Some(Key::End);
        if no_input && session.is_at_its_beginning() {
            session.console.erase();
            return Ok(usage("vote waits for Enter, and standard input has ended"));
        }
        if let Some(key) = key.or(no_input.then_some(Key::End)).filter(|_| session.waits()) {
            session.press(key)?;
        }
        session.tick();
    }
    Ok(match session.ended {
        Some(status) => ExitCode::from(status.code().and_then(|code| code.try_into().ok()).unwrap_or(1)),
        None => ExitCode::SUCCESS, // it was left before it began
    })
}

/// Waits until something is ready, or a tick is over: what poll(2) says of the signals, the keys, the demo, and then of
/// what the server polls. `None` after EINTR.
fn wait(session: &Session, server: &Server, stop: &Stop, no_input: bool) -> Result<Option<Vec<PollFlags>>> {
    let (input, nothing) = (stdin(), (stop.as_fd(), PollFlags::empty()));
    let keys = if session.waits() && !no_input { (input.as_fd(), PollFlags::POLLIN) } else { nothing };
    let demo = session.demo.as_ref().filter(|_| session.ended.is_none());
    let demo = demo.map_or(nothing, |demo| (demo.as_fd(), PollFlags::POLLIN));
    let fixed: [_; FIXED] = [(stop.as_fd(), PollFlags::POLLIN), keys, demo];
    let mut fds: Vec<PollFd> =
        fixed.into_iter().chain(server.descriptors()).map(|(fd, events)| PollFd::new(fd, events)).collect();
    let tick = if no_input && session.waits() { 0 } else { TICK_MS };
    match poll(&mut fds, PollTimeout::from(tick)) {
        Err(Errno::EINTR) => Ok(None),
        polled => {
            polled.at("poll", "")?;
            Ok(Some(fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())).collect()))
        }
    }
}

/// Ctrl-C or SIGTERM: the demo ends, what was voted is kept and shown, and then the signal acts as on any program.
fn interrupted(session: &mut Session) -> Result<ExitCode> {
    session.console.erase();
    if let Some(demo) = &mut session.demo {
        demo.interrupt();
    }
    session.close()?;
    session.console.leave();
    let both: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    both.thread_unblock().at("sigprocmask", "")?;
    Ok(ExitCode::from(INTERRUPTED)) // not reached: the signal was pending
}

/// Says what is wrong with the command line; exit status 2, as clap's own.
fn usage(problem: &str) -> ExitCode {
    let _ = writeln!(stderr(), "lab00: {problem}"); // nobody is left to tell if that is closed
    ExitCode::from(2)
}
