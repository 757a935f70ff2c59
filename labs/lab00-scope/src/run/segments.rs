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

/// An acknowledgement that comes later than this was delayed by the kernel: include/net/tcp.h has TCP_DELACK_MIN, 40 ms.
const DELAYED: Duration = Duration::from_millis(30);

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
        let mut other = self.0.get(&(destination, source)).cloned().unwrap_or_default();
        if flags.ack && (flags.syn || flags.rst) && other.start == 0 {
            other.start = tcp.acknowledgment_number().wrapping_sub(1);
        }
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
        self.0.insert((destination, source), other);
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
