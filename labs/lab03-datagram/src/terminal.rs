//! What both programs do beside their sockets: show a payload, wait, name the command that helps.

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Error, anyhow};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use shared::{CallError, Stop};

/// The payload as text that cannot act on the terminal: control characters and bytes that are not UTF-8 are escaped.
pub fn shown(payload: &[u8]) -> String {
    let escaped = |scalar: char| {
        let turns = matches!(scalar, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if scalar.is_control() || turns { scalar.escape_default().to_string() } else { scalar.to_string() }
    };
    let pieces = payload.utf8_chunks().map(|piece| {
        piece.valid().chars().map(escaped).collect::<String>() + &piece.invalid().escape_ascii().to_string()
    });
    pieces.collect()
}

/// Waits until the descriptor is readable (true), or until Ctrl-C came or the time has passed (false).
pub fn wait_for(stop: &Stop, fd: BorrowedFd, timeout: PollTimeout) -> Result<bool, Errno> {
    loop {
        let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(fd, PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => continue,
            ready => return ready.map(|_| fds[1].any().unwrap_or(false) && !stop.requested()),
        }
    }
}

/// The error with a command for what only datagrams know; other errors have their hint from the helper crate.
pub fn hinted(error: CallError) -> Error {
    let (lab, address) = (crate::LAB, &error.address);
    let host = address.rsplit_once(':').map_or("", |(host, _)| host).trim_matches(['[', ']']);
    let hint = match (error.call, error.errno) {
        ("sendto" | "send", Some(Errno::EMSGSIZE)) => {
            format!("see how much fits: cargo run -p {lab} -- demo largest largest-ipv6")
        }
        ("sendto" | "connect", Some(Errno::EACCES)) => {
            format!("if all are meant, say so: cargo run -p {lab} -- send {address} --broadcast")
        }
        ("sendto" | "connect", Some(Errno::EINVAL)) => {
            format!("from 127.0.0.1 nothing leaves this machine: cargo run -p {lab} -- send {address} --unbound")
        }
        ("sendto", Some(Errno::ENETUNREACH | Errno::EHOSTUNREACH)) => {
            format!("see the way there: ip route get {host}")
        }
        ("send", Some(Errno::ECONNREFUSED)) => {
            format!("nobody has that port; start the receiver: cargo run -p {lab} -- receive {address}")
        }
        ("recvmsg", Some(Errno::EAGAIN)) => {
            format!("nothing came in time; send something: cargo run -p {lab} -- send {address}")
        }
        _ => return error.into(),
    };
    anyhow!("{error}\n  hint: {hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_shown_as_text_and_cannot_act_on_the_terminal() {
        assert_eq!(shown(b"Hello world!"), "Hello world!");
        assert_eq!(shown("t\u{f5}de\n".as_bytes()), "t\u{f5}de\\n");
        assert_eq!(shown(b"a\x1b[2Jb\xff\xe2\x80\xaec\0"), "a\\u{1b}[2Jb\\xff\\u{202e}c\\u{0}");
        assert_eq!(shown(b""), "");
    }
}
