//! Terminal 1: accepts, and starts a thread for each client.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use shared::{At, Pause, Screen, Stop};
use socket2::{Domain, Socket, Type};

use crate::{ServerArgs, connection, naive, place};

/// Clients that may wait until accept has time for them.
const BACKLOG: i32 = 16;
/// So many refused clients at a time are told why; more are closed at once.
const TOLD_LIMIT: usize = 16;
/// Without a free descriptor, accept is tried again after this time.
const ACCEPT_AGAIN_MS: u16 = 1000;

/// What all handlers share.
pub struct Hall {
    /// Ctrl-C: each thread polls it beside its socket.
    pub stop: Stop,
    /// The longest message, in bytes.
    pub max_message: usize,
    /// How long a message that has begun, or an answer, may take.
    pub patience: Duration,
    max_clients: usize,
    /// Clients that are served now.
    active: AtomicUsize,
    /// Clients that are told now why they are not.
    refused: AtomicUsize,
}

impl Hall {
    /// Writes whole lines at once: standard output has a lock, and two threads never share a line.
    pub fn say(&self, lines: impl std::fmt::Display) {
        Screen::new().line(lines);
    }
}

/// Serves until Ctrl-C; then each handler ends, and the listener is closed.
pub fn run(args: &ServerArgs) -> Result<()> {
    let addr = place(&args.address)?;
    let hall = Hall {
        stop: Stop::on_signals()?,
        max_message: usize::try_from(args.max_message)?,
        patience: Duration::from_secs(args.patience.into()),
        max_clients: args.max_clients.into(),
        active: AtomicUsize::new(0),
        refused: AtomicUsize::new(0),
    };
    let mut pause = Pause::new(args.pause, &hall.stop);
    let mut screen = Screen::new();
    hall.say("[STARTING] server is starting...");

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
    hall.say(format_args!("[LISTENING] Server is listening on {local_addr}"));

    thread::scope(|scope| {
        let mut accepts = true; // false for a moment when there is no free descriptor
        loop {
            if accepts {
                pause.before(&mut screen, format_args!("accept({listen_fd})"));
            }
            let mut fds = vec![PollFd::new(hall.stop.as_fd(), PollFlags::POLLIN)];
            fds.extend(accepts.then(|| PollFd::new(listen_sock.as_fd(), PollFlags::POLLIN)));
            let limit = if accepts { PollTimeout::NONE } else { PollTimeout::from(ACCEPT_AGAIN_MS) };
            let woken = poll(&mut fds, limit);
            if hall.stop.requested() {
                break;
            }
            if !matches!(woken, Ok(_) | Err(Errno::EINTR)) {
                woken.at("poll", "")?;
            }
            accepts = true;
            match listen_sock.accept() {
                Ok((conn_sock, peer_addr)) => {
                    let peer_addr = peer_addr.as_socket().context("not an IP socket")?;
                    let (hall, naive) = (&hall, args.naive);
                    let handler = move || handle(conn_sock, peer_addr, naive, hall);
                    if let Err(error) = thread::Builder::new().spawn_scoped(scope, handler) {
                        hall.say(format_args!("[REFUSED] {peer_addr}: no thread: {error}")); // its socket is closed
                    }
                }
                Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                    Some(errno) if is_transient(errno) => {}
                    Some(errno @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)) => {
                        hall.say(format_args!(
                            "[WAITING] accept: {errno:?} ({}): whoever connects waits",
                            errno.desc()
                        ));
                        accepts = false;
                    }
                    _ => hall.say(format_args!("[FAILED] accept: {error}")), // accept(2): the new connection's error
                },
            }
        }
        anyhow::Ok(())
    })?; // here the handlers end, because each of them polls the same stop

    drop(listen_sock); // close(2)
    hall.say("[STOPPED] server has closed all connections");
    Ok(())
}

/// A client's thread, from its first line of output to its last.
fn handle(conn_sock: Socket, peer_addr: SocketAddr, naive: bool, hall: &Hall) {
    let one_more = |active| (active < hall.max_clients).then_some(active + 1);
    let Ok(active) = hall.active.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more) else {
        hall.say(format_args!("[REFUSED] {peer_addr}: {} clients are served", hall.max_clients));
        if hall.refused.fetch_add(1, Ordering::SeqCst) < TOLD_LIMIT {
            connection::refuse(&conn_sock, hall);
        }
        drop(conn_sock); // close(2)
        hall.refused.fetch_sub(1, Ordering::SeqCst);
        return;
    };
    hall.say(format_args!("[NEW CONNECTION] {peer_addr} connected.\n[ACTIVE CONNECTIONS] {}", active + 1));
    let end = match naive {
        true => naive::converse(&conn_sock, peer_addr, hall),
        false => connection::converse(&conn_sock, peer_addr, hall).to_string(),
    };
    drop(conn_sock); // close(2): before the line that says so
    let active = hall.active.fetch_sub(1, Ordering::SeqCst) - 1;
    hall.say(format_args!("[CLOSED] {peer_addr}: {end}\n[ACTIVE CONNECTIONS] {active}"));
}

/// Errors that are over with the call: try again.
fn is_transient(errno: Errno) -> bool {
    matches!(errno, Errno::EINTR | Errno::EAGAIN | Errno::ECONNABORTED)
}
