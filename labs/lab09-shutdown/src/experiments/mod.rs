//! The lecture's sentences on shutdown and close, decided by the kernel.

mod descriptors;
mod directions;
mod lost;

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result};
use kernel::need::{BUFFERS, LOOPBACK, PORTS, TIME_WAIT_BUCKETS};
use shared::{At, Experiment, Lesson};
use socket2::{Domain, Socket, Type};

/// How long a state or an answer may take; far more than loopback needs.
const LIMIT: Duration = Duration::from_secs(5);

pub const LESSON: Lesson = Lesson {
    lab: crate::LAB,
    setting: "both ends run in this one process",
    needs: &[LOOPBACK, PORTS],
    experiments: &[
        Experiment {
            id: "half-close",
            starred: true,
            minutes: 5,
            claim: "A client that is done sending closes that direction and goes on to receive. The server's recv returns an empty buffer.",
            source: "notes ch.2, TCP socket shutdown routines",
            needs: &[BUFFERS, TIME_WAIT_BUCKETS],
            play: directions::half_close,
        },
        Experiment {
            id: "shut-rd",
            starred: true,
            minutes: 5,
            claim: "After shutdown(SHUT_RD) receiving is not allowed any more.",
            source: "notes ch.2, TCP socket shutdown routines",
            needs: &[],
            play: directions::shut_rd,
        },
        Experiment {
            id: "unread-input",
            starred: true,
            minutes: 5,
            claim: "TCP shuts down gracefully: after an end has shut down, all data is still delivered.",
            source: "notes ch.2, TCP Protocol, features; what is graceful is the question",
            needs: &[],
            play: lost::unread_input,
        },
        Experiment {
            id: "send-after",
            starred: false,
            minutes: 3,
            claim: "After shutdown(SHUT_WR) sending is not allowed any more.",
            source: "notes ch.2, TCP socket shutdown routines; the question is ours",
            needs: &[],
            play: descriptors::send_after,
        },
        Experiment {
            id: "first-send",
            starred: false,
            minutes: 3,
            claim: "If data cannot be delivered, the send or receive that is issued then reports an error.",
            source: "notes ch.2, Handling broken pipe exceptions",
            needs: &[TIME_WAIT_BUCKETS],
            play: lost::first_send,
        },
        Experiment {
            id: "shut-rdwr",
            starred: false,
            minutes: 5,
            claim: "After shutdown(SHUT_RDWR) sending and receiving are not allowed any more.",
            source: "notes ch.2, TCP socket shutdown routines",
            needs: &[],
            play: directions::shut_rdwr,
        },
        Experiment {
            id: "linger-0",
            starred: false,
            minutes: 3,
            claim: "TCP shuts a connection down gracefully.",
            source: "notes ch.2, TCP Protocol, features; the question is ours",
            needs: &[TIME_WAIT_BUCKETS],
            play: lost::linger_0,
        },
        Experiment {
            id: "descriptor",
            starred: false,
            minutes: 3,
            claim: "shutdown does not close the socket's descriptor; that is left to close.",
            source: "notes ch.2, TCP socket shutdown routines",
            needs: &[],
            play: descriptors::descriptor,
        },
    ],
    next: &[
        ("by hand", "cargo lab09 server"),
        ("", "cargo lab09 client  (--how wr|rd|rdwr|close|reset)"),
        ("watch", "scripts/states.sh 7777 --watch"),
        ("sheet", "cargo lab09 sheet"),
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
