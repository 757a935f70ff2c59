//! Packets become segments: addresses, flags, relative numbers, and what is remarkable about each.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use etherparse::{Icmpv4Type, Icmpv6Type, NetSlice, SlicedPacket, TcpOptionElement, TcpSlice, TransportSlice};

use super::model::{Cause, Flags, Mark, Protocol, Segment, Tcp};
use super::wire::Packet;

/// What is known of one direction of a connection.
#[derive(Clone, Debug, Default)]
struct Direction {
    /// The sequence number that is shown as 0.
    start: u32,
    /// Behind the last byte that was sent; relative.
    next: u32,
    /// The last acknowledgement number; relative.
    ack: u32,
    /// The last window in bytes.
    window: u32,
    /// How far windows are shifted, from the SYN.
    shift: Option<u8>,
    /// A reset ended the connection.
    over: bool,
    /// When the last segment that wants an answer was sent.
    asked_at: Option<SystemTime>,
}

/// An acknowledgement that comes later than this was delayed by the kernel, by 40 ms of its coarse clock: include/net/tcp.h,
/// TCP_DELACK_MIN. One that is not delayed comes within the call.
const DELAYED: Duration = Duration::from_millis(20);

/// All directions of all connections that were seen.
#[derive(Default)]
pub struct Segments(HashMap<(SocketAddr, SocketAddr), Direction>);

impl Segments {
    /// Reads a packet; `None` for one that is not IP, or is cut.
    pub fn read(&mut self, packet: Packet) -> Option<Segment> {
        let sliced = SlicedPacket::from_ip(&packet.bytes).ok()?;
        let (from, to) = match sliced.net.as_ref()? {
            NetSlice::Ipv4(ip) => {
                (IpAddr::from(ip.header().source_addr()), IpAddr::from(ip.header().destination_addr()))
            }
            NetSlice::Ipv6(ip) => {
                (IpAddr::from(ip.header().source_addr()), IpAddr::from(ip.header().destination_addr()))
            }
            NetSlice::Arp(_) => return None,
        };
        let ends = |source, destination| (SocketAddr::new(from, source), SocketAddr::new(to, destination));
        let (mut marks, mut cause) = (Vec::new(), Cause::Unknown);
        let ((source, destination), protocol, payload) = match sliced.transport.as_ref() {
            Some(TransportSlice::Tcp(tcp)) => {
                let (source, destination) = ends(tcp.source_port(), tcp.destination_port());
                let (fields, found) = self.tcp(source, destination, tcp);
                marks = found;
                cause = self.cause(source, destination, packet.taken_at, &fields, tcp.payload().len());
                ((source, destination), Protocol::Tcp(fields), tcp.payload().len())
            }
            Some(TransportSlice::Udp(udp)) => {
                (ends(udp.source_port(), udp.destination_port()), Protocol::Udp, udp.payload().len())
            }
            Some(TransportSlice::Icmpv4(icmp)) => {
                (ends(0, 0), Protocol::Icmp(icmpv4(&icmp.icmp_type())), icmp.payload().len())
            }
            Some(TransportSlice::Icmpv6(icmp)) => {
                (ends(0, 0), Protocol::Icmp(icmpv6(&icmp.icmp_type())), icmp.payload().len())
            }
            Some(TransportSlice::Igmp(_)) => {
                (ends(0, 0), Protocol::Other(2), sliced.ip_payload().map_or(0, |ip| ip.payload.len()))
            }
            None => {
                let (number, length) = sliced.ip_payload().map_or((0, 0), |ip| (ip.ip_number.0, ip.payload.len()));
                (ends(0, 0), Protocol::Other(number), length)
            }
        };
        if !packet.arrived {
            marks.push(Mark::Lost);
        }
        drop(sliced); // it borrows the packet
        let Packet { bytes, taken_at, .. } = packet;
        Some(Segment { source, destination, protocol, payload, marks, bytes, taken_at, cause })
    }

    /// A delayed acknowledgement is a timer's, whenever it is read; of the others the segment itself does not tell.
    fn cause(
        &mut self,
        source: SocketAddr,
        destination: SocketAddr,
        at: SystemTime,
        tcp: &Tcp,
        payload: usize,
    ) -> Cause {
        let counted = payload > 0 || tcp.flags.syn || tcp.flags.fin;
        if let Some(own) = self.0.get_mut(&(source, destination)).filter(|_| counted) {
            own.asked_at = Some(at);
        }
        let asked_at = self.0.get(&(destination, source)).and_then(|other| other.asked_at);
        let waited = asked_at.and_then(|asked| at.duration_since(asked).ok());
        let late = !counted && tcp.flags.ack && !tcp.flags.rst && waited.is_some_and(|waited| waited > DELAYED);
        if late { Cause::Timer } else { Cause::Unknown }
    }

    /// Whether something was sent that is not acknowledged yet.
    pub fn in_flight(&self) -> bool {
        self.0.iter().any(|((source, destination), own)| {
            let answers = self.0.get(&(*destination, *source)).filter(|answers| !answers.over);
            answers.is_some_and(|answers| (own.next.wrapping_sub(answers.ack) as i32) > 0)
        })
    }

    fn tcp(&mut self, source: SocketAddr, destination: SocketAddr, tcp: &TcpSlice) -> (Tcp, Vec<Mark>) {
        let flags =
            Flags { syn: tcp.syn(), fin: tcp.fin(), rst: tcp.rst(), psh: tcp.psh(), urg: tcp.urg(), ack: tcp.ack() };
        let (raw, known) = (tcp.sequence_number(), self.0.get(&(source, destination)).cloned());
        // A SYN with another number begins another connection between the same ports.
        let again = known.filter(|known| !flags.syn || known.start == raw);
        let first = again.is_none();
        let mut own = again.unwrap_or_else(|| Direction {
            start: if flags.syn { raw } else { raw.wrapping_sub(1) },
            next: if flags.syn { 0 } else { 1 },
            ..Direction::default()
        });
        if flags.syn {
            own.shift = tcp.options_iterator().flatten().find_map(|option| match option {
                TcpOptionElement::WindowScale(shift) => Some(shift),
                _ => None,
            });
        }
        // Of an end that was not heard yet its peer's acknowledgement tells where it is.
        let heard = self.0.get(&(destination, source)).cloned();
        let start = if flags.ack { tcp.acknowledgment_number().wrapping_sub(1) } else { 0 };
        let knows_other = heard.is_some() || flags.ack;
        let mut other = heard.unwrap_or(Direction { start, next: 1, ..Direction::default() });
        let seq = raw.wrapping_sub(own.start);
        let ack = if flags.ack { tcp.acknowledgment_number().wrapping_sub(other.start) } else { 0 };
        // The window of a SYN is not scaled, and none is unless both SYNs had the option: RFC 7323 2.2.
        let shift = own.shift.filter(|_| !flags.syn && other.shift.is_some()).unwrap_or(0);
        let window = u32::from(tcp.window_size()) << shift;
        let fields = Tcp { flags, seq, ack, window };
        let length = tcp.payload().len() as u32;
        let marks = if first && !flags.rst { Vec::new() } else { marks(&fields, length, &own, &other) };
        let end = seq.wrapping_add(length).wrapping_add(u32::from(flags.syn) + u32::from(flags.fin));
        if !flags.rst && (end.wrapping_sub(own.next) as i32) > 0 {
            own.next = end;
        }
        (own.ack, own.window) = (ack, window);
        if flags.rst {
            // Nothing that was sent before is acknowledged any more; it may be sent again.
            (own.over, other.over) = (true, true);
        }
        self.0.insert((source, destination), own);
        if knows_other {
            self.0.insert((destination, source), other);
        }
        (fields, marks)
    }
}

/// What is remarkable about a segment, `own` and `other` being the directions as they were before it.
fn marks(tcp: &Tcp, length: u32, own: &Direction, other: &Direction) -> Vec<Mark> {
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

fn icmpv4(kind: &Icmpv4Type) -> String {
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

fn icmpv6(kind: &Icmpv6Type) -> String {
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

#[cfg(test)]
mod tests {
    use etherparse::{PacketBuilder, TcpHeader};

    use super::*;

    /// A client and a server that send each other segments; raw numbers begin near the end, so that they wrap.
    struct Talk(Segments);

    const CLIENT: u32 = u32::MAX - 2;
    const SERVER: u32 = 5000;

    impl Talk {
        /// `up`: from the client; relative numbers.
        fn says(&mut self, up: bool, flags: &str, seq: u32, ack: u32, window: u16, payload: &[u8]) -> Segment {
            let (own, other) = if up { (CLIENT, SERVER) } else { (SERVER, CLIENT) };
            let (from, to) = if up { (40000, 4444) } else { (4444, 40000) };
            let mut header = TcpHeader::new(from, to, own.wrapping_add(seq), window);
            header.syn = flags.contains('S');
            header.fin = flags.contains('F');
            header.rst = flags.contains('R');
            header.ack = flags.contains('A');
            header.acknowledgment_number = if header.ack { other.wrapping_add(ack) } else { 0 };
            if header.syn {
                header.set_options(&[TcpOptionElement::WindowScale(7)]).unwrap();
            }
            let builder = PacketBuilder::ipv4([127, 0, 0, 1], [127, 0, 0, 1], 64).tcp_header(header);
            let mut bytes = Vec::new();
            builder.write(&mut bytes, payload).unwrap();
            self.0.read(Packet { bytes, taken_at: SystemTime::now(), arrived: true }).unwrap()
        }

        fn connected() -> Talk {
            let mut talk = Talk(Segments::default());
            assert_eq!(talk.says(true, "S", 0, 0, 65495, b"").marks, []);
            assert_eq!(talk.says(false, "SA", 0, 1, 65483, b"").marks, []);
            assert_eq!(talk.says(true, "A", 1, 1, 512, b"").marks, []);
            talk
        }
    }

    fn numbers(segment: &Segment) -> (u32, u32, u32) {
        let Protocol::Tcp(tcp) = &segment.protocol else { panic!("{segment:?}") };
        (tcp.seq, tcp.ack, tcp.window)
    }

    #[test]
    fn numbers_are_relative_over_the_wrap_and_windows_are_scaled_behind_the_syns() {
        let mut talk = Talk(Segments::default());
        assert_eq!(numbers(&talk.says(true, "S", 0, 0, 65495, b"")), (0, 0, 65495));
        assert_eq!(numbers(&talk.says(false, "SA", 0, 1, 65483, b"")), (0, 1, 65483));
        assert_eq!(numbers(&talk.says(true, "A", 1, 1, 512, b"hello")), (1, 1, 65536));
        assert!(talk.0.in_flight());
        assert_eq!(numbers(&talk.says(false, "A", 1, 6, 511, b"")), (1, 6, 65408));
        assert!(!talk.0.in_flight());
    }

    #[test]
    fn what_was_sent_before_is_a_retransmission() {
        let mut talk = Talk::connected();
        assert_eq!(talk.says(true, "A", 1, 1, 512, b"hello").marks, []);
        assert_eq!(talk.says(true, "A", 1, 1, 512, b"hello").marks, [Mark::Retransmission]);
        assert_eq!(talk.says(true, "A", 1, 1, 512, b"hello and more").marks, [Mark::Retransmission]);
        assert_eq!(talk.says(true, "FA", 15, 1, 512, b"").marks, []);
        assert_eq!(talk.says(true, "FA", 15, 1, 512, b"").marks, [Mark::Retransmission]);
        let mut talk = Talk(Segments::default());
        talk.says(true, "S", 0, 0, 65495, b"");
        assert_eq!(talk.says(true, "S", 0, 0, 65495, b"").marks, [Mark::Retransmission]);
    }

    #[test]
    fn a_probe_of_a_full_window_is_told_from_a_keepalive() {
        let mut talk = Talk::connected();
        assert_eq!(talk.says(true, "A", 0, 1, 512, b"").marks, [Mark::KeepAlive]);
        talk.says(true, "A", 1, 1, 512, b"fill");
        assert_eq!(talk.says(false, "A", 1, 5, 0, b"").marks, [Mark::ZeroWindow]);
        assert_eq!(talk.says(true, "A", 4, 1, 512, b"").marks, [Mark::WindowProbe]);
        assert_eq!(talk.says(false, "A", 1, 5, 400, b"").marks, [Mark::WindowUpdate]);
    }

    #[test]
    fn the_same_acknowledgement_while_data_are_missing_is_a_duplicate() {
        let mut talk = Talk::connected();
        talk.says(true, "A", 1, 1, 512, b"first");
        assert_eq!(talk.says(false, "A", 1, 6, 512, b"").marks, []);
        talk.says(true, "A", 11, 1, 512, b"third"); // the second is lost
        assert_eq!(talk.says(false, "A", 1, 6, 512, b"").marks, [Mark::DuplicateAck]);
    }

    #[test]
    fn a_reset_is_marked_and_a_new_syn_begins_anew() {
        let mut talk = Talk(Segments::default());
        talk.says(true, "S", 0, 0, 65495, b"");
        let refused = talk.says(false, "RA", 0, 1, 0, b"");
        assert_eq!((refused.marks.as_slice(), numbers(&refused)), (&[Mark::Reset][..], (1, 1, 0)));
        assert!(!talk.0.in_flight());
        assert_eq!(talk.says(true, "S", 77777, 0, 65495, b"").marks, []);
        assert_eq!(numbers(&talk.says(true, "A", 77778, 0, 512, b"")).0, 1);
    }
}
