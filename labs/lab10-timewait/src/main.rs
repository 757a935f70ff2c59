//! TIME-WAIT: which end has it, for how long, what does it block, and what lifts it?
//!
//! Terminal 1:   cargo run -p lab10-timewait -- server --close-first     the server closes first
//! Terminal 2:   cargo run -p lab10-timewait -- client
//!          or:  server without and client with --close-first            the client closes first
//! Terminal 3:   cargo run -p lab10-timewait -- countdown 7777
//! Watch:        scripts/timewait.sh 7777 --watch
//! Experiments:  cargo run -p lab10-timewait
//!
//! Compare with lab07-multiclient (a server that is started again) and lab09-shutdown (the ways to end).
//! Source: lab 7 handout, note at the top; notes ch.2, TCP socket; Receiving and Sending using TCP connection.
//! Read: ip(7) on TIME_WAIT, socket(7) on SO_REUSEADDR (lab07 and still-connected show more), RFC 9293 3.6.1, RFC 1337.

mod client;
mod connection;
mod countdown;
mod experiments;
mod fin_timeout;
mod server;

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
  cargo lab10                         play all experiments
  cargo lab10 demo pairs --pause      one of them, for the projector
  cargo lab10 server --close-first    terminal 1: 127.0.0.1:7777
  cargo lab10 client                  terminal 2
  cargo lab10 countdown 7777          terminal 3: the minute running down
  cargo lab10 server --no-reuse-addr  as the handout has it: try it again at
                                      once";

#[derive(Parser)]
#[command(version, about = "TIME-WAIT: who has it, how long, what it blocks, what lifts it", after_help = EXAMPLES)]
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
    /// Terminal 1: accept, wait for the client's close, close
    Server(ServerArgs),
    /// Terminal 2: connect, wait for the server's close, close
    Client(ClientArgs),
    /// Terminal 3: what is left of each TIME-WAIT on a port
    Countdown {
        /// The port at this end; an address before it changes nothing
        #[arg(default_value = "127.0.0.1:7777", value_parser = destination("127.0.0.1:7777"))]
        address: SocketAddr,
    },
    /// Inside a network namespace of its own: set tcp_fin_timeout, print what the kernel's timers say
    #[command(hide = true)]
    WithFinTimeout { seconds: u32, outside: String },
}

#[derive(Args)]
struct ServerArgs {
    /// Where to listen: PORT, ADDRESS or ADDRESS:PORT; port 0 lets the kernel choose
    #[arg(default_value = "127.0.0.1:7777", value_parser = address("127.0.0.1:7777"))]
    address: SocketAddr,
    /// Close each connection at once, before its client does
    #[arg(long)]
    close_first: bool,
    /// Leave SO_REUSEADDR out, as the handout's server does
    #[arg(long)]
    no_reuse_addr: bool,
    /// Wait for Enter before each socket call
    #[arg(long)]
    pause: bool,
}

#[derive(Args)]
struct ClientArgs {
    /// The server: PORT, ADDRESS or ADDRESS:PORT
    #[arg(default_value = "127.0.0.1:7777", value_parser = destination("127.0.0.1:7777"))]
    address: SocketAddr,
    /// Close at once, before the server does
    #[arg(long)]
    close_first: bool,
    /// Wait for Enter before each socket call
    #[arg(long)]
    pause: bool,
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
        Some(Command::Countdown { address }) => countdown::run(address.port())?,
        Some(Command::WithFinTimeout { seconds, outside }) => fin_timeout::run(*seconds, outside)?,
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
