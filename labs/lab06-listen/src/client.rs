//! Terminal 2: connects, and stays until Enter, Ctrl-C, or the server's end.
//!
//! A client needs no bind: the kernel chooses its address and port when connect is called.

use std::{
    io::stdin,
    os::fd::{AsFd, AsRawFd},
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv},
    sys::termios::{FlushArg, tcflush},
};
use shared::{At, Pause, Screen, Stop};
use socket2::{Domain, Socket, Type};

use crate::ClientArgs;

/// Connects and stays until Enter or Ctrl-C.
pub fn run(args: &ClientArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();
    let addr = args.address;
    screen.line("Application started");

    let family = if addr.is_ipv6() { "AF_INET6" } else { "AF_INET" };
    pause.before(&mut screen, format_args!("socket({family}, SOCK_STREAM, 0)"));
    let sock = Socket::new(Domain::for_address(addr), Type::STREAM, None).at("socket", addr)?;
    screen.line("TCP Socket created");

    pause.before(&mut screen, format_args!("connect({}, {addr})", sock.as_raw_fd()));
    sock.set_nonblocking(true).at("fcntl", addr)?; // poll waits for the handshake, and for Ctrl-C beside it
    let mut connected = sock.connect(&addr.into());
    if connected.as_ref().is_err_and(|error| error.raw_os_error() == Some(Errno::EINPROGRESS as i32)) {
        let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(sock.as_fd(), PollFlags::POLLOUT)];
        if poll(&mut fds, 300u16) == Ok(0) {
            screen.line("No answer yet (SYN-SENT), still trying ...");
        }
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

    screen.line("Press Enter to terminate ...");
    let input = stdin();
    let _ = tcflush(&input, FlushArg::TCIFLUSH); // an Enter that was pressed too early; ENOTTY in a pipe
    let mut fds = [stop.as_fd(), input.as_fd(), sock.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    while poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {}
    if fds[2].any().unwrap_or(false) {
        // The server's end is over: end of stream, or a reset because it was closed before accept.
        match recv(sock.as_raw_fd(), &mut [0; 8], MsgFlags::empty()) {
            Ok(0) => screen.line("The server has closed the connection"),
            Ok(bytes_read) => screen.line(format_args!("Received {bytes_read} bytes")),
            Err(errno) => screen.line(format_args!("recv: {errno:?}")),
        }
    }
    drop(sock); // close(2)
    screen.line("Terminating ...");
    Ok(())
}
