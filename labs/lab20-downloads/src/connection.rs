//! One connection: request after request, until one says that it is the last.

use std::{
    fmt,
    net::{Shutdown, SocketAddr},
    os::fd::{AsFd, AsRawFd},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use kernel::Patience;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv, send},
};
use shared::{Screen, Stop};
use socket2::Socket;

use crate::{
    FilesArgs,
    content::Content,
    pace::{Pace, Places},
    request::{Answer, Request, answer},
};

/// Bytes asked of one recv.
const CHUNK: usize = 16_384;
/// A longer request is refused.
const REQUEST_LIMIT: usize = 16_384;
/// How long a client may take for a request, or for taking some bytes.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a client may go on sending after the last answer.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// A file leaves in so many steps or more.
const STEPS: u64 = 40;
/// Between two looks at Ctrl-C while no place is free.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What all connections share.
pub struct Shop {
    pub files: Vec<(Content, OnceLock<[u8; 32]>)>,
    pace: Pace,
    places: Places,
    /// The file whose connection breaks halfway, once.
    broken: Option<u16>,
    has_broken: AtomicBool,
    stop: Arc<Stop>,
}

impl Shop {
    pub fn new(args: &FilesArgs, stop: Arc<Stop>) -> Shop {
        let file = |number| (Content { number, size: args.size }, OnceLock::new());
        Shop {
            files: (1..=args.count).map(file).collect(),
            pace: Pace::new(args.seconds, args.size, args.link),
            places: Places::new(args.workers.into()),
            broken: args.broken,
            has_broken: AtomicBool::new(false),
            stop,
        }
    }
}

/// How a connection ended.
enum End {
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

/// Serves one connection to its end.
pub fn serve(conn_sock: Socket, peer_addr: SocketAddr, shop: &Shop) {
    let end = requests(&conn_sock, peer_addr, shop).err().unwrap_or(End::Good);
    let _ = conn_sock.shutdown(if matches!(end, End::Broken(_)) { Shutdown::Both } else { Shutdown::Write });
    if !matches!(end, End::Good) {
        Screen::new().line(format_args!("{peer_addr} closed: {end}"));
    }
    if let End::Good = end {
        // close(2) with bytes unread would be a reset (lab09-shutdown, unread-input).
        let (mut thrown_away, mut patience) = ([0; CHUNK], Patience::new(LAST_WORDS));
        while ready(&conn_sock, PollFlags::POLLIN, &mut patience, shop, "").is_ok() {
            match recv(conn_sock.as_raw_fd(), &mut thrown_away, MsgFlags::MSG_DONTWAIT) {
                Ok(1..) | Err(Errno::EINTR | Errno::EAGAIN) => {}
                Ok(0) | Err(_) => break,
            }
        }
    }
    drop(conn_sock); // close(2)
}

/// Reads requests and answers them, up to the last one.
fn requests(conn_sock: &Socket, peer_addr: SocketAddr, shop: &Shop) -> Result<(), End> {
    let conn_fd = conn_sock.as_raw_fd();
    // Header and file leave in two calls: without this option the second would wait for an acknowledgement (lab08).
    conn_sock.set_tcp_nodelay(true).map_err(|_| End::Good)?;
    let (mut received, mut buffer) = (Vec::new(), [0; CHUNK]);
    loop {
        let mut patience = Patience::new(PATIENCE);
        let (request, length) = loop {
            if let Some(parsed) = Request::parse(&received) {
                break parsed;
            }
            if received.len() > REQUEST_LIMIT {
                break (Request::refused(431), received.len());
            }
            ready(conn_sock, PollFlags::POLLIN, &mut patience, shop, "no whole request")?;
            match recv(conn_fd, &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return Ok(()),
                Ok(bytes_read) => received.extend(&buffer[..bytes_read]),
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(errno) => return Err(End::Failed("recv", errno)),
            }
        };
        received.drain(..length); // what is left belongs to the next request
        let answer = answer(&request, &shop.files);
        let sent = respond(conn_sock, &request, &answer, shop)?;
        let Answer { status, from, .. } = answer;
        Screen::new().line(format_args!("{peer_addr} {} {status}: {sent} bytes from {from} on", request.told()));
        if request.is_last() {
            return Ok(());
        }
    }
}

/// Sends a header, and the file or the part of it; how many bytes of the file.
fn respond(conn_sock: &Socket, request: &Request, answer: &Answer, shop: &Shop) -> Result<u64, End> {
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
fn ready(
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
