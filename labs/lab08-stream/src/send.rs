//! Terminal 2: the lecture's sender. sendall is a loop around send, for send takes what fits and says how much.

use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Error, Result, anyhow};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, send},
};
use shared::{At, CallError, Pause, Screen, Stop};
use socket2::{Domain, Socket, Type};

use crate::{SendArgs, text::shown};

/// The lecture's message is 7000 times this text, and the newline.
const TEXT: &str = "Hello world!";
const TIMES: u32 = 7000;
const TERMINATOR: &str = "\n";
/// The message is made before it is sent; more than this is refused.
pub const MESSAGE_LIMIT: usize = 256 * 1024 * 1024;

/// The text, and how many times it is sent.
fn text(args: &SendArgs) -> (&str, usize) {
    let times = args.times.unwrap_or(if args.message.is_some() { 1 } else { TIMES });
    (args.message.as_deref().unwrap_or(TEXT), times as usize)
}

/// The length of the message in bytes; `None` if it is over [`MESSAGE_LIMIT`].
pub fn length(args: &SendArgs) -> Option<usize> {
    let (text, times) = text(args);
    let terminator = if args.no_terminator { 0 } else { TERMINATOR.len() };
    text.len().checked_mul(times)?.checked_add(terminator).filter(|bytes| *bytes <= MESSAGE_LIMIT)
}

/// Sends the message, then waits for Enter, end of input or Ctrl-C before it closes.
pub fn run(args: &SendArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();
    let addr = args.address;
    let (text, times) = text(args);
    let mut message = String::new();
    message.try_reserve_exact(length(args).context("too long a message")?).context("no memory for the message")?;
    (0..times).for_each(|_| message += text);
    if !args.no_terminator {
        message += TERMINATOR;
    }
    screen.line("Application started");

    let family = if addr.is_ipv6() { "AF_INET6" } else { "AF_INET" };
    pause.before(&mut screen, format_args!("socket({family}, SOCK_STREAM, 0)"));
    let sock = Socket::new(Domain::for_address(addr), Type::STREAM, None).at("socket", addr)?;
    let fd = sock.as_raw_fd();

    pause.before(&mut screen, format_args!("connect({fd}, {addr})"));
    sock.set_nonblocking(true).at("fcntl", addr)?; // poll waits, for the socket and for Ctrl-C beside it
    let mut connected = sock.connect(&addr.into());
    if connected.as_ref().is_err_and(|error| error.raw_os_error() == Some(Errno::EINPROGRESS as i32)) {
        if !writable(&sock, &stop) {
            return Ok(());
        }
        connected = sock.take_error().and_then(|error| error.map_or(Ok(()), Err)); // SO_ERROR
    }
    connected.at("connect", addr).map_err(hinted)?;
    screen.line(format_args!("Connected to the server {addr}"));
    let local_addr = sock.local_addr().at("getsockname", addr)?.as_socket().context("not an IP socket")?;
    screen.line(format_args!("Local end-point bound on {local_addr}"));

    let mut rest = message.as_bytes();
    while !rest.is_empty() {
        let block = &rest[..rest.len().min(args.block.map_or(usize::MAX, |bytes| bytes as usize))];
        pause.before(&mut screen, format_args!("send({fd}, {})", block.len()));
        if !writable(&sock, &stop) {
            screen.line(format_args!("Interrupted: {} of {} bytes sent", message.len() - rest.len(), message.len()));
            return Ok(());
        }
        match send(fd, block, MsgFlags::empty()) {
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            sent => {
                let bytes_sent = sent.at("send", addr).map_err(hinted)?;
                if bytes_sent < block.len() {
                    screen.line(format_args!("send took {bytes_sent} of {} bytes", block.len()));
                }
                rest = &rest[bytes_sent..];
            }
        }
    }
    screen.line(format_args!("Sent message to {addr}"));
    screen.line(format_args!("Pay-load length {} bytes: [{}]", message.len(), shown(message.as_bytes())));

    screen.line("Press Enter to terminate ...");
    stop.wait_for_enter();
    screen.line("Closing the TCP socket ...");
    drop(sock); // close(2): the end of the stream
    screen.line("Terminating ...");
    Ok(())
}

/// Waits until connect is over or send has room; false at Ctrl-C.
fn writable(sock: &Socket, stop: &Stop) -> bool {
    let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(sock.as_fd(), PollFlags::POLLOUT)];
    while poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {} // after a signal handler: signal(7)
    !stop.requested()
}

/// The error with a command for what this program alone knows; others have their hint from the helper crate.
fn hinted(error: CallError) -> Error {
    let address = &error.address;
    match (error.call, error.errno) {
        ("connect", Some(Errno::ECONNREFUSED)) => {
            anyhow!("{error}\n  hint: nobody listens there; start the receiver first: cargo lab08 receive {address}")
        }
        ("send", Some(Errno::ECONNRESET | Errno::EPIPE)) => {
            anyhow!("{error}\n  hint: how much had arrived is unknown, and why: cargo lab08 demo delivered")
        }
        _ => error.into(),
    }
}
