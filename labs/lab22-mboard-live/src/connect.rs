//! The client's way to the server, at the beginning and each time the connection has broken.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
};

use anyhow::{Error, Result};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use shared::{At, CallError, Stop};
use socket2::{Domain, Socket, Type};

use crate::{keepalive::Keepalive, talk::Client};

/// A new connection; `None` after Ctrl-C.
pub fn connected(addr: SocketAddr, keepalive: Keepalive, stop: &Stop, client: &mut Client) -> Result<Option<Socket>> {
    let Client { pause, screen, .. } = client;
    let family = if addr.is_ipv6() { "AF_INET6" } else { "AF_INET" };
    pause.before(screen, format_args!("socket({family}, SOCK_STREAM, 0)"));
    let sock = Socket::new(Domain::for_address(addr), Type::STREAM, None).at("socket", addr)?;
    let fd = sock.as_raw_fd();

    keepalive.set(&sock, addr, pause, screen)?;

    // Else a second small frame waits until the first one is acknowledged: up to 40 ms.
    pause.before(screen, format_args!("setsockopt({fd}, SOL_TCP, TCP_NODELAY, 1)"));
    sock.set_tcp_nodelay(true).at("setsockopt TCP_NODELAY", addr)?;

    pause.before(screen, format_args!("connect({fd}, {addr})"));
    sock.set_nonblocking(true).at("fcntl", addr)?; // poll waits for the handshake, and for Ctrl-C beside it
    let mut connected = sock.connect(&addr.into());
    if connected.as_ref().is_err_and(|error| error.raw_os_error() == Some(Errno::EINPROGRESS as i32)) {
        let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(sock.as_fd(), PollFlags::POLLOUT)];
        while poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {} // after a signal handler: signal(7)
        if stop.requested() {
            return Ok(None);
        }
        connected = sock.take_error().and_then(|error| error.map_or(Ok(()), Err)); // SO_ERROR
    }
    connected.at("connect", addr).map_err(|error: CallError| error.into()).map(|()| Some(sock))
}

/// What went wrong, in less than a line: the address is known.
pub fn in_short(error: &Error) -> String {
    match error.downcast_ref() {
        Some(CallError { call, errno: Some(errno), .. }) => format!("{call}: {errno:?} ({})", errno.desc()),
        _ => format!("{error:#}"),
    }
}
