//! Terminal 1: the main thread accepts into a bounded queue; a fixed pool of threads takes from it and echoes.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    thread,
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use shared::{Pause, Screen, Stop};
use socket2::Socket;

use crate::{
    MultiArgs, ServerArgs,
    echo::{Stopping, echo},
    queue::Queue,
    single::{is_transient, listening},
};

/// Without a free descriptor, accept is tried again after this time.
const ACCEPT_AGAIN_MS: u16 = 100;

/// A connection on its way from accept to a worker.
type Accepted = (Socket, SocketAddr);

/// Serves until Ctrl-C. Then what was accepted is finished, in the kernel's queue as well as in ours.
pub fn run(args: &MultiArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    let stopping = Stopping::new(&stop);
    let mut pause = Pause::new(args.server.pause, &stop);
    let mut screen = Screen::new();
    let listen_sock = listening(&args.server, &mut pause, &mut screen)?;
    let queue = Queue::new(args.queue);

    thread::scope(|scope| {
        for number in 1..=args.threads {
            let (queue, stopping) = (&queue, &stopping);
            let worker = thread::Builder::new().name(format!("worker {number}"));
            let started = worker.spawn_scoped(scope, move || work(number, queue, &args.server, stopping));
            if started.is_err() {
                queue.close(); // the workers that did start shall end
            }
            started.with_context(|| format!("thread {number} of {} cannot be started: ulimit -u", args.threads))?;
        }
        // While the queue is full the main thread waits in put and hears no Ctrl-C; this one does.
        let (queue, stop_heard, stopping) = (&queue, &stop, &stopping);
        thread::Builder::new().name("signals".into()).spawn_scoped(scope, move || {
            let mut fds = [PollFd::new(stop_heard.as_fd(), PollFlags::POLLIN)];
            while poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {}
            stopping.note();
            queue.lift_limit();
        })?;

        let result = accept_all(&listen_sock, queue, &args.server, stopping, &mut pause, &mut screen);
        drop(listen_sock); // close(2): from now on connect is refused
        queue.close(); // each worker takes what is left, and ends
        result
    })?;
    screen.line("Terminating ...");
    Ok(())
}

/// The main thread: accepts until Ctrl-C, and then what still waits in the kernel's queue.
fn accept_all(
    listen_sock: &Socket,
    queue: &Queue<Accepted>,
    args: &ServerArgs,
    stopping: &Stopping,
    pause: &mut Pause,
    screen: &mut Screen,
) -> Result<()> {
    let mut asked = false; // --pause asks once for each connection
    let mut late = 0; // accepted after Ctrl-C: no more than the kernel's queue held
    loop {
        if late > args.backlog.max(0) {
            return Ok(());
        }
        if !asked && !stopping.requested() {
            pause.before(screen, format_args!("accept({})", listen_sock.as_raw_fd()));
            asked = true;
        }
        match listen_sock.accept() {
            Ok((conn_sock, peer_addr)) => {
                let peer_addr = peer_addr.as_socket().context("not an IP socket")?;
                if !args.quiet {
                    let before = queue.len();
                    let full = if queue.is_full() { ": it is full" } else { "" };
                    screen.line(format_args!("main: accepted {peer_addr}, {before} in the queue before it{full}"));
                }
                asked = false;
                queue.put((conn_sock, peer_addr)); // waits while the queue is full
                late += i32::from(stopping.requested());
            }
            Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EAGAIN) if stopping.requested() => return Ok(()), // the kernel's queue is empty
                Some(Errno::EAGAIN) => {
                    let stop = stopping.stop().as_fd();
                    let mut fds = [stop, listen_sock.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
                    if poll(&mut fds, PollTimeout::NONE).is_ok() && fds[0].any() == Some(true) {
                        stopping.note();
                    }
                }
                Some(errno) if is_transient(errno) => {}
                Some(errno @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)) => {
                    screen.line(format_args!("main: accept: {errno:?} ({}): whoever connects waits", errno.desc()));
                    let mut fds = [PollFd::new(stopping.stop().as_fd(), PollFlags::POLLIN)];
                    if poll(&mut fds, PollTimeout::from(ACCEPT_AGAIN_MS)) == Ok(1) {
                        return Ok(());
                    }
                }
                _ => screen.line(format_args!("main: accept: {error}")), // accept(2): the new connection's error
            },
        }
    }
}

/// A thread of the pool: takes a connection, echoes until it ends, takes the next.
fn work(number: usize, queue: &Queue<Accepted>, args: &ServerArgs, stopping: &Stopping) {
    let mut screen = Screen::new();
    let mut say = |text: std::fmt::Arguments| {
        if !args.quiet {
            screen.line(format_args!("worker {number}: {text}")); // a whole line: standard output has a lock
        }
    };
    say(format_args!("waits for a connection"));
    while let Some((conn_sock, peer_addr)) = queue.take() {
        say(format_args!("serves {peer_addr}"));
        let echoed = echo(&conn_sock, args.deadline.0, stopping);
        drop(conn_sock); // close(2)
        say(format_args!("{peer_addr}: {echoed}"));
    }
}
