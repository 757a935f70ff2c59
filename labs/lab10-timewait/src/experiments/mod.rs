//! What the sources say about the time after the close, decided by the kernel.

mod again;
mod ends;
mod minute;
mod ports;

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result};
use kernel::need::{LOOPBACK, PORTS};
use kernel::{Pair, State, namespace::NAMESPACE, wait_for_state};
use shared::{At, Experiment, Lesson};
use socket2::{Domain, Socket, Type};

/// How long a state or an answer may take; far more than loopback needs.
pub const LIMIT: Duration = Duration::from_secs(5);
/// What the kernel's timer shows soon after the start of a minute. It may fire a little later than it says.
const ABOUT_A_MINUTE: std::ops::RangeInclusive<Duration> = Duration::from_secs(50)..=Duration::from_secs(61);

pub const LESSON: Lesson = Lesson {
    lab: crate::LAB,
    setting: "both ends are on this machine",
    needs: &[LOOPBACK, PORTS],
    experiments: &[
        Experiment {
            id: "closes-first",
            starred: true,
            minutes: 5,
            claim: "An end in TIME-WAIT makes sure that the other end got the acknowledgement of its FIN.",
            source: "notes ch.2, TCP socket, states; the question is ours",
            needs: &[],
            play: ends::closes_first,
        },
        Experiment {
            id: "bind-again",
            starred: true,
            minutes: 5,
            claim: "If the server cannot bind when it is started again, its port is in TIME-WAIT: wait for some time.",
            source: "lab 7 handout, note at the top",
            needs: &[],
            play: again::bind_again,
        },
        Experiment {
            id: "pairs",
            starred: true,
            minutes: 5,
            claim: "Each connection takes a port, and there are only 2^16: with many connections they run out.",
            source: "notes, Long-lived and short-lived connections",
            needs: &[ports::PORT_RANGE],
            play: ports::pairs,
        },
        Experiment {
            id: "how-long",
            starred: false,
            minutes: 3,
            claim: "TIME-WAIT is over after some time, and then the program starts without the error.",
            source: "lab 7 handout, note at the top; the question is ours",
            needs: &[],
            play: minute::how_long,
        },
        Experiment {
            id: "fin-timeout",
            starred: false,
            minutes: 3,
            claim: "The setting tcp_fin_timeout shortens the wait.",
            source: "ours",
            needs: &[NAMESPACE],
            play: minute::fin_timeout,
        },
        Experiment {
            id: "killed",
            starred: false,
            minutes: 3,
            claim: "Without close before the program ends, a listening or established socket stays until a time-out.",
            source: "notes ch.2, Receiving and Sending using TCP connection",
            needs: &[],
            play: ends::killed,
        },
        Experiment {
            id: "reset",
            starred: false,
            minutes: 3,
            claim: "The end that closes first has to wait.",
            source: "ours",
            needs: &[],
            play: again::reset,
        },
        Experiment {
            id: "tw-reuse",
            starred: false,
            minutes: 3,
            claim: "While a connection is in TIME-WAIT, its pair of addresses cannot be used again.",
            source: "ours",
            needs: &[ports::PORT_RANGE, ports::REUSE],
            play: ports::tw_reuse,
        },
    ],
    next: &[
        ("by hand", "cargo run -p lab10-timewait -- server --close-first"),
        ("", "cargo run -p lab10-timewait -- client"),
        ("", "cargo run -p lab10-timewait -- countdown 7777"),
        ("watch", "scripts/timewait.sh 7777 --watch"),
        ("sheet", "cargo run -p lab10-timewait -- sheet"),
    ],
};

/// A listener on a port of the kernel's choice, with the handout's order of calls.
pub fn listening(reuse: bool) -> Result<(Socket, SocketAddr)> {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listen_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", any_port)?;
    listen_sock.set_reuse_address(reuse).at("setsockopt", any_port)?;
    listen_sock.bind(&any_port.into()).at("bind", any_port)?;
    listen_sock.listen(64).at("listen", any_port)?;
    listen_sock.set_read_timeout(Some(LIMIT)).at("setsockopt", any_port)?; // accept hears it too
    let server_addr = listen_sock.local_addr().at("getsockname", any_port)?.as_socket().context("not an IP socket")?;
    Ok((listen_sock, server_addr))
}

/// Waits until the FIN of this end is acknowledged. If the other end closed sooner, its FIN could overtake that
/// acknowledgement; TIME-WAIT would answer the late one, and the reset for that answer would end it (RFC 1337).
pub fn acknowledged(first: Pair) -> Result<()> {
    wait_for_state(first, Some(State::FinWait2), LIMIT)?;
    Ok(())
}

/// The client's end and the server's end of a new connection. A recv that hears nothing for LIMIT fails.
pub fn connected_pair(listen_sock: &Socket, server_addr: SocketAddr) -> Result<(Socket, Socket)> {
    let client_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
    client_sock.connect(&server_addr.into()).at("connect", server_addr)?;
    let (conn_sock, _) = listen_sock.accept().at("accept", server_addr)?;
    client_sock.set_read_timeout(Some(LIMIT)).at("setsockopt", server_addr)?;
    conn_sock.set_read_timeout(Some(LIMIT)).at("setsockopt", server_addr)?;
    Ok((client_sock, conn_sock))
}
