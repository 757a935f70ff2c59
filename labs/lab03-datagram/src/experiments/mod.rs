//! What the lecture says of datagrams, decided by the kernel.

mod addresses;
mod header;
mod peers;
mod sizes;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::AsFd,
    time::Duration,
};

use anyhow::{Context, Result};
use kernel::Patience;
use kernel::capture::CAPTURE;
use kernel::need::{LOOPBACK, LOOPBACK_NETWORK, PORTS};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::SockaddrStorage,
};
use shared::{At, Experiment, Lesson};
use socket2::{Domain, Socket, Type};

/// How long a datagram over loopback may take; far more than it needs.
const LIMIT: Duration = Duration::from_secs(5);
/// How long to listen where nothing is expected to come.
const SILENCE: Duration = Duration::from_millis(200);

const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

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
            source: "notes ch.2, UDP Protocol",
            needs: &[],
            play: sizes::largest,
        },
        Experiment {
            id: "connect",
            starred: true,
            minutes: 6,
            claim: "connect() is needed for TCP and does not exist for UDP. Why?",
            source: "notes ch.2, What is a socket?",
            needs: &[],
            play: peers::connect,
        },
        Experiment {
            id: "broadcast",
            starred: false,
            minutes: 4,
            claim: "UDP can send one packet to many recipients.",
            source: "notes ch.2, UDP Protocol; the question is ours",
            needs: &[LOOPBACK_NETWORK],
            play: addresses::broadcast,
        },
        Experiment {
            id: "to-any-address",
            starred: false,
            minutes: 4,
            claim: "The handout's client is started with 0.0.0.0 as the address of its server.",
            source: "lab 7 handout, step 2; the question is ours, and here it is UDP",
            needs: &[LOOPBACK_NETWORK],
            play: addresses::to_any_address,
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
            minutes: 5,
            claim: "The checksum covers payload, UDP header and IP header; it is computed before the OS sends.",
            source: "notes ch.2, UDP packet (datagram)",
            needs: &[CAPTURE],
            play: header::header,
        },
    ],
    next: &[
        ("by hand", "cargo lab03 receive"),
        ("", "cargo lab03 send    (another terminal, or nc -u)"),
        ("watch", "scripts/states.sh 7778 --watch"),
        ("sheet", "cargo lab03 sheet"),
    ],
};

/// A UDP socket on `any_port`. It has no SO_RCVTIMEO: without one, a recv that Ctrl-Z stopped goes on after fg.
fn bound(any_port: SocketAddr) -> Result<(Socket, SocketAddr)> {
    let sock = Socket::new(Domain::for_address(any_port), Type::DGRAM, None).at("socket", any_port)?;
    sock.bind(&any_port.into()).at("bind", any_port)?;
    let local_addr = sock.local_addr().at("getsockname", any_port)?.as_socket().context("not an IP socket")?;
    Ok((sock, local_addr))
}

/// Waits until one of the sockets has something, a datagram or an ICMP error; false if nothing comes in time.
fn waits(socks: &[&Socket], limit: Duration) -> Result<bool> {
    let mut patience = Patience::new(limit);
    while !patience.is_over() {
        let mut fds: Vec<_> = socks.iter().map(|sock| PollFd::new(sock.as_fd(), PollFlags::POLLIN)).collect();
        match poll(&mut fds, PollTimeout::try_from(patience.step())?) {
            Ok(0) | Err(Errno::EINTR) => {}
            ready => return Ok(ready.at("poll", "")? > 0),
        }
    }
    Ok(false)
}

/// An address as nix's sendto takes it.
fn to(addr: SocketAddr) -> SockaddrStorage {
    SockaddrStorage::from(addr)
}
