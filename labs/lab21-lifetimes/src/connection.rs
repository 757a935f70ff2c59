//! One connection of a server: requests in, answers out, and how it ends. No call here blocks.

use std::{
    fmt,
    net::{Shutdown, SocketAddr},
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags},
    sys::socket::{MsgFlags, recv, send},
};
use shared::{Pause, Screen};
use socket2::Socket;

use crate::service::Service;

/// Bytes asked of one recv.
const CHUNK: usize = 4096;
/// How long a client may take its last answer, and close.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Why a connection is over.
pub enum End {
    /// The client closed, or shut its side down.
    ByClient,
    /// This server did, after its last answer.
    ByServer,
    /// This server did: nothing came, or nothing was taken, for so long.
    Idle(Duration),
    Failed(&'static str, Errno),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::ByClient => write!(f, "the client closed first"),
            End::ByServer => write!(f, "this server closed first"),
            End::Idle(limit) => write!(f, "idle for {} s: this server closed first", limit.as_secs()),
            End::Failed(call, errno) => write!(f, "{call}: {errno:?} ({})", errno.desc()),
        }
    }
}

/// A client that is in.
pub struct Connection {
    pub sock: Socket,
    pub peer_addr: SocketAddr,
    pub since: Instant,
    /// Requests answered.
    pub answered: u64,
    /// Set once it is over.
    pub end: Option<End>,
    input: Vec<u8>,
    output: Vec<u8>,
    /// The client's FIN has come.
    heard_all: bool,
    /// The last answer is in `output`, or sent.
    last: bool,
    /// This end's FIN is sent; what the client still sends is thrown away.
    shut: bool,
    idle_limit: Option<Duration>,
    pub deadline: Option<Instant>,
}

impl Connection {
    pub fn new(sock: Socket, peer_addr: SocketAddr, idle_limit: Option<Duration>) -> Connection {
        let since = Instant::now();
        let deadline = idle_limit.map(|limit| since + limit);
        let (input, output) = (Vec::new(), Vec::new());
        let (heard_all, last, shut) = (false, false, false);
        Connection {
            sock,
            peer_addr,
            since,
            answered: 0,
            end: None,
            input,
            output,
            heard_all,
            last,
            shut,
            idle_limit,
            deadline,
        }
    }

    /// What poll shall wait for: an answer is sent before more is read.
    pub fn poll_fd(&self) -> PollFd<'_> {
        let events = if self.output.is_empty() { PollFlags::POLLIN } else { PollFlags::POLLOUT };
        PollFd::new(self.sock.as_fd(), events)
    }

    /// poll says that this socket is ready.
    pub fn serve(&mut self, service: &mut Service, pause: &mut Pause, screen: &mut Screen) {
        if self.output.is_empty() {
            self.receive(pause, screen);
        }
        self.go_on(service, pause, screen);
    }

    /// Its time is over.
    pub fn is_late(&mut self) {
        let limit = self.idle_limit.unwrap_or_default();
        self.end = Some(if self.shut { End::ByServer } else { End::Idle(limit) });
    }

    fn receive(&mut self, pause: &mut Pause, screen: &mut Screen) {
        let (fd, mut buffer) = (self.sock.as_raw_fd(), [0; CHUNK]);
        pause.before(screen, format_args!("recv({fd}, {CHUNK})"));
        match recv(fd, &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => self.heard_all = true,
            Ok(_) if self.shut => {}
            Ok(bytes_read) => {
                self.input.extend(&buffer[..bytes_read]);
                self.was_heard_of();
            }
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(errno) => self.end = Some(End::Failed("recv", errno)),
        }
    }

    /// Answers and sends as far as it goes without waiting.
    fn go_on(&mut self, service: &mut Service, pause: &mut Pause, screen: &mut Screen) {
        while self.end.is_none() {
            self.send(pause, screen);
            if !self.output.is_empty() || self.end.is_some() {
                return;
            }
            if self.shut {
                self.end = self.heard_all.then_some(End::ByServer);
                return;
            }
            if self.last {
                // FIN behind the last answer. close(2) would be a reset if more of the client's bytes came (lab09).
                pause.before(screen, format_args!("shutdown({}, SHUT_WR)", self.sock.as_raw_fd()));
                let _ = self.sock.shutdown(Shutdown::Write); // ENOTCONN: the client is gone, and recv says so
                self.shut = true;
                self.deadline = Some(Instant::now() + LAST_WORDS);
                continue;
            }
            let answer = service.answer(&mut self.input, self.answered + 1, self.since.elapsed(), self.heard_all);
            let Some(answer) = answer else {
                self.end = self.heard_all.then_some(End::ByClient);
                return;
            };
            self.answered += 1;
            screen.line(format_args!("{} {}", self.peer_addr, answer.told));
            self.last = answer.last;
            self.output = answer.bytes;
        }
    }

    fn send(&mut self, pause: &mut Pause, screen: &mut Screen) {
        while !self.output.is_empty() {
            let fd = self.sock.as_raw_fd();
            pause.before(screen, format_args!("send({fd}, {} bytes)", self.output.len()));
            match send(fd, &self.output, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT) {
                Ok(bytes_sent) => {
                    self.output.drain(..bytes_sent);
                    self.was_heard_of();
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                Err(errno) => {
                    self.end = Some(End::Failed("send", errno));
                    return;
                }
            }
        }
    }

    fn was_heard_of(&mut self) {
        if !self.shut {
            self.deadline = self.idle_limit.map(|limit| Instant::now() + limit);
        }
    }
}
