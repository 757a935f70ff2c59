//! Filled in by its branch.

use std::process::ExitCode;

use anyhow::Result;

/// The options of `watch`.
#[derive(clap::Args)]
pub struct WatchArgs {}

/// Plays the part.
pub fn run(_args: &WatchArgs) -> Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}
