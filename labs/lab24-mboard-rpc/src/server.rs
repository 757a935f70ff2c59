//! Terminal 1: accepts connections and hands each to the skeleton, in this thread or in one of its own.

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use anyhow::{Context, Result};
use board::Board;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use shared::{At, Pause, Screen, Stop};
use socket2::{Domain, Socket, Type};

use crate::{
    ServerArgs,
    connection::{Skeleton, serve},
    http::PATH,
    methods::{BoardService, Ids},
    registration,
    service::Service,
};

/// Clients that the kernel remembers while the server serves others.
const BACKLOG: i32 = 128;
/// Connections at the same time, a thread each; further ones wait in the kernel.
const MOST_THREADS: usize = 256;
/// Without a free descriptor or a free thread, accept is tried again after this time.
const ACCEPT_AGAIN_MS: u16 = 100;

/// How calls are served.
pub struct Serving {
    pub address: SocketAddr,
    pub deadline: u16,
    pub most_bytes: u32,
    pub threaded: bool,
    pub keep: bool,
    pub pause: bool,
}

impl Default for Serving {
    fn default() -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Serving { address, deadline: 30, most_bytes: 1 << 20, threaded: false, keep: false, pause: false }
    }
}

/// Serves the board until Ctrl-C.
pub fn run(args: &ServerArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    let board = match &args.journal {
        Some(file) => journal::open(file)?,
        None => Board::starting_at(args.first_id),
    };
    let ids = args.ids.unwrap_or(if args.journal.is_some() { Ids::I8 } else { Ids::Int });
    let service = BoardService::new(board, ids, args.die, args.slow);
    let banner = format!("The board has {} messages", service.count());
    let serving = Serving {
        address: args.address,
        deadline: args.deadline,
        most_bytes: args.max_request,
        threaded: args.threaded,
        keep: args.keep,
        pause: args.pause,
    };
    let registered = |addr| args.name.as_deref().map_or(Ok(()), |name| registration::first(args.names, name, addr));
    let renewed = |addr| args.name.as_deref().map_or((), |name| registration::renew(args.names, name, addr, &stop));
    serve_calls(&serving, &service, &banner, &stop, registered, renewed)?;
    Screen::new().line(format_args!("The board had {} messages", service.count()));
    Ok(())
}

/// Listens, calls `ready` with the address, and serves calls until Ctrl-C; `beside` runs in a thread of its own.
pub fn serve_calls(
    serving: &Serving,
    service: &dyn Service,
    banner: &str,
    stop: &Stop,
    ready: impl FnOnce(SocketAddr) -> Result<()>,
    beside: impl FnOnce(SocketAddr) + Send,
) -> Result<()> {
    let addr = serving.address;
    let mut pause = Pause::new(serving.pause, stop);
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
    ready(local_addr)?;
    screen.line(format_args!("{banner}; calls to http://{local_addr}{PATH}"));

    let skeleton = Skeleton {
        service,
        stop,
        deadline: serving.deadline,
        most_bytes: usize::try_from(serving.most_bytes)?,
        keep: serving.keep,
    };
    let running = AtomicUsize::new(0);
    thread::scope(|scope| {
        let beside = thread::Builder::new().name("names".into()).spawn_scoped(scope, || beside(local_addr));
        beside.context("cannot start a thread; see the limit: ulimit -u")?;
        let mut accepts = true; // false for a moment when there is no free descriptor or thread
        loop {
            if accepts {
                pause.before(&mut screen, format_args!("accept({listen_fd})"));
            }
            let mut fds = vec![PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
            fds.extend(accepts.then(|| PollFd::new(listen_sock.as_fd(), PollFlags::POLLIN)));
            let limit = if accepts { PollTimeout::NONE } else { PollTimeout::from(ACCEPT_AGAIN_MS) };
            let woken = poll(&mut fds, limit);
            if stop.requested() {
                break;
            }
            if !matches!(woken, Ok(_) | Err(Errno::EINTR)) {
                woken.at("poll", "")?;
            }
            accepts = running.load(Ordering::SeqCst) < MOST_THREADS;
            if !accepts {
                continue;
            }
            let (conn_sock, peer_addr) = match listen_sock.accept() {
                Ok((conn_sock, peer_addr)) => (conn_sock, peer_addr.as_socket().context("not an IP socket")?),
                Err(error) => {
                    match error.raw_os_error().map(Errno::from_raw) {
                        Some(Errno::EINTR | Errno::EAGAIN | Errno::ECONNABORTED) => {}
                        Some(errno @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)) => {
                            screen.line(format_args!("accept: {errno:?} ({}): whoever connects waits", errno.desc()));
                            accepts = false;
                        }
                        _ => screen.line(format_args!("accept: {error}")), // accept(2): the new connection's error
                    }
                    continue;
                }
            };
            if !serving.threaded {
                serve(conn_sock, peer_addr, &skeleton, &mut pause);
                continue;
            }
            running.fetch_add(1, Ordering::SeqCst);
            let (skeleton, running) = (&skeleton, &running);
            let started = thread::Builder::new().spawn_scoped(scope, move || {
                serve(conn_sock, peer_addr, skeleton, &mut Pause::new(false, skeleton.stop));
                running.fetch_sub(1, Ordering::SeqCst);
            });
            if started.is_err() {
                running.fetch_sub(1, Ordering::SeqCst); // the connection is closed with the closure
                screen.line(format_args!("{peer_addr} closed: no thread can be started; see the limit: ulimit -u"));
            }
        }
        drop(listen_sock); // close(2)
        anyhow::Ok(())
    })
}
