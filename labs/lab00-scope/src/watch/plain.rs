//! The log: each change in a line of its own, for a pipe, a file, or a class that reads along.

use std::io::stdout;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shared::{Screen, Stop};

use super::WatchArgs;
use super::board::pair_text;
use super::cost::Cost;
use super::diag::Diag;
use super::model::{Change, Model};
use super::sock::{Protocol, Sock};
use super::table::timer_text;

/// What a program killed by SIGPIPE leaves behind: 128 + 13.
const EXIT_CLOSED_PIPE: u8 = 141;

/// Prints changes until Ctrl-C, SIGTERM, or the end of whoever reads them.
///
/// # Errors
/// What the kernel says of its sockets.
pub fn print(args: &WatchArgs) -> Result<ExitCode> {
    let (stop, mut screen) = (Stop::on_signals()?, Screen::new());
    let (mut diag, mut model) = (Diag::open(&args.ports)?, Model::default());
    let (begun, mut interval) = (Instant::now(), Duration::from_millis(args.interval));
    let mut due = begun;
    for look in 0..args.looks.unwrap_or(u64::MAX) {
        if look > 0 {
            due += interval;
            if let Some(code) = wait_until(due, &stop) {
                return Ok(code);
            }
            due = due.max(Instant::now()); // after Ctrl-Z and fg there is nothing to catch up on
        }
        let cost = Cost::begin();
        let at = if look == 0 { Duration::ZERO } else { begun.elapsed() };
        let socks = diag.look(std::mem::take(&mut model.spare))?;
        let mut changes = model.update(at, socks);
        if look == 0 {
            for missing in &diag.missing {
                screen.line(format_args!("this kernel does not show: {missing}"));
            }
            if changes.is_empty() {
                screen.line("no such socket yet; each change comes as a line");
            }
        }
        changes.sort_by_key(order);
        let lines: Vec<String> = changes.iter().map(line).collect();
        if !lines.is_empty() {
            screen.line(lines.join("\n"));
        }
        interval = cost.interval(Duration::from_millis(args.interval));
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits; the exit status if it shall end instead.
fn wait_until(due: Instant, stop: &Stop) -> Option<ExitCode> {
    let output = stdout();
    loop {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return stop.requested().then_some(ExitCode::SUCCESS);
        }
        // poll(2) reports a closed pipe without being asked for it.
        let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(output.as_fd(), PollFlags::empty())];
        let limit = PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX);
        let _ = poll(&mut fds, limit); // EINTR after Ctrl-Z and fg: again
        if stop.requested() {
            return Some(ExitCode::SUCCESS);
        }
        if fds[1].revents().is_some_and(|events| events.intersects(PollFlags::POLLERR | PollFlags::POLLNVAL)) {
            return Some(ExitCode::from(EXIT_CLOSED_PIPE));
        }
    }
}

/// The changes of one look: in the order of a connection's life, then by address.
fn order(change: &Change) -> Option<(Protocol, usize, std::net::SocketAddr, std::net::SocketAddr)> {
    let sock = change.after.as_ref().or(change.before.as_ref())?;
    Some((sock.protocol, sock.stage(), sock.pair.local, sock.pair.peer))
}

/// Such as `+1.25s  127.0.0.1:4444 > 127.0.0.1:50000  ESTABLISHED > CLOSE-WAIT  Recv-Q 0 > 1`.
fn line(change: &Change) -> String {
    let at = format!("+{:.2}s", change.at.as_secs_f64());
    let (Some(sock), before) = (change.after.as_ref().or(change.before.as_ref()), change.before.as_ref()) else {
        return at;
    };
    let mut parts = vec![format!("{at:<7}"), pair_text(sock)];
    match (before, &change.after) {
        (Some(before), None) => parts.push(format!("{} > gone", before.state_name())),
        (Some(before), Some(after)) if before.state != after.state => {
            parts.push(format!("{} > {}", before.state_name(), after.state_name()));
        }
        (Some(_), Some(after)) => parts.push(after.state_name()),
        _ => parts.push(if change.at.is_zero() { sock.state_name() } else { format!("new > {}", sock.state_name()) }),
    }
    if let Some(after) = &change.after {
        parts.extend(queues(before, after));
    }
    parts.join("  ")
}

/// What is other than before, or, of a new socket, not nothing.
fn queues(before: Option<&Sock>, after: &Sock) -> Vec<String> {
    let mut parts = Vec::new();
    if after.is_listening() {
        let of = |sock: &Sock| (sock.recv_queue, sock.send_queue);
        if before.map(of) != Some(of(after)) {
            parts.push(format!("accept queue {} of {}", after.recv_queue, after.send_queue));
        }
        return parts;
    }
    let before_queues = before.map_or((0, 0), |sock| (sock.recv_queue, sock.send_queue));
    for (name, old, new) in
        [("Recv-Q", before_queues.0, after.recv_queue), ("Send-Q", before_queues.1, after.send_queue)]
    {
        if old != new {
            parts.push(format!("{name} {old} > {new}"));
        }
    }
    let tries = |sock: &Sock| sock.timer.map_or(0, |timer| timer.tries);
    if tries(after) > before.map_or(0, tries) {
        parts.push(timer_text(after));
    }
    parts
}
