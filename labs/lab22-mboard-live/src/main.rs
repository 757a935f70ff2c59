//! A live message board: one long connection for each client, and what others publish arrives unasked. Who is told what,
//! and what does a connection cost that is kept?
//!
//! Terminal 1:     cargo run -p lab22-mboard-live -- server
//!            or:  cargo run -p lab22-mboard-live -- server --journal FILE     the board survives the server
//! Terminal 2:     cargo run -p lab22-mboard-live -- client --name ann         type; each line is published
//! Terminal 3:     cargo run -p lab22-mboard-live -- client --name bob
//! Watch:          scripts/states.sh 7777 --watch
//! Experiments:    cargo run -p lab22-mboard-live
//!
//! The server is one poll loop and no threads. With a thread for each client, every published line would have to go from
//! one thread to all others: a lock on the board, a queue for each client, and somebody to wake its thread up. In one loop
//! the order in which requests are read is the order of the board, and who is told what is a number for each client.
//!
//! Compare with lab17-mboard-tcp (the same board, a connection for each request) and lab07-multiclient (the same loop).
//! Source: notes ch.4, "Short-lived vs. Long-lived TCP connections" and "Make clients get the updates immediately".
//! Read: poll(2), tcp(7) on TCP_KEEPIDLE and TCP_USER_TIMEOUT, RFC 9293 3.8.4 (keep-alives).

mod client;
mod connect;
mod connection;
mod experiments;
mod frames;
mod keepalive;
mod link;
mod marks;
mod pauses;
mod requests;
mod room;
mod server;
mod talk;
mod typed;
mod wire;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Result, anyhow};
use clap::{Args, Parser, Subcommand, value_parser};
use shared::{DemoArgs, Place, SheetArgs};

use crate::keepalive::Keepalive;

const LAB: &str = env!("CARGO_PKG_NAME");
/// The lecture's server.
const DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7777);
const EXAMPLES: &str = "\
Examples:
  cargo lab22                                 play all experiments
  cargo lab22 demo missed --pause             one of them, for the projector
  cargo lab22 server                          terminal 1: 127.0.0.1:7777
  cargo lab22 server --journal FILE           what is confirmed survives the
                                              server
  cargo lab22 client --name ann               terminal 2: type; Ctrl-D ends it
  cargo lab22 client --publish 'Hello'        put a message on the board
  printf '10:6:0:nobody' | nc 127.0.0.1 7777  any program can be told

On the wire, each way, LENGTH:BODY and a newline (not needed by the receiver).
Requests as in lab17: 1:TEXT publish, 2:N ids of the last N, 3:ID get, 4:N the
last N, 5:REQUEST-ID:TEXT publish once. New: 6:MARK:NAME tell me what is newer
than message MARK, 7:ID I have all up to this one. Answers begin with 0: done,
1: bad format (or an answer over 1 MiB), 2: not found, 3: unknown request.
Unasked: 6:ID:TIME:ADDRESS:PORT:TEXT somebody has published this, 8: a newer
connection has your name.";

#[derive(Parser)]
#[command(version, about = "A live message board: what others publish arrives unasked", after_help = EXAMPLES)]
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
    /// Terminal 1: the board; tells all clients what one of them publishes
    Server(ServerArgs),
    /// Terminals 2, 3 ...: publishes what you type, shows what others publish
    Client(ClientArgs),
}

#[derive(Args)]
struct ServerArgs {
    /// Where to listen: PORT, ADDRESS or ADDRESS:PORT; port 0 lets the kernel choose [default: 127.0.0.1:7777]
    #[arg(num_args = 0..=2)]
    address: Vec<Place>,
    /// Keep the messages in this file, each before it is confirmed
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// Drop a client that has read nothing for so long although something waits for it
    #[arg(long, default_value_t = 30, value_name = "SECONDS", value_parser = value_parser!(u16).range(1..))]
    patience: u16,
    /// Probe an idle connection: seconds until the first probe, seconds between probes, probes without an answer; 0: never
    #[arg(long, value_name = "IDLE,INTERVAL,COUNT", default_value = "60,10,3", value_parser = Keepalive::parse)]
    keepalive: Keepalive,
    /// Wait for Enter before each socket call
    #[arg(long)]
    pause: bool,
}

#[derive(Args)]
struct ClientArgs {
    /// The server: PORT, ADDRESS, NAME or ADDRESS:PORT; port and address in any order [default: 127.0.0.1:7777]
    #[arg(num_args = 0..=2)]
    address: Vec<Place>,
    /// Your name on the board: under it you are told what you missed [default: client-PID-NUMBER]
    #[arg(long, value_parser = name)]
    name: Option<String>,
    /// Publish this text, show what is on the board, and end
    #[arg(long, value_name = "TEXT")]
    publish: Option<String>,
    /// As the server's: when to ask whether the server is still there
    #[arg(long, value_name = "IDLE,INTERVAL,COUNT", default_value = "60,10,3", value_parser = Keepalive::parse)]
    keepalive: Keepalive,
    /// Wait for Enter before each socket call
    #[arg(long)]
    pause: bool,
}

fn name(text: &str) -> Result<String, String> {
    match wire::is_name(text) {
        true => Ok(text.into()),
        false => Err(format!("a name has 1 to {} bytes, and no control characters", wire::NAME_LIMIT)),
    }
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
