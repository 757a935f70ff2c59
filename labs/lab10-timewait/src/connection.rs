//! A listener, a connection, and its ends: what the experiments and the private part need alike.

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsFd,
    time::Duration,
};

use anyhow::{Context, Result};
use kernel::{Pair, State, wait_for_state, wait_until};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shared::At;
use socket2::{Domain, Socket, Type};

/// How long a state or an answer may take; far more than loopback needs.
pub const LIMIT: Duration = Duration::from_secs(5);

/// A listener on a port of the kernel's choice, with the handout's order of calls: no SO_REUSEADDR.
pub fn listening() -> Result<(Socket, SocketAddr)> {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listen_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", any_port)?;
    listen_sock.bind(&any_port.into()).at("bind", any_port)?;
    listen_sock.listen(5).at("listen", any_port)?;
    let server_addr = listen_sock.local_addr().at("getsockname", any_port)?.as_socket().context("not an IP socket")?;
    Ok((listen_sock, server_addr))
}

/// The client's end and the server's end of a new connection.
pub fn connected_pair(listen_sock: &Socket, server_addr: SocketAddr) -> Result<(Socket, Socket)> {
    let client_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
    client_sock.connect(&server_addr.into()).at("connect", server_addr)?;
    let conn_sock = accepted_from(listen_sock, Pair::of(&client_sock)?.local)?;
    Ok((client_sock, conn_sock))
}

/// The server's end of the connection with this client; a stranger's connection is closed.
pub fn accepted_from(listen_sock: &Socket, client_addr: SocketAddr) -> Result<Socket> {
    loop {
        readable(listen_sock)?;
        let (conn_sock, peer_addr) = listen_sock.accept().at("accept", "")?;
        if peer_addr.as_socket() == Some(client_addr) {
            return Ok(conn_sock);
        }
    }
}

/// Waits until recv or accept on this socket returns at once.
pub fn readable(sock: &Socket) -> Result<()> {
    wait_until("something to recv or accept", LIMIT, || {
        let mut fds = [PollFd::new(sock.as_fd(), PollFlags::POLLIN)];
        Ok((poll(&mut fds, PollTimeout::ZERO) == Ok(1)).then_some(()))
    })
}

/// Waits until the FIN of this end is acknowledged. If the other end closed sooner, its FIN could overtake that
/// acknowledgement. TIME-WAIT would answer the late acknowledgement, and the reset for that answer would end TIME-WAIT
/// (RFC 1337).
pub fn acknowledged(first: Pair) -> Result<()> {
    wait_for_state(first, Some(State::FinWait2), LIMIT)?;
    Ok(())
}
