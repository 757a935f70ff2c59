//! Five clients come at once. Which of them does a server serve, and when, and who has left by then?
//!
//! Terminal 1:   cargo run -p lab19-server-models -- server many-clients        one of eleven models: server --help
//! Terminal 2:   cargo run -p lab19-server-models -- connections                five clients; a timeline at the end
//!          or:  cargo run -p lab19-server-models -- server pipeline            this one takes requests
//!               cargo run -p lab19-server-models -- requests
//! Watch:        scripts/backlog.sh 7777 --watch
//! Experiments:  cargo run -p lab19-server-models
//!
//! Compare the models with each other: diff src/models/many_clients.rs src/models/thread_per_socket.rs; and with
//! lab13-echo-pool (a bounded queue) and lab07-multiclient (one thread, many clients).
//! Source: notes ch.4, Client-server architectures, Figures 4.3 to 4.13.
//! Read: listen(2), accept(2), socket(7) on SO_REUSEPORT, unix(7) on SOCK_SEQPACKET, poll(2), tcp(7) on tcp_syn_retries.

mod children;
mod connections;
mod experiments;
mod log;
mod models;
mod queue;
mod requests;
mod serve;
mod simulator;
mod timeline;
mod work;

use std::{net::SocketAddr, num::NonZeroUsize, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};
use shared::{DemoArgs, SheetArgs, address, at_least_one, destination};

use crate::models::Model;

const LAB: &str = env!("CARGO_PKG_NAME");
const EXAMPLES: &str = "\
Examples:
  cargo lab19                                play all experiments
  cargo lab19 demo figure-4-6 --pause        one of them, for the projector
  cargo lab19 server many-clients            terminal 1: 127.0.0.1:7777
  cargo lab19 connections                    terminal 2: the lecture's five
                                             clients
  cargo lab19 connections --speed 4          all times of the simulator divided
                                             by four
  cargo lab19 connections --svg clients.svg  the timeline for a slide, too
  cargo lab19 server pool --workers 4        the lecture's PREFORK_THREADS = 4
  cargo lab19 server pipeline --speed 5      a request takes 5 s / 5
  cargo lab19 requests --speed 5             five clients with a request each
  nc 127.0.0.1 7777                          any program that connects is a
                                             client";

#[derive(Parser)]
#[command(version, about = "Eleven models of a server under the same two client simulators", after_help = EXAMPLES)]
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
    /// Terminal 1: serve by one of the models, until Ctrl-C
    Server(ServerArgs),
    /// Terminal 2: clients that stay connected for a while; then a timeline
    Connections(ConnectionsArgs),
    /// Terminal 2: clients with a request of 36 bytes each; then a timeline
    Requests(RequestsArgs),
    /// A process of the models pre-fork and processes: its standard input is the socket it works on
    #[command(hide = true)]
    Work {
        number: usize,
        #[command(flatten)]
        server: ServerArgs,
    },
}

/// What clients want of a server.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Service {
    /// One byte says that the service is there; it lasts until the client leaves
    Connections,
    /// 36 bytes come, are worked on for a while, and go back
    Requests,
}

#[derive(Args, Clone)]
struct ServerArgs {
    /// How the work is divided
    model: Model,
    /// Where to listen: PORT, ADDRESS or ADDRESS:PORT; port 0 lets the kernel choose
    #[arg(default_value = "127.0.0.1:7777", value_parser = address("127.0.0.1:7777"))]
    address: SocketAddr,
    /// What clients get; without it what the lecture's program of this model offers
    #[arg(long)]
    service: Option<Service>,
    /// Threads, processes or listeners of a model that has a fixed number of them, in each group
    #[arg(long, default_value = "8", value_name = "N", value_parser = one_to_1024)]
    workers: usize,
    /// Connections that wait for accept; the kernel lets one more in
    #[arg(long, default_value_t = 1, value_name = "N")]
    backlog: i32,
    /// How long a request is worked on
    #[arg(long, default_value = "5", value_name = "SECONDS", value_parser = seconds)]
    delay: Duration,
    /// The request is an integer, and the work is to factor it
    #[arg(long)]
    factor: bool,
    /// Divides the delay
    #[arg(long, default_value = "1", value_parser = speed)]
    speed: f64,
    /// As the lecture's listing: one global variable holds the address of "the" client
    #[arg(long)]
    global_address: bool,
    /// A request that begins so is a bug: its thread panics
    #[arg(long, value_name = "TEXT")]
    panic_on: Option<String>,
    /// No line for each client
    #[arg(long)]
    quiet: bool,
    /// Wait for Enter before socket, setsockopt, bind, listen and each accept of the main thread
    #[arg(long)]
    pause: bool,
}

#[derive(Args)]
struct SimulatorArgs {
    /// The server: PORT, ADDRESS or ADDRESS:PORT
    #[arg(default_value = "127.0.0.1:7777", value_parser = destination("127.0.0.1:7777"))]
    address: SocketAddr,
    /// Clients, a thread each. The second one starts when the first is served, or after 0.1 s
    #[arg(long, default_value = "5", value_name = "N", value_parser = at_least_one)]
    clients: NonZeroUsize,
    /// Between the starts of two clients; --speed does not divide it
    #[arg(long, default_value = "0.005", value_name = "SECONDS", value_parser = seconds)]
    gap: Duration,
    /// Divides all times
    #[arg(long, default_value = "1", value_parser = speed)]
    speed: f64,
    /// Write the timeline as a picture, too
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Wait for Enter before each client calls connect
    #[arg(long)]
    pause: bool,
}

#[derive(Args)]
struct ConnectionsArgs {
    #[command(flatten)]
    simulator: SimulatorArgs,
    /// So long a client waits in connect, and then again in recv
    #[arg(long, default_value = "15", value_name = "SECONDS", value_parser = seconds)]
    timeout: Duration,
    /// So long it keeps the server busy
    #[arg(long, default_value = "5", value_name = "SECONDS", value_parser = seconds)]
    stay: Duration,
}

#[derive(Args)]
struct RequestsArgs {
    #[command(flatten)]
    simulator: SimulatorArgs,
    /// So long a client waits in connect, and then again in recv
    #[arg(long, default_value = "10", value_name = "SECONDS", value_parser = seconds)]
    timeout: Duration,
    /// Send this integer to a server with --factor; without it a random id of 36 bytes
    #[arg(long, value_name = "INTEGER")]
    factor: Option<u64>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds")?;
    let valid = (0.0..=86400.0).contains(&seconds);
    if valid { Ok(Duration::from_secs_f64(seconds)) } else { Err("0 to 86400".into()) }
}

fn speed(text: &str) -> Result<f64, String> {
    let speed: f64 = text.parse().map_err(|_| "not a number")?;
    if (0.01..=1000.0).contains(&speed) { Ok(speed) } else { Err("0.01 to 1000".into()) }
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
        None => return shared::play(&experiments::LESSON, &cli.demo),
        Some(Command::Demo(args)) => return shared::play(&experiments::LESSON, args),
        Some(Command::Sheet(args)) => return shared::sheet(include_str!("../README.md"), args),
        Some(Command::Server(args)) => models::run(args)?,
        Some(Command::Connections(args)) => return connections::run(args),
        Some(Command::Requests(args)) => return requests::run(args),
        Some(Command::Work { number, server }) => work::run(*number, server)?,
    }
    Ok(ExitCode::SUCCESS)
}
