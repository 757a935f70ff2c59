//! One client, done right: bytes are collected until a message is whole, and every end is told from every other.

use std::{
    fmt,
    net::{Shutdown, SocketAddr},
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv, send},
};
use shared::escaped;
use socket2::Socket;

use crate::{
    frames::{Fault, Frames},
    server::Hall,
};

/// The answer to every message.
pub const RECEIVED: &str = "Msg received";
/// The message that ends a conversation.
pub const DISCONNECT: &str = "!DISCONNECT";
/// Bytes asked of one recv.
const CHUNK: usize = 65536;
/// SO_SNDBUF of a connection, in bytes.
const UNREAD_ANSWERS: usize = 16 * 1024;
/// More of a message is not shown.
const SHOWN: usize = 200;
/// How long the client may take to read its last answer and close.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How a conversation ended.
pub enum End {
    Disconnected,
    /// End of stream; so many bytes of a message had come.
    Left(usize),
    Fault(Fault),
    /// A message was not whole in time; so many bytes of it had come.
    TooSlow(usize),
    /// The client did not take its answer in time.
    NeverReads,
    Failed(&'static str, Errno),
    Stopped,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Disconnected => write!(f, "{DISCONNECT}"),
            End::Left(0) => write!(f, "left without {DISCONNECT}"),
            End::Left(bytes) => write!(f, "left in the middle of a message: {bytes} bytes of header and text"),
            End::Fault(fault) => write!(f, "{fault}"),
            End::TooSlow(bytes) => write!(f, "a message was not whole in time: {bytes} bytes of header and text"),
            End::NeverReads => write!(f, "did not take its answer in time"),
            End::Failed(call, errno) => write!(f, "{call}: {errno:?} ({})", errno.desc()),
            End::Stopped => write!(f, "the server stops"),
        }
    }
}

/// Receives messages and answers each, until one of the ends.
pub fn converse(conn_sock: &Socket, peer_addr: SocketAddr, hall: &Hall) -> End {
    let conn_fd = conn_sock.as_raw_fd();
    // Answers are short. Who leaves thousands of them unread shall not fill 4 MB of the kernel's memory with them.
    let _ = conn_sock.set_send_buffer_size(UNREAD_ANSWERS); // it works on any socket; if not, patience has to do
    let mut frames = Frames::new(hall.max_message);
    let mut buffer = vec![0; CHUNK];
    let mut deadline = None; // while a message is incomplete
    loop {
        match ready(conn_sock, PollFlags::POLLIN, deadline, hall) {
            Ready::Yes => {}
            Ready::Stopped => return End::Stopped,
            Ready::TooLate => return say_goodbye(conn_sock, "too slow", End::TooSlow(frames.incomplete()), hall),
        }
        let bytes_read = match recv(conn_fd, &mut buffer, MsgFlags::empty()) {
            Ok(0) => return End::Left(frames.incomplete()), // no more comes, ever: leave the loop
            Ok(bytes_read) => bytes_read,
            Err(Errno::EINTR | Errno::EAGAIN) => continue,
            Err(errno) => return End::Failed("recv", errno),
        };
        frames.push(&buffer[..bytes_read]);
        loop {
            match frames.next_message() {
                Ok(Some(text)) => {
                    hall.say(format_args!("[{peer_addr}] {}", shown(&text)));
                    if let Err(end) = answer(conn_sock, RECEIVED, hall) {
                        return end;
                    }
                    if text == DISCONNECT {
                        return End::Disconnected;
                    }
                    deadline = None;
                }
                Ok(None) => break,
                Err(fault) => return say_goodbye(conn_sock, &fault.to_string(), End::Fault(fault), hall),
            }
        }
        if frames.incomplete() > 0 && deadline.is_none() {
            deadline = Some(Instant::now() + hall.patience);
        }
    }
}

/// One client too many: it is told, and closed without a reset.
pub fn refuse(conn_sock: &Socket, hall: &Hall) {
    say_goodbye(conn_sock, "the server serves as many clients as it may", End::Disconnected, hall);
}

/// The last answer: sent, then FIN, then what the client still sends is read. close(2) with bytes unread would be a
/// reset, and a reset destroys the answer on its way (lab09-shutdown, unread-input).
fn say_goodbye(conn_sock: &Socket, why: &str, end: End, hall: &Hall) -> End {
    if answer(conn_sock, &format!("Error: {why}"), hall).is_err() {
        return end;
    }
    let _ = conn_sock.shutdown(Shutdown::Write); // ENOTCONN: nobody is there to be told
    let deadline = Some(Instant::now() + LAST_WORDS);
    let mut thrown_away = vec![0; CHUNK];
    while let Ready::Yes = ready(conn_sock, PollFlags::POLLIN, deadline, hall) {
        match recv(conn_sock.as_raw_fd(), &mut thrown_away, MsgFlags::empty()) {
            Ok(1..) | Err(Errno::EINTR | Errno::EAGAIN) => {}
            Ok(0) | Err(_) => break,
        }
    }
    end
}

/// Sends an answer whole; a client that never reads cannot hold this thread longer than the patience.
fn answer(conn_sock: &Socket, text: &str, hall: &Hall) -> Result<(), End> {
    let deadline = Some(Instant::now() + hall.patience);
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        match ready(conn_sock, PollFlags::POLLOUT, deadline, hall) {
            Ready::Yes => {}
            Ready::Stopped => return Err(End::Stopped),
            Ready::TooLate => return Err(End::NeverReads),
        }
        match send(conn_sock.as_raw_fd(), rest, MsgFlags::MSG_DONTWAIT) {
            Ok(bytes_sent) => rest = &rest[bytes_sent..],
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(errno) => return Err(End::Failed("send", errno)), // EPIPE, ECONNRESET
        }
    }
    Ok(())
}

enum Ready {
    Yes,
    Stopped,
    TooLate,
}

/// Waits until a call on this socket will not block, until the deadline, or until Ctrl-C.
fn ready(sock: &Socket, events: PollFlags, deadline: Option<Instant>, hall: &Hall) -> Ready {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let limit = left.map_or(PollTimeout::NONE, |left| PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
        let mut fds = [PollFd::new(hall.stop.as_fd(), PollFlags::POLLIN), PollFd::new(sock.as_fd(), events)];
        match poll(&mut fds, limit) {
            _ if hall.stop.requested() => return Ready::Stopped,
            Ok(0) if left.is_some_and(|left| left.is_zero()) => return Ready::TooLate,
            Ok(1..) => return Ready::Yes,
            _ => {} // EINTR, or the clock of poll was a little early
        }
    }
}

/// A message as it is printed: one line, and not a long one.
pub fn shown(text: &str) -> String {
    let beginning: String = text.chars().take(SHOWN).collect();
    let rest = text.len() - beginning.len();
    let more = if rest > 0 { format!("... and {rest} bytes more") } else { String::new() };
    format!("{}{more}", escaped(beginning.as_bytes()))
}
