//! Chat by distributed objects: where does a method run, and what is left of an object when its process is gone?
//!
//! Terminal 1:       cargo run -p lab25-chat-objects -- server
//! Terminals 2, 3:   cargo run -p lab25-chat-objects -- client --name ann
//!              or:  cargo run -p lab25-chat-objects -- client --name bob --uri chat://127.0.0.1:7777
//!              or:  cargo run -p lab25-chat-objects -- client --name carol --poll       as in the lecture: it asks
//! Watch:            scripts/states.sh 7777 --watch
//! Experiments:      cargo run -p lab25-chat-objects
//!
//! Compare with lab07-multiclient (the same chat, its lines written to sockets by hand) and lab24-mboard-rpc (calls
//! without objects). Source: notes ch.5, "Distributed Objects" and "Pyro Application".
//! Read: the documentation of remoc, module rtc; ip(7) on multicast; RFC 9293 3.6.

mod bell;
mod chat;
mod client;
mod connection;
mod experiments;
mod group;
mod lines;
mod objects;
mod server;
mod talk;
mod workshop;

use std::{
    net::{SocketAddr, SocketAddrV4},
    process::ExitCode,
};

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use shared::{DemoArgs, SheetArgs, address};

use crate::{group::Uri, objects::checked_name};

const LAB: &str = env!("CARGO_PKG_NAME");
const EXAMPLES: &str = "\
Examples:
  cargo lab25                             play all experiments
  cargo lab25 demo killed-client --pause  one of them, for the projector
  cargo lab25 server                      terminal 1: 127.0.0.1:7777
  cargo lab25 server --overwrite          a name goes to the last who wants it,
                                          as in the lecture
  cargo lab25 client --name ann           terminal 2: asks the group who serves
  cargo lab25 client --name bob --uri chat://127.0.0.1:7777
  cargo lab25 client --name carol --poll  shows messages when you press Enter,
                                          as in the lecture

In the client: a line is said to all. /private NAME TEXT says it to one, /users
tells who is in, /quit ends the client.";

#[derive(Parser)]
#[command(version, about = "Chat by distributed objects", after_help = EXAMPLES)]
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
    /// Terminal 1: the chat; calls the objects of its clients
    Server(ServerArgs),
    /// Terminals 2, 3: say something; the server calls this client's window
    Client(ClientArgs),
    /// A server whose methods are slow, or fail: for the experiments
    #[command(hide = true)]
    Workshop,
}

#[derive(Args)]
struct ServerArgs {
    /// Where to listen: PORT, ADDRESS or ADDRESS:PORT; port 0 lets the kernel choose
    #[arg(default_value = "127.0.0.1:7777", value_parser = address("127.0.0.1:7777"))]
    address: SocketAddr,
    /// The group in which clients ask who serves
    #[arg(long, value_name = "GROUP:PORT", default_value = "239.1.1.1:53125", value_parser = group::group)]
    group: SocketAddrV4,
    /// Give a name that is taken to the next who registers it, as the lecture's server does
    #[arg(long)]
    overwrite: bool,
    /// Seconds of silence after which a client is given up; 0: never
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    timeout: u16,
    /// Wait for Enter before each socket call
    #[arg(long)]
    pause: bool,
}

#[derive(Args)]
struct ClientArgs {
    /// The user's name
    #[arg(short, long, value_parser = |text: &str| checked_name(text))]
    name: String,
    /// Where the chat is, such as chat://127.0.0.1:7777; without it the client asks the group
    #[arg(short, long)]
    uri: Option<Uri>,
    /// The group to ask
    #[arg(long, value_name = "GROUP:PORT", default_value = "239.1.1.1:53125", value_parser = group::group)]
    group: SocketAddrV4,
    /// No object in the client: ask for messages after each Enter, as in the lecture
    #[arg(long)]
    poll: bool,
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
        Some(Command::Workshop) => workshop::run().map(|()| ExitCode::SUCCESS),
    }
}
