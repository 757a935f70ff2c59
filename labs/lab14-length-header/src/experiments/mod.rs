//! The exam's code and what it believes of recv, decided by the kernel.

mod bodies;
mod ends;
mod headers;

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::{Context, Result};
use kernel::need::{BUFFERS, DESCRIPTORS, LOOPBACK, PORTS};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv},
};
use shared::{At, Experiment, Lesson, Role};
use socket2::{Domain, Socket, Type};

use crate::frames::header;

/// How long a state or an answer may take; far more than loopback needs.
const LIMIT: Duration = Duration::from_secs(5);

pub const LESSON: Lesson = Lesson {
    lab: crate::LAB,
    setting: "both ends are on this machine",
    needs: &[LOOPBACK, PORTS, DESCRIPTORS, BUFFERS],
    experiments: &[
        Experiment {
            id: "two-pieces",
            starred: true,
            minutes: 6,
            claim: "The server receives the header with one recv(64); int() of it is the length of the message.",
            source: "final exam, server.py, lines 20 to 22",
            needs: &[],
            play: headers::two_pieces,
        },
        Experiment {
            id: "big-body",
            starred: true,
            minutes: 6,
            claim: "One recv(length) receives the message, whatever its length is.",
            source: "final exam, server.py, line 23",
            needs: &[],
            play: bodies::big_body,
        },
        Experiment {
            id: "just-leaves",
            starred: true,
            minutes: 7,
            claim: "The handler's loop runs while the client is connected.",
            source: "final exam, server.py, lines 18 to 21; the question is ours",
            needs: &[],
            play: ends::just_leaves,
        },
        Experiment {
            id: "other-word",
            starred: false,
            minutes: 3,
            claim: "The client sends its disconnect message, and the server ends the connection.",
            source: "final exam, client.py (DISCONNECT) and server.py (!DISCONNECT)",
            needs: &[],
            play: ends::other_word,
        },
        Experiment {
            id: "short-body",
            starred: false,
            minutes: 4,
            claim: "The header tells how long the message is.",
            source: "final exam, server.py, line 22; the question is ours",
            needs: &[],
            play: bodies::short_body,
        },
        Experiment {
            id: "mere-claim",
            starred: false,
            minutes: 4,
            claim: "The server makes room for the message with recv(length).",
            source: "final exam, server.py, line 23; the question is ours",
            needs: &[],
            play: headers::mere_claim,
        },
        Experiment {
            id: "no-number",
            starred: false,
            minutes: 3,
            claim: "int() turns the header into a length.",
            source: "final exam, server.py, line 22; the question is ours",
            needs: &[],
            play: headers::no_number,
        },
        Experiment {
            id: "two-ports",
            starred: false,
            minutes: 2,
            claim: "The client reaches the server: its constant is 5050, the server's 5890.",
            source: "final exam, client.py line 4, server.py line 5",
            needs: &[],
            play: ends::two_ports,
        },
    ],
    next: &[
        ("by hand", "cargo lab14 server                 (or: server --naive)"),
        ("", "cargo lab14 client                 (or: client --exam)"),
        ("watch", "scripts/states.sh 5050 --watch"),
        ("sheet", "cargo lab14 sheet"),
    ],
};

/// The client's end and the server's end of a new connection. A recv that hears nothing for LIMIT fails.
fn connected_pair() -> Result<(Socket, Socket)> {
    let client_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", "")?;
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listen_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", any_port)?;
    listen_sock.bind(&any_port.into()).at("bind", any_port)?;
    listen_sock.listen(1).at("listen", any_port)?;
    let server_addr = listen_sock.local_addr().at("getsockname", any_port)?.as_socket().context("not an IP socket")?;

    client_sock.connect(&server_addr.into()).at("connect", server_addr)?;
    let (conn_sock, _) = listen_sock.accept().at("accept", server_addr)?;
    client_sock.set_read_timeout(Some(LIMIT)).at("setsockopt", server_addr)?;
    conn_sock.set_read_timeout(Some(LIMIT)).at("setsockopt", server_addr)?;
    Ok((client_sock, conn_sock)) // the listener is closed here: one connection is enough
}

/// recv(2). After Ctrl-Z and fg a call with SO_RCVTIMEO is not restarted, signal(7): so it is called again.
fn receive(sock: &Socket, buffer: &mut [u8]) -> nix::Result<usize> {
    loop {
        match recv(sock.as_raw_fd(), buffer, MsgFlags::empty()) {
            Err(Errno::EINTR) => {}
            received => return received,
        }
    }
}

/// The real server as a child process, on a port of the kernel's choice.
fn server_role(options: &[&str]) -> Result<(Role, SocketAddr)> {
    let mut server = Role::start(&[&["server", "0"], options].concat())?;
    let banner = server.line_with("[LISTENING] Server is listening on ")?;
    let addr = banner.rsplit(' ').next().and_then(|addr| addr.parse().ok()).context("no address in the banner")?;
    Ok((server, addr))
}

/// A connection that the server has let in. A recv that hears nothing for LIMIT fails.
fn let_in(server: &mut Role, server_addr: SocketAddr) -> Result<(Socket, SocketAddr)> {
    let client_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
    client_sock.set_read_timeout(Some(LIMIT)).at("setsockopt", server_addr)?;
    client_sock.connect(&server_addr.into()).at("connect", server_addr)?;
    let local_addr = client_sock.local_addr().at("getsockname", "")?.as_socket().context("not an IP socket")?;
    server.wait_for(&format!("[NEW CONNECTION] {local_addr} connected.\n"))?;
    Ok((client_sock, local_addr))
}

/// A header and its message, as they go out.
fn framed(text: &str) -> Vec<u8> {
    [&header(text.len())[..], text.as_bytes()].concat()
}
