//! What connections cost over their lives and how they end, decided by the kernel.

mod costs;
mod counts;
mod ends;
mod watch;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use kernel::{
    Need, Patience,
    hosts::HOSTS,
    need::{BUFFERS, DESCRIPTORS, LOOPBACK, PORTS, TIME_WAIT_BUCKETS},
    setting,
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv, send},
};
use shared::{At, Experiment, Lesson, Role};
use socket2::{Domain, Socket, Type};

use crate::http::Head;

/// How long a state or an answer may take; far more than loopback needs.
const LIMIT: Duration = Duration::from_secs(10);
const CHUNK: usize = 65_536;

/// For a thousand connections in one process.
const MANY_DESCRIPTORS: Need = Need {
    what: "1024 descriptors a process",
    provided_by: "ulimit -n 1024",
    met: || {
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let row = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
        row.and_then(|row| row.split_whitespace().next()?.parse().ok()).is_none_or(|most: u64| most >= 1024)
    },
};

/// For a thousand connections to one server.
const MANY_PORTS: Need = Need {
    what: "2000 ports for the kernel to choose from",
    provided_by: "sysctl -w net.ipv4.ip_local_port_range='32768 60999'",
    met: || match setting("net/ipv4/ip_local_port_range")[..] {
        [first, last] => last.saturating_sub(first) >= 2000,
        _ => true,
    },
};

pub const LESSON: Lesson = Lesson {
    lab: crate::LAB,
    setting: "both ends are on this machine",
    needs: &[LOOPBACK, PORTS, DESCRIPTORS],
    experiments: &[
        Experiment {
            id: "ten-objects",
            starred: true,
            minutes: 6,
            claim: "In case of HTTP the TCP handshake happens before each HTTP request.",
            source: "notes ch.4, Advantages and Disadvantages",
            needs: &[TIME_WAIT_BUCKETS],
            play: counts::ten_objects,
        },
        Experiment {
            id: "four-addresses",
            starred: true,
            minutes: 5,
            claim: "Each connection needs a TCP port, and there are only 2^16 of them.",
            source: "notes ch.4, Advantages and Disadvantages",
            needs: &[],
            play: counts::four_addresses,
        },
        Experiment {
            id: "idle-session",
            starred: true,
            minutes: 5,
            claim: "A long-lived connection is kept open all the time, even if no data is transferred.",
            source: "notes ch.4, Advantages and Disadvantages; the question is ours",
            needs: &[],
            play: costs::idle_session,
        },
        Experiment {
            id: "who-closes",
            starred: false,
            minutes: 5,
            claim: "A short-lived connection gets closed after the response is received.",
            source: "notes ch.4, Short-lived vs. Long-lived TCP connections; the question is ours",
            needs: &[TIME_WAIT_BUCKETS],
            play: ends::who_closes,
        },
        Experiment {
            id: "first-byte",
            starred: false,
            minutes: 5,
            claim: "Short-lived connections have an overhead in the transport layer: the handshake.",
            source: "notes ch.4, Advantages and Disadvantages; the question is ours",
            needs: &HOSTS,
            play: costs::first_byte,
        },
        Experiment {
            id: "watch-command",
            starred: false,
            minutes: 4,
            claim: "In Linux, netstat -tbn | grep -E ' :22 |:80 ' shows the connections on ports 80 and 22.",
            source: "notes ch.4, class demonstration HTTP vs. SSH",
            needs: &[watch::NETSTAT],
            play: watch::watch_command,
        },
        Experiment {
            id: "closed-meanwhile",
            starred: false,
            minutes: 6,
            claim: "A long-lived connection stays open until the application terminates it.",
            source: "notes ch.4, Short-lived vs. Long-lived TCP connections; the question is ours",
            needs: &[],
            play: ends::closed_meanwhile,
        },
        Experiment {
            id: "thousand-kept",
            starred: false,
            minutes: 5,
            claim: "The server always has a number of client connections idling.",
            source: "notes ch.4, Advantages and Disadvantages; the question is ours",
            needs: &[MANY_DESCRIPTORS, MANY_PORTS, BUFFERS],
            play: costs::thousand_kept,
        },
    ],
    next: &[
        ("by hand", "cargo lab21 page           and: cargo lab21 visit, visit --close"),
        ("", "cargo lab21 host           and: cargo lab21 session"),
        ("watch", "scripts/lifetimes.sh 8080"),
        ("sheet", "cargo lab21 sheet"),
    ],
};

/// A listening socket on a port of the kernel's choice.
fn listening() -> Result<(Socket, SocketAddr)> {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listen_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", any_port)?;
    listen_sock.bind(&any_port.into()).at("bind", any_port)?;
    listen_sock.listen(16).at("listen", any_port)?;
    let server_addr = listen_sock.local_addr().at("getsockname", any_port)?.as_socket().context("not an IP socket")?;
    Ok((listen_sock, server_addr))
}

/// A connected client.
fn connected(server_addr: SocketAddr) -> Result<Socket> {
    let client_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
    client_sock.connect(&server_addr.into()).at("connect", server_addr)?;
    Ok(client_sock)
}

/// Accepts the connection that must have come.
fn accepted(listen_sock: &Socket) -> Result<Socket> {
    ensure!(waits(listen_sock, LIMIT)?, "not seen within {LIMIT:?}: a connection");
    Ok(listen_sock.accept().at("accept", "")?.0)
}

/// The real page as a child process, on a port of the kernel's choice.
fn page_role(options: &[&str]) -> Result<(Role, SocketAddr)> {
    let mut server = Role::start(&[&["page", "0"], options].concat())?;
    let banner = server.line_with(" is at ")?;
    let addr =
        banner.rsplit(' ').next().and_then(|addr| addr.trim().parse().ok()).context("no address in the banner")?;
    Ok((server, addr))
}

/// Waits until the socket has something to receive or to accept; false if nothing comes in time.
fn waits(sock: &Socket, limit: Duration) -> Result<bool> {
    let mut patience = Patience::new(limit);
    while !patience.is_over() {
        let mut fds = [PollFd::new(sock.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::try_from(patience.step())?) {
            Ok(0) | Err(Errno::EINTR) => {}
            ready => return Ok(ready.at("poll", "")? > 0),
        }
    }
    Ok(false)
}

/// Sends all of it.
fn send_all(sock: &Socket, bytes: &[u8]) -> Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match send(sock.as_raw_fd(), rest, MsgFlags::MSG_NOSIGNAL) {
            Err(Errno::EINTR) => {}
            bytes_sent => rest = &rest[bytes_sent.at("send", "")?..],
        }
    }
    Ok(())
}

/// Receives one message of HTTP: its head, and so many bytes of body as the head says. Returns the head.
fn receive_message(sock: &Socket) -> Result<Head> {
    let (mut received, mut buffer) = (Vec::new(), vec![0; CHUNK]);
    loop {
        ensure!(waits(sock, LIMIT)?, "not seen within {LIMIT:?}: more of a message");
        match recv(sock.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(0) => return Err(anyhow!("end of stream within a message")),
            Err(Errno::EINTR) => continue,
            bytes_read => received.extend(&buffer[..bytes_read.at("recv", "")?]),
        }
        if let Some((head, length)) = Head::parse(&received).map_err(|why| anyhow!(why))? {
            let body_length = head.body_length().map_err(|why| anyhow!(why))?.unwrap_or(0);
            if received.len() >= length + body_length {
                return Ok(head);
            }
        }
    }
}
