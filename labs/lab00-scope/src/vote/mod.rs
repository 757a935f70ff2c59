//! Filled in by its branch.

use std::process::ExitCode;

use anyhow::Result;

/// The options of `vote`.
#[derive(clap::Args)]
pub struct VoteArgs {}

/// Plays the part.
pub fn run(_args: &VoteArgs) -> Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}
