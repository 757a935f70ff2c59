//! One TCP connection, made of our own socket calls; remoc carries all calls of both ends over it.

use std::{
    net::{SocketAddr, TcpStream},
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use remoc::{Cfg, Connect, ConnectExt, RemoteSend};
use shared::{At, Pause, Screen, Stop};
use socket2::{Domain, Socket, Type};
use tokio::time::timeout;

/// How long the other end may take to say that it speaks this protocol, and to send or take the first reference.
const GREETING: Duration = Duration::from_secs(10);
/// How long a server may be silent before its client gives it up.
const SILENCE: Duration = Duration::from_secs(60);

/// Connects; `None` after Ctrl-C.
pub fn connected(addr: SocketAddr, stop: &Stop, pause: &mut Pause, screen: &mut Screen) -> Result<Option<Socket>> {
    let family = if addr.is_ipv6() { "AF_INET6" } else { "AF_INET" };
    pause.before(screen, format_args!("socket({family}, SOCK_STREAM, 0)"));
    let sock = Socket::new(Domain::for_address(addr), Type::STREAM, None).at("socket", addr)?;
    let fd = sock.as_raw_fd();

    pause.before(screen, format_args!("connect({fd}, {addr})"));
    sock.set_nonblocking(true).at("fcntl", addr)?; // poll waits for the handshake, and for Ctrl-C beside it
    let mut connected = sock.connect(&addr.into());
    if connected.as_ref().is_err_and(|error| error.raw_os_error() == Some(Errno::EINPROGRESS as i32)) {
        let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(sock.as_fd(), PollFlags::POLLOUT)];
        while poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {} // after a signal handler: signal(7)
        if stop.requested() {
            return Ok(None);
        }
        connected = sock.take_error().and_then(|error| error.map_or(Ok(()), Err)); // SO_ERROR
    }
    connected.at("connect", addr)?;
    Ok(Some(sock))
}

/// How an end speaks. `silence`: so long the other end may be silent; remoc asks after it in between. `None`: for ever.
fn config(silence: Option<Duration>) -> Cfg {
    Cfg { connection_timeout: silence, flush_delay: Duration::ZERO, ..Cfg::default() }
}

/// Hands a connected socket over to tokio.
fn stream_of(sock: Socket) -> Result<tokio::net::TcpStream> {
    sock.set_nonblocking(true).at("fcntl", "")?;
    sock.set_tcp_nodelay(true).at("setsockopt TCP_NODELAY", "")?; // a call is small, and its caller waits
    Ok(tokio::net::TcpStream::from_std(TcpStream::from(sock))?)
}

/// The server's side: sends the first reference. The connection goes on by itself.
pub async fn offer<T: RemoteSend>(sock: Socket, first: T, silence: Option<Duration>) -> Result<()> {
    let (input, output) = stream_of(sock)?.into_split();
    let provided = Connect::io(config(silence), input, output).provide(first);
    let told = timeout(GREETING, provided).await.map_err(|_| anyhow!("it says nothing in {GREETING:?}"))?;
    told.map_err(|error| anyhow!("it does not speak our protocol, or is gone: {error}"))
}

/// The client's side: takes the first reference. The connection goes on by itself, while a reference is left.
pub async fn first_reference<T: RemoteSend>(sock: Socket) -> Result<T> {
    let (input, output) = stream_of(sock)?.into_split();
    let consumed = Connect::io(config(Some(SILENCE)), input, output).consume();
    let taken = timeout(GREETING, consumed).await.map_err(|_| anyhow!("the server says nothing in {GREETING:?}"))?;
    taken.context("the server does not speak our protocol, or is gone")
}
