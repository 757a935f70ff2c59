//! Terminal 1: one thread, one poll(2), a listening socket and as many clients as are let in.
//!
//! Nothing in the loop blocks but poll itself: a client that is slow, silent or broken delays nobody.

use std::{
    io::stdin,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::read,
};
use shared::{At, Pause, Screen, Stop};
use socket2::{Domain, Socket, Type};

use crate::{
    ServerArgs,
    connection::Connection,
    lines::{LINE_LIMIT, LineSplitter},
    room::Room,
};

/// Clients the kernel may complete the handshake with while the loop is elsewhere.
const BACKLOG: i32 = 16;
/// Without a free descriptor, accept is tried again after this time.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);

/// Serves until Ctrl-C.
pub fn run(args: &ServerArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();
    let addr = SocketAddr::new(args.bind, args.port);

    let family = if addr.is_ipv6() { "AF_INET6" } else { "AF_INET" };
    pause.before(&mut screen, format_args!("socket({family}, SOCK_STREAM, 0)"));
    let listen_sock = Socket::new(Domain::for_address(addr), Type::STREAM, None).at("socket", addr)?;
    let listen_fd = listen_sock.as_raw_fd();

    if !args.no_reuse_addr {
        // The run that leaves TIME-WAIT behind needs it as much as the next one: see who-may-bind.
        pause.before(&mut screen, format_args!("setsockopt({listen_fd}, SOL_SOCKET, SO_REUSEADDR, 1)"));
        listen_sock.set_reuse_address(true).at("setsockopt", addr)?;
    }

    pause.before(&mut screen, format_args!("bind({listen_fd}, {addr})"));
    listen_sock.bind(&addr.into()).at("bind", addr)?;

    pause.before(&mut screen, format_args!("listen({listen_fd}, {BACKLOG})"));
    listen_sock.listen(BACKLOG).at("listen", addr)?;

    listen_sock.set_nonblocking(true).at("fcntl", addr)?; // accept(2): on some systems the client may be gone after poll
    let local_addr = listen_sock.local_addr().at("getsockname", addr)?.as_socket().context("not an IP socket")?;
    screen.line(format_args!("> Server bound to IP : {} and PORT : {}", local_addr.ip(), local_addr.port()));

    let mut room = Room { clients: Vec::new(), max_clients: args.max_clients.get(), screen, pause };
    let mut operator = Some(LineSplitter::default()); // None once standard input has ended
    let mut accept_again = None; // set while there is no descriptor for one more client
    let mut listener = Some(listen_sock); // None after Ctrl-C: only the last bytes are waited for
    let mut buffer = vec![0; LINE_LIMIT];
    while listener.is_some() || !room.clients.is_empty() {
        room.ask_operator();
        let input = stdin();
        let mut fds = vec![PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        fds.extend(room.clients.iter().map(Connection::poll_fd));
        let (operator_at, listener_at) = (fds.len(), fds.len() + usize::from(operator.is_some()));
        fds.extend(operator.is_some().then(|| PollFd::new(input.as_fd(), PollFlags::POLLIN)));
        if let (Some(listen_sock), None) = (&listener, accept_again) {
            fds.push(PollFd::new(listen_sock.as_fd(), PollFlags::POLLIN));
        }
        let timeout = match room.next_deadline().into_iter().chain(accept_again).min() {
            Some(next) => PollTimeout::try_from(next.saturating_duration_since(Instant::now()))?,
            None => PollTimeout::NONE,
        };
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => continue,
            result => result.at("poll", "")?,
        };
        let ready: Vec<PollFlags> = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())).collect();

        let is_ready = |at: usize| ready.get(at).is_some_and(|events| !events.is_empty());

        if stop.take().is_some() {
            if listener.take().is_none() {
                break; // a second Ctrl-C
            }
            room.say_goodbye();
            continue;
        }
        room.serve(&ready[1..operator_at], &mut buffer);
        if let (Some(lines), true) = (&mut operator, is_ready(operator_at)) {
            match read(&input, &mut buffer) {
                Ok(bytes_read) if bytes_read > 0 => {
                    room.screen.typed();
                    lines.push(&buffer[..bytes_read]).into_iter().for_each(|line| room.announce(line));
                }
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Ok(_) | Err(_) => {
                    lines.rest().into_iter().for_each(|line| room.announce(line));
                    operator = None; // end of input: the clients stay
                }
            }
        }
        if let Some(listen_sock) = &listener
            && accept_again.map_or(is_ready(listener_at), |again| Instant::now() >= again)
        {
            accept_again = accept(listen_sock, &mut room, accept_again.is_none())?;
        }
    }
    Ok(())
}

/// Accepts one client. Without a free descriptor: when to try again. The listener stays readable then, so polling it
/// would spin; whoever knocks waits in the accept queue.
fn accept(listen_sock: &Socket, room: &mut Room, first_try: bool) -> Result<Option<Instant>> {
    room.pause.before(&mut room.screen, format_args!("accept({})", listen_sock.as_raw_fd()));
    let error = match listen_sock.accept() {
        Ok((conn_sock, peer_addr)) => {
            conn_sock.set_nonblocking(true).at("fcntl", "")?;
            room.enter(conn_sock, peer_addr.as_socket().context("not an IP socket")?);
            return Ok(None);
        }
        Err(error) => error,
    };
    match error.raw_os_error().map(Errno::from_raw) {
        Some(errno @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)) => {
            if first_try {
                let (number, text) = (errno as i32, errno.desc());
                room.screen.line(format_args!("> accept: {errno:?} ({number}) {text}; whoever connects now waits"));
            }
            Ok(Some(Instant::now() + ACCEPT_AGAIN))
        }
        // The client is gone again, or a signal came: nothing is lost.
        Some(Errno::EAGAIN | Errno::ECONNABORTED | Errno::EINTR) => Ok(None),
        // accept(2) hands on the network's errors for the new connection; they are the client's, not ours.
        _ => {
            room.screen.line(format_args!("> accept: {error}"));
            Ok(None)
        }
    }
}
