//! Terminal 2: connects, closes before the server or after it.

use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv},
};
use shared::{At, Pause, Screen, Stop};
use socket2::{Domain, Socket, Type};

use crate::{ClientArgs, ready};

/// Connects, and closes first or last.
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

    let mut buffer = [0; 1024];
    let mut waiting = !args.close_first;
    while waiting {
        pause.before(&mut screen, format_args!("recv({fd}, 1024)"));
        if !ready(&sock, PollFlags::POLLIN, &stop)? {
            break; // Ctrl-C: now the client closes first after all
        }
        match recv(fd, &mut buffer, MsgFlags::empty()) {
            Ok(0) => {
                screen.line("End of stream: the server closed first");
                waiting = false;
            }
            Ok(bytes_read) => screen.line(format_args!("Received {bytes_read} bytes")),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(errno) => {
                screen.line(format_args!("recv: {errno:?} ({})", errno.desc())); // ECONNRESET: nothing stays behind
                waiting = false;
            }
        }
    }
    pause.before(&mut screen, format_args!("close({fd})"));
    drop(sock); // close(2): FIN
    screen.line("Closed the socket\nTerminating ...");
    Ok(())
}
