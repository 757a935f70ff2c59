//! Packets become segments: addresses, flags, relative numbers, and what is remarkable about each.

mod marks;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use etherparse::{NetSlice, SlicedPacket, TcpOptionElement, TcpSlice, TransportSlice};

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
                (ends(0, 0), Protocol::Icmp(marks::icmpv4(&icmp.icmp_type())), icmp.payload().len())
            }
            Some(TransportSlice::Icmpv6(icmp)) => {
                (ends(0, 0), Protocol::Icmp(marks::icmpv6(&icmp.icmp_type())), icmp.payload().len())
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
        let marks = if first && !flags.rst { Vec::new() } else { marks::marks(&fields, length, &own, &other) };
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
