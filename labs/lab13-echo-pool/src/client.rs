//! Terminal 2: asks for a string, sends it, shows its echo.

use std::{
    io::stdin,
    net::Shutdown,
    os::fd::{AsFd, AsRawFd},
    process::ExitCode,
};

use anyhow::Result;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv, send},
    unistd::read,
};
use shared::{At, Pause, Screen, Stop, escaped};
use socket2::{Domain, Socket, Type};

use crate::{ClientArgs, place};

/// The longest string, in bytes.
const STRING_LIMIT: usize = 1 << 20;

/// One string, one echo. Fails where the server closes before all of it came back.
pub fn run(args: &ClientArgs) -> Result<ExitCode> {
    let addr = place(&args.address)?;
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
        if !ready(sock.as_fd(), PollFlags::POLLOUT, &stop)? {
            return Ok(ExitCode::SUCCESS); // Ctrl-C
        }
        connected = sock.take_error().and_then(|error| error.map_or(Ok(()), Err)); // SO_ERROR
    }
    connected.at("connect", addr)?;
    screen.line(format_args!("Socket created and connected to port {} of {}", addr.port(), addr.ip()));

    screen.ask("Give me a string to send to the server: ");
    let Some(string) = typed(&stop, &mut screen)? else { return Ok(ExitCode::SUCCESS) };
    screen.ask_nothing();

    let (mut rest, mut echo, mut buffer) = (&string[..], Vec::new(), [0; 4096]);
    // Both at once: the server echoes the beginning while the end is still to be sent.
    while echo.len() < string.len() {
        let events = if rest.is_empty() { PollFlags::POLLIN } else { PollFlags::POLLIN | PollFlags::POLLOUT };
        if !rest.is_empty() && echo.is_empty() {
            pause.before(&mut screen, format_args!("send({fd}, {} bytes)", rest.len()));
        }
        if !ready(sock.as_fd(), events, &stop)? {
            return Ok(ExitCode::SUCCESS);
        }
        if !rest.is_empty() {
            match send(fd, rest, MsgFlags::MSG_DONTWAIT) {
                Ok(bytes_sent) => rest = &rest[bytes_sent..],
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(errno) => return Ok(Err(errno).at("send", addr)?),
            }
        }
        match recv(fd, &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => {
                let (came, sent) = (echo.len(), string.len());
                anyhow::bail!("the server closed the connection after {came} of {sent} bytes");
            }
            Ok(bytes_read) => echo.extend(&buffer[..bytes_read]),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => return Ok(Err(errno).at("recv", addr)?),
        }
    }
    screen.line(format_args!("The string received back from the server: {}", escaped(&echo)));
    if echo != string {
        screen.line("It is not the string that was sent");
        return Ok(ExitCode::FAILURE);
    }
    pause.before(&mut screen, format_args!("shutdown({fd}, SHUT_WR)"));
    let _ = sock.shutdown(Shutdown::Write); // ENOTCONN: the server was faster
    drop(sock); // close(2)
    Ok(ExitCode::SUCCESS)
}

/// A line from standard input, without its newline; `None` after Ctrl-C or where there is nothing.
fn typed(stop: &Stop, screen: &mut Screen) -> Result<Option<Vec<u8>>> {
    let (input, mut line, mut byte) = (stdin(), Vec::new(), [0]);
    screen.settle();
    loop {
        if !ready(input.as_fd(), PollFlags::POLLIN, stop)? {
            return Ok(None);
        }
        match read(&input, &mut byte) {
            Ok(1..) if byte[0] == b'\n' => {
                screen.typed();
                break;
            }
            Ok(1..) => line.push(byte[0]),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Ok(0) | Err(_) => break,
        }
        anyhow::ensure!(line.len() <= STRING_LIMIT, "a string of more than {STRING_LIMIT} bytes");
    }
    Ok(Some(line))
}

/// Waits until the next call will not block; false after Ctrl-C, which a blocked call would not hear.
fn ready(fd: std::os::fd::BorrowedFd, events: PollFlags, stop: &Stop) -> Result<bool> {
    let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(fd, events)];
    loop {
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => {} // after a signal handler: signal(7)
            result => return Ok(result.at("poll", "").map(|_| !stop.requested())?),
        }
    }
}
