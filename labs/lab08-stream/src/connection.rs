//! The connection that the experiments play with, here and in the captured child.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use shared::At;
use socket2::{Domain, Socket, Type};

/// A connection over lo: the client's socket, and the one that accept returned.
pub fn connected() -> Result<(Socket, Socket)> {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listen_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", any_port)?;
    listen_sock.bind(&any_port.into()).at("bind", any_port)?;
    listen_sock.listen(0).at("listen", any_port)?;
    let server_addr = listen_sock.local_addr().at("getsockname", any_port)?.as_socket().context("not an IP socket")?;

    // No socket has a timeout here: without one, a call that Ctrl-Z stopped goes on after fg (signal(7)).
    let client_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
    client_sock.connect(&server_addr.into()).at("connect", server_addr)?;
    let (conn_sock, _) = listen_sock.accept().at("accept", server_addr)?;
    Ok((client_sock, conn_sock))
}
