//! What did a program call, what went over the wire because of it, and which states were the two ends in after it?
//!
//! Draw it:      cargo lab00 run -- COMMAND
//! Live board:   cargo lab00 watch 4444
//! Vote:         cargo lab00 vote -- lab06 demo
//! Experiments:  cargo lab00
//!
//! Compare with every other lab: this one is the instrument, they are what it looks at.
//! Source: ours.
//! Read: ptrace(2), packet(7), sock_diag(7), RFC 9293.

mod experiments;
mod run;
mod vote;
mod watch;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use shared::{DemoArgs, SheetArgs};

const LAB: &str = env!("CARGO_PKG_NAME");
const EXAMPLES: &str = "\
Examples:
  cargo lab00                     play all experiments
  cargo lab00 demo --pause        for the projector
  cargo lab00 run -- python3 server.py --and python3 client.py
  cargo lab00 run --slow 500 -- target/debug/lab06-listen demo 3
  cargo lab00 watch               all sockets of this machine, live
  cargo lab00 watch 4444          those of port 4444; ? explains the board
  cargo lab00 watch 4444 --plain | tee log   each change as a line
  nsenter --user --net --preserve-credentials --target PID lab00-scope watch
                                  the sockets of process PID's private network
  cargo lab00 vote -- lab07 demo 1 3
                                  the class predicts first, on one page for all
  cargo lab00 vote --listen 0.0.0.0:8007 --save votes.csv -- lab07 demo
                                  for the room: its phones reach the page

Keys of vote: Enter goes on, k lets the kernel decide now, h shows or hides how
many voted for each answer (hidden until the last vote is over), c shows the
code of the address, r begins again, s skips, q quits, ? shows the keys.
scripts/votes.sh reads votes.csv.";

#[derive(Parser)]
#[command(version, about = "Calls, segments and states of any program, side by side", after_help = EXAMPLES)]
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
    /// Run commands and draw their calls, their segments and their states, step by step
    Run(run::RunArgs),
    /// Show the sockets of these ports live, in the state diagram
    Watch(watch::WatchArgs),
    /// Let the class vote on what a lab's demo asks
    Vote(vote::VoteArgs),
    /// Play what an experiment captures, and print it: for the demo
    #[command(hide = true)]
    Captured { experiment: String, outside: String },
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
        Some(Command::Run(args)) => run::run(args),
        Some(Command::Watch(args)) => watch::run(args),
        Some(Command::Vote(args)) => vote::run(args),
        Some(Command::Captured { experiment, outside }) => {
            experiments::captured(experiment, outside).map(|()| ExitCode::SUCCESS)
        }
    }
}
