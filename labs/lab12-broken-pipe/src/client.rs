//! Terminal 2: connects and talks; reports the error that ends the connection.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
};

use anyhow::{Context, Result};
use kernel::Pair;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        setsockopt,
        sockopt::{KeepAlive, TcpKeepCount, TcpKeepIdle, TcpKeepInterval, TcpUserTimeout},
    },
};
use shared::{At, Pause, Screen, Stop};
use socket2::{Domain, Socket, Type};

use crate::{
    ClientArgs, Keepalive,
    talk::{AtEnd, Talk},
};

/// Connects, talks, closes.
pub fn run(args: &ClientArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();
    let addr = args.address;
    screen.line("Application started");

    let family = if addr.is_ipv6() { "AF_INET6" } else { "AF_INET" };
    pause.before(&mut screen, format_args!("socket({family}, SOCK_STREAM, 0)"));
    let sock = Socket::new(Domain::for_address(addr), Type::STREAM, None).at("socket", addr)?;
    let fd = sock.as_raw_fd();
    screen.line("TCP Socket created");

    set_limits(&sock, addr, args, &mut pause, &mut screen)?;

    pause.before(&mut screen, format_args!("connect({fd}, {addr})"));
    sock.set_nonblocking(true).at("fcntl", addr)?; // poll waits for the handshake, and for Ctrl-C beside it
    let mut connected = sock.connect(&addr.into());
    if connected.as_ref().is_err_and(|error| error.raw_os_error() == Some(Errno::EINPROGRESS as i32)) {
        let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(sock.as_fd(), PollFlags::POLLOUT)];
        while poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {} // after a signal handler: signal(7)
        if stop.requested() {
            return Ok(());
        }
        connected = sock.take_error().and_then(|error| error.map_or(Ok(()), Err)); // SO_ERROR
    }
    connected.at("connect", addr)?;
    screen.line(format_args!("Socket connected to {addr}"));
    let local_addr = sock.local_addr().at("getsockname", addr)?.as_socket().context("not an IP socket")?;
    screen.line(format_args!("Local end-point is bound to {local_addr}"));

    let pair = Pair { local: local_addr, peer: addr };
    Talk::new(sock, pair, &stop, &mut pause, &mut screen)?.until_the_end(&mut true, AtEnd::CloseSending)?;
    screen.line("Closed the socket\nTerminating ...");
    Ok(())
}

/// What makes a kernel give a silent peer up; without these, an idle connection waits for ever.
fn set_limits(
    sock: &Socket,
    addr: SocketAddr,
    args: &ClientArgs,
    pause: &mut Pause,
    screen: &mut Screen,
) -> Result<()> {
    let fd = sock.as_raw_fd();
    if let Some(Keepalive { idle, interval, count }) = args.keepalive {
        pause.before(screen, format_args!("setsockopt({fd}, SOL_SOCKET, SO_KEEPALIVE, 1)"));
        setsockopt(sock, KeepAlive, &true).at("setsockopt SO_KEEPALIVE", addr)?;
        pause.before(screen, format_args!("setsockopt({fd}, SOL_TCP, TCP_KEEPIDLE, {idle})"));
        setsockopt(sock, TcpKeepIdle, &idle).at("setsockopt TCP_KEEPIDLE", addr)?;
        pause.before(screen, format_args!("setsockopt({fd}, SOL_TCP, TCP_KEEPINTVL, {interval})"));
        setsockopt(sock, TcpKeepInterval, &interval).at("setsockopt TCP_KEEPINTVL", addr)?;
        pause.before(screen, format_args!("setsockopt({fd}, SOL_TCP, TCP_KEEPCNT, {count})"));
        setsockopt(sock, TcpKeepCount, &count).at("setsockopt TCP_KEEPCNT", addr)?;
    }
    if let Some(seconds) = args.user_timeout {
        pause.before(screen, format_args!("setsockopt({fd}, SOL_TCP, TCP_USER_TIMEOUT, {} ms)", seconds * 1000));
        setsockopt(sock, TcpUserTimeout, &(seconds * 1000)).at("setsockopt TCP_USER_TIMEOUT", addr)?;
    }
    Ok(())
}
