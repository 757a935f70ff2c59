//! Shared state: many players guess one word, many hands draw one picture. Whose change counts, and who says so?
//!
//! Terminal 1:     cargo run -p lab23-guessword -- server                 or: server --words FILE
//! Terminals 2-4:  cargo run -p lab23-guessword -- client ann             bob, carl ...; or nc 127.0.0.1 7777
//! Terminal 1:     cargo run -p lab23-guessword -- whiteboard
//! Terminals 2-4:  cargo run -p lab23-guessword -- draw ann               bob, carl ...
//! Watch:          scripts/states.sh 7777 --watch
//! Experiments:    cargo run -p lab23-guessword
//!
//! Compare with lab07-multiclient (the same loop, no state to share) and lab18-threads (a counter that threads share).
//! Source: notes ch.4, "Shared state" and "Concurrent modification".
//! Read: poll(2), tcp(7), termios(3), RFC 9293 3.6.

mod canvas;
mod client;
mod connection;
mod draw;
mod experiments;
mod game;
mod guess;
mod hand;
mod lines;
mod link;
mod outbox;
mod position;
mod room;
mod rounds;
mod server;
mod shelf;
mod state;
mod terminal;
mod wire;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Result, anyhow};
use clap::{Args, CommandFactory, Parser, Subcommand, error::ErrorKind::ValueValidation};
use shared::{At, DemoArgs, Place, SheetArgs, at_least_one};

use crate::{canvas::Canvas, game::Game, guess::Guess};

const LAB: &str = env!("CARGO_PKG_NAME");
/// The lecture's port, for the game.
const GAME: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7777);
/// Beside it, for the white-board.
const WHITEBOARD: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7778);
const EXAMPLES: &str = "\
Examples:
  cargo lab23                          play all experiments
  cargo lab23 demo same-cell --pause   one of them, for the projector
  cargo lab23 server                   terminal 1: the game, 127.0.0.1:7777
  cargo lab23 server --words FILE      the first words, one a line
  cargo lab23 client ann               terminal 2: type letters; Ctrl-D leaves
  cargo lab23 whiteboard               terminal 1: 127.0.0.1:7778
  cargo lab23 draw ann                 terminal 2: keys and mouse; Ctrl-C
                                       leaves
  echo '3 4 #' | cargo lab23 draw bob  in a pipe: X Y CHARACTER
  nc 127.0.0.1 7777                    any program that sends lines is a client

A client's first line is its name. The server answers with the state, one line,
and then sends each event to everybody, numbered. Lines are UTF-8, end with \\n,
and have at most 4096 bytes; those that begin with \"! \" are for one client
alone. A client that does not read is dropped where 256 KiB wait for it.";

#[derive(Parser)]
#[command(version, about = "Shared state: the word game and the white-board, many at once", after_help = EXAMPLES)]
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
    /// Terminal 1: the word game, for all who join
    Server {
        #[command(flatten)]
        args: ServerArgs,
        /// The first words, one a line; after them the players propose
        #[arg(long, value_name = "FILE")]
        words: Option<PathBuf>,
    },
    /// Terminal 2: guess letters, propose words
    Client(ClientArgs),
    /// Terminal 1: the shared white-board, 60 x 20 cells
    Whiteboard(ServerArgs),
    /// Terminal 2: draw on it
    Draw(ClientArgs),
}

#[derive(Args)]
struct ServerArgs {
    /// Where to listen: PORT, ADDRESS or ADDRESS:PORT; port 0 lets the kernel choose [default: 127.0.0.1:7777, whiteboard 7778]
    address: Option<Place>,
    /// Clients that are let in at the same time, with and without a name
    #[arg(long, default_value = "32", value_name = "N", value_parser = at_least_one)]
    max_clients: NonZeroUsize,
    /// Wait for Enter before each socket call but send
    #[arg(long)]
    pause: bool,
}

#[derive(Args)]
struct ClientArgs {
    /// Your name: 1 to 16 letters or digits
    #[arg(value_parser = name)]
    name: String,
    /// PORT, ADDRESS, NAME or ADDRESS:PORT of the server [default: 127.0.0.1:7777, draw 7778]
    address: Option<Place>,
    /// Wait for Enter before each socket call; draw on a terminal only before socket and connect
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
        Some(Command::Server { args, words }) => {
            let path = words.as_deref().unwrap_or("".as_ref());
            let text = words.as_ref().map(fs::read_to_string).transpose().at("read", path.display())?;
            let lines = text.as_deref().unwrap_or_default().lines().filter(|line| !line.trim().is_empty());
            let game = Game::with_words(lines).map_err(|why| anyhow!("{}: {why}", path.display()))?;
            server::run(args, GAME, game).map(|()| ExitCode::SUCCESS)
        }
        Some(Command::Client(args)) => client::run(args, GAME, Guess::default()),
        Some(Command::Whiteboard(args)) => server::run(args, WHITEBOARD, Canvas::default()).map(|()| ExitCode::SUCCESS),
        Some(Command::Draw(args)) => draw::run(args, WHITEBOARD),
    }
}

/// The one address that this argument names.
fn place(argument: Option<&Place>, default: SocketAddr) -> Result<SocketAddr> {
    let place = argument.cloned().unwrap_or_default();
    let addresses = place.resolved(default).unwrap_or_else(usage);
    addresses.first().copied().ok_or_else(|| anyhow!("the name has no address"))
}

fn name(text: &str) -> Result<String, String> {
    wire::check_name(text).map(|()| text.into())
}

/// Says what is wrong with an address; exit status 2.
fn usage<T>(why: String) -> T {
    Cli::command().error(ValueValidation, why).exit()
}
