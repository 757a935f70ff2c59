//! An echo server, and then one with a pool of threads: who waits where, and who sees it?
//!
//! Terminal 1:   cargo run -p lab13-echo-pool -- server-single              one connection at a time
//!          or:  cargo run -p lab13-echo-pool -- server-multi 8080 10 10    ten threads, a queue of ten
//! Terminal 2:   cargo run -p lab13-echo-pool -- client                     asks for a string, shows its echo
//!          or:  cargo run -p lab13-echo-pool -- load --clients 64 --seconds 10
//! Watch:        scripts/backlog.sh 8080 --watch
//! Experiments:  cargo run -p lab13-echo-pool
//!
//! Compare with lab07-multiclient (many clients, one thread) and lab14-length-header (a thread for each client).
//! Source: user manual, "Server Client Implementation Using TCP Protocol", steps 6 and 7.
//! Read: listen(2), accept(2), pthread_cond_wait(3p), pthread_attr_setstacksize(3), tcp(7).

mod client;
mod echo;
mod experiments;
mod load;
mod multi;
mod queue;
mod single;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Result, anyhow};
use clap::{Args, Parser, Subcommand, value_parser};
use shared::{DemoArgs, Place, SheetArgs, at_least_one};

const LAB: &str = env!("CARGO_PKG_NAME");
/// The manual's port.
const DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
/// The longest request of a load: it fits into the buffers of both ends.
const MOST_BYTES: i64 = 65_536;
const EXAMPLES: &str = "\
Examples:
  cargo lab13                            play all experiments
  cargo lab13 demo three-queues --pause  one of them, for the projector
  cargo lab13 server-single              terminal 1: 127.0.0.1:8080
  cargo lab13 server-multi 8080 10 10    the manual's pool: 10 threads, a queue
                                         of 10
  cargo lab13 client localhost 8080      terminal 2, as the manual types it
  cargo lab13 load --clients 64 --seconds 10 --resets
  cargo lab13 load --kept --length 36
  nc 127.0.0.1 8080                      any program that sends bytes is a
                                         client";

#[derive(Parser)]
#[command(version, about = "An echo server with one thread, and one with a pool", after_help = EXAMPLES)]
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
    /// Terminal 1: echo, one connection at a time
    ServerSingle(SingleArgs),
    /// Terminal 1: accept into a bounded queue; a pool of threads echoes
    ServerMulti(MultiArgs),
    /// Terminal 2: send a string, show its echo
    Client(ClientArgs),
    /// Terminal 2: many clients at once; each echo is compared byte for byte, and lost after 10 s
    Load(LoadArgs),
}

/// What both servers understand.
#[derive(Args)]
struct ServerArgs {
    /// Where to listen: PORT, ADDRESS or ADDRESS:PORT; port 0 lets the kernel choose
    #[arg(default_value = "127.0.0.1:8080", value_parser = shared::address("127.0.0.1:8080"))]
    address: SocketAddr,
    /// Clients that may wait in the kernel until accept has time for them
    #[arg(long, default_value_t = 128, value_name = "N")]
    backlog: i32,
    /// Close a connection that has sent nothing for so long, or not taken its echo; 0: never, as in the manual
    #[arg(long, default_value = "60", value_name = "SECONDS", value_parser = deadline)]
    deadline: Deadline,
    /// Leave out the line for each connection
    #[arg(long)]
    quiet: bool,
    /// Wait for Enter before socket, setsockopt, bind, listen and each accept
    #[arg(long)]
    pause: bool,
}

#[derive(Args)]
struct SingleArgs {
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args)]
struct MultiArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Threads of the pool
    #[arg(default_value = "10", value_parser = one_to_1024)]
    threads: usize,
    /// Connections that the program's own queue holds
    #[arg(default_value = "10", value_parser = one_to_1024)]
    queue: usize,
}

#[derive(Args)]
struct ClientArgs {
    /// The server: PORT, ADDRESS, NAME or ADDRESS:PORT; port and address in any order [default: 127.0.0.1:8080]
    #[arg(num_args = 0..=2)]
    address: Vec<Place>,
    /// Wait for Enter before each socket call
    #[arg(long)]
    pause: bool,
}

#[derive(Args)]
struct LoadArgs {
    /// The server: PORT, ADDRESS or ADDRESS:PORT
    #[arg(default_value = "127.0.0.1:8080", value_parser = shared::destination("127.0.0.1:8080"))]
    address: SocketAddr,
    /// Clients at the same time, a thread each
    #[arg(long, default_value = "10", value_name = "N", value_parser = at_least_one)]
    clients: NonZeroUsize,
    /// Requests of each client
    #[arg(long, default_value = "100", value_name = "N", value_parser = at_least_one)]
    requests: NonZeroUsize,
    /// Go on for so many seconds, however many requests that makes
    #[arg(long, value_name = "SECONDS", value_parser = value_parser!(u16).range(1..))]
    seconds: Option<u16>,
    /// The bytes of each request; else 1, 36, 512 and 20000 in turns
    #[arg(long, value_name = "BYTES", value_parser = value_parser!(u32).range(1..=MOST_BYTES))]
    length: Option<u32>,
    /// Keep the connection for all requests of a client; else a connection for each
    #[arg(long)]
    kept: bool,
    /// Further clients, which connect and say nothing
    #[arg(long, default_value_t = 0, value_name = "N")]
    slow: usize,
    /// One client of ten resets its connections in the middle of a request
    #[arg(long)]
    resets: bool,
}

/// How long a connection may be silent; `None`: for ever.
#[derive(Clone, Copy)]
struct Deadline(Option<Duration>);

fn deadline(text: &str) -> Result<Deadline, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds")?;
    match seconds {
        0.0 => Ok(Deadline(None)),
        0.001..=86400.0 => Ok(Deadline(Some(Duration::from_secs_f64(seconds)))),
        _ => Err("0 for never, or 0.001 to 86400".into()),
    }
}

fn one_to_1024(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=1024).contains(number));
    number.ok_or_else(|| "1 to 1024".into())
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
        Some(Command::ServerSingle(args)) => single::run(&args.server).map(|()| ExitCode::SUCCESS),
        Some(Command::ServerMulti(args)) => multi::run(args).map(|()| ExitCode::SUCCESS),
        Some(Command::Client(args)) => client::run(args),
        Some(Command::Load(args)) => load::run(args),
    }
}

/// The one address that these arguments name.
fn place(arguments: &[Place]) -> Result<SocketAddr> {
    let addresses = Place::joined(arguments).and_then(|place| place.resolved(DEFAULT));
    addresses.map_err(|error| anyhow!(error))?.first().copied().ok_or_else(|| anyhow!("the name has no address"))
}
