//! Terminal 1: one thread and one poll(2) serve all connections, kept ones too: lab07 has the same loop.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use shared::{At, Pause, Screen, Stop};
use socket2::{Domain, Socket, Type};

use crate::{connection::Connection, service::Service};

/// Connections that the kernel completes while the loop is elsewhere.
const BACKLOG: i32 = 128;
/// Without a free descriptor, accept is tried again after this time.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);

/// Serves until Ctrl-C. `idle_limit`: a connection on which nothing happens for so long is closed.
pub fn run(addr: SocketAddr, mut service: Service, idle_limit: Option<Duration>, pause: bool) -> Result<()> {
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(pause, &stop);
    let mut screen = Screen::new();

    let family = if addr.is_ipv6() { "AF_INET6" } else { "AF_INET" };
    pause.before(&mut screen, format_args!("socket({family}, SOCK_STREAM, 0)"));
    let listen_sock = Socket::new(Domain::for_address(addr), Type::STREAM, None).at("socket", addr)?;
    let listen_fd = listen_sock.as_raw_fd();

    // So that the port is free again at once: see lab10-timewait.
    pause.before(&mut screen, format_args!("setsockopt({listen_fd}, SOL_SOCKET, SO_REUSEADDR, 1)"));
    listen_sock.set_reuse_address(true).at("setsockopt", addr)?;

    pause.before(&mut screen, format_args!("bind({listen_fd}, {addr})"));
    listen_sock.bind(&addr.into()).at("bind", addr)?;

    pause.before(&mut screen, format_args!("listen({listen_fd}, {BACKLOG})"));
    listen_sock.listen(BACKLOG).at("listen", addr)?;
    listen_sock.set_nonblocking(true).at("fcntl", addr)?; // accept(2): on some systems the client may be gone after poll
    let local_addr = listen_sock.local_addr().at("getsockname", addr)?.as_socket().context("not an IP socket")?;
    let what = if matches!(service, Service::Host) { "A host for sessions" } else { "A page with ten objects" };
    screen.line(format_args!("{what} is at {local_addr}"));

    let mut connections: Vec<Connection> = Vec::new();
    let (mut opened, mut answered) = (0_u64, 0);
    let mut accept_again = None; // set while there is no descriptor for one more client
    loop {
        let accept_later = accept_again.filter(|again| Instant::now() < *again);
        let mut fds = vec![PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        fds.extend(connections.iter().map(Connection::poll_fd));
        if accept_later.is_none() {
            fds.push(PollFd::new(listen_sock.as_fd(), PollFlags::POLLIN));
        }
        let deadlines = connections.iter().filter_map(|connection| connection.deadline);
        let timeout = match deadlines.chain(accept_later).min() {
            Some(next) => after(next.saturating_duration_since(Instant::now())),
            None => PollTimeout::NONE,
        };
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => continue,
            result => result.at("poll", "")?,
        };
        if stop.requested() {
            break;
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any() == Some(true)).collect();
        for (connection, ready) in connections.iter_mut().zip(&ready[1..]) {
            if *ready {
                connection.serve(&mut service, &mut pause, &mut screen);
            } else if connection.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                connection.is_late();
            }
        }
        if ready.get(1 + connections.len()) == Some(&true) {
            pause.before(&mut screen, format_args!("accept({listen_fd})"));
            let first_try = accept_again.take().is_none();
            match listen_sock.accept() {
                Ok((conn_sock, peer_addr)) => {
                    let peer_addr = peer_addr.as_socket().context("not an IP socket")?;
                    screen.line(format_args!("{peer_addr} connected"));
                    connections.push(Connection::new(conn_sock, peer_addr, idle_limit));
                    opened += 1;
                }
                Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EINTR | Errno::EAGAIN | Errno::ECONNABORTED) => {}
                    Some(errno @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)) => {
                        if first_try {
                            screen.line(format_args!("accept: {errno:?} ({}): whoever connects waits", errno.desc()));
                        }
                        accept_again = Some(Instant::now() + ACCEPT_AGAIN);
                    }
                    _ => screen.line(format_args!("accept: {error}")), // accept(2): the new connection's error
                },
            }
        }
        let over: Vec<_> = connections.extract_if(.., |connection| connection.end.is_some()).collect();
        for Connection { sock, peer_addr, since, answered: requests, end, .. } in over {
            pause.before(&mut screen, format_args!("close({})", sock.as_raw_fd()));
            drop(sock); // close(2)
            let (open, why) = (since.elapsed().as_secs_f64(), end.map(|end| end.to_string()).unwrap_or_default());
            screen.line(format_args!("{peer_addr} closed: {requests} requests in {open:.3} s; {why}"));
            answered += requests;
        }
    }

    answered += connections.iter().map(|connection| connection.answered).sum::<u64>();
    drop(connections); // close(2)
    drop(listen_sock);
    screen.line(format_args!("{opened} connections, {answered} requests"));
    Ok(())
}

/// A timeout for poll, in whole milliseconds: rounded up, so that the time is over when poll returns.
fn after(wait: Duration) -> PollTimeout {
    PollTimeout::try_from(wait + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
}
