//! What is remarkable about a segment, and what it tells of its sender.

use etherparse::{Icmpv4Type, Icmpv6Type};

use super::super::model::{Mark, Protocol, Segment, Tcp};
use super::Direction;

impl Segment {
    /// Whether no call sends such a segment at once: a delayed acknowledgement, a retransmission, a probe.
    pub fn is_timers(&self) -> bool {
        let Protocol::Tcp(tcp) = &self.protocol else { return false };
        let flags = tcp.flags;
        let marks = [Mark::Retransmission, Mark::WindowProbe, Mark::KeepAlive];
        self.payload == 0 && flags.ack && !(flags.syn || flags.fin || flags.rst)
            || self.marks.iter().any(|mark| marks.contains(mark))
    }

    /// Whether the kernel sends it for itself, as an interface has come up: RFC 4861, RFC 3810.
    pub fn is_housekeeping(&self) -> bool {
        let Protocol::Icmp(what) = &self.protocol else { return false };
        self.source.is_ipv6() && ["multicast", "router", "neighbor"].iter().any(|kind| what.starts_with(kind))
    }
}

/// What is remarkable about a segment, `own` and `other` being the directions as they were before it.
pub(super) fn marks(tcp: &Tcp, length: u32, own: &Direction, other: &Direction) -> Vec<Mark> {
    let mut marks = Vec::new();
    let flags = tcp.flags;
    if flags.rst {
        return vec![Mark::Reset];
    }
    let counted = length + u32::from(flags.syn) + u32::from(flags.fin);
    let behind = (own.next.wrapping_sub(tcp.seq) as i32) > 0; // something of it was sent before
    // A keep-alive and a probe repeat the last byte that was acknowledged, or its number: RFC 9293 3.8.4, 3.8.6.1.
    let asks = !flags.syn && !flags.fin && length <= 1 && tcp.seq.wrapping_add(1) == other.ack;
    if asks && behind {
        marks.push(if other.window == 0 { Mark::WindowProbe } else { Mark::KeepAlive });
    } else if counted > 0 && behind {
        marks.push(Mark::Retransmission);
    } else if counted == 0 && flags.ack && tcp.ack == own.ack {
        // That of a SYN is not scaled, so the next one may be a little larger by rounding.
        if tcp.window.saturating_sub(own.window) >= 1 << own.shift.unwrap_or(0).min(14) {
            marks.push(Mark::WindowUpdate);
        } else if tcp.window == own.window && (other.next.wrapping_sub(tcp.ack) as i32) > 0 {
            marks.push(Mark::DuplicateAck);
        }
    }
    if tcp.window == 0 && !flags.syn {
        marks.push(Mark::ZeroWindow);
    }
    marks
}

/// An ICMP message in words.
pub(super) fn icmpv4(kind: &Icmpv4Type) -> String {
    use etherparse::icmpv4::DestUnreachableHeader as Unreachable;
    match kind {
        Icmpv4Type::EchoRequest(_) => "echo request".into(),
        Icmpv4Type::EchoReply(_) => "echo reply".into(),
        Icmpv4Type::DestinationUnreachable(why) => match why {
            Unreachable::Port => "port unreachable".into(),
            Unreachable::Host => "host unreachable".into(),
            Unreachable::Network => "network unreachable".into(),
            Unreachable::Protocol => "protocol unreachable".into(),
            Unreachable::FragmentationNeeded { next_hop_mtu } => format!("fragmentation needed, MTU {next_hop_mtu}"),
            _ => "destination unreachable".into(),
        },
        Icmpv4Type::TimeExceeded(_) => "time exceeded".into(),
        Icmpv4Type::Redirect(_) => "redirect".into(),
        _ => "ICMP".into(),
    }
}

/// An ICMPv6 message in words.
pub(super) fn icmpv6(kind: &Icmpv6Type) -> String {
    match kind {
        Icmpv6Type::DestinationUnreachable(why) => format!("unreachable: {}", format!("{why:?}").to_lowercase()),
        Icmpv6Type::EchoRequest(_) => "echo request".into(),
        Icmpv6Type::EchoReply(_) => "echo reply".into(),
        Icmpv6Type::Unknown { type_u8: 143, .. } => "multicast listener report".into(),
        Icmpv6Type::Unknown { type_u8: 133, .. } | Icmpv6Type::RouterSolicitation => "router solicitation".into(),
        Icmpv6Type::NeighborSolicitation => "neighbor solicitation".into(),
        Icmpv6Type::NeighborAdvertisement(_) => "neighbor advertisement".into(),
        _ => "ICMPv6".into(),
    }
}
