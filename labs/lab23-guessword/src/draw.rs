//! Terminals 2, 3 ... of the white-board: full screen on a terminal; in a pipe a line for each stroke, and the picture at
//! the end.

use std::{
    io::{IsTerminal, stdin, stdout},
    net::SocketAddr,
    process::ExitCode,
};

use anyhow::Result;
use shared::escaped;

use crate::{ClientArgs, canvas::Canvas, client, client::Copy, terminal};

/// Draws until Ctrl-C or end of input.
pub fn run(args: &ClientArgs, default: SocketAddr) -> Result<ExitCode> {
    if stdin().is_terminal() && stdout().is_terminal() {
        terminal::run(args, default)
    } else {
        client::run(args, default, Sheet::default())
    }
}

/// The white-board as lines.
#[derive(Default)]
struct Sheet(Canvas);

impl Copy for Sheet {
    fn hear(&mut self, line: &str) -> Result<String, String> {
        Ok(match self.0.hear(line)? {
            None => format!("{} you are in", self.0.number),
            Some(event) => escaped(format!("{} {event}", self.0.number).as_bytes()),
        })
    }

    fn prompt(&self) -> &'static str {
        ""
    }

    fn end(&self) -> Vec<String> {
        self.0.rows().map(|row| format!("|{row}|")).collect()
    }
}
