//! What every lab's command line has in common: the way in and out, `demo`, `sheet`.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

use crate::{CallError, Screen, role::end_with_parent};

/// The options of `demo`, the same in every lab.
#[derive(Args, Clone, Debug, Default)]
pub struct DemoArgs {
    /// Experiments to play, by name or number; all if none is named
    #[arg(value_name = "NAME|NUMBER")]
    pub names: Vec<String>,
    /// List number, name, claim and source; no answers. * marks the three to remember
    #[arg(long)]
    pub list: bool,
    /// For the projector: one experiment a screen, each question waits for the class
    #[arg(long)]
    pub pause: bool,
    /// Ask for your own prediction first and keep the score (needs a terminal)
    #[arg(long)]
    pub predict: bool,
}

/// A value parser for clap: an IPv4 or IPv6 address and a port.
///
/// # Errors
/// What such an address looks like.
pub fn socket_addr(text: &str) -> Result<std::net::SocketAddr, String> {
    text.parse().map_err(|_| "not ADDRESS:PORT in numbers, such as 127.0.0.1:7777 or [::1]:7777".into())
}

/// Runs a lab's `body` and turns its error into a message with a hint; `lab` is its package name.
pub fn run(lab: &str, body: impl FnOnce() -> Result<ExitCode>) -> ExitCode {
    end_with_parent().and_then(|()| body()).unwrap_or_else(|error| {
        tell(format_args!("{}: {error:#}\n", &lab[.."labNN".len()]));
        if let Some(hint) = error.downcast_ref::<CallError>().and_then(CallError::hint) {
            tell(format_args!("  hint: {hint}\n"));
        }
        ExitCode::FAILURE
    })
}

/// Says what is wrong with the command line; exit status 2, as clap's own.
pub(crate) fn usage(lab: &str, problem: &str) -> ExitCode {
    tell(format_args!("{}: {problem}\n  hint: {lab} demo --help\n", &lab[.."labNN".len()]));
    ExitCode::from(2)
}

/// Writes to standard error; nobody is left to tell if that is closed too.
fn tell(message: impl Display) {
    let _ = write!(io::stderr(), "{message}");
}

/// Prints the lab's section of NOTES.md, its HTML tags left out.
///
/// # Errors
/// The notes hold no section of that name.
pub fn sheet(notes: &str, lab: &str) -> Result<ExitCode> {
    let from = notes.find(&format!("## {lab}")).with_context(|| format!("NOTES.md has no section {lab}"))?;
    let section = &notes[from..];
    let to = section.match_indices("\n## ").next().map_or(section.len(), |(at, _)| at);
    let plain = |line: &&str| !matches!(line.trim(), "<details>" | "</details>");
    let text: Vec<_> = section[..to].lines().filter(plain).collect();
    let text = text.join("\n").replace("<summary>", "").replace("</summary>", "");
    Screen::new().line(text.trim_end());
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_sheet_is_found_by_its_heading_only() {
        assert!(super::sheet("# Notes\n\n## lab02-bind\ntext\n", "lab07-multiclient").is_err());
    }
}
