//! Nobody answers: a port that is closed, and a host that is gone.

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsRawFd,
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use kernel::hosts::Host::B;
use kernel::{Counters, Patience};
use nix::{
    errno::Errno,
    poll::PollFlags,
    sys::socket::{MsgFlags, getsockopt, send, sockopt::SocketError},
};
use shared::{At, returned};
use socket2::{Domain, Socket, Type};

use super::{CLOSED_ADDR, LIMIT, Scene, ready};

/// No host has this address.
const NOBODY_ADDR: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 0, 0, 9), 9);

pub fn gone(scene: &mut Scene) -> Result<()> {
    scene.ask()?;
    scene.hosts.enter(B)?;
    let before = Counters::read()?;
    let refused = ends(scene, CLOSED_ADDR.into())?;
    // UDP has no handshake: the refusal is an ICMP message, and the next call on the socket gives it.
    let udp_sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", "")?;
    let (fd, closed_addr) = (udp_sock.as_raw_fd(), SocketAddr::from(CLOSED_ADDR));
    let connected = udp_sock.connect(&closed_addr.into());
    scene.say("client", format_args!("connect({fd}, {closed_addr}) = {}  with UDP", returned(&connected)));
    let sent = send(fd, b"line", MsgFlags::empty());
    scene.say("client", format_args!("send({fd}, \"line\", 4) = {}", returned(&sent)));
    let refused_datagram = scene.receive("client", &udp_sock, LIMIT)?;
    ensure!(refused_datagram == Err(Errno::ECONNREFUSED), "the datagram to a closed port: {refused_datagram:?}");
    let icmp = before.risen("IcmpInDestUnreachs")?;
    scene.say("counted", format_args!("IcmpInDestUnreachs +{icmp}  (host B alone)"));

    let nobody = ends(scene, NOBODY_ADDR.into())?;
    let (addr, _) = NOBODY_ADDR;
    let neighbour =
        Command::new("ip").args(["neigh", "show", &addr.to_string()]).output().context("cannot start ip")?;
    scene.say("host B", format_args!("ip neigh show {addr}: {}", String::from_utf8_lossy(&neighbour.stdout).trim()));
    scene.say("observed", format_args!("{refused:?}, {nobody:?}"));
    Ok(())
}

/// How a connect from here to `addr` ends.
fn ends(scene: &mut Scene, addr: SocketAddr) -> Result<Errno> {
    let sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", addr)?;
    sock.set_nonblocking(true).at("fcntl", addr)?; // poll waits: after Ctrl-Z and fg it can be called again
    let connected = sock.connect(&addr.into());
    scene.say("client", format_args!("connect({}, {addr}) = {}", sock.as_raw_fd(), returned(&connected)));
    let mut ended = connected.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)));
    if ended == Err(Errno::EINPROGRESS) {
        let mut patience = Patience::new(LIMIT);
        while !ready(&sock, PollFlags::POLLOUT, patience.step())? {
            ensure!(!patience.is_over(), "connect to {addr} goes on for {LIMIT:?}");
        }
        let error = getsockopt(&sock, SocketError).at("getsockopt SO_ERROR", addr)?;
        ended = if error == 0 { Ok(()) } else { Err(Errno::from_raw(error)) };
        scene.say("client", format_args!("is told {}", returned(&ended)));
    }
    match ended {
        Ok(()) => bail!("connect to {addr} worked"),
        Err(errno) => Ok(errno),
    }
}
