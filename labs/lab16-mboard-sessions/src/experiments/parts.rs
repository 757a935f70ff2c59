//! What was rebuilt here: the parts of TCP, pointed at in a captured connection and a captured session.

use anyhow::{Context, Result, ensure};
use kernel::{Packet, capture::command, namespace::START_LIMIT};
use shared::{Predicts, Role, Stage, Verdict, own_program};

use super::shown;
use crate::{captured::PARTS, session::wire::Datagram};

/// A segment of the connection: RFC 9293 3.1. Numbers are counted from the first byte of the stream.
struct Segment {
    from_client: bool,
    number: u32,
    acknowledged: u32,
    window: u16,
    fin: bool,
    syn: bool,
    payload: Vec<u8>,
}

impl Segment {
    fn of(packet: &Packet) -> Option<Segment> {
        let (_, segment) = packet.split()?;
        let payload = segment.get(usize::from(segment.get(12)? >> 4) * 4..)?.to_vec();
        let field = |at: usize| Some(u32::from_be_bytes(segment.get(at..at + 4)?.try_into().ok()?));
        Some(Segment {
            from_client: packet.from_local,
            number: field(4)?,
            acknowledged: field(8)?,
            window: u16::from_be_bytes([*segment.get(14)?, *segment.get(15)?]),
            fin: segment.get(13)? & 1 != 0,
            syn: segment.get(13)? & 2 != 0,
            payload,
        })
    }
}

pub fn parts(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum After {
        SameAgain,
        Asked,
        Reset,
    }
    let question = stage.ask(
        "The last segment that a TCP client has sent is lost, and the client has no more to send. What passes next on this connection?",
        [
            ("the same bytes with the same number, again", After::SameAgain),
            ("a request of the receiver for what is missing", After::Asked),
            ("a reset, since the stream would have a hole", After::Reset),
        ],
        Predicts { source: None, kit: After::SameAgain },
    )?;
    let mut child = Role::spawn(command(own_program()?).arg("capture"))?;
    let printed = child.wait_for_within("end of the capture\n", START_LIMIT)?;
    let packets = |label: &str| {
        printed.lines().filter_map(|line| line.strip_prefix(label)).map(str::parse).collect::<Result<Vec<Packet>>>()
    };

    let segments: Vec<Segment> = packets("tcp ")?.iter().filter_map(Segment::of).collect();
    let first = |from_client| segments.iter().find(|one| one.from_client == from_client).map(|syn| syn.number);
    let starts = [first(true).context("no SYN")?, first(false).context("no SYN of the server")?];
    stage.say("way", "> from the client to the server, < from the server to the client");
    let mut lost = Vec::new(); // the places of the segments with the lost bytes
    for (at, one) in segments.iter().enumerate() {
        let [own, other] = if one.from_client { starts } else { [starts[1], starts[0]] };
        let again = one.payload == PARTS[1] && !lost.is_empty();
        if one.payload == PARTS[1] {
            lost.push(at);
        }
        let is_lost = one.payload == PARTS[1] && !again;
        let part = match (one.syn, one.fin, again) {
            (true, ..) => "opening",
            (_, true, _) => "teardown",
            (.., true) => "repetition",
            _ if one.payload.is_empty() => "confirmation",
            _ if is_lost => "number; it is lost",
            _ => "number",
        };
        let acknowledged = if one.acknowledged == 0 { 0 } else { one.acknowledged.wrapping_sub(other) };
        let (way, number, bytes) = (arrow(one.from_client), one.number.wrapping_sub(own), one.payload.len());
        let line = format!("{way} seq {number} ack {acknowledged} window {}, {bytes} bytes  {part}", one.window);
        stage.say("TCP", line);
    }
    let session = packets("udp ")?;
    let datagrams: Vec<(bool, &[u8])> =
        session.iter().filter_map(|packet| Some((packet.from_local, packet.split()?.1.get(8..)?))).collect();
    let (mut sent, mut repeated) = (Vec::new(), 0);
    for (from_client, datagram) in &datagrams {
        let part = match Datagram::parse(datagram).context("no datagram of a session")? {
            Datagram::Open { .. } | Datagram::Session { .. } => "opening",
            Datagram::Block { number, .. } if *from_client && sent.contains(&number) => {
                repeated += 1;
                "repetition"
            }
            Datagram::Block { number, .. } if *from_client => {
                sent.push(number);
                "number"
            }
            Datagram::Block { .. } => "number",
            Datagram::Confirm { .. } => "confirmation",
            Datagram::End { .. } | Datagram::Refused { .. } => "teardown",
        };
        stage.say("session", format_args!("{} {}  {part}", arrow(*from_client), shown(datagram)));
    }
    let (Some(once), Some(again)) = (lost.first(), lost.get(1)) else { anyhow::bail!("nothing was repeated") };
    ensure!(repeated > 0, "the session did not repeat its lost block");
    let ends = segments.iter().filter(|one| one.fin).count();
    ensure!(ends == 2 && segments.iter().filter(|one| one.syn).count() == 2, "an opening or a teardown is missing");
    let between = &segments[once + 1..*again];
    let observed = match between.iter().any(|one| !one.from_client) {
        true => After::Asked,
        false if segments[*once].number == segments[*again].number => After::SameAgain,
        false => After::Reset,
    };
    stage.verdict(
        question,
        observed,
        "the sender's timer repeats it; number, confirmation, window, teardown: TCP has each",
    )
}

fn arrow(from_client: bool) -> &'static str {
    if from_client { ">" } else { "<" }
}
