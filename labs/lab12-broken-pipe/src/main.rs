//! The other end or the cable is gone: what does a program learn of it, and when?
//!
//! Terminal 1:   cargo run -p lab12-broken-pipe -- server
//! Terminal 2:   cargo run -p lab12-broken-pipe -- client            type lines in either; /unplug and /plug, too
//!          or:  cargo run -p lab12-broken-pipe -- client --user-timeout 5     --keepalive 1,1,1: who hears of it
//! Watch:        scripts/states.sh 7777 --watch
//! Two hosts:    scripts/two-hosts.sh up                             then the same on A and B, with a cable to pull
//! Experiments:  cargo run -p lab12-broken-pipe
//!
//! Compare with lab09-shutdown (an end that says goodbye) and lab11-states (states that last).
//! Source: notes ch.2, Broken pipe exception; Accepting and Connecting, question 1; Handling broken pipe exceptions.
//! Read: ip(7) on IP_MINTTL, tcp(7) on TCP_KEEPIDLE, TCP_USER_TIMEOUT and tcp_retries2, veth(4), RFC 6298, RFC 9293 3.8.3.

mod cable;
mod client;
mod experiments;
mod on_hosts;
mod server;
mod talk;
mod watch;

use std::{net::SocketAddr, os::fd::AsFd, process::ExitCode};

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use shared::{At, DemoArgs, SheetArgs, Stop, address, destination};
use socket2::Socket;

const LAB: &str = env!("CARGO_PKG_NAME");
const EXAMPLES: &str = "\
Examples:
  cargo lab12                           play all experiments
  cargo lab12 demo killed --pause       one of them, for the projector
  cargo lab12 server                    terminal 1: 127.0.0.1:7777
  cargo lab12 client                    terminal 2: type lines
  cargo lab12 client --keepalive 1,1,1  hears of a cut even while idle
  nc 127.0.0.1 7777                     any program that sends lines will do

In both terminals /unplug and /plug are not sent: they cut the cable at this
end, and mend it.";

#[derive(Parser)]
#[command(version, about = "What a program learns once the other end or the cable is gone", after_help = EXAMPLES)]
#[command(args_conflicts_with_subcommands = true)] // an experiment's name plays it, as after demo
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    demo: DemoArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Play the experiments (also without any argument)
    Demo(DemoArgs),
    /// Print the sheet of this lab
    Sheet(SheetArgs),
    /// Terminal 1: accept, talk to one client after another
    Server(ServerArgs),
    /// Terminal 2: connect, talk
    Client(ClientArgs),
    /// Inside a private namespace: make two hosts, play one experiment's part on them
    #[command(hide = true)]
    OnHosts { experiment: String, outside: String },
}

#[derive(Args)]
struct ServerArgs {
    /// Where to listen: PORT, ADDRESS or ADDRESS:PORT; port 0 lets the kernel choose
    #[arg(default_value = "127.0.0.1:7777", value_parser = address("127.0.0.1:7777"))]
    address: SocketAddr,
    /// Wait for Enter before each socket call
    #[arg(long)]
    pause: bool,
}

#[derive(Args)]
struct ClientArgs {
    /// The server: PORT, ADDRESS or ADDRESS:PORT
    #[arg(default_value = "127.0.0.1:7777", value_parser = destination("127.0.0.1:7777"))]
    address: SocketAddr,
    /// Probe an idle connection: seconds until the first probe, seconds between probes, probes without an answer
    #[arg(long, value_name = "IDLE,INTERVAL,COUNT", value_parser = keepalive)]
    keepalive: Option<Keepalive>,
    /// Give up once sent bytes have waited so long for their acknowledgement
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=86400))]
    user_timeout: Option<u32>,
    /// Wait for Enter before each socket call
    #[arg(long)]
    pause: bool,
}

/// TCP_KEEPIDLE and TCP_KEEPINTVL in seconds, TCP_KEEPCNT.
#[derive(Clone, Copy)]
struct Keepalive {
    idle: u32,
    interval: u32,
    count: u32,
}

/// Parses `1,1,1`, within the limits of tcp(7).
fn keepalive(text: &str) -> Result<Keepalive, String> {
    let numbers: Vec<u32> = text.split(',').filter_map(|word| word.parse().ok()).collect();
    match numbers[..] {
        [idle @ 1..=32767, interval @ 1..=32767, count @ 1..=127] => Ok(Keepalive { idle, interval, count }),
        _ => Err("not three numbers such as 1,1,1: seconds, seconds (1 to 32767), probes (1 to 127)".into()),
    }
}

fn main() -> ExitCode {
    let cli: Cli = shared::parse(&experiments::LESSON);
    shared::run(LAB, || dispatch(&cli))
}

fn dispatch(cli: &Cli) -> Result<ExitCode> {
    match &cli.command {
        None => return shared::play(&experiments::LESSON, &cli.demo),
        Some(Command::Demo(args)) => return shared::play(&experiments::LESSON, args),
        Some(Command::Sheet(args)) => return shared::sheet(include_str!("../README.md"), args),
        Some(Command::Server(args)) => server::run(args)?,
        Some(Command::Client(args)) => client::run(args)?,
        Some(Command::OnHosts { experiment, outside }) => on_hosts::run(experiment, outside)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits until the next call on `sock` will not block; false after Ctrl-C, which a blocked call would not hear.
fn ready(sock: &Socket, events: PollFlags, stop: &Stop) -> Result<bool> {
    let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(sock.as_fd(), events)];
    loop {
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => {} // after a signal handler: signal(7)
            result => return Ok(result.at("poll", "").map(|_| !stop.requested())?),
        }
    }
}
