//! A big message in many datagrams: when is it all there, and is it what was sent?
//!
//! Terminal 1:     cargo run -p lab04-chunks -- receive
//! Terminal 2:     cargo run -p lab04-chunks -- send
//! In between:     cargo run -p lab04-chunks -- relay --seed 7 --drop 5      and send --to 127.0.0.1:7779
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
mod receive;
mod receive_numbered;
mod relay;
mod send;
mod udp;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Result;
use clap::{Args, CommandFactory, Parser, Subcommand, error::ErrorKind, value_parser};
use shared::{DemoArgs, SheetArgs, destination};

use crate::fate::Rates;

const LAB: &str = env!("CARGO_PKG_NAME");
const EXAMPLES: &str = "\
Examples:
  lab04-chunks                             play all experiments
  lab04-chunks demo 2 --pause              the second one, for the projector
  lab04-chunks receive                     terminal 1: one message on 127.0.0.1:7778
  lab04-chunks send                        terminal 2: the lecture's 84001 bytes
  lab04-chunks send --port 0 --gap 20 F    a second sender: file F, slowly
  lab04-chunks relay --lose 41             terminal 3: loses the 41st datagram
  lab04-chunks send --to 127.0.0.1:7779    through the relay
  lab04-chunks receive --numbered          numbers in each block, also for send
  nc -u 127.0.0.1 7778                     any program that sends datagrams

A block is at most 1024 bytes. Without --numbered the message ends with the block
that ends with \\n: `send` adds one if the message has none at its end. With
--numbered each block starts with 16 bytes, all numbers big-endian: \"NBLK\", the
message's number, the block's number from 0, the length of the whole message;
1008 bytes of the message follow. A message holds at most 16777216 bytes, its
newline counted. A datagram of more than 1024 bytes is cut by the receiver, as in
the lecture.";

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
    /// Port to receive on; 0 lets the kernel choose
    #[arg(default_value_t = 7778)]
    port: u16,
    /// Address to receive on; 0.0.0.0 or :: for all
    #[arg(long, default_value = "127.0.0.1")]
    bind: IpAddr,
    /// Blocks carry their number: put them in order, drop doubles, name what is missing
    #[arg(long)]
    numbered: bool,
    /// Messages to receive before it ends
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    messages: u32,
    /// Set SO_RCVBUF: bytes for datagrams that wait (the kernel doubles it for its own overhead)
    #[arg(long, value_name = "BYTES")]
    rcvbuf: Option<u32>,
    /// Write what was received to this file as well, byte for byte
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
    /// Where to
    #[arg(long, default_value = "127.0.0.1:7778", value_name = "ADDRESS", value_parser = destination("127.0.0.1:7778"))]
    to: SocketAddr,
    /// Port to send from; 0 lets the kernel choose, as a second sender needs it
    #[arg(long, default_value_t = 7777)]
    port: u16,
    /// Address to send from
    #[arg(long, default_value = "127.0.0.1")]
    bind: IpAddr,
    /// Put number and total length at the start of each block
    #[arg(long)]
    numbered: bool,
    /// Send the whole message so many times, half a second apart: with --numbered a later copy fills the holes
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    copies: u32,
    /// Wait so long after each block
    #[arg(long, default_value_t = 0, value_name = "MS")]
    gap: u16,
    /// Wait for Enter before each socket call
    #[arg(long)]
    pause: bool,
}

#[derive(Args)]
struct RelayArgs {
    /// Port to receive on; 0 lets the kernel choose
    #[arg(default_value_t = 7779)]
    port: u16,
    /// Address to receive on and to send from
    #[arg(long, default_value = "127.0.0.1")]
    bind: IpAddr,
    /// Where to
    #[arg(long, default_value = "127.0.0.1:7778", value_name = "ADDRESS", value_parser = destination("127.0.0.1:7778"))]
    to: SocketAddr,
    /// Start of the random series: the same seed and rates, the same fates
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    rates: Rates,
    /// How long a delayed datagram, and all behind it, waits
    #[arg(long, default_value_t = 20, value_name = "MS")]
    delay_ms: u16,
    /// Lose exactly these, counted from 1, whatever the rates say
    #[arg(long, value_name = "N,N", value_delimiter = ',', value_parser = value_parser!(u64).range(1..))]
    lose: Vec<u64>,
    /// Wait for Enter before each socket call
    #[arg(long)]
    pause: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
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
