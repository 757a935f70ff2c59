//! Terminal 1: listens, accepts one client, and shows both ends' addresses.

use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shared::{At, Pause, Screen, Stop};
use socket2::{Domain, Socket, Type};

use crate::ListenArgs;

/// Accepts one client and keeps it until Enter or Ctrl-C.
pub fn run(args: &ListenArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();
    let (addr, backlog) = (args.address, args.backlog);
    screen.line("Application started");

    let family = if addr.is_ipv6() { "AF_INET6" } else { "AF_INET" };
    pause.before(&mut screen, format_args!("socket({family}, SOCK_STREAM, 0)"));
    let listen_sock = Socket::new(Domain::for_address(addr), Type::STREAM, None).at("socket", addr)?;
    let listen_fd = listen_sock.as_raw_fd();
    screen.line("TCP Socket created");

    // So that the lecture's port is free again at once: see lab10-timewait.
    pause.before(&mut screen, format_args!("setsockopt({listen_fd}, SOL_SOCKET, SO_REUSEADDR, 1)"));
    listen_sock.set_reuse_address(true).at("setsockopt", addr)?;

    pause.before(&mut screen, format_args!("bind({listen_fd}, {addr})"));
    listen_sock.bind(&addr.into()).at("bind", addr)?;
    let local_addr = listen_sock.local_addr().at("getsockname", addr)?.as_socket().context("not an IP socket")?;
    screen.line(format_args!("Socket is bound to {local_addr}"));

    pause.before(&mut screen, format_args!("listen({listen_fd}, {backlog})"));
    listen_sock.listen(backlog).at("listen", addr)?;
    screen.line(format_args!("Socket {local_addr} is in listening state, backlog {backlog}"));

    listen_sock.set_nonblocking(true).at("fcntl", addr)?; // accept(2): on some systems the client may be gone after poll
    pause.before(&mut screen, format_args!("accept({listen_fd})"));
    let (conn_sock, peer_addr) = loop {
        // poll(2) first: a blocked accept would not hear Ctrl-C, which comes through a descriptor here.
        let mut fds = [stop.as_fd(), listen_sock.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        while poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {} // after a signal handler: signal(7)
        if stop.requested() {
            return Ok(());
        }
        match listen_sock.accept() {
            Err(error) if error.raw_os_error().map(Errno::from_raw).is_some_and(is_transient) => {}
            accepted => break accepted.at("accept", local_addr)?,
        }
    };
    let peer_addr = peer_addr.as_socket().context("not an IP socket")?;
    screen.line(format_args!("New client connected from {peer_addr}"));
    let conn_addr = conn_sock.local_addr().at("getsockname", "")?.as_socket().context("not an IP socket")?;
    screen.line(format_args!("Local end-point socket bound on: {conn_addr}"));

    screen.line("Press Enter to terminate ...");
    stop.wait_for_enter();
    drop(conn_sock); // close(2)
    drop(listen_sock);
    screen.line("Terminating ...");
    Ok(())
}

/// Errors after which the same call may succeed: try again.
fn is_transient(errno: Errno) -> bool {
    matches!(errno, Errno::EINTR | Errno::EAGAIN | Errno::ECONNABORTED)
}
