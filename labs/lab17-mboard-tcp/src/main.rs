//! A message board over TCP, a connection for each request: what ends a message, and who waits for whom?
//!
//! Terminal 1:     cargo run -p lab17-mboard-tcp -- server
//!            or:  cargo run -p lab17-mboard-tcp -- server --deadline 0        as in the lecture: no time limit
//! Terminal 2:     cargo run -p lab17-mboard-tcp -- client --publish 'Hello world!'
//!                 cargo run -p lab17-mboard-tcp -- client --publish -          the message is typed; Ctrl-D ends it
//!                 cargo run -p lab17-mboard-tcp -- client                     all messages
//! Watch:          scripts/states.sh 7777 --watch
//! Experiments:    cargo run -p lab17-mboard-tcp
//!
//! Compare with lab15-mboard-udp (the same board, a datagram for each request) and lab09-shutdown (the half-close).
//! Source: notes ch.2, "Programming Application layer protocol on top of TCP".
//! Read: shutdown(2), execve(2) on E2BIG, RFC 9293 3.6 and 3.10.4.

mod client;
mod connection;
mod experiments;
mod server;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Result, anyhow};
use clap::{Args, Parser, Subcommand, value_parser};
use shared::{DemoArgs, Place, SheetArgs};

const LAB: &str = env!("CARGO_PKG_NAME");
/// The lecture's server.
const DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7777);
const EXAMPLES: &str = "\
Examples:
  cargo lab17                              play all experiments
  cargo lab17 demo killed-halfway --pause  one of them, for the projector
  cargo lab17 server                       terminal 1: 127.0.0.1:7777
  cargo lab17 server --deadline 0          no time limit, as in the lecture
  cargo lab17 server --journal FILE        what is confirmed survives the
                                           server
  cargo lab17 client                       terminal 2: all messages
  cargo lab17 client --publish 'Hello'     put a message on the board
  cargo lab17 client --publish - < FILE    a message of any bytes and any size
  cargo lab17 client 127.0.0.1 --last 3    the three newest

On the wire, up to the end of stream: requests 1:TEXT publish, 2:N ids of the
last N (0: all), 3:ID get, 4:N the last N, 5:REQUEST-ID:TEXT publish once.
Answers begin with 0: done, 1: bad format, 2: not found, 3: unknown request.";

#[derive(Parser)]
#[command(version, about = "A message board over TCP, a connection for each request", after_help = EXAMPLES)]
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
    /// Terminal 1: the board; serves one connection after the other
    Server(ServerArgs),
    /// Terminal 2: publish a message, or read the last ones
    Client(ClientArgs),
}

#[derive(Args)]
struct ServerArgs {
    /// Where to listen: PORT, ADDRESS or ADDRESS:PORT; port 0 lets the kernel choose [default: 127.0.0.1:7777]
    #[arg(num_args = 0..=2)]
    address: Vec<Place>,
    /// Keep the messages in this file; a message is confirmed once it is on disk
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// Seconds in which a request must be whole, and then its answer taken; 0: no limit, as in the lecture
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    deadline: u16,
    /// The longest request, in bytes
    #[arg(long, default_value_t = 16_777_216, value_name = "BYTES", value_parser = value_parser!(u32).range(1..))]
    max_request: u32,
    /// Wait for Enter before each socket call
    #[arg(long)]
    pause: bool,
}

#[derive(Args)]
struct ClientArgs {
    /// The server: PORT, ADDRESS, NAME or ADDRESS:PORT; port and address in any order [default: 127.0.0.1:7777]
    #[arg(num_args = 0..=2)]
    address: Vec<Place>,
    /// Publish this text; - sends standard input as it comes, any bytes
    #[arg(long, value_name = "TEXT")]
    publish: Option<String>,
    /// Read the last N messages instead of all
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "publish")]
    last: u64,
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
        None => shared::play(&experiments::LESSON, &cli.demo),
        Some(Command::Demo(args)) => shared::play(&experiments::LESSON, args),
        Some(Command::Sheet(args)) => shared::sheet(include_str!("../README.md"), args),
        Some(Command::Server(args)) => server::run(args).map(|()| ExitCode::SUCCESS),
        Some(Command::Client(args)) => client::run(args),
    }
}

/// The one address that these arguments name.
fn place(arguments: &[Place]) -> Result<SocketAddr> {
    let addresses = Place::joined(arguments).and_then(|place| place.resolved(DEFAULT));
    addresses.map_err(|error| anyhow!(error))?.first().copied().ok_or_else(|| anyhow!("the name has no address"))
}
