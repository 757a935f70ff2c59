//! The whole board: heading, state diagram, sockets, keys; or the help. Pure drawing.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::diagram::{Diagram, LOW, TALL, WIDTH};
use super::keys::View;
use super::model::Model;
use super::order::{Filter, chosen};
use super::style::{Look, put};
use super::table::{self, place};

/// What the board needs, in columns and rows.
const LEAST: (u16, u16) = (78, 14);
/// From so many rows on, the tall diagram leaves room for ten sockets.
const ROWS_FOR_TALL: u16 = 29;
/// From so many columns on, the latest changes stand beside the diagram.
const COLUMNS_FOR_LATEST: u16 = WIDTH + LATEST + 2;
const LATEST: u16 = 38;
/// Heading, heading of the table, keys; and from so many rows on, the line of UDP.
const OTHER_ROWS: u16 = 3;
const ROWS_FOR_UDP: u16 = 20;

/// What the board says besides what the model knows.
pub struct Facts {
    pub ports: Vec<u16>,
    /// Between the last look and the next one.
    pub interval_ms: u128,
    /// Processor time of the last look and drawing.
    pub cost_ms: f64,
    /// Tables that this kernel does not show.
    pub missing: Vec<&'static str>,
}

pub fn draw(area: Rect, buffer: &mut Buffer, model: &Model, view: &View, facts: &Facts, look: Look) {
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let size = format!("{} x {}", area.width, area.height);
        let lines = [format!("This window has {size}."), format!("The board needs {} x {}.", LEAST.0, LEAST.1)];
        for (row, line) in (0..).zip(lines.iter().map(String::as_str).chain(["Enlarge it, or q and --plain."])) {
            put(buffer, area, 0, row, line, look.plain());
        }
        return;
    }
    let last = area.height - 1;
    let rows = rows_of_sockets(area);
    let (shown, total) = chosen(model.entries(), (view.sort, view.filter, &view.text), view.top, rows);
    let from = view.top.min(total.saturating_sub(rows)) + shown.len().min(1);
    let part = format!("{from}-{} of {total}", from + shown.len() - shown.len().min(1));
    heading(area, buffer, model, view, facts, &part, look);
    if view.help {
        for (row, line) in (2..last).zip(help(facts)) {
            put(buffer, area, 1, row, &line, look.plain());
        }
        return put(buffer, area, 0, last, " any key: back to the board", look.strong());
    }
    let diagram = diagram_for(area);
    let beside = area.width >= COLUMNS_FOR_LATEST;
    let left = if beside { 0 } else { (area.width - WIDTH) / 2 };
    let place = Rect { x: area.x + left, y: area.y + 1, width: WIDTH, height: diagram.rows() };
    diagram.draw(place, buffer, model, look);
    if beside {
        let place = Rect { x: area.x + area.width - LATEST, width: LATEST, ..place };
        latest(place, buffer, model, look);
    }

    let mut row = 1 + diagram.rows();
    if area.height >= ROWS_FOR_UDP {
        let [bound, connected] = model.udp;
        put(buffer, area, 0, row, &format!(" UDP has no states: {bound} bound, {connected} connected"), look.plain());
        row += 1;
    }
    let table = Rect { y: area.y + row, height: rows as u16 + 1, ..area };
    table::draw(table, buffer, model, &shown, look);
    if total == 0 {
        put(buffer, table, 1, 1, &nothing(view, facts), look.plain());
    }
    put(buffer, area, 0, last, &keys(view), look.strong());
}

fn diagram_for(area: Rect) -> &'static Diagram {
    if area.height >= ROWS_FOR_TALL { &TALL } else { &LOW }
}

/// How many sockets a window of this size shows.
pub fn rows_of_sockets(area: Rect) -> usize {
    let udp = u16::from(area.height >= ROWS_FOR_UDP);
    area.height.saturating_sub(diagram_for(area).rows() + OTHER_ROWS + udp).into()
}

/// What is watched, how many there are, which of them are shown; and the time, where there is room.
fn heading(area: Rect, buffer: &mut Buffer, model: &Model, view: &View, facts: &Facts, part: &str, look: Look) {
    let what = match facts.ports[..] {
        [] => "all ports".into(),
        [port] => format!("port {port}"),
        [one, other] => format!("ports {one} {other}"),
        _ => format!("{} ports", facts.ports.len()),
    };
    let (tcp, udp) = model.totals();
    let text = if view.text.is_empty() { String::new() } else { format!(" with {}", view.text) };
    let (filter, sort, width) = (view.filter.name(), view.sort.name(), usize::from(area.width));
    let left = format!(" {what}   TCP {tcp}   UDP {udp}   {part}, {filter}{text}, by {sort} ");
    let at = format!("+{:.1}s", model.now.as_secs_f64());
    let right = match view.frozen {
        true => format!(" FROZEN at {at} "),
        false => format!("{at}   every {} ms ", facts.interval_ms),
    };
    put(buffer, area, 0, 0, &format!("{left:<width$}"), look.changed());
    if view.frozen || left.len() + right.len() <= width {
        put(buffer, area, area.width.saturating_sub(right.len() as u16), 0, &right, look.changed());
    }
}

/// The latest changes of a state, also those that the table shows no longer.
fn latest(area: Rect, buffer: &mut Buffer, model: &Model, look: Look) {
    put(buffer, area, 0, 0, "latest changes: local > peer, state", look.plain());
    for (row, change) in (1..area.height).zip(&model.latest) {
        let Some(sock) = change.after.as_ref().or(change.before.as_ref()) else { continue };
        let state = if change.after.is_some() { sock.state_name() } else { "gone".into() };
        let peer = if sock.pair.peer.port() == 0 { "*".into() } else { sock.pair.peer.port().to_string() };
        let pair = format!("{} > {peer}", sock.pair.local.port());
        let line = format!("{:>9} {pair:<13} {state}", format!("+{:.1}s", change.at.as_secs_f64()));
        put(buffer, area, 0, row, &line, look.plain());
    }
}

fn nothing(view: &View, facts: &Facts) -> String {
    if view.filter != Filter::All || !view.text.is_empty() {
        return "no socket is like that; Esc shows all".into();
    }
    match facts.ports[..] {
        [] => "this network has no socket of TCP or UDP".into(),
        [port] => format!("no socket has port {port} at either end; start a program that opens one"),
        _ => "no socket has one of these ports at either end".into(),
    }
}

fn keys(view: &View) -> String {
    if view.typing {
        return format!(" show rows with: {}_   Enter: done   Esc: all rows", view.text);
    }
    let freeze = if view.frozen { "go on" } else { "freeze" };
    format!(" s sort   f filter   / find   Space {freeze}   arrows scroll   ? help   q quit")
}

fn help(facts: &Facts) -> Vec<String> {
    let mut lines: Vec<String> = [
        "s sort   f filter   / find a text   Esc all rows   Space freeze   q quit",
        "",
        "Marks, for one second:  + new   * other state   - gone",
        "                        ~ other queue, or one more try of its timer",
        "In the diagram  *: a socket came into this state, or left it.",
        "LISTEN          connections that wait for accept, of the backlog;",
        "                one more than the backlog may wait.",
        "Other TCP       Recv-Q: bytes received and not read yet.",
        "                Send-Q: bytes not acknowledged yet. A FIN counts as one.",
        "UDP             both count memory, which is more than the bytes.",
        "Bars            LISTEN: how full the accept queue is. Other queues: each",
        "                further # is eight times as much. Timer: of 60 seconds.",
        "Timer           resend x3: sent again 3 times. probe: the window of the",
        "                peer is zero. ends in: then the kernel forgets the socket.",
        "",
        "By state, TIME-WAIT stands last.",
        "Not seen here   what comes and goes between two looks; other network",
        "                namespaces (containers); TCP sockets that only have an",
        "                address, or none.",
    ]
    .map(String::from)
    .into();
    if !facts.missing.is_empty() {
        lines.push(format!("This kernel does not show: {}.", facts.missing.join(", ")));
    }
    lines.push(format!("The last look and its drawing took {:.1} ms of a processor.", facts.cost_ms));
    lines.push("Looks take at most a tenth of it; with many sockets they come later.".into());
    lines
}

/// The addresses of a socket in one line of the log.
pub fn pair_text(sock: &super::sock::Sock) -> String {
    format!("{} > {}", place(sock.pair.local), place(sock.pair.peer))
}
