//! One connection: request after request, until one says that it is the last.

use std::{
    net::{Shutdown, SocketAddr},
    os::fd::AsRawFd,
    sync::{Arc, OnceLock, atomic::AtomicBool},
    time::Duration,
};

use kernel::Patience;
use nix::{
    errno::Errno,
    poll::PollFlags,
    sys::socket::{MsgFlags, recv},
};
use shared::{Screen, Stop};
use socket2::Socket;

use crate::{
    FilesArgs,
    content::Content,
    pace::{Pace, Places},
    request::{Answer, Request, answer},
    sending::{End, ready, respond},
};

/// Bytes asked of one recv.
pub const CHUNK: usize = 16_384;
/// A longer request is refused.
const REQUEST_LIMIT: usize = 16_384;
/// How long a client may take for a request, or for taking some bytes.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How long a client may go on sending after the last answer.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What all connections share.
pub struct Shop {
    pub files: Vec<(Content, OnceLock<[u8; 32]>)>,
    pub pace: Pace,
    pub places: Places,
    /// The file whose connection breaks halfway, once.
    pub broken: Option<u16>,
    pub has_broken: AtomicBool,
    pub stop: Arc<Stop>,
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
        let Answer { status, from, content, .. } = answer;
        let part = content.map_or_else(String::new, |_| format!(": {sent} bytes from {from} on"));
        Screen::new().line(format_args!("{peer_addr} {} {status}{part}", request.told()));
        if request.is_last() {
            return Ok(());
        }
    }
}
