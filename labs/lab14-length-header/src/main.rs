//! Messages behind a length header: what does a receiver know, and when?
//!
//! Terminal 1:     cargo run -p lab14-length-header -- server             a thread for each client
//!            or:  cargo run -p lab14-length-header -- server --naive     the exam's handler, with its faults
//! Terminals 2, 3: cargo run -p lab14-length-header -- client             type lines; Ctrl-D leaves
//!            or:  cargo run -p lab14-length-header -- client --exam      the exam's three messages
//! Watch:          scripts/states.sh 5050 --watch
//! Experiments:    cargo run -p lab14-length-header
//!
//! Compare with lab08-stream (a terminator ends a message) and lab07-multiclient (many clients, one thread).
//! Source: final exam project, "Socket and multithreading programming": server.py and client.py.
//! Read: recv(2) and its flag MSG_WAITALL, tcp(7), proc(5) on /proc/PID/task, RFC 9293 3.6.

mod client;
mod connection;
mod experiments;
mod frames;
mod naive;
mod server;

use std::{net::IpAddr, net::SocketAddr, process::ExitCode};

use anyhow::{Result, anyhow};
use clap::{Args, Parser, Subcommand, value_parser};
use shared::{DemoArgs, Place, SheetArgs};

const LAB: &str = env!("CARGO_PKG_NAME");
/// Where the exam's client looks for its server; the server's own listing says 5890.
const DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 5050);
const EXAMPLES: &str = "\
Examples:
  cargo lab14                        play all experiments
  cargo lab14 demo leaves --pause    one of them, for the projector
  cargo lab14 server                 terminal 1: 127.0.0.1:5050
  cargo lab14 server 5890 --naive    the exam's port and the exam's handler
  cargo lab14 client                 terminal 2: each line is a message
  cargo lab14 client 5050 127.0.0.1  the same, as the exam's constants name it
  cargo lab14 client --exam          the exam's three messages, Enter between
                                     them

On the wire: 64 bytes with the decimal length of the message, padded with
spaces; then so many bytes of UTF-8. The answer to each message is \"Msg
received\"; any other answer says what is wrong and is the last. !DISCONNECT
ends.";

#[derive(Parser)]
#[command(version, about = "Messages behind a length header, a thread for each client", after_help = EXAMPLES)]
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
    /// Terminal 1: a thread for each client, an answer for each message
    Server(ServerArgs),
    /// Terminal 2: send lines as messages, show the answers
    Client(ClientArgs),
}

#[derive(Args)]
struct ServerArgs {
    /// Where to listen: PORT, ADDRESS or ADDRESS:PORT; port 0 lets the kernel choose [default: 127.0.0.1:5050]
    #[arg(num_args = 0..=2)]
    address: Vec<Place>,
    /// The longest message, in bytes
    #[arg(long, default_value_t = 1_048_576, value_name = "BYTES", value_parser = value_parser!(u32).range(1..))]
    max_message: u32,
    /// Clients that are served at the same time, a thread each
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = value_parser!(u16).range(1..))]
    max_clients: u16,
    /// Seconds in which a message that has begun must be whole, and an answer taken
    #[arg(long, default_value_t = 30, value_name = "SECONDS", value_parser = value_parser!(u16).range(1..))]
    patience: u16,
    /// Handle clients as the exam's code does: one recv for a header, one for a body
    #[arg(long)]
    naive: bool,
    /// Wait for Enter before socket, setsockopt, bind, listen and each accept
    #[arg(long)]
    pause: bool,
}

#[derive(Args)]
struct ClientArgs {
    /// The server: PORT, ADDRESS, NAME or ADDRESS:PORT; port and address in any order [default: 127.0.0.1:5050]
    #[arg(num_args = 0..=2)]
    address: Vec<Place>,
    /// Send the exam's three messages, Enter between them, and !DISCONNECT
    #[arg(long)]
    exam: bool,
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
        None => shared::play(&experiments::LESSON, &cli.demo),
        Some(Command::Demo(args)) => shared::play(&experiments::LESSON, args),
        Some(Command::Sheet(args)) => shared::sheet(include_str!("../README.md"), args),
        Some(Command::Server(args)) => server::run(args).map(|()| ExitCode::SUCCESS),
        Some(Command::Client(args)) => client::run(args),
    }
}

/// The one address that these arguments name.
fn place(arguments: &[Place]) -> Result<SocketAddr> {
    let addresses = Place::joined(arguments).and_then(|place| place.resolved(DEFAULT));
    addresses.map_err(|error| anyhow!(error))?.first().copied().ok_or_else(|| anyhow!("the name has no address"))
}
