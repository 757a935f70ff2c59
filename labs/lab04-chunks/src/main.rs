//! A big message in many datagrams: how does the receiver know the end, and is the message the one that was sent?
//!
//! Terminal 1:     cargo run -p lab04-chunks -- receive
//! Terminal 2:     cargo run -p lab04-chunks -- send
//! Terminal 3:     cargo run -p lab04-chunks -- relay --seed 7 --drop 5
//! Then in 2:      cargo run -p lab04-chunks -- send --to 7779
//! Watch:          scripts/states.sh 7778 --watch
//! Experiments:    cargo run -p lab04-chunks
//! Measure:        cargo bench -p lab04-chunks
//!
//! Compare with lab03-datagram (one datagram) and lab08-stream (the same message over TCP).
//! Source: lecture notes, chapter 2, "Dealing with Big Amount of Data" and "Ensuring Packet Arrival Order".
//! Read: udp(7), recv(2), send(2), socket(7) on SO_RCVBUF and SO_RXQ_OVFL, RFC 768.

mod experiments;
mod fate;
mod input;
mod message;
mod numbered;
mod output;
mod receive;
mod receive_numbered;
mod relay;
mod send;
mod udp;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Result;
use clap::{Args, CommandFactory, Parser, Subcommand, error::ErrorKind, value_parser};
use shared::{DemoArgs, Place, SheetArgs, destination};

use crate::fate::Rates;

const LAB: &str = env!("CARGO_PKG_NAME");
const EXAMPLES: &str = "\
Examples:
  cargo lab04                            play all experiments
  cargo lab04 demo 2 --pause             the second one, for the projector
  cargo lab04 receive                    terminal 1: one message on
                                         127.0.0.1:7778
  cargo lab04 send                       terminal 2: the lecture's 84001 bytes
  cargo lab04 send --port 0 --gap 500 F  a second sender: file F, slowly
  cargo lab04 relay --lose 41            terminal 3: loses datagram 41
  cargo lab04 send --to 7779             through the relay
  cargo lab04 receive --numbered         numbers in each block, also for send
  nc -u 127.0.0.1 7778                   any program that sends datagrams

A block is at most 1024 bytes. Without --numbered the message ends with the
block that ends with \\n: `send` adds one if the message has none at its end.
With --numbered each block starts with 16 bytes, all numbers big-endian:
\"NBLK\", the message's number, the block's number from 1, the length of the
whole message; 1008 bytes of the message follow. A message holds at most
16777216 bytes, its newline counted. The receiver cuts a datagram of more than
1024 bytes, as in the lecture. ADDRESS is PORT, ADDRESS or ADDRESS:PORT, such
as 7778 or [::1]:7778.";

#[derive(Parser)]
#[command(version, about = "A big message in many datagrams", after_help = EXAMPLES)]
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
    /// Terminal 1: receive a message block by block
    Receive(ReceiveArgs),
    /// Terminal 2: send a message in blocks of 1024 bytes
    Send(SendArgs),
    /// Between the two: lose, double, swap and delay datagrams, the same for the same seed
    Relay(RelayArgs),
}

#[derive(Args)]
struct ReceiveArgs {
    /// Where to receive; port 0 lets the kernel choose [default: 127.0.0.1:7778]
    address: Option<Place>,
    /// Address to receive on; 0.0.0.0 or :: for all
    #[arg(long, value_name = "ADDRESS")]
    bind: Option<Place>,
    /// Blocks carry their number: put them in order, drop doubles, name the missing ones
    #[arg(long)]
    numbered: bool,
    /// Messages to receive before it ends
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    messages: u32,
    /// Set SO_RCVBUF: bytes for waiting datagrams (the kernel doubles the number for its own overhead)
    #[arg(long, value_name = "BYTES")]
    rcvbuf: Option<u32>,
    /// Write each message to this file as well, byte for byte
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Wait for Enter before each socket call
    #[arg(long)]
    pause: bool,
}

#[derive(Args)]
struct SendArgs {
    /// What to send; - is standard input, read to its end [default: the lecture's 84001 bytes]
    file: Option<PathBuf>,
    /// Where to send: PORT, ADDRESS or ADDRESS:PORT
    #[arg(long, default_value = "127.0.0.1:7778", value_name = "ADDRESS", value_parser = destination("127.0.0.1:7778"))]
    to: SocketAddr,
    /// Port to send from; a second sender needs another one: 0 lets the kernel choose [default: 7777]
    #[arg(long)]
    port: Option<u16>,
    /// Address to send from [default: 127.0.0.1, or ::1 for IPv6]
    #[arg(long, value_name = "ADDRESS")]
    bind: Option<Place>,
    /// Put number and total length at the start of each block
    #[arg(long)]
    numbered: bool,
    /// Send the whole message N times, half a second apart: with --numbered a later copy fills the holes
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    copies: u32,
    /// Wait after each block
    #[arg(long, default_value_t = 0, value_name = "MS")]
    gap: u16,
    /// Wait for Enter before each socket call
    #[arg(long)]
    pause: bool,
}

#[derive(Args)]
struct RelayArgs {
    /// Where to receive, and to send from; port 0 lets the kernel choose [default: 127.0.0.1:7779, or [::1]:7779]
    address: Option<Place>,
    /// Address to receive on and to send from
    #[arg(long, value_name = "ADDRESS")]
    bind: Option<Place>,
    /// Where to send: PORT, ADDRESS or ADDRESS:PORT
    #[arg(long, default_value = "127.0.0.1:7778", value_name = "ADDRESS", value_parser = destination("127.0.0.1:7778"))]
    to: SocketAddr,
    /// Start of the random series: the same seed and rates, the same fates
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    rates: Rates,
    /// How long a delayed datagram waits, and all behind it
    #[arg(long, default_value_t = 20, value_name = "MS")]
    delay_ms: u16,
    /// Lose these datagrams, counted from 1 as blocks are, whatever the rates say
    #[arg(long, value_name = "N,N", value_delimiter = ',', value_parser = value_parser!(u64).range(1..))]
    lose: Vec<u64>,
    /// Wait for Enter before each socket call
    #[arg(long)]
    pause: bool,
}

impl ReceiveArgs {
    fn addr(&self) -> SocketAddr {
        bind_addr([self.address.as_ref(), self.bind.as_ref()], 7778, None)
    }
}

impl SendArgs {
    fn addr(&self) -> SocketAddr {
        let port = self.port.map(|port| Place { host: None, port: Some(port) });
        bind_addr([port.as_ref(), self.bind.as_ref()], 7777, Some(self.to))
    }
}

impl RelayArgs {
    fn addr(&self) -> SocketAddr {
        bind_addr([self.address.as_ref(), self.bind.as_ref()], 7779, Some(self.to))
    }
}

/// The address that two arguments name together, of the same family as `to`. By default it is this machine's own.
fn bind_addr(places: [Option<&Place>; 2], port: u16, to: Option<SocketAddr>) -> SocketAddr {
    let loopback = match to {
        Some(SocketAddr::V6(_)) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        _ => IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    let named: Vec<Place> = places.into_iter().flatten().cloned().collect();
    let found = Place::joined(&named).and_then(|place| place.resolved(SocketAddr::new(loopback, port)));
    let fits = |addr: &SocketAddr| to.is_none_or(|to| to.is_ipv4() == addr.is_ipv4());
    let fitting = found.and_then(|addrs| {
        addrs.into_iter().find(fits).ok_or_else(|| "this address and --to: one is IPv4, the other IPv6".into())
    });
    fitting.unwrap_or_else(|problem| Cli::command().error(ErrorKind::ValueValidation, problem).exit())
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
        Some(Command::Receive(args)) if args.numbered => receive_numbered::run(args).map(|()| ExitCode::SUCCESS),
        Some(Command::Receive(args)) => receive::run(args).map(|()| ExitCode::SUCCESS),
        Some(Command::Send(args)) => send::run(args).map(|()| ExitCode::SUCCESS),
        Some(Command::Relay(args)) if args.rates.sum() > 100 => {
            Cli::command().error(ErrorKind::ValueValidation, "the four rates are more than 100 together").exit()
        }
        Some(Command::Relay(args)) => relay::run(args).map(|()| ExitCode::SUCCESS),
    }
}
