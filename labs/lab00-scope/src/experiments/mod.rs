//! What does an instrument do to what it sees? Decided by the kernel.

mod checksums;
mod closing;
mod group;
mod losses;
mod packets;
mod scene;
mod sending;

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result};
use kernel::namespace::NAMESPACE;
use kernel::need::{BUFFERS, DESCRIPTORS, LOOPBACK, PORTS, SMALL_TTL};
pub use scene::play as captured;
use shared::{At, Experiment, Lesson};
use socket2::{Domain, Socket, Type};

/// How long a state or a packet may take; far more than loopback needs.
const LIMIT: Duration = Duration::from_secs(5);
/// IP_MINTTL: larger than any TTL but the largest, so that the socket drops all that arrives; and every TTL will do.
const CUT: i32 = 255;
const MENDED: i32 = 0;

pub const LESSON: Lesson = Lesson {
    lab: crate::LAB,
    setting: "both ends run in a private network",
    needs: &[LOOPBACK, PORTS, DESCRIPTORS],
    experiments: &[
        Experiment {
            id: "close-returns",
            starred: true,
            minutes: 5,
            claim: "When close has returned, the other end has acknowledged the FIN.",
            source: "ours",
            needs: &[NAMESPACE, SMALL_TTL],
            play: closing::close_returns,
        },
        Experiment {
            id: "one-send",
            starred: true,
            minutes: 6,
            claim: "A capture shows the segments as they go over a wire.",
            source: "ours",
            needs: &[NAMESPACE, BUFFERS],
            play: sending::one_send,
        },
        Experiment {
            id: "same-bytes",
            starred: true,
            minutes: 6,
            claim: "A capture shows all there is to a packet: of two equal ones, both arrive or none does.",
            source: "ours",
            needs: &[NAMESPACE],
            play: checksums::same_bytes,
        },
        Experiment {
            id: "sent-again",
            starred: false,
            minutes: 5,
            claim: "What stands in a capture twice, the program has received twice.",
            source: "ours",
            needs: &[NAMESPACE, SMALL_TTL],
            play: sending::sent_again,
        },
        Experiment {
            id: "not-received",
            starred: false,
            minutes: 4,
            claim: "What stands in a capture, the program has received.",
            source: "ours",
            needs: &[NAMESPACE],
            play: losses::not_received,
        },
        Experiment {
            id: "missed",
            starred: false,
            minutes: 5,
            claim: "What does not stand in a capture did not pass.",
            source: "ours",
            needs: &[NAMESPACE],
            play: losses::missed,
        },
        Experiment {
            id: "group",
            starred: false,
            minutes: 4,
            claim: "A datagram stands in a capture once for each socket that receives it.",
            source: "ours",
            needs: &[NAMESPACE],
            play: group::group,
        },
        Experiment {
            id: "reset",
            starred: false,
            minutes: 4,
            claim: "Each segment that ends a connection is acknowledged, and TIME-WAIT follows.",
            source: "ours",
            needs: &[NAMESPACE],
            play: closing::reset,
        },
    ],
    next: &[
        ("draw it", "cargo lab00 run -- COMMAND"),
        ("live", "cargo lab00 watch 7777"),
        ("vote", "cargo lab00 vote -- lab06 demo"),
        ("sheet", "cargo lab00 sheet"),
    ],
};

/// A listening socket on a port of the kernel's choice.
fn listening() -> Result<(Socket, SocketAddr)> {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listen_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", any_port)?;
    listen_sock.bind(&any_port.into()).at("bind", any_port)?;
    listen_sock.listen(1).at("listen", any_port)?;
    let server_addr = listen_sock.local_addr().at("getsockname", any_port)?.as_socket().context("not an IP socket")?;
    Ok((listen_sock, server_addr))
}

/// The client's end and the server's end of a new connection.
fn connected_pair() -> Result<(Socket, Socket)> {
    let (listen_sock, server_addr) = listening()?;

    // No socket has a timeout here: without one, a call that Ctrl-Z stopped goes on after fg (signal(7)).
    let client_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
    client_sock.connect(&server_addr.into()).at("connect", server_addr)?;
    let (conn_sock, _) = listen_sock.accept().at("accept", server_addr)?;
    Ok((client_sock, conn_sock)) // the listener is closed here: one connection is enough
}

/// A UDP socket on a port of the kernel's choice.
fn bound() -> Result<(Socket, SocketAddr)> {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", any_port)?;
    sock.bind(&any_port.into()).at("bind", any_port)?;
    let local_addr = sock.local_addr().at("getsockname", any_port)?.as_socket().context("not an IP socket")?;
    Ok((sock, local_addr))
}
