//! Which state will this end be in? Decided by the kernel.

mod closing;
mod opening;
mod waiting;

use std::{
    net::{Ipv4Addr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use kernel::need::{LOOPBACK, PORTS};
use kernel::{Pair, State, tcp_socket};
use shared::{At, Experiment, Lesson};
use socket2::{Domain, Socket, Type};

/// How long a state or an answer may take; far more than loopback needs.
const LIMIT: Duration = Duration::from_secs(5);
/// So long a state must stay to count: no transient one does.
const STILL: Duration = Duration::from_millis(150);

pub const LESSON: Lesson = Lesson {
    lab: crate::LAB,
    setting: "both ends run in this one process",
    needs: &[LOOPBACK, PORTS],
    experiments: &[
        Experiment {
            id: "closed",
            starred: true,
            minutes: 5,
            claim: "CLOSED is a fictional state: it stands for no TCP pipe, so no connection.",
            source: "notes ch.2, TCP Socket, note on CLOSED",
            needs: &[],
            play: opening::closed,
        },
        Experiment {
            id: "deferred",
            starred: true,
            minutes: 5,
            claim: "TCP guarantees that both ends start a connection in step.",
            source: "notes ch.2, TCP Protocol, features; the question is ours",
            needs: &[],
            play: opening::deferred,
        },
        Experiment {
            id: "closing",
            starred: true,
            minutes: 5,
            claim: "In CLOSING an end waits until the other acknowledges its request to end.",
            source: "notes ch.2, TCP Socket, Figure 2.11; the question is ours",
            needs: &[],
            play: closing::closing,
        },
        Experiment {
            id: "full-queue",
            starred: false,
            minutes: 3,
            claim: "Abort: a listening socket denies a connection beyond its limit.",
            source: "notes ch.2, TCP Socket, events",
            needs: &[],
            play: opening::full_queue,
        },
        Experiment {
            id: "fin-wait-1",
            starred: false,
            minutes: 3,
            claim: "In FIN-WAIT-1 an end waits for the other's FIN or for the acknowledgement of its own.",
            source: "notes ch.2, TCP Socket, list of states; the question is ours",
            needs: &[],
            play: closing::fin_wait_1,
        },
        Experiment {
            id: "fin-wait-2",
            starred: false,
            minutes: 3,
            claim: "If the other end does not confirm the close, the socket is closed after a certain time.",
            source: "notes ch.2, TCP Socket, events",
            needs: &[],
            play: waiting::fin_wait_2,
        },
        Experiment {
            id: "close-wait",
            starred: false,
            minutes: 3,
            claim: "In CLOSE-WAIT an end waits for its own program to end the connection.",
            source: "notes ch.2, TCP Socket, list of states",
            needs: &[],
            play: waiting::close_wait,
        },
        Experiment {
            id: "last-ack",
            starred: false,
            minutes: 3,
            claim: "In LAST-ACK an end waits for the acknowledgement of its request to end.",
            source: "notes ch.2, TCP Socket, list of states; the question is ours",
            needs: &[],
            play: waiting::last_ack,
        },
    ],
    next: &[
        ("by hand", "cargo run -p lab11-states -- tour"),
        ("", "cargo run -p lab11-states -- hold close-wait"),
        ("watch", "scripts/states.sh PORT --watch  (the port that hold prints)"),
        ("sheet", "cargo run -p lab11-states -- sheet"),
    ],
};

/// A listening socket on a port of the kernel's choice. A small receive buffer is inherited by what it accepts.
fn listening(backlog: i32, receive_buffer: Option<usize>) -> Result<(Socket, SocketAddr)> {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listen_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", any_port)?;
    if let Some(size) = receive_buffer {
        listen_sock.set_recv_buffer_size(size).at("setsockopt", any_port)?;
        listen_sock.set_send_buffer_size(size).at("setsockopt", any_port)?;
    }
    listen_sock.bind(&any_port.into()).at("bind", any_port)?;
    listen_sock.listen(backlog).at("listen", any_port)?;
    let server_addr = listen_sock.local_addr().at("getsockname", any_port)?.as_socket().context("not an IP socket")?;
    Ok((listen_sock, server_addr))
}

/// The client's end and the server's end of a new connection. A recv that hears nothing for LIMIT fails.
fn connected_pair(receive_buffer: Option<usize>) -> Result<(Socket, Socket)> {
    let client_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", "")?;
    if let Some(size) = receive_buffer {
        client_sock.set_recv_buffer_size(size).at("setsockopt", "")?; // the window is told in the SYN
        client_sock.set_send_buffer_size(size).at("setsockopt", "")?;
    }
    let (listen_sock, server_addr) = listening(1, receive_buffer)?;

    client_sock.connect(&server_addr.into()).at("connect", server_addr)?;
    let (conn_sock, _) = listen_sock.accept().at("accept", server_addr)?;
    client_sock.set_read_timeout(Some(LIMIT)).at("setsockopt", server_addr)?;
    conn_sock.set_read_timeout(Some(LIMIT)).at("setsockopt", server_addr)?;
    Ok((client_sock, conn_sock)) // the listener is closed here: one connection is enough
}

/// Waits until both ends stay in these states, or for a while, and returns what they then stay in.
fn settled(ends: [Pair; 2], awaited: [Option<State>; 2]) -> Result<[Option<State>; 2]> {
    let states = || -> Result<_> {
        let [one, other] = ends.map(|end| tcp_socket(end).map(|row| row.map(|row| row.state)));
        Ok([one?, other?])
    };
    let start = Instant::now();
    let (mut last, mut since) = (states()?, start);
    while start.elapsed() < LIMIT {
        thread::sleep(STILL / 30); // between two looks; the limit is above
        let now = states()?;
        if now != last {
            (last, since) = (now, Instant::now());
        }
        // What nobody awaited gets ten times as long to go away.
        if since.elapsed() > if last == awaited { STILL } else { STILL * 10 } {
            return Ok(last);
        }
    }
    bail!("no state stays for {STILL:?}: now {last:?}")
}
