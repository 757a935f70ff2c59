//! The sockets, one a row: queues as bars, timers running down. Pure drawing.

use std::net::SocketAddr;
use std::time::Duration;

use kernel::State;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::model::{Entry, Mark, Model};
use super::sock::{Sock, TimerKind};
use super::style::{Look, put};

const STATE: usize = 13;
const NUMBER: usize = 7;
const TIMER: usize = 16;
/// The usual address, 127.0.0.1:50000; and the longest one that is never cut.
const SHORT_ADDRESS: usize = 15;
const LONGEST_BAR: usize = 8;
const SHORTEST_BAR: usize = 4;
/// TIME-WAIT lasts so long: a timer of this length has a full bar.
const FULL_TIMER: Duration = Duration::from_secs(60);

/// Where the columns stand.
struct Columns {
    address: usize,
    /// 0: no room for bars.
    bar: usize,
    timer_bar: usize,
}

impl Columns {
    /// Addresses get what the longest one needs, then the bars get the rest.
    fn for_rows(width: usize, rows: &[&Entry]) -> Columns {
        let length = |entry: &&Entry| place(entry.sock.pair.local).len().max(place(entry.sock.pair.peer).len());
        let wanted = rows.iter().map(length).max().unwrap_or(0).max(SHORT_ADDRESS);
        let fixed = 1 + STATE + 4 + 2 * NUMBER + 2 + TIMER;
        let address = wanted.min((width.saturating_sub(fixed) / 2).max(SHORT_ADDRESS));
        let left = width.saturating_sub(fixed + 2 * address);
        let bar = Some((left / 2).saturating_sub(1).min(LONGEST_BAR)).filter(|bar| *bar >= SHORTEST_BAR).unwrap_or(0);
        let left = left.saturating_sub(if bar > 0 { 2 * bar + 2 } else { 0 });
        Columns { address, bar, timer_bar: if left > LONGEST_BAR { LONGEST_BAR } else { 0 } }
    }

    fn line(&self, fields: [&str; 8]) -> String {
        let [mark, state, local, peer, recv, send, timer, timer_bar] = fields;
        let (address, queue) = (self.address, if self.bar > 0 { NUMBER + 1 + self.bar } else { NUMBER });
        format!(
            "{mark:1}{state:<STATE$} {local:<address$} {peer:<address$} {recv:<queue$} {send:<queue$}  {timer:<TIMER$} {timer_bar}"
        )
    }

    fn queue(&self, number: &str, bar: &str) -> String {
        let number = format!("{number:>NUMBER$}");
        if self.bar > 0 { format!("{number} {bar}") } else { number }
    }
}

/// Draws the heading and as many rows as there is room for.
pub fn draw(area: Rect, buffer: &mut Buffer, model: &Model, rows: &[&Entry], look: Look) {
    let columns = Columns::for_rows(area.width.into(), rows);
    let (recv, send) = (columns.queue("Recv-Q", ""), columns.queue("Send-Q", ""));
    let heading = columns.line(["", "State", "Local address", "Peer address", &recv, &send, "Timer", ""]);
    put(buffer, area, 0, 0, heading.trim_end(), look.plain());
    for (row, entry) in (1..area.height).zip(rows) {
        let (text, style) = row_of(entry, model.now, &columns, look);
        // Over the whole row: what is reversed looks torn where it ends with the text.
        put(buffer, area, 0, row, &format!("{text:<width$}", width = area.width.into()), style);
    }
}

fn row_of(entry: &Entry, now: Duration, columns: &Columns, look: Look) -> (String, Style) {
    let sock = &entry.sock;
    let fresh = entry.fresh(now);
    let (mark, style) = match fresh {
        Some(Mark::New) => ("+", look.new_row()),
        Some(Mark::State) => ("*", look.changed()),
        Some(Mark::Queue | Mark::Resent) => ("~", look.strong()),
        Some(Mark::Gone) => ("-", look.gone_row()),
        None => (" ", look.plain()),
    };
    let (recv, send) = if sock.is_listening() {
        let bar = filled(sock.recv_queue.into(), u64::from(sock.send_queue) + 1, columns.bar);
        (columns.queue(&number(sock.recv_queue), &bar), columns.queue(&format!("of {}", sock.send_queue), ""))
    } else {
        let queue = |bytes: u32| columns.queue(&number(bytes), &growing(bytes, columns.bar));
        (queue(sock.recv_queue), queue(sock.send_queue))
    };
    let [local, peer] = [sock.pair.local, sock.pair.peer].map(|addr| shortened(&place(addr), columns.address));
    let (timer, bar) = match (sock.timer, fresh) {
        (_, Some(Mark::Gone)) => ("gone".into(), String::new()),
        (Some(timer), _) => {
            let left = timer.left.min(FULL_TIMER).as_millis() as u64;
            (timer_text(sock), filled(left, FULL_TIMER.as_millis() as u64, columns.timer_bar))
        }
        (None, _) => Default::default(),
    };
    (columns.line([mark, &sock.state_name(), &local, &peer, &recv, &send, &timer, &bar]), style)
}

/// As ss writes it: `*` for any address and for no peer.
pub fn place(addr: SocketAddr) -> String {
    match (addr.ip().is_unspecified(), addr.port()) {
        (true, 0) => if addr.is_ipv4() { "*" } else { "[::]:*" }.into(),
        _ => addr.to_string(),
    }
}

/// A long address loses its middle; the port stays.
fn shortened(place: &str, width: usize) -> String {
    if place.len() <= width {
        return place.into();
    }
    let end = place.rfind(':').map_or(place.len(), |colon| colon);
    let kept = width.saturating_sub(place.len() - end + 2);
    format!("{}..{}", &place[..kept.min(end)], &place[end..])
}

/// Exact up to seven digits.
fn number(number: u32) -> String {
    if number < 10_000_000 { number.to_string() } else { format!("{}M", number / 1_000_000) }
}

/// A part of a whole; something is never nothing.
fn filled(part: u64, whole: u64, width: usize) -> String {
    "#".repeat((part.min(whole) * width as u64).div_ceil(whole.max(1)) as usize)
}

/// One `#` for 1 byte or more, and one more each time that the bytes are eight times as many: 4 MB are a full bar.
fn growing(bytes: u32, width: usize) -> String {
    "#".repeat((u32::BITS - bytes.leading_zeros()).div_ceil(3).min(width as u32) as usize)
}

/// Which timer, when it runs out, and how often it has run out before.
pub fn timer_text(sock: &Sock) -> String {
    let Some(timer) = sock.timer else { return String::new() };
    let name = match timer.kind {
        TimerKind::Resend => "resend",
        // The kernel keeps this time on the timer of keepalive probes where no program has the socket any more.
        TimerKind::Keepalive if sock.state == State::FinWait2 && sock.inode == 0 => "ends in",
        TimerKind::Keepalive => "keepalive",
        TimerKind::End => "ends in",
        TimerKind::Probe => "probe",
    };
    let left = match timer.left.as_secs() {
        0..10 => format!("{:.1}s", timer.left.as_secs_f64()),
        10..600 => format!("{}s", timer.left.as_secs()),
        seconds => format!("{}m", seconds / 60),
    };
    let tries =
        if timer.tries > 0 && timer.kind != TimerKind::End { format!(" x{}", timer.tries) } else { String::new() };
    format!("{name} {left}{tries}")
}
