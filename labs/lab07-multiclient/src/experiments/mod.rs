//! The handout's claims, decided by the kernel. Where the real programs matter they run as child processes.

mod addresses;
mod crowd;
mod many;
mod typing;

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result};
use kernel::Need;
use kernel::need::{DESCRIPTORS, LOOPBACK, LOOPBACK_NETWORK, PORTS, TIME_WAIT_BUCKETS};
use shared::{At, Experiment, Lesson, Role};
use socket2::{Domain, Socket, Type};

/// How long a state or an answer may take; far more than loopback needs.
const TIME_LIMIT: Duration = Duration::from_secs(5);

const PSEUDO_TERMINAL: Need = Need {
    what: "a pseudo-terminal",
    provided_by: "mount devpts: mount -t devpts devpts /dev/pts",
    met: || nix::pty::openpty(None, None).is_ok(),
};

pub const LESSON: Lesson = Lesson {
    lab: crate::LAB,
    setting: "server and clients on this machine",
    needs: &[LOOPBACK, PORTS, DESCRIPTORS],
    experiments: &[
        Experiment {
            id: "swapped-ports",
            starred: true,
            minutes: 5,
            claim: "The server prints its clients' ports: 13442, 13954, 14466, then 14978, 15490, 16002, 16514.",
            source: "lab 7 handout, steps 2 and 7",
            needs: &[],
            play: addresses::swapped_ports,
        },
        Experiment {
            id: "who-may-bind",
            starred: true,
            minutes: 7,
            claim: "If the server cannot bind when it is started again, its port is in TIME-WAIT: wait for some time.",
            source: "lab 7 handout, note at the top",
            needs: &[TIME_WAIT_BUCKETS],
            play: addresses::who_may_bind,
        },
        Experiment {
            id: "fifth",
            starred: true,
            minutes: 5,
            claim: "With four clients in, the server rejects the fifth. The fifth client shows no line \"Connected\".",
            source: "lab 7 handout, step 7",
            needs: &[],
            play: crowd::fifth,
        },
        Experiment {
            id: "other-ways",
            starred: false,
            minutes: 5,
            claim: "The port is in TIME-WAIT, so the new run cannot bind.",
            source: "lab 7 handout, note at the top; the question is ours",
            needs: &[LOOPBACK_NETWORK, TIME_WAIT_BUCKETS],
            play: addresses::other_ways,
        },
        Experiment {
            id: "slot-freed",
            starred: false,
            minutes: 3,
            claim: "While four clients are in, the server rejects the next one. A client leaves with exit.",
            source: "lab 7 handout, steps 6 and 7; the question is ours",
            needs: &[TIME_WAIT_BUCKETS],
            play: crowd::slot_freed,
        },
        Experiment {
            id: "one-line",
            starred: false,
            minutes: 3,
            claim: "The server sends one line to all clients; they print it in reverse.",
            source: "lab 7 handout, steps 4 and 5; the question is ours",
            needs: &[],
            play: crowd::one_line,
        },
        Experiment {
            id: "no-reader",
            starred: false,
            minutes: 3,
            claim: "The server's line goes to all clients, and all of them read it.",
            source: "lab 7 handout, step 4; the question is ours",
            needs: &[],
            play: crowd::no_reader,
        },
        Experiment {
            id: "while-typing",
            starred: false,
            minutes: 3,
            claim: "The clients are ready for new input while lines of the server arrive.",
            source: "lab 7 handout, step 5; the question is ours",
            needs: &[PSEUDO_TERMINAL],
            play: typing::while_typing,
        },
        Experiment {
            id: "idle-cost",
            starred: false,
            minutes: 4,
            claim: "A client that says nothing costs the server's loop nothing.",
            source: "ours",
            needs: &[many::MANY_DESCRIPTORS, many::MANY_PORTS],
            play: many::idle_cost,
        },
        Experiment {
            id: "storm",
            starred: false,
            minutes: 4,
            claim: "A thousand clients may connect at once: none is lost.",
            source: "ours",
            needs: &[many::MANY_DESCRIPTORS, many::MANY_PORTS, many::LARGE_BACKLOG],
            play: many::storm,
        },
    ],
    next: &[
        ("by hand", "cargo lab07 server"),
        ("", "cargo lab07 client    (three terminals, or nc 127.0.0.1 4444)"),
        ("watch", "scripts/states.sh 4444 --watch    or scripts/classroom.sh 07"),
        ("sheet", "cargo lab07 sheet"),
    ],
};

/// A TCP socket that listens on 127.0.0.1, on a port of the kernel's choice.
fn listening() -> Result<(Socket, SocketAddr)> {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listen_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", any_port)?;
    listen_sock.bind(&any_port.into()).at("bind", any_port)?;
    listen_sock.listen(8).at("listen", any_port)?;
    let local_addr = listen_sock.local_addr().at("getsockname", any_port)?.as_socket().context("not an IP socket")?;
    Ok((listen_sock, local_addr))
}

/// The real server as a child process, on a port of the kernel's choice.
fn server_role() -> Result<(Role, SocketAddr)> {
    let mut server = Role::start(&["server", "0"])?;
    let banner = server.line_with("PORT : ")?;
    let port = banner.rsplit(' ').next().and_then(|port| port.parse().ok()).context("no port in the banner")?;
    Ok((server, SocketAddr::from((Ipv4Addr::LOCALHOST, port))))
}

/// A client connected to `server_addr`. A recv that hears nothing for TIME_LIMIT fails.
fn connected(server_addr: SocketAddr) -> Result<Socket> {
    let client_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
    client_sock.set_read_timeout(Some(TIME_LIMIT)).at("setsockopt", server_addr)?;
    client_sock.connect(&server_addr.into()).at("connect", server_addr)?;
    Ok(client_sock)
}

/// A client that the server has let in: the server has printed the line with the client's address.
fn let_in(server: &mut Role, server_addr: SocketAddr) -> Result<Socket> {
    let client_sock = connected(server_addr)?;
    server.wait_for(&format!("> New connection [{}]\n", local_addr(&client_sock)?))?;
    Ok(client_sock)
}

fn local_addr(sock: &Socket) -> Result<SocketAddr> {
    sock.local_addr().at("getsockname", "")?.as_socket().context("not an IP socket")
}
