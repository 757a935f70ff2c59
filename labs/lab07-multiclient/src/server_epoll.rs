//! Terminal 1: one thread, one epoll(7), a listening socket and ten thousand clients.
//!
//! `diff src/server.rs src/server_epoll.rs` is the lesson. Nothing in the loop blocks but epoll_wait itself: a client that
//! is slow, silent or broken delays nobody.

use std::{
    io::stdin,
    net::SocketAddr,
    os::fd::{AsRawFd, RawFd},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use kernel::setting;
use nix::{
    errno::Errno,
    poll::PollFlags,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        resource::{Resource, getrlimit, setrlimit},
    },
    unistd::read,
};
use shared::{At, Pause, Screen, Stop};
use socket2::{Domain, Socket, Type};

use crate::{
    ServerEpollArgs,
    connection::Connection,
    lines::{LINE_LIMIT, LineSplitter},
    room::Room,
};

/// Clients the kernel may complete the handshake with while the loop is elsewhere.
const BACKLOG: i32 = 16384;
/// Without a free descriptor, accept is tried again after this time.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// So many clients are accepted, and so many events taken, before the loop looks at the others again.
const MOST: usize = 1024;

/// What epoll hands back for a descriptor; for a client, the descriptor itself.
const SIGNALS: u64 = u64::MAX;
const OPERATOR: u64 = u64::MAX - 1;
const LISTENER: u64 = u64::MAX - 2;

/// Whose descriptor it is that epoll watches.
#[derive(Clone, Copy)]
enum Whose {
    /// SIGINT and SIGTERM, as a descriptor.
    Signals,
    /// The client with this descriptor.
    Client(RawFd),
    /// Standard input.
    Operator,
    Listener,
}

/// Serves until Ctrl-C.
pub fn run(args: &ServerEpollArgs, addr: SocketAddr) -> Result<()> {
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();

    let (_, most_descriptors) = getrlimit(Resource::RLIMIT_NOFILE).at("getrlimit", "RLIMIT_NOFILE")?;
    setrlimit(Resource::RLIMIT_NOFILE, most_descriptors, most_descriptors).at("setrlimit", "RLIMIT_NOFILE")?;

    let family = if addr.is_ipv6() { "AF_INET6" } else { "AF_INET" };
    pause.before(&mut screen, format_args!("socket({family}, SOCK_STREAM, 0)"));
    let listen_sock = Socket::new(Domain::for_address(addr), Type::STREAM, None).at("socket", addr)?;
    let listen_fd = listen_sock.as_raw_fd();

    if !args.no_reuse_addr {
        // Both runs need the option: this one, whose connections may stay in TIME-WAIT, and the next: see who-may-bind.
        pause.before(&mut screen, format_args!("setsockopt({listen_fd}, SOL_SOCKET, SO_REUSEADDR, 1)"));
        listen_sock.set_reuse_address(true).at("setsockopt", addr)?;
    }

    pause.before(&mut screen, format_args!("bind({listen_fd}, {addr})"));
    listen_sock.bind(&addr.into()).at("bind", addr)?;

    pause.before(&mut screen, format_args!("listen({listen_fd}, {BACKLOG})"));
    listen_sock.listen(BACKLOG).at("listen", addr)?;
    if let Some(most) = setting("net/core/somaxconn").first().filter(|most| **most < BACKLOG as u64) {
        screen.line(format_args!("> Backlog {BACKLOG} asked for: net.core.somaxconn makes it {most}"));
    }

    listen_sock.set_nonblocking(true).at("fcntl", addr)?; // accept(2): on some systems the client may be gone after poll

    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).at("epoll_create1", "")?;
    let input = stdin();
    epoll.add(&stop, EpollEvent::new(EpollFlags::EPOLLIN, SIGNALS)).at("epoll_ctl", "")?;
    // EPERM: epoll takes no regular file and no /dev/null. poll does, and calls them readable at any time.
    let input_watched = epoll.add(&input, EpollEvent::new(EpollFlags::EPOLLIN, OPERATOR)).is_ok();
    epoll.add(&listen_sock, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER)).at("epoll_ctl", addr)?;
    let mut listener_watched = true;

    let local_addr = listen_sock.local_addr().at("getsockname", addr)?.as_socket().context("not an IP socket")?;
    screen.line(format_args!("> Server bound to IP : {} and PORT : {}", local_addr.ip(), local_addr.port()));

    let mut room = Room::new(args.max_clients.get(), args.quiet, screen, pause);
    let mut operator = Some(LineSplitter::default()); // None once standard input has ended
    let mut listener = Some(listen_sock); // None after Ctrl-C: only the last bytes are waited for
    let mut accept_again = None; // set while there is no descriptor for one more client
    let mut buffer = vec![0; LINE_LIMIT];
    let mut events = vec![EpollEvent::empty(); MOST];
    while listener.is_some() || !room.clients.is_empty() {
        room.ask_operator();
        let accept_later = accept_again.filter(|again| Instant::now() < *again);
        if let Some(listen_sock) = &listener
            && listener_watched == accept_later.is_some()
        {
            listener_watched = accept_later.is_none();
            let events = if listener_watched { EpollFlags::EPOLLIN } else { EpollFlags::empty() };
            epoll.modify(listen_sock, &mut EpollEvent::new(events, LISTENER)).at("epoll_ctl", addr)?;
        }
        let timeout = match room.next_deadline().into_iter().chain(accept_later).min() {
            _ if operator.is_some() && !input_watched => EpollTimeout::ZERO,
            Some(next) => EpollTimeout::try_from(next.saturating_duration_since(Instant::now()))?,
            None => EpollTimeout::NONE,
        };
        let count = match epoll.wait(&mut events, timeout) {
            Err(Errno::EINTR) => continue,
            result => result.at("epoll_wait", "")?,
        };
        let mut ready: Vec<(Whose, PollFlags)> = events[..count].iter().map(whose).collect();
        if operator.is_some() && !input_watched {
            ready.push((Whose::Operator, PollFlags::POLLIN));
        }

        for (whose, events) in ready {
            match whose {
                Whose::Signals => {
                    stop.take();
                    if listener.take().is_none() {
                        return Ok(()); // a second Ctrl-C
                    }
                    room.say_goodbye();
                }
                Whose::Client(fd) => {
                    room.serve(fd, events, &mut buffer);
                    room.clients.get_mut(&fd).map_or(Ok(()), |client| register(&epoll, client))?;
                }
                Whose::Operator => {
                    match read(&input, &mut buffer) {
                        Ok(bytes_read) if bytes_read > 0 => {
                            room.screen.typed();
                            let lines =
                                operator.iter_mut().flat_map(|splitter| splitter.push_together(&buffer[..bytes_read]));
                            room.announce(lines); // a send for each client, with all lines that are there
                        }
                        Err(Errno::EINTR | Errno::EAGAIN) => {}
                        Ok(_) | Err(_) => {
                            // End of input: the clients stay.
                            let _ = epoll.delete(&input); // EPERM, ENOENT: it never was in
                            let rest = operator.take().and_then(|mut splitter| splitter.rest());
                            room.announce(rest);
                        }
                    }
                    room.clients.values_mut().try_for_each(|client| register(&epoll, client))?;
                }
                Whose::Listener => {
                    if let Some(listen_sock) = &listener {
                        accept_again = accept(listen_sock, &mut room, &epoll, accept_again.is_none())?;
                    }
                }
            }
        }
        room.close_those_over(); // only now: until here a descriptor names the client that epoll found ready
    }
    Ok(())
}

/// What epoll reports: the number given to epoll_ctl, and poll's own flags; epoll(7) has the same bits.
fn whose(event: &EpollEvent) -> (Whose, PollFlags) {
    let whose = match event.data() {
        SIGNALS => Whose::Signals,
        OPERATOR => Whose::Operator,
        LISTENER => Whose::Listener,
        fd => Whose::Client(fd as RawFd),
    };
    (whose, PollFlags::from_bits_truncate(event.events().bits() as i16))
}

/// Tells the kernel what to wait for, if that has changed: an idle client costs no call. close(2) takes a client out.
fn register(epoll: &Epoll, client: &mut Connection) -> Result<()> {
    let waits_for = client.waits_for();
    let mut event =
        EpollEvent::new(EpollFlags::from_bits_truncate(waits_for.bits().into()), client.fd().as_raw_fd() as u64);
    match client.registered {
        None => epoll.add(client.fd(), event).at("epoll_ctl", client.peer_addr)?,
        Some(registered) if registered != waits_for => {
            epoll.modify(client.fd(), &mut event).at("epoll_ctl", client.peer_addr)?;
        }
        Some(_) => {}
    }
    client.registered = Some(waits_for);
    Ok(())
}
/// Accepts until it would block. Returns when to try again, if there is no free descriptor: the listener stays readable
/// then, and a loop that watched it would spin. Meanwhile new clients wait in the accept queue.
fn accept(listen_sock: &Socket, room: &mut Room, epoll: &Epoll, first_try: bool) -> Result<Option<Instant>> {
    for accepted in 0..MOST {
        room.pause.before(&mut room.screen, format_args!("accept({})", listen_sock.as_raw_fd()));
        let error = match listen_sock.accept() {
            Ok((conn_sock, peer_addr)) => {
                conn_sock.set_nonblocking(true).at("fcntl", "")?;
                // All lines that are there go out in one send: nothing is gained by waiting for more.
                conn_sock.set_tcp_nodelay(true).at("setsockopt", "")?;
                let conn_fd = conn_sock.as_raw_fd();
                room.enter(conn_sock, peer_addr.as_socket().context("not an IP socket")?);
                room.clients.get_mut(&conn_fd).map_or(Ok(()), |client| register(epoll, client))?;
                continue;
            }
            Err(error) => error,
        };
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EAGAIN) => return Ok(None),
            Some(errno) if is_transient(errno) => {}
            // accept takes a descriptor before it looks into the queue. epoll knows whether somebody waits there.
            Some(Errno::EMFILE | Errno::ENFILE) if accepted > 0 => return Ok(None),
            Some(errno @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)) => {
                if first_try {
                    let (number, text) = (errno as i32, errno.desc());
                    room.screen.line(format_args!("> accept: {errno:?} ({number}) {text}; whoever connects now waits"));
                }
                return Ok(Some(Instant::now() + ACCEPT_PAUSE));
            }
            // accept(2) returns the network's errors of the new connection, too. They concern that client only.
            _ => room.screen.line(format_args!("> accept: {error}")),
        }
    }
    Ok(None) // more may wait: epoll says so at once
}

/// Errors after which the same call may succeed: try again.
fn is_transient(errno: Errno) -> bool {
    matches!(errno, Errno::EINTR | Errno::EAGAIN | Errno::ECONNABORTED)
}
