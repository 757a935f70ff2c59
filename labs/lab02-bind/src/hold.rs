//! The lecture's program: create a socket, bind it, say where, and hold it until Enter.

use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use nix::unistd::getpid;
use shared::{At, Pause, Screen, Stop};
use socket2::{Domain, Socket, Type};

use crate::{HoldArgs, Kind};

/// Holds the address until Enter, the end of input or Ctrl-C.
pub fn run(args: &HoldArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();
    let addr = args.address;
    let family = if addr.is_ipv6() { "AF_INET6" } else { "AF_INET" };
    let (kind, kind_name, protocol) = match args.kind {
        Kind::Stream => (Type::STREAM, "SOCK_STREAM", "TCP"),
        Kind::Dgram => (Type::DGRAM, "SOCK_DGRAM", "UDP"),
    };

    screen.line("Application started");
    screen.line(format_args!("OS assigned process id: {}", getpid()));

    // sock = socket(AF_INET, SOCK_DGRAM, 0);
    pause.before(&mut screen, format_args!("socket({family}, {kind_name}, 0)"));
    let sock = Socket::new(Domain::for_address(addr), kind, None).at("socket", addr)?;
    let fd = sock.as_raw_fd();
    screen.line(format_args!("{protocol} Socket created"));
    screen.line(format_args!("File descriptor assigned by OS: {fd}"));

    if args.reuse_addr {
        // setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        pause.before(&mut screen, format_args!("setsockopt({fd}, SOL_SOCKET, SO_REUSEADDR, 1)"));
        sock.set_reuse_address(true).at("setsockopt", addr)?;
    }

    if args.reuse_port {
        // setsockopt(sock, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
        pause.before(&mut screen, format_args!("setsockopt({fd}, SOL_SOCKET, SO_REUSEPORT, 1)"));
        sock.set_reuse_port(true).at("setsockopt", addr)?;
    }

    // bind(sock, (struct sockaddr *)&addr, sizeof addr);
    pause.before(&mut screen, format_args!("bind({fd}, {addr})"));
    sock.bind(&addr.into()).at("bind", addr)?;

    // getsockname(sock, (struct sockaddr *)&addr, &addr_len);  with port 0 the kernel has chosen one
    pause.before(&mut screen, format_args!("getsockname({fd})"));
    let local_addr = sock.local_addr().at("getsockname", addr)?.as_socket().context("not an IP socket")?;
    screen.line(format_args!("Socket is bound to {local_addr}"));

    // No listen: a TCP socket refuses connections now. No recv: datagrams wait in the kernel until the buffer is full.
    screen.ask("Press Enter to terminate ...");
    screen.settle();
    if stop.wait_for_enter() {
        screen.typed();
    }
    screen.ask_nothing();

    // close(sock);
    pause.before(&mut screen, format_args!("close({fd})"));
    drop(sock);
    screen.line("Terminating ...");
    Ok(())
}
