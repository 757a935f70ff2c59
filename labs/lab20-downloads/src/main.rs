//! Four files over HTTP, one after another or at once: when do threads help?
//!
//! Terminal 1:     cargo run -p lab20-downloads -- files                      four files, three seconds each
//!            or:  cargo run -p lab20-downloads -- files --link               the same pace for all of them together
//!            or:  cargo run -p lab20-downloads -- files --break 2            the connection of file 2 breaks halfway
//! Terminal 2:     cargo run -p lab20-downloads -- fetch                      one after another
//!                 cargo run -p lab20-downloads -- fetch --threads 4          all at once
//!                 cargo run -p lab20-downloads -- fetch --threads 4 --resume
//! Watch:          scripts/states.sh 8020 --watch
//! Experiments:    cargo run -p lab20-downloads
//!
//! Compare with lab18-threads (waits that overlap) and lab13-echo-pool (threads behind a queue, at the server).
//! Source: notes ch.4, Simple example, figures 4.1 and 4.2; notes ch.3, What is multitasking?
//! Read: RFC 9110 14 (Range), RFC 9112 9.3 (connections that are kept), RFC 9530 (Repr-Digest), sched_setaffinity(2).
//!
//! HTTP is not what this lab teaches: ureq is the client, httparse reads the requests of the server.

mod connection;
mod content;
mod download;
mod experiments;
mod fetch;
mod files;
mod job;
mod manager;
mod pace;
mod range;
mod request;
mod sending;
mod shown;
mod timeline;
mod url;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::{Args, Parser, Subcommand, value_parser};
use shared::{DemoArgs, SheetArgs, address};

use crate::url::Url;

const LAB: &str = env!("CARGO_PKG_NAME");
const EXAMPLES: &str = "\
Examples:
  cargo lab20                          play all experiments
  cargo lab20 demo one-link --pause    one of them, for the projector
  cargo lab20 files                    terminal 1: 127.0.0.1:8020, 3 s for each
                                       file
  cargo lab20 files --link             terminal 1: 3 s for each file, on one
                                       link
  cargo lab20 files --break 2          terminal 1: file 2 breaks halfway, once
  cargo lab20 fetch                    terminal 2: the four files in a row
  cargo lab20 fetch --threads 4        terminal 2: at once
  cargo lab20 fetch --threads 4 --resume
  cargo lab20 fetch http://127.0.0.1:8000/README.md --to /tmp/here
  curl -O http://127.0.0.1:8020/1.bin  any HTTP client and server will do";

#[derive(Parser)]
#[command(version, about = "Files over HTTP, one after another or at once", after_help = EXAMPLES)]
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
    /// Terminal 1: serve files of a chosen size and pace over HTTP
    Files(FilesArgs),
    /// Terminal 2: get files, one after another or at once
    Fetch(FetchArgs),
}

#[derive(Args)]
struct FilesArgs {
    /// Where to listen: PORT, ADDRESS or ADDRESS:PORT; port 0 lets the kernel choose
    #[arg(default_value = "127.0.0.1:8020", value_parser = address("127.0.0.1:8020"))]
    address: SocketAddr,
    /// How many files: 1.bin, 2.bin and so on
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = value_parser!(u16).range(1..=1000))]
    count: u16,
    /// The size of each, in bytes
    #[arg(long, default_value_t = 300_000, value_name = "BYTES", value_parser = value_parser!(u64).range(..=100_000_000))]
    size: u64,
    /// How long each file takes on its way; 0: as fast as it goes
    #[arg(long, default_value = "3", value_name = "SECONDS", value_parser = seconds)]
    seconds: Duration,
    /// The pace is that of one link, which all files share
    #[arg(long)]
    link: bool,
    /// Files that are served at the same time; whoever asks for one more waits
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = value_parser!(u16).range(1..=256))]
    workers: u16,
    /// The first connection that brings file N breaks halfway
    #[arg(long = "break", value_name = "N")]
    broken: Option<u16>,
    /// Wait for Enter before each socket call
    #[arg(long)]
    pause: bool,
}

#[derive(Args)]
struct FetchArgs {
    /// What to get [default: http://127.0.0.1:8020/1.bin to 4.bin]
    #[arg(value_name = "URL")]
    urls: Vec<Url>,
    /// How many files to get at the same time; 1: one after another
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = value_parser!(u16).range(1..=256))]
    threads: u16,
    /// Go on where an earlier fetch was broken off, with a Range request; what is whole stays
    #[arg(long)]
    resume: bool,
    /// A connection for each file; without it a connection is kept for the thread's next file
    #[arg(long)]
    close: bool,
    /// The folder for the files [default: lab20-downloads in the folder for temporary files]
    #[arg(long, value_name = "FOLDER")]
    to: Option<PathBuf>,
    /// Give up when no file has got a byte for so long
    #[arg(long, default_value = "30", value_name = "SECONDS", value_parser = seconds)]
    deadline: Duration,
    /// Write the timeline as a picture, too
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Wait for Enter before each thread starts
    #[arg(long)]
    pause: bool,
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
        Some(Command::Files(args)) => files::run(args).map(|()| ExitCode::SUCCESS),
        Some(Command::Fetch(args)) => fetch::run(args),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.0..=86_400.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "not a number of seconds from 0 to 86400".into())
}
