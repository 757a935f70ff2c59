//! The loop of the board: a look, a drawing, and a wait for keys.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::errno::Errno;

use super::WatchArgs;
use super::board::{self, Facts};
use super::cost::Cost;
use super::diag::Diag;
use super::keys::View;
use super::model::Model;
use super::order::chosen;
use super::style::Look;
use super::terminal::{Board, Input};

/// Shows the board until q or a signal.
///
/// # Errors
/// What the kernel says of its sockets, or the terminal of being written to.
pub fn show(args: &WatchArgs) -> Result<ExitCode> {
    let mut diag = Diag::open(&args.ports)?;
    let look = Look::of_the_environment();
    let (mut model, mut view) = (Model::default(), View::default());
    let mut facts =
        Facts { ports: args.ports.clone(), interval_ms: args.interval.into(), cost_ms: 0.0, missing: Vec::new() };
    let mut board = Board::open()?;
    let (begun, mut due, mut looks_left) = (Instant::now(), Instant::now(), args.looks.unwrap_or(u64::MAX));
    loop {
        let cost = Cost::begin();
        let looks = Instant::now() >= due && !view.frozen;
        if looks {
            let socks = diag.look(std::mem::take(&mut model.spare))?;
            model.update(begun.elapsed(), socks);
            facts.missing.clone_from(&diag.missing);
        }
        let drawn = board.terminal.draw(|frame| {
            let area = frame.area();
            board::draw(area, frame.buffer_mut(), &model, &view, &facts, look);
        });
        if let Err(error) = drawn {
            if error.raw_os_error() == Some(Errno::EIO as i32) {
                break; // the terminal is gone
            }
            return Err(error.into());
        }
        if looks {
            let interval = cost.interval(Duration::from_millis(args.interval));
            (facts.cost_ms, facts.interval_ms) = (cost.so_far().as_secs_f64() * 1000.0, interval.as_millis());
            due = Instant::now() + interval;
            looks_left -= 1;
        }
        if looks_left == 0 {
            break;
        }
        let limit = if view.frozen { Duration::from_secs(3600) } else { due.saturating_duration_since(Instant::now()) };
        match board.wait(limit)? {
            Input::Keys(keys) => {
                let rows = board::rows_of_sockets(board.terminal.get_frame().area());
                let total = chosen(model.entries(), (view.sort, view.filter, &view.text), 0, 0).1;
                if !keys.into_iter().all(|key| view.press(key, rows, total)) {
                    break;
                }
            }
            Input::End => break,
            Input::Redraw | Input::Quiet => {}
        }
    }
    Ok(ExitCode::SUCCESS)
}
