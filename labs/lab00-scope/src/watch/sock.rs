//! One socket as the board shows it, read from a message of sock_diag(7): struct inet_diag_msg.
//!
//! The crate `kernel` reads the same messages for the labs. The board needs more of them (which timer, how many tries,
//! the cookie), and it needs 20,000 of them several times a second.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use kernel::{Pair, State};
use nix::libc;

use super::model::Entry;

/// struct inet_diag_msg, in bytes.
const INET_DIAG_MSG: usize = 72;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
}

/// Which timer runs, by its number in `idiag_timer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerKind {
    /// The oldest segment is sent again.
    Resend = 1,
    /// A keepalive probe; without a program, the end of FIN-WAIT-2.
    Keepalive,
    /// The end of TIME-WAIT, or of FIN-WAIT-2 where nothing but the timer is left of the socket.
    End,
    /// A window probe: the receive window of the peer is zero.
    Probe,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timer {
    pub kind: TimerKind,
    pub left: Duration,
    /// How often it has run out before.
    pub tries: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sock {
    pub protocol: Protocol,
    pub pair: Pair,
    pub state: State,
    /// LISTEN: connections that wait for accept. TCP: bytes received and not read. UDP: memory of these.
    pub recv_queue: u32,
    /// LISTEN: the backlog. TCP: bytes not acknowledged yet. UDP: memory of what is not sent yet.
    pub send_queue: u32,
    pub timer: Option<Timer>,
    /// 0 without a descriptor: TIME-WAIT, or not accepted yet.
    pub inode: u32,
}

/// What stays the same while a socket goes through its states: the addresses and the interface; for one without a peer,
/// also the kernel's cookie, because several sockets can be bound to one address.
#[derive(Clone, Copy, Debug, Eq, PartialOrd, Ord)]
pub struct Key([u64; 6]);

/// Without a call of memcmp(3), which would take longer.
impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        self.0.iter().zip(&other.0).fold(0, |different, (one, other)| different | (one ^ other)) == 0
    }
}

/// One multiplication a word: the hash of the standard library would take longer than the kernel's answer.
impl Hash for Key {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let mixed =
            self.0.iter().fold(0u64, |hash, word| (hash.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        hasher.write_u64(mixed ^ mixed >> 32);
    }
}

/// Hands the hash of a [`Key`] on as it is.
#[derive(Default)]
pub struct Mixed(u64);

impl Hasher for Mixed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

/// One socket and what names it; `None` for a message that is too short or has a state that Linux did not have when
/// this was written.
pub fn parsed(protocol: Protocol, message: &[u8]) -> Option<Entry> {
    let message: &[u8; INET_DIAG_MSG] = message.first_chunk()?;
    let word = |at: usize| u32::from_ne_bytes([message[at], message[at + 1], message[at + 2], message[at + 3]]);
    let double = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
    let (family, state, timer, tries) = (message[0], State::from_number(message[1])?, message[2], message[3]);
    let interface = word(40);
    let address = |at: usize, port: usize| {
        let octets: [u8; 16] = std::array::from_fn(|byte| message[at + byte]);
        let port = u16::from_be_bytes([message[port], message[port + 1]]);
        if i32::from(family) == libc::AF_INET {
            return SocketAddr::new(IpAddr::from([octets[0], octets[1], octets[2], octets[3]]), port);
        }
        let ip = Ipv6Addr::from(octets);
        SocketAddrV6::new(ip, port, 0, if ip.is_unicast_link_local() { interface } else { 0 }).into()
    };
    let pair = Pair { local: address(8, 4), peer: address(24, 6) };
    let alone = protocol == Protocol::Udp || pair.peer.port() == 0;
    let cookie = if alone { double(44) } else { 0 };
    let key = Key([double(4), double(12), double(20), double(28), double(36), cookie ^ u64::from(family) << 56]);
    let kind = match timer {
        1 => Some(TimerKind::Resend),
        2 => Some(TimerKind::Keepalive),
        3 => Some(TimerKind::End),
        4 => Some(TimerKind::Probe),
        _ => None,
    };
    let timer = kind.map(|kind| Timer { kind, left: Duration::from_millis(word(52).into()), tries });
    let sock = Sock { protocol, pair, state, recv_queue: word(56), send_queue: word(60), timer, inode: word(68) };
    Some(Entry { key, sock, mark: None })
}

impl Sock {
    /// The state; UDP has none, but a socket of UDP can have a fixed peer.
    pub fn state_name(&self) -> String {
        match (self.protocol, self.state) {
            (Protocol::Tcp, state) => state.to_string(),
            (Protocol::Udp, State::Established) => "UDP connected".into(),
            (Protocol::Udp, _) => "UDP bound".into(),
        }
    }

    pub fn is_listening(&self) -> bool {
        self.protocol == Protocol::Tcp && self.state == State::Listen
    }

    pub fn is_waiting(&self) -> bool {
        self.protocol == Protocol::Tcp && self.state == State::TimeWait
    }

    /// The place of its state in the life of a connection; UDP last.
    pub fn stage(&self) -> usize {
        LIFE.iter().position(|state| *state == self.state).unwrap_or(LIFE.len())
            + if self.protocol == Protocol::Udp { LIFE.len() } else { 0 }
    }
}

/// The states in the order of a connection's life.
pub const LIFE: [State; 11] = [
    State::Listen,
    State::SynSent,
    State::SynReceived,
    State::Established,
    State::FinWait1,
    State::FinWait2,
    State::Closing,
    State::TimeWait,
    State::CloseWait,
    State::LastAck,
    State::Closed,
];
