//! Terminal 1: the lecture's server. It accepts, serves that one connection to its end, and only then the next.

use std::os::fd::{AsFd, AsRawFd};

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
    connection::{End, Limits, serve},
    place,
};

/// Clients that the kernel remembers while the server serves another.
const BACKLOG: i32 = 128;
/// Without a free descriptor, accept is tried again after this time.
const ACCEPT_AGAIN_MS: u16 = 1000;

/// Serves until Ctrl-C.
pub fn run(args: &ServerArgs) -> Result<()> {
    let addr = place(&args.address)?;
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();
    let mut board = match &args.journal {
        Some(file) => journal::open(file)?,
        None => Board::default(),
    };
    let limits = Limits::of(args)?;

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
    screen.line(format_args!("The board has {} messages; requests to {local_addr}", board.last(0).len()));

    let mut accepts = true; // false for a moment when there is no free descriptor
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
        accepts = true;
        match listen_sock.accept() {
            Ok((conn_sock, peer_addr)) => {
                let peer_addr = peer_addr.as_socket().context("not an IP socket")?;
                screen.line(format_args!("{peer_addr} connected"));
                let end = serve(&conn_sock, peer_addr, &mut board, &limits, &stop, &mut pause, &mut screen);
                pause.before(&mut screen, format_args!("close({})", conn_sock.as_raw_fd()));
                drop(conn_sock); // close(2)
                // The lecture's policy: whatever the error was, this client is dropped and the next one served.
                screen.line(format_args!("{peer_addr} closed: {end}"));
                if matches!(end, End::Stopped) {
                    break;
                }
            }
            Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EINTR | Errno::EAGAIN | Errno::ECONNABORTED) => {}
                Some(errno @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)) => {
                    screen.line(format_args!("accept: {errno:?} ({}): whoever connects waits", errno.desc()));
                    accepts = false;
                }
                _ => screen.line(format_args!("accept: {error}")), // accept(2): the new connection's error
            },
        }
    }

    drop(listen_sock); // close(2)
    screen.line(format_args!("The board had {} messages", board.last(0).len()));
    Ok(())
}
