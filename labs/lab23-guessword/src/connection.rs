//! One client as the server sees it: the socket, the line that has begun to arrive, the bytes that wait to be sent.

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

/// A connection that is being closed waits so long for the other end to take the next bytes, or to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// And so long in all: a client that takes a byte now and then is closed, too.
const CLOSE_LIMIT: Duration = Duration::from_secs(60);

/// What one recv brought.
pub enum Received {
    /// The lines that are complete now; there may be none.
    Lines(Vec<Line>),
    /// End of stream, and the line that it cut, if there is one.
    End(Option<Line>),
}

/// A connected client.
pub struct Connection {
    sock: Socket,
    pub peer_addr: SocketAddr,
    /// None until the client's first line has come.
    pub name: Option<String>,
    lines: LineSplitter,
    outbox: Outbox,
    /// Deadline of a connection that is being closed; None while the client is in.
    close_by: Option<Instant>,
    /// No deadline is later.
    close_limit: Option<Instant>,
    refused: bool,
    /// recv has returned 0: the client has closed its sending side.
    end_seen: bool,
}

impl Connection {
    pub fn new(sock: Socket, peer_addr: SocketAddr) -> Self {
        let (lines, outbox) = (LineSplitter::default(), Outbox::default());
        Connection {
            sock,
            peer_addr,
            name: None,
            lines,
            outbox,
            close_by: None,
            close_limit: None,
            refused: false,
            end_seen: false,
        }
    }

    /// What to wait for: bytes from the client; and room in the send buffer, but only while bytes wait to be sent.
    pub fn poll_fd(&self) -> PollFd<'_> {
        let mut events = PollFlags::empty();
        events.set(PollFlags::POLLIN, !self.end_seen);
        events.set(PollFlags::POLLOUT, !self.outbox.is_empty());
        PollFd::new(self.sock.as_fd(), events)
    }

    /// Whether bytes wait to be sent.
    pub fn waits_to_be_sent(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Reads once, so that a client that never stops sending delays nobody.
    pub fn receive(&mut self, buffer: &mut [u8]) -> nix::Result<Received> {
        match recv(self.sock.as_raw_fd(), buffer, MsgFlags::empty()) {
            Ok(0) if self.end_seen => Ok(Received::Lines(Vec::new())),
            Ok(0) => {
                self.end_seen = true;
                Ok(Received::End(self.lines.rest()))
            }
            Ok(_) if self.refused => Ok(Received::Lines(Vec::new())), // read only to throw away
            Ok(bytes_read) => Ok(Received::Lines(self.lines.push(&buffer[..bytes_read]))),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Received::Lines(Vec::new())),
            Err(errno) => Err(errno), // ECONNRESET: the client closed with bytes unread, or with SO_LINGER 0
        }
    }

    /// Queues a line; [`Connection::flush`] sends it. False: the client has not read for so long that the queue is full.
    pub fn say(&mut self, line: &str) -> nix::Result<bool> {
        if self.outbox.push(line) {
            return Ok(true);
        }
        self.flush()?;
        Ok(self.outbox.push(line))
    }

    /// Sends what waits, as far as the socket's send buffer has room. Never blocks.
    pub fn flush(&mut self) -> nix::Result<()> {
        while !self.outbox.is_empty() {
            match send(self.sock.as_raw_fd(), self.outbox.front(), MsgFlags::empty()) {
                Ok(bytes_sent) => {
                    self.outbox.sent(bytes_sent);
                    self.close_by = self.close_limit.map(|limit| limit.min(Instant::now() + CLOSE_TIMEOUT));
                }
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno), // EPIPE, ECONNRESET: the client has closed
            }
        }
        if self.close_by.is_some() {
            // ENOTCONN: the connection is gone; no end of stream can be sent.
            let _ = self.sock.shutdown(std::net::Shutdown::Write);
        }
        Ok(())
    }

    /// The socket's descriptor.
    pub fn fd(&self) -> i32 {
        self.sock.as_raw_fd()
    }

    /// No more lines: send what waits, then FIN, then read until the client's FIN. close(2) with bytes unread would send
    /// a reset, and a reset destroys what is still on its way to the client.
    pub fn leave(&mut self) -> nix::Result<()> {
        self.close_by = Some(Instant::now() + CLOSE_TIMEOUT);
        self.close_limit = Some(Instant::now() + CLOSE_LIMIT);
        self.flush()
    }

    /// Tells the client why it cannot come in, and closes without a reset.
    pub fn refuse(&mut self, why: &str) -> nix::Result<()> {
        self.refused = true;
        self.say(why)?;
        self.leave()
    }

    /// Whether the client counts among those that are in.
    pub fn is_in(&self) -> bool {
        self.close_by.is_none()
    }

    /// When to close the connection at the latest.
    pub fn close_by(&self) -> Option<Instant> {
        self.close_by
    }

    /// Both directions are closed, or the deadline has passed.
    pub fn is_over(&self) -> bool {
        let done = self.end_seen && self.outbox.is_empty();
        self.close_by.is_some_and(|close_by| done || Instant::now() >= close_by)
    }

    /// Closes with a reset: SO_LINGER 0 throws away what the kernel still holds for a client that never reads.
    pub fn give_up(&mut self) {
        self.close_by = Some(Instant::now());
        self.close_limit = self.close_by;
        let _ = self.sock.set_linger(Some(Duration::ZERO)); // if it fails, an ordinary close follows
    }
}
