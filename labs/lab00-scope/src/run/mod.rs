//! `run`: the commands are stopped at the end of each socket call, and what the call has done is shown.

mod calls;
mod commands;
#[cfg(test)]
mod drawn;
mod end;
mod engine;
mod json;
mod ladder;
mod last;
pub mod model;
mod network;
mod networks;
mod page;
mod pcap;
mod plain;
mod registers;
mod segments;
mod signals;
mod slide;
mod softirq;
mod start;
mod states;
mod svg;
mod text;
mod threads;
mod tracer;
mod wire;
mod wrap;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::prctl::set_child_subreaper;

use engine::Engine;
use json::Json;
use ladder::Shown;
use model::Sink;
use network::Network;
use networks::Networks;
use pcap::Pcap;
use plain::Plain;
use signals::Signals;
use states::States;
use svg::Svg;
use text::Text;
use wire::Wire;

/// The options of `run`.
#[derive(clap::Args)]
pub struct RunArgs {
    /// Save the packets for Wireshark, tshark or tcpdump
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
    /// Save the picture as a page for slides
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Save what happened, a line of JSON each
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw less: no Unix sockets, no questions such as getsockname, no time limits
    #[arg(long)]
    brief: bool,
    /// Draw long transfers to their end; otherwise their first rounds are drawn, and the rest is counted
    #[arg(long)]
    whole: bool,
    /// Wait so many milliseconds after each step
    #[arg(long, value_name = "MS", default_value_t = 0)]
    slow: u64,
    /// Show only these calls, separated by commas: connect,accept,send
    #[arg(long, value_name = "CALLS", value_delimiter = ',')]
    only: Vec<String>,
    /// Write a line for each event, without a picture
    #[arg(long)]
    plain: bool,
    /// Show also what is left out: calls to the kernel's tables (netlink), F_GETFD, repeated polls in vain
    #[arg(long)]
    all: bool,
    /// Let acknowledgements that the kernel delays come before the next step: the same order in every run
    #[arg(long)]
    settle: bool,
    /// Start each further command when the one before has printed this
    #[arg(long, value_name = "TEXT")]
    after: Option<String>,
    /// Which command gets standard input: 1 is the first [default: the last]
    #[arg(long, value_name = "N")]
    stdin: Option<usize>,
    /// The commands: COMMAND [ARGS] [--and [--after TEXT] COMMAND [ARGS]]...
    #[arg(last = true, value_name = "COMMAND")]
    commands: Vec<String>,
    /// Become the command, once a tracer is there
    #[arg(long, hide = true)]
    stub: bool,
    /// Find out whether a private network can be had
    #[arg(long, hide = true)]
    probe: bool,
}

/// Runs the commands and shows what they do.
///
/// # Errors
/// Tracing is forbidden, a process cannot be started, the kernel's table cannot be read.
pub fn run(args: &RunArgs) -> Result<ExitCode> {
    if args.probe {
        return network::enter_private().map(|()| ExitCode::SUCCESS);
    }
    if args.stub {
        return commands::stub(&args.commands);
    }
    for name in &args.only {
        let known = calls::names();
        ensure!(known.contains(&name.as_str()), "--only {name}: no such call; there are {}", known.join(", "));
    }
    let mut commands = commands::split(&args.commands, args.after.as_deref())?;
    let typed_at = args.stdin.unwrap_or(commands.len());
    ensure!((1..=commands.len()).contains(&typed_at), "--stdin {typed_at}: there are {} commands", commands.len());
    commands[typed_at - 1].typed_at = true;

    let sinks = sinks(args)?;
    let signals = Signals::new()?;
    set_child_subreaper(true)?; // a daemon comes back to us
    let network = network::enter()?;
    let wire = if matches!(network, Network::Unseen) { None } else { Some(Wire::start()?) };
    let states = States::new(!matches!(network, Network::Private));
    let mut engine = Engine::new(commands, wire, states, signals, Networks::own()?, sinks);
    (engine.settles, engine.shows_all) = (args.settle, args.all);
    engine.slow = Duration::from_millis(args.slow);
    let only = args.only.clone();
    engine.shows = Box::new(move |name| only.is_empty() || only.iter().any(|only| only == name));
    engine.note(None, network.name())?;
    let status = end::play(&mut engine)?;
    Ok(ExitCode::from(status))
}

/// Everybody who is told what happens.
fn sinks(args: &RunArgs) -> Result<Vec<Box<dyn Sink>>> {
    let shown = Shown { brief: args.brief, whole: args.whole, slow: Duration::from_millis(args.slow) };
    let mut sinks: Vec<Box<dyn Sink>> = Vec::new();
    if args.plain {
        sinks.push(Box::new(Plain::new()));
    } else {
        sinks.push(Box::new(Text::new(shown)));
    }
    if let Some(path) = &args.pcap {
        sinks.push(Box::new(Pcap::create(path)?));
    }
    if let Some(path) = &args.json {
        sinks.push(Box::new(Json::create(path)?));
    }
    if let Some(path) = &args.svg {
        sinks.push(Box::new(Svg::create(path, &args.commands.join(" "), shown)?));
    }
    Ok(sinks)
}
