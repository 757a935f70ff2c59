//! A message board over UDP: what does an answer confirm, and what does silence mean?
//!
//! Terminal 1:     cargo run -p lab15-mboard-udp -- server
//!            or:  cargo run -p lab15-mboard-udp -- server --lose 1        as if the network lost the first answer
//! Terminal 2:     cargo run -p lab15-mboard-udp -- client --publish 'Hello world!'
//!                 cargo run -p lab15-mboard-udp -- client                 all messages
//! Watch:          scripts/states.sh 7777 --watch
//! Experiments:    cargo run -p lab15-mboard-udp
//!
//! Compare with lab03-datagram (one datagram, nobody answers) and lab17-mboard-tcp (the same board over TCP).
//! Source: notes ch.2, "Programming Application layer protocol on top of UDP", Part 1.
//! Read: udp(7), recv(2) on recvfrom, connect(2) on datagram sockets, RFC 768, RFC 8085 3.1.2 on retransmission.

mod client;
mod experiments;
mod server;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Result, anyhow};
use clap::{Args, Parser, Subcommand, value_parser};
use shared::{DemoArgs, Place, SheetArgs};

const LAB: &str = env!("CARGO_PKG_NAME");
/// The lecture's server.
const DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7777);
/// The longest payload of a datagram over IPv4: 65,535 less 20 bytes of IP header and 8 of UDP header.
const DATAGRAM: usize = 65_507;
/// The longest text that can always be read back: an answer may begin with 69 bytes of code, time and author.
const TEXT_LIMIT: u32 = 65_438;
const EXAMPLES: &str = "\
Examples:
  cargo lab15                            play all experiments
  cargo lab15 demo lost-reply --pause    one of them, for the projector
  cargo lab15 server                     terminal 1: 127.0.0.1:7777
  cargo lab15 server --journal FILE      what is confirmed survives the server
  cargo lab15 client                     terminal 2: all messages
  cargo lab15 client --publish 'Hello'   put a message on the board
  date | cargo lab15 client --publish -  the message comes from standard input
  cargo lab15 client 127.0.0.1 --last 3  the three newest

On the wire: requests 1:TEXT publish, 2:N ids of the last N (0: all), 3:ID get,
5:REQUEST-ID:TEXT publish once. Answers begin with 0: done, 1: bad format,
2: not found, 3: unknown request.";

#[derive(Parser)]
#[command(version, about = "A message board over UDP, a datagram for each request", after_help = EXAMPLES)]
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
    /// Terminal 1: the board; answers each datagram with a datagram
    Server(ServerArgs),
    /// Terminal 2: publish a message, or read the last ones
    Client(ClientArgs),
}

#[derive(Args)]
struct ServerArgs {
    /// PORT, ADDRESS or ADDRESS:PORT to receive on; port 0 lets the kernel choose [default: 127.0.0.1:7777]
    #[arg(num_args = 0..=2)]
    address: Vec<Place>,
    /// Keep the messages in this file; a message is confirmed once it is on disk
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// Throw the first N answers away, as if the network had lost them
    #[arg(long, value_name = "N", default_value_t = 0)]
    lose: u64,
    /// Wait for Enter before each socket call
    #[arg(long)]
    pause: bool,
}

#[derive(Args)]
struct ClientArgs {
    /// The server: PORT, ADDRESS, NAME or ADDRESS:PORT; port and address in any order [default: 127.0.0.1:7777]
    #[arg(num_args = 0..=2)]
    address: Vec<Place>,
    /// Publish this text; - reads it from standard input
    #[arg(long, value_name = "TEXT")]
    publish: Option<String>,
    /// Publish with a request id: asked twice, it is done once
    #[arg(long, requires = "publish")]
    once: bool,
    /// The longest text, in bytes; the rest is cut off
    #[arg(long, value_name = "BYTES", default_value_t = TEXT_LIMIT, requires = "publish", value_parser = value_parser!(u32).range(1..=65_535))]
    limit: u32,
    /// Read the last N messages instead of all
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "publish")]
    last: u64,
    /// How long to wait for an answer
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    timeout: Duration,
    /// How often to ask again if no answer comes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = value_parser!(u8).range(0..=100))]
    retries: u8,
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

/// A time as `--timeout` takes it.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.01..=3600.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "not a number of seconds from 0.01 to 3600".into())
}
