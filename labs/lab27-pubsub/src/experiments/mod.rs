//! What a broker keeps, loses and doubles, decided by counting messages.

mod brokers;
mod cut;
mod hosts;
mod off_line;
mod queue;
mod relay;
mod work;

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsFd,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kernel::{
    Patience,
    hosts::HOSTS,
    need::{BUFFERS, DESCRIPTORS, LOOPBACK, PORTS},
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use shared::{At, Experiment, Lesson};
use socket2::{Domain, Socket, Type};

use self::{brokers::MQTT, queue::QUEUES};

/// How long a message or an answer may take; far more than a broker on loopback needs.
const LIMIT: Duration = Duration::from_secs(10);
/// How long to listen where nothing is expected to come.
const SILENCE: Duration = Duration::from_millis(500);

pub const LESSON: Lesson = Lesson {
    lab: crate::LAB,
    setting: "broker and clients are on this machine",
    needs: &[LOOPBACK, PORTS, DESCRIPTORS],
    experiments: &[
        Experiment {
            id: "off-line",
            starred: true,
            minutes: 8,
            claim: "If the receiver is off-line, the broker keeps the message for it.",
            source: "notes ch.6, Time uncoupling; Table 6.2",
            needs: &[MQTT],
            play: off_line::off_line,
        },
        Experiment {
            id: "pending",
            starred: true,
            minutes: 6,
            claim: "A client that retries fails if it goes off-line first; a third party keeps the request.",
            source: "notes ch.6, Disadvantages of direct communication",
            needs: &[MQTT],
            play: off_line::pending,
        },
        Experiment {
            id: "worker-killed",
            starred: true,
            minutes: 6,
            claim: "A message broker stores queues that different entities can share.",
            source: "notes ch.6, Message queues; the question is ours",
            needs: &[QUEUES],
            play: work::worker_killed,
        },
        Experiment {
            id: "cut",
            starred: false,
            minutes: 8,
            claim: "QoS 0 is at most once, QoS 1 at least once, QoS 2 exactly once.",
            source: "MQTT 3.1.1, 4.3; the question is ours",
            needs: &[MQTT],
            play: cut::cut,
        },
        Experiment {
            id: "broker-killed",
            starred: false,
            minutes: 5,
            claim: "The broker keeps the message until the receiver is back on-line.",
            source: "notes ch.6, Time uncoupling",
            needs: &[QUEUES],
            play: work::broker_killed,
        },
        Experiment {
            id: "dial-out",
            starred: false,
            minutes: 5,
            claim: "Servers can be in private networks, too: a third party helps clients and servers to meet.",
            source: "notes ch.6, Disadvantages of direct communication",
            needs: &HOSTS,
            play: hosts::dial_out,
        },
        Experiment {
            id: "slow-subscriber",
            starred: false,
            minutes: 5,
            claim: "Sender and receiver have independent lifetimes; the broker is between them.",
            source: "notes ch.6, Time uncoupling; the question is ours",
            needs: &[BUFFERS, MQTT],
            play: work::slow_subscriber,
        },
        Experiment {
            id: "dead-sender",
            starred: false,
            minutes: 4,
            claim: "Direct communication: if one end is off-line, the delivery is impossible.",
            source: "notes ch.6, Table 6.2",
            needs: &[],
            play: off_line::dead_sender,
        },
    ],
    next: &[
        ("by hand", "cargo lab27 broker"),
        ("", "cargo lab27 subscribe letters --session ann"),
        ("", "cargo lab27 publish letters 'Dear Ann'"),
        ("watch", "scripts/states.sh 1883 --watch"),
        ("sheet", "cargo lab27 sheet"),
    ],
};

/// A socket with an address of the kernel's choice; nobody listens there yet.
fn bound() -> Result<(Socket, SocketAddr)> {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", any_port)?;
    sock.bind(&any_port.into()).at("bind", any_port)?;
    let addr = sock.local_addr().at("getsockname", any_port)?.as_socket().context("not an IP socket")?;
    Ok((sock, addr))
}

/// Waits until the socket has something to receive or to accept; false if nothing comes in time.
fn waits(sock: &Socket, limit: Duration) -> Result<bool> {
    let mut patience = Patience::new(limit);
    while !patience.is_over() {
        let mut fds = [PollFd::new(sock.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::try_from(patience.step())?) {
            Ok(0) | Err(Errno::EINTR) => {}
            ready => return Ok(ready.at("poll", "")? > 0),
        }
    }
    Ok(false)
}

/// Accepts the connection that must have come.
fn accepted(listen_sock: &Socket) -> Result<Socket> {
    ensure!(waits(listen_sock, LIMIT)?, "not seen within {LIMIT:?}: a connection");
    Ok(listen_sock.accept().at("accept", "")?.0)
}
