//! The message board by remote procedure call: what does a call hide, and what can it not hide?
//!
//! Terminal 1:     cargo run -p lab24-mboard-rpc -- server
//!            or:  cargo run -p lab24-mboard-rpc -- server --slow              one more method, slow(): it waits for Enter
//!            or:  cargo run -p lab24-mboard-rpc -- server --threaded --keep   a thread and HTTP/1.1 for each connection
//! Terminal 2:     cargo run -p lab24-mboard-rpc -- client --publish 'Hello world!' --last 3
//!                 cargo run -p lab24-mboard-rpc -- client --methods
//! By name:        cargo run -p lab24-mboard-rpc -- names                      the name server
//!                 cargo run -p lab24-mboard-rpc -- server 0 --name board      any port, registered
//!                 cargo run -p lab24-mboard-rpc -- client --name board
//! Watch:          scripts/states.sh 7777 --watch
//! Experiments:    cargo run -p lab24-mboard-rpc
//!
//! Compare with lab15-mboard-udp and lab17-mboard-tcp (the same board, its own protocol) and lab13-echo-pool (threads).
//! Marshalling is dxr's, the stub's connections are ureq's; the server's socket calls are in src/server.rs and
//! src/connection.rs.
//! Source: notes ch.5, "Remote Procedure Calls".
//! Read: the XML-RPC specification, http://xmlrpc.com/spec.md; RFC 9112 9.3 (connections that are kept).

mod client;
mod connection;
mod experiments;
mod http;
mod marshal;
mod methods;
mod names;
mod proxy;
mod registration;
mod server;
mod service;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Args, Parser, Subcommand, value_parser};
use shared::{DemoArgs, SheetArgs, address, destination};

use crate::methods::{Die, Ids};

const LAB: &str = env!("CARGO_PKG_NAME");
const EXAMPLES: &str = "\
Examples:
  cargo lab24                                play all experiments
  cargo lab24 demo behind-the-slow --pause   one of them, for the projector
  cargo lab24 server                         terminal 1: 127.0.0.1:7777
  cargo lab24 server --journal FILE          what was published survives the
                                             server
  cargo lab24 client                         terminal 2: all messages
  cargo lab24 client --publish 'Hello' -l 3  publish, then the last three
  cargo lab24 client --publish - < FILE      a message of any bytes
  cargo lab24 names                          the name server, 127.0.0.1:7770
  cargo lab24 server 0 --name board          any port, registered as board
  cargo lab24 client --name board            asks the name server where it is

Any XML-RPC client calls it, Python's for one:
  import xmlrpc.client
  xmlrpc.client.ServerProxy('http://127.0.0.1:7777').publish('Hello')";

#[derive(Parser)]
#[command(version, about = "The message board by remote procedure call (XML-RPC)", after_help = EXAMPLES)]
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
    /// Terminal 1: the board; its methods are called from elsewhere
    Server(ServerArgs),
    /// Terminal 2: publish a message, read the last ones, or both
    Client(ClientArgs),
    /// The name server: services register where they are, clients look them up
    Names(NamesArgs),
}

#[derive(Args)]
struct ServerArgs {
    /// Where to listen: PORT, ADDRESS or ADDRESS:PORT; port 0 lets the kernel choose
    #[arg(default_value = "127.0.0.1:7777", value_parser = address("127.0.0.1:7777"))]
    address: SocketAddr,
    /// A thread for each connection
    #[arg(long)]
    threaded: bool,
    /// Keep a connection for further calls (HTTP/1.1); else, as in the lecture, one call and its end
    #[arg(long, requires = "threaded")]
    keep: bool,
    /// One more method, slow(): it returns once Enter is pressed here
    #[arg(long, conflicts_with = "pause")]
    slow: bool,
    /// How ids travel [default: int, with --journal i8]
    #[arg(long, value_enum)]
    ids: Option<Ids>,
    /// The id of the first message
    #[arg(long, default_value_t = 0, value_name = "N", conflicts_with = "journal", value_parser = value_parser!(u64).range(..=1 << 62))]
    first_id: u64,
    /// Keep the messages in this file; its first id is 4325204352
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// Be killed in the middle of publish
    #[arg(long, value_enum, value_name = "MOMENT")]
    die: Option<Die>,
    /// Register under this name at the name server
    #[arg(long)]
    name: Option<String>,
    /// Address of the name server
    #[arg(long, default_value = "127.0.0.1:7770", value_name = "ADDRESS", value_parser = destination("127.0.0.1:7770"))]
    names: SocketAddr,
    /// Seconds in which a call must be whole, and then its answer taken; 0: no limit, as in the lecture
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    deadline: u16,
    /// The longest call, in bytes of XML
    #[arg(long, default_value_t = 16_777_216, value_name = "BYTES", value_parser = value_parser!(u32).range(1..=1 << 30))]
    max_request: u32,
    /// Wait for Enter before each socket call (with --threaded: up to accept)
    #[arg(long)]
    pause: bool,
}

#[derive(Args)]
struct ClientArgs {
    /// Address of the server
    #[arg(default_value = "127.0.0.1:7777", value_parser = destination("127.0.0.1:7777"))]
    address: SocketAddr,
    /// Publish this text; - publishes standard input, any bytes
    #[arg(long, short, value_name = "TEXT")]
    publish: Option<String>,
    /// Read the last N messages; 0: all. Without --publish, --methods and --slow: all
    #[arg(long, short, value_name = "N", value_parser = value_parser!(u32).range(..=1 << 30))]
    last: Option<u32>,
    /// What can be called there
    #[arg(long)]
    methods: bool,
    /// Call slow(), which a server with --slow has
    #[arg(long)]
    slow: bool,
    /// Ask the name server for the service with this name
    #[arg(long)]
    name: Option<String>,
    /// Address of the name server
    #[arg(long, default_value = "127.0.0.1:7770", value_name = "ADDRESS", value_parser = destination("127.0.0.1:7770"))]
    names: SocketAddr,
    /// Seconds that a call may take; 0: no limit, as in the lecture
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    timeout: u16,
    /// Wait for Enter before each call
    #[arg(long)]
    pause: bool,
}

#[derive(Args)]
struct NamesArgs {
    /// Where to listen: PORT, ADDRESS or ADDRESS:PORT; port 0 lets the kernel choose
    #[arg(default_value = "127.0.0.1:7770", value_parser = address("127.0.0.1:7770"))]
    address: SocketAddr,
    /// Seconds after which a service is forgotten that does not register again
    #[arg(long, default_value_t = 5, value_name = "SECONDS", value_parser = value_parser!(u16).range(1..))]
    lease: u16,
    /// Seconds in which a call must be whole, and then its answer taken; 0: no limit
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    deadline: u16,
    /// Wait for Enter before each socket call, up to accept
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
        Some(Command::Server(args)) => server::run(args).map(|()| ExitCode::SUCCESS),
        Some(Command::Client(args)) => client::run(args),
        Some(Command::Names(args)) => names::run(args).map(|()| ExitCode::SUCCESS),
    }
}
