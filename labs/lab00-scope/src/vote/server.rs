//! Serves the page over one poll loop: every connection has its turn, its limits and its deadline.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::poll::PollFlags;
use nix::sys::resource::{Resource, getrlimit};
use shared::At;
use socket2::{Domain, Protocol, Socket, Type};

use super::http::{Answer, Parsed, parse};
use super::routes::Class;

/// A request must be whole, and an answer taken, within this time.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// A kept connection may be silent so long; a page asks every two seconds.
const IDLE_LIMIT: Duration = Duration::from_secs(15);
/// Connections that wait to be accepted: a whole class that taps at once.
const BACKLOG: i32 = 1024;
/// Connections at once, and the descriptors that are left for everything else.
const MOST_CONNECTIONS: usize = 2000;
const OTHER_DESCRIPTORS: u64 = 32;
/// A connection that was not served within this time makes room for another one.
const TURN_LIMIT: Duration = Duration::from_secs(1);
/// Connections accepted before those that are there have their turn.
const ACCEPTED_AT_ONCE: usize = 64;
/// What one turn of one connection may read.
const TURN: usize = 4096;

/// The socket that listens, and the connections.
pub struct Server {
    listen_sock: Socket,
    connections: Vec<Connection>,
    most: usize,
    /// Somebody waits to be accepted, and there is no room yet.
    full: bool,
}

struct Connection {
    conn_sock: TcpStream,
    received: Vec<u8>,
    /// What is still to be sent.
    answer: Vec<u8>,
    sent: usize,
    /// A request was answered.
    served: bool,
    /// It ends once all is sent.
    last: bool,
    accepted: Instant,
    /// Until then something must have happened.
    deadline: Instant,
}

impl Server {
    /// Listens there.
    ///
    /// # Errors
    /// As socket(2), bind(2) and listen(2).
    pub fn listen(addr: SocketAddr) -> Result<Server> {
        let listen_sock = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP));
        let listen_sock = listen_sock.at("socket", addr)?;
        listen_sock.set_reuse_address(true).at("setsockopt", "SO_REUSEADDR")?;
        listen_sock.bind(&addr.into()).at("bind", addr)?;
        listen_sock.listen(BACKLOG).at("listen", addr)?;
        listen_sock.set_nonblocking(true).at("fcntl", "O_NONBLOCK")?;
        let (descriptors, _) = getrlimit(Resource::RLIMIT_NOFILE).at("getrlimit", "RLIMIT_NOFILE")?;
        let most = usize::try_from(descriptors.saturating_sub(OTHER_DESCRIPTORS)).unwrap_or(usize::MAX);
        Ok(Server { listen_sock, connections: Vec::new(), most: most.clamp(1, MOST_CONNECTIONS), full: false })
    }

    /// Where it listens; the kernel chose the port if it was 0.
    ///
    /// # Errors
    /// As getsockname(2).
    pub fn local_addr(&self) -> Result<SocketAddr> {
        let local_addr = self.listen_sock.local_addr().at("getsockname", "")?;
        local_addr.as_socket().context("the listening socket has no IP address")
    }

    /// What is to be polled, and for what; [`Server::serve`] takes what poll(2) said, in the same order.
    pub fn descriptors(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let listener = (self.listen_sock.as_fd(), if self.full { PollFlags::empty() } else { PollFlags::POLLIN });
        std::iter::once(listener).chain(self.connections.iter().map(|connection| {
            let waits_for = if connection.answer.is_empty() { PollFlags::POLLIN } else { PollFlags::POLLOUT };
            (connection.conn_sock.as_fd(), waits_for)
        }))
    }

    /// Gives every connection that is ready its turn, ends those that took too long, and accepts new ones.
    pub fn serve(&mut self, ready: &[PollFlags], class: &mut Class, now: Instant) {
        let mut turns = ready.iter().skip(1);
        self.connections.retain_mut(|connection| {
            let ready = turns.next().is_some_and(|events| !events.is_empty());
            if ready { connection.turn(class, now) } else { connection.is_in_time(now) }
        });
        if self.full || ready.first().is_some_and(|events| !events.is_empty()) {
            self.accept(now);
        }
    }

    fn accept(&mut self, now: Instant) {
        for _ in 0..ACCEPTED_AT_ONCE {
            self.full = self.connections.len() >= self.most && !self.make_room(now);
            if self.full {
                return; // the accept queue holds them meanwhile
            }
            match self.listen_sock.accept() {
                Ok((conn_sock, _)) => {
                    if conn_sock.set_nonblocking(true).and_then(|()| conn_sock.set_tcp_nodelay(true)).is_ok() {
                        self.connections.push(Connection::new(conn_sock.into(), now));
                    }
                }
                // The peer has gone again (ECONNABORTED); a signal came: the next one.
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                // EAGAIN: nobody waits. EMFILE and the like: the next turn, when others have gone.
                Err(_) => return,
            }
        }
    }
}

impl Server {
    /// Ends the connection that needs its place least: served and silent, it comes again by itself; else one that has
    /// been silent or slow for a while. False if all of them are new.
    fn make_room(&mut self, now: Instant) -> bool {
        let order = |at: &usize| (!self.connections[*at].is_idle(), self.connections[*at].accepted);
        let Some(first) = (0..self.connections.len()).min_by_key(order) else { return true };
        let may_go = self.connections[first].is_idle()
            || now.saturating_duration_since(self.connections[first].accepted) > TURN_LIMIT;
        if may_go {
            self.connections.swap_remove(first);
        }
        may_go
    }
}

impl Connection {
    fn new(conn_sock: TcpStream, now: Instant) -> Connection {
        let deadline = now + REQUEST_LIMIT;
        Connection {
            conn_sock,
            received: Vec::new(),
            answer: Vec::new(),
            sent: 0,
            served: false,
            last: false,
            accepted: now,
            deadline,
        }
    }

    /// Served, and nothing of a next request has come.
    fn is_idle(&self) -> bool {
        self.served && self.received.is_empty() && self.answer.is_empty()
    }

    /// Whether it may stay although nothing happened. Who began a request is told that it took too long.
    fn is_in_time(&mut self, now: Instant) -> bool {
        if now >= self.deadline && !self.received.is_empty() && self.answer.is_empty() {
            let _ = self.conn_sock.write(&Answer::refusal(408).bytes(false, false)); // nobody may be there to read it
        }
        now < self.deadline
    }

    /// Reads or writes once; false if the connection is over.
    fn turn(&mut self, class: &mut Class, now: Instant) -> bool {
        if now >= self.deadline {
            return self.is_in_time(now);
        }
        if self.answer.is_empty() {
            let mut buffer = [0; TURN];
            match self.conn_sock.read(&mut buffer) {
                Ok(0) => return false, // end of stream; half a request is none
                Ok(bytes_read) => self.take(&buffer[..bytes_read], class, now),
                Err(error) => return matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
            }
        }
        self.send(class, now)
    }

    fn take(&mut self, bytes: &[u8], class: &mut Class, now: Instant) {
        if self.last {
            return; // what follows the last request is read away and not looked at
        }
        if self.received.is_empty() {
            self.deadline = now + REQUEST_LIMIT; // from the first byte on, however slowly the others come
        }
        self.received.extend(bytes);
        self.next(class, now);
    }

    /// Answers the first request that was received, if it is whole.
    fn next(&mut self, class: &mut Class, now: Instant) {
        match parse(&self.received) {
            Parsed::Part => return,
            Parsed::Whole(request, length) => {
                self.received.drain(..length);
                self.last = !request.keep;
                self.answer = class.answer(&request, now).bytes(request.keep, request.method == "HEAD");
            }
            Parsed::Refused(status) => {
                self.last = true;
                self.answer = Answer::refusal(status).bytes(false, false);
            }
        }
        self.sent = 0;
        self.deadline = now + REQUEST_LIMIT;
    }

    fn send(&mut self, class: &mut Class, now: Instant) -> bool {
        while self.sent < self.answer.len() {
            match self.conn_sock.write(&self.answer[self.sent..]) {
                Ok(0) => return false,
                Ok(bytes_sent) => self.sent += bytes_sent,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
            if self.sent < self.answer.len() {
                continue;
            }
            if self.last {
                return self.finish(now);
            }
            self.answer.clear();
            self.sent = 0;
            self.served = true;
            self.deadline = now + if self.received.is_empty() { IDLE_LIMIT } else { REQUEST_LIMIT };
            if !self.received.is_empty() {
                self.next(class, now); // it was sent behind the last one
                return true; // and waits for its turn to be sent
            }
        }
        true
    }

    /// Everything is sent. What the peer still sends is read away for a moment: a close with unread bytes would reset
    /// the connection, and the answer might be lost with it.
    fn finish(&mut self, now: Instant) -> bool {
        self.answer.clear();
        self.sent = 0;
        self.deadline = self.deadline.min(now + Duration::from_secs(1));
        self.conn_sock.shutdown(std::net::Shutdown::Write).is_ok()
    }
}
