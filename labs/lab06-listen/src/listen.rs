//! Terminal 1: a listening socket and nobody who accepts. Clients are connected all the same.

use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use shared::{At, Pause, Screen, Stop};
use socket2::{Domain, Socket, Type};

use crate::ListenArgs;

/// Listens until Enter or Ctrl-C.
pub fn run(args: &ListenArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();
    let (addr, backlog) = (args.address, args.backlog);
    screen.line(format_args!("Application started\nOS assigned process id: {}", std::process::id()));

    let family = if addr.is_ipv6() { "AF_INET6" } else { "AF_INET" };
    pause.before(&mut screen, format_args!("socket({family}, SOCK_STREAM, 0)"));
    let listen_sock = Socket::new(Domain::for_address(addr), Type::STREAM, None).at("socket", addr)?;
    let listen_fd = listen_sock.as_raw_fd();
    screen.line(format_args!("TCP Socket created\nFile descriptor assigned by OS: {listen_fd}"));

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

    screen.line("Press Enter to terminate ...");
    stop.wait_for_enter();
    drop(listen_sock); // close(2): whoever waits in the accept queue gets a reset
    screen.line("Terminating ...");
    Ok(())
}
