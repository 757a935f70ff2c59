//! One server, many clients, one line to all of them: how does a single thread serve four connections at once?
//!
//! Terminal 1:     cargo lab07 server
//! Terminals 2-4:  cargo lab07 client
//! The same grown: cargo lab07 server-epoll    (diff src/server.rs src/server_epoll.rs)
//! Watch:          scripts/states.sh 4444 --watch
//! All at once:    scripts/classroom.sh 07
//! Experiments:    cargo lab07
//!
//! Compare with lab06-listen (one connection) and lab13-echo-pool (the same task with threads).
//! Source: lab 7 handout, "TCP Server accepting multiple clients".
//! Read: poll(2), accept(2), tcp(7), socket(7) on SO_REUSEADDR (who-may-bind shows more), RFC 9293 3.3.2 and 3.6.1.

mod client;
mod connection;
mod display;
mod experiments;
mod lines;
mod outbox;
mod room;
mod server;
mod server_epoll;
mod talk;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    process::ExitCode,
};

use anyhow::Result;
use clap::{Args, CommandFactory, Parser, Subcommand, error::ErrorKind::ValueValidation};
use shared::{DemoArgs, Place, SheetArgs, at_least_one};

const LAB: &str = env!("CARGO_PKG_NAME");
/// Where the server is if nothing else is said: the handout's port.
const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4444);
const EXAMPLES: &str = "\
Examples:
  cargo lab07                      play all experiments
  cargo lab07 demo 2 --pause       the second one, for the projector
  cargo lab07 server               terminal 1: listen on 127.0.0.1:4444
  cargo lab07 server 0.0.0.0:4445  listen elsewhere
  cargo lab07 server-epoll         the same for ten thousand clients
  cargo lab07 client               terminal 2: type lines; exit or Ctrl-D
                                   leaves
  cargo lab07 client 4444 0.0.0.0  as the handout types it
  nc 127.0.0.1 4444                any program that sends lines is a client

Lines are UTF-8, end with \\n, and hold at most 65536 bytes; both ends show them
reversed, control characters escaped. Lines that start with \"! \" are notices of
the server. A line that arrives while you type is shown at once: what you typed
is kept, Ctrl-R shows it again.";

#[derive(Parser)]
#[command(version, about = "One server, many clients, one line to all of them", after_help = EXAMPLES)]
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
    /// Terminal 1: let clients in, show their lines reversed, send yours to all of them
    Server(ServerArgs),
    /// Terminal 1: the same with epoll, for ten thousand clients
    ServerEpoll(ServerEpollArgs),
    /// Terminal 2: send lines, show the server's reversed
    Client(ClientArgs),
}

#[derive(Args)]
struct ServerArgs {
    /// Where to listen: PORT, ADDRESS or ADDRESS:PORT; port 0 lets the kernel choose [default: 127.0.0.1:4444]
    #[arg(value_name = "PORT|ADDRESS")]
    place: Option<Place>,
    /// Address to listen on, beside a PORT; 0.0.0.0 or :: for all
    #[arg(long, value_name = "ADDRESS")]
    bind: Option<IpAddr>,
    /// Clients that are let in at the same time
    #[arg(long, default_value = "4", value_name = "N", value_parser = at_least_one)]
    max_clients: NonZeroUsize,
    /// Do not set SO_REUSEADDR: end the server with clients connected, and start it again
    #[arg(long)]
    no_reuse_addr: bool,
    /// Wait for Enter before socket, setsockopt, bind, listen, and each accept, recv and send
    #[arg(long)]
    pause: bool,
}

#[derive(Args)]
struct ServerEpollArgs {
    /// Where to listen: PORT, ADDRESS or ADDRESS:PORT; port 0 lets the kernel choose [default: 127.0.0.1:4444]
    #[arg(value_name = "PORT|ADDRESS")]
    place: Option<Place>,
    /// Address to listen on, beside a PORT; 0.0.0.0 or :: for all
    #[arg(long, value_name = "ADDRESS")]
    bind: Option<IpAddr>,
    /// Clients that are let in at the same time
    #[arg(long, default_value = "10000", value_name = "N", value_parser = at_least_one)]
    max_clients: NonZeroUsize,
    /// Do not set SO_REUSEADDR: end the server with clients connected, and start it again
    #[arg(long)]
    no_reuse_addr: bool,
    /// Leave out the line for each client that comes, goes or is rejected
    #[arg(long)]
    quiet: bool,
    /// Wait for Enter before socket, setsockopt, bind, listen, and each accept, recv and send
    #[arg(long)]
    pause: bool,
}

#[derive(Args)]
struct ClientArgs {
    /// The server: PORT, ADDRESS, NAME or ADDRESS:PORT; port and address in any order [default: 127.0.0.1:4444]
    #[arg(value_name = "PORT|ADDRESS", num_args = 0..=2)]
    places: Vec<Place>,
    /// Wait for Enter before socket, connect, shutdown, and each send and recv
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
        Some(Command::Server(args)) => {
            server::run(args, listen_addr(&args.place, args.bind)).map(|()| ExitCode::SUCCESS)
        }
        Some(Command::ServerEpoll(args)) => {
            server_epoll::run(args, listen_addr(&args.place, args.bind)).map(|()| ExitCode::SUCCESS)
        }
        Some(Command::Client(args)) => match Place::joined(&args.places).unwrap_or_else(usage) {
            Place { port: Some(0), .. } => usage("nobody is at port 0: a port from 1 to 65535".into()),
            place => client::run(args, &place),
        },
    }
}

/// Where a server listens: what is missing comes from [`SERVER`].
fn listen_addr(place: &Option<Place>, bind: Option<IpAddr>) -> SocketAddr {
    let bind = bind.map(|ip| Place { host: Some(ip.to_string()), port: None });
    let places: Vec<Place> = place.iter().cloned().chain(bind).collect();
    let addresses = Place::joined(&places).and_then(|place| place.resolved(SERVER)).unwrap_or_else(usage);
    addresses.first().copied().unwrap_or(SERVER)
}

/// Says what is wrong with an address; exit status 2.
fn usage<T>(why: String) -> T {
    Cli::command().error(ValueValidation, why).exit()
}
