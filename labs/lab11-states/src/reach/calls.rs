//! What several ways have in common: the calls up to a connection, and those that fill a window.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use kernel::window;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, send},
};
use shared::{At, Stop, returned};
use socket2::{Domain, Socket, Type};

use crate::log::{Interrupted, Log};

/// A small window is soon full. The kernel takes twice this, or its minimum.
pub const SMALL: usize = 2048;
/// After this connect returns and goes on in the background (socket(7), SO_SNDTIMEO), so that Ctrl-C is heard.
const HEAR_CTRL_C: Duration = Duration::from_millis(200);
/// One send while a window is filled.
pub const BLOCK: usize = 1024;

/// A listening socket; a small receive buffer is inherited by the connections it takes.
pub fn listening(
    addr: SocketAddr,
    receive_buffer: Option<usize>,
    backlog: i32,
    log: &mut Log,
) -> Result<(Socket, SocketAddr)> {
    log.next("socket(AF_INET, SOCK_STREAM, 0)");
    let listen_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", addr)?;
    let listen_fd = listen_sock.as_raw_fd();
    log.say("server", format_args!("socket(AF_INET, SOCK_STREAM, 0) = {listen_fd}"));

    log.next(format_args!("setsockopt({listen_fd}, SOL_SOCKET, SO_REUSEADDR, 1)"));
    listen_sock.set_reuse_address(true).at("setsockopt", addr)?; // for --port: see lab10-timewait
    log.say("server", format_args!("setsockopt({listen_fd}, SOL_SOCKET, SO_REUSEADDR, 1) = 0"));
    small_buffers("server", &listen_sock, receive_buffer, log)?;

    log.next(format_args!("bind({listen_fd}, {addr})"));
    listen_sock.bind(&addr.into()).at("bind", addr)?;
    log.say("server", format_args!("bind({listen_fd}, {addr}) = 0"));
    let server_addr = listen_sock.local_addr().at("getsockname", addr)?.as_socket().context("not an IP socket")?;

    log.next(format_args!("listen({listen_fd}, {backlog})"));
    listen_sock.listen(backlog).at("listen", addr)?;
    log.say("server", format_args!("listen({listen_fd}, {backlog}) = 0  {server_addr}"));
    Ok((listen_sock, server_addr))
}

/// A client, connected.
pub fn connecting(server_addr: SocketAddr, receive_buffer: Option<usize>, log: &mut Log) -> Result<Socket> {
    let (client_sock, mut result) = connect_started(server_addr, receive_buffer, log)?;
    if result.as_ref().is_err_and(goes_on) {
        log.say("", "not connected yet; strangers may fill the queue; Ctrl-C ends the wait");
        if !ready(&client_sock, PollFlags::POLLOUT, log.stop)? {
            bail!(Interrupted);
        }
        result = client_sock.take_error().and_then(|error| error.map_or(Ok(()), Err)); // SO_ERROR
    }
    result.at("connect", server_addr)?;
    Ok(client_sock)
}

/// A client, and what connect returned; see [`goes_on`].
pub fn connect_started(
    server_addr: SocketAddr,
    receive_buffer: Option<usize>,
    log: &mut Log,
) -> Result<(Socket, std::io::Result<()>)> {
    log.next("socket(AF_INET, SOCK_STREAM, 0)");
    let client_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
    let client_fd = client_sock.as_raw_fd();
    log.say("client", format_args!("socket(AF_INET, SOCK_STREAM, 0) = {client_fd}"));

    small_buffers("client", &client_sock, receive_buffer, log)?;

    client_sock.set_write_timeout(Some(HEAR_CTRL_C)).at("setsockopt", "SO_SNDTIMEO")?;
    log.next(format_args!("connect({client_fd}, {server_addr})"));
    let result = client_sock.connect(&server_addr.into());
    let told = returned(&result); // without the words in brackets: the line is full
    let told = told.split(" (").next().unwrap_or(&told);
    log.say("client", format_args!("connect({client_fd}, {server_addr}) = {told}"));
    Ok((client_sock, result))
}

/// connect(2) goes on in the background: after its time-out, and after a signal (signal(7)).
pub fn goes_on(error: &std::io::Error) -> bool {
    [Errno::EINPROGRESS, Errno::EINTR].iter().any(|errno| error.raw_os_error() == Some(*errno as i32))
}

/// Waits until the next call on `sock` will not block; false after Ctrl-C, which a blocked call would not hear.
fn ready(sock: &Socket, events: PollFlags, stop: &Stop) -> Result<bool> {
    let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(sock.as_fd(), events)];
    loop {
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => {} // after a signal handler: signal(7)
            result => return Ok(result.at("poll", "").map(|_| !stop.requested())?),
        }
    }
}

/// Small buffers: a small window. The SYN and the SYN+ACK carry the window, so this comes before connect and listen.
pub fn small_buffers(who: &str, sock: &Socket, size: Option<usize>, log: &mut Log) -> Result<()> {
    let Some(size) = size else { return Ok(()) };
    let fd = sock.as_raw_fd();
    log.next(format_args!("setsockopt({fd}, SOL_SOCKET, SO_RCVBUF, {size})"));
    sock.set_recv_buffer_size(size).at("setsockopt", "SO_RCVBUF")?;
    log.say(who, format_args!("setsockopt({fd}, SOL_SOCKET, SO_RCVBUF, {size}) = 0"));
    log.next(format_args!("setsockopt({fd}, SOL_SOCKET, SO_SNDBUF, {size})"));
    sock.set_send_buffer_size(size).at("setsockopt", "SO_SNDBUF")?;
    log.say(who, format_args!("setsockopt({fd}, SOL_SOCKET, SO_SNDBUF, {size}) = 0"));
    Ok(())
}

/// Both ends of a connection. The listener is closed: one connection is enough.
pub fn connected(
    addr: SocketAddr,
    receive_buffer: Option<usize>,
    log: &mut Log,
) -> Result<(Socket, Socket, SocketAddr)> {
    let (listen_sock, server_addr) = listening(addr, receive_buffer, 1, log)?;
    let client_sock = connecting(server_addr, receive_buffer, log)?;
    let client_addr = client_sock.local_addr().at("getsockname", server_addr)?;
    let listen_fd = listen_sock.as_raw_fd();
    let conn_sock = loop {
        log.next(format_args!("accept({listen_fd})"));
        if !ready(&listen_sock, PollFlags::POLLIN, log.stop)? {
            bail!(Interrupted);
        }
        let (conn_sock, peer_addr) = match listen_sock.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.raw_os_error().map(Errno::from_raw).is_some_and(is_transient) => continue,
            Err(error) => return Ok(Err(error).at("accept", server_addr)?),
        };
        log.say("server", format_args!("accept({listen_fd}) = {}", conn_sock.as_raw_fd()));
        if peer_addr == client_addr {
            break conn_sock;
        }
        log.say("", "that is a stranger's connection, not our client's; it is closed");
    };
    log.next(format_args!("close({listen_fd})"));
    drop(listen_sock); // close(2)
    log.say("server", format_args!("close({listen_fd}) = 0"));
    Ok((client_sock, conn_sock, server_addr))
}

/// shutdown(SHUT_WR).
pub fn shut(who: &str, sock: &Socket, log: &mut Log) -> Result<()> {
    let fd = sock.as_raw_fd();
    log.next(format_args!("shutdown({fd}, SHUT_WR)"));
    sock.shutdown(std::net::Shutdown::Write).at("shutdown", "")?;
    log.say(who, format_args!("shutdown({fd}, SHUT_WR) = 0"));
    Ok(())
}

/// Fills the peer's window, and shows the calls.
pub fn filled(who: &str, sock: &Socket, log: &mut Log) -> Result<()> {
    let fd = sock.as_raw_fd();
    log.next(format_args!("send({fd}, {BLOCK}, MSG_DONTWAIT) until EAGAIN"));
    let (sends, bytes_sent) = fill(sock)?;
    log.say(who, format_args!("send({fd}, {BLOCK}, MSG_DONTWAIT) x{sends} = {bytes_sent} bytes, then EAGAIN"));
    Ok(())
}

/// Sends until the peer's window is full: how many sends, how many bytes.
pub fn fill(sock: &Socket) -> Result<(usize, usize)> {
    let (mut sends, mut total) = (0, 0);
    loop {
        match send(sock.as_raw_fd(), &[b'a'; BLOCK], MsgFlags::MSG_DONTWAIT) {
            Ok(bytes_sent) => (sends, total) = (sends + 1, total + bytes_sent),
            Err(Errno::EAGAIN) if window::is_full(sock)? => return Ok((sends, total)),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => return Ok(Err(errno).at("send", "")?),
        }
    }
}

/// Errors that are over with the call: try again.
fn is_transient(errno: Errno) -> bool {
    matches!(errno, Errno::EINTR | Errno::EAGAIN | Errno::ECONNABORTED)
}
