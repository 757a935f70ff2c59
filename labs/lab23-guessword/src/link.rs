//! A client's connection: what came, what waits to be sent, how it ends. None of these calls blocks but connect.

use std::{
    net::{Shutdown, SocketAddr},
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv, send},
};
use shared::{At, CallError, Pause, Screen, Stop};
use socket2::{Domain, Socket, Type};

use crate::{
    lines::{Line, LineSplitter},
    outbox::Outbox,
};

/// Bytes asked of one recv: more than a client sends at a time, so that it keeps up with the answers to its own lines.
pub const CHUNK: usize = 64 * 1024;
/// A client that leaves waits so long for the server's next bytes, or for its end of stream.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A connected client.
pub struct Link {
    sock: Socket,
    peer_addr: SocketAddr,
    outbox: Outbox,
    heard: LineSplitter,
    buffer: Vec<u8>,
    /// Deadline of a client that is leaving; None before end of input or Ctrl-C.
    pub close_by: Option<Instant>,
    /// The deadline moves while bytes come: after end of input, not after Ctrl-C.
    patient: bool,
    /// shutdown(SHUT_WR) has been called.
    shut: bool,
}

impl Link {
    /// Tries one address after the other, as a name may have several; `None` after Ctrl-C.
    pub fn connect(
        addresses: &[SocketAddr],
        stop: &Stop,
        pause: &mut Pause,
        screen: &mut Screen,
    ) -> Result<Option<Link>> {
        let mut last_failure: Option<CallError> = None;
        for &addr in addresses {
            let family = if addr.is_ipv6() { "AF_INET6" } else { "AF_INET" };
            pause.before(screen, format_args!("socket({family}, SOCK_STREAM, 0)"));
            let sock = Socket::new(Domain::for_address(addr), Type::STREAM, None).at("socket", addr)?;
            sock.set_nonblocking(true).at("fcntl", addr)?; // no call below blocks; poll does

            pause.before(screen, format_args!("connect({}, {addr})", sock.as_raw_fd()));
            let mut connected = sock.connect(&addr.into());
            if connected.as_ref().is_err_and(|error| error.raw_os_error() == Some(Errno::EINPROGRESS as i32)) {
                let mut fds =
                    [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(sock.as_fd(), PollFlags::POLLOUT)];
                while poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {} // after a signal handler: signal(7)
                if stop.requested() {
                    return Ok(None);
                }
                connected = sock.take_error().and_then(|error| error.map_or(Ok(()), Err)); // SO_ERROR
            }
            match connected.at("connect", addr) {
                Ok(()) => return Ok(Some(Link::new(sock, addr))),
                Err(error) => last_failure = Some(error),
            }
        }
        Err(last_failure.context("getaddrinfo found no address")?.into())
    }

    fn new(sock: Socket, peer_addr: SocketAddr) -> Self {
        let (outbox, heard, buffer) = (Outbox::default(), LineSplitter::default(), vec![0; CHUNK]);
        Link { sock, peer_addr, outbox, heard, buffer, close_by: None, patient: false, shut: false }
    }

    /// The socket's descriptor.
    pub fn fd(&self) -> i32 {
        self.sock.as_raw_fd()
    }

    /// What to wait for: bytes from the server; and room in the send buffer, but only while bytes wait to be sent.
    pub fn poll_fd(&self) -> PollFd<'_> {
        let mut events = PollFlags::POLLIN;
        events.set(PollFlags::POLLOUT, !self.outbox.is_empty());
        PollFd::new(self.sock.as_fd(), events)
    }

    /// Whether typed lines are welcome. Not while a line waits to be sent: then the program that feeds this one has to
    /// wait, too.
    pub fn takes_lines(&self) -> bool {
        self.close_by.is_none() && self.outbox.is_empty()
    }

    /// How long poll may wait.
    pub fn timeout(&self) -> Result<PollTimeout> {
        Ok(match self.close_by {
            Some(close_by) => PollTimeout::try_from(close_by.saturating_duration_since(Instant::now()))?,
            None => PollTimeout::NONE,
        })
    }

    /// Whether a client that leaves has waited long enough for the server; `idle` where poll found nothing to do.
    pub fn is_over(&self, idle: bool) -> bool {
        self.close_by.is_some_and(|close_by| Instant::now() >= close_by) && (idle || !self.patient)
    }

    /// Reads what the server said; None at the end of the server's stream.
    pub fn receive(&mut self) -> Result<Option<Vec<Line>>> {
        match recv(self.sock.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
            Ok(0) => Ok(None), // half a line has no meaning
            Ok(bytes_read) => {
                if self.patient {
                    self.close_by = Some(Instant::now() + CLOSE_TIMEOUT);
                }
                Ok(Some(self.heard.push(&self.buffer[..bytes_read])))
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Some(Vec::new())),
            Err(errno) => Ok(Err(errno).at("recv", self.peer_addr)?),
        }
    }

    /// Queues a line; [`Link::flush`] sends it.
    pub fn say(&mut self, line: &str) -> Result<()> {
        ensure!(self.outbox.push(line), "more typed at once than the queue holds");
        Ok(())
    }

    /// No more lines. What waits is still sent, and what the server still sends is read: all of it if `patient`.
    pub fn leave(&mut self, patient: bool) -> Result<()> {
        self.patient = patient;
        self.close_by = Some(Instant::now() + CLOSE_TIMEOUT);
        self.flush()
    }

    /// Sends what waits, as far as the send buffer has room; a client that is leaving sends FIN after the last byte.
    pub fn flush(&mut self) -> Result<()> {
        while !self.outbox.is_empty() {
            match send(self.sock.as_raw_fd(), self.outbox.front(), MsgFlags::empty()) {
                Ok(bytes_sent) => self.outbox.sent(bytes_sent),
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => Err(errno).at("send", self.peer_addr)?,
            }
        }
        if self.close_by.is_some() && !self.shut {
            let _ = self.sock.shutdown(Shutdown::Write); // ENOTCONN: the server is gone already
            self.shut = true;
        }
        Ok(())
    }
}
