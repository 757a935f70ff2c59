//! Terminal 2: sends its request, ends in one of five ways, and receives what still comes.

use std::{
    net::Shutdown,
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv, send},
};
use shared::{At, Pause, Screen, Stop};
use socket2::{Domain, Socket, Type};

use crate::{ClientArgs, How, ready};

/// Sends, ends, receives.
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

    let mut rest = args.message.as_bytes();
    while !rest.is_empty() {
        pause.before(&mut screen, format_args!("send({fd}, {} bytes)", rest.len()));
        if !ready(&sock, PollFlags::POLLOUT, &stop)? {
            return Ok(());
        }
        match send(fd, rest, MsgFlags::empty()) {
            Ok(bytes_sent) => rest = &rest[bytes_sent..],
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(errno) => return Ok(Err(errno).at("send", addr)?),
        }
    }
    screen.line(format_args!("Sent {} bytes", args.message.len()));

    let (how, name) = match args.how {
        How::Wr => (Shutdown::Write, "SHUT_WR"),
        How::Rd => (Shutdown::Read, "SHUT_RD"),
        How::Rdwr => (Shutdown::Both, "SHUT_RDWR"),
        How::Close | How::Reset => {
            if matches!(args.how, How::Reset) {
                pause.before(&mut screen, format_args!("setsockopt({fd}, SOL_SOCKET, SO_LINGER, on, 0 s)"));
                sock.set_linger(Some(Duration::ZERO)).at("setsockopt", addr)?;
            }
            pause.before(&mut screen, format_args!("close({fd})"));
            drop(sock); // close(2): FIN; RST with SO_LINGER 0, or with bytes unread
            screen.line("Closed the socket\nTerminating ...");
            return Ok(());
        }
    };
    pause.before(&mut screen, format_args!("shutdown({fd}, {name})"));
    sock.shutdown(how).at("shutdown", addr)?;
    screen.line(format_args!("Called shutdown({name})\nPress Enter to receive ..."));
    stop.wait_for_enter(); // end of input: receive at once

    let mut buffer = [0; 1024];
    loop {
        pause.before(&mut screen, format_args!("recv({fd}, 1024)"));
        if !ready(&sock, PollFlags::POLLIN, &stop)? {
            break;
        }
        match recv(fd, &mut buffer, MsgFlags::empty()) {
            Ok(0) => {
                // After our own SHUT_RD a 0 says nothing about the server: see shut-rd.
                screen.line(if matches!(args.how, How::Wr) { "End of stream" } else { "recv returned 0" });
                break;
            }
            Ok(bytes_read) => {
                let text = String::from_utf8_lossy(&buffer[..bytes_read]);
                screen.line(format_args!("Received {bytes_read} bytes: {text:?}"));
            }
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(errno) => {
                screen.line(format_args!("recv: {errno:?} ({})", errno.desc())); // ECONNRESET: the rest is lost
                break;
            }
        }
    }
    pause.before(&mut screen, format_args!("close({fd})"));
    drop(sock); // close(2)
    screen.line("Terminating ...");
    Ok(())
}
