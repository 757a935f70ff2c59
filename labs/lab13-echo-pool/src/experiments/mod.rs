//! The manual's sentences on its two servers, decided by the kernel. The servers run as child processes.

mod ends;
mod queues;
mod threads;

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::{Context, Result};
use kernel::{
    Pair, Row,
    need::{BACKLOGS, DESCRIPTORS, LOOPBACK, LOOPBACK_NETWORK, PORTS, TIME_WAIT_BUCKETS},
    tcp_socket, wait_until,
};
use nix::sys::socket::{MsgFlags, send};
use shared::{At, Experiment, Lesson, Role, Stage, returned};
use socket2::{Domain, Socket, Type};

/// How long a state or an answer may take; far more than loopback needs.
const LIMIT: Duration = Duration::from_secs(5);

pub const LESSON: Lesson = Lesson {
    lab: crate::LAB,
    setting: "each server is a process of its own",
    needs: &[LOOPBACK, PORTS, BACKLOGS, DESCRIPTORS],
    experiments: &[
        Experiment {
            id: "one-at-a-time",
            starred: true,
            minutes: 6,
            claim: "The single-threaded server takes one connection request at a time.",
            source: "user manual, step 6",
            needs: &[],
            play: queues::one_at_a_time,
        },
        Experiment {
            id: "three-queues",
            starred: true,
            minutes: 8,
            claim: "The server has a number of threads and a queue of a given size; they bound what it takes on.",
            source: "user manual, step 7; the question is ours",
            needs: &[],
            play: queues::three_queues,
        },
        Experiment {
            id: "silent-clients",
            starred: true,
            minutes: 6,
            claim: "A pool of threads serves many clients at the same time.",
            source: "user manual, step 7; the question is ours",
            needs: &[],
            play: threads::silent_clients,
        },
        Experiment {
            id: "completed",
            starred: false,
            minutes: 4,
            claim: "When requests have been completed, the server says \"Connection Completed\".",
            source: "user manual, step 7 and its log",
            needs: &[],
            play: queues::completed,
        },
        Experiment {
            id: "left-early",
            starred: false,
            minutes: 4,
            claim: "A thread of the pool takes the next connection and processes it.",
            source: "user manual, step 7; the question is ours",
            needs: &[TIME_WAIT_BUCKETS],
            play: ends::left_early,
        },
        Experiment {
            id: "stop",
            starred: false,
            minutes: 4,
            claim: "The server runs until Ctrl-C.",
            source: "user manual, step 7; the question is ours",
            needs: &[],
            play: ends::stop,
        },
        Experiment {
            id: "host-name",
            starred: false,
            minutes: 3,
            claim: "The client reaches the server by the name of the machine.",
            source: "user manual, step 6: ./client hitin-VirtualBox 8080; the question is ours",
            needs: &[LOOPBACK_NETWORK],
            play: ends::host_name,
        },
    ],
    next: &[
        ("by hand", "cargo lab13 server-multi 8080 2 2"),
        ("", "cargo lab13 load --clients 8 --seconds 5"),
        ("watch", "scripts/backlog.sh 8080 --watch"),
        ("sheet", "cargo lab13 sheet"),
    ],
};

/// A server as a child process, on a port of the kernel's choice; a pool, if it is one, is ready.
fn server_role(arguments: &[&str]) -> Result<(Role, SocketAddr)> {
    let mut server = Role::start(arguments)?;
    let banner = server.line_with("Listening on ")?;
    let addr = banner.rsplit(' ').next().and_then(|addr| addr.parse().ok()).context("no address in the banner")?;
    Ok((server, addr))
}

/// A connection to `server_addr`. A recv that hears nothing for LIMIT fails.
fn connected(server_addr: SocketAddr) -> Result<(Socket, Pair)> {
    let client_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
    client_sock.set_read_timeout(Some(LIMIT)).at("setsockopt", server_addr)?;
    client_sock.connect(&server_addr.into()).at("connect", server_addr)?;
    let pair = Pair::of(&client_sock)?;
    Ok((client_sock, pair))
}

/// Sends a request and prints the call.
fn request(stage: &mut Stage, who: &str, sock: &Socket, text: &str) -> Result<()> {
    let sent = send(sock.as_raw_fd(), text.as_bytes(), MsgFlags::empty());
    stage.say(who, format_args!("send({}, {text:?}, {}) = {}", sock.as_raw_fd(), text.len(), returned(&sent)));
    sent.at("send", "")?;
    Ok(())
}

/// Waits until the server's end of a connection shows what is wanted, and returns its row.
fn server_end(pair: Pair, what: &str, wanted: impl Fn(&Row) -> bool) -> Result<Row> {
    wait_until(what, LIMIT, || Ok(tcp_socket(pair.other_end())?.filter(&wanted)))
}

/// The row that listens on this address.
fn listener_row(server_addr: SocketAddr) -> Result<Row> {
    let pair = Pair { local: server_addr, peer: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)) };
    tcp_socket(pair)?.context("nobody listens")
}

/// Where a connection is, by what the kernel's table says of the server's end.
#[derive(Debug, PartialEq)]
enum Place {
    /// No descriptor: accept has not fetched it.
    KernelsQueue,
    /// The program has a descriptor for it.
    Program,
    /// It is not in the table.
    Nowhere,
}

fn where_is(pair: Pair) -> Result<(Place, u32)> {
    let row = tcp_socket(pair.other_end())?;
    let place = match &row {
        Some(row) if row.inode == 0 => Place::KernelsQueue,
        Some(_) => Place::Program,
        None => Place::Nowhere,
    };
    Ok((place, row.map_or(0, |row| row.recv_queue)))
}
