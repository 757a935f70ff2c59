//! The eight bytes in front of the payload, as they went over lo.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use kernel::{Need, namespace::NAMESPACE};
use shared::{Predicts, Role, Stage, Verdict};

use crate::capture::{MESSAGE, packet_socket};

/// A private user and network namespace has a loopback of its own, and in it the capability to look at packets.
pub const CAPTURE: Need = Need {
    what: "a private user and network namespace (unshare -Urn, ip), or CAP_NET_RAW",
    provided_by: NAMESPACE.provided_by,
    met: || (NAMESPACE.met)() || packet_socket().is_ok(),
};

/// What stands in the checksum field.
#[derive(Debug, PartialEq)]
enum Checksum {
    WithIpHeader,
    WithPseudoHeader,
    PseudoHeaderOnly,
    Zero,
}

pub fn header(stage: &mut Stage) -> Result<Verdict> {
    let question = stage.ask(
        "\"Hello world!\" goes over lo and is captured there. What stands in its checksum field?",
        [
            ("the sum over payload, UDP header and IP header", Checksum::WithIpHeader),
            ("the sum over payload, UDP header, addresses, protocol, length", Checksum::WithPseudoHeader),
            ("0: there is none on loopback", Checksum::Zero),
            ("an unfinished one: the sum over addresses, protocol, length", Checksum::PseudoHeaderOnly),
        ],
        Predicts { source: Some(Checksum::WithIpHeader), kit: Checksum::PseudoHeaderOnly },
    )?;
    let packet = captured()?;
    let ip_header_length = usize::from(packet.first().context("an empty packet")? & 0xf) * 4;
    ensure!(packet.len() == ip_header_length + 8 + MESSAGE.len(), "a packet of {} bytes", packet.len());
    let (ip_header, udp) = packet.split_at(ip_header_length);
    let field = |at: usize| u16::from_be_bytes([udp[at], udp[at + 1]]);
    let (length, checksum) = (field(4), field(6));
    stage.say("captured", format_args!("IP header, {ip_header_length} bytes: protocol {}", ip_header[9]));
    stage
        .say("captured", format_args!("UDP header, 8 bytes: source port {}, destination port {},", field(0), field(2)));
    stage.say("", format_args!("length {length} = 8 + {}, checksum {checksum:#06x}", udp.len() - 8));

    // RFC 768: the pseudo-header is both addresses, a zero, the protocol, and the length of header and payload.
    let pseudo_header = [&ip_header[12..20], &[0, ip_header[9]], &udp[4..6]].concat();
    let without_checksum = [&udp[..6], &[0, 0], &udp[8..]].concat();
    let pseudo_header_only = sum(&[&pseudo_header]);
    let with_pseudo_header = !sum(&[&pseudo_header, &without_checksum]);
    let with_ip_header = !sum(&[ip_header, &without_checksum]);
    stage.say("computed", format_args!("pseudo-header summed up, not finished    {pseudo_header_only:#06x}"));
    stage.say("", format_args!("pseudo-header, UDP header and payload    {with_pseudo_header:#06x}"));
    stage.say("", format_args!("IP header, UDP header and payload        {with_ip_header:#06x}"));
    let observed = match checksum {
        0 => Checksum::Zero,
        checksum if checksum == pseudo_header_only => Checksum::PseudoHeaderOnly,
        checksum if checksum == with_pseudo_header => Checksum::WithPseudoHeader,
        checksum if checksum == with_ip_header => Checksum::WithIpHeader,
        checksum => anyhow::bail!("the checksum {checksum:#06x} is the sum over none of these"),
    };
    stage.verdict(question, observed, "it is left to the network card, and lo has none; nobody checks it")
}

/// The Internet checksum's sum (RFC 1071): 16-bit words, a carry comes back in at the other end. Not yet complemented.
fn sum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2)); // only the last part may have an odd length
    let sum: u32 = words.map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    ((folded & 0xffff) + (folded >> 16)) as u16
}

/// The packet with "Hello world!", from its IP header on, captured by a child of this program.
fn captured() -> Result<Vec<u8>> {
    // In the namespace the lecture's ports are free.
    let captured = Role::start_in_namespace(&["capture", "7777", "7778"]).and_then(from_child);
    let mut here = Command::new(std::env::current_exe()?);
    here.args(["capture", "0", "0"]).stderr(Stdio::null());
    captured.or_else(|_| from_child(Role::spawn(&mut here)?)) // with CAP_NET_RAW, on everybody's lo
}

fn from_child(mut child: Role) -> Result<Vec<u8>> {
    let line = child.line_with("packet ")?;
    let hex = line.trim_start_matches("packet ").as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair)?, 16).context("not hexadecimal");
    hex.chunks(2).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Captured elsewhere: 127.0.0.1 to itself, ports 7777 and 7778, "Hello world!".
    #[test]
    fn the_sum_of_the_pseudo_header_is_the_one_seen_on_lo() {
        let pseudo_header = [127, 0, 0, 1, 127, 0, 0, 1, 0, 17, 0, 20];
        assert_eq!(sum(&[&pseudo_header]), 0xfe27);
        let udp = [&[0x1e, 0x61, 0x1e, 0x62, 0, 20, 0, 0], MESSAGE].concat();
        assert_eq!(!sum(&[&pseudo_header, &udp]), 0x5311);
    }

    #[test]
    fn a_carry_comes_back_and_an_odd_byte_counts_as_the_high_one() {
        assert_eq!(sum(&[&[0xff, 0xff, 0x00, 0x01]]), 1);
        assert_eq!(sum(&[&[0x01]]), 0x0100);
    }
}
