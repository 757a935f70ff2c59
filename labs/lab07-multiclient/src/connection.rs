//! One client as the server sees it: its socket, the line it is in the middle of, what waits to be sent to it.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags},
    sys::socket::{MsgFlags, recv, send},
};
use socket2::Socket;

use crate::{
    lines::{Line, LineSplitter},
    outbox::Outbox,
};

/// How long a connection that is over waits for the other end to take the last bytes and close.
const LEAVE_LIMIT: Duration = Duration::from_secs(2);

/// What recv told.
pub enum Received {
    /// These lines are complete; perhaps none is.
    Lines(Vec<Line>),
    /// End of stream, and perhaps a line that was cut by it.
    End(Option<Line>),
}

/// A connected client.
pub struct Connection {
    sock: Socket,
    pub peer_addr: SocketAddr,
    lines: LineSplitter,
    outbox: Outbox,
    /// It has sent a line since the operator's last one.
    pub has_sent: bool,
    /// Set once no more is asked of it; past this time it is closed whatever it does.
    leaving: Option<Instant>,
    refused: bool,
    /// It said end of stream.
    ended: bool,
}

impl Connection {
    pub fn new(sock: Socket, peer_addr: SocketAddr) -> Self {
        let (lines, outbox) = (LineSplitter::default(), Outbox::default());
        Connection { sock, peer_addr, lines, outbox, has_sent: false, leaving: None, refused: false, ended: false }
    }

    /// What to wait for: bytes from it, and room for more bytes to it only while some wait.
    pub fn poll_fd(&self) -> PollFd<'_> {
        let mut events = PollFlags::empty();
        events.set(PollFlags::POLLIN, !self.ended);
        events.set(PollFlags::POLLOUT, !self.outbox.is_empty());
        PollFd::new(self.sock.as_fd(), events)
    }

    /// Reads once, so that a client that never stops sending delays nobody.
    pub fn receive(&mut self, buffer: &mut [u8]) -> nix::Result<Received> {
        match recv(self.sock.as_raw_fd(), buffer, MsgFlags::empty()) {
            Ok(0) if self.ended => Ok(Received::Lines(Vec::new())),
            Ok(0) => {
                self.ended = true;
                Ok(Received::End(self.lines.rest()))
            }
            Ok(_) if self.refused => Ok(Received::Lines(Vec::new())), // read only to throw away
            Ok(bytes_read) => Ok(Received::Lines(self.lines.push(&buffer[..bytes_read]))),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Received::Lines(Vec::new())),
            Err(errno) => Err(errno), // ECONNRESET: the client closed with bytes unread, or with SO_LINGER 0
        }
    }

    /// Queues a line and sends what the kernel takes now. False: it has not read for so long that its queue is full.
    pub fn say(&mut self, line: &str) -> nix::Result<bool> {
        self.flush()?;
        let fits = self.outbox.push(line);
        self.flush()?;
        Ok(fits)
    }

    /// Sends what waits, as far as the socket's send buffer has room. Never blocks.
    pub fn flush(&mut self) -> nix::Result<()> {
        while !self.outbox.is_empty() {
            match send(self.sock.as_raw_fd(), self.outbox.next(), MsgFlags::empty()) {
                Ok(bytes_sent) => self.outbox.sent(bytes_sent),
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno), // EPIPE, ECONNRESET: nobody is there any more
            }
        }
        if self.leaving.is_some() {
            // ENOTCONN: the other end is gone altogether; then there is nothing to tell it.
            let _ = self.sock.shutdown(std::net::Shutdown::Write);
        }
        Ok(())
    }

    /// Its descriptor.
    pub fn fd(&self) -> i32 {
        self.sock.as_raw_fd()
    }

    /// No more lines: send what waits, then FIN, then read until its FIN. close(2) with bytes unread would send a
    /// reset, and a reset destroys what is still under way to it.
    pub fn leave(&mut self) -> nix::Result<()> {
        self.leaving = Some(Instant::now() + LEAVE_LIMIT);
        self.flush()
    }

    /// Tells it why it cannot come in, and closes without a reset.
    pub fn refuse(&mut self, why: &str) -> nix::Result<()> {
        self.refused = true;
        self.say(why)?;
        self.leave()
    }

    /// It counts among the clients.
    pub fn is_in(&self) -> bool {
        self.leaving.is_none()
    }

    /// When to close it at the latest.
    pub fn leave_by(&self) -> Option<Instant> {
        self.leaving
    }

    /// Both directions are done, or its time is up.
    pub fn is_over(&self) -> bool {
        let done = self.ended && self.outbox.is_empty();
        self.leaving.is_some_and(|leave_by| done || Instant::now() >= leave_by)
    }

    /// Closes with a reset: SO_LINGER 0 throws away what the kernel still holds for a client that never reads.
    pub fn give_up(&mut self) {
        self.leaving = Some(Instant::now());
        let _ = self.sock.set_linger(Some(Duration::ZERO)); // if it fails, an ordinary close follows
    }
}
