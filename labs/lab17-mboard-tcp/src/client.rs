//! Terminal 2: the lecture's client. It connects, asks, shuts its side down, reads the answer to its end, and closes.

use std::{
    io::stdin,
    net::{Shutdown, SocketAddr},
    os::fd::{AsFd, AsRawFd},
    process::ExitCode,
};

use anyhow::{Result, bail, ensure};
use board::{Message, Request, messages, reply};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv, send},
    unistd::read,
};
use shared::{At, Pause, Screen, Stop, escaped};
use socket2::{Domain, Socket, Type};

use crate::{ClientArgs, place};

/// Bytes asked of one recv, and of one read.
const CHUNK: usize = 65_536;
/// A longer answer is refused: a server that never stops shall not fill this machine's memory.
const ANSWER_LIMIT: usize = 1 << 30;

/// A connected client.
struct Client<'a> {
    sock: Socket,
    server_addr: SocketAddr,
    stop: &'a Stop,
    pause: Pause<'a>,
    screen: Screen,
}

/// Publishes or reads, as the arguments say. Any error ends the client: the lecture's policy.
pub fn run(args: &ClientArgs) -> Result<ExitCode> {
    let addr = place(&args.address)?;
    ensure!(addr.port() != 0, "nobody is at port 0: a port from 1 to 65535");
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();

    let family = if addr.is_ipv6() { "AF_INET6" } else { "AF_INET" };
    pause.before(&mut screen, format_args!("socket({family}, SOCK_STREAM, 0)"));
    let sock = Socket::new(Domain::for_address(addr), Type::STREAM, None).at("socket", addr)?;
    let fd = sock.as_raw_fd();

    pause.before(&mut screen, format_args!("connect({fd}, {addr})"));
    sock.set_nonblocking(true).at("fcntl", addr)?; // poll waits for the handshake, and for Ctrl-C beside it
    let mut connected = sock.connect(&addr.into());
    if connected.as_ref().is_err_and(|error| error.raw_os_error() == Some(Errno::EINPROGRESS as i32)) {
        let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(sock.as_fd(), PollFlags::POLLOUT)];
        while poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {} // after a signal handler: signal(7)
        if stop.requested() {
            return Ok(ExitCode::SUCCESS);
        }
        connected = sock.take_error().and_then(|error| error.map_or(Ok(()), Err)); // SO_ERROR
    }
    connected.at("connect", addr)?;

    let mut client = Client { sock, server_addr: addr, stop: &stop, pause, screen };
    let asked = match args.publish.as_deref() {
        Some("-") => client.send(b"1:")?.and(client.send_standard_input()?),
        Some(text) => client.send(&Request::Publish { text: text.as_bytes() }.encode())?,
        None => client.send(&Request::GetLast { count: args.last }.encode())?,
    };
    let Some(()) = asked else { return Ok(ExitCode::SUCCESS) };

    // FIN: the end of the request. The other direction stays open for the answer.
    client.pause.before(&mut client.screen, format_args!("shutdown({fd}, SHUT_WR)"));
    let _ = client.sock.shutdown(Shutdown::Write); // ENOTCONN: the server was faster, and recv says how
    let Some(answer) = client.answer()? else { return Ok(ExitCode::SUCCESS) };
    client.pause.before(&mut client.screen, format_args!("close({fd})"));
    drop(client.sock); // close(2)

    let mut screen = client.screen;
    let payload = reply(&answer)?;
    if args.publish.is_some() {
        screen.line("Message Published");
        return Ok(ExitCode::SUCCESS);
    }
    for Message { id, time, author, text } in messages(payload)? {
        screen.line(format_args!("{id}  {:.2}  {author}  {}", time.as_secs_f64(), escaped(&text)));
    }
    Ok(ExitCode::SUCCESS)
}

impl Client<'_> {
    /// Sends all of it; `None` after Ctrl-C.
    fn send(&mut self, bytes: &[u8]) -> Result<Option<()>> {
        let (fd, mut rest) = (self.sock.as_raw_fd(), bytes);
        while !rest.is_empty() {
            self.pause.before(&mut self.screen, format_args!("send({fd}, {} bytes)", rest.len()));
            if !self.ready(PollFlags::POLLOUT)? {
                return Ok(None);
            }
            match send(fd, rest, MsgFlags::MSG_NOSIGNAL) {
                Ok(bytes_sent) => rest = &rest[bytes_sent..],
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(Errno::EPIPE | Errno::ECONNRESET) => match self.answer() {
                    Ok(Some(answer)) if !answer.is_empty() => {
                        reply(&answer)?; // the server says why
                        bail!("the server answered before it had the whole request");
                    }
                    _ => bail!("send {}: the server has closed the connection", self.server_addr),
                },
                Err(errno) => return Ok(Err(errno).at("send", self.server_addr)?),
            }
        }
        Ok(Some(()))
    }

    /// Sends standard input as it comes, to its end; `None` after Ctrl-C.
    fn send_standard_input(&mut self) -> Result<Option<()>> {
        let (input, mut buffer) = (stdin(), vec![0; CHUNK]);
        loop {
            let mut fds = [self.stop.as_fd(), input.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            if poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {
                continue;
            }
            if self.stop.requested() {
                return Ok(None);
            }
            match read(&input, &mut buffer) {
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Ok(0) => return Ok(Some(())),
                bytes_read => {
                    let bytes_read = bytes_read.at("read", "standard input")?;
                    if self.send(&buffer[..bytes_read])?.is_none() {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// All bytes up to the server's end of stream; `None` after Ctrl-C.
    fn answer(&mut self) -> Result<Option<Vec<u8>>> {
        let fd = self.sock.as_raw_fd();
        let (mut answer, mut buffer) = (Vec::new(), vec![0; CHUNK]);
        loop {
            self.pause.before(&mut self.screen, format_args!("recv({fd}, {CHUNK})"));
            if !self.ready(PollFlags::POLLIN)? {
                return Ok(None);
            }
            match recv(fd, &mut buffer, MsgFlags::empty()) {
                Ok(0) => return Ok(Some(answer)),
                Ok(bytes_read) => answer.extend(&buffer[..bytes_read]),
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(errno) => return Ok(Err(errno).at("recv", self.server_addr)?),
            }
            ensure!(answer.len() <= ANSWER_LIMIT, "the answer is longer than {ANSWER_LIMIT} bytes");
        }
    }

    /// Waits until the next call will not block; false after Ctrl-C.
    fn ready(&self, events: PollFlags) -> Result<bool> {
        let mut fds = [PollFd::new(self.stop.as_fd(), PollFlags::POLLIN), PollFd::new(self.sock.as_fd(), events)];
        loop {
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => {}
                result => return Ok(result.at("poll", "").map(|_| !self.stop.requested())?),
            }
        }
    }
}
