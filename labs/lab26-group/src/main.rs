//! A text to a group: who gets it, in which order, and who is there at all?
//!
//! Terminal 1:   cargo run -p lab26-group -- member ann
//! Terminal 2:   cargo run -p lab26-group -- member bob
//! Terminal 3:   cargo run -p lab26-group -- member cid --loss 10 --no-repair
//! Terminal 4:   cargo run -p lab26-group -- find
//! Watch:        scripts/groups.sh 239.26.26.26
//! Experiments:  cargo run -p lab26-group
//!
//! Compare with lab05-multicast (a group without repair and order) and lab16-mboard-sessions (repair between two ends).
//! Source: lecture notes ch.6, Indirect communication, Space uncoupling, Group communication.
//! Read: ip(7) on IP_ADD_MEMBERSHIP and IP_MULTICAST_*; L. Lamport, "Time, clocks and the ordering of events", CACM 1978;
//! Coulouris et al., "Distributed Systems", on ordered multicast.

mod experiments;
mod find;
mod group;
mod lines;
mod member;
mod seat;
mod simulate;
mod simulation;
mod udp;

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    process::ExitCode,
    time::Duration,
};

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};
use shared::{DemoArgs, Place, SheetArgs};

use crate::group::{Order, wire::is_name};

const LAB: &str = env!("CARGO_PKG_NAME");
const EXAMPLES: &str = "\
Examples:
  cargo lab26                           play all experiments
  cargo lab26 demo 2 --pause            the second one, for the projector
  cargo lab26 member ann                terminals 1 and 2: a member, its name
  cargo lab26 member cid --loss 10 --no-repair
                                        throws one datagram in ten away
  cargo lab26 member ann --order total  all members with the same order
  cargo lab26 find                      a client that knows no server
  cargo lab26 simulate --order total    one run on a simulated network
  cargo lab26 simulate --order total --runs 10000 --broken clock
                                        finds what the broken protocol does

Groups are IPv4 addresses from 239.0.0.0 to 239.255.255.255; GROUP:PORT may
also be GROUP or PORT alone. Type a line and Enter; Ctrl-C or Ctrl-D ends a
program. Nothing leaves this machine: all datagrams go through 127.0.0.1. A
line has at most 1000 bytes. Nothing is signed: whoever can send to the group
can lie to it.";

/// Ours: the lecture names no group.
const DEFAULT_GROUP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 26, 26, 26), 53126);

#[derive(Parser)]
#[command(version, about = "A text to a group: who gets it, and in which order?", after_help = EXAMPLES)]
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
    /// Be a member of the group: say what is typed, show what is said
    Member(MemberArgs),
    /// Be a client that knows no server: ask the group, take the first that answers
    Find(FindArgs),
    /// Play the same protocol over a simulated network
    Simulate(SimulateArgs),
    /// Inside a private network: one datagram to 20 members. The experiment one-packet starts this role
    #[command(hide = true)]
    Count,
}

#[derive(Args)]
struct MemberArgs {
    /// How the others see you: 1 to 20 letters, digits, - and _
    #[arg(value_parser = name)]
    name: String,
    /// Group to join and port to bind
    #[arg(default_value_t = DEFAULT_GROUP, value_name = "GROUP:PORT", value_parser = destination)]
    group: SocketAddrV4,
    /// In which order to show the texts; the same for all members
    #[arg(long, value_enum, default_value_t = Order::Fifo)]
    order: Order,
    /// Throw away what arrives, in percent
    #[arg(long, default_value_t = 0, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    loss: u8,
    /// Which datagrams are thrown away
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Never ask for what is missing
    #[arg(long)]
    no_repair: bool,
    /// Milliseconds between two heartbeats; silence of five is taken for death
    #[arg(long, default_value_t = 250, value_name = "MS", value_parser = clap::value_parser!(u32).range(20..=60_000))]
    heartbeat: u32,
    /// Wait for Enter before each of the first socket calls, up to the first heartbeat
    #[arg(long)]
    pause: bool,
}

#[derive(Args)]
struct FindArgs {
    /// Group to ask
    #[arg(default_value_t = DEFAULT_GROUP, value_name = "GROUP:PORT", value_parser = destination)]
    group: SocketAddrV4,
    /// Wait for so many answers at first, at most 10 s; without it, 200 ms after the first one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=20))]
    answers: Option<u8>,
    /// Wait for Enter before each socket call
    #[arg(long)]
    pause: bool,
}

/// A part of the protocol that can be left out.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Broken {
    /// Nobody asks for what is missing.
    Repair,
    /// A text does not say what its sender had delivered before.
    Clock,
    /// A new sequencer begins without asking what the others have delivered.
    Flush,
}

#[derive(Args)]
struct SimulateArgs {
    /// Members at the beginning
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=200))]
    members: u32,
    /// Percent of the datagrams that are lost on their way to a member
    #[arg(long, default_value_t = 10, value_name = "PERCENT", value_parser = clap::value_parser!(u64).range(0..=90))]
    loss: u64,
    /// The first run; the same seed plays the same run again
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// In which order the members deliver
    #[arg(long, value_enum, default_value_t = Order::Total)]
    order: Order,
    /// So many runs, each with the next seed
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    runs: u64,
    /// Texts that each member says, answers not counted
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=100))]
    texts: u32,
    /// Members that crash
    #[arg(long, default_value_t = 1, value_name = "N")]
    crashes: u32,
    /// Members that are stopped for a while
    #[arg(long, default_value_t = 1, value_name = "N")]
    stops: u32,
    /// Leave a part of the protocol out
    #[arg(long, value_enum, value_name = "PART")]
    broken: Option<Broken>,
}

fn name(text: &str) -> Result<String, String> {
    if is_name(text) { Ok(text.into()) } else { Err("a name has 1 to 20 letters, digits, - and _".into()) }
}

/// PORT, GROUP or GROUP:PORT.
fn destination(text: &str) -> Result<SocketAddrV4, String> {
    let addrs = text.parse::<Place>()?.resolved(SocketAddr::V4(DEFAULT_GROUP))?;
    let mut groups = addrs.into_iter().filter_map(|addr| match addr {
        SocketAddr::V4(addr) if addr.ip().octets()[0] == 239 => Some(addr),
        _ => None,
    });
    let group = groups.next().ok_or("no group: this lab's groups go from 239.0.0.0 to 239.255.255.255")?;
    if group.port() > 0 { Ok(group) } else { Err("nobody is at port 0: a port from 1 to 65535".into()) }
}

/// A number that no other member has, as far as chance goes.
fn fresh_id() -> u32 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let seed = since.as_nanos() as u64 ^ (u64::from(std::process::id()) << 32);
    (shared::SplitMix64::new(seed).draw() >> 33) as u32 + 1
}

/// Milliseconds between two heartbeats.
fn heartbeat(ms: u32) -> Duration {
    Duration::from_millis(ms.into())
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
        Some(Command::Member(args)) => member::run(args).map(|()| ExitCode::SUCCESS),
        Some(Command::Find(args)) => find::run(args).map(|()| ExitCode::SUCCESS),
        Some(Command::Simulate(args)) => simulate::run(args),
        Some(Command::Count) => experiments::count::run().map(|()| ExitCode::SUCCESS),
    }
}
