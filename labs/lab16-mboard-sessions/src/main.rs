//! The message board over UDP sessions: how does a message of any size arrive once and whole?
//!
//! Terminal 1:     cargo run -p lab16-mboard-sessions -- server
//! Terminal 2:     cargo run -p lab16-mboard-sessions -- client --publish 'Hello world!'
//!            or:  cargo run -p lab16-mboard-sessions -- client --window 16 --publish - < FILE
//!            or:  cargo run -p lab16-mboard-sessions -- client              reads all messages
//! Terminal 3:     cargo run -p lab16-mboard-sessions -- relay --drop 10 --delay-ms 20
//! Then in 2:      cargo run -p lab16-mboard-sessions -- client 7779 --publish 'Hello world!'
//! Watch:          scripts/states.sh 7777 --watch
//! Experiments:    cargo run -p lab16-mboard-sessions
//!
//! Compare with lab15-mboard-udp (a request is one datagram), lab04-chunks (numbers, no confirmations) and
//! lab17-mboard-tcp (the kernel does it).
//! Source: lecture notes, chapter 2, "Part 2: Stateful Protocol (Introducing sessions on UDP)".
//! Read: udp(7), recvfrom(2), RFC 9293 3.4 to 3.8, RFC 9000 5.1 and 9 on connection ids.

mod captured;
mod client;
mod experiments;
mod fate;
mod relay;
mod relay_tcp;
mod server;
mod session;
mod udp;

use std::{
    ffi::OsString,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Result, anyhow};
use clap::{Args, CommandFactory, Parser, Subcommand, error::ErrorKind, value_parser};
use shared::{DemoArgs, Place, SheetArgs, destination};

use crate::{fate::Rates, session::Timing};

const LAB: &str = env!("CARGO_PKG_NAME");
/// Where the lecture's server listens.
const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7777);
const RELAY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7779);
/// No pause between two repetitions is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
const EXAMPLES: &str = "\
Examples:
  cargo lab16                             play all experiments
  cargo lab16 demo 2 --pause              the second one, for the projector
  cargo lab16 server                      terminal 1: 127.0.0.1:7777
  cargo lab16 client --publish 'Hello'    terminal 2: one message
  cargo lab16 client --publish - < FILE   a message of any size
  cargo lab16 client --last 1 --out COPY  reads it again, byte for byte
  cargo lab16 relay --drop 10             terminal 3: loses a tenth
  cargo lab16 client 7779 --window 16     through the relay

On the wire, as characters: O:TOKEN:WINDOW asks for a session, S:TOKEN:SESSION
gives one, B:SESSION:NUMBER:BYTES is a block of at most 1024 bytes and L:...
the last one, C:SESSION:NUMBER:NEXT confirms a block and all before NEXT,
E:SESSION ends, X:ID:WHY refuses. The blocks of a request are put together to a
request of the board, such as 1:Hello; its answer comes back in blocks of the
same session.";

#[derive(Parser)]
#[command(version, about = "The message board over UDP sessions", after_help = EXAMPLES)]
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
    /// Terminal 1: the board; a session for each request
    Server(ServerArgs),
    /// Terminal 2: publish a message, or read the board
    Client(ClientArgs),
    /// Between the two: delay, lose, double and reorder datagrams, the same for the same seed
    Relay(RelayArgs),
    /// Capture a connection and a session, and print them: for the experiment `parts`
    #[command(hide = true)]
    Capture,
}

#[derive(Args)]
struct ServerArgs {
    /// PORT, ADDRESS or ADDRESS:PORT to receive on; port 0 lets the kernel choose [default: 127.0.0.1:7777]
    #[arg(num_args = 0..=2)]
    address: Vec<Place>,
    /// Sessions at the same time
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = value_parser!(u16).range(1..=10_000))]
    max_sessions: u16,
    /// The longest request, in bytes
    #[arg(long, default_value_t = 16 << 20, value_name = "BYTES", value_parser = value_parser!(u32).range(1..=1 << 30))]
    max_message: u32,
    /// Bytes that all sessions may hold together
    #[arg(long, default_value_t = 64 << 20, value_name = "BYTES", value_parser = value_parser!(u32).range(1..=1 << 30))]
    max_memory: u32,
    /// Forget a session after so many milliseconds without a datagram of its client
    #[arg(long, default_value_t = 30_000, value_name = "MS", value_parser = value_parser!(u32).range(1..))]
    idle: u32,
    /// Keep the messages in this file as well: a message is confirmed once it is on disk
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    #[command(flatten)]
    repeats: Repeats,
    /// Wait for Enter before each socket call
    #[arg(long)]
    pause: bool,
}

#[derive(Args)]
struct ClientArgs {
    /// The server: PORT, ADDRESS, NAME or ADDRESS:PORT; port and address in any order [default: 127.0.0.1:7777]
    #[arg(num_args = 0..=2)]
    address: Vec<Place>,
    /// Publish this text; - is standard input, read to its end
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    publish: Option<OsString>,
    /// Read only the last N messages [default: all]
    #[arg(long, value_name = "N", conflicts_with = "publish", value_parser = value_parser!(u64).range(1..))]
    last: Option<u64>,
    /// Write the texts that were read to this file, byte for byte
    #[arg(long, value_name = "FILE", conflicts_with = "publish")]
    out: Option<PathBuf>,
    /// Blocks that may be on their way unconfirmed, there and back; 1 as in the lecture
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = value_parser!(u32).range(1..=64))]
    window: u32,
    #[command(flatten)]
    repeats: Repeats,
    /// Wait for Enter before each socket call
    #[arg(long)]
    pause: bool,
}

#[derive(Args)]
struct Repeats {
    /// Repeat what is not confirmed after so many milliseconds, then after twice the time, and so on up to 2 s
    #[arg(long, default_value_t = 200, value_name = "MS", value_parser = value_parser!(u16).range(1..))]
    timeout: u16,
    /// Give up after so many attempts
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = value_parser!(u8).range(1..=100))]
    attempts: u8,
}

impl Repeats {
    fn timing(&self) -> Timing {
        let first = Duration::from_millis(self.timeout.into());
        Timing { first, most: LONGEST_PAUSE.max(first), attempts: self.attempts.into() }
    }
}

#[derive(Args)]
struct RelayArgs {
    /// PORT, ADDRESS or ADDRESS:PORT to receive on; port 0 lets the kernel choose [default: 127.0.0.1:7779]
    #[arg(num_args = 0..=2)]
    address: Vec<Place>,
    /// Where to
    #[arg(long, default_value = "127.0.0.1:7777", value_name = "ADDRESS", value_parser = destination("127.0.0.1:7777"))]
    to: SocketAddr,
    /// How long each datagram takes, there and back
    #[arg(long, default_value_t = 0, value_name = "MS", value_parser = value_parser!(u16).range(..=10_000))]
    delay_ms: u16,
    /// Start of the random series: the same seed and rates, the same fates
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    rates: Rates,
    /// Lose these datagrams towards the server, counted from 1
    #[arg(long, value_name = "N,N", value_delimiter = ',', value_parser = value_parser!(u64).range(1..))]
    lose: Vec<u64>,
    /// Lose these datagrams on the way back
    #[arg(long, value_name = "N,N", value_delimiter = ',', value_parser = value_parser!(u64).range(1..))]
    lose_back: Vec<u64>,
    /// After so many datagrams of a client send on from another port, as a router does that has forgotten it
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
    rebind: Option<u64>,
    /// Relay TCP instead: one connection at a time, its bytes delayed
    #[arg(long, conflicts_with_all = ["drop", "duplicate", "reorder", "lose", "lose_back", "rebind"])]
    tcp: bool,
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
        Some(Command::Client(args)) => client::run(args).map(|()| ExitCode::SUCCESS),
        Some(Command::Relay(args)) if args.rates.sum() > 100 => {
            Cli::command().error(ErrorKind::ValueValidation, "the three rates are more than 100 together").exit()
        }
        Some(Command::Relay(args)) if args.tcp => relay_tcp::run(args).map(|()| ExitCode::SUCCESS),
        Some(Command::Capture) => captured::run().map(|()| ExitCode::SUCCESS),
        Some(Command::Relay(args)) => relay::run(args).map(|()| ExitCode::SUCCESS),
    }
}

/// The one address that these arguments name.
fn place(arguments: &[Place], default: SocketAddr) -> Result<SocketAddr> {
    let addresses = Place::joined(arguments).and_then(|place| place.resolved(default));
    addresses.map_err(|error| anyhow!(error))?.first().copied().ok_or_else(|| anyhow!("the name has no address"))
}
