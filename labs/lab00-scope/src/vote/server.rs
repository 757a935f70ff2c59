//! Serves the page over one poll loop: every connection has its turn, and makes room when there are too many.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::poll::PollFlags;
use nix::sys::resource::{Resource, getrlimit};
use shared::At;
use socket2::{Domain, Protocol, Socket, Type};

use super::connection::Connection;
use super::routes::Class;

/// Connections that wait to be accepted: a whole class that taps at once.
const BACKLOG: i32 = 1024;
/// Connections at once, and the descriptors that are left for everything else.
const MOST_CONNECTIONS: usize = 2000;
const OTHER_DESCRIPTORS: u64 = 32;
/// A connection that was not served within this time makes room for another one.
const TURN_LIMIT: Duration = Duration::from_secs(1);
/// Connections accepted before those that are there have their turn.
const ACCEPTED_AT_ONCE: usize = 64;
/// The socket that listens, and the connections.
pub struct Server {
    listen_sock: Socket,
    connections: Vec<Connection>,
    most: usize,
    /// Somebody waits to be accepted, and there is no room yet.
    full: bool,
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
            let waits_for = if connection.sends() { PollFlags::POLLOUT } else { PollFlags::POLLIN };
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
