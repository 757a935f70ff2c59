//! listen, accept and connect: what stands between a client and the program it wants to reach?
//!
//! Terminal 1:   cargo lab06 listen       listens and never accepts
//!          or:  cargo lab06 server       listens and accepts one client
//! Terminal 2:   cargo lab06 client
//! Watch:        scripts/backlog.sh 7777 --watch
//! Experiments:  cargo lab06
//!
//! Compare with lab02-bind (a port without a listener) and lab07-multiclient (many connections in one loop).
//! Source: notes ch.2, Listening, Accepting connections, Connecting; user manual, step 6.
//! Read: listen(2), accept(2), connect(2), tcp(7) on tcp_abort_on_overflow and tcp_syn_retries, RFC 9293 3.5 and 3.9.1.

mod client;
mod experiments;
mod listen;
mod server;

use std::{net::SocketAddr, process::ExitCode};

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use shared::{DemoArgs, SheetArgs, address, destination};

const LAB: &str = env!("CARGO_PKG_NAME");
const EXAMPLES: &str = "\
Examples:
  cargo lab06                       play all experiments
  cargo lab06 demo backlog --pause  one of them, for the projector
  cargo lab06 listen                terminal 1: 127.0.0.1:7777, nobody accepts
  cargo lab06 listen --backlog 5    room for more in the accept queue
  cargo lab06 server                terminal 1: accepts one client
  cargo lab06 client                terminal 2: connects
  nc 127.0.0.1 7777                 any program that connects is a client";

#[derive(Parser)]
#[command(version, about = "listen, accept and connect: the accept queue between them", after_help = EXAMPLES)]
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
    /// Terminal 1: listen and never accept
    Listen(ListenArgs),
    /// Terminal 1: listen and accept one client
    Server(ListenArgs),
    /// Terminal 2: connect
    Client(ClientArgs),
}

#[derive(Args)]
struct ListenArgs {
    /// Where to listen: PORT, ADDRESS or ADDRESS:PORT; port 0 lets the kernel choose
    #[arg(default_value = "127.0.0.1:7777", value_parser = address("127.0.0.1:7777"))]
    address: SocketAddr,
    /// Limit of the accept queue; the lecture's 0
    #[arg(long, default_value_t = 0, value_name = "N", allow_negative_numbers = true)]
    backlog: i32,
    /// Wait for Enter before each socket call
    #[arg(long)]
    pause: bool,
}

#[derive(Args)]
struct ClientArgs {
    /// The server: PORT, ADDRESS or ADDRESS:PORT
    #[arg(default_value = "127.0.0.1:7777", value_parser = destination("127.0.0.1:7777"))]
    address: SocketAddr,
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
        None => return shared::play(&experiments::LESSON, &cli.demo),
        Some(Command::Demo(args)) => return shared::play(&experiments::LESSON, args),
        Some(Command::Sheet(args)) => return shared::sheet(include_str!("../README.md"), args),
        Some(Command::Listen(args)) => listen::run(args)?,
        Some(Command::Server(args)) => server::run(args)?,
        Some(Command::Client(args)) => client::run(args)?,
    }
    Ok(ExitCode::SUCCESS)
}
