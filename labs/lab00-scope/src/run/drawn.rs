//! Tests of the pictures: a run written by hand, and any run at all.
#![allow(clippy::unwrap_used)]

use std::{
    net::SocketAddr,
    time::{Duration, UNIX_EPOCH},
};

use proptest::prelude::*;

use super::{
    json,
    ladder::{Ladder, Row, Shown},
    model::{Call, Cause, Event, Flags, Mark, Phase, Protocol, Segment, Socket, State, StateChange, Tcp, What},
    slide,
    text::lines,
};

const CLIENT: &str = "127.0.0.1:40001";
const SERVER: &str = "127.0.0.1:7777";

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn event(what: What) -> Event {
    Event { at: Duration::ZERO, what }
}

fn started(process: u32, program: &str) -> Event {
    event(What::Started { process, parent: None, program: program.into() })
}

fn socket(inode: u64, protocol: &'static str, local: &str, peer: &str) -> Socket {
    Socket { inode, protocol, local: local.parse().ok(), peer: peer.parse().ok() }
}

/// A call that ended; `result` is part of `short`.
fn call(number: u64, process: u32, name: &'static str, short: &str, socket: Socket) -> Call {
    let result = short.rsplit_once("= ").and_then(|(_, result)| result.split([' ', ',']).next()?.parse().ok());
    let phase = if result.is_some() { Phase::Ended } else { Phase::Waits };
    Call {
        number,
        process,
        thread: process,
        text: short.into(),
        short: short.into(),
        name,
        fd: Some(3),
        result,
        socket: Some(socket),
        accepted: None,
        phase,
        took: Duration::ZERO,
    }
}

fn flags(text: &str) -> Flags {
    let has = |letter| text.contains(letter);
    Flags { syn: has('S'), fin: has('F'), rst: has('R'), psh: has('P'), urg: has('U'), ack: has('.') }
}

fn segment(from: &str, to: &str, set: &str, [seq, ack, window]: [u32; 3], payload: usize, cause: Cause) -> Segment {
    Segment {
        source: addr(from),
        destination: addr(to),
        protocol: Protocol::Tcp(Tcp { flags: flags(set), seq, ack, window }),
        payload,
        marks: Vec::new(),
        bytes: Vec::new(),
        taken_at: UNIX_EPOCH,
        cause,
    }
}

fn state(local: &str, peer: &str, state: State) -> Event {
    event(What::State(StateChange { local: addr(local), peer: addr(peer), state, before: None, process: None }))
}

/// A server, a client, a handshake, seven bytes, a reset.
fn a_run() -> Vec<Event> {
    let listener = || socket(1, "TCP", SERVER, "");
    let client = || socket(2, "TCP", CLIENT, SERVER);
    let mut accepted = call(5, 100, "accept4", "accept4(3) = 4, 127.0.0.1:40001", listener());
    accepted.accepted = Some(socket(3, "TCP", SERVER, CLIENT));
    let [connect, send, close] = [4, 6, 7].map(Cause::Call);
    let mut reset = segment(SERVER, CLIENT, "R.", [1, 8, 65536], 0, close);
    reset.marks = vec![Mark::Reset];
    vec![
        started(100, "server"),
        event(What::Call(call(1, 100, "socket", "socket(AF_INET, SOCK_STREAM, 0) = 3", socket(1, "TCP", "", "")))),
        event(What::Call(call(2, 100, "listen", "listen(3, 1) = 0", listener()))),
        state(SERVER, "0.0.0.0:0", State::Listen),
        event(What::Call(call(3, 100, "accept4", "accept4(3)", listener()))),
        started(200, "client"),
        event(What::Call(call(4, 200, "connect", "connect(3, 127.0.0.1:7777) = 0", client()))),
        event(What::Segment(segment(CLIENT, SERVER, "S", [0, 0, 65495], 0, connect))),
        event(What::Segment(segment(SERVER, CLIENT, "S.", [0, 1, 65483], 0, connect))),
        event(What::Segment(segment(CLIENT, SERVER, ".", [1, 1, 65536], 0, connect))),
        state(CLIENT, SERVER, State::Established),
        state(SERVER, CLIENT, State::Established),
        event(What::Call(accepted)),
        event(What::Call(call(6, 200, "send", "send(3, \"request\", 7) = 7", client()))),
        event(What::Segment(segment(CLIENT, SERVER, "P.", [1, 1, 65536], 7, send))),
        event(What::Segment(segment(SERVER, CLIENT, ".", [1, 8, 65536], 0, send))),
        event(What::Output { process: 100, error: false, line: "  a line of the server".into() }),
        event(What::Call(call(7, 100, "close", "close(4) = 0", socket(3, "TCP", SERVER, CLIENT)))),
        event(What::Segment(reset)),
        state(CLIENT, SERVER, State::Closed),
        state(SERVER, CLIENT, State::Closed),
    ]
}

fn rows(events: &[Event], shown: Shown) -> Vec<Row> {
    let mut ladder = Ladder::new(shown);
    let mut rows: Vec<Row> = events.iter().flat_map(|event| ladder.event(event)).collect();
    rows.extend(ladder.end());
    rows
}

fn drawn(events: &[Event], width: usize) -> String {
    rows(events, Shown::default()).iter().flat_map(|row| lines(row, width)).map(|line| line + "\n").collect()
}

#[test]
fn two_lanes_hold_a_run_in_79_columns() {
    let text = drawn(&a_run(), 79);
    assert_eq!(text, include_str!("drawn.79"), "\n{text}");
}

#[test]
fn three_lanes_hold_a_run_in_99_columns() {
    let text = drawn(&a_run(), 99);
    assert_eq!(text, include_str!("drawn.99"), "\n{text}");
}

#[test]
fn a_long_transfer_is_drawn_in_part_and_counted_to_its_end() {
    let mut events = a_run();
    let transfer = |round: u32| {
        let data = segment(CLIENT, SERVER, ".", [8 + 10 * round, 1, 65536], 10, Cause::Call(6));
        let short = "send(3, \"0123456789\", 10) = 10";
        let sent = call(6, 200, "send", short, socket(2, "TCP", CLIENT, SERVER));
        [event(What::Call(sent)), event(What::Segment(data))]
    };
    let tail = events.split_off(17);
    events.extend((0..50).flat_map(transfer));
    events.extend(tail);
    let text = drawn(&events, 119);
    assert_eq!(text.matches("len 10").count(), 3 - 1, "the first segment of data had 7 bytes: {text}");
    let counted = "... and so on: 48 x left send(3) = 480 bytes, 48 x data to the right = 480 bytes\n";
    assert!(text.contains(counted), "{text}");
    let whole = rows(&events, Shown { whole: true, ..Shown::default() });
    assert_eq!(whole.iter().flat_map(|row| lines(row, 119)).filter(|line| line.contains("len 10")).count(), 50);
}

#[test]
fn each_of_two_connections_at_once_says_whose_step_it_is() {
    let other = "127.0.0.1:40002";
    let mut events = a_run();
    let syn = |from: &str| event(What::Segment(segment(from, SERVER, "S", [0, 0, 65495], 0, Cause::Unknown)));
    events.insert(13, syn(other));
    events.push(syn(CLIENT)); // the same addresses once more: another connection
    let text = drawn(&events, 79);
    assert_eq!(text.matches(" server, process 100 |").count(), 3, "{text}");
    let dots = ".".repeat(79 - 2 - CLIENT.len() - SERVER.len());
    assert!(text.contains(&format!("\n{CLIENT} {dots} {SERVER}\n| send(3, ")), "{text}");
}

#[test]
fn datagrams_and_what_icmp_says_of_them_stand_in_the_same_lanes() {
    let (client, server) = ("127.0.0.1:40001", "127.0.0.1:5000");
    let datagram = |from, to, cause| {
        let mut datagram = segment(from, to, "", [0; 3], 5, cause);
        datagram.protocol = Protocol::Udp;
        datagram
    };
    let mut icmp = datagram("127.0.0.1:0", "127.0.0.1:0", Cause::Call(3));
    icmp.protocol = Protocol::Icmp("port unreachable".into());
    let header =
        |protocol| [&[0x45, 0, 0, 33, 0, 0, 0, 0, 64, protocol, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1][..]].concat();
    icmp.bytes = [header(1), vec![3, 3, 0, 0, 0, 0, 0, 0], header(17), vec![0x9c, 0x41, 0x13, 0x88]].concat();
    let unbound = || socket(1, "UDP", "0.0.0.0:40001", "");
    let events = [
        started(200, "client"),
        event(What::Call(call(1, 200, "sendto", "sendto(3, \"hello\", 5, 127.0.0.1:5000) = 5", unbound()))),
        event(What::Segment(datagram(client, server, Cause::Call(1)))),
        event(What::Call(call(2, 200, "recvfrom", "recvfrom(3)", unbound()))),
        event(What::Segment(icmp)),
        event(What::Segment(datagram(server, client, Cause::Unknown))),
    ];
    let text = drawn(&events, 79);
    let expected = [
        "| client, process 200    ",
        "| 127.0.0.1:40001                                              127.0.0.1:5000 |",
        "| sendto(3, \"hello\", 5, 127.0.0.1:5000) = 5",
        "|-- datagram len 5 ---",
        "| recvfrom(3)  ... waits",
        "|<- ICMP port unreachable ---",
        "|<- datagram len 5 ---",
    ];
    let found: Vec<&str> = text.lines().skip(2).collect();
    assert!(found.iter().zip(expected).all(|(line, start)| line.starts_with(start)), "{text}");
    assert_eq!(found.len(), expected.len(), "{text}");
}

#[test]
fn a_lost_segment_does_not_reach_the_other_end() {
    let lost = |from, to| {
        let mut segment = segment(from, to, ".", [1, 1, 512], 5, Cause::Unknown);
        segment.marks = vec![Mark::Lost];
        event(What::Segment(segment))
    };
    let text = drawn(&[lost(CLIENT, SERVER), lost(SERVER, CLIENT)], 59);
    let arrows: Vec<&str> = text.lines().skip(3).collect();
    let right = "|-- ACK seq 1 ack 1 len 5 win 512 * lost -------------X   |";
    assert_eq!(arrows, [right, "| X ACK seq 1 ack 1 len 5 win 512 * lost -----------------|"], "{text}");
}

#[test]
fn a_page_for_slides_escapes_what_a_stranger_sent() {
    let mut page = slide::Page::default();
    let mut events = a_run();
    events.push(event(What::Output { process: 100, error: false, line: "<script>&\u{1b}[2J".into() }));
    rows(&events, Shown::default()).iter().for_each(|row| page.draw(row));
    let svg = page.finished("server & <client>");
    assert!(svg.contains("server &amp; &lt;client&gt;") && svg.contains("&lt;script&gt;&amp;\\u{1b}[2J"), "{svg}");
    assert!(svg.contains(">SYN+ACK seq 0 ack 1 win 65483</text>"), "{svg}");
    assert_eq!(svg.matches("<path class=\"").count(), 6, "an arrow for each segment");
}

#[test]
fn an_event_is_a_line_of_json() {
    let lines: Vec<serde_json::Value> = a_run().iter().map(json::object).collect();
    assert!(lines.iter().all(|line| line["at"].is_number() && !line.to_string().contains('\n')));
    let of = |kind| lines.iter().filter(move |line| line["event"] == kind).collect::<Vec<_>>();
    assert_eq!([of("call").len(), of("segment").len(), of("state").len()], [7, 6, 5]);
    let segment = of("segment")[1];
    assert_eq!((&segment["flags"], segment["ack"].as_u64()), (&serde_json::json!("SYN+ACK"), Some(1)));
    assert_eq!(of("segment")[0]["ack"], serde_json::Value::Null, "a SYN acknowledges nothing");
}

fn any_addr() -> impl Strategy<Value = String> {
    let known = ["127.0.0.1:40001", "127.0.0.1:7777", "[::1]:7777", "0.0.0.0:7777", "239.1.1.1:5000", "10.0.0.2:0"];
    proptest::sample::select(known.map(String::from).to_vec())
}

fn any_what() -> impl Strategy<Value = What> {
    const NAMES: [&str; 7] = ["socket", "connect", "accept4", "sendto", "recvfrom", "close", "poll"];
    const MARKS: [Mark; 5] = [Mark::Retransmission, Mark::ZeroWindow, Mark::Lost, Mark::Reset, Mark::KeepAlive];
    const STATES: [State; 4] = [State::Listen, State::SynReceived, State::Established, State::Closed];
    let calls = (
        0..6u64,
        0..3u32,
        proptest::sample::select(NAMES.to_vec()),
        ".{0,80}",
        any_addr(),
        any_addr(),
        any::<(bool, u8)>(),
    );
    let segments = (any_addr(), any_addr(), any::<([u32; 3], u16, u8)>(), 0..6u64);
    prop_oneof![
        (0..3u32, any::<bool>(), ".{0,200}").prop_map(|(process, child, program)| What::Started {
            process,
            parent: child.then_some(0),
            program
        }),
        calls.prop_map(|(number, process, name, short, local, peer, (waits, odd))| {
            let protocol = ["TCP", "UDP", "UNIX", "NETLINK"][usize::from(odd % 4)];
            let mut call = call(number, process, name, &short, socket(u64::from(odd % 5), protocol, &local, &peer));
            call.accepted = (odd % 3 == 0).then(|| socket(7, "TCP", &peer, &local));
            call.result = (!waits).then_some(i64::from(odd) - 20);
            call.phase = [Phase::Ended, Phase::Returned, Phase::Waits][if waits { 2 } else { usize::from(odd % 2) }];
            What::Call(call)
        }),
        segments.prop_map(|(from, to, (numbers, payload, odd), cause)| {
            let cause = [Cause::Call(cause), Cause::Timer, Cause::Unknown, Cause::End(1)][usize::from(odd % 4)];
            let set = ["S", "S.", ".", "P.", "F.", "R", ""][usize::from(odd % 7)];
            let mut segment = segment(&from, &to, set, numbers, payload.into(), cause);
            segment.marks = MARKS.iter().copied().filter(|mark| odd >> (*mark as u8) & 1 != 0).collect();
            segment.protocol = match odd % 11 {
                0 => Protocol::Udp,
                1 => Protocol::Icmp("\u{4e2d} port unreachable".repeat(9)),
                2 => Protocol::Other(odd),
                _ => segment.protocol,
            };
            segment.bytes = vec![odd; usize::from(payload % 60)];
            What::Segment(segment)
        }),
        (any_addr(), any_addr(), 0..4usize).prop_map(|(local, peer, at)| {
            let (local, peer) = (addr(&local), addr(&peer));
            What::State(StateChange { local, peer, state: STATES[at], before: None, process: None })
        }),
        (0..3u32, ".{0,300}").prop_map(|(process, line)| What::Output { process, error: false, line }),
        (0..3u32, ".{0,99}").prop_map(|(process, how)| What::Ended { process, how }),
        (proptest::option::of(0..3u32), ".{0,200}").prop_map(|(process, text)| What::Note { process, text }),
        any::<u64>().prop_map(|packets| What::Lost { packets }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_run_leaves_the_width_or_acts_on_the_terminal(
        happened in proptest::collection::vec((any_what(), 0..2000u64), 0..60),
        width in 24..120usize,
        (brief, whole) in any::<(bool, bool)>(),
    ) {
        let at = |at: u64| Duration::from_millis(at);
        let events: Vec<Event> = happened.into_iter().map(|(what, ms)| Event { at: at(ms), what }).collect();
        let rows = rows(&events, Shown { brief, whole, slow: Duration::ZERO });
        let mut page = slide::Page::default();
        for row in &rows {
            page.draw(row);
            for line in lines(row, width) {
                prop_assert!(line.chars().count() <= width, "{} columns of {width}: {line}", line.chars().count());
                prop_assert!(line.chars().all(|scalar| scalar < '\u{250}' && !scalar.is_control()), "{line:?}");
            }
        }
        prop_assert!(page.finished("any").ends_with("</svg>\n"));
        events.iter().map(json::object).for_each(drop);
    }
}
