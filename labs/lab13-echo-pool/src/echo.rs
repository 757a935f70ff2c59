//! One connection: what comes in goes out again, until end of stream.

use std::{
    fmt,
    os::fd::{AsFd, AsRawFd},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv, send},
};
use shared::Stop;
use socket2::Socket;

/// Bytes asked of one recv.
const CHUNK: usize = 4096;
/// After Ctrl-C: a client that is silent for so long has nothing on its way to us.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// How a connection ended, and how many bytes were echoed.
pub struct Echoed {
    pub bytes: u64,
    pub end: End,
}

pub enum End {
    Finished,
    Deadline,
    Stopped,
    Failed(&'static str, Errno),
}

impl fmt::Display for Echoed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "echoed {} byte{}, ", self.bytes, if self.bytes == 1 { "" } else { "s" })?;
        match self.end {
            End::Finished => write!(f, "end of stream"),
            End::Deadline => write!(f, "then nothing in time: closed"),
            End::Stopped => write!(f, "the server stops: closed"),
            End::Failed(call, errno) => write!(f, "{call}: {errno:?} ({})", errno.desc()),
        }
    }
}

/// Ctrl-C as every thread of a server sees it.
pub struct Stopping<'a> {
    stop: &'a Stop,
    /// Set once Ctrl-C was seen: then silence is waited for, and no longer Ctrl-C.
    seen: AtomicBool,
}

impl<'a> Stopping<'a> {
    pub fn new(stop: &'a Stop) -> Self {
        Stopping { stop, seen: AtomicBool::new(false) }
    }

    /// The signals, to be polled.
    pub fn stop(&self) -> &Stop {
        self.stop
    }

    /// Whether Ctrl-C was seen by somebody.
    pub fn requested(&self) -> bool {
        self.seen.load(Ordering::SeqCst)
    }

    /// Somebody found the signals readable.
    pub fn note(&self) {
        self.seen.store(true, Ordering::SeqCst);
    }
}

/// Echoes until one of the ends. After Ctrl-C it still echoes what was on its way.
pub fn echo(conn_sock: &Socket, deadline: Option<Duration>, stopping: &Stopping) -> Echoed {
    let conn_fd = conn_sock.as_raw_fd();
    let mut buffer = [0; CHUNK];
    let mut bytes = 0;
    loop {
        let bytes_read = match recv(conn_fd, &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => return Echoed { bytes, end: End::Finished },
            Ok(bytes_read) => bytes_read,
            Err(Errno::EINTR) => continue,
            Err(Errno::EAGAIN) => match wait(conn_sock, PollFlags::POLLIN, deadline, stopping) {
                Some(end) => return Echoed { bytes, end },
                None => continue,
            },
            Err(errno) => return Echoed { bytes, end: End::Failed("recv", errno) }, // ECONNRESET
        };
        let mut rest = &buffer[..bytes_read];
        while !rest.is_empty() {
            match send(conn_fd, rest, MsgFlags::MSG_DONTWAIT) {
                Ok(bytes_sent) => {
                    bytes += bytes_sent as u64;
                    rest = &rest[bytes_sent..];
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    if let Some(end) = wait(conn_sock, PollFlags::POLLOUT, deadline, stopping) {
                        return Echoed { bytes, end };
                    }
                }
                Err(errno) => return Echoed { bytes, end: End::Failed("send", errno) }, // EPIPE, ECONNRESET
            }
        }
    }
}

/// Waits until a call on this socket will not block; else why there is nothing to wait for any more.
fn wait(sock: &Socket, events: PollFlags, deadline: Option<Duration>, stopping: &Stopping) -> Option<End> {
    loop {
        let stopped = stopping.requested();
        let limit = if stopped { Some(LAST_WORDS) } else { deadline };
        let timeout = limit.map_or(PollTimeout::NONE, |limit| PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX));
        let mut fds = [PollFd::new(sock.as_fd(), events), PollFd::new(stopping.stop().as_fd(), PollFlags::POLLIN)];
        let polled = if stopped { 1 } else { 2 };
        match poll(&mut fds[..polled], timeout) {
            Ok(0) => return Some(if stopped { End::Stopped } else { End::Deadline }),
            Ok(_) if fds[0].any() == Some(true) => return None,
            Ok(_) => stopping.note(), // Ctrl-C: once more, for the last words
            Err(_) => {}              // EINTR
        }
    }
}
