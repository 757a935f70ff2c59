//! Terminal 1: accepts one connection, echoes until it ends, and only then accepts the next.

use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use shared::{At, Pause, Screen, Stop};
use socket2::{Domain, Socket, Type};

use crate::{
    ServerArgs,
    echo::{Stopping, echo},
};

/// Serves client after client until Ctrl-C.
pub fn run(args: &ServerArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    let stopping = Stopping::new(&stop);
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();
    let listen_sock = listening(args, &mut pause, &mut screen)?;
    loop {
        screen.line("Waiting for a connection to be accepted");
        pause.before(&mut screen, format_args!("accept({})", listen_sock.as_raw_fd()));
        let mut fds = [stop.as_fd(), listen_sock.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        if poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {
            continue;
        }
        if stop.requested() {
            break;
        }
        let (conn_sock, peer_addr) = match listen_sock.accept() {
            Ok((conn_sock, peer_addr)) => (conn_sock, peer_addr.as_socket().context("not an IP socket")?),
            Err(error) if error.raw_os_error().map(Errno::from_raw).is_some_and(is_transient) => continue,
            Err(error) => return Ok(Err(error).at("accept", args.address)?),
        };
        if !args.quiet {
            screen.line(format_args!("One connection accepted from {peer_addr}"));
        }
        let echoed = echo(&conn_sock, args.deadline.0, &stopping);
        drop(conn_sock); // close(2)
        if !args.quiet {
            screen.line(format_args!("{peer_addr}: {echoed}"));
        }
    }
    drop(listen_sock); // close(2)
    screen.line("Terminating ...");
    Ok(())
}

/// The four calls that both servers begin with; the last line names the address.
pub fn listening(args: &ServerArgs, pause: &mut Pause, screen: &mut Screen) -> Result<Socket> {
    let addr = args.address;
    let family = if addr.is_ipv6() { "AF_INET6" } else { "AF_INET" };
    pause.before(screen, format_args!("socket({family}, SOCK_STREAM, 0)"));
    let listen_sock = Socket::new(Domain::for_address(addr), Type::STREAM, None).at("socket", addr)?;
    let listen_fd = listen_sock.as_raw_fd();
    screen.line("Socket created");

    // So that the port is free again at once: see lab10-timewait.
    pause.before(screen, format_args!("setsockopt({listen_fd}, SOL_SOCKET, SO_REUSEADDR, 1)"));
    listen_sock.set_reuse_address(true).at("setsockopt", addr)?;

    pause.before(screen, format_args!("bind({listen_fd}, {addr})"));
    listen_sock.bind(&addr.into()).at("bind", addr)?;

    // The manual leaves it out where it says that the server is ready; without it every connect is refused (lab06).
    pause.before(screen, format_args!("listen({listen_fd}, {})", args.backlog));
    listen_sock.listen(args.backlog).at("listen", addr)?;
    listen_sock.set_nonblocking(true).at("fcntl", addr)?; // accept(2): on some systems the client may be gone after poll
    let local_addr = listen_sock.local_addr().at("getsockname", addr)?.as_socket().context("not an IP socket")?;
    screen.line(format_args!("Listening on {local_addr}"));
    Ok(listen_sock)
}

/// Errors that are over with the call: try again.
pub fn is_transient(errno: Errno) -> bool {
    matches!(errno, Errno::EINTR | Errno::EAGAIN | Errno::ECONNABORTED)
}
