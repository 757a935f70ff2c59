//! Who is told what, and what a kept connection costs, decided by the kernel. The server is the lab's real one.

mod ends;
mod idle;
mod peer;
mod told;

use std::{
    fs,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use anyhow::{Context, Result};
use kernel::{
    Need, Patience,
    need::{DESCRIPTORS, LOOPBACK, PORTS, SMALL_TTL},
    tcp_info,
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, send},
};
use shared::{At, Experiment, Lesson, Role};
use socket2::{Domain, Socket, Type};

use self::peer::Peer;

/// How long a state or an answer may take; far more than loopback needs.
const LIMIT: Duration = Duration::from_secs(10);
const CHUNK: usize = 65_536;

/// Larger than any TTL but the largest: whoever sets it hears nothing any more, as behind a cut cable (lab12, cut).
const CUT: i32 = 255;

/// A hundred clients in this process, and their other ends in the server's.
const CROWD: Need = Need {
    what: "256 descriptors a process",
    provided_by: "ulimit -n 1024",
    met: || {
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let row = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
        row.and_then(|row| row.split_whitespace().next()?.parse().ok()).is_none_or(|most: u64| most >= 256)
    },
};

pub const LESSON: Lesson = Lesson {
    lab: crate::LAB,
    setting: "server and clients are on this machine",
    needs: &[LOOPBACK, PORTS, DESCRIPTORS],
    experiments: &[
        Experiment {
            id: "told-once",
            starred: true,
            minutes: 5,
            claim: "The server tells the connected clients of a new message, and keeps track of what each of them has: nothing is sent twice.",
            source: "notes ch.4, Make clients get the updates immediately",
            needs: &[CROWD],
            play: told::told_once,
        },
        Experiment {
            id: "missed",
            starred: true,
            minutes: 7,
            claim: "The server keeps track of the messages that each client has fetched.",
            source: "notes ch.4, Make clients get the updates immediately; the question is ours",
            needs: &[],
            play: told::missed,
        },
        Experiment {
            id: "cut-cable",
            starred: true,
            minutes: 6,
            claim: "The server has a number of idle connections, and may use them to tell the clients something.",
            source: "notes ch.4, Long-lived TCP, advantages; the question is ours",
            needs: &[SMALL_TTL],
            play: ends::cut_cable,
        },
        Experiment {
            id: "no-reader",
            starred: false,
            minutes: 5,
            claim: "The clients fetch a new message almost immediately after it was published.",
            source: "notes ch.4, Make clients get the updates immediately; the question is ours",
            needs: &[],
            play: told::no_reader,
        },
        Experiment {
            id: "idle-cost",
            starred: false,
            minutes: 4,
            claim: "A long-lived connection is kept open all the time, even if no data is transferred.",
            source: "notes ch.4, Long-lived TCP, disadvantages; the question is ours",
            needs: &[CROWD],
            play: idle::idle_cost,
        },
        Experiment {
            id: "server-back",
            starred: false,
            minutes: 5,
            claim: "The connection stays open until the client ends it.",
            source: "notes ch.4, Make clients get the updates immediately; the question is ours",
            needs: &[],
            play: ends::server_back,
        },
        Experiment {
            id: "asking",
            starred: false,
            minutes: 4,
            claim: "Long-lived: no TCP overhead, one handshake. Short-lived: the client has to ask before it can hear of news.",
            source: "notes ch.4, Short-lived and long-lived TCP; the question is ours",
            needs: &[],
            play: idle::asking,
        },
    ],
    next: &[
        ("by hand", "cargo lab22 server"),
        ("", "cargo lab22 client --name ann    (and another one as bob)"),
        ("watch", "scripts/states.sh 7777 --watch"),
        ("sheet", "cargo lab22 sheet"),
    ],
};

/// The real server as a child process, on a port of the kernel's choice.
fn server_role(options: &[&str]) -> Result<(Role, SocketAddr)> {
    let mut server = Role::start(&[&["server", "0"], options].concat())?;
    let banner = server.line_with(" messages; clients connect to ")?;
    let addr = banner.rsplit(' ').next().and_then(|addr| addr.parse().ok()).context("no address in the banner")?;
    Ok((server, addr))
}

/// A connected client.
fn connected(server_addr: SocketAddr) -> Result<Socket> {
    let client_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
    client_sock.set_tcp_nodelay(true).at("setsockopt", server_addr)?;
    client_sock.connect(&server_addr.into()).at("connect", server_addr)?;
    Ok(client_sock)
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

/// getsockopt(fd, SOL_TCP, TCP_INFO): all segments of this connection so far, in and out.
fn segments(sock: &Socket) -> Result<u32> {
    let info = tcp_info::of(sock).at("getsockopt TCP_INFO", "")?;
    Ok(info.segs_out + info.segs_in)
}
