//! An answer on its way: at its pace, as far as the client takes it, and until Ctrl-C.

use std::{
    fmt,
    os::fd::{AsFd, AsRawFd},
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use kernel::Patience;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, send},
};
use socket2::Socket;

use crate::{
    connection::{CHUNK, PATIENCE, Shop},
    request::{Answer, Request},
};

/// A file leaves in so many steps or more.
const STEPS: u64 = 40;
/// Between two looks at Ctrl-C while no place is free.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How a connection ended.
pub enum End {
    /// The client has closed it, or asked us to.
    Good,
    TooSlow(&'static str),
    Failed(&'static str, Errno),
    /// As `--break` says, after so many bytes.
    Broken(u64),
    Stopped,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Good => write!(f, "all answered"),
            End::TooSlow(what) => write!(f, "{what} within {PATIENCE:?}"),
            End::Failed(call, errno) => write!(f, "{call}: {errno:?} ({})", errno.desc()),
            End::Broken(bytes) => write!(f, "broken halfway, shutdown after {bytes} bytes"),
            End::Stopped => write!(f, "the server stops"),
        }
    }
}

/// Sends a header, and the file or the part of it; how many bytes of the file.
pub fn respond(conn_sock: &Socket, request: &Request, answer: &Answer, shop: &Shop) -> Result<u64, End> {
    send_all(conn_sock, answer.head(request.is_last()).as_bytes(), shop)?;
    let Some(content) = answer.content.filter(|_| !request.is_head()) else {
        send_all(conn_sock, answer.text.as_bytes(), shop)?;
        return Ok(0);
    };
    let breaks = shop.broken == Some(content.number) && answer.status == 200;
    let half = (breaks && !shop.has_broken.swap(true, Relaxed)).then_some(content.size / 2);
    let _place = loop {
        match shop.places.take(LOOK_AGAIN) {
            Some(place) => break place,
            None if shop.stop.requested() => return Err(End::Stopped),
            None => {}
        }
    };
    let (mut turn, step) = (shop.pace.turn(), (content.size / STEPS).clamp(1024, CHUNK as u64));
    let (mut at, to, mut buffer) = (answer.from, half.unwrap_or(answer.to), [0; CHUNK]);
    while at < to {
        let length = step.min(to - at);
        wait_until_due(turn.due(length), shop)?;
        content.fill(at, &mut buffer[..length as usize]);
        send_all(conn_sock, &buffer[..length as usize], shop)?;
        at += length;
    }
    match half {
        Some(half) => Err(End::Broken(half)),
        None => Ok(to - answer.from),
    }
}

/// The pace: waits, with an eye on Ctrl-C.
fn wait_until_due(due: Instant, shop: &Shop) -> Result<(), End> {
    loop {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        let rounded_up = left + Duration::from_micros(999); // poll counts in milliseconds
        let limit = PollTimeout::try_from(rounded_up).unwrap_or(PollTimeout::MAX);
        let _ = poll(&mut [PollFd::new(shop.stop.as_fd(), PollFlags::POLLIN)], limit); // EINTR: look at the clock
        if shop.stop.requested() {
            return Err(End::Stopped);
        }
    }
}

/// Sends all of it.
fn send_all(conn_sock: &Socket, bytes: &[u8], shop: &Shop) -> Result<(), End> {
    let (mut rest, mut patience) = (bytes, Patience::new(PATIENCE));
    while !rest.is_empty() {
        ready(conn_sock, PollFlags::POLLOUT, &mut patience, shop, "no bytes were taken")?;
        match send(conn_sock.as_raw_fd(), rest, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT) {
            Ok(bytes_sent) => rest = &rest[bytes_sent..],
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(errno) => return Err(End::Failed("send", errno)),
        }
    }
    Ok(())
}

/// Waits until the next call will not block, with an eye on the clock and on Ctrl-C.
pub fn ready(
    sock: &Socket,
    events: PollFlags,
    patience: &mut Patience,
    shop: &Shop,
    what: &'static str,
) -> Result<(), End> {
    while !patience.is_over() {
        let mut fds = [PollFd::new(shop.stop.as_fd(), PollFlags::POLLIN), PollFd::new(sock.as_fd(), events)];
        let limit = PollTimeout::try_from(patience.step()).unwrap_or(PollTimeout::ZERO);
        let woken = poll(&mut fds, limit);
        if shop.stop.requested() {
            return Err(End::Stopped);
        }
        if woken.is_ok() && fds[1].any() == Some(true) {
            return Ok(());
        }
    }
    Err(End::TooSlow(what))
}
