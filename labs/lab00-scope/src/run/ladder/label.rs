//! What stands on an arrow.

use crate::run::model::{Protocol, Segment};

/// Of what a segment carries, so many bytes are shown.
const DATA: usize = 24;
/// Of one that carries more than this, none are.
const MUCH: usize = 200;

/// The label of a segment, in the words of its header.
pub fn parts(segment: &Segment) -> Vec<String> {
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
pub fn data(segment: &Segment) -> String {
    let carries = matches!(segment.protocol, Protocol::Tcp(_) | Protocol::Udp) && (1..=MUCH).contains(&segment.payload);
    let start = segment.bytes.len().checked_sub(segment.payload).filter(|_| carries);
    let Some(bytes) = start.and_then(|start| segment.bytes.get(start..)) else { return String::new() };
    let more = if bytes.len() > DATA { "..." } else { "" };
    format!("\"{}\"{more}", bytes[..bytes.len().min(DATA)].escape_ascii())
}

/// `ECONNRESET` of `recv(3, 1024) = -1 ECONNRESET (Connection reset by peer)`.
pub fn error_name(short: &str) -> Option<&str> {
    short.rsplit_once(" = -1 ")?.1.split(' ').next()
}
