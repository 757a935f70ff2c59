//! The eight bytes in front of the payload, as they went over lo.

use anyhow::{Context, Result, ensure};
use kernel::{
    Packet,
    capture::{command, sum},
    namespace::{NAMESPACE, START_LIMIT},
};
use shared::{Predicts, Role, Stage, Verdict, own_program};

use crate::capture::MESSAGE;

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
    let (ip_header, udp) = packet.split().context("a cut packet")?;
    ensure!(udp.len() == 8 + MESSAGE.len(), "a datagram of {} bytes", udp.len());
    let field = |at: usize| u16::from_be_bytes([udp[at], udp[at + 1]]);
    let (length, checksum) = (field(4), field(6));
    stage.say("captured", format_args!("IP header, {} bytes: protocol {}", ip_header.len(), ip_header[9]));
    stage
        .say("captured", format_args!("UDP header, 8 bytes: source port {}, destination port {},", field(0), field(2)));
    stage.say("", format_args!("length {length} = 8 + {}, checksum {checksum:#06x}", udp.len() - 8));
    stage.say("receiver", format_args!("got all {} bytes of it: the checksum did not stop them", MESSAGE.len()));

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
    stage.verdict(question, observed, "Linux leaves the sum to the network card; lo has none, and nobody checks it")
}

/// The packet with "Hello world!", captured by a child of this program.
fn captured() -> Result<Packet> {
    // In a private network the lecture's ports are free; here the kernel chooses.
    let ports = if (NAMESPACE.met)() { ["7777", "7778"] } else { ["0", "0"] };
    let mut child = Role::spawn(command(own_program()?).arg("capture").args(ports))?;
    child.wait_for_within("captured ", START_LIMIT)?;
    child.wait_for("\n")?.parse()
}
