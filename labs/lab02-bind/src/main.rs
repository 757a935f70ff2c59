//! bind gives a socket its address: which one does it get, who can reach it there, and who else may have it?
//!
//! Terminal 1:   cargo run -p lab02-bind -- hold              UDP, or: hold --type stream
//! Terminal 2:   cargo run -p lab02-bind -- hold              the same port again
//! Watch:        scripts/states.sh 7777 --watch
//! Experiments:  cargo run -p lab02-bind
//!
//! Compare with lab01-create (the same program without bind) and lab06-listen (what makes a TCP socket visible).
//! Source: lecture notes ch.2, "Binding socket" for UDP and for TCP, "Sending a message inside UDP packet".
//! Read: bind(2), ip(7), socket(7) on SO_REUSEADDR and SO_REUSEPORT, inet_aton(3), RFC 1122 3.2.1.3, RFC 6056.

mod experiments;
mod hold;

use std::{net::SocketAddr, process::ExitCode};

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};
use shared::{DemoArgs, SheetArgs, address};

const LAB: &str = env!("CARGO_PKG_NAME");
const EXAMPLES: &str = "\
Examples:
  cargo lab02                     play all experiments
  cargo lab02 demo 2 --pause      the second one, for the projector
  cargo lab02 hold                a UDP socket on 127.0.0.1:7777, until Enter
  cargo lab02 hold --type stream  the same with TCP: look for it with ss
  cargo lab02 hold 0              let the kernel choose the port
  cargo lab02 hold '[::1]:7777'   IPv6
  cargo lab02 hold --reuse-port   in two terminals: both get the port
  nc -u 127.0.0.1 7777            type a line: it waits in the socket's Recv-Q

hold never reads: what is sent to it stays in the kernel and is gone with it.";

#[derive(Parser)]
#[command(version, about = "What bind does: an address, a port, and who else may have them", after_help = EXAMPLES)]
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
    /// Bind a socket and hold it until Enter
    Hold(HoldArgs),
}

#[derive(Args)]
struct HoldArgs {
    /// What to bind: PORT, ADDRESS or ADDRESS:PORT; port 0 lets the kernel choose
    #[arg(default_value = "127.0.0.1:7777", value_parser = address("127.0.0.1:7777"))]
    address: SocketAddr,
    /// Socket type: stream is TCP, dgram is UDP; tcp and udp are understood, too
    #[arg(long = "type", value_enum, value_name = "TYPE", default_value = "dgram")]
    kind: Kind,
    /// Set SO_REUSEADDR before bind
    #[arg(long)]
    reuse_addr: bool,
    /// Set SO_REUSEPORT before bind
    #[arg(long)]
    reuse_port: bool,
    /// Wait for Enter before each socket call
    #[arg(long)]
    pause: bool,
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
