//! The lecture's claims about multicast, decided by the kernel. Nothing leaves 127.0.0.1 or a private network.

mod cable;
mod delivery;
mod sharing;
mod tcp;
mod ttl;

use std::{
    fs::File,
    io::Read,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::{Context, Result};
use kernel::need::{LOOPBACK, PORTS};
use kernel::{Need, setting};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, SockaddrIn, recvfrom, sendto},
};
use shared::{At, Experiment, Lesson, Stage, returned};
use socket2::{Domain, Socket, Type};

/// How long an answer may take; far more than loopback needs.
const LIMIT: Duration = Duration::from_secs(5);
/// As in the lecture.
const HELLO: &str = "Hello world!";
/// The last datagram: a receiver that has read it has read all datagrams before it.
const END: &str = "end";
/// The interface of all groups here.
const LO: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// For one socket, in bound-to.
const MEMBERSHIPS: Need = Need {
    what: "igmp_max_memberships of 2 or more",
    provided_by: "sysctl -w net.ipv4.igmp_max_memberships=20",
    met: || setting("net/ipv4/igmp_max_memberships").first().is_none_or(|most| *most >= 2),
};

/// Each membership takes some of it.
const OPTION_MEMORY: Need = Need {
    what: "optmem_max of 4096 or more",
    provided_by: "sysctl -w net.core.optmem_max=131072",
    met: || setting("net/core/optmem_max").first().is_none_or(|most| *most >= 4096),
};

const PRIVATE_NETWORK: Need = Need {
    what: "a private network with a veth pair and IPv6",
    provided_by: "see the lines of ip and namespaces: scripts/check.sh",
    met: crate::wire::possible,
};

pub const LESSON: Lesson = Lesson {
    lab: crate::LAB,
    setting: "senders and receivers on this machine",
    needs: &[LOOPBACK, PORTS, MEMBERSHIPS, OPTION_MEMORY],
    experiments: &[
        Experiment {
            id: "ttl-option",
            starred: true,
            minutes: 5,
            claim: "The option IP_DEFAULT_MULTICAST_TTL sets the time-to-live of multicasts: 4 for four sub-nets up.",
            source: "notes ch.2, Sending Multicast",
            needs: &[],
            play: ttl::ttl_option,
        },
        Experiment {
            id: "never-joined",
            starred: true,
            minutes: 5,
            claim: "Multicast reaches only the interested parties: a receiver must be subscribed to the group.",
            source: "notes ch.2, UDP Multicasting",
            needs: &[],
            play: delivery::never_joined,
        },
        Experiment {
            id: "second-receiver",
            starred: true,
            minutes: 5,
            claim: "A reusable UDP socket (SO_REUSEADDR) is perhaps not needed.",
            source: "notes ch.2, comment in both multicast listings",
            needs: &[],
            play: sharing::second_receiver,
        },
        Experiment {
            id: "no-member",
            starred: false,
            minutes: 3,
            claim: "On this host no socket is a member of the group. What does the kernel do with a datagram to the group?",
            source: "notes ch.2, UDP Multicasting; the question is ours",
            needs: &[],
            play: delivery::no_member,
        },
        Experiment {
            id: "how-many",
            starred: false,
            minutes: 3,
            claim: "The sender of a multicast has no idea how many peers received it.",
            source: "notes ch.2, UDP Multicasting",
            needs: &[],
            play: delivery::how_many,
        },
        Experiment {
            id: "bound-to",
            starred: false,
            minutes: 3,
            claim: "The receiver binds the address of the group, not an address of its own machine.",
            source: "notes ch.2, Receiving Multicast; the question is ours",
            needs: &[],
            play: sharing::bound_to,
        },
        Experiment {
            id: "tcp-group",
            starred: false,
            minutes: 3,
            claim: "TCP is point-to-point: a connection has two endpoints, and there is no broadcast or multicast.",
            source: "notes ch.2, TCP Protocol, features",
            needs: &[],
            play: tcp::tcp_group,
        },
        Experiment {
            id: "loop-back",
            starred: false,
            minutes: 5,
            claim: "IP_MULTICAST_LOOP, set by sender and receiver, lets this machine receive its multicasts, too.",
            source: "notes ch.2, Sending Multicast and Receiving Multicast",
            needs: &[PRIVATE_NETWORK],
            play: cable::loop_back,
        },
    ],
    next: &[
        ("by hand", "cargo lab05 receive    (two terminals)"),
        ("", "cargo lab05 send"),
        ("watch", "scripts/groups.sh 239.1.1.1"),
        ("sheet", "cargo lab05 sheet"),
    ],
};

/// A group and a port that no other run has: the kernel chooses the port, and the port makes the group.
struct OwnGroup {
    addr: SocketAddrV4,
    /// While this is open, the kernel gives no other group the same port.
    _port_sock: Socket,
}

impl OwnGroup {
    fn new() -> Result<OwnGroup> {
        // Whoever binds 0.0.0.0 gets a port that is free at every address of this machine.
        let any_port = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
        let free_sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", any_port)?;
        free_sock.bind(&any_port.into()).at("bind", any_port)?;
        free_sock.set_reuse_address(true).at("setsockopt", any_port)?;
        let port = local_addr(&free_sock)?.port();

        // A group nobody sends to holds the port, and takes no datagram from our own sockets.
        let hold_addr = SocketAddrV4::new(Ipv4Addr::new(239, 254, 0, 0), port);
        let port_sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", hold_addr)?;
        port_sock.set_reuse_address(true).at("setsockopt", hold_addr)?;
        port_sock.bind(&hold_addr.into()).at("bind", hold_addr)?;
        let [high, low] = port.to_be_bytes();
        Ok(OwnGroup { addr: SocketAddrV4::new(Ipv4Addr::new(239, 255, high, low), port), _port_sock: port_sock })
    }

    fn ip(&self) -> &Ipv4Addr {
        self.addr.ip()
    }

    fn port(&self) -> u16 {
        self.addr.port()
    }
}

/// A receiver as in the lecture, bound but in no group yet. Its recvfrom fails if it hears nothing for LIMIT.
fn bound(addr: SocketAddrV4) -> Result<Socket> {
    let sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", addr)?;
    sock.set_read_timeout(Some(LIMIT)).at("setsockopt", addr)?;
    sock.set_reuse_address(true).at("setsockopt", addr)?;
    sock.bind(&addr.into()).at("bind", addr)?;
    Ok(sock)
}

/// A sender as in the lecture; its multicasts stay on lo.
fn sender() -> Result<Socket> {
    let sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", "")?;
    sock.set_multicast_if_v4(&LO).at("setsockopt", LO)?;
    Ok(sock)
}

/// Joins a group on lo and says so.
fn join(stage: &mut Stage, label: &str, sock: &Socket, group: &Ipv4Addr) -> Result<()> {
    sock.join_multicast_v4(group, &LO).at("setsockopt IP_ADD_MEMBERSHIP", LO)?;
    stage.say(label, format_args!("setsockopt({}, SOL_IP, IP_ADD_MEMBERSHIP, {group}) = 0", sock.as_raw_fd()));
    Ok(())
}

/// Sends a text and says so.
fn send_text(stage: &mut Stage, sock: &Socket, text: &str, to: SocketAddrV4) -> Result<usize, Errno> {
    let fd = sock.as_raw_fd();
    let sent = sendto(fd, text.as_bytes(), &SockaddrIn::from(to), MsgFlags::empty());
    let why = if text == END { "  ends the wait" } else { "" };
    stage.say("sender", format_args!("sendto({fd}, \"{text}\", {}, {to}) = {}{why}", text.len(), returned(&sent)));
    sent
}

/// The next datagram's length, or EAGAIN after LIMIT.
fn recv_one(sock: &Socket, buffer: &mut [u8]) -> Result<usize, Errno> {
    loop {
        match recvfrom::<SockaddrIn>(sock.as_raw_fd(), buffer) {
            Err(Errno::EINTR) => {} // with SO_RCVTIMEO after Ctrl-Z and fg: signal(7)
            received => return received.map(|(bytes_read, _)| bytes_read),
        }
    }
}

/// Receives and says so, up to [`END`]: the texts that came before it.
fn heard_before_the_end(stage: &mut Stage, label: &str, sock: &Socket) -> Result<Vec<String>> {
    let fd = sock.as_raw_fd();
    let mut heard = Vec::new();
    loop {
        let mut buffer = [0; 1024];
        let received = recv_one(sock, &mut buffer);
        let text = String::from_utf8_lossy(&buffer[..received.unwrap_or(0)]).into_owned();
        stage.say(label, format_args!("recvfrom({fd}, 1024) = {}  {text:?}", returned(&received)));
        received.at("recvfrom", "")?;
        if text == END {
            return Ok(heard);
        }
        heard.push(text);
    }
}

/// How many sockets have joined the group on lo, by /proc/net/igmp; `None`: lo is not in it.
///
/// The kernel hands such a table out in pieces, and counts lines to find the next one: when somebody leaves another group
/// in between, a line is missed. So this reads large pieces, and takes the most that three looks have seen.
fn users(group: &Ipv4Addr) -> Result<Option<u32>> {
    let mut most = None;
    for _ in 0..3 {
        let mut table = Vec::with_capacity(64 * 1024);
        let mut file = File::open("/proc/net/igmp").at("open", "/proc/net/igmp")?;
        file.read_to_end(&mut table).at("read", "/proc/net/igmp")?;
        most = most.max(users_in(&String::from_utf8_lossy(&table), group));
    }
    Ok(most)
}

/// The table has a line for each interface, and below it one for each group: its address in hexadecimal, its users.
fn users_in(table: &str, group: &Ipv4Addr) -> Option<u32> {
    let mut on_lo = false;
    for line in table.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if line.starts_with(|first: char| first.is_ascii_digit()) {
            on_lo = words.get(1) == Some(&"lo");
        } else if on_lo && words.first().and_then(|hex| from_hex(hex)) == Some(*group) {
            return words.get(1)?.parse().ok();
        }
    }
    None
}

/// The four bytes are printed as one number of this machine: a little-endian one prints 010000E0 for 224.0.0.1.
fn from_hex(hex: &str) -> Option<Ipv4Addr> {
    u32::from_str_radix(hex, 16).ok().map(|number| Ipv4Addr::from(number.to_ne_bytes()))
}

fn local_addr(sock: &Socket) -> Result<SocketAddr> {
    sock.local_addr().at("getsockname", "")?.as_socket().context("not an IP socket")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn the_users_of_a_group_are_those_on_lo() {
        let table = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n\
            4\teth0      :     2      V3\n\t\t\t\t0909FFEF     7 0:00000000\t\t0\n\t\t\t\t010000E0     1 0:00000000\t\t0\n\
            1\tlo        :     2      V3\n\t\t\t\t0909FFEF     3 0:00000000\t\t0\n\t\t\t\t010000E0     1 0:00000000\t\t0\n";
        assert_eq!(users_in(table, &Ipv4Addr::new(239, 255, 9, 9)), Some(3));
        assert_eq!(users_in(table, &Ipv4Addr::new(239, 255, 9, 8)), None);
    }

    #[test]
    fn no_two_groups_are_the_same() {
        let groups: Vec<_> = (0..50).map(|_| OwnGroup::new().unwrap()).collect();
        let mut ports: Vec<_> = groups.iter().map(OwnGroup::port).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), groups.len());
    }
}
