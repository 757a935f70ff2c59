//! Terminal 3 for TCP: accepts, connects on, and hands every byte over after the delay. One connection at a time.

use std::{
    collections::VecDeque,
    net::Shutdown,
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv, send},
};
use shared::{At, Pause, Screen, Stop};
use socket2::{Domain, Socket, Type};

use crate::{
    RELAY, RelayArgs, place,
    udp::{BUFFER_SIZE, until},
};

/// Bytes that may be on their way in one direction; then the relay reads no more, and the sender's window fills.
const ON_THE_WAY: usize = 4 << 20;

/// Relays until Ctrl-C.
pub fn run(args: &RelayArgs) -> Result<()> {
    let addr = place(&args.address, RELAY)?;
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();
    let family = if addr.is_ipv6() { "AF_INET6" } else { "AF_INET" };

    pause.before(&mut screen, format_args!("socket({family}, SOCK_STREAM, 0)"));
    let listen_sock = Socket::new(Domain::for_address(addr), Type::STREAM, None).at("socket", addr)?;
    let listen_fd = listen_sock.as_raw_fd();

    pause.before(&mut screen, format_args!("setsockopt({listen_fd}, SOL_SOCKET, SO_REUSEADDR, 1)"));
    listen_sock.set_reuse_address(true).at("setsockopt", addr)?;

    pause.before(&mut screen, format_args!("bind({listen_fd}, {addr})"));
    listen_sock.bind(&addr.into()).at("bind", addr)?;

    pause.before(&mut screen, format_args!("listen({listen_fd}, 16)"));
    listen_sock.listen(16).at("listen", addr)?;
    listen_sock.set_nonblocking(true).at("fcntl", addr)?;
    let local_addr = listen_sock.local_addr().at("getsockname", addr)?.as_socket().context("not an IP socket")?;
    screen
        .line(format_args!("Relay is bound to {local_addr}, sends on to {} after {} ms, TCP", args.to, args.delay_ms));

    let delay = Duration::from_millis(args.delay_ms.into());
    loop {
        pause.before(&mut screen, format_args!("accept({listen_fd})"));
        let mut fds =
            [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(listen_sock.as_fd(), PollFlags::POLLIN)];
        while poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {}
        if stop.requested() {
            break;
        }
        let Ok((client_sock, _)) = listen_sock.accept() else { continue }; // gone meanwhile
        let server_sock = Socket::new(Domain::for_address(args.to), Type::STREAM, None).at("socket", args.to)?;
        let served = match server_sock.connect(&args.to.into()).at("connect", args.to) {
            Ok(()) => relay(&client_sock, &server_sock, delay, &stop),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = served {
            screen.line(format_args!("This connection is over: {error:#}")); // close(2) tells both ends
        }
    }
    drop(listen_sock); // close(2)
    Ok(())
}

/// One direction of a connection.
struct Half<'a> {
    from: &'a Socket,
    to: &'a Socket,
    /// Bytes, and when they are due; nothing in it is the end of the stream.
    waiting: VecDeque<(Duration, Vec<u8>)>,
    bytes: usize,
    read_to_end: bool,
    shut: bool,
}

/// Until both directions have ended, or Ctrl-C.
fn relay(client_sock: &Socket, server_sock: &Socket, delay: Duration, stop: &Stop) -> Result<()> {
    for sock in [client_sock, server_sock] {
        sock.set_nonblocking(true).at("fcntl", "")?;
        sock.set_tcp_nodelay(true).at("setsockopt", "")?; // only the delay shall delay
    }
    let half = |from, to| Half { from, to, waiting: VecDeque::new(), bytes: 0, read_to_end: false, shut: false };
    let mut halves = [half(client_sock, server_sock), half(server_sock, client_sock)];
    let start = Instant::now();
    let mut buffer = vec![0; BUFFER_SIZE];
    while !halves.iter().all(|half| half.shut) && !stop.requested() {
        let now = start.elapsed();
        let mut fds = vec![PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        let mut deadline = None;
        for half in &halves {
            let reads = !half.read_to_end && half.bytes < ON_THE_WAY;
            fds.push(PollFd::new(half.from.as_fd(), if reads { PollFlags::POLLIN } else { PollFlags::empty() }));
            let due = half.waiting.front().map(|(at, _)| *at);
            let writes = due.is_some_and(|at| at <= now);
            fds.push(PollFd::new(half.to.as_fd(), if writes { PollFlags::POLLOUT } else { PollFlags::empty() }));
            if let (false, Some(at)) = (writes, due) {
                deadline = Some(deadline.map_or(at, |other: Duration| other.min(at)));
            }
        }
        match poll(&mut fds, until(deadline, now)) {
            Err(Errno::EINTR) => continue,
            result => _ = result.at("poll", "")?,
        }
        for half in &mut halves {
            half.step(&mut buffer, start, delay)?;
        }
    }
    Ok(())
}

impl Half<'_> {
    /// Takes what has come, hands over what is due.
    fn step(&mut self, buffer: &mut [u8], start: Instant, delay: Duration) -> Result<()> {
        if !self.read_to_end && self.bytes < ON_THE_WAY {
            match recv(self.from.as_raw_fd(), buffer, MsgFlags::empty()) {
                Ok(bytes_read) => {
                    self.read_to_end = bytes_read == 0;
                    self.bytes += bytes_read;
                    self.waiting.push_back((start.elapsed() + delay, buffer[..bytes_read].to_vec()));
                }
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(errno) => Err(errno).at("recv", "")?,
            }
        }
        while let Some((_, bytes)) = self.waiting.front_mut().filter(|(at, _)| *at <= start.elapsed()) {
            if bytes.is_empty() {
                let _ = self.to.shutdown(Shutdown::Write); // ENOTCONN: nobody is left to be told
                self.shut |= self.read_to_end && self.waiting.len() == 1;
                self.waiting.pop_front();
                continue;
            }
            match send(self.to.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL) {
                Ok(bytes_sent) => {
                    bytes.drain(..bytes_sent);
                    self.bytes -= bytes_sent;
                    if bytes.is_empty() {
                        self.waiting.pop_front();
                    }
                }
                Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
                Err(errno) => Err(errno).at("send", "")?,
            }
        }
        Ok(())
    }
}
