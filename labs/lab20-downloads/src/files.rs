//! Terminal 1: accepts connections; a thread for each of them answers its requests.

use std::{
    os::fd::{AsFd, AsRawFd},
    sync::Arc,
    thread,
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use shared::{At, Pause, Screen, Stop};
use socket2::{Domain, Socket, Type};

use crate::{
    FilesArgs,
    connection::{Shop, serve},
};

/// Clients that the kernel remembers until accept has time for them.
const BACKLOG: i32 = 128;
/// Without a free descriptor or thread, accept is tried again after this time.
const ACCEPT_AGAIN_MS: u16 = 1000;
pub const NO_THREAD: &str = "cannot start a thread; see the limit: ulimit -u";

/// Serves until Ctrl-C. A file that is on its way then ends in the middle: fetch --resume gets the rest.
pub fn run(args: &FilesArgs) -> Result<()> {
    let stop = Arc::new(Stop::on_signals()?); // before any thread exists
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();
    let addr = args.address;

    let family = if addr.is_ipv6() { "AF_INET6" } else { "AF_INET" };
    pause.before(&mut screen, format_args!("socket({family}, SOCK_STREAM, 0)"));
    let listen_sock = Socket::new(Domain::for_address(addr), Type::STREAM, None).at("socket", addr)?;
    let listen_fd = listen_sock.as_raw_fd();
    screen.line(format_args!("socket({family}, SOCK_STREAM, 0) = {listen_fd}"));

    // So that the port is free again at once: see lab10-timewait.
    pause.before(&mut screen, format_args!("setsockopt({listen_fd}, SOL_SOCKET, SO_REUSEADDR, 1)"));
    listen_sock.set_reuse_address(true).at("setsockopt", addr)?;

    pause.before(&mut screen, format_args!("bind({listen_fd}, {addr})"));
    listen_sock.bind(&addr.into()).at("bind", addr)?;
    let local_addr = listen_sock.local_addr().at("getsockname", addr)?.as_socket().context("not an IP socket")?;
    screen.line(format_args!("bind({listen_fd}, {addr}) = 0"));

    pause.before(&mut screen, format_args!("listen({listen_fd}, {BACKLOG})"));
    listen_sock.listen(BACKLOG).at("listen", addr)?;
    listen_sock.set_nonblocking(true).at("fcntl", addr)?; // accept(2): on some systems the client may be gone after poll
    screen.line(format_args!("listen({listen_fd}, {BACKLOG}) = 0"));
    let shop = Arc::new(Shop::new(args, stop.clone()));
    let (count, size) = (args.count, args.size);
    screen.line(format_args!("{count} files of {size} bytes: http://{local_addr}/1.bin to {count}.bin"));

    let mut threads: Vec<thread::JoinHandle<()>> = Vec::new();
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
        threads.retain(|thread| !thread.is_finished());
        match listen_sock.accept() {
            Ok((conn_sock, peer_addr)) => {
                let peer_addr = peer_addr.as_socket().context("not an IP socket")?;
                let shop = shop.clone();
                let connection = thread::Builder::new().name(format!("{peer_addr}"));
                match connection.spawn(move || serve(conn_sock, peer_addr, &shop)) {
                    Ok(thread) => threads.push(thread),
                    Err(error) => screen.line(format_args!("{peer_addr} closed: {NO_THREAD}: {error}")),
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
    for thread in threads {
        let _ = thread.join(); // each of them hears Ctrl-C, too
    }
    screen.line("Terminating ...");
    Ok(())
}
