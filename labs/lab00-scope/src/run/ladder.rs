//! The picture without its columns: what happened becomes rows, each at an end of a connection, between the two, or
//! across. Text and SVG draw them.

use std::collections::HashMap;
use std::time::Duration;

use super::flows::{Flows, Place, Side};
use super::fold::{Counted, Fold, Kind};
use super::model::{Call, Cause, Event, Mark, Phase, Protocol, Segment, StateChange, What};
use super::text::plain;

/// A pause between two rows longer than this carries a stamp.
const STAMP_FROM: Duration = Duration::from_millis(150);
/// Calls that move data, wait for it or ask: a long transfer repeats them.
const REPEATED: &[&str] = &[
    "read", "readv", "recv", "recvfrom", "recvmsg", "recvmmsg", "write", "writev", "send", "sendto", "sendmsg",
    "sendmmsg", "sendfile", "splice", "poll", "ppoll", "select", "pselect6", "epoll_wait", "epoll_pwait",
    "epoll_pwait2", "ioctl", "getsockname", "getpeername", "getsockopt",
];
/// In a heading, between a program and its number; a blank will do where there is little room.
pub const PROCESS: &str = ", process ";
/// Of what a segment carries, so many bytes are shown.
const DATA: usize = 24;
/// Of one that carries more than this, none are.
const MUCH: usize = 200;
/// Calls that only ask.
const QUESTIONS: &[&str] = &["getsockname", "getpeername", "getsockopt", "fcntl", "ioctl"];
/// Of these the result is a number of bytes.
const MOVES_BYTES: &[&str] = &[
    "read", "readv", "recv", "recvfrom", "recvmsg", "write", "writev", "send", "sendto", "sendmsg", "sendfile",
    "splice",
];

/// What is shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shown {
    /// Of all calls only those that act on IP sockets.
    pub brief: bool,
    /// A long transfer to its end; otherwise its first rounds are drawn, and the rest is counted.
    pub whole: bool,
    /// How long each step is held, which is no pause of the program.
    pub slow: Duration,
}

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// How long nothing happened before it, if that was long.
    pub stamp: Option<Duration>,
    pub shape: Shape,
}

/// What a row shows.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// A connection begins: who is at its two ends, and their addresses.
    Heading { protocol: &'static str, who: [String; 2], ends: [String; 2] },
    /// From here on another connection: its two addresses.
    Turn { ends: [String; 2] },
    /// What belongs to no connection: a call, what a program printed, what is to be said. `lead` stands before each line.
    Across { lead: String, text: String, told: Told },
    /// A call at an end.
    Call { side: Side, text: String },
    /// A segment or datagram, drawn towards `to`; its label is broken only between the parts. The first bytes of what it
    /// carries are shown where there is room.
    Arrow { to: Side, parts: Vec<String>, marks: Vec<String>, data: String, lost: bool },
    /// The states, each at its end, if it is another one now.
    States { ends: [Option<String>; 2] },
}

/// By whom something is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It is a call.
    Call,
    /// A program printed it.
    Program,
    /// The tracer says it.
    Scope,
}

/// What is known of a process.
struct Process {
    program: String,
    parent: Option<u32>,
    introduced: bool,
}

/// Makes rows of events. What it keeps grows with the connections and the processes, not with the events.
pub struct Ladder {
    shown: Shown,
    flows: Flows,
    fold: Fold,
    processes: HashMap<u32, Process>,
    commands: usize,
    /// The connection that was drawn last.
    current: Option<usize>,
    headed: Vec<bool>,
    /// A call whose place the next segment may tell.
    held: Option<(Call, Duration)>,
    /// The states of both ends, until it is known that no more come.
    states: Option<(usize, [Option<String>; 2], Duration)>,
    /// Where a call stands that waits.
    waiting: HashMap<u64, Option<Place>>,
    last: Duration,
}

impl Ladder {
    pub fn new(shown: Shown) -> Ladder {
        Ladder {
            shown,
            flows: Flows::default(),
            fold: Fold::default(),
            processes: HashMap::new(),
            commands: 0,
            current: None,
            headed: Vec::new(),
            held: None,
            states: None,
            waiting: HashMap::new(),
            last: Duration::ZERO,
        }
    }

    /// The rows that this event completes.
    pub fn event(&mut self, event: &Event) -> Vec<Row> {
        let mut rows = Vec::new();
        let at = event.at;
        if let What::Segment(segment) = &event.what {
            let place = self.flows.of_segment(segment);
            if let Some((call, since)) = self.held.take_if(|(call, _)| segment.cause == Cause::Call(call.number)) {
                self.flows.learn(&call, place);
                self.call(&mut rows, &call, Some(place), since);
            }
            self.settle(&mut rows);
            self.segment(&mut rows, segment, place, at);
            return rows;
        }
        if let What::State(state) = &event.what {
            self.settle_call(&mut rows);
            self.state(&mut rows, state, at);
            return rows;
        }
        self.settle(&mut rows);
        match &event.what {
            What::Call(call) => self.called(&mut rows, call, at),
            What::Started { process, parent, program } => self.started(&mut rows, *process, *parent, program, at),
            What::Output { process, line, .. } => {
                let lead = match (self.commands, self.shown.brief) {
                    (..=1, true) => String::new(), // as the program prints it
                    (..=1, false) => "> ".into(),
                    _ => format!("{} > ", self.name(*process)),
                };
                self.across(&mut rows, lead, line.clone(), Told::Program, at);
            }
            What::Ended { process, how } => {
                if self.processes.get(process).is_some_and(|process| process.introduced) {
                    let text = format!("{} {how}", self.name(*process));
                    self.say(&mut rows, text, at);
                }
            }
            What::Lost { packets } => {
                self.say(&mut rows, format!("{packets} packets passed that the capture could not keep"), at);
            }
            What::Note { process, text } => {
                let who = process.map(|process| format!("{}: ", self.name(process))).unwrap_or_default();
                self.say(&mut rows, format!("{who}{text}"), at);
            }
            What::Segment(_) | What::State(_) => {}
        }
        rows
    }

    /// The step is over: what was kept back.
    pub fn step(&mut self) -> Vec<Row> {
        let mut rows = Vec::new();
        self.settle(&mut rows);
        rows
    }

    /// The run is over: what was kept back or counted.
    pub fn end(&mut self) -> Vec<Row> {
        let mut rows = self.step();
        self.tell_counted(&mut rows);
        rows
    }

    fn settle(&mut self, rows: &mut Vec<Row>) {
        self.settle_call(rows);
        if let Some((flow, ends, at)) = self.states.take() {
            self.fold.forget(Some(flow));
            self.tell_counted(rows);
            self.turn_to(rows, flow);
            self.push(rows, Shape::States { ends }, at);
        }
    }

    fn settle_call(&mut self, rows: &mut Vec<Row>) {
        if let Some((call, at)) = self.held.take() {
            let place = self.flows.of_call(&call);
            self.call(rows, &call, place, at);
        }
    }

    fn called(&mut self, rows: &mut Vec<Row>, call: &Call, at: Duration) {
        let protocol = call.socket.as_ref().map_or("", |socket| socket.protocol);
        let time_limit = call.name == "setsockopt" && call.short.contains("TIMEO");
        let acts = !QUESTIONS.contains(&call.name) && !time_limit;
        if self.shown.brief && !(acts && matches!(protocol, "TCP" | "UDP" | "RAW")) {
            self.flows.of_call(call); // whose socket it is
            return;
        }
        let place = if call.phase == Phase::Returned { self.waiting.remove(&call.number).flatten() } else { None };
        if place.is_none() && (call.name == "connect" || protocol == "UDP" && call.name.starts_with("send")) {
            self.held = Some((call.clone(), at));
            return;
        }
        let place = self.flows.of_call(call).or(place);
        self.call(rows, call, place, at);
    }

    fn call(&mut self, rows: &mut Vec<Row>, call: &Call, place: Option<Place>, at: Duration) {
        let waits = call.phase == Phase::Waits;
        if waits {
            self.waiting.insert(call.number, place);
        }
        let text = format!("{}{}", call.short, if waits { "  ... waits" } else { "" });
        let shape = match place {
            Some((_, side)) => Shape::Call { side, text },
            None => Shape::Across { lead: self.lead(call.process), text, told: Told::Call },
        };
        let flow = place.map(|(flow, _)| flow);
        let netlink = call.socket.as_ref().is_some_and(|socket| socket.protocol == "NETLINK");
        if REPEATED.contains(&call.name) || netlink {
            let who = match place {
                Some((_, Side::Left)) => "left ".to_string(),
                Some((_, Side::Right)) => "right ".into(),
                None => self.lead(call.process),
            };
            let name = call.short.split('(').next().unwrap_or(call.name);
            let fd = call.fd.map(|fd| fd.to_string()).unwrap_or_default();
            let how = match call.result {
                Some(failed @ ..0) => format!(" = {}", error_name(&call.short).unwrap_or(&failed.to_string())),
                Some(_) => String::new(),
                None => " waits".into(),
            };
            let bytes = call.result.filter(|_| MOVES_BYTES.contains(&call.name)).map_or(0, |result| result.max(0));
            let kind = Kind { flow, text: plain(&format!("{who}{name}({fd}){how}")), marked: false };
            if !self.shown.whole && self.fold.hides(kind, bytes.unsigned_abs(), &shape) {
                return;
            }
        } else {
            self.fold.forget(flow);
        }
        self.tell_counted(rows);
        match flow {
            Some(flow) => self.turn_to(rows, flow),
            None => self.introduce(rows, call.process, at),
        }
        self.push(rows, shape, at);
    }

    fn segment(&mut self, rows: &mut Vec<Row>, segment: &Segment, (flow, from): Place, at: Duration) {
        let to = from.other();
        let direction = if to == Side::Right { "to the right" } else { "to the left" };
        let mut marks: Vec<String> = segment.marks.iter().map(ToString::to_string).collect();
        let marked =
            segment.marks.iter().any(|mark| !matches!(mark, Mark::WindowUpdate | Mark::ZeroWindow | Mark::Reset));
        let kind = match (&segment.protocol, segment.payload) {
            (Protocol::Tcp(tcp), _) if tcp.flags.syn || tcp.flags.fin || tcp.flags.rst => None,
            (Protocol::Tcp(_), 0) => Some("ACK"),
            (Protocol::Tcp(_), _) => Some("data"),
            (Protocol::Udp, _) => Some("datagram"),
            _ => Some("packet"),
        };
        let kind = kind.map(|what| match marks.is_empty() {
            true => format!("{what} {direction}"),
            false => format!("{what} {direction} ({})", marks.join(", ")),
        });
        let ends = matches!(&segment.protocol, Protocol::Tcp(tcp) if tcp.flags.fin || tcp.flags.rst) && !marked;
        if let (Cause::End(process), true) = (segment.cause, ends) {
            marks.push(format!("by the end of {process}"));
        }
        let lost = segment.marks.contains(&Mark::Lost);
        let shape = Shape::Arrow { to, parts: parts(segment), marks, data: data(segment), lost };
        if let Some(text) = kind {
            let kind = Kind { flow: Some(flow), text, marked };
            if !self.shown.whole && self.fold.hides(kind, segment.payload as u64, &shape) {
                return;
            }
        } else {
            self.fold.forget(Some(flow));
        }
        self.tell_counted(rows);
        self.turn_to(rows, flow);
        self.push(rows, shape, at);
    }

    fn state(&mut self, rows: &mut Vec<Row>, state: &StateChange, at: Duration) {
        let Some((flow, side)) = self.flows.of_state(state) else {
            self.settle(rows);
            let text = format!("{} is in {}", state.local, state.state);
            self.across(rows, String::new(), text, Told::Scope, at);
            return;
        };
        // Of two changes of one end the last stands: the segments behind which they stand have all come.
        if self.states.as_ref().is_some_and(|(known, ..)| *known != flow) {
            self.settle(rows);
        }
        let (_, ends, _) = self.states.get_or_insert((flow, [None, None], at));
        ends[side as usize] = Some(state.state.to_string());
    }

    fn started(&mut self, rows: &mut Vec<Row>, process: u32, parent: Option<u32>, program: &str, at: Duration) {
        let known = self.processes.get(&process);
        let (again, introduced) = (known.is_some(), known.is_some_and(|known| known.introduced));
        let parent = known.map_or(parent, |known| known.parent);
        self.processes.insert(process, Process { program: plain(program), parent, introduced });
        if parent.is_none() && !again {
            self.commands += 1;
            self.introduce(rows, process, at);
        } else if introduced {
            self.say(rows, format!("process {process} is now {program}"), at);
        }
    }

    /// The first row of a process says who it is.
    fn introduce(&mut self, rows: &mut Vec<Row>, number: u32, at: Duration) {
        let Some(process) = self.processes.get_mut(&number) else { return };
        if !std::mem::replace(&mut process.introduced, true) {
            let child = process.parent.map(|parent| format!(", a child of {parent}")).unwrap_or_default();
            let text = format!("{}, process {number}{child}", process.program);
            self.say(rows, text, at);
        }
    }

    fn name(&self, number: u32) -> String {
        self.processes.get(&number).map_or(number.to_string(), |process| format!("{} {number}", process.program))
    }

    /// Before a call that belongs to no connection: who called, where there is more than one.
    fn lead(&self, process: u32) -> String {
        if self.processes.len() > 1 { format!("{} ", self.name(process)) } else { String::new() }
    }

    fn say(&mut self, rows: &mut Vec<Row>, text: String, at: Duration) {
        self.across(rows, "-- ".into(), text, Told::Scope, at);
    }

    fn across(&mut self, rows: &mut Vec<Row>, lead: String, text: String, told: Told, at: Duration) {
        self.tell_counted(rows);
        self.push(rows, Shape::Across { lead, text, told }, at);
    }

    /// From here on rows are about this connection.
    fn turn_to(&mut self, rows: &mut Vec<Row>, number: usize) {
        if self.current == Some(number) {
            return;
        }
        let Some(flow) = self.flows.get(number) else { return };
        let (addrs, protocol) = (flow.ends, flow.protocol);
        let ends = addrs.map(|addr| if addr.port() == 0 { addr.ip().to_string() } else { addr.to_string() });
        self.current = Some(number);
        self.headed.resize(self.flows.count().max(self.headed.len()), false);
        let shape = if std::mem::replace(&mut self.headed[number], true) {
            Shape::Turn { ends }
        } else {
            let who = addrs.map(|addr| match self.flows.owner(addr) {
                Some(number) => {
                    let program = self.processes.get(&number).map_or("", |process| process.program.as_str());
                    format!("{program}{PROCESS}{number}").trim_start_matches(", ").into()
                }
                None => String::new(),
            });
            Shape::Heading { protocol, who, ends }
        };
        rows.push(Row { stamp: None, shape });
    }

    fn tell_counted(&mut self, rows: &mut Vec<Row>) {
        match self.fold.counted() {
            Counted::Nothing => {}
            Counted::Few(few) => {
                for (flow, shape) in few {
                    if let Some(flow) = flow {
                        self.turn_to(rows, flow);
                    }
                    rows.push(Row { stamp: None, shape });
                }
            }
            Counted::Many(text) => {
                rows.push(Row { stamp: None, shape: Shape::Across { lead: String::new(), text, told: Told::Scope } });
            }
        }
    }

    fn push(&mut self, rows: &mut Vec<Row>, shape: Shape, at: Duration) {
        // When a line was printed is not known as exactly.
        if let Shape::Across { told: Told::Program, .. } = shape {
            return rows.push(Row { stamp: None, shape });
        }
        let pause = at.saturating_sub(self.last);
        self.last = self.last.max(at);
        if let Shape::Across { told: Told::Scope, .. } = shape {
            return rows.push(Row { stamp: None, shape });
        }
        rows.push(Row { stamp: (pause > STAMP_FROM + self.shown.slow).then_some(pause), shape });
    }
}

/// The label of a segment, in the words of its header.
fn parts(segment: &Segment) -> Vec<String> {
    let length = format!("len {}", segment.payload);
    match &segment.protocol {
        Protocol::Tcp(tcp) => {
            let flags = format!("{:#}", tcp.flags);
            let mut parts = vec![if flags.is_empty() { "no flag".into() } else { flags }, format!("seq {}", tcp.seq)];
            parts.extend(tcp.flags.ack.then(|| format!("ack {}", tcp.ack)));
            parts.extend((segment.payload > 0).then_some(length));
            parts.push(format!("win {}", tcp.window));
            parts
        }
        Protocol::Udp => vec!["datagram".into(), length],
        Protocol::Icmp(text) => vec!["ICMP".into(), text.clone()],
        Protocol::Other(2) => vec!["IGMP".into(), length],
        Protocol::Other(6) => vec!["fragment of TCP".into(), length],
        Protocol::Other(17) => vec!["fragment of UDP".into(), length],
        Protocol::Other(number) => vec![format!("IP protocol {number}"), length],
    }
}

/// The first bytes that it carries, as strace writes them: `"Hello"`, `"aaaaaaaaaaaaaaaa"...`.
fn data(segment: &Segment) -> String {
    let carries = matches!(segment.protocol, Protocol::Tcp(_) | Protocol::Udp) && (1..=MUCH).contains(&segment.payload);
    let start = segment.bytes.len().checked_sub(segment.payload).filter(|_| carries);
    let Some(bytes) = start.and_then(|start| segment.bytes.get(start..)) else { return String::new() };
    let more = if bytes.len() > DATA { "..." } else { "" };
    format!("\"{}\"{more}", bytes[..bytes.len().min(DATA)].escape_ascii())
}

/// `ECONNRESET` of `recv(3, 1024) = -1 ECONNRESET (Connection reset by peer)`.
fn error_name(short: &str) -> Option<&str> {
    short.rsplit_once(" = -1 ")?.1.split(' ').next()
}
