//! A call and a segment: where they stand, and whether they are drawn or counted.

use std::time::Duration;

use super::flows::{Place, Side};
use super::fold::Kind;
use super::rows::{Row, Shape, Told};
use super::{Ladder, label};
use crate::run::model::{Call, Cause, Mark, Phase, Protocol, Segment};
use crate::run::wrap::plain;

/// Calls that move data, wait for it or ask: a long transfer repeats them.
const REPEATED: &[&str] = &[
    "read", "readv", "recv", "recvfrom", "recvmsg", "recvmmsg", "write", "writev", "send", "sendto", "sendmsg",
    "sendmmsg", "sendfile", "splice", "poll", "ppoll", "select", "pselect6", "epoll_wait", "epoll_pwait",
    "epoll_pwait2", "ioctl", "getsockname", "getpeername", "getsockopt",
];
/// Calls that only ask.
const QUESTIONS: &[&str] = &["getsockname", "getpeername", "getsockopt", "fcntl", "ioctl"];
/// Of these the result is a number of bytes.
const MOVES_BYTES: &[&str] = &[
    "read", "readv", "recv", "recvfrom", "recvmsg", "write", "writev", "send", "sendto", "sendmsg", "sendfile",
    "splice",
];

impl Ladder {
    pub(super) fn called(&mut self, rows: &mut Vec<Row>, call: &Call, at: Duration) {
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

    pub(super) fn call(&mut self, rows: &mut Vec<Row>, call: &Call, place: Option<Place>, at: Duration) {
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
                Some(failed @ ..0) => format!(" = {}", label::error_name(&call.short).unwrap_or(&failed.to_string())),
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

    pub(super) fn segment(&mut self, rows: &mut Vec<Row>, segment: &Segment, (flow, from): Place, at: Duration) {
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
        let shape = Shape::Arrow { to, parts: label::parts(segment), marks, data: label::data(segment), lost };
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
}
