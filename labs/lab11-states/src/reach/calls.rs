//! What several ways have in common: the calls up to a connection, and those that fill a window.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
};

use anyhow::{Context, Result, ensure};
use kernel::{Pair, tcp_socket};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, poll},
    sys::socket::{MsgFlags, send},
};
use shared::At;
use socket2::{Domain, Socket, Type};

use crate::log::Log;

/// A small window is soon full. The kernel takes twice this, or its minimum.
pub const SMALL: usize = 2048;
/// So long no room in the send buffer: the receiver's window is shut, it is not just slow.
const NO_ROOM_MS: u8 = 50;
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
    log.next("socket(AF_INET, SOCK_STREAM, 0)");
    let client_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
    let client_fd = client_sock.as_raw_fd();
    log.say("client", format_args!("socket(AF_INET, SOCK_STREAM, 0) = {client_fd}"));

    small_buffers("client", &client_sock, receive_buffer, log)?;

    log.next(format_args!("connect({client_fd}, {server_addr})"));
    client_sock.connect(&server_addr.into()).at("connect", server_addr)?;
    log.say("client", format_args!("connect({client_fd}, {server_addr}) = 0"));
    Ok(client_sock)
}

/// The window is told in the SYN and the SYN+ACK: before connect and before listen.
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
    let listen_fd = listen_sock.as_raw_fd();
    log.next(format_args!("accept({listen_fd})"));
    let (conn_sock, _) = listen_sock.accept().at("accept", server_addr)?;
    log.say("server", format_args!("accept({listen_fd}) = {}", conn_sock.as_raw_fd()));
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

/// Fills the peer's window, and tells of it.
pub fn filled(who: &str, sock: &Socket, log: &mut Log) -> Result<()> {
    let fd = sock.as_raw_fd();
    log.next(format_args!("send({fd}, {BLOCK}, MSG_DONTWAIT) until EAGAIN"));
    let (sends, bytes_sent) = fill(sock)?;
    log.say(who, format_args!("send({fd}, {BLOCK}, MSG_DONTWAIT) x{sends} = {bytes_sent} bytes, then EAGAIN"));
    Ok(())
}

/// Sends until neither the peer's window nor this end's buffer has room: how many sends, how many bytes.
pub fn fill(sock: &Socket) -> Result<(usize, usize)> {
    let (mut sends, mut total) = (0, 0);
    loop {
        match send(sock.as_raw_fd(), &[b'a'; BLOCK], MsgFlags::MSG_DONTWAIT) {
            Ok(bytes_sent) => (sends, total) = (sends + 1, total + bytes_sent),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                let mut fds = [PollFd::new(sock.as_fd(), PollFlags::POLLOUT)];
                if poll(&mut fds, NO_ROOM_MS) == Ok(0) {
                    break;
                }
            }
            Err(errno) => return Ok(Err(errno).at("send", "")?),
        }
    }
    let left = tcp_socket(Pair::of(sock)?)?.context("the sender is in no table")?.send_queue;
    ensure!(left > 0, "all {total} bytes were taken: the window is not full");
    Ok((sends, total))
}
