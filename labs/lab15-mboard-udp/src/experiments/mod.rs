//! What the lecture's protocol confirms, and what fits into a datagram, decided by the kernel.

mod answers;
mod fields;
mod sizes;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kernel::{
    Need, Patience,
    need::{DESCRIPTORS, LOOPBACK, PORTS, setting},
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, SockaddrStorage, recvfrom, sendto},
};
use shared::{At, Experiment, Lesson, Role, Stage, returned};
use socket2::{Domain, Socket, Type};

use crate::server::socket_addr;

/// How long a datagram over loopback may take; far more than it needs.
const LIMIT: Duration = Duration::from_secs(5);
/// How long to listen where nothing is expected to come.
const SILENCE: Duration = Duration::from_millis(200);
/// A datagram shorter than this is shown in the line of its call; one shorter than SHOWN below it.
const INLINE: usize = 24;
const SHOWN: usize = 60;
/// Longer than any datagram.
const BUFFER: usize = 65_536;
const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const ANY_PORT_IPV6: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 0);

/// A datagram of the largest size must fit the buffers on both sides.
const DATAGRAM_BUFFERS: Need = Need {
    what: "socket buffers of 212992 bytes, as Linux sets them up",
    provided_by: "sysctl -w net.core.rmem_default=212992 net.core.wmem_default=212992",
    met: || {
        let buffers = ["net/core/rmem_default", "net/core/wmem_default"].map(setting);
        buffers.iter().all(|buffer| buffer.first().is_none_or(|bytes| *bytes >= 212_992))
    },
};

const IPV6: Need = Need {
    what: "IPv6 on the loopback interface",
    provided_by: "sysctl -w net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.lo.disable_ipv6=0",
    met: || bound(ANY_PORT_IPV6).is_ok(),
};

pub const LESSON: Lesson = Lesson {
    lab: crate::LAB,
    setting: "server and client are on this machine",
    needs: &[LOOPBACK, PORTS, DESCRIPTORS, DATAGRAM_BUFFERS],
    experiments: &[
        Experiment {
            id: "lost-reply",
            starred: true,
            minutes: 7,
            claim: "To guarantee delivery the server confirms each request; without that it counts as not delivered.",
            source: "notes ch.2, Designing the protocol; the question is ours",
            needs: &[],
            play: answers::lost_reply,
        },
        Experiment {
            id: "at-the-limit",
            starred: true,
            minutes: 5,
            claim: "A request or a response is not longer than one data unit, the maximal UDP payload.",
            source: "notes ch.2, Designing the protocol",
            needs: &[],
            play: sizes::at_the_limit,
        },
        Experiment {
            id: "stranger",
            starred: true,
            minutes: 6,
            claim: "The request is delivered once the client receives the confirmation from the server.",
            source: "notes ch.2, Designing the protocol",
            needs: &[],
            play: answers::stranger,
        },
        Experiment {
            id: "all-ids",
            starred: false,
            minutes: 4,
            claim: "The ids of the last N messages come in one response; then each message in its own.",
            source: "notes ch.2, Designing the protocol",
            needs: &[],
            play: sizes::all_ids,
        },
        Experiment {
            id: "cut-tail",
            starred: false,
            minutes: 4,
            claim: "The client cuts off the tail if the message is bigger than the maximal data unit.",
            source: "notes ch.2, Designing the protocol; the question is ours",
            needs: &[],
            play: sizes::cut_tail,
        },
        Experiment {
            id: "ipv6-author",
            starred: false,
            minutes: 5,
            claim: "Time, address, port and text are appended as strings, with ':' as the delimiter.",
            source: "notes ch.2, Designing the protocol",
            needs: &[IPV6],
            play: fields::ipv6_author,
        },
        Experiment {
            id: "restart",
            starred: false,
            minutes: 4,
            claim: "The client reports \"Message Published\" once the server has answered \"No Error\".",
            source: "notes ch.2, Designing the protocol; the question is ours",
            needs: &[],
            play: fields::restart,
        },
        Experiment {
            id: "no-sessions",
            starred: false,
            minutes: 4,
            claim: "Two packets from the same origin are processed in separate interactions.",
            source: "notes ch.2, Server-side",
            needs: &[],
            play: answers::no_sessions,
        },
    ],
    next: &[
        ("by hand", "cargo lab15 server                 (or: server --lose 1)"),
        ("", "cargo lab15 client --publish 'Hello world!'"),
        ("", "cargo lab15 client"),
        ("watch", "scripts/states.sh 7777 --watch"),
        ("sheet", "cargo lab15 sheet"),
    ],
};

/// A UDP socket on `any_port`.
fn bound(any_port: SocketAddr) -> Result<(Socket, SocketAddr)> {
    let sock = Socket::new(Domain::for_address(any_port), Type::DGRAM, None).at("socket", any_port)?;
    sock.bind(&any_port.into()).at("bind", any_port)?;
    let local_addr = sock.local_addr().at("getsockname", any_port)?.as_socket().context("not an IP socket")?;
    Ok((sock, local_addr))
}

/// The real server as a child process.
fn server_role(addr: &str, options: &[&str]) -> Result<(Role, SocketAddr)> {
    let mut server = Role::start(&[&["server", addr], options].concat())?;
    let banner = server.line_with(" messages; requests to ")?;
    let addr = banner.rsplit(' ').next().and_then(|addr| addr.parse().ok()).context("no address in the banner")?;
    Ok((server, addr))
}

/// Waits until the socket has something, a datagram or an ICMP error; false if nothing comes in time.
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

/// `sendto`, printed; what it returns.
fn says(stage: &mut Stage, who: &str, sock: &Socket, payload: &[u8], to: SocketAddr) -> Result<usize, Errno> {
    let (fd, length) = (sock.as_raw_fd(), payload.len());
    let sent = sendto(fd, payload, &SockaddrStorage::from(to), MsgFlags::empty());
    let text = if length < INLINE { format!("\"{}\", ", payload.escape_ascii()) } else { String::new() };
    stage.say(who, format_args!("sendto({fd}, {text}{length}, {to}) = {}", returned(&sent)));
    if sent.is_ok() {
        show_below(stage, payload);
    }
    sent
}

/// `recvfrom`, printed: the datagram, and who sent it. It must come within LIMIT.
fn hears(stage: &mut Stage, who: &str, sock: &Socket) -> Result<(Vec<u8>, SocketAddr)> {
    ensure!(waits(sock, LIMIT)?, "not seen within {LIMIT:?}: a datagram for the {who}");
    let (fd, mut buffer) = (sock.as_raw_fd(), vec![0; BUFFER]);
    let (bytes_read, from) = recvfrom::<SockaddrStorage>(fd, &mut buffer).at("recvfrom", "")?;
    let from = from.as_ref().and_then(socket_addr).context("recvfrom gave no address")?;
    buffer.truncate(bytes_read);
    let text = if bytes_read < INLINE { format!("  \"{}\"", buffer.escape_ascii()) } else { String::new() };
    stage.say(who, format_args!("recvfrom({fd}, {BUFFER}, {from}) = {bytes_read}{text}"));
    show_below(stage, &buffer);
    Ok((buffer, from))
}

/// A datagram that is too long for the line of its call, and not too long for one of its own.
fn show_below(stage: &mut Stage, payload: &[u8]) {
    if (INLINE..SHOWN).contains(&payload.len()) {
        stage.say("", format_args!("\"{}\"", payload.escape_ascii()));
    }
}
