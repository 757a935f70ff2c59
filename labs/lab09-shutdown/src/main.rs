//! shutdown, close, reset: what does each end still send, and what does it still get?
//!
//! Terminal 1:   cargo run -p lab09-shutdown -- server
//! Terminal 2:   cargo run -p lab09-shutdown -- client                 sends, then shutdown(SHUT_WR)
//!          or:  cargo run -p lab09-shutdown -- client --how reset     rd, rdwr, close: the other ways
//! Watch:        scripts/states.sh 7777 --watch
//! Experiments:  cargo run -p lab09-shutdown
//!
//! Compare with lab08-stream (a terminator ends the message) and lab10-timewait (who stays behind after the close).
//! Source: notes ch.2, TCP socket shutdown routines; Programming Application layer protocol on top of TCP.
//! Read: shutdown(2), close(2), send(2) on EPIPE, RFC 9293 3.6 and 3.10.5, RFC 1122 4.2.2.13.

mod client;
mod experiments;
mod server;

use std::{net::SocketAddr, os::fd::AsFd, process::ExitCode};

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use shared::{At, DemoArgs, SheetArgs, Stop, address, destination};
use socket2::Socket;

const LAB: &str = env!("CARGO_PKG_NAME");
const EXAMPLES: &str = "\
Examples:
  cargo lab09                       play all experiments
  cargo lab09 demo shut-rd --pause  one of them, for the projector
  cargo lab09 server                terminal 1: 127.0.0.1:7777
  cargo lab09 client                terminal 2: sends, shuts down, receives
  cargo lab09 client --how reset    ends with a reset instead
  nc -N 127.0.0.1 7777              any program that half-closes is a client";

#[derive(Parser)]
#[command(version, about = "shutdown, close and reset: the ways to end a connection", after_help = EXAMPLES)]
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
    /// Terminal 1: receive until end of stream, answer, close
    Server(ServerArgs),
    /// Terminal 2: send, end in one of five ways, receive the answer
    Client(ClientArgs),
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
    /// What to send
    #[arg(long, default_value = "get the last message", value_name = "TEXT")]
    message: String,
    /// How to end once it is sent
    #[arg(long, value_enum, default_value_t = How::Wr)]
    how: How,
    /// Wait for Enter before each socket call
    #[arg(long)]
    pause: bool,
}

/// The ways to end.
#[derive(Clone, Copy, ValueEnum)]
enum How {
    /// shutdown(SHUT_WR): done sending, still receiving
    Wr,
    /// shutdown(SHUT_RD): done receiving
    Rd,
    /// shutdown(SHUT_RDWR): both
    Rdwr,
    /// close
    Close,
    /// SO_LINGER 0, then close: a reset
    Reset,
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
