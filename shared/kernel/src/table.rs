//! The kernel's own table of sockets, read through sock_diag(7), as ss does.
//!
//! Sockets are found by their pair of addresses, taken while the socket is open: after close(2) a TIME-WAIT socket
//! has neither a descriptor nor an inode.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::libc;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use socket2::Socket;

use crate::wait_until;

/// A TCP state by its number in include/net/tcp_states.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "RFC 9293 3.3.2 tells what each state is")]
pub enum State {
    Established = 1,
    SynSent,
    SynReceived,
    FinWait1,
    FinWait2,
    TimeWait,
    Closed,
    CloseWait,
    LastAck,
    Listen,
    Closing,
}

impl State {
    /// The state for a number; 12 is Linux's own name for a request that is not yet a socket.
    pub fn from_number(number: u8) -> Option<State> {
        use State::*;
        let states = [
            Established, SynSent, SynReceived, FinWait1, FinWait2, TimeWait, Closed, CloseWait, LastAck, Listen,
            Closing, SynReceived,
        ];
        states.get(usize::from(number).checked_sub(1)?).copied()
    }
}

/// As in RFC 9293. ss writes ESTAB for ESTABLISHED, netstat TIME_WAIT for TIME-WAIT.
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            "ESTABLISHED", "SYN-SENT", "SYN-RECEIVED", "FIN-WAIT-1", "FIN-WAIT-2", "TIME-WAIT", "CLOSED", "CLOSE-WAIT",
            "LAST-ACK", "LISTEN", "CLOSING",
        ];
        f.pad(names[*self as usize - 1])
    }
}

/// The two addresses that name a connection; port 0 and the wildcard address name a listening socket's missing peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// This end.
    pub local: SocketAddr,
    /// The other end.
    pub peer: SocketAddr,
}

impl Pair {
    /// The addresses of a connected socket. Take them before the close.
    ///
    /// # Errors
    /// ENOTCONN where the socket is not connected.
    pub fn of(sock: &Socket) -> Result<Pair> {
        let local = sock.local_addr().context("getsockname")?.as_socket().context("not an IP socket")?;
        let peer = sock.peer_addr().context("getpeername")?.as_socket().context("not an IP socket")?;
        Ok(Pair { local, peer })
    }

    /// The same connection, seen from the other end.
    pub fn other_end(self) -> Pair {
        Pair { local: self.peer, peer: self.local }
    }
}

/// One TCP socket as the kernel lists it.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its two addresses.
    pub pair: Pair,
    /// Its state.
    pub state: State,
    /// LISTEN: connections waiting for accept. Otherwise: bytes received and not read.
    pub recv_queue: u32,
    /// LISTEN: the limit of the accept queue. Otherwise: bytes taken from the program and not acknowledged yet.
    pub send_queue: u32,
    /// Time to the next timer, if one runs: retransmission, probe, keepalive, or the end of TIME-WAIT.
    pub timer: Option<Duration>,
    /// The inode of its descriptor; 0 without one (TIME-WAIT, not yet accepted).
    pub inode: u32,
}

/// The TCP sockets with this local port, listening and TIME-WAIT ones too; 0 lists all.
///
/// # Errors
/// What socket(2), send(2) or recv(2) say of a netlink socket; a kernel built without INET_DIAG.
pub fn tcp_sockets(local_port: u16) -> Result<Vec<Row>> {
    sockets(libc::IPPROTO_TCP, local_port)
}

/// The UDP sockets with this local port; 0 lists all. A bound one is CLOSED to the kernel, a connected one ESTABLISHED.
///
/// # Errors
/// As [`tcp_sockets`].
pub fn udp_sockets(local_port: u16) -> Result<Vec<Row>> {
    sockets(libc::IPPROTO_UDP, local_port)
}

fn sockets(protocol: i32, local_port: u16) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        // Of struct inet_diag_sockid a dump looks at the local port alone.
        let id = [&local_port.to_be_bytes()[..], &[0; 46]].concat();
        rows.extend(asked(family, protocol, libc::NLM_F_REQUEST | libc::NLM_F_DUMP, &id)?);
    }
    Ok(rows)
}

/// Sends one request to sock_diag(7) and reads its answers.
fn asked(family: i32, protocol: i32, flags: i32, id: &[u8]) -> Result<Vec<Row>> {
    let kind = SockFlag::SOCK_CLOEXEC;
    let netlink = socket(AddressFamily::Netlink, SockType::Datagram, kind, SockProtocol::NetlinkSockDiag)
        .context("socket NETLINK_SOCK_DIAG")?;
    let request = [
        &72u32.to_ne_bytes()[..], // nlmsghdr: length, type, flags, sequence number, port
        &SOCK_DIAG_BY_FAMILY.to_ne_bytes(),
        &(flags as u16).to_ne_bytes(),
        &[0; 8],
        &[family as u8, protocol as u8, 0, 0], // inet_diag_req_v2: then the states, and which sockets
        &STATES_OF_SS.to_ne_bytes(),
        id,
    ]
    .concat();
    send(netlink.as_raw_fd(), &request, MsgFlags::empty()).context("send NETLINK_SOCK_DIAG")?;
    let mut rows = Vec::new();
    while read_answers(netlink.as_raw_fd(), &mut rows)? && flags & libc::NLM_F_DUMP != 0 {}
    Ok(rows)
}

/// The row of one connection's end, if the kernel has it.
///
/// # Errors
/// As [`tcp_sockets`].
pub fn tcp_socket(pair: Pair) -> Result<Option<Row>> {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => [&ip.octets()[..], &[0; 12]].concat(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    // struct inet_diag_sockid with all of it, so that the kernel looks one socket up. A dump would walk through its whole
    // table, which holds the connections of all network namespaces, those in TIME-WAIT too.
    let id = [
        &pair.local.port().to_be_bytes()[..],
        &pair.peer.port().to_be_bytes(),
        &octets(pair.local.ip()),
        &octets(pair.peer.ip()),
        &[0; 4],    // any interface
        &[0xff; 8], // INET_DIAG_NOCOOKIE
    ]
    .concat();
    let family = if pair.local.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let rows = asked(family, libc::IPPROTO_TCP, libc::NLM_F_REQUEST, &id)?;
    // Where there is no such connection, the kernel finds the listener that would get its segments.
    Ok(rows.into_iter().find(|row| row.pair == pair))
}

/// Waits until this end is in `state` (`None`: in no table), then returns its row.
///
/// # Errors
/// [`crate::NotSeen`] once `limit` has passed.
pub fn wait_for_state(pair: Pair, state: Option<State>, limit: Duration) -> Result<Option<Row>> {
    let name = state.map_or("in no table".into(), |state| state.to_string());
    wait_until(&format!("{} > {} {name}", pair.local, pair.peer), limit, || {
        let row = tcp_socket(pair)?;
        Ok((row.as_ref().map(|row| row.state) == state).then_some(row))
    })
}

/// `struct nlmsghdr` and `struct inet_diag_msg`, in bytes.
const NLMSG_HEADER: usize = 16;
const INET_DIAG_MSG: usize = 72;
/// A bit for each state from 1 to 12. Bit 13, since Linux 6.8, lists sockets that are bound and nothing more: `ss -B`.
const STATES_OF_SS: u32 = 0x1ffe;
/// Not in libc: include/uapi/linux/sock_diag.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;

/// Reads one batch of answers; false after the last.
fn read_answers(netlink: i32, rows: &mut Vec<Row>) -> Result<bool> {
    let mut buffer = vec![0u8; 64 * 1024];
    let bytes_read = recv(netlink, &mut buffer, MsgFlags::empty()).context("recv NETLINK_SOCK_DIAG")?;
    let mut rest = &buffer[..bytes_read];
    while rest.len() >= NLMSG_HEADER {
        let length = u32::from_ne_bytes(rest[0..4].try_into()?) as usize;
        ensure!((NLMSG_HEADER..=rest.len()).contains(&length), "sock_diag: a message of {length} bytes");
        match i32::from(u16::from_ne_bytes(rest[4..6].try_into()?)) {
            libc::NLMSG_DONE => return Ok(false),
            libc::NLMSG_ERROR if rest.get(16..20) == Some(&(-libc::ENOENT).to_ne_bytes()) => return Ok(false),
            libc::NLMSG_ERROR => anyhow::bail!("sock_diag refused the request"),
            _ => rows.extend(diag_row(&rest[NLMSG_HEADER..length])),
        }
        rest = &rest[length.next_multiple_of(4).min(rest.len())..];
    }
    Ok(true)
}

/// One inet_diag_msg: family, state, timer, retransmits; ports and addresses; expiry, queues, uid, inode.
fn diag_row(message: &[u8]) -> Option<Row> {
    if message.len() < INET_DIAG_MSG {
        return None;
    }
    let word = |at: usize| u32::from_ne_bytes([message[at], message[at + 1], message[at + 2], message[at + 3]]);
    let address = |at: usize, port: usize| {
        let octets: [u8; 16] = message[at..at + 16].try_into().ok()?;
        let ip = if i32::from(message[0]) == libc::AF_INET {
            IpAddr::from(*octets.first_chunk::<4>()?)
        } else {
            octets.into()
        };
        Some(SocketAddr::new(ip, u16::from_be_bytes([message[port], message[port + 1]])))
    };
    Some(Row {
        pair: Pair { local: address(8, 4)?, peer: address(24, 6)? },
        state: State::from_number(message[1])?,
        timer: (message[2] != 0).then(|| Duration::from_millis(word(52).into())),
        recv_queue: word(56),
        send_queue: word(60),
        inode: word(68),
    })
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        net::{Ipv4Addr, Ipv6Addr},
    };

    use socket2::{Domain, Type};

    use super::*;

    /// /proc/net/tcp and tcp6, see proc(5): addresses in hexadecimal, timers in hundredths of a second.
    fn proc_dump(local_port: u16) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        for file in ["/proc/net/tcp", "/proc/net/tcp6"] {
            match fs::read_to_string(file) {
                Ok(table) => rows.extend(table.lines().skip(1).filter_map(proc_row)),
                Err(error) if file.ends_with('6') && error.kind() == std::io::ErrorKind::NotFound => {} // no IPv6 here
                Err(error) => return Err(error).context(file),
            }
        }
        rows.retain(|row| local_port == 0 || row.pair.local.port() == local_port);
        Ok(rows)
    }

    fn proc_row(line: &str) -> Option<Row> {
        let field: Vec<&str> = line.split_whitespace().collect();
        let (send_queue, recv_queue) = field.get(4)?.split_once(':')?;
        let (timer, when) = field.get(5)?.split_once(':')?;
        Some(Row {
            pair: Pair { local: proc_address(field.get(1)?)?, peer: proc_address(field.get(2)?)? },
            state: State::from_number(u8::from_str_radix(field.get(3)?, 16).ok()?)?,
            recv_queue: u32::from_str_radix(recv_queue, 16).ok()?,
            send_queue: u32::from_str_radix(send_queue, 16).ok()?,
            timer: (timer != "00").then_some(Duration::from_millis(10 * u64::from_str_radix(when, 16).ok()?)),
            inode: field.get(9)?.parse().ok()?,
        })
    }

    /// Each group of eight digits is a word in this machine's byte order.
    fn proc_address(text: &str) -> Option<SocketAddr> {
        let (ip, port) = text.split_once(':')?;
        let word = |at: usize| u32::from_str_radix(ip.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
        let ip = if ip.len() == 8 {
            IpAddr::from(Ipv4Addr::from(word(0)?))
        } else {
            let octets = [word(0)?, word(8)?, word(16)?, word(24)?].concat();
            IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?))
        };
        Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
    }

    fn listening(address: &str) -> (Socket, SocketAddr) {
        let address: SocketAddr = address.parse().unwrap();
        let listen_sock = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        listen_sock.bind(&address.into()).unwrap();
        listen_sock.listen(7).unwrap();
        let local_addr = listen_sock.local_addr().unwrap().as_socket().unwrap();
        (listen_sock, local_addr)
    }

    /// The peer of a listener.
    fn nobody(local_addr: SocketAddr) -> SocketAddr {
        let ip = if local_addr.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        SocketAddr::new(ip, 0)
    }

    #[test]
    fn sock_diag_and_proc_agree_on_a_listener_and_a_connection() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (_listen_sock, local_addr) = listening(address);
            let client_sock = Socket::new(Domain::for_address(local_addr), Type::STREAM, None).unwrap();
            client_sock.connect(&local_addr.into()).unwrap();
            client_sock.send(b"four").unwrap();
            let pair = Pair::of(&client_sock).unwrap();
            for dump in [tcp_sockets, proc_dump] {
                let rows = dump(local_addr.port()).unwrap();
                let listener = rows.iter().find(|row| row.state == State::Listen).unwrap();
                assert_eq!((listener.recv_queue, listener.pair.local), (1, local_addr));
                assert_ne!(listener.inode, 0);
                let waiting = rows.iter().find(|row| row.pair == pair.other_end()).unwrap();
                assert_eq!((waiting.state, waiting.recv_queue, waiting.inode), (State::Established, 4, 0));
            }
            for known in [pair, pair.other_end(), Pair { local: local_addr, peer: nobody(local_addr) }] {
                assert_eq!(tcp_socket(known).unwrap().unwrap().pair, known);
            }
            let strange = Pair { local: local_addr, peer: SocketAddr::new(local_addr.ip(), 1) };
            assert!(tcp_socket(strange).unwrap().is_none() && tcp_socket(strange.other_end()).unwrap().is_none());
        }
    }

    #[test]
    fn a_bound_udp_socket_is_closed_and_a_connected_one_established() {
        let sock = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let local = sock.local_addr().unwrap();
        let state = || udp_sockets(local.port()).unwrap().iter().map(|row| row.state).collect::<Vec<_>>();
        assert_eq!(state(), [State::Closed]);
        sock.connect(local).unwrap();
        assert_eq!(state(), [State::Established]);
    }

    #[test]
    fn a_time_wait_socket_shows_its_timer() {
        let (listen_sock, local_addr) = listening("127.0.0.1:0");
        let client_sock = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        client_sock.connect(&local_addr.into()).unwrap();
        let (conn_sock, _) = listen_sock.accept().unwrap();
        let pair = Pair::of(&client_sock).unwrap();
        drop(client_sock);
        drop(conn_sock);
        let row = wait_for_state(pair, Some(State::TimeWait), Duration::from_secs(5)).unwrap().unwrap();
        assert_eq!(row.inode, 0);
        assert!(row.timer.unwrap() > Duration::from_secs(50), "{row:?}");
        let other = proc_dump(pair.local.port()).unwrap().into_iter().find(|row| row.pair == pair).unwrap();
        assert!(other.timer.unwrap() > Duration::from_secs(50), "{other:?}");
    }
}
