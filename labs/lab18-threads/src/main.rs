//! Threads: who runs them, what do they share, and who waits for whom?
//!
//! Terminal 1:   cargo run -p lab18-threads -- hello 4 --stay     four threads with names; Enter ends them
//!          or:  cargo run -p lab18-threads -- lock --speed 5     detached, condition, event: the other demos
//! Watch:        ps -L -o pid,tid,stat,psr,comm -p "$(pgrep -d, lab18)"
//! Experiments:  cargo run -p lab18-threads
//!
//! Compare with lab13-echo-pool (threads behind a queue) and lab14-length-header (a thread for each client).
//! Source: notes ch.3, Threads; one sentence of ch.4, Combining threading and multiprocessing.
//! Read: clone(2), pthreads(7), futex(2), vfork(2), exit_group(2), sched_setaffinity(2), proc_pid_stat(5).

mod condition;
mod detached;
mod event;
mod experiments;
mod hello;
mod lock;
mod log;
mod main_thread;
mod queue;
mod tasks;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::{Args, Parser, Subcommand, value_parser};
use shared::{DemoArgs, SheetArgs};

use crate::main_thread::{Interrupted, MainThread};

const LAB: &str = env!("CARGO_PKG_NAME");
const EXAMPLES: &str = "\
Examples:
  cargo lab18                            play all experiments
  cargo lab18 demo lost-updates --pause  one of them, for the projector
  cargo lab18 hello                      four threads, each with an argument
  cargo lab18 hello 8 --stay             they stay until Enter: look with ps -L
  cargo lab18 hello --named              User, Thread-1 and session: names in a
                                         log
  cargo lab18 detached                   main ends while User1 works
  cargo lab18 detached --join            main waits for User1
  cargo lab18 lock --speed 5             the lecture's times, divided by 5
  cargo lab18 condition
  cargo lab18 event";

#[derive(Parser)]
#[command(version, about = "Threads: names, arguments, detached, lock, condition, event", after_help = EXAMPLES)]
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
    /// Threads with an argument and a name each
    Hello(HelloArgs),
    /// A thread that nobody joins, and one that main joins
    Detached(DetachedArgs),
    /// A counter behind a lock: one thread adds, one subtracts
    Lock(PaceArgs),
    /// A queue with a condition: a consumer waits, a producer notifies
    Condition(PaceArgs),
    /// An event: one thread waits for it, one looks again and again
    Event(PaceArgs),
}

#[derive(Args)]
struct PaceArgs {
    /// Divide the lecture's times by this
    #[arg(long, default_value_t = 1.0, value_name = "N", value_parser = speed)]
    speed: f64,
    /// Wait for Enter before each thread starts and before each join
    #[arg(long)]
    pause: bool,
}

#[derive(Args)]
struct HelloArgs {
    /// How many threads
    #[arg(default_value_t = 4, value_parser = value_parser!(u16).range(1..=1000))]
    threads: u16,
    /// The threads stay until Enter, so that ps -L shows them
    #[arg(long)]
    stay: bool,
    /// Three threads whose names stand in each line of the log
    #[arg(long, conflicts_with_all = ["threads", "stay"])]
    named: bool,
    #[command(flatten)]
    pace: PaceArgs,
}

#[derive(Args)]
struct DetachedArgs {
    /// Main joins User1 before it ends
    #[arg(long)]
    join: bool,
    /// How long User1 works, in seconds; --speed divides it
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS", value_parser = seconds)]
    seconds: f64,
    /// What User1 writes at the end of its work
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    pace: PaceArgs,
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
        Some(Command::Hello(args)) => role(&args.pace, |main| hello::run(args, main)),
        Some(Command::Detached(args)) => role(&args.pace, |main| detached::run(args, main)),
        Some(Command::Lock(args)) => role(args, |main| lock::run(args, main)),
        Some(Command::Condition(args)) => role(args, |main| condition::run(args, main)),
        Some(Command::Event(args)) => role(args, |main| event::run(args, main)),
    }
}

/// Plays a role in the main thread. Ctrl-C ends it, and with the process all other threads.
fn role(args: &PaceArgs, body: impl FnOnce(&mut MainThread) -> Result<()>) -> Result<ExitCode> {
    let mut main = MainThread::new(args.pause)?;
    match body(&mut main) {
        Err(error) if error.is::<Interrupted>() => Ok(ExitCode::SUCCESS),
        ended => ended.map(|()| ExitCode::SUCCESS),
    }
}

impl PaceArgs {
    /// One of the lecture's times, at this speed.
    fn seconds(&self, seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds / self.speed)
    }
}

fn speed(text: &str) -> Result<f64, String> {
    let speed = text.parse().ok().filter(|speed| (0.01..=1000.0).contains(speed));
    speed.ok_or_else(|| "not a number from 0.01 to 1000".into())
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.0..=86_400.0).contains(seconds));
    seconds.ok_or_else(|| "not a number of seconds from 0 to 86400".into())
}
