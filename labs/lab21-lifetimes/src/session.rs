//! Terminal 2: a session, as of ssh: one connection from the first line typed to the last.

use std::{
    io::stdin,
    net::Shutdown,
    os::fd::{AsFd, AsRawFd},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv, send},
    unistd::read,
};
use shared::{At, Pause, Screen, Stop, escaped};
use socket2::{Domain, Socket, Type};

use crate::{SessionArgs, ready, service::LINE_LIMIT};

/// Bytes asked of one recv, and of one read.
const CHUNK: usize = 4096;

/// Sends what is typed and shows what comes, until both have ended.
pub fn run(args: &SessionArgs) -> Result<()> {
    let addr = args.address;
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();

    let family = if addr.is_ipv6() { "AF_INET6" } else { "AF_INET" };
    pause.before(&mut screen, format_args!("socket({family}, SOCK_STREAM, 0)"));
    let sock = Socket::new(Domain::for_address(addr), Type::STREAM, None).at("socket", addr)?;
    let fd = sock.as_raw_fd();

    pause.before(&mut screen, format_args!("connect({fd}, {addr})"));
    sock.set_nonblocking(true).at("fcntl", addr)?; // poll waits for the handshake, and for Ctrl-C beside it
    let mut connected = sock.connect(&addr.into());
    if connected.as_ref().is_err_and(|error| error.raw_os_error() == Some(Errno::EINPROGRESS as i32)) {
        if !ready(&sock, PollFlags::POLLOUT, &stop)? {
            return Ok(());
        }
        connected = sock.take_error().and_then(|error| error.map_or(Ok(()), Err)); // SO_ERROR
    }
    connected.at("connect", addr)?;
    let since = Instant::now();
    let local_addr = sock.local_addr().at("getsockname", addr)?.as_socket().context("not an IP socket")?;
    screen.line(format_args!("opened, {local_addr} > {addr}; type lines, Ctrl-D ends the session"));

    let (input, mut buffer) = (stdin(), [0; CHUNK]);
    let (mut typed, mut output, mut shown) = (true, Vec::new(), Vec::new()); // typed: standard input goes on
    let (mut shut, mut answers) = (false, 0_u64);
    let ended = loop {
        if !typed && output.is_empty() && !shut {
            pause.before(&mut screen, format_args!("shutdown({fd}, SHUT_WR)"));
            let _ = sock.shutdown(Shutdown::Write); // ENOTCONN: the host is gone, and recv says so
            shut = true;
        }
        let events = if output.is_empty() { PollFlags::POLLIN } else { PollFlags::POLLIN | PollFlags::POLLOUT };
        let mut fds = vec![PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(sock.as_fd(), events)];
        if typed && output.is_empty() {
            fds.push(PollFd::new(input.as_fd(), PollFlags::POLLIN)); // no more is read than the host takes
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            result => result.at("poll", "")?,
        };
        if stop.requested() {
            break "Ctrl-C";
        }
        let happened = |at: usize| fds.get(at).and_then(PollFd::revents).unwrap_or(PollFlags::empty());
        let (sock_events, input_events) = (happened(1), happened(2));
        if !input_events.is_empty() {
            match read(&input, &mut buffer) {
                Ok(0) => typed = false,
                Ok(bytes_read) => output.extend(&buffer[..bytes_read]),
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(_) => typed = false, // EIO: the terminal is gone
            }
        }
        if sock_events.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
            pause.before(&mut screen, format_args!("recv({fd}, {CHUNK})"));
            match recv(fd, &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(0) if shut => break "you",
                Ok(0) => break "the host",
                Ok(bytes_read) => shown.extend(&buffer[..bytes_read]),
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(errno) => return Ok(Err(errno).at("recv", addr)?),
            }
            while let Some(end) = shown.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = shown.drain(..=end).collect();
                screen.line(escaped(&line[..end]));
                answers += 1;
            }
            if shown.len() > 2 * LINE_LIMIT {
                bail!("the host sends a line of more than {} bytes", 2 * LINE_LIMIT);
            }
        }
        if sock_events.contains(PollFlags::POLLOUT) && !output.is_empty() {
            pause.before(&mut screen, format_args!("send({fd}, {} bytes)", output.len()));
            match send(fd, &output, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT) {
                Ok(bytes_sent) => drop(output.drain(..bytes_sent)),
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(errno) => return Ok(Err(errno).at("send", addr)?),
            }
        }
    };
    pause.before(&mut screen, format_args!("close({fd})"));
    drop(sock); // close(2)
    let open = since.elapsed().as_secs_f64();
    screen.line(format_args!("closed: {answers} answers in {open:.1} s over 1 connection; ended by {ended}"));
    Ok(())
}
