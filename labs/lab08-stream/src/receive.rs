//! Terminal 1: the lecture's receiver. It ends at the terminator, and also where the lecture's loop would not: at the
//! end of the stream.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use anyhow::{Context, Result, anyhow};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv},
};
use shared::{At, Pause, Screen, Stop};
use socket2::{Domain, Socket, Type};

use crate::{ReceiveArgs, blocks::Blocks, text::shown};

/// The lecture's: "0 means no queue". It means a queue of one, see lab06-listen.
const BACKLOG: i32 = 0;
const TERMINATOR: &[u8] = b"\n";
/// More than this is not kept.
const MESSAGE_LIMIT: usize = 64 * 1024 * 1024;
/// Equal blocks become one line, which is shown once nothing has come for this time.
const SHOW_AFTER_MS: u16 = 200;

/// Receives one message from one client, then waits for Enter, end of input or Ctrl-C before it closes.
pub fn run(args: &ReceiveArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();
    let addr = args.address;
    screen.line("Application started");

    let family = if addr.is_ipv6() { "AF_INET6" } else { "AF_INET" };
    pause.before(&mut screen, format_args!("socket({family}, SOCK_STREAM, 0)"));
    let listen_sock = Socket::new(Domain::for_address(addr), Type::STREAM, None).at("socket", addr)?;
    let listen_fd = listen_sock.as_raw_fd();

    // So that the lecture's port is free again at once: see lab10-timewait.
    pause.before(&mut screen, format_args!("setsockopt({listen_fd}, SOL_SOCKET, SO_REUSEADDR, 1)"));
    listen_sock.set_reuse_address(true).at("setsockopt", addr)?;

    pause.before(&mut screen, format_args!("bind({listen_fd}, {addr})"));
    listen_sock.bind(&addr.into()).at("bind", addr)?;
    let local_addr = listen_sock.local_addr().at("getsockname", addr)?.as_socket().context("not an IP socket")?;
    screen.line(format_args!("Socket is bound to {local_addr}"));

    pause.before(&mut screen, format_args!("listen({listen_fd}, {BACKLOG})"));
    listen_sock.listen(BACKLOG).at("listen", addr)?;
    screen.line(format_args!("Socket is listening on {local_addr}"));

    pause.before(&mut screen, format_args!("accept({listen_fd})"));
    if readable(listen_sock.as_fd(), &stop, PollTimeout::NONE)? != Some(true) {
        return Ok(());
    }
    let (conn_sock, peer_addr) = listen_sock.accept().at("accept", local_addr)?;
    let peer_addr = peer_addr.as_socket().context("not an IP socket")?;
    screen.line(format_args!("Client connected from {peer_addr}"));

    screen.line("Waiting for message ...");
    let message = message(args, &conn_sock, peer_addr, &stop, &mut pause, &mut screen)?;
    screen.line(format_args!("Total length {} bytes: [{}]", message.len(), shown(&message)));

    if !stop.requested() {
        screen.line("Press Enter to terminate ...");
        stop.wait_for_enter();
    }
    drop(conn_sock); // close(2)
    screen.line("Closed client socket...");
    drop(listen_sock);
    screen.line("Closed the listener socket ...\nTerminating ...");
    Ok(())
}

/// Appends block by block until the terminator ends one, as the lecture does, or until the end of the stream.
fn message(
    args: &ReceiveArgs,
    conn_sock: &Socket,
    peer_addr: SocketAddr,
    stop: &Stop,
    pause: &mut Pause,
    screen: &mut Screen,
) -> Result<Vec<u8>> {
    let fd = conn_sock.as_raw_fd();
    let mut buffer = vec![0; args.buffer as usize];
    let (mut message, mut blocks) = (Vec::new(), Blocks::from(peer_addr));
    let end: Result<&str> = loop {
        pause.before(screen, format_args!("recv({fd}, {})", buffer.len()));
        let timeout = if blocks.some_wait() { SHOW_AFTER_MS.into() } else { PollTimeout::NONE };
        let mut ready = readable(conn_sock.as_fd(), stop, timeout)?;
        if ready == Some(false) {
            show(screen, blocks.take());
            ready = readable(conn_sock.as_fd(), stop, PollTimeout::NONE)?;
        }
        if ready.is_none() {
            break Ok("Interrupted");
        }

        let bytes_read = match recv(fd, &mut buffer, MsgFlags::empty()) {
            Err(Errno::EINTR) => continue,
            Ok(0) if args.until_end => break Ok("End of stream"),
            Ok(0) => break Ok("End of stream, and no terminator: the message may be cut"),
            received => match received.at("recv", peer_addr) {
                Ok(bytes_read) => bytes_read,
                Err(error) => break Err(error.into()), // ECONNRESET: the sender's end is gone, and what was under way
            },
        };
        show(screen, blocks.add(bytes_read));
        if args.pause {
            show(screen, blocks.take());
        }
        message.extend(&buffer[..bytes_read]);
        if message.len() > MESSAGE_LIMIT {
            break Err(anyhow!("recv: more than {MESSAGE_LIMIT} bytes without an end: this program keeps no more"));
        }
        if args.once || (!args.until_end && message.ends_with(TERMINATOR)) {
            break Ok("");
        }
    };
    show(screen, blocks.take());
    show(screen, Some(end?.to_string()).filter(|line| !line.is_empty()));
    Ok(message)
}

/// Shows a line, if there is one.
fn show(screen: &mut Screen, line: Option<String>) {
    if let Some(line) = line {
        screen.line(line);
    }
}

/// Waits: true once there is something to accept or receive, false after the timeout, `None` at Ctrl-C.
fn readable(fd: BorrowedFd, stop: &Stop, timeout: PollTimeout) -> Result<Option<bool>> {
    // poll(2) first: a blocked call would not hear Ctrl-C, which comes through a descriptor here.
    let mut fds = [stop.as_fd(), fd].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    loop {
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => {} // after a signal handler: signal(7)
            ready => {
                let ready = ready.at("poll", "")?;
                return Ok((!stop.requested()).then_some(ready > 0));
            }
        }
    }
}
