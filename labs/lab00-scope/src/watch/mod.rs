//! `watch`: the sockets of this machine, live, in the state diagram of TCP and one by one.
//!
//! The way of a look: [`diag`] asks the kernel, [`sock`] reads its answer, [`model`] finds what has changed, [`order`]
//! chooses the rows, [`cost`] says when the next look may come; then [`board`] draws all of it with [`diagram`] and [`table`], or [`plain`] prints the changes.

mod board;
mod cost;
mod diag;
mod diagram;
#[cfg(test)]
mod drawn;
mod keys;
mod live;
mod model;
mod order;
mod plain;
mod sock;
mod style;
mod table;
mod terminal;

use std::io::{IsTerminal, stdout};
use std::process::ExitCode;

use anyhow::Result;

/// The options of `watch`.
#[derive(clap::Args)]
pub struct WatchArgs {
    /// Show the TCP and UDP sockets with one of these ports at either end; none: all sockets
    #[arg(value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..), num_args = 0..=MOST_PORTS)]
    pub ports: Vec<u16>,
    /// Look again after so many milliseconds; later where looks would take more than a tenth of a processor
    #[arg(long, value_name = "MS", default_value_t = 250, value_parser = clap::value_parser!(u64).range(20..=60_000))]
    pub interval: u64,
    /// Print a line for each change and draw nothing; so it is in a pipe
    #[arg(long)]
    pub plain: bool,
    /// End after so many looks
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub looks: Option<u64>,
}

/// Each port costs two comparisons for each socket in the kernel.
const MOST_PORTS: usize = 32;

/// Draws the board on a terminal, prints changes elsewhere.
///
/// # Errors
/// What the kernel says of its sockets, or the terminal of being drawn on.
pub fn run(args: &WatchArgs) -> Result<ExitCode> {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    let sized = stdout().is_terminal() && termion::terminal_size().is_ok_and(|(columns, rows)| columns > 0 && rows > 0);
    if args.plain || dumb || !sized { plain::print(args) } else { live::show(args) }
}
