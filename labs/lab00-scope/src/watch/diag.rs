//! Asks the kernel for its sockets, through sock_diag(7), with the ports chosen in the kernel: what is not wanted is
//! never copied.

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

use super::model::Entry;
use super::sock::{Protocol, parsed};

/// Not in libc: include/uapi/linux/sock_diag.h and inet_diag.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_REQ_BYTECODE: u16 = 1;
const INET_DIAG_BC_JMP: u8 = 1;
const INET_DIAG_BC_S_EQ: u8 = 11;
const INET_DIAG_BC_D_EQ: u8 = 12;
/// The older request for TCP: it asks for both families at once. The kernel walks through its whole table for each
/// request, so one walk instead of two is a quarter of the time of a look.
const TCPDIAG_GETSOCK: u16 = 18;
/// struct nlmsghdr, in bytes.
const NLMSG_HEADER: usize = 16;
/// A bit for each state from 1 to 12. Bit 13, since Linux 6.8, would add sockets that are bound and nothing more.
const STATES: u32 = 0x1ffe;
/// The kernel answers in pieces of at most 32 KiB.
const BUFFER: usize = 64 * 1024;
/// What is asked for; TCP for both families.
const TABLES: [(&str, i32, Protocol); 3] = [
    ("TCP", libc::AF_UNSPEC, Protocol::Tcp),
    ("UDP over IPv4", libc::AF_INET, Protocol::Udp),
    ("UDP over IPv6", libc::AF_INET6, Protocol::Udp),
];

/// The kernel's tables of sockets, one look after the other.
pub struct Diag {
    netlink: OwnedFd,
    /// What chooses the ports; empty for all of them.
    bytecode: Vec<u8>,
    buffer: Vec<u8>,
    /// The tables that this kernel does not show: built without inet_diag or udp_diag, or without IPv6.
    pub missing: Vec<&'static str>,
}

impl Diag {
    /// # Errors
    /// What socket(2) says of NETLINK_SOCK_DIAG.
    pub fn open(ports: &[u16]) -> Result<Diag> {
        let kind = SockFlag::SOCK_CLOEXEC;
        let netlink = socket(AddressFamily::Netlink, SockType::Datagram, kind, SockProtocol::NetlinkSockDiag)
            .context("socket NETLINK_SOCK_DIAG")?;
        Ok(Diag { netlink, bytecode: bytecode(ports), buffer: vec![0; BUFFER], missing: Vec::new() })
    }

    /// One look at all tables. It takes a moment, and the kernel goes on meanwhile: the two ends of a connection may be
    /// seen at two different times. `socks` gives its memory.
    ///
    /// # Errors
    /// What the kernel says of the request.
    pub fn look(&mut self, mut socks: Vec<Entry>) -> Result<Vec<Entry>> {
        socks.clear();
        self.missing.clear();
        for (name, family, protocol) in TABLES {
            send(self.netlink.as_raw_fd(), &request(family, protocol, &self.bytecode), MsgFlags::empty())
                .context("send NETLINK_SOCK_DIAG")?;
            match self.answers(protocol, &mut socks) {
                Ok(()) => {}
                Err(error) if error.downcast_ref() == Some(&Errno::ENOENT) => self.missing.push(name),
                Err(error) => return Err(error.context(format!("sock_diag, {name}"))),
            }
        }
        Ok(socks)
    }

    /// Reads up to the message that ends the answer.
    fn answers(&mut self, protocol: Protocol, socks: &mut Vec<Entry>) -> Result<()> {
        loop {
            let bytes_read = match recv(self.netlink.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => continue,
                read => read.context("recv NETLINK_SOCK_DIAG")?,
            };
            let mut rest = &self.buffer[..bytes_read];
            while let Some((header, _)) = rest.split_first_chunk::<NLMSG_HEADER>() {
                let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
                ensure!((NLMSG_HEADER..=rest.len()).contains(&length), "a message of {length} bytes");
                let message = &rest[NLMSG_HEADER..length];
                match i32::from(u16::from_ne_bytes([header[4], header[5]])) {
                    libc::NLMSG_DONE | libc::NLMSG_ERROR => return told(message),
                    _ => socks.extend(parsed(protocol, message)),
                }
                rest = &rest[length.next_multiple_of(4).min(rest.len())..];
            }
        }
    }
}

/// The error number at the end of an answer: 0, or minus an errno.
fn told(message: &[u8]) -> Result<()> {
    match message.first_chunk().map_or(0, |number| i32::from_ne_bytes(*number)) {
        0 => Ok(()),
        number => Err(Errno::from_raw(number.saturating_neg()).into()),
    }
}

/// struct nlmsghdr; struct inet_diag_req for TCP, inet_diag_req_v2 for UDP; and the bytecode as an attribute.
fn request(family: i32, protocol: Protocol, bytecode: &[u8]) -> Vec<u8> {
    let any = [0u8; 48]; // struct inet_diag_sockid
    let (kind, mut body) = match protocol {
        // Family, lengths of addresses, extensions: none; sockets, states, and a last member that nothing reads.
        Protocol::Tcp => (TCPDIAG_GETSOCK, [&[0; 4][..], &any, &STATES.to_ne_bytes(), &[0; 4]].concat()),
        Protocol::Udp => {
            let first = [family as u8, libc::IPPROTO_UDP as u8, 0, 0]; // no extensions
            (SOCK_DIAG_BY_FAMILY, [&first[..], &STATES.to_ne_bytes(), &any].concat())
        }
    };
    if !bytecode.is_empty() {
        body.extend((4 + bytecode.len() as u16).to_ne_bytes());
        body.extend(INET_DIAG_REQ_BYTECODE.to_ne_bytes());
        body.extend(bytecode);
    }
    [
        &((NLMSG_HEADER + body.len()) as u32).to_ne_bytes()[..],
        &kind.to_ne_bytes(),
        &((libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16).to_ne_bytes(),
        &[0; 8], // sequence number, port
        &body,
    ]
    .concat()
}

/// A program for the kernel: true for a socket with one of these ports at either end. Each struct inet_diag_bc_op says
/// how far to go on, in bytes, if it holds and if not; a comparison has its port in the operation behind it. The end of
/// the program takes the socket, four bytes further refuse it.
fn bytecode(ports: &[u16]) -> Vec<u8> {
    const OPERATION: u16 = 4; // bytes: code, yes, no
    let comparisons = ports.iter().flat_map(|port| [(INET_DIAG_BC_S_EQ, *port), (INET_DIAG_BC_D_EQ, *port)]);
    let mut left = 2 * ports.len() as u16;
    let mut program = Vec::new();
    let mut operation =
        |code: u8, yes: u16, no: u16| program.extend([&[code, yes as u8][..], &no.to_ne_bytes()].concat());
    for (code, port) in comparisons {
        left -= 1;
        operation(code, 2 * OPERATION, 3 * OPERATION);
        operation(0, 0, port);
        if left > 0 {
            // It held: behind the last comparison. A jump is always a "no".
            operation(INET_DIAG_BC_JMP, OPERATION, left * 3 * OPERATION);
        }
    }
    program
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use kernel::State;

    use super::super::sock::Sock;
    use super::*;

    #[test]
    fn the_kernel_chooses_the_ports_of_either_end() {
        let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let addrs = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
        let clients = addrs.map(|addr| TcpStream::connect(addr).unwrap());
        let [first, second, _] = addrs.map(|addr| addr.port());
        for ports in [vec![first], vec![first, second], vec![9, first, 10, second, 11]] {
            let socks = Diag::open(&ports).unwrap().look(Vec::new()).unwrap();
            // Of these three only: the ports of others, and of connections in TIME-WAIT, may be the same.
            for (addr, client) in addrs.iter().zip(&clients) {
                let client_addr = client.local_addr().unwrap();
                let seen = |local, peer_port, state| {
                    let is =
                        |sock: &Sock| (sock.pair.local, sock.pair.peer.port(), sock.state) == (local, peer_port, state);
                    socks.iter().any(|entry| is(&entry.sock))
                };
                let wanted = ports.contains(&addr.port());
                assert_eq!(seen(*addr, 0, State::Listen), wanted, "{addr} of {ports:?}");
                assert_eq!(seen(*addr, client_addr.port(), State::Established), wanted, "{addr} of {ports:?}");
                assert_eq!(seen(client_addr, addr.port(), State::Established), wanted, "{addr} of {ports:?}");
            }
        }
    }

    #[test]
    fn a_listener_a_connection_and_a_datagram_socket_are_read_with_ipv6_too() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue }; // no IPv6 here
            let local = listener.local_addr().unwrap();
            let udp = UdpSocket::bind(local).unwrap();
            let stream = TcpStream::connect(local).unwrap();
            let socks = Diag::open(&[local.port()]).unwrap().look(Vec::new()).unwrap();
            let seen = |protocol, state, local| {
                socks
                    .iter()
                    .filter(|Entry { sock, .. }| {
                        (sock.protocol, sock.state, sock.pair.local) == (protocol, state, local)
                    })
                    .count()
            };
            assert_eq!(seen(Protocol::Tcp, State::Listen, local), 1, "{socks:?}");
            assert_eq!(seen(Protocol::Tcp, State::Established, local), 1);
            assert_eq!(seen(Protocol::Tcp, State::Established, stream.local_addr().unwrap()), 1);
            assert_eq!(seen(Protocol::Udp, State::Closed, udp.local_addr().unwrap()), 1);
        }
    }
}
