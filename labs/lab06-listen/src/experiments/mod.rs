//! The lecture's sentences on listen, accept and connect, decided by the kernel.

mod connect;
mod queue;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsFd,
    time::Duration,
};

use anyhow::{Context, Result};
use kernel::Need;
use kernel::need::{LOOPBACK, PORTS};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shared::{At, Experiment, Lesson};
use socket2::{Domain, Socket, Type};

/// How long a state or an answer may take; far more than loopback needs.
const LIMIT: Duration = Duration::from_secs(5);

const FAST_OPEN: Need = Need {
    what: "net.ipv4.tcp_fastopen with bit 1 (client)",
    provided_by: "sysctl net.ipv4.tcp_fastopen=1",
    met: || {
        let setting = fs::read_to_string("/proc/sys/net/ipv4/tcp_fastopen").unwrap_or_default();
        setting.trim().parse::<u32>().is_ok_and(|bits| bits & 1 == 1)
    },
};

pub const LESSON: Lesson = Lesson {
    lab: crate::LAB,
    setting: "both ends run in this one process",
    needs: &[LOOPBACK, PORTS],
    experiments: &[
        Experiment {
            id: "before-accept",
            starred: true,
            minutes: 5,
            claim: "accept is picking up the phone; then the conversation may start.",
            source: "notes ch.2, Accepting connections",
            needs: &[],
            play: connect::before_accept,
        },
        Experiment {
            id: "backlog",
            starred: true,
            minutes: 5,
            claim: "The backlog is the size of the waiting queue; 0 means that there is no queue.",
            source: "notes ch.2, Listening",
            needs: &[],
            play: queue::backlog,
        },
        Experiment {
            id: "full-queue",
            starred: true,
            minutes: 5,
            claim: "A listening socket denies a new connection when there are too many.",
            source: "notes ch.2, TCP states (Abort); ch.4 calls it a reset",
            needs: &[],
            play: queue::full_queue,
        },
        Experiment {
            id: "not-listening",
            starred: false,
            minutes: 3,
            claim: "After creating and binding its socket the server is ready to accept connections.",
            source: "user manual, step 6",
            needs: &[],
            play: connect::not_listening,
        },
        Experiment {
            id: "new-socket",
            starred: false,
            minutes: 3,
            claim: "accept creates another socket, just for the client that was requesting the connection.",
            source: "notes ch.2, Accepting connections",
            needs: &[],
            play: connect::new_socket,
        },
        Experiment {
            id: "listener-io",
            starred: false,
            minutes: 3,
            claim: "A listening socket is like an idle phone.",
            source: "notes ch.2, Listening; the question is ours",
            needs: &[],
            play: connect::listener_io,
        },
        Experiment {
            id: "close-listener",
            starred: false,
            minutes: 3,
            claim: "The listening socket remembers clients whose connections are not accepted yet.",
            source: "notes ch.2, message board over TCP; the question is ours",
            needs: &[],
            play: queue::close_listener,
        },
        Experiment {
            id: "no-connect",
            starred: false,
            minutes: 3,
            claim: "connect is required in case of TCP.",
            source: "notes ch.2, socket API",
            needs: &[FAST_OPEN],
            play: connect::no_connect,
        },
    ],
    next: &[
        ("by hand", "cargo run -p lab06-listen -- listen"),
        ("", "cargo run -p lab06-listen -- client    (in two or three terminals)"),
        ("watch", "scripts/backlog.sh 7777 --watch"),
        ("sheet", "cargo run -p lab06-listen -- sheet"),
    ],
};

/// A TCP socket bound to 127.0.0.1, on a port of the kernel's choice.
fn bound() -> Result<(Socket, SocketAddr)> {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", any_port)?;
    sock.set_read_timeout(Some(LIMIT)).at("setsockopt", any_port)?; // accept hears it too
    sock.bind(&any_port.into()).at("bind", any_port)?;
    let local_addr = local_addr(&sock)?;
    Ok((sock, local_addr))
}

/// A TCP socket of a client, not yet connected. A recv that hears nothing for LIMIT fails.
fn client_socket() -> Result<Socket> {
    let client_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", "")?;
    client_sock.set_read_timeout(Some(LIMIT)).at("setsockopt", "")?;
    Ok(client_sock)
}

fn local_addr(sock: &Socket) -> Result<SocketAddr> {
    sock.local_addr().at("getsockname", "")?.as_socket().context("not an IP socket")
}

/// Waits until the handshake of a non-blocking connect is over; false if it is not within `limit`.
fn handshake_over(client_sock: &Socket, limit: Duration) -> Result<bool> {
    let mut fds = [PollFd::new(client_sock.as_fd(), PollFlags::POLLOUT)];
    Ok(poll(&mut fds, PollTimeout::try_from(limit)?).at("poll", "")? > 0)
}
