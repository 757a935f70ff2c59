//! What passes over lo: each scene is played and captured by a child of this program.

use anyhow::{Context, Result, ensure};
use kernel::{Packet, capture::command, namespace::START_LIMIT};
use shared::{Predicts, Role, Stage, Verdict, own_program};

use crate::{
    captured::{HALVES, PIECES, REQUESTS},
    segment::Segment,
};

/// The lines of a scene and the segments among them, in the order in which they passed.
pub fn captured(scene: &str) -> Result<(Vec<String>, Vec<Segment>)> {
    let mut child = Role::spawn(command(own_program()?).args(["capture", scene]))?;
    let printed = child.wait_for_within("end of the scene\n", START_LIMIT)?;
    let (packets, others): (Vec<_>, Vec<_>) = printed.lines().partition(|line| line.starts_with("packet "));
    let segment = |line: &str| Segment::of(&line.strip_prefix("packet ")?.parse::<Packet>().ok()?);
    let segments: Option<Vec<_>> = packets.into_iter().map(segment).collect();
    Ok((others.into_iter().map(String::from).collect(), segments.context("a packet that is no segment")?))
}

/// What stands behind this word at the start of a line.
fn value<'a>(lines: &'a [String], word: &str) -> Result<&'a str> {
    let found = lines.iter().find_map(|line| line.strip_prefix(word)?.strip_prefix(' '));
    found.with_context(|| format!("no {word} from the child"))
}

pub fn in_order(stage: &mut Stage) -> Result<Verdict> {
    let shown = |place: u32, bytes: &[u8]| {
        format!("bytes {place} to {}  \"{}\"", place as usize + bytes.len() - 1, String::from_utf8_lossy(bytes))
    };
    for (number, (place, bytes)) in PIECES.into_iter().enumerate() {
        stage.say(if number == 0 { "segments" } else { "" }, format_args!("{}: {}", number + 1, shown(place, bytes)));
    }
    let question = stage.ask(
        "These four segments arrive in this order, and nothing is missing then. The server calls recv(5) until the end of the stream. What does it get?",
        [
            ("world, llo, world, he", "world llo world he"),
            ("hello, world", "hello world"),
            ("world, hello", "world hello"),
            ("he", "he"),
        ],
        Predicts { source: Some("hello world"), kit: "hello world" },
    )?;
    let (lines, segments) = captured("pieces")?;
    // Each piece, and the last ACK before the next piece.
    let mut pieces: Vec<(&Segment, Option<u32>)> = Vec::new();
    for segment in segments.iter().take_while(|segment| !(segment.from_client && segment.has("FIN"))) {
        match pieces.last_mut() {
            _ if segment.from_client && !segment.payload.is_empty() => pieces.push((segment, None)),
            Some((_, wanted)) if !segment.from_client => *wanted = Some(segment.acknowledged),
            _ => {}
        }
    }
    let start = pieces.first().context("no segment with data")?.0.number.wrapping_sub(PIECES[0].0);
    stage.say("captured", "each segment, and which byte the server wants next");
    for ((segment, wanted), (place, bytes)) in pieces.iter().zip(PIECES) {
        let seen = (segment.number.wrapping_sub(start), &segment.payload[..]);
        ensure!(seen == (place, bytes), "another segment passed: {seen:?}");
        let wanted = wanted.map_or("no ACK yet".into(), |number| format!("ACK {}", number.wrapping_sub(start)));
        stage.say("", format_args!("{:26}{wanted}", shown(place, bytes)));
    }
    ensure!(pieces.len() >= PIECES.len(), "{} segments with data passed", pieces.len());
    let blocks = value(&lines, "blocks")?;
    stage.server(format_args!("recv, 5 bytes at a time: {}", blocks.replace(' ', ", ")));
    stage.verdict(question, blocks, "each byte has a number: it comes once, in its place")
}

/// How often the server acknowledged the first half of a request by itself, before it had the second.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Acknowledged {
    All,
    AtMostAFew,
    Many(usize),
}

pub fn nagle(stage: &mut Stage) -> Result<Verdict> {
    use Acknowledged::{All, AtMostAFew, Many};
    let question = stage.ask(
        "A request is two small sends, \"head\" and \"body\". The server answers once it has both. The client makes ten requests as usual, then ten with TCP_NODELAY. How often does the server acknowledge \"head\" before it has \"body\"?",
        [
            ("as usual each time, with TCP_NODELAY each time", [All, All]),
            ("as usual each time, with TCP_NODELAY at most a few times", [All, AtMostAFew]),
            ("as usual at most a few times, with TCP_NODELAY each time", [AtMostAFew, All]),
            ("as usual at most a few times, with TCP_NODELAY at most a few times", [AtMostAFew, AtMostAFew]),
        ],
        Predicts { source: Some([All, All]), kit: [All, AtMostAFew] },
    )?;
    let mut observed = [Many(0); 2];
    for (observed, (name, scene)) in observed.iter_mut().zip([("usual", "halves"), ("no delay", "halves-no-delay")]) {
        let (lines, segments) = captured(scene)?;
        let syn = segments.iter().find(|segment| segment.has("SYN")).context("no SYN")?;
        let start = syn.number.wrapping_add(1);
        let request = HALVES.concat().len();
        let heads = (0..REQUESTS).filter(|number| {
            let head_ends = start.wrapping_add((number * request + HALVES[0].len()) as u32);
            segments.iter().any(|segment| !segment.from_client && segment.acknowledged == head_ends)
        });
        let heads = heads.count();
        let ms = value(&lines, "ms")?;
        stage.say(name, format_args!("{REQUESTS} requests in {ms} ms, \"head\" acknowledged by itself: {heads}"));
        let (client, server): (Vec<_>, Vec<_>) =
            segments.iter().filter(|segment| !segment.has("SYN")).partition(|segment| segment.from_client);
        let with_data = client.iter().filter(|segment| !segment.payload.is_empty()).count();
        let acks = server.iter().filter(|segment| segment.payload.is_empty()).count();
        stage.say("", format_args!("{with_data} segments with data; {acks} ACKs without data from the server"));
        stage.say("", format_args!("the last request: {}", last_request(&segments)?));
        *observed = match heads {
            REQUESTS => All,
            few if few <= REQUESTS / 2 => AtMostAFew, // a client that does not run between its two sends gets an ACK
            many => Many(many),
        };
    }
    stage.verdict(
        question,
        observed,
        "one ACK can cover two segments; without TCP_NODELAY the second send waits for the ACK of the first",
    )
}

/// The segments from the last "head" to the answer.
fn last_request(segments: &[Segment]) -> Result<String> {
    let head = segments.iter().rposition(|segment| segment.payload.starts_with(HALVES[0])).context("no \"head\"")?;
    let shown = segments[head..].iter().map(|segment| {
        let who = if segment.from_client { "client" } else { "server" };
        match &segment.payload[..] {
            [] => format!("{who} ACK"),
            payload => format!("{who} \"{}\"", String::from_utf8_lossy(payload)),
        }
    });
    Ok(shown.collect::<Vec<_>>().join(", "))
}
