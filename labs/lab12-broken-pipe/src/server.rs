//! Terminal 1: talks to one client after another; an error ends one connection, never the server.

use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use kernel::Pair;
use nix::{errno::Errno, poll::PollFlags};
use shared::{At, Pause, Screen, Stop};
use socket2::{Domain, Socket, Type};

use crate::{
    ServerArgs, ready,
    talk::{AtEnd, Talk},
};

/// Clients that may wait while one is served.
const BACKLOG: i32 = 5;

/// Serves client after client until Ctrl-C.
pub fn run(args: &ServerArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();
    let addr = args.address;
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

    pause.before(&mut screen, format_args!("listen({listen_fd}, {BACKLOG})"));
    listen_sock.listen(BACKLOG).at("listen", addr)?;
    listen_sock.set_nonblocking(true).at("fcntl", addr)?; // accept(2): on some systems the client may be gone after poll
    screen.line(format_args!("Socket {local_addr} is in listening state"));

    let mut reads_input = true;
    loop {
        pause.before(&mut screen, format_args!("accept({listen_fd})"));
        if !ready(&listen_sock, PollFlags::POLLIN, &stop)? {
            break;
        }
        let (conn_sock, peer_addr) = match listen_sock.accept() {
            Ok((conn_sock, peer_addr)) => (conn_sock, peer_addr.as_socket().context("not an IP socket")?),
            Err(error) if error.raw_os_error().map(Errno::from_raw).is_some_and(passes) => continue,
            Err(error) => return Ok(Err(error).at("accept", local_addr)?),
        };
        screen.line(format_args!("New client connected from {peer_addr}"));
        conn_sock.set_nonblocking(true).at("fcntl", peer_addr)?; // no call of Talk blocks; poll does

        let local_addr =
            conn_sock.local_addr().at("getsockname", peer_addr)?.as_socket().context("not an IP socket")?;
        let pair = Pair { local: local_addr, peer: peer_addr };
        Talk::new(conn_sock, pair, &stop, &mut pause, &mut screen)?.until_the_end(&mut reads_input, AtEnd::GoOn)?;
        if stop.requested() {
            break;
        }
        screen.line("Closed the client's socket");
    }
    drop(listen_sock); // close(2)
    screen.line("Terminating ...");
    Ok(())
}

/// Errors that are over with the call: try again.
fn passes(errno: Errno) -> bool {
    matches!(errno, Errno::EINTR | Errno::EAGAIN | Errno::ECONNABORTED)
}
