//! Terminal 1: appends block by block to the message until it ends with a newline.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
};

use anyhow::{Context, Result, ensure};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{SockaddrStorage, recvfrom},
};
use shared::{At, Pause, Screen, Stop};
use socket2::{Domain, Socket, Type};

use crate::{
    ReceiveArgs,
    message::{BLOCK_LEN, Fold, LENGTH_LIMIT, TERMINATOR, shown},
    output::Out,
    udp::{source_addr, tell_drops},
};

/// Folded lines are shown after this much silence, in milliseconds.
pub const SILENCE_MS: u16 = 200;

/// Receives until the messages have come, or until Ctrl-C.
pub fn run(args: &ReceiveArgs) -> Result<()> {
    let addr = args.addr();
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();
    let Some(out) = Out::open(args.out.as_deref(), &stop)? else {
        return Ok(()); // Ctrl-C
    };

    let sock = bound(args, addr, &mut pause, &mut screen)?;

    let mut fold = Fold::default();
    let mut buffer = [0; BLOCK_LEN];
    for _ in 0..args.messages {
        screen.line("Waiting for message ...");
        let mut message = Vec::new();
        let mut interrupted = false;
        while !message.ends_with(&[TERMINATOR]) && message.len() <= LENGTH_LIMIT && !interrupted {
            if args.pause {
                fold.settle(&mut screen);
            }
            pause.before(&mut screen, format_args!("recvfrom({}, {BLOCK_LEN})", sock.as_raw_fd()));
            let timeout = if fold.is_settled() { PollTimeout::NONE } else { SILENCE_MS.into() };
            let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(sock.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Err(Errno::EINTR) => continue,
                Ok(0) => fold.settle(&mut screen),
                result => _ = result.at("poll", addr)?,
            }
            interrupted = stop.requested();
            let (bytes_read, source) = match recvfrom::<SockaddrStorage>(sock.as_raw_fd(), &mut buffer) {
                Err(Errno::EAGAIN | Errno::EINTR) => continue, // nothing there: the timeout, or Ctrl-C
                result => result.at("recvfrom", addr)?,
            };
            fold.line(&mut screen, format!("Received block of {bytes_read} from {}", source_addr(source)?));
            message.extend(&buffer[..bytes_read]);
        }
        fold.settle(&mut screen);
        out.write_all(&message, &stop)?;
        ensure!(message.len() <= LENGTH_LIMIT, "no newline at the end of a block in {LENGTH_LIMIT} bytes: given up");
        if interrupted && !message.ends_with(&[TERMINATOR]) {
            screen.line(format_args!("Interrupted after {} bytes: no newline at their end", message.len()));
            break;
        }
        screen.line(format_args!("Total length {} bytes: [{}]", message.len(), shown(&message)));
    }
    tell_drops(&sock, &mut screen);
    drop(sock); // close(2)
    Ok(())
}

/// The socket of a receiver: the same calls with numbers and without.
pub fn bound(args: &ReceiveArgs, addr: SocketAddr, pause: &mut Pause, screen: &mut Screen) -> Result<Socket> {
    let family = if addr.is_ipv6() { "AF_INET6" } else { "AF_INET" };

    pause.before(screen, format_args!("socket({family}, SOCK_DGRAM, 0)"));
    let sock = Socket::new(Domain::for_address(addr), Type::DGRAM, None).at("socket", addr)?;
    let fd = sock.as_raw_fd();

    if let Some(rcvbuf) = args.rcvbuf {
        pause.before(screen, format_args!("setsockopt({fd}, SOL_SOCKET, SO_RCVBUF, {rcvbuf})"));
        sock.set_recv_buffer_size(rcvbuf as usize).at("setsockopt", addr)?;
        let granted = sock.recv_buffer_size().at("getsockopt", addr)?;
        screen.line(format_args!("Asked for a receive buffer of {rcvbuf} bytes, got {granted}"));
    }

    pause.before(screen, format_args!("bind({fd}, {addr})"));
    sock.bind(&addr.into()).at("bind", addr)?;

    sock.set_nonblocking(true).at("fcntl", addr)?; // poll waits, so that Ctrl-C is heard
    let local_addr = sock.local_addr().at("getsockname", addr)?.as_socket().context("not an IP socket")?;
    screen.line(format_args!("Socket is bound to {local_addr}"));
    Ok(sock)
}
