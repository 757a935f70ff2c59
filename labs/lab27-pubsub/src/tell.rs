//! Direct communication, to compare with: connect, send, close. The receiver must be there.

use std::{
    net::Shutdown,
    os::fd::{AsFd, AsRawFd},
};

use anyhow::Result;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, send},
};
use shared::{At, Pause, Screen, Stop};
use socket2::{Domain, Socket, Type};

use crate::TellArgs;

/// Between two attempts.
const AGAIN_MS: u16 = 200;

/// Sends the text to whoever listens.
pub fn run(args: &TellArgs) -> Result<()> {
    let addr = args.address;
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();
    let mut told = false;
    let sock = loop {
        let family = if addr.is_ipv6() { "AF_INET6" } else { "AF_INET" };
        pause.before(&mut screen, format_args!("socket({family}, SOCK_STREAM, 0)"));
        let sock = Socket::new(Domain::for_address(addr), Type::STREAM, None).at("socket", addr)?;
        pause.before(&mut screen, format_args!("connect({}, {addr})", sock.as_raw_fd()));
        match connected(&sock, args, &stop)? {
            Some(Ok(())) => break sock,
            Some(Err(Errno::ECONNREFUSED)) if args.again => {
                if !told {
                    screen.line(format_args!("connect {addr}: ECONNREFUSED, and again every {AGAIN_MS} ms"));
                }
                told = true;
                let _ = poll(&mut [PollFd::new(stop.as_fd(), PollFlags::POLLIN)], PollTimeout::from(AGAIN_MS)); // or EINTR
            }
            Some(Err(errno)) => Err(errno).at("connect", addr)?,
            None => return Ok(()),
        }
        if stop.requested() {
            return Ok(());
        }
    };
    let fd = sock.as_raw_fd();
    let mut rest = args.text.as_bytes();
    while !rest.is_empty() {
        pause.before(&mut screen, format_args!("send({fd}, {} bytes)", rest.len()));
        let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(sock.as_fd(), PollFlags::POLLOUT)];
        while poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {}
        if stop.requested() {
            return Ok(());
        }
        match send(fd, rest, MsgFlags::MSG_NOSIGNAL) {
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            bytes_sent => rest = &rest[bytes_sent.at("send", addr)?..],
        }
    }
    pause.before(&mut screen, format_args!("shutdown({fd}, SHUT_WR)"));
    let _ = sock.shutdown(Shutdown::Write); // ENOTCONN: the receiver was faster
    screen.line(format_args!("{} bytes sent to {addr}; whether they were read is not known", args.text.len()));
    Ok(())
}

/// Waits for the handshake, and for Ctrl-C beside it: `None`.
fn connected(sock: &Socket, args: &TellArgs, stop: &Stop) -> Result<Option<Result<(), Errno>>> {
    let addr = args.address;
    sock.set_nonblocking(true).at("fcntl", addr)?;
    let mut connected = sock.connect(&addr.into());
    if connected.as_ref().is_err_and(|error| error.raw_os_error() == Some(Errno::EINPROGRESS as i32)) {
        let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(sock.as_fd(), PollFlags::POLLOUT)];
        while poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {}
        if stop.requested() {
            return Ok(None);
        }
        connected = sock.take_error().and_then(|error| error.map_or(Ok(()), Err)); // SO_ERROR
    }
    Ok(Some(connected.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))))
}
