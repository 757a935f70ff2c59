//! Terminal 1: accepts, closes before the client or after it; then the next client.

use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    poll::PollFlags,
    sys::socket::{MsgFlags, recv},
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

    // The next run needs it here: accepted sockets take the option from the listener, and TIME-WAIT keeps it.
    if !args.no_reuse_addr {
        pause.before(&mut screen, format_args!("setsockopt({listen_fd}, SOL_SOCKET, SO_REUSEADDR, 1)"));
        listen_sock.set_reuse_address(true).at("setsockopt", addr)?;
    }
    let reuse = u8::from(listen_sock.reuse_address().at("getsockopt", addr)?);
    screen.line(format_args!("SO_REUSEADDR is {reuse}"));

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
        let conn_fd = conn_sock.as_raw_fd();
        screen.line(format_args!("New client connected from {peer_addr}"));

        if !args.close_first && !until_the_end(&conn_sock, &stop, &mut pause, &mut screen)? {
            break; // Ctrl-C: now the server closes first after all
        }
        pause.before(&mut screen, format_args!("close({conn_fd})"));
        drop(conn_sock); // close(2): FIN
        screen.line("Closed the client's socket");
    }
    drop(listen_sock); // close(2)
    screen.line("Terminating ...");
    Ok(())
}

/// Receives until the client's end of stream, or its reset; false after Ctrl-C.
fn until_the_end(conn_sock: &Socket, stop: &Stop, pause: &mut Pause, screen: &mut Screen) -> Result<bool> {
    let conn_fd = conn_sock.as_raw_fd();
    let mut buffer = [0; 1024];
    loop {
        pause.before(screen, format_args!("recv({conn_fd}, 1024)"));
        if !ready(conn_sock, PollFlags::POLLIN, stop)? {
            return Ok(false);
        }
        match recv(conn_fd, &mut buffer, MsgFlags::empty()) {
            Ok(0) => {
                screen.line("End of stream: the client closed first");
                return Ok(true);
            }
            Ok(bytes_read) => screen.line(format_args!("Received {bytes_read} bytes")),
            Err(errno) if is_transient(errno) => {}
            Err(errno) => {
                screen.line(format_args!("recv: {errno:?} ({})", errno.desc())); // ECONNRESET: nothing stays behind
                return Ok(true);
            }
        }
    }
}

/// Errors after which the same call may succeed.
fn is_transient(errno: Errno) -> bool {
    matches!(errno, Errno::EINTR | Errno::EAGAIN | Errno::ECONNABORTED)
}
