//! The lecture's sentences on listen, accept and connect, decided by the kernel.

mod connect;
mod queue;

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsFd,
    time::Duration,
};

use anyhow::{Context, Result};
use kernel::need::{DESCRIPTORS, LOOPBACK, PORTS};
use kernel::{Need, Patience, setting};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use shared::{At, Experiment, Lesson};
use socket2::{Domain, Socket, Type};

/// How long a state or an answer may take; far more than loopback needs.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// Room for five connections in an accept queue: the kernel cuts a backlog that is over somaxconn.
const BACKLOG_OF_5: Need = Need {
    what: "net.core.somaxconn of 5 or more",
    provided_by: "sysctl -w net.core.somaxconn=4096",
    met: || setting("net/core/somaxconn").first().is_none_or(|most| *most >= 5),
};

/// Linux before 6.14 compares the length of the SYN queue with the backlog: 0 >= 0, and without SYN cookies that drops
/// each SYN.
const BACKLOG_OF_0: Need = Need {
    what: "SYN cookies, or Linux 6.14 (an older one without them lets nobody in at backlog 0)",
    provided_by: "sysctl -w net.ipv4.tcp_syncookies=1",
    met: || setting("net/ipv4/tcp_syncookies").first() != Some(&0) || at_least(&kernel::version(), (6, 14)),
};

const FAST_OPEN: Need = Need {
    what: "net.ipv4.tcp_fastopen with bit 1 (client)",
    provided_by: "sysctl -w net.ipv4.tcp_fastopen=1",
    met: || setting("net/ipv4/tcp_fastopen").first().is_some_and(|bits| bits & 1 == 1),
};

pub const LESSON: Lesson = Lesson {
    lab: crate::LAB,
    setting: "both ends run in this one process",
    needs: &[LOOPBACK, PORTS, DESCRIPTORS],
    experiments: &[
        Experiment {
            id: "before-accept",
            starred: true,
            minutes: 6,
            claim: "accept is like picking up the phone: after it the conversation may start.",
            source: "notes ch.2, Accepting connections",
            needs: &[],
            play: connect::before_accept,
        },
        Experiment {
            id: "backlog",
            starred: true,
            minutes: 6,
            claim: "The backlog is the size of the waiting queue; 0 means that there is no queue.",
            source: "notes ch.2, Listening",
            needs: &[BACKLOG_OF_5, BACKLOG_OF_0],
            play: queue::backlog,
        },
        Experiment {
            id: "full-queue",
            starred: true,
            minutes: 6,
            claim: "A listening socket denies a new connection when there are too many.",
            source: "notes ch.2, TCP states (Abort); ch.4 calls it a reset",
            needs: &[BACKLOG_OF_0],
            play: queue::full_queue,
        },
        Experiment {
            id: "not-listening",
            starred: false,
            minutes: 4,
            claim: "After creating and binding its socket the server is ready to accept connections.",
            source: "user manual, step 6; notes ch.2, Accepting connections",
            needs: &[],
            play: connect::not_listening,
        },
        Experiment {
            id: "new-socket",
            starred: false,
            minutes: 4,
            claim: "accept creates another socket, to talk with the client that asked for the connection.",
            source: "notes ch.2, Accepting connections; the question is ours",
            needs: &[BACKLOG_OF_5],
            play: connect::new_socket,
        },
        Experiment {
            id: "listener-io",
            starred: false,
            minutes: 3,
            claim: "An idle phone cannot be talked into: a listening socket carries no data.",
            source: "notes ch.2, Listening",
            needs: &[],
            play: connect::listener_io,
        },
        Experiment {
            id: "close-listener",
            starred: false,
            minutes: 4,
            claim: "The listening socket remembers clients whose connections are not accepted yet.",
            source: "notes ch.2, message board over TCP; the question is ours",
            needs: &[BACKLOG_OF_5],
            play: queue::close_listener,
        },
        Experiment {
            id: "no-connect",
            starred: false,
            minutes: 4,
            claim: "connect is required in case of TCP.",
            source: "notes ch.2, socket API",
            needs: &[FAST_OPEN],
            play: connect::no_connect,
        },
    ],
    next: &[
        ("by hand", "cargo lab06 listen"),
        ("", "cargo lab06 client    (in two or three terminals)"),
        ("watch", "scripts/backlog.sh 7777 --watch"),
        ("sheet", "cargo lab06 sheet"),
    ],
};

/// A TCP socket bound to 127.0.0.1, on a port of the kernel's choice. An accept that waits for TIME_LIMIT fails.
fn bound() -> Result<(Socket, SocketAddr)> {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", any_port)?;
    sock.set_read_timeout(Some(TIME_LIMIT)).at("setsockopt", any_port)?; // socket(7): SO_RCVTIMEO holds for accept, too
    sock.bind(&any_port.into()).at("bind", any_port)?;
    let local_addr = local_addr(&sock)?;
    Ok((sock, local_addr))
}

/// A TCP socket of a client, not yet connected. A recv that waits for TIME_LIMIT fails.
fn client_socket() -> Result<Socket> {
    let client_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", "")?;
    client_sock.set_read_timeout(Some(TIME_LIMIT)).at("setsockopt", "")?;
    Ok(client_sock)
}

fn local_addr(sock: &Socket) -> Result<SocketAddr> {
    sock.local_addr().at("getsockname", "")?.as_socket().context("not an IP socket")
}

/// Waits until the handshake of a non-blocking connect has ended, well or badly; false if `limit` passes before.
fn handshake_over(client_sock: &Socket, limit: Duration) -> Result<bool> {
    let mut patience = Patience::new(limit);
    loop {
        let mut fds = [PollFd::new(client_sock.as_fd(), PollFlags::POLLOUT)];
        match poll(&mut fds, PollTimeout::try_from(patience.step())?) {
            Ok(0) | Err(Errno::EINTR) if patience.is_over() => return Ok(false),
            Ok(0) | Err(Errno::EINTR) => {} // EINTR: Ctrl-Z, then fg; see signal(7)
            ready => return Ok(ready.at("poll", "")? > 0),
        }
    }
}

/// Whether a release such as `6.18.5-generic` is this version or a newer one.
fn at_least(release: &str, wanted: (u32, u32)) -> bool {
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse().ok());
    numbers.next().zip(numbers.next()) >= Some(wanted)
}

#[cfg(test)]
mod tests {
    use super::at_least;

    #[test]
    fn a_release_is_compared_by_its_numbers() {
        for (release, newer) in
            [("6.14.0", true), ("6.9.12-1", false), ("7.0-rc1", true), ("5.10.0", false), ("x", false)]
        {
            assert_eq!(at_least(release, (6, 14)), newer, "{release}");
        }
    }
}
