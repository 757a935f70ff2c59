//! The header of two segments, as they went over lo.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use kernel::{Need, namespace::NAMESPACE};
use shared::{Predicts, Role, Stage, Verdict};

use crate::capture::{MESSAGE, packet_socket};

/// A private user and network namespace has a loopback of its own, and in it the capability to look at packets.
pub const CAPTURE: Need = Need {
    what: "a private user and network namespace (unshare -Urn, ip), or CAP_NET_RAW",
    provided_by: NAMESPACE.provided_by,
    met: || (NAMESPACE.met)() || packet_socket().is_ok(),
};

/// Before the options: RFC 9293 3.1.
const FIXED_PART: usize = 20;

/// A captured segment: its header, the sum over its pseudo-header, and how many bytes of payload follow.
struct Segment {
    header: Vec<u8>,
    payload: usize,
    pseudo_header_sum: u16,
}

pub fn header(stage: &mut Stage) -> Result<Verdict> {
    let question = stage.ask(
        "A SYN and the segment with \"Hello World!\" are captured. How long is the window field, and how long are the options?",
        [
            ("the window 4 bytes; the options the same in both", (4, "same")),
            ("the window 4 bytes; the SYN has more options", (4, "more")),
            ("the window 2 bytes; the options the same in both", (2, "same")),
            ("the window 2 bytes; the SYN has more options", (2, "more")),
        ],
        Predicts { source: Some((4, "same")), kit: (2, "more") },
    )?;
    let [syn, message] = captured()?;
    let (syn, message) = (segment(&syn)?, segment(&message)?);
    ensure!(syn.payload == 0 && message.payload == MESSAGE.len(), "{} and {} bytes", syn.payload, message.payload);
    let mut windows = Vec::new();
    for (name, segment) in [("SYN", &syn), ("message", &message)] {
        let header = &segment.header;
        let field = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        stage.say(name, format_args!("ports {} and {}, 2 bytes each", field(0), field(2)));
        let words = header[12] >> 4;
        stage.say(
            "",
            format_args!("data offset {words}, in 4 bits: {} bytes, payload {}", header.len(), segment.payload),
        );
        stage.say("", format_args!("flags {}, 8 bits in use", flags(header[13])));
        // Where the checksum stands shows where the window before it ends. On lo it is the unfinished one: the sum
        // over the pseudo-header (see lab03-datagram).
        let ends = [2, 4].into_iter().find(|length| field(14 + length) == segment.pseudo_header_sum);
        let length = ends.context("the checksum is neither 2 nor 4 bytes behind the window's start")?;
        windows.push(length);
        stage.say("", format_args!("window {}, then after {length} bytes the checksum", field(14)));
        let options = options(&header[FIXED_PART..])?;
        stage.say("", format_args!("options, {} bytes: {}", header.len() - FIXED_PART, options.join(", ")));
    }
    ensure!(windows[0] == windows[1], "the window has {} bytes, then {}", windows[0], windows[1]);
    let options = if syn.header.len() > message.header.len() { "more" } else { "same" };
    stage.verdict(question, (windows[0], options), "2 bytes, with a scale in the SYN; 0 to 40 bytes of options")
}

/// Takes a packet apart, from its IP header on.
fn segment(packet: &[u8]) -> Result<Segment> {
    let ip_header_length = usize::from(packet.first().context("an empty packet")? & 0xf) * 4;
    let (ip_header, tcp) = packet.split_at_checked(ip_header_length).context("a cut packet")?;
    ensure!(ip_header.len() >= 20, "an IP header of {} bytes", ip_header.len());
    let header_length = usize::from(tcp.get(12).context("a cut segment")? >> 4) * 4;
    ensure!((FIXED_PART..=tcp.len()).contains(&header_length), "a TCP header of {header_length} bytes");
    // RFC 9293 3.1: both addresses, a zero, the protocol, and the length of header and payload.
    let length = (tcp.len() as u16).to_be_bytes();
    let pseudo_header = [&ip_header[12..20], &[0, ip_header[9]], &length].concat();
    Ok(Segment {
        header: tcp[..header_length].to_vec(),
        payload: tcp.len() - header_length,
        pseudo_header_sum: sum(&pseudo_header),
    })
}

/// The Internet checksum's sum (RFC 1071): 16-bit words, a carry comes back in at the other end. Not yet complemented.
fn sum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    ((folded & 0xffff) + (folded >> 16)) as u16
}

/// The flags that are set, of the eight in the byte.
fn flags(byte: u8) -> String {
    let names = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
    let set = names.iter().enumerate().filter(|(bit, _)| byte >> bit & 1 == 1);
    set.map(|(_, name)| *name).collect::<Vec<_>>().join(" ")
}

/// The options by name; the kinds are IANA's.
fn options(mut bytes: &[u8]) -> Result<Vec<String>> {
    let mut names = Vec::new();
    while let Some(kind) = bytes.first() {
        let length = match kind {
            0 => break, // the end of the list
            1 => 1,
            _ => usize::from(*bytes.get(1).context("an option without a length")?),
        };
        let Some((option, rest)) = bytes.split_at_checked(length).filter(|_| length > 0) else {
            bail!("an option of {length} bytes")
        };
        names.push(match option {
            [1] => "no-op".into(),
            [2, _, high, low] => format!("largest segment {}", u16::from_be_bytes([*high, *low])),
            [3, _, shift] => format!("window scale {shift}"),
            [4, _] => "selective ack permitted".into(),
            [8, ..] => "timestamps".into(),
            _ => format!("kind {kind}"),
        });
        bytes = rest;
    }
    Ok(names)
}

/// The SYN and the segment with the message, from the IP header on, captured by a child of this program.
fn captured() -> Result<[Vec<u8>; 2]> {
    let captured = Role::start_in_namespace(&["capture"]).and_then(from_child);
    let mut here = Command::new(std::env::current_exe()?);
    here.arg("capture").stderr(Stdio::null());
    captured.or_else(|_| from_child(Role::spawn(&mut here)?)) // with CAP_NET_RAW, on everybody's lo
}

fn from_child(mut child: Role) -> Result<[Vec<u8>; 2]> {
    Ok([from_hex(&child.line_with("syn ")?)?, from_hex(&child.line_with("message ")?)?])
}

/// The bytes behind the name.
fn from_hex(line: &str) -> Result<Vec<u8>> {
    let (_, hex) = line.split_once(' ').context("no bytes")?;
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair)?, 16).context("not hexadecimal");
    hex.trim_end().as_bytes().chunks(2).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_of_a_syn_have_names() {
        let syn = [2, 4, 0xff, 0xd7, 4, 2, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 1, 3, 3, 10];
        let names = ["largest segment 65495", "selective ack permitted", "timestamps", "no-op", "window scale 10"];
        assert_eq!(options(&syn).unwrap_or_default(), names);
        assert!(options(&[2]).is_err() && options(&[2, 0]).is_err() && options(&[2, 9, 1]).is_err());
    }

    #[test]
    fn flags_are_named_from_the_lowest_bit() {
        assert_eq!(flags(0x18), "PSH ACK");
        assert_eq!(flags(0xc2), "SYN ECE CWR");
    }
}
