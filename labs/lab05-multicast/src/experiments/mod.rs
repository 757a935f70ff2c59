//! The lecture's claims about multicast, decided by the kernel. All of it stays on 127.0.0.1 or in a private network.

mod cable;
mod delivery;
mod members;
mod sharing;
mod ttl;

use std::{
    fs::File,
    io::Read,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::{Context, Result};
use kernel::Need;
use kernel::need::{LOOPBACK, PORTS};
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
/// What is sent last: whoever has read it has read all that came before.
const END: &str = "end";
/// The interface of all groups here.
const LO: Ipv4Addr = Ipv4Addr::LOCALHOST;

const PRIVATE_NETWORK: Need = Need {
    what: "a private network with a veth pair and IPv6",
    provided_by: "see the lines of ip and namespaces: scripts/check.sh",
    met: crate::wire::possible,
};

pub const LESSON: Lesson = Lesson {
    lab: crate::LAB,
    setting: "senders and receivers on this machine",
    needs: &[LOOPBACK, PORTS],
    experiments: &[
        Experiment {
            id: "ttl-option",
            starred: true,
            minutes: 5,
            claim: "IP_DEFAULT_MULTICAST_TTL with 4 sets the multicast time-to-live: four sub-nets up.",
            source: "notes ch.2, Sending Multicast",
            needs: &[],
            play: ttl::ttl_option,
        },
        Experiment {
            id: "never-joined",
            starred: true,
            minutes: 5,
            claim: "Only the interested get it: who wants to receive must be subscribed to the group.",
            source: "notes ch.2, UDP Multicasting",
            needs: &[],
            play: delivery::never_joined,
        },
        Experiment {
            id: "second-receiver",
            starred: true,
            minutes: 5,
            claim: "A reusable socket (SO_REUSEADDR) is perhaps not needed.",
            source: "notes ch.2, comment in both multicast listings",
            needs: &[],
            play: sharing::second_receiver,
        },
        Experiment {
            id: "no-member",
            starred: false,
            minutes: 3,
            claim: "Without a membership nothing is received.",
            source: "notes ch.2, UDP Multicasting; here nobody on this host has joined",
            needs: &[],
            play: delivery::no_member,
        },
        Experiment {
            id: "how-many",
            starred: false,
            minutes: 3,
            claim: "Who sent a multicast has no idea how many peers received it.",
            source: "notes ch.2, UDP Multicasting",
            needs: &[],
            play: delivery::how_many,
        },
        Experiment {
            id: "membership",
            starred: false,
            minutes: 3,
            claim: "A receiver joins; the lecture's program never leaves the group.",
            source: "ours; notes ch.2, Receiving Multicast, ends with close",
            needs: &[],
            play: members::membership,
        },
        Experiment {
            id: "bound-to",
            starred: false,
            minutes: 3,
            claim: "The receiver is bound to the group's address, not to one of its own.",
            source: "notes ch.2, Receiving Multicast; the question is ours",
            needs: &[],
            play: sharing::bound_to,
        },
        Experiment {
            id: "loop-back",
            starred: false,
            minutes: 3,
            claim: "Both ends enable IP_MULTICAST_LOOP, so that this machine receives too. A multicast is sent once.",
            source: "notes ch.2, both listings, and UDP Multicasting",
            needs: &[PRIVATE_NETWORK],
            play: cable::loop_back,
        },
    ],
    next: &[
        ("by hand", "cargo run -p lab05-multicast -- receive    (two terminals)"),
        ("", "cargo run -p lab05-multicast -- send"),
        ("watch", "scripts/groups.sh 239.1.1.1"),
        ("sheet", "cargo run -p lab05-multicast -- sheet"),
    ],
};

/// A group and a port that no other run has: the kernel gives the port, the port makes the group.
struct OwnGroup {
    addr: SocketAddrV4,
    /// As long as this is open, nobody who asks the kernel for a port is given the same one.
    _port_sock: Socket,
}

impl OwnGroup {
    fn new() -> Result<OwnGroup> {
        let any_port = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 2), 0);
        let port_sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", any_port)?;
        port_sock.bind(&any_port.into()).at("bind", any_port)?;
        port_sock.set_reuse_address(true).at("setsockopt", "")?; // now that it is ours: share it with our own sockets
        let port = local_addr(&port_sock)?.port();
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

/// A receiver as in the lecture, bound but in no group yet. A recv that hears nothing for LIMIT fails.
fn bound(addr: SocketAddrV4) -> Result<Socket> {
    let sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", addr)?;
    sock.set_read_timeout(Some(LIMIT)).at("setsockopt", addr)?;
    sock.set_reuse_address(true).at("setsockopt", addr)?;
    sock.bind(&addr.into()).at("bind", addr)?;
    Ok(sock)
}

/// A sender as in the lecture, whose multicasts stay on lo.
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
    stage.say("sender", format_args!("sendto({fd}, \"{text}\", {}, {to}) = {}", text.len(), returned(&sent)));
    sent
}

/// Receives and says so, up to [`END`]: which texts came before it.
fn heard_before_the_end(stage: &mut Stage, label: &str, sock: &Socket) -> Result<Vec<String>> {
    let fd = sock.as_raw_fd();
    let mut heard = Vec::new();
    loop {
        let mut buffer = [0; 1024];
        let received = recvfrom::<SockaddrIn>(fd, &mut buffer).map(|(bytes_read, _)| bytes_read);
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
/// The kernel hands such a table out in pieces, and the next piece begins at a number of lines: if other groups are left
/// in between, a line is missed. So: large pieces, and the most that three looks have seen.
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

/// A line for each interface, and below it one for each group: the address in hexadecimal, the number of users.
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

/// The bytes of the address lie there as one number of this machine: E0000001 is 010000E0 on a little-endian one.
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
