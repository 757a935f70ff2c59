//! A socket is a descriptor: which number does it get, where does the kernel show it, and what closes it?
//!
//! Terminal 1:     cargo run -p lab01-create -- hold
//! Terminal 2:     cargo run -p lab01-create -- hold --type stream
//! Watch:          scripts/fds.sh PID    and    ls -l /proc/PID/fd    (hold prints its PID)
//! Experiments:    cargo run -p lab01-create
//!
//! Compare with lab02-bind (gives the socket an address) and lab09-shutdown (the other way to end a connection).
//! Source: lecture notes ch.2, "What is a socket?" and "Creating socket", for UDP and for TCP.
//! Read: socket(2), close(2), dup(2), fcntl(2) on FD_CLOEXEC, proc(5) on /proc/PID/fd, RFC 9293 3.3.2 on CLOSED.

mod experiments;
mod hold;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};
use shared::{DemoArgs, SheetArgs};

const LAB: &str = env!("CARGO_PKG_NAME");
const EXAMPLES: &str = "\
Examples:
  cargo lab01                     play all experiments
  cargo lab01 demo 2 --pause      the second one, for the projector
  cargo lab01 hold                a UDP socket, kept for 300 seconds
  cargo lab01 hold --type stream  a TCP socket
  cargo lab01 hold --family unix --seconds 10
  scripts/fds.sh PID              its descriptors, in the next terminal

hold prints its process id and its descriptor, and the commands that show both.
Ctrl-C ends it earlier.";

#[derive(Parser)]
#[command(version, about = "A socket is a descriptor: create it, find it under /proc, close it", after_help = EXAMPLES)]
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
    /// Create a socket, print the process id and the descriptor, wait, close it
    Hold(HoldArgs),
}

#[derive(Args)]
struct HoldArgs {
    /// Address family: IPv4, IPv6, or sockets within this machine
    #[arg(long, value_enum, default_value = "inet")]
    family: Family,
    /// Socket type: stream is TCP, dgram is UDP; tcp and udp are understood, too
    #[arg(long = "type", value_enum, value_name = "TYPE", default_value = "dgram")]
    kind: Kind,
    /// How many seconds to keep the socket; a day at most
    #[arg(long, default_value_t = 300, value_name = "N", value_parser = value_parser!(u64).range(..=86_400))]
    seconds: u64,
    /// Wait for Enter before each socket call
    #[arg(long)]
    pause: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Family {
    Inet,
    Inet6,
    Unix,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    #[value(alias = "tcp")]
    Stream,
    #[value(alias = "udp")]
    Dgram,
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
        Some(Command::Hold(args)) => hold::run(args).map(|()| ExitCode::SUCCESS),
    }
}
