//! One connection: the request up to the client's end of stream, its answer, and the end.

use std::{
    fmt,
    net::{Shutdown, SocketAddr},
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use anyhow::{Error, Result};
use board::{Board, Code, now};
use kernel::Patience;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv, send},
};
use shared::{Pause, Screen, Stop, escaped};
use socket2::Socket;

use crate::ServerArgs;

/// Bytes asked of one recv.
const CHUNK: usize = 65_536;
/// More of a request or an answer is not shown.
const SHOWN: usize = 60;
/// How long a client whose request is too long may go on sending it.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Longer than any client waits: no deadline at all.
const FOREVER: Duration = Duration::from_secs(1 << 40);

/// What one client may take.
pub struct Limits {
    time: Duration,
    request: usize,
}

impl Limits {
    /// As the arguments say.
    pub fn of(args: &ServerArgs) -> Result<Limits> {
        let time = if args.deadline == 0 { FOREVER } else { Duration::from_secs(args.deadline.into()) };
        Ok(Limits { time, request: usize::try_from(args.max_request)? })
    }
}

/// How a connection ended.
pub enum End {
    Answered,
    /// The request was longer than it may be.
    TooLong,
    /// The client did not shut its side down in time; so many bytes had come.
    TooSlow(usize),
    /// The client did not take its answer in time.
    NeverReads,
    /// The journal did not take the message, so the client gets no answer.
    NotPublished(Error),
    Failed(&'static str, Errno),
    Stopped,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Answered => write!(f, "answered"),
            End::TooLong => write!(f, "the request is too long"),
            End::TooSlow(bytes) => write!(f, "no end of stream in time; {bytes} bytes had come"),
            End::NeverReads => write!(f, "did not take its answer in time"),
            End::NotPublished(error) => write!(f, "not published, so not answered: {error:#}"),
            End::Failed(call, errno) => write!(f, "{call}: {errno:?} ({})", errno.desc()),
            End::Stopped => write!(f, "the server stops"),
        }
    }
}

/// Receives, answers and returns why the connection is over; the caller closes it.
pub fn serve(
    conn_sock: &Socket,
    peer_addr: SocketAddr,
    board: &mut Board,
    limits: &Limits,
    stop: &Stop,
    pause: &mut Pause,
    screen: &mut Screen,
) -> End {
    let conn_fd = conn_sock.as_raw_fd();
    let (mut request, mut buffer, mut patience) = (Vec::new(), vec![0; CHUNK], Patience::new(limits.time));
    loop {
        pause.before(screen, format_args!("recv({conn_fd}, {CHUNK})"));
        match ready(conn_sock, PollFlags::POLLIN, &mut patience, stop) {
            Ready::Yes => {}
            Ready::Stopped => return End::Stopped,
            Ready::TooLate => return End::TooSlow(request.len()),
        }
        match recv(conn_fd, &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => break, // the client's SHUT_WR, or its end: TCP says the same in both cases
            Ok(bytes_read) => request.extend(&buffer[..bytes_read]),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(errno) => return End::Failed("recv", errno),
        }
        if request.len() > limits.request {
            return refuse(conn_sock, stop);
        }
    }
    screen.line(format_args!("{peer_addr} asks     {}", shown(&request)));

    let answer = match board.answer(&request, peer_addr, now()) {
        Ok(answer) => answer,
        Err(error) => return End::NotPublished(error), // the journal: its disk is full
    };
    let (mut rest, mut patience) = (&answer[..], Patience::new(limits.time));
    while !rest.is_empty() {
        pause.before(screen, format_args!("send({conn_fd}, {} bytes)", rest.len()));
        match ready(conn_sock, PollFlags::POLLOUT, &mut patience, stop) {
            Ready::Yes => {}
            Ready::Stopped => return End::Stopped,
            Ready::TooLate => return End::NeverReads,
        }
        match send(conn_fd, rest, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT) {
            Ok(bytes_sent) => rest = &rest[bytes_sent..],
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(errno) => return End::Failed("send", errno),
        }
    }
    screen.line(format_args!("{peer_addr} is told  {}", shown(&answer)));
    End::Answered
}

/// The refusal is sent, then FIN; then what the client still sends is read. close(2) with bytes unread would be a reset
/// (lab09-shutdown, unread-input).
fn refuse(conn_sock: &Socket, stop: &Stop) -> End {
    let conn_fd = conn_sock.as_raw_fd();
    let _ = send(conn_fd, &Code::BadFormat.reply(), MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT);
    let _ = conn_sock.shutdown(Shutdown::Write); // ENOTCONN: nobody is there to be told
    let (mut thrown_away, mut patience) = (vec![0; CHUNK], Patience::new(LAST_WORDS));
    while let Ready::Yes = ready(conn_sock, PollFlags::POLLIN, &mut patience, stop) {
        match recv(conn_fd, &mut thrown_away, MsgFlags::MSG_DONTWAIT) {
            Ok(1..) | Err(Errno::EINTR | Errno::EAGAIN) => {}
            Ok(0) | Err(_) => break,
        }
    }
    End::TooLong
}

/// What waiting ended with.
enum Ready {
    Yes,
    TooLate,
    Stopped,
}

/// Waits until the next call will not block, with an eye on the clock and on Ctrl-C.
fn ready(sock: &Socket, events: PollFlags, patience: &mut Patience, stop: &Stop) -> Ready {
    while !patience.is_over() {
        let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(sock.as_fd(), events)];
        let limit = PollTimeout::try_from(patience.step()).unwrap_or(PollTimeout::ZERO);
        let woken = poll(&mut fds, limit);
        if stop.requested() {
            return Ready::Stopped;
        }
        if woken.is_ok() && fds[1].any() == Some(true) {
            return Ready::Yes;
        }
    }
    Ready::TooLate
}

/// The beginning of a request or an answer, as a terminal can show it.
fn shown(bytes: &[u8]) -> String {
    match bytes.len().checked_sub(SHOWN) {
        None | Some(0) => escaped(bytes),
        Some(more) => format!("{}... and {more} bytes more", escaped(&bytes[..SHOWN])),
    }
}
