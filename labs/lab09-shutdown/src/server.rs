//! Terminal 1: receives until the client's end of stream, answers, closes; then the next client.

use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    poll::PollFlags,
    sys::socket::{MsgFlags, recv, send},
};
use shared::{At, Pause, Screen, Stop};
use socket2::{Domain, Socket, Type};

use crate::{ServerArgs, ready};

/// Clients that may wait while one is served.
const BACKLOG: i32 = 5;

/// Serves client after client until Ctrl-C.
pub fn run(args: &ServerArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();
    let addr = args.address;
    screen.line("Application started");

    let family = if addr.is_ipv6() { "AF_INET6" } else { "AF_INET" };
    pause.before(&mut screen, format_args!("socket({family}, SOCK_STREAM, 0)"));
    let listen_sock = Socket::new(Domain::for_address(addr), Type::STREAM, None).at("socket", addr)?;
    let listen_fd = listen_sock.as_raw_fd();
    screen.line("TCP Socket created");

    // So that the lecture's port is free again at once: see lab10-timewait.
    pause.before(&mut screen, format_args!("setsockopt({listen_fd}, SOL_SOCKET, SO_REUSEADDR, 1)"));
    listen_sock.set_reuse_address(true).at("setsockopt", addr)?;

    pause.before(&mut screen, format_args!("bind({listen_fd}, {addr})"));
    listen_sock.bind(&addr.into()).at("bind", addr)?;
    let local_addr = listen_sock.local_addr().at("getsockname", addr)?.as_socket().context("not an IP socket")?;
    screen.line(format_args!("Socket is bound to {local_addr}"));

    pause.before(&mut screen, format_args!("listen({listen_fd}, {BACKLOG})"));
    listen_sock.listen(BACKLOG).at("listen", addr)?;
    listen_sock.set_nonblocking(true).at("fcntl", addr)?; // accept(2): on some systems the client may be gone after poll
    screen.line(format_args!("Socket {local_addr} is in listening state"));

    loop {
        pause.before(&mut screen, format_args!("accept({listen_fd})"));
        if !ready(&listen_sock, PollFlags::POLLIN, &stop)? {
            break;
        }
        let (conn_sock, peer_addr) = match listen_sock.accept() {
            Ok((conn_sock, peer_addr)) => (conn_sock, peer_addr.as_socket().context("not an IP socket")?),
            Err(error) if error.raw_os_error().map(Errno::from_raw).is_some_and(is_transient) => continue,
            Err(error) => return Ok(Err(error).at("accept", local_addr)?),
        };
        screen.line(format_args!("New client connected from {peer_addr}"));
        if !serve(conn_sock, &stop, &mut pause, &mut screen)? {
            break;
        }
    }
    drop(listen_sock); // close(2)
    screen.line("Terminating ...");
    Ok(())
}

/// One client, from its first byte to our close; false after Ctrl-C.
fn serve(conn_sock: Socket, stop: &Stop, pause: &mut Pause, screen: &mut Screen) -> Result<bool> {
    let conn_fd = conn_sock.as_raw_fd();
    let mut buffer = [0; 1024];
    let mut total: u64 = 0;
    loop {
        pause.before(screen, format_args!("recv({conn_fd}, 1024)"));
        if !ready(&conn_sock, PollFlags::POLLIN, stop)? {
            return Ok(false);
        }
        match recv(conn_fd, &mut buffer, MsgFlags::empty()) {
            Ok(0) => break,
            Ok(bytes_read) => {
                total += bytes_read as u64;
                screen.line(format_args!("Received {bytes_read} bytes"));
            }
            Err(errno) if is_transient(errno) => {}
            Err(errno) => {
                screen.line(format_args!("recv: {errno:?} ({})", errno.desc())); // ECONNRESET: no end of stream came, so no answer
                return Ok(true);
            }
        }
    }
    screen.line(format_args!("End of stream after {total} bytes"));

    screen.line("Press Enter to answer ...");
    stop.wait_for_enter(); // end of input: answer at once
    if stop.requested() {
        return Ok(false);
    }
    let answer = format!("{total} bytes received\n"); // few bytes: the send buffer takes them all at once
    pause.before(screen, format_args!("send({conn_fd}, {} bytes)", answer.len()));
    match send(conn_fd, answer.as_bytes(), MsgFlags::empty()) {
        Ok(bytes_sent) => screen.line(format_args!("Sent {bytes_sent} bytes")),
        Err(errno) => screen.line(format_args!("send: {errno:?} ({})", errno.desc())), // EPIPE, ECONNRESET
    }

    pause.before(screen, format_args!("close({conn_fd})"));
    drop(conn_sock); // close(2): FIN, unless something came that was not read
    screen.line("Closed the client's socket");
    Ok(true)
}

/// Errors that are over with the call: try again.
fn is_transient(errno: Errno) -> bool {
    matches!(errno, Errno::EINTR | Errno::EAGAIN | Errno::ECONNABORTED)
}
