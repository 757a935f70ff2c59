//! A datagram arrives whole or not at all: what fits into one, who may send it, and who hears that it was lost?
//!
//! Terminal 1:     cargo run -p lab03-datagram -- receive
//! Terminal 2:     cargo run -p lab03-datagram -- send
//! Watch:          scripts/states.sh 7778 --watch
//! Experiments:    cargo run -p lab03-datagram
//!
//! Compare with lab02-bind (the same first calls, nothing sent) and lab08-stream (send and recv without datagrams).
//! Source: lecture notes ch.2, "UDP packet (datagram)" to "Receiving message".
//! Read: udp(7), send(2), recv(2) on MSG_TRUNC, connect(2), socket(7) on SO_BROADCAST and SO_RCVTIMEO, RFC 768, RFC 1122
//! 4.1.3.3.

mod capture;
mod experiments;
mod receive;
mod send;
mod terminal;

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::{Args, Parser, Subcommand, value_parser};
use shared::{DemoArgs, SheetArgs, address, destination};

const LAB: &str = env!("CARGO_PKG_NAME");
const EXAMPLES: &str = "\
Examples:
  cargo lab03                           play all experiments
  cargo lab03 demo 1 --pause            the first one, for the projector
  cargo lab03 receive                   terminal 1: wait on 127.0.0.1:7778
  cargo lab03 send                      terminal 2: \"Hello world!\" from port
                                        7777
  cargo lab03 send --unbound            the kernel chooses the port
  cargo lab03 receive --buffer 5        too short for \"Hello world!\"
  cargo lab03 send --connect --count 2  with nobody on port 7778: who hears it?
  cargo lab03 send --broadcast 127.255.255.255:7778
                                        to all who are bound to 0.0.0.0:7778
  nc -u 127.0.0.1 7778                  any program that sends UDP is a sender

A payload is shown as text, with control characters and what is not UTF-8
escaped. A datagram carries at most 65507 bytes over IPv4, 65527 over IPv6.";

#[derive(Parser)]
#[command(version, about = "UDP: one datagram at a time, its limits, and who hears that it was lost", after_help = EXAMPLES)]
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
    /// Terminal 2: send a message in one datagram
    Send(SendArgs),
    /// Terminal 1: wait for a datagram and show it
    Receive(ReceiveArgs),
    /// Send one datagram over lo and print it as captured: for the experiment `header`
    #[command(hide = true)]
    Capture {
        /// Port to send from; 0 lets the kernel choose
        from: u16,
        /// Port to send to; 0 lets the kernel choose
        to: u16,
    },
}

#[derive(Args)]
struct SendArgs {
    /// Where to send to: PORT, ADDRESS or ADDRESS:PORT
    #[arg(default_value = "127.0.0.1:7778", value_parser = destination("127.0.0.1:7778"))]
    address: SocketAddr,
    /// The text to send; may be empty
    #[arg(long, value_name = "TEXT", default_value = "Hello world!")]
    message: String,
    /// Address to send from [default: 127.0.0.1:7777, or [::1]:7777 for IPv6]
    #[arg(long, value_name = "ADDRESS", conflicts_with = "unbound", value_parser = address("127.0.0.1:7777"))]
    bind: Option<SocketAddr>,
    /// Do not call bind: the kernel does it with the first datagram
    #[arg(long)]
    unbound: bool,
    /// Call connect first, then send instead of sendto
    #[arg(long)]
    connect: bool,
    /// Set SO_BROADCAST: allows an address such as 127.255.255.255
    #[arg(long)]
    broadcast: bool,
    /// Send it so many times
    #[arg(long, value_name = "N", default_value_t = 1)]
    count: u64,
    /// Wait for Enter before each socket call
    #[arg(long)]
    pause: bool,
}

#[derive(Args)]
struct ReceiveArgs {
    /// Where to receive: PORT, ADDRESS or ADDRESS:PORT; port 0 lets the kernel choose
    #[arg(default_value = "127.0.0.1:7778", value_parser = address("127.0.0.1:7778"))]
    address: SocketAddr,
    /// Set SO_REUSEADDR: others that set it may have the same port
    #[arg(long)]
    reuse_addr: bool,
    /// Length of the receive buffer in bytes, at most 65536
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = value_parser!(u32).range(0..=65536))]
    buffer: u32,
    /// Receive so many datagrams; 0 means until Ctrl-C
    #[arg(long, value_name = "N", default_value_t = 1)]
    count: u64,
    /// Wait at most so long for each datagram; without it, for ever
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,
    /// Wait for Enter before each socket call
    #[arg(long)]
    pause: bool,
}

/// A time in seconds, more than none and at most a day.
fn seconds(text: &str) -> Result<Duration, String> {
    let time = text.parse().ok().and_then(|number| Duration::try_from_secs_f64(number).ok());
    time.filter(|time| (Duration::from_millis(1)..=Duration::from_secs(86_400)).contains(time))
        .ok_or_else(|| "seconds from 0.001 to 86400".into())
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
        Some(Command::Send(args)) => send::run(args).map(|()| ExitCode::SUCCESS),
        Some(Command::Receive(args)) => receive::run(args).map(|()| ExitCode::SUCCESS),
        Some(Command::Capture { from, to }) => capture::run(*from, *to).map(|()| ExitCode::SUCCESS),
    }
}
