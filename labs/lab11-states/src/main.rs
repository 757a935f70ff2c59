//! The eleven TCP states: which call leads to each of them, what holds it there, and what does the kernel show?
//!
//! Terminal 1:   cargo run -p lab11-states -- hold fin-wait-1           or any other state
//! Terminal 2:   scripts/states.sh PORT --watch                         the port that terminal 1 prints
//!          or:  cargo run -p lab11-states -- tour                      all eleven, one after another
//! Experiments:  cargo run -p lab11-states
//!
//! Compare with lab06-listen (the full accept queue), lab09-shutdown (half-close) and lab10-timewait.
//! Source: notes ch.2, TCP Socket, Figure 2.11.
//! Read: tcp(7) on TCP_DEFER_ACCEPT, TCP_INFO and tcp_fin_timeout, listen(2), shutdown(2), RFC 9293 3.3.2 and 3.6.

mod experiments;
mod hold;
mod log;
mod reach;
mod states;
mod tour;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use kernel::State;
use shared::{DemoArgs, SheetArgs};

const LAB: &str = env!("CARGO_PKG_NAME");
const EXAMPLES: &str = "\
Examples:
  cargo lab11                            play all experiments
  cargo lab11 demo closing --pause       one of them, for the projector
  cargo lab11 tour                       all eleven states, then the diagram
  cargo lab11 hold close-wait            one state for 60 s, to look at
  cargo lab11 hold SYN_RECV --seconds 9  the names of ss and netstat do as well
  scripts/states.sh PORT                 terminal 2: the port that hold prints";

#[derive(Parser)]
#[command(version, about = "All eleven TCP states, each held still and read from the kernel", after_help = EXAMPLES)]
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
    /// Take sockets through all eleven states and draw the way
    Tour(TourArgs),
    /// Keep a socket in one state, so that ss and netstat can look at it
    Hold(HoldArgs),
}

#[derive(Args)]
struct TourArgs {
    /// Wait for Enter before each state, and mark in the diagram where both ends are
    #[arg(long)]
    pause: bool,
}

#[derive(Args)]
struct HoldArgs {
    /// listen, syn-sent, syn-received, established, fin-wait-1, fin-wait-2, close-wait, closing, last-ack, time-wait
    /// or closed; ss's and netstat's names do as well
    #[arg(value_parser = states::named)]
    state: State,
    /// For how long
    #[arg(long, default_value_t = 60, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// The server's port; 0 lets the kernel choose
    #[arg(long, default_value_t = 0)]
    port: u16,
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
        Some(Command::Tour(args)) => tour::run(args)?,
        Some(Command::Hold(args)) => hold::run(args)?,
    }
    Ok(ExitCode::SUCCESS)
}
