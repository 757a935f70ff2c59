//! Who learns that the connection is broken, and when? Decided by the kernel.

mod ends;
mod hosts;
mod limits;
mod loss;
mod silence;

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::{Context, Result};
use kernel::hosts::HOSTS;
use kernel::need::{BUFFERS, DESCRIPTORS, LOOPBACK, PORTS, SMALL_TTL};
use kernel::options::MinTtl;
use kernel::{Pair, tcp_socket, wait_until};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv, send, setsockopt},
};
use shared::{At, Experiment, Lesson, Stage};
use socket2::{Domain, Socket, Type};

/// How long a state or an answer may take; far more than loopback needs.
const LIMIT: Duration = Duration::from_secs(5);

pub const LESSON: Lesson = Lesson {
    lab: crate::LAB,
    setting: "both ends run in this one process",
    needs: &[LOOPBACK, PORTS, DESCRIPTORS],
    experiments: &[
        Experiment {
            id: "cut",
            starred: true,
            minutes: 7,
            claim: "A TCP pipe reports at once that it is broken: lost signal, broken cable, no gateway. The lamp stops shining.",
            source: "notes ch.2, Broken pipe exception, and the question on unplugging the cable",
            needs: &[SMALL_TTL],
            play: silence::cut,
        },
        Experiment {
            id: "killed",
            starred: true,
            minutes: 5,
            claim: "If data cannot be delivered, the send or receive that is issued then reports an error.",
            source: "notes ch.2, Handling broken pipe exceptions",
            needs: &[],
            play: ends::killed,
        },
        Experiment {
            id: "one-lost",
            starred: true,
            minutes: 5,
            claim: "Nothing gets lost in the pipe, and what goes in first comes out first.",
            source: "notes ch.2, TCP Protocol, the pipeline of Figure 2.10",
            needs: &[SMALL_TTL, BUFFERS],
            play: loss::one_lost,
        },
        Experiment {
            id: "who-learns",
            starred: false,
            minutes: 5,
            claim: "A connection without traffic sends keep-alives, so each end knows that the other is there.",
            source: "notes ch.2, TCP socket, event Status",
            needs: &[SMALL_TTL],
            play: limits::who_learns,
        },
        Experiment {
            id: "new-connect",
            starred: false,
            minutes: 3,
            claim: "TCP starts a connection reliably.",
            source: "notes ch.2, TCP Protocol, features; the question is ours",
            needs: &[SMALL_TTL],
            play: silence::new_connect,
        },
        Experiment {
            id: "link-down",
            starred: false,
            minutes: 5,
            claim: "If the host is disconnected from the network just then, send and receive report an error.",
            source: "notes ch.2, Handling broken pipe exceptions, and the question on unplugging",
            needs: &HOSTS,
            play: hosts::link_down,
        },
        Experiment {
            id: "moved",
            starred: false,
            minutes: 3,
            claim: "An established connection cannot follow its client to another IP address.",
            source: "notes ch.4, long-lived connections, hand-over",
            needs: &HOSTS,
            play: hosts::moved,
        },
        Experiment {
            id: "gone",
            starred: false,
            minutes: 5,
            claim: "If a host cannot be reached, the call that is issued reports an error.",
            source: "notes ch.2, Handling broken pipe exceptions; the question is ours",
            needs: &HOSTS,
            play: hosts::gone,
        },
    ],
    next: &[
        ("by hand", "cargo lab12 server"),
        ("", "cargo lab12 client  (lines, /unplug, /plug)"),
        ("two hosts", "scripts/two-hosts.sh up"),
        ("watch", "scripts/states.sh 7777 --watch"),
        ("sheet", "cargo lab12 sheet"),
    ],
};

/// The client's end and the server's end of a new connection. A recv that hears nothing for LIMIT fails.
fn connected_pair() -> Result<(Socket, Socket)> {
    let client_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", "")?;
    let (listen_sock, server_addr) = listening()?;

    client_sock.connect(&server_addr.into()).at("connect", server_addr)?;
    let (conn_sock, _) = listen_sock.accept().at("accept", server_addr)?;
    client_sock.set_read_timeout(Some(LIMIT)).at("setsockopt", server_addr)?;
    conn_sock.set_read_timeout(Some(LIMIT)).at("setsockopt", server_addr)?;

    // A byte each way, acknowledged: now both kernels have measured the way. Before, their timers may start from what the
    // machine remembers of an earlier connection (ip tcp_metrics), which may have been a slow one.
    for (from_sock, to_sock) in [(&client_sock, &conn_sock), (&conn_sock, &client_sock)] {
        send(from_sock.as_raw_fd(), b"?", MsgFlags::empty()).at("send", server_addr)?;
        receive(to_sock, &mut [0; 1], MsgFlags::empty()).at("recv", server_addr)?;
        let from = Pair::of(from_sock)?;
        wait_until("an acknowledgement", LIMIT, || Ok(tcp_socket(from)?.filter(|row| row.send_queue == 0)))?;
    }
    Ok((client_sock, conn_sock)) // the listener is closed here: one connection is enough
}

/// A listening socket on a port of the kernel's choice.
fn listening() -> Result<(Socket, SocketAddr)> {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listen_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", any_port)?;
    listen_sock.bind(&any_port.into()).at("bind", any_port)?;
    listen_sock.listen(1).at("listen", any_port)?;
    let server_addr = listen_sock.local_addr().at("getsockname", any_port)?.as_socket().context("not an IP socket")?;
    Ok((listen_sock, server_addr))
}

/// The cable at this end: out with CUT, in with MENDED.
fn cable(stage: &mut Stage, label: &str, sock: &Socket, ttl: i32) -> Result<()> {
    setsockopt(sock, MinTtl, &ttl).at("setsockopt IP_MINTTL", ttl)?;
    stage.say(label, format_args!("setsockopt({}, SOL_IP, IP_MINTTL, [{ttl}]) = 0", sock.as_raw_fd()));
    Ok(())
}

/// recv(2). After Ctrl-Z and fg a call with SO_RCVTIMEO is not restarted, signal(7): so it is called again.
fn receive(sock: &Socket, buffer: &mut [u8], flags: MsgFlags) -> nix::Result<usize> {
    loop {
        match recv(sock.as_raw_fd(), buffer, flags) {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}
