//! One client as the server sees it: the socket, the frame that has begun to arrive, the bytes that wait to be sent.

use std::{
    collections::VecDeque,
    fmt,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags},
    sys::socket::{MsgFlags, recv, send},
};
use shared::escaped;
use socket2::Socket;

use crate::frames::{Bad, Frames, frame};

/// With so many bytes waiting, nothing more is put behind them: the board keeps the messages, and remembers how far each
/// client is. So a client that does not read costs this much, one message, and the kernel's buffers.
const OUTBOX_FULL: usize = 64 * 1024;
/// A connection that is being closed waits so long for the other end to take the last bytes and to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A connected client.
pub struct Connection {
    sock: Socket,
    pub peer_addr: SocketAddr,
    pub name: Option<String>,
    /// The newest message that was queued for this client; None: the client has not asked to be told.
    pub told: Option<u64>,
    frames: Frames,
    outbox: VecDeque<u8>,
    /// Since when bytes wait and the kernel takes none of them.
    stuck_since: Option<Instant>,
    /// There is more to do, and others had to have their turn first.
    pub more: bool,
    /// Deadline of a connection that is being closed; None while the client is in.
    close_by: Option<Instant>,
    /// recv has returned 0: the client has closed its sending side.
    pub end_seen: bool,
}

impl Connection {
    pub fn new(sock: Socket, peer_addr: SocketAddr) -> Self {
        Connection {
            sock,
            peer_addr,
            name: None,
            told: None,
            frames: Frames::default(),
            outbox: VecDeque::new(),
            stuck_since: None,
            more: false,
            close_by: None,
            end_seen: false,
        }
    }

    /// What to wait for: bytes from the client, if there is room for the answers; room in the send buffer, but only while
    /// bytes wait to be sent.
    pub fn poll_fd(&self) -> PollFd<'_> {
        let mut events = PollFlags::empty();
        events.set(PollFlags::POLLIN, !self.end_seen && (self.has_room() && !self.more || !self.is_in()));
        events.set(PollFlags::POLLOUT, !self.outbox.is_empty() || self.more);
        PollFd::new(self.sock.as_fd(), events)
    }

    /// Reads once, so that a client that never stops sending delays nobody.
    pub fn receive(&mut self, buffer: &mut [u8]) -> nix::Result<()> {
        match recv(self.sock.as_raw_fd(), buffer, MsgFlags::empty()) {
            Ok(0) => self.end_seen = true,
            Ok(_) if !self.is_in() => {} // read only to throw away
            Ok(bytes_read) => self.frames.push(&buffer[..bytes_read]),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => return Err(errno), // ECONNRESET: killed with bytes unread; ETIMEDOUT: keepalive had no answer
        }
        Ok(())
    }

    /// The next request, if it is there as a whole.
    pub fn next_request(&mut self) -> Result<Option<Vec<u8>>, Bad> {
        if self.is_in() { self.frames.next() } else { Ok(None) }
    }

    /// Bytes of a request that has begun; at the end of the stream, nobody will send the rest.
    pub fn cut_bytes(&self) -> usize {
        self.frames.rest().len()
    }

    /// Queues a frame. What does not fit into the kernel's buffer waits here.
    pub fn say(&mut self, body: &[u8]) {
        self.outbox.extend(frame(body));
    }

    /// Sends what waits, as far as the socket's send buffer has room. Never blocks.
    pub fn flush(&mut self) -> nix::Result<()> {
        while !self.outbox.is_empty() {
            match send(self.sock.as_raw_fd(), self.outbox.as_slices().0, MsgFlags::empty()) {
                Ok(bytes_sent) => {
                    self.outbox.drain(..bytes_sent);
                    self.stuck_since = None;
                }
                Err(Errno::EAGAIN) => {
                    self.stuck_since.get_or_insert_with(Instant::now);
                    return Ok(());
                }
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

    /// No more frames: send what waits, then FIN, then read until the client's FIN. close(2) with bytes unread would send
    /// a reset, and a reset destroys what is still on its way to the client.
    pub fn leave(&mut self) {
        self.close_by = Some(Instant::now() + CLOSE_TIMEOUT);
        self.flush().unwrap_or_else(|_| self.give_up());
    }

    /// Closes with a reset: SO_LINGER 0 throws away what the kernel still holds for a client that never reads.
    pub fn give_up(&mut self) {
        self.close_by = Some(Instant::now());
        let _ = self.sock.set_linger(Some(Duration::ZERO)); // if it fails, an ordinary close follows
    }

    /// Whether the client counts among those that are in.
    pub fn is_in(&self) -> bool {
        self.close_by.is_none()
    }

    /// Whether another frame may be queued.
    pub fn has_room(&self) -> bool {
        self.outbox.len() < OUTBOX_FULL
    }

    /// When to look at this connection again at the latest: to close it, or to drop a client that takes nothing.
    pub fn deadline(&self, patience: Duration) -> Option<Instant> {
        self.close_by.or(self.stuck_since.map(|since| since + patience))
    }

    /// Whether the client has taken nothing for so long.
    pub fn is_stuck(&self, patience: Duration) -> bool {
        self.is_in() && self.stuck_since.is_some_and(|since| since.elapsed() >= patience)
    }

    /// Both directions are closed, or the deadline has passed.
    pub fn is_over(&self) -> bool {
        let done = self.end_seen && self.outbox.is_empty();
        self.close_by.is_some_and(|close_by| done || Instant::now() >= close_by)
    }

    /// The socket's descriptor.
    pub fn fd(&self) -> i32 {
        self.sock.as_raw_fd()
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{} [{}]", escaped(name.as_bytes()), self.peer_addr),
            None => write!(f, "[{}]", self.peer_addr),
        }
    }
}
