//! The header of the segments of one connection, as they went over lo.

use anyhow::{Context, Result, ensure};
use shared::{Predicts, Stage, Verdict};

use super::wire::captured;
use crate::{
    captured::MESSAGE,
    segment::{FIXED_PART, flags, options},
};

pub fn header(stage: &mut Stage) -> Result<Verdict> {
    let question = stage.ask(
        "A connection is captured: its first segment, the SYN, and one with \"Hello World!\". How long is the window field? Which of the two has more options?",
        [
            ("the window 4 bytes; both have the same options", (4, "same")),
            ("the window 4 bytes; the SYN has more options", (4, "more")),
            ("the window 2 bytes; both have the same options", (2, "same")),
            ("the window 2 bytes; the SYN has more options", (2, "more")),
        ],
        Predicts { source: Some((4, "same")), kit: (2, "more") },
    )?;
    let (_, segments) = captured("whole")?;
    let shown = segments.iter().map(|segment| flags(segment.flags));
    stage.say("all", format_args!("{} segments: {}", segments.len(), shown.collect::<Vec<_>>().join(", ")));
    let having = |flag| segments.iter().filter(move |segment| segment.has(flag)).count();
    let (syns, without_ack) = (having("SYN"), segments.len() - having("ACK"));
    stage.say("", format_args!("SYN in {syns}, no ACK in {without_ack}"));
    ensure!((syns, without_ack) == (2, 1), "SYN in {syns} segments, no ACK in {without_ack}");

    let syn = segments.iter().find(|segment| segment.has("SYN")).context("no SYN")?;
    let message = segments.iter().find(|segment| segment.payload == MESSAGE).context("no message")?;
    let mut windows = Vec::new();
    for (name, segment) in [("SYN", syn), ("message", message)] {
        let header = &segment.header;
        let field = |at| segment.field(at);
        stage.say(name, format_args!("ports {} and {}, 2 bytes each", field(0), field(2)));
        let words = header[12] >> 4;
        stage.say(
            "",
            format_args!("data offset {words}, in 4 bits: {} bytes, payload {}", header.len(), segment.payload.len()),
        );
        stage.say("", format_args!("flags {}, 8 bits in use", flags(segment.flags)));
        // Where the checksum stands shows where the window before it ends. On lo it is the unfinished one: the sum
        // over the pseudo-header (see lab03-datagram).
        let ends = [2, 4].into_iter().find(|length| field(14 + length) == segment.pseudo_header_sum);
        let length = ends.context("the checksum is neither 2 nor 4 bytes behind the window's start")?;
        windows.push(length);
        stage.say("", format_args!("window {}, then after {length} bytes the checksum", field(14)));
        let options = options(&header[FIXED_PART..]).context("options that do not add up")?;
        stage.say("", format_args!("options, {} bytes: {}", header.len() - FIXED_PART, options.join(", ")));
    }
    ensure!(windows[0] == windows[1], "the window has {} bytes, then {}", windows[0], windows[1]);
    let options = if syn.header.len() > message.header.len() { "more" } else { "same" };
    stage.verdict(question, (windows[0], options), "2 bytes, with a scale in the SYN; 0 to 40 bytes of options")
}
