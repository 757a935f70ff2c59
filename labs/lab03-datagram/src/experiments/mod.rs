//! What the lecture says of datagrams, decided by the kernel.

mod header;
mod peers;
mod sizes;

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result};
use kernel::Need;
use kernel::need::{LOOPBACK, PORTS};
use nix::sys::socket::SockaddrStorage;
use shared::{At, Experiment, Lesson};
use socket2::{Domain, Socket, Type};

/// How long a datagram over loopback may take; far more than it needs.
const LIMIT: Duration = Duration::from_secs(5);
/// How long to listen where nothing is expected to come.
const SILENCE: Duration = Duration::from_millis(200);

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const ANY_PORT_IPV6: SocketAddr = SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::LOCALHOST), 0);

const IPV6: Need = Need {
    what: "IPv6 on loopback",
    provided_by: "sysctl -w net.ipv6.conf.lo.disable_ipv6=0",
    met: || bound(ANY_PORT_IPV6).is_ok(),
};

pub const LESSON: Lesson = Lesson {
    lab: crate::LAB,
    setting: "sender and receiver in one process",
    needs: &[LOOPBACK, PORTS],
    experiments: &[
        Experiment {
            id: "rest-is-gone",
            starred: true,
            minutes: 5,
            claim: "recvfrom(1024) takes 1024 bytes of a message; if there is more of it, call recvfrom again.",
            source: "notes ch.2, Receiving message",
            needs: &[],
            play: sizes::rest_is_gone,
        },
        Experiment {
            id: "largest",
            starred: true,
            minutes: 5,
            claim: "A datagram carries up to 65,527 bytes: 65,535, less the 8 bytes of its header.",
            source: "notes ch.2, UDP Protocol; over IPv4",
            needs: &[],
            play: sizes::largest,
        },
        Experiment {
            id: "connect",
            starred: true,
            minutes: 5,
            claim: "connect() is needed for TCP and does not exist for UDP. Why?",
            source: "notes ch.2, What is a socket?",
            needs: &[],
            play: peers::connect,
        },
        Experiment {
            id: "largest-ipv6",
            starred: false,
            minutes: 3,
            claim: "A datagram carries up to 65,527 bytes: 65,535, less the 8 bytes of its header.",
            source: "notes ch.2, UDP Protocol; over IPv6",
            needs: &[IPV6],
            play: sizes::largest_ipv6,
        },
        Experiment {
            id: "empty",
            starred: false,
            minutes: 3,
            claim: "recvfrom waits until something is received; without a timeout perhaps for ever.",
            source: "notes ch.2, Receiving message; the question is ours",
            needs: &[],
            play: sizes::empty,
        },
        Experiment {
            id: "overflow",
            starred: false,
            minutes: 3,
            claim: "Nobody controls the delivery: datagrams may be lost.",
            source: "notes ch.2, UDP Protocol",
            needs: &[],
            play: peers::overflow,
        },
        Experiment {
            id: "text",
            starred: false,
            minutes: 3,
            claim: "Both programs print: Payload length 11 bytes: [Hello world!]",
            source: "notes ch.2, Sending a message inside UDP packet",
            needs: &[],
            play: sizes::text,
        },
        Experiment {
            id: "header",
            starred: false,
            minutes: 3,
            claim: "The checksum covers payload, UDP header and IP header; it is computed before the OS sends.",
            source: "notes ch.2, UDP packet (datagram)",
            needs: &[header::CAPTURE],
            play: header::header,
        },
    ],
    next: &[
        ("by hand", "cargo run -p lab03-datagram -- receive"),
        ("", "cargo run -p lab03-datagram -- send    (another terminal, or nc -u)"),
        ("watch", "scripts/states.sh 7778 --watch"),
        ("sheet", "cargo run -p lab03-datagram -- sheet"),
    ],
};

/// A UDP socket on `any_port`; a recv on it that hears nothing for LIMIT fails.
fn bound(any_port: SocketAddr) -> Result<(Socket, SocketAddr)> {
    let sock = Socket::new(Domain::for_address(any_port), Type::DGRAM, None).at("socket", any_port)?;
    sock.set_read_timeout(Some(LIMIT)).at("setsockopt", any_port)?;
    sock.set_write_timeout(Some(LIMIT)).at("setsockopt", any_port)?;
    sock.bind(&any_port.into()).at("bind", any_port)?;
    let local_addr = sock.local_addr().at("getsockname", any_port)?.as_socket().context("not an IP socket")?;
    Ok((sock, local_addr))
}

/// An address as nix's sendto takes it.
fn to(addr: SocketAddr) -> SockaddrStorage {
    SockaddrStorage::from(addr)
}
