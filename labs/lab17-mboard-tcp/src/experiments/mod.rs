//! What ends a message and a connection, and who waits meanwhile, decided by the kernel.

mod ends;
mod sizes;
mod waiting;

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kernel::{
    Need, Patience,
    need::{BUFFERS, DESCRIPTORS, LOOPBACK, PORTS, TIME_WAIT_BUCKETS},
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv, send},
    unistd::{SysconfVar, sysconf},
};
use shared::{At, Experiment, Lesson, Role};
use socket2::{Domain, Socket, Type};

/// How long a state or an answer may take; far more than loopback needs.
const LIMIT: Duration = Duration::from_secs(10);
/// How long to listen where nothing is expected to come.
const SILENCE: Duration = Duration::from_millis(300);
const CHUNK: usize = 65_536;

/// The limit for all arguments together is a quarter of the stack's: execve(2).
const ARGUMENTS: Need = Need {
    what: "room for 1 MB of arguments, as Linux sets it up",
    provided_by: "ulimit -s 8192",
    met: || matches!(sysconf(SysconfVar::ARG_MAX), Ok(Some(bytes)) if bytes >= 1 << 20),
};

pub const LESSON: Lesson = Lesson {
    lab: crate::LAB,
    setting: "server and client are on this machine",
    needs: &[LOOPBACK, PORTS, DESCRIPTORS, BUFFERS],
    experiments: &[
        Experiment {
            id: "killed-halfway",
            starred: true,
            minutes: 6,
            claim: "TCP delivers the data; otherwise send or receive reports a socket error.",
            source: "notes ch.2, Handling broken pipe exceptions",
            needs: &[],
            play: ends::killed_halfway,
        },
        Experiment {
            id: "nobody-else",
            starred: true,
            minutes: 6,
            claim: "No client is lost while the server is busy: the listener remembers who asked for connection.",
            source: "notes ch.2, TCP, Server-side; the question is ours",
            needs: &[],
            play: waiting::nobody_else,
        },
        Experiment {
            id: "whose-time-wait",
            starred: true,
            minutes: 5,
            claim: "The client shuts its writing pipe down; the server answers and closes its socket.",
            source: "notes ch.2, TCP, Client-side; the question is ours",
            needs: &[TIME_WAIT_BUCKETS],
            play: ends::whose_time_wait,
        },
        Experiment {
            id: "one-answer",
            starred: false,
            minutes: 3,
            claim: "One request and one response are enough for all messages: control code 4.",
            source: "notes ch.2, Changes in MBoard protocol",
            needs: &[],
            play: sizes::one_answer,
        },
        Experiment {
            id: "command-line",
            starred: false,
            minutes: 4,
            claim: "The length of a message is limited only by the command line and by the server's memory.",
            source: "notes ch.2, Application layer protocol on top of TCP; the question is ours",
            needs: &[ARGUMENTS],
            play: sizes::command_line,
        },
        Experiment {
            id: "any-byte",
            starred: false,
            minutes: 3,
            claim: "The server receives until the client issues shutdown on its writing end.",
            source: "notes ch.2, TCP, Server-side; the question is ours",
            needs: &[],
            play: sizes::any_byte,
        },
    ],
    next: &[
        ("by hand", "cargo lab17 server                 (or: server --deadline 0)"),
        ("", "cargo lab17 client --publish -     (type; Ctrl-D ends the message)"),
        ("", "cargo lab17 client"),
        ("watch", "scripts/states.sh 7777 --watch"),
        ("sheet", "cargo lab17 sheet"),
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

/// The real server as a child process, on a port of the kernel's choice.
fn server_role(options: &[&str]) -> Result<(Role, SocketAddr)> {
    let mut server = Role::start(&[&["server", "0"], options].concat())?;
    let banner = server.line_with(" messages; requests to ")?;
    let addr = banner.rsplit(' ').next().and_then(|addr| addr.parse().ok()).context("no address in the banner")?;
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

/// Accepts the connection that must have come.
fn accepted(listen_sock: &Socket) -> Result<Socket> {
    ensure!(waits(listen_sock, LIMIT)?, "not seen within {LIMIT:?}: a connection");
    Ok(listen_sock.accept().at("accept", "")?.0)
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

/// All bytes up to the end of stream, and how many calls of recv they took.
fn receive_all(sock: &Socket) -> Result<(Vec<u8>, usize)> {
    let (mut received, mut buffer, mut calls) = (Vec::new(), vec![0; CHUNK], 0);
    loop {
        ensure!(waits(sock, LIMIT)?, "not seen within {LIMIT:?}: more bytes, or their end");
        match recv(sock.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(0) => return Ok((received, calls)),
            Err(Errno::EINTR) => {}
            bytes_read => {
                received.extend(&buffer[..bytes_read.at("recv", "")?]);
                calls += 1;
            }
        }
    }
}
