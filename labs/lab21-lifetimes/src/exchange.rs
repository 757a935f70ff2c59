//! One request over one connection, and its answer: the head, then as many bytes as it says.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use anyhow::{Result, anyhow, bail};
use kernel::Patience;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv, send},
};
use shared::{At, Pause, Screen, Stop};
use socket2::Socket;

use crate::http::Head;

/// Bytes asked of one recv.
const CHUNK: usize = 65_536;
/// An answer must be whole after so long.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// A longer answer is refused: a server that never stops shall not fill this machine's memory.
const BODY_LIMIT: usize = 1 << 26;

/// How one request over one connection ended.
pub enum Exchange {
    /// The answer's head, its body, and whether the connection may carry another request.
    Answer(Head, Vec<u8>, bool),
    /// The connection was over before the first byte of an answer.
    Gone(&'static str),
    Stopped,
}

/// Sends a request and receives its answer.
pub fn exchange(
    sock: &Socket,
    addr: SocketAddr,
    request: &[u8],
    stop: &Stop,
    pause: &mut Pause,
    screen: &mut Screen,
) -> Result<Exchange> {
    let (fd, mut patience) = (sock.as_raw_fd(), Patience::new(ANSWER_LIMIT));
    let mut rest = request;
    while !rest.is_empty() {
        pause.before(screen, format_args!("send({fd}, {} bytes)", rest.len()));
        match comes(sock, PollFlags::POLLOUT, &mut patience, stop)? {
            Come::Yes => {}
            Come::Stopped => return Ok(Exchange::Stopped),
            Come::TooLate => bail!("{addr} takes no request within {ANSWER_LIMIT:?}"),
        }
        match send(fd, rest, MsgFlags::MSG_NOSIGNAL) {
            Ok(bytes_sent) => rest = &rest[bytes_sent..],
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(Errno::EPIPE) => return Ok(Exchange::Gone("send says EPIPE")),
            Err(Errno::ECONNRESET) => return Ok(Exchange::Gone("send says ECONNRESET")),
            Err(errno) => return Ok(Err(errno).at("send", addr)?),
        }
    }

    let (mut input, mut buffer) = (Vec::new(), vec![0; CHUNK]);
    loop {
        pause.before(screen, format_args!("recv({fd}, {CHUNK})"));
        match comes(sock, PollFlags::POLLIN, &mut patience, stop)? {
            Come::Yes => {}
            Come::Stopped => return Ok(Exchange::Stopped),
            Come::TooLate => bail!("{addr} has not answered within {ANSWER_LIMIT:?}"),
        }
        let ended = match recv(fd, &mut buffer, MsgFlags::empty()) {
            Ok(0) if input.is_empty() => return Ok(Exchange::Gone("recv returns 0")),
            Ok(bytes_read) => {
                input.extend(&buffer[..bytes_read]);
                bytes_read == 0
            }
            Err(Errno::EINTR | Errno::EAGAIN) => continue,
            Err(Errno::ECONNRESET) if input.is_empty() => return Ok(Exchange::Gone("recv says ECONNRESET")),
            Err(errno) => return Ok(Err(errno).at("recv", addr)?),
        };
        if let Some((head, length)) = Head::parse(&input).map_err(|why| anyhow!("no answer of HTTP/1.1: {why}"))? {
            let body = &input[length..];
            let told = if ["204", "304"].contains(&head.words[1].as_str()) {
                Some(0)
            } else {
                head.body_length().map_err(|why| anyhow!(why))?
            };
            // Without Content-Length the end of the stream ends the body: RFC 9112 6.3.
            match told {
                Some(bytes) if body.len() >= bytes => {
                    let stays = head.keeps_connection() && body.len() == bytes && !ended;
                    let body = body[..bytes].to_vec();
                    return Ok(Exchange::Answer(head, body, stays));
                }
                None if ended => {
                    let body = body.to_vec();
                    return Ok(Exchange::Answer(head, body, false));
                }
                told if told.unwrap_or(body.len()) > BODY_LIMIT => {
                    bail!("the answer is longer than {BODY_LIMIT} bytes")
                }
                _ => {}
            }
        }
        if ended {
            bail!("{addr} closed in the middle of an answer, after {} bytes", input.len());
        }
    }
}

/// What waiting ended with.
pub enum Come {
    Yes,
    TooLate,
    Stopped,
}

/// Waits until the next call will not block, with an eye on the clock and on Ctrl-C.
///
/// # Errors
/// What poll(2) says.
pub fn comes(sock: &Socket, events: PollFlags, patience: &mut Patience, stop: &Stop) -> Result<Come> {
    while !patience.is_over() {
        let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(sock.as_fd(), events)];
        let woken = poll(&mut fds, PollTimeout::try_from(patience.step())?);
        if stop.requested() {
            return Ok(Come::Stopped);
        }
        match woken {
            Ok(0) | Err(Errno::EINTR) => {}
            result => return Ok(result.at("poll", "").map(|_| Come::Yes)?),
        }
    }
    Ok(Come::TooLate)
}
