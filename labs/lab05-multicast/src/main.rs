//! Send to a group, join a group: who receives a multicast, and what does its sender learn?
//!
//! Terminal 1:   cargo run -p lab05-multicast -- receive
//! Terminal 2:   cargo run -p lab05-multicast -- receive
//! Terminal 3:   cargo run -p lab05-multicast -- send
//! Watch:        scripts/groups.sh 239.1.1.1
//! Experiments:  cargo run -p lab05-multicast
//!
//! Compare with lab03-datagram (one receiver, named by its address) and lab26-group (reliable, ordered).
//! Source: lecture notes ch.2, UDP Multicasting.
//! Read: ip(7) on IP_ADD_MEMBERSHIP, IP_MULTICAST_* and IP_TOS, socket(7) on SO_REUSEADDR, ipv6(7),
//! RFC 1112 sections 4 and 6, RFC 2365 section 6.

mod experiments;
mod log;
mod receive;
mod send;
mod wire;

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    process::ExitCode,
    time::Duration,
};

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use shared::{DemoArgs, Place, SheetArgs};

const LAB: &str = env!("CARGO_PKG_NAME");
const EXAMPLES: &str = "\
Examples:
  cargo lab05                 play all experiments
  cargo lab05 demo 2 --pause  the second one, for the projector
  cargo lab05 receive         terminals 1 and 2: join 239.1.1.1, port 53124
  cargo lab05 send            terminal 3: a datagram every 5 seconds
  cargo lab05 send 239.1.1.2:7000 --ttl 1 --interval 0.5
  socat -u UDP4-RECV:53124,reuseaddr,ip-add-membership=239.1.1.1:127.0.0.1 -
                              a foreign receiver

Groups are IPv4 addresses from 224.0.0.0 to 239.255.255.255; GROUP:PORT may
also be GROUP or PORT alone. The two programs read no input: Ctrl-C ends them.
Nothing leaves this machine unless --interface names another address than
127.0.0.1. Times are UTC. A datagram is shown on one line; control characters,
and bytes that are not UTF-8, are escaped.";

/// As in the lecture.
const DEFAULT_GROUP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 1, 1, 1), 53124);

#[derive(Parser)]
#[command(version, about = "Send to a group, join a group: who receives a multicast?", after_help = EXAMPLES)]
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
    /// Send "Hello world!" to a group, again and again
    Send(SendArgs),
    /// Join a group and show what arrives
    Receive(ReceiveArgs),
    /// Inside a private network: a cable with both ends on this machine. The experiment loop-back starts this role
    #[command(hide = true)]
    Wire(WireArgs),
}

#[derive(Args)]
struct SendArgs {
    /// Group and port to send to
    #[arg(default_value_t = DEFAULT_GROUP, value_name = "GROUP:PORT", value_parser = destination)]
    group: SocketAddrV4,
    /// Time to live: one more than the number of routers that may pass a datagram on
    #[arg(long, default_value_t = 4, value_name = "HOPS")]
    ttl: u8,
    /// Seconds between two datagrams, 0.01 to 86400
    #[arg(long, default_value = "5", value_name = "SECONDS", value_parser = interval)]
    interval: Duration,
    /// Address of the interface to send from
    #[arg(long, default_value_t = Ipv4Addr::LOCALHOST, value_name = "ADDRESS")]
    interface: Ipv4Addr,
    /// Wait for Enter before each socket call
    #[arg(long)]
    pause: bool,
}

#[derive(Args)]
struct ReceiveArgs {
    /// Group to join and port to bind; port 0 lets the kernel choose
    #[arg(default_value_t = DEFAULT_GROUP, value_name = "GROUP:PORT", value_parser = group)]
    group: SocketAddrV4,
    /// Address of the interface to join the group on
    #[arg(long, default_value_t = Ipv4Addr::LOCALHOST, value_name = "ADDRESS")]
    interface: Ipv4Addr,
    /// Do not set SO_REUSEADDR: start a second receiver, and see
    #[arg(long)]
    no_reuse_addr: bool,
    /// Wait for Enter before each socket call
    #[arg(long)]
    pause: bool,
}

#[derive(Args)]
struct WireArgs {
    /// The network namespace of the demo, where no cable may be laid
    outside: String,
}

/// PORT, GROUP or GROUP:PORT.
fn group(text: &str) -> Result<SocketAddrV4, String> {
    let addrs = text.parse::<Place>()?.resolved(SocketAddr::V4(DEFAULT_GROUP))?;
    let mut groups = addrs.into_iter().filter_map(|addr| match addr {
        SocketAddr::V4(addr) if addr.ip().is_multicast() => Some(addr),
        _ => None,
    });
    groups.next().ok_or_else(|| "no group: IPv4 groups go from 224.0.0.0 to 239.255.255.255".into())
}

fn destination(text: &str) -> Result<SocketAddrV4, String> {
    let addr = group(text)?;
    if addr.port() > 0 { Ok(addr) } else { Err("nobody is at port 0: a port from 1 to 65535".into()) }
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds")?;
    if (0.01..=86400.0).contains(&seconds) { Ok(Duration::from_secs_f64(seconds)) } else { Err("0.01 to 86400".into()) }
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
        Some(Command::Send(args)) => send::run(args).map(|()| ExitCode::SUCCESS),
        Some(Command::Receive(args)) => receive::run(args).map(|()| ExitCode::SUCCESS),
        Some(Command::Wire(args)) => wire::run(args).map(|()| ExitCode::SUCCESS),
    }
}
