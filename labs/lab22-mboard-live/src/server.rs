//! Terminal 1: one thread, one poll(2), a listening socket and all clients.
//!
//! Nothing in the loop blocks but poll itself: a client that is slow, silent or broken delays nobody.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use board::Board;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use shared::{At, Pause, Screen, Stop};
use socket2::{Domain, Socket, Type};

use crate::{ServerArgs, connection::Connection, keepalive::Keepalive, marks::Marks, place, room::Room};

/// Clients the kernel may complete the handshake with while the loop is elsewhere.
const BACKLOG: i32 = 128;
/// Without a free descriptor, accept is tried again after this time.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// Bytes asked of one recv.
const CHUNK: usize = 65_536;

/// Whose descriptor it is that poll watches.
enum Whose {
    /// SIGINT and SIGTERM, as a descriptor.
    Signals,
    /// The client at this place in the list of clients.
    Client(usize),
    Listener,
}

/// Serves until Ctrl-C.
pub fn run(args: &ServerArgs) -> Result<()> {
    let addr = place(&args.address)?;
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();
    let board = match &args.journal {
        Some(file) => journal::open(file)?,
        // In memory: another run is another board. The clock keeps its ids above those that clients may still know.
        None => Board::starting_at(u64::try_from(UNIX_EPOCH.elapsed()?.as_micros())?),
    };

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
    screen.line(format_args!("The board has {} messages; clients connect to {local_addr}", board.last(0).len()));

    let patience = Duration::from_secs(args.patience.into());
    let mut room = Room { clients: Vec::new(), board, marks: Marks::default(), news: false, patience, screen, pause };
    let mut listener = Some(listen_sock); // None after Ctrl-C: only the last bytes are waited for
    let mut accept_again = None; // set while there is no descriptor for one more client
    let mut buffer = vec![0; CHUNK];
    while listener.is_some() || !room.clients.is_empty() {
        let accept_later = accept_again.filter(|again| Instant::now() < *again);
        let mut watched = vec![(Whose::Signals, PollFd::new(stop.as_fd(), PollFlags::POLLIN))];
        watched.extend(room.clients.iter().enumerate().map(|(at, client)| (Whose::Client(at), client.poll_fd())));
        if let (Some(listen_sock), None) = (&listener, accept_later) {
            watched.push((Whose::Listener, PollFd::new(listen_sock.as_fd(), PollFlags::POLLIN)));
        }
        let (whose, mut fds): (Vec<Whose>, Vec<PollFd>) = watched.into_iter().unzip();
        let timeout = match room.next_deadline().into_iter().chain(accept_later).min() {
            Some(next) => PollTimeout::try_from(next.saturating_duration_since(Instant::now()))?,
            None => PollTimeout::NONE,
        };
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => continue,
            result => result.at("poll", "")?,
        };
        let events = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        let ready: Vec<(Whose, PollFlags)> = whose.into_iter().zip(events).filter(|(_, e)| !e.is_empty()).collect();

        for (whose, events) in ready {
            match whose {
                Whose::Signals => {
                    stop.take();
                    if listener.take().is_none() {
                        return Ok(()); // a second Ctrl-C
                    }
                    room.say_goodbye();
                }
                Whose::Client(at) => {
                    room.serve(at, events, &mut buffer);
                    if room.news {
                        room.tell_all();
                    }
                }
                Whose::Listener => {
                    if let Some(listen_sock) = &listener {
                        accept_again = accept(listen_sock, &mut room, args.keepalive, accept_again.is_none())?;
                    }
                }
            }
        }
        room.close_those_over(); // only now: until here Whose::Client counts the clients as they were
    }
    let messages = room.board.last(0).len();
    room.screen.line(format_args!("The board had {messages} messages"));
    Ok(())
}

/// Accepts one client. Returns when to try again, if there is no free descriptor: the listener stays readable then, and a
/// loop that polled it would spin. Meanwhile new clients wait in the accept queue.
fn accept(listen_sock: &Socket, room: &mut Room, keepalive: Keepalive, first_try: bool) -> Result<Option<Instant>> {
    room.pause.before(&mut room.screen, format_args!("accept({})", listen_sock.as_raw_fd()));
    let error = match listen_sock.accept() {
        Ok((conn_sock, peer_addr)) => {
            conn_sock.set_nonblocking(true).at("fcntl", "")?;
            let peer_addr: SocketAddr = peer_addr.as_socket().context("not an IP socket")?;
            keepalive.set(&conn_sock, peer_addr, &mut room.pause, &mut room.screen)?;
            // Else a second message waits until the first one is acknowledged: up to 40 ms.
            let what = format!("setsockopt({}, SOL_TCP, TCP_NODELAY, 1)", conn_sock.as_raw_fd());
            room.pause.before(&mut room.screen, what);
            conn_sock.set_tcp_nodelay(true).at("setsockopt TCP_NODELAY", peer_addr)?;
            room.clients.push(Connection::new(conn_sock, peer_addr));
            return Ok(None);
        }
        Err(error) => error,
    };
    match error.raw_os_error().map(Errno::from_raw) {
        Some(errno) if is_transient(errno) => Ok(None),
        Some(errno @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)) => {
            if first_try {
                let (number, text) = (errno as i32, errno.desc());
                room.screen.line(format_args!("accept: {errno:?} ({number}) {text}; whoever connects now waits"));
            }
            Ok(Some(Instant::now() + ACCEPT_PAUSE))
        }
        // accept(2) returns the network's errors of the new connection, too. They concern that client only.
        _ => {
            room.screen.line(format_args!("accept: {error}"));
            Ok(None)
        }
    }
}

/// Errors after which the same call may succeed: try again.
fn is_transient(errno: Errno) -> bool {
    matches!(errno, Errno::EINTR | Errno::EAGAIN | Errno::ECONNABORTED)
}
