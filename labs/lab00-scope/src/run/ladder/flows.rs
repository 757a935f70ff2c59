//! Which connection an event is about, and which of its two ends. The end that called connect is left, the end that was
//! accepted is right; of datagrams the first sender is left.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use crate::run::model::{Call, Protocol, Segment, StateChange};

/// One of the two lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Left,
    Right,
}

impl Side {
    pub fn other(self) -> Side {
        if self == Side::Left { Side::Right } else { Side::Left }
    }
}

/// Two addresses between which something passed.
pub struct Flow {
    /// `TCP`, `UDP` ...
    pub protocol: &'static str,
    /// Left and right.
    pub ends: [SocketAddr; 2],
    /// Its first SYN was seen.
    begun: bool,
}

impl Flow {
    fn side(&self, local: SocketAddr, peer: SocketAddr) -> Option<Side> {
        let [left, right] = self.ends;
        match (local, peer) {
            _ if (local, peer) == (left, right) => Some(Side::Left),
            _ if (local, peer) == (right, left) => Some(Side::Right),
            _ => None,
        }
    }
}

/// A place in the picture: a connection by its number, and an end.
pub type Place = (usize, Side);

/// All connections so far, and whose sockets they end at.
#[derive(Default)]
pub struct Flows {
    flows: Vec<Flow>,
    /// The last connection between two addresses, whichever stands first.
    newest: HashMap<(SocketAddr, SocketAddr), usize>,
    /// The connections that a local address of datagrams takes part in.
    datagrams: HashMap<u16, Vec<usize>>,
    /// Where the socket with this inode stands: after a reset it has no peer any more.
    sockets: HashMap<u64, Place>,
    /// Who used the socket with this address last.
    owners: HashMap<SocketAddr, u32>,
}

impl Flows {
    pub fn get(&self, number: usize) -> Option<&Flow> {
        self.flows.get(number)
    }

    pub fn count(&self) -> usize {
        self.flows.len()
    }

    /// The process behind an address, as far as a call or a state told.
    pub fn owner(&self, addr: SocketAddr) -> Option<u32> {
        let any: IpAddr = if addr.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let of = |ip| self.owners.get(&SocketAddr::new(ip, addr.port())).copied();
        of(addr.ip()).or_else(|| of(any)).or_else(|| of([0; 16].into())) // a socket of IPv6 may serve IPv4, too
    }

    /// Where the sender of this packet stands.
    pub fn of_segment(&mut self, segment: &Segment) -> Place {
        let (source, destination) = match &segment.protocol {
            // An ICMP error quotes the packet it is about: it comes from that packet's destination.
            Protocol::Icmp(_) => quoted(&segment.bytes).map_or((segment.source, segment.destination), |(a, b)| (b, a)),
            _ => (segment.source, segment.destination),
        };
        let (protocol, opens, answers) = match &segment.protocol {
            Protocol::Tcp(tcp) => ("TCP", tcp.flags.syn && !tcp.flags.ack, tcp.flags.syn && tcp.flags.ack),
            Protocol::Udp => ("UDP", false, false),
            Protocol::Icmp(_) => ("ICMP", false, false),
            Protocol::Other(2) => ("IGMP", false, false),
            Protocol::Other(_) => ("IP", false, false),
        };
        // A first SYN between addresses that had a connection before is another connection.
        let again = |flow: &Flow| opens && flow.begun && flow.protocol == "TCP" && segment.marks.is_empty();
        let known = self.between(source, destination);
        let known = known.filter(|(number, _)| self.flows.get(*number).is_some_and(|flow| !again(flow)));
        let place = known.unwrap_or_else(|| {
            if answers {
                (self.open(protocol, destination, source), Side::Right)
            } else {
                (self.open(protocol, source, destination), Side::Left)
            }
        });
        if let Some(flow) = self.flows.get_mut(place.0) {
            flow.begun |= opens || answers;
        }
        place
    }

    /// Where the socket of this call stands, if it has two ends that are known.
    pub fn of_call(&mut self, call: &Call) -> Option<Place> {
        let socket = call.accepted.as_ref().or(call.socket.as_ref())?;
        // A socket that is bound and nothing more is in no table; its program may have asked.
        let asked = || call.short.strip_prefix("getsockname(")?.split([' ', ')']).nth(1)?.parse().ok();
        if let Some(local) = socket.local.or_else(asked) {
            self.owners.insert(local, call.process);
        }
        let stream = socket.protocol == "TCP";
        let place = match (socket.local, socket.peer) {
            (Some(local), Some(peer)) if peer.port() != 0 => self.between(local, peer).or_else(|| {
                let protocol = if stream { "TCP" } else { "UDP" };
                // No segment of it was seen, as where nothing can be captured.
                match call.name {
                    "connect" if stream => Some((self.open(protocol, local, peer), Side::Left)),
                    "send" | "sendto" | "sendmsg" | "write" => Some((self.open(protocol, local, peer), Side::Left)),
                    "accept" | "accept4" => Some((self.open(protocol, peer, local), Side::Right)),
                    _ => None,
                }
            }),
            (Some(local), _) if socket.protocol == "UDP" => return self.of_datagram(local, &call.short),
            _ => None,
        };
        if let Some(place) = place {
            self.sockets.insert(socket.inode, place);
        }
        place.or_else(|| self.sockets.get(&socket.inode).copied())
    }

    /// The socket of this call stands where its segment went out.
    pub fn learn(&mut self, call: &Call, (number, side): Place) {
        let Some(socket) = &call.socket else { return };
        let Some(flow) = self.flows.get(number) else { return };
        self.owners.insert(flow.ends[side as usize], call.process);
        if socket.protocol == "TCP" {
            self.sockets.insert(socket.inode, (number, side));
        }
    }

    /// Where this end stands; `None` for a listener.
    pub fn of_state(&mut self, state: &StateChange) -> Option<Place> {
        if let Some(process) = state.process {
            self.owners.insert(state.local, process);
        }
        self.between(state.local, state.peer)
    }

    /// A connection that nothing was known of.
    fn open(&mut self, protocol: &'static str, left: SocketAddr, right: SocketAddr) -> usize {
        let number = self.flows.len();
        self.flows.push(Flow { protocol, ends: [left, right], begun: false });
        self.newest.insert((left, right), number);
        self.newest.insert((right, left), number);
        if protocol != "TCP" {
            for end in [left, right] {
                self.datagrams.entry(end.port()).or_default().push(number);
            }
        }
        number
    }

    fn between(&self, local: SocketAddr, peer: SocketAddr) -> Option<Place> {
        let number = *self.newest.get(&(local, peer))?;
        Some((number, self.flows.get(number)?.side(local, peer)?))
    }

    /// A socket of datagrams without a peer: the call's text names the other end, or there is only one.
    fn of_datagram(&self, local: SocketAddr, text: &str) -> Option<Place> {
        let numbers = self.datagrams.get(&local.port())?;
        let is_here =
            |end: SocketAddr| end.port() == local.port() && (local.ip().is_unspecified() || end.ip() == local.ip());
        let places = |number: &usize| {
            let ends = self.flows.get(*number).map(|flow| flow.ends)?;
            let side = if is_here(ends[0]) { Side::Left } else { Side::Right };
            is_here(ends[side as usize]).then_some(((*number, side), ends[side.other() as usize]))
        };
        let mut here = numbers.iter().rev().filter_map(places);
        let first = here.next()?;
        let mut all = std::iter::once(first).chain(here);
        match all.clone().find(|(_, other)| text.contains(&other.to_string())) {
            Some((place, _)) => Some(place),
            None => all.next().filter(|_| all.next().is_none()).map(|(place, _)| place),
        }
    }
}

/// The addresses of the IPv4 packet that an ICMP error quotes behind its own header.
fn quoted(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let own = usize::from(bytes.first()? & 0xf) * 4;
    let inner = bytes.get(own + 8..)?;
    let header = usize::from(inner.first().filter(|first| **first >> 4 == 4)? & 0xf) * 4;
    let ip = |at: usize| <[u8; 4]>::try_from(inner.get(at..at + 4)?).ok();
    let port = |at: usize| Some(u16::from_be_bytes(inner.get(at..at + 2)?.try_into().ok()?));
    let from = SocketAddr::from((ip(12)?, port(header)?));
    Some((from, SocketAddr::from((ip(16)?, port(header + 2)?))))
}
