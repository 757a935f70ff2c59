//! A stream has no messages: what do send and recv count, and who ends a message?
//!
//! Terminal 1:     cargo run -p lab08-stream -- receive
//! Terminal 2:     cargo run -p lab08-stream -- send
//! Watch:          scripts/states.sh 7777 --watch
//! Experiments:    cargo run -p lab08-stream
//! Throughput:     cargo bench -p lab08-stream
//!
//! Compare with lab04-chunks (the same big message in datagrams) and lab06-listen (the calls before the first send).
//! Source: notes ch.2, "TCP packet/header" to "Ensuring Packet Arrival Order".
//! Read: send(2), recv(2), tcp(7), RFC 793 2.6 (what an acknowledgement says), RFC 9293 3.1 (the header).

mod blocks;
mod bulk;
mod captured;
mod connection;
mod experiments;
mod receive;
mod segment;
mod send;
mod text;

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::{Args, CommandFactory, Parser, Subcommand, error::ErrorKind, value_parser};
use shared::{DemoArgs, SheetArgs, address, destination};

use crate::captured::Scene;

const LAB: &str = env!("CARGO_PKG_NAME");
const EXAMPLES: &str = "\
Examples:
  cargo lab08                              play all experiments
  cargo lab08 demo 1 --pause               the first one, for the projector
  cargo lab08 receive                      terminal 1: wait on 127.0.0.1:7777
  cargo lab08 send                         terminal 2: 84001 bytes with newline
  cargo lab08 receive --once               a single recv(1024)
  cargo lab08 send --message 'Hello World!'
  cargo lab08 send --no-terminator         then Enter: the end of the stream
  cargo lab08 send --block 1000            in sends of 1000 bytes
  printf 'one\\ntwo\\n' | nc 127.0.0.1 7777  any program that sends is a sender

A message is shown by its first and last letters, control characters escaped.
receive keeps at most 64 MiB, send makes at most 256 MiB.";

#[derive(Parser)]
#[command(version, about = "TCP send and receive: a big message, and a stream that has no messages", after_help = EXAMPLES)]
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
    /// Terminal 2: send a big message
    Send(SendArgs),
    /// Terminal 1: receive until the terminator
    Receive(ReceiveArgs),
    /// Play a scene and print its captured segments: for the experiments `in-order`, `nagle` and `header`
    #[command(hide = true)]
    Capture {
        /// Which scene
        scene: Scene,
    },
    /// Receive as fast as possible: for the bench
    #[command(hide = true)]
    Sink(SinkArgs),
    /// Send as fast as possible: for the bench
    #[command(hide = true)]
    Source(SourceArgs),
}

#[derive(Args)]
struct SendArgs {
    /// The receiver: PORT, ADDRESS or ADDRESS:PORT
    #[arg(default_value = "127.0.0.1:7777", value_parser = destination("127.0.0.1:7777"))]
    address: SocketAddr,
    /// The text of the message [default: "Hello world!"]
    #[arg(long, value_name = "TEXT")]
    message: Option<String>,
    /// Repeat the text so many times [default: 7000, or 1 with --message]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(0..=1_000_000))]
    times: Option<u32>,
    /// Leave out the newline at the end
    #[arg(long)]
    no_terminator: bool,
    /// Give each send at most so many bytes; without it, all there is
    #[arg(long, value_name = "BYTES", value_parser = value_parser!(u32).range(1..))]
    block: Option<u32>,
    /// Wait for Enter before each socket call
    #[arg(long)]
    pause: bool,
}

#[derive(Args)]
struct ReceiveArgs {
    /// Where to listen: PORT, ADDRESS or ADDRESS:PORT; port 0 lets the kernel choose
    #[arg(default_value = "127.0.0.1:7777", value_parser = address("127.0.0.1:7777"))]
    address: SocketAddr,
    /// Length of the receive buffer in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1024, value_parser = value_parser!(u32).range(1..=1_048_576))]
    buffer: u32,
    /// Call recv once and take that for the message
    #[arg(long)]
    once: bool,
    /// Receive until the end of the stream, whatever the bytes are
    #[arg(long, conflicts_with = "once")]
    until_end: bool,
    /// Wait for Enter before each socket call
    #[arg(long)]
    pause: bool,
}

#[derive(Args)]
struct SinkArgs {
    /// Bytes offered to each call
    #[arg(value_parser = value_parser!(u32).range(1..=16_777_216))]
    block: u32,
    /// Fill the whole block before recv returns (MSG_WAITALL)
    #[arg(long)]
    whole: bool,
}

#[derive(Args)]
struct SourceArgs {
    address: SocketAddr,
    #[arg(value_parser = value_parser!(u32).range(1..=16_777_216))]
    block: u32,
    #[arg(value_parser = value_parser!(u16).range(1..=60))]
    seconds: u16,
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
        Some(Command::Send(args)) => {
            if send::length(args).is_none() {
                let most =
                    format!("a message of more than {} bytes: this program sends no longer one", send::MESSAGE_LIMIT);
                Cli::command().error(ErrorKind::ValueValidation, most).exit();
            }
            send::run(args)?;
        }
        Some(Command::Receive(args)) => receive::run(args)?,
        Some(Command::Capture { scene }) => captured::run(*scene)?,
        Some(Command::Sink(args)) => bulk::sink(args.block as usize, args.whole)?,
        Some(Command::Source(args)) => {
            bulk::source(args.address, args.block as usize, Duration::from_secs(args.seconds.into()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
