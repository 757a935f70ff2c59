//! One connection: a call, its answer, and further calls if the connection is kept.

use std::{
    fmt,
    net::{Shutdown, SocketAddr},
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use kernel::Patience;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv, send},
};
use shared::{Pause, Screen, Stop, escaped};
use socket2::Socket;

use crate::{
    http::{self, Head},
    marshal::{answer_to_xml, call_from_xml},
    service::{Service, dispatch, shown},
};

/// Bytes asked of one recv.
const CHUNK: usize = 65_536;
/// How long a client may go on sending after its last answer.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Longer than any client waits: no deadline at all.
const FOREVER: Duration = Duration::from_secs(1 << 40);

/// What all connections share.
pub struct Skeleton<'a> {
    pub service: &'a dyn Service,
    pub stop: &'a Stop,
    /// Seconds for a whole call, and then for its answer; 0: no limit.
    pub deadline: u16,
    /// The longest body of a call, in bytes.
    pub most_bytes: usize,
    /// HTTP/1.1: the connection is kept for further calls.
    pub keep: bool,
}

/// How a connection ended.
pub enum End {
    /// The client has closed it, or its last call is answered.
    Good,
    /// Refused with this HTTP status.
    Refused(u16),
    TooSlow(&'static str),
    Failed(&'static str, Errno),
    Stopped,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Good => write!(f, "answered"),
            End::Refused(status) => write!(f, "no call: HTTP status {status}"),
            End::TooSlow(what) => write!(f, "{what} in time"),
            End::Failed(call, errno) => write!(f, "{call}: {errno:?} ({})", errno.desc()),
            End::Stopped => write!(f, "the server stops"),
        }
    }
}

/// Serves one connection to its end, and closes it.
pub fn serve(conn_sock: Socket, peer_addr: SocketAddr, skeleton: &Skeleton, pause: &mut Pause) {
    let mut screen = Screen::new();
    let conn_fd = conn_sock.as_raw_fd();
    let end = calls(&conn_sock, peer_addr, skeleton, pause, &mut screen).err().unwrap_or(End::Good);
    if let End::Good | End::Refused(_) = end {
        // FIN behind the answer; then what the client still sends is read. close(2) with bytes unread would be a reset
        // (lab09-shutdown, unread-input).
        let _ = conn_sock.shutdown(Shutdown::Write); // ENOTCONN: nobody is there to be told
        let (mut thrown_away, mut patience) = (vec![0; CHUNK], Patience::new(LAST_WORDS));
        while ready(&conn_sock, PollFlags::POLLIN, &mut patience, skeleton.stop, "").is_ok() {
            match recv(conn_fd, &mut thrown_away, MsgFlags::MSG_DONTWAIT) {
                Ok(1..) | Err(Errno::EINTR | Errno::EAGAIN) => {}
                Ok(0) | Err(_) => break,
            }
        }
    }
    pause.before(&mut screen, format_args!("close({conn_fd})"));
    drop(conn_sock); // close(2)
    screen.line(format_args!("{peer_addr} closed: {end}"));
}

/// Call after call, up to the last one.
fn calls(
    conn_sock: &Socket,
    peer_addr: SocketAddr,
    skeleton: &Skeleton,
    pause: &mut Pause,
    screen: &mut Screen,
) -> Result<(), End> {
    let conn_fd = conn_sock.as_raw_fd();
    let limit = if skeleton.deadline == 0 { FOREVER } else { Duration::from_secs(skeleton.deadline.into()) };
    let (mut received, mut buffer) = (Vec::new(), vec![0; CHUNK]);
    loop {
        // Step 4: the skeleton receives the message ..
        let mut patience = Patience::new(limit);
        let mut chunk = |received: &mut Vec<u8>| -> Result<bool, End> {
            pause.before(screen, format_args!("recv({conn_fd}, {CHUNK})"));
            let what = if received.is_empty() { "no call came" } else { "no whole call came" };
            ready(conn_sock, PollFlags::POLLIN, &mut patience, skeleton.stop, what)?;
            match recv(conn_fd, &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return Ok(false),
                Ok(bytes_read) => received.extend(&buffer[..bytes_read]),
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(errno) => return Err(End::Failed("recv", errno)),
            }
            Ok(true)
        };
        let head = loop {
            if let Some(head) = Head::parse(&received, skeleton.most_bytes) {
                break head;
            }
            if !chunk(&mut received)? {
                return Ok(());
            }
        };
        if let Some(status) = head.refused {
            send_all(conn_sock, &http::answer(status, "", false), limit, skeleton.stop)?;
            return Err(End::Refused(status));
        }
        while received.len() < head.length + head.body {
            if !chunk(&mut received)? {
                return Ok(()); // half a call is none: the length ahead of it says so
            }
        }
        let next = received.split_off(head.length + head.body); // belongs to the next call
        let body = std::mem::replace(&mut received, next).split_off(head.length);

        // .. and unmarshals it; step 5: calls the function; steps 6 and 7: marshals what it returns.
        let result = call_from_xml(&body).and_then(|(name, params)| {
            screen.line(format_args!("{peer_addr} calls {}({})", escaped(name.as_bytes()), shown(&params)));
            dispatch(skeleton.service, &name, &params, skeleton.stop)
        });
        match &result {
            Ok(value) => screen.line(format_args!("{peer_addr} gets {}", shown(std::slice::from_ref(value)))),
            Err(fault) => screen.line(format_args!(
                "{peer_addr} gets fault {}: {}",
                fault.code(),
                escaped(fault.string().as_bytes())
            )),
        }
        let keeps = skeleton.keep && head.keeps;
        let answer = http::answer(200, &answer_to_xml(&result), keeps);
        pause.before(screen, format_args!("send({conn_fd}, {} bytes)", answer.len()));
        send_all(conn_sock, &answer, limit, skeleton.stop)?;
        if !keeps {
            return Ok(());
        }
    }
}

/// Step 8: sends all of it.
fn send_all(conn_sock: &Socket, bytes: &[u8], limit: Duration, stop: &Stop) -> Result<(), End> {
    let (mut rest, mut patience) = (bytes, Patience::new(limit));
    while !rest.is_empty() {
        match send(conn_sock.as_raw_fd(), rest, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT) {
            Ok(bytes_sent) => rest = &rest[bytes_sent..],
            Err(Errno::EAGAIN) => {
                ready(conn_sock, PollFlags::POLLOUT, &mut patience, stop, "the answer was not taken")?
            }
            Err(Errno::EINTR) => {}
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
    stop: &Stop,
    what: &'static str,
) -> Result<(), End> {
    while !patience.is_over() {
        let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(sock.as_fd(), events)];
        let limit = PollTimeout::try_from(patience.step()).unwrap_or(PollTimeout::ZERO);
        let woken = poll(&mut fds, limit);
        if stop.requested() {
            return Err(End::Stopped);
        }
        if woken.is_ok() && fds[1].any() == Some(true) {
            return Ok(());
        }
    }
    Err(End::TooSlow(what))
}
