//! Which state will this end be in? Decided by the kernel.

mod closing;
mod opening;
mod waiting;

use std::{
    net::{Ipv4Addr, SocketAddr},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use kernel::need::{LOOPBACK, PORTS, SYN_COOKIES, TIME_WAIT_BUCKETS};
use kernel::{Need, Pair, Patience, State, setting, tcp_socket};
use shared::{At, Experiment, Lesson};
use socket2::{Domain, Socket, Type};

/// How long a state or an answer may take; far more than loopback needs.
const LIMIT: Duration = Duration::from_secs(5);
/// A state must stay for this long to count; no transient state does.
const STILL: Duration = Duration::from_millis(150);

/// The two hours of RFC 1122 4.2.3.6.
const KEEPALIVE_TIME: Need = Need {
    what: "net.ipv4.tcp_keepalive_time=7200",
    provided_by: "sysctl -w net.ipv4.tcp_keepalive_time=7200",
    met: || setting("net/ipv4/tcp_keepalive_time") == [7200],
};

pub const LESSON: Lesson = Lesson {
    lab: crate::LAB,
    setting: "both ends run in this one process",
    needs: &[LOOPBACK, PORTS],
    experiments: &[
        Experiment {
            id: "closed",
            starred: true,
            minutes: 5,
            claim: "CLOSED is a fictional state: it means that there is no TCP pipe, so no connection.",
            source: "notes ch.2, TCP Socket, note on CLOSED",
            needs: &[],
            play: opening::closed,
        },
        Experiment {
            id: "deferred",
            starred: true,
            minutes: 5,
            claim: "TCP guarantees a reliable, synchronized start of a connection at both ends.",
            source: "notes ch.2, TCP Protocol, features; the question is ours",
            needs: &[SYN_COOKIES],
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
            claim: "After close, if the other end does not confirm, the socket is closed after a certain time.",
            source: "notes ch.2, TCP Socket, events",
            needs: &[TIME_WAIT_BUCKETS],
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
        Experiment {
            id: "keepalive",
            starred: false,
            minutes: 4,
            claim: "In ESTABLISHED an idle socket sends keep-alives: they tell the other end that it is present.",
            source: "notes ch.2, TCP Socket, events, Status",
            needs: &[KEEPALIVE_TIME],
            play: waiting::keepalive,
        },
    ],
    next: &[
        ("by hand", "cargo lab11 tour"),
        ("", "cargo lab11 hold close-wait"),
        ("watch", "scripts/states.sh PORT --watch  (the port that hold prints)"),
        ("sheet", "cargo lab11 sheet"),
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
        client_sock.set_recv_buffer_size(size).at("setsockopt", "")?; // the SYN carries the window
        client_sock.set_send_buffer_size(size).at("setsockopt", "")?;
    }
    let (listen_sock, server_addr) = listening(1, receive_buffer)?;

    client_sock.connect(&server_addr.into()).at("connect", server_addr)?;
    let (conn_sock, _) = listen_sock.accept().at("accept", server_addr)?;
    client_sock.set_read_timeout(Some(LIMIT)).at("setsockopt", server_addr)?;
    conn_sock.set_read_timeout(Some(LIMIT)).at("setsockopt", server_addr)?;
    Ok((client_sock, conn_sock)) // the listener is closed here: one connection is enough
}

/// Waits until both ends stay in these states, or in others for ten times as long; returns the states they stay in.
fn wait_until_settled(ends: [Pair; 2], awaited: [Option<State>; 2]) -> Result<[Option<State>; 2]> {
    let states = || -> Result<_> {
        let [one, other] = ends.map(|end| tcp_socket(end).map(|row| row.map(|row| row.state)));
        Ok([one?, other?])
    };
    let stay = |now| Patience::new(if now == awaited { STILL } else { STILL * 10 });
    let mut limit = Patience::new(LIMIT);
    let mut last = states()?;
    let mut still = stay(last);
    while !limit.is_over() {
        thread::sleep(STILL / 30); // between two looks; the limit is above
        let now = states()?;
        if now != last {
            (last, still) = (now, stay(now));
        } else if still.is_over() {
            return Ok(last);
        }
    }
    bail!("no state stays for {STILL:?}: now {last:?}")
}
