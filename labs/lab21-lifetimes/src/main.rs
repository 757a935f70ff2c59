//! Short-lived and long-lived connections: what does each cost over its life, and which end closes it first?
//!
//! Terminal 1:     cargo run -p lab21-lifetimes -- page                   a page with ten objects, over HTTP/1.1
//! Terminal 2:     cargo run -p lab21-lifetimes -- visit                  one connection
//!            or:  cargo run -p lab21-lifetimes -- visit --close          a connection for each request
//! Terminal 3:     cargo run -p lab21-lifetimes -- host                   as the host of a remote shell
//! Terminal 4:     cargo run -p lab21-lifetimes -- session                one connection, as long as you type
//! Watch:          scripts/lifetimes.sh 8080
//! Experiments:    cargo run -p lab21-lifetimes
//!
//! Compare with lab17-mboard-tcp (a connection for each request) and lab10-timewait (what a connection leaves behind).
//! Source: notes ch.4, "Short-lived vs. Long-lived TCP connections".
//! Read: RFC 9112 9.3 and 9.6 (Connection), RFC 9110 9.2.2 (which requests may be repeated), tcp(7) on TCP_INFO.

mod connection;
mod delayed;
mod exchange;
mod experiments;
mod http;
mod relay;
mod server;
mod service;
mod session;
mod visit;

use std::{net::SocketAddr, os::fd::AsFd, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::{Args, Parser, Subcommand, value_parser};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use service::Service;
use shared::{At, DemoArgs, SheetArgs, Stop, address, destination};
use socket2::Socket;

const LAB: &str = env!("CARGO_PKG_NAME");
const EXAMPLES: &str = "\
Examples:
  cargo lab21                           play all experiments
  cargo lab21 demo ten-objects --pause  one of them, for the projector
  cargo lab21 page                      terminal 1: 127.0.0.1:8080
  cargo lab21 page --close              it closes after each answer
  cargo lab21 page --idle 1             it closes a connection that was idle
                                        for 1 s
  cargo lab21 visit                     terminal 2: the page and its ten
                                        objects
  cargo lab21 visit --close             a connection for each of the 11
                                        requests
  cargo lab21 visit --wait 2 --post     2 s between requests, a POST at the end
  cargo lab21 visit localhost:8000      python3 -m http.server, or any other
  cargo lab21 host                      terminal 3: 127.0.0.1:2222
  cargo lab21 session                   terminal 4: type lines; Ctrl-D ends it";

#[derive(Parser)]
#[command(version, about = "Short-lived and long-lived TCP connections: HTTP, and a session", after_help = EXAMPLES)]
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
    /// Terminal 1: an HTTP server with a page and ten objects
    Page(PageArgs),
    /// Terminal 2: get the page and the objects it names
    Visit(VisitArgs),
    /// Terminal 3: the host of a session; answers each line
    Host(HostArgs),
    /// Terminal 4: a session with the host, over one connection
    Session(SessionArgs),
    /// In a private namespace: two hosts with a slow line between them
    #[command(hide = true)]
    Delayed { outside: String },
}

#[derive(Args)]
struct PageArgs {
    /// Where to listen: PORT, ADDRESS or ADDRESS:PORT; port 0 lets the kernel choose
    #[arg(default_value = "127.0.0.1:8080", value_parser = address("127.0.0.1:8080"))]
    address: SocketAddr,
    /// Close each connection after one answer
    #[arg(long)]
    close: bool,
    /// Close a connection on which nothing happened for so many seconds; 0: never
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    idle: u16,
    /// Bytes of each object
    #[arg(long, default_value_t = 1000, value_name = "BYTES", value_parser = value_parser!(u32).range(..=10_000_000))]
    size: u32,
    /// Wait for Enter before each socket call
    #[arg(long)]
    pause: bool,
}

#[derive(Args)]
struct VisitArgs {
    /// The server: PORT, ADDRESS or ADDRESS:PORT
    #[arg(default_value = "127.0.0.1:8080", value_parser = destination("127.0.0.1:8080"))]
    address: SocketAddr,
    /// Ask for "Connection: close": a connection for each request
    #[arg(long, conflicts_with = "keep")]
    close: bool,
    /// Ask for "Connection: keep-alive"; HTTP/1.1 keeps the connection unasked
    #[arg(long)]
    keep: bool,
    /// Seconds of silence between two requests
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    wait: u16,
    /// End with POST /guests, a request that is not repeated
    #[arg(long)]
    post: bool,
    /// Wait for Enter before each socket call
    #[arg(long)]
    pause: bool,
}

#[derive(Args)]
struct HostArgs {
    /// Where to listen: PORT, ADDRESS or ADDRESS:PORT; port 0 lets the kernel choose
    #[arg(default_value = "127.0.0.1:2222", value_parser = address("127.0.0.1:2222"))]
    address: SocketAddr,
    /// Wait for Enter before each socket call
    #[arg(long)]
    pause: bool,
}

#[derive(Args)]
struct SessionArgs {
    /// The host's address
    #[arg(default_value = "127.0.0.1:2222", value_parser = destination("127.0.0.1:2222"))]
    address: SocketAddr,
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
        None => return shared::play(&experiments::LESSON, &cli.demo),
        Some(Command::Demo(args)) => return shared::play(&experiments::LESSON, args),
        Some(Command::Sheet(args)) => return shared::sheet(include_str!("../README.md"), args),
        Some(Command::Page(args)) => {
            let service = Service::Page { close: args.close, size: args.size as usize, guests: 0 };
            let idle_limit = (args.idle > 0).then(|| Duration::from_secs(args.idle.into()));
            server::run(args.address, service, idle_limit, args.pause)?;
        }
        Some(Command::Visit(args)) => visit::run(args)?,
        Some(Command::Host(args)) => server::run(args.address, Service::Host, None, args.pause)?,
        Some(Command::Session(args)) => session::run(args)?,
        Some(Command::Delayed { outside }) => delayed::run(outside)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits until the next call on `sock` will not block; false after Ctrl-C, which a blocked call would not hear.
fn ready(sock: &Socket, events: PollFlags, stop: &Stop) -> Result<bool> {
    let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(sock.as_fd(), events)];
    loop {
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => {} // after a signal handler: signal(7)
            result => return Ok(result.at("poll", "").map(|_| !stop.requested())?),
        }
    }
}
