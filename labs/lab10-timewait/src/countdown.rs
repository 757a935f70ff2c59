//! Terminal 3: what is left of each TIME-WAIT on a port, as bars, from the first one until none is left.

use std::{os::fd::AsFd, time::Duration};

use anyhow::Result;
use kernel::{Row, State, tcp_sockets};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shared::{Screen, Stop};

/// Between two looks at the kernel's table.
const EVERY_MS: u16 = 1000;
/// One mark of a bar.
const MARK: Duration = Duration::from_secs(3);
/// The marks of a full bar: a minute.
const MARKS: usize = 20;
/// A screen has no room for more.
const MOST_BARS: usize = 20;

/// Waits for the first TIME-WAIT, then draws a picture a second until none is left, or until Ctrl-C.
pub fn run(port: u16) -> Result<()> {
    let stop = Stop::on_signals()?;
    let mut screen = Screen::new();
    let mut has_begun = false;
    let mut waiting = String::new();
    loop {
        let mut rows = tcp_sockets(port)?;
        let others = rows.iter().filter(|row| !is_left_behind(row)).count();
        rows.retain(is_left_behind);
        if rows.is_empty() {
            let none = format!("no TIME-WAIT on port {port}, sockets in other states: {others}");
            if has_begun {
                screen.clear();
                screen.line(none);
                return Ok(());
            }
            let still = format!("{none} (waiting for the first, Ctrl-C ends)");
            if still != waiting {
                screen.clear(); // nothing in a pipe
                screen.line(&still);
                waiting = still;
            }
        } else {
            has_begun = true;
            screen.clear();
            draw(&mut screen, port, &mut rows);
        }
        let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::from(EVERY_MS)); // after EINTR the next picture comes at once
        if stop.requested() {
            return Ok(());
        }
    }
}

/// A bar for each row, the one that is over next first.
fn draw(screen: &mut Screen, port: u16, rows: &mut [Row]) {
    rows.sort_by_key(|row| row.timer);
    screen.line(format_args!("port {port}: {} left behind (a mark is 3 s, Ctrl-C ends)", rows.len()));
    for row in rows.iter().take(MOST_BARS) {
        let left = row.timer.unwrap_or_default();
        let state = row.state.to_string();
        let pair = format!("{} > {}", row.pair.local, row.pair.peer);
        screen.line(format_args!("{pair:<33} {state:<10} {:>4.1} s {}", left.as_secs_f64(), bar(left)));
    }
    if rows.len() > MOST_BARS {
        screen.line(format_args!("and {} more", rows.len() - MOST_BARS));
    }
    screen.line("");
}

/// No program has it open: only the kernel keeps TIME-WAIT, or FIN-WAIT-2 after the close, until a timer ends it.
fn is_left_behind(row: &Row) -> bool {
    matches!(row.state, State::TimeWait | State::FinWait2) && row.inode == 0
}

fn bar(left: Duration) -> String {
    let marks = (left.as_millis().div_ceil(MARK.as_millis()) as usize).min(MARKS);
    format!("{}{}", "#".repeat(marks), ".".repeat(MARKS - marks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_has_a_mark_for_each_three_seconds_begun() {
        let marks = |seconds| bar(Duration::from_secs(seconds)).matches('#').count();
        assert_eq!([0, 1, 3, 4, 60, 120].map(marks), [0, 1, 1, 2, 20, 20]);
        assert_eq!(bar(Duration::from_secs(3)).len(), MARKS);
    }
}
