//! One client as the exam's code handles it: one recv for the header, one for the body, and no thought for the end.
//!
//! Its faults are the lesson; see the experiments. Only Ctrl-C is done better.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv, send},
};
use shared::escaped;
use socket2::Socket;

use crate::{
    connection::{DISCONNECT, RECEIVED, shown},
    frames::HEADER,
    server::Hall,
};

/// The exam's loop, its error messages in Python's words.
pub fn converse(conn_sock: &Socket, peer_addr: SocketAddr, hall: &Hall) -> String {
    let conn_fd = conn_sock.as_raw_fd();
    let mut connected = true;
    let mut zeros: u64 = 0;
    while connected {
        let mut header = [0; HEADER];
        let bytes_read = match wait_and_recv(conn_sock, &mut header, hall) {
            Ok(bytes_read) => bytes_read,
            Err(end) => return format!("{end}; recv has returned 0 {zeros} times"),
        };
        if bytes_read == 0 {
            zeros += 1;
            continue; // the exam's `if msg_length:`; end of stream comes again and again, at once
        }
        let length = match claimed_length(&header[..bytes_read]) {
            Ok(length) => length,
            Err(exception) => return exception,
        };
        let Some(mut body) = room_for(length) else { return "MemoryError".into() };
        let bytes_read = match wait_and_recv(conn_sock, &mut body, hall) {
            Ok(bytes_read) => bytes_read,
            Err(end) => return end,
        };
        let text = match std::str::from_utf8(&body[..bytes_read]) {
            Ok(text) => text,
            Err(error) => return format!("UnicodeDecodeError: at byte {}", error.valid_up_to()),
        };
        connected = text != DISCONNECT;
        hall.say(format_args!("[{peer_addr}] {}", shown(text)));
        if let Err(errno) = send(conn_fd, RECEIVED.as_bytes(), MsgFlags::empty()) {
            return format!("send: {errno:?} ({})", errno.desc());
        }
    }
    DISCONNECT.into()
}

/// Python's int(), for which spaces around the digits do not count, and what recv then says of a negative length.
pub fn claimed_length(header: &[u8]) -> Result<usize, String> {
    let text = String::from_utf8_lossy(header);
    match text.trim().parse::<i128>() {
        Ok(..0) => Err("ValueError: negative buffersize in recv".into()),
        Ok(length) => usize::try_from(length).map_err(|_| "OverflowError: Python int too large".into()),
        Err(_) => Err(format!("ValueError: invalid literal for int(): '{}'", escaped(text.trim().as_bytes()))),
    }
}

/// Memory for a whole message before one byte of it has come, as Python's recv(length) asks for it.
fn room_for(length: usize) -> Option<Vec<u8>> {
    Vec::<u8>::new().try_reserve_exact(length).ok()?;
    Some(vec![0; length])
}

/// recv, with Ctrl-C heard before it.
fn wait_and_recv(conn_sock: &Socket, buffer: &mut [u8], hall: &Hall) -> Result<usize, String> {
    loop {
        let mut fds = [hall.stop.as_fd(), conn_sock.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let woken = poll(&mut fds, PollTimeout::NONE);
        if hall.stop.requested() {
            return Err("the server stops".into());
        }
        if woken == Err(Errno::EINTR) {
            continue;
        }
        match recv(conn_sock.as_raw_fd(), buffer, MsgFlags::empty()) {
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            result => return result.map_err(|errno| format!("recv: {errno:?} ({})", errno.desc())),
        }
    }
}
