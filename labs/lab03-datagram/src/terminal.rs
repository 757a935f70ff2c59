//! What both programs do beside their sockets: they wait, and they name the command that helps.

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Error, anyhow};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use shared::{CallError, Stop};

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
    let address = &error.address;
    let host = address.rsplit_once(':').map_or("", |(host, _)| host).trim_matches(['[', ']']);
    let hint = match (error.call, error.errno) {
        ("sendto" | "send", Some(Errno::EMSGSIZE)) => "see how much fits: cargo lab03 demo largest".into(),
        ("sendto" | "connect", Some(Errno::EACCES)) => {
            format!("if all are meant, say so: cargo lab03 send {address} --broadcast")
        }
        ("sendto" | "connect", Some(Errno::EINVAL)) => {
            format!("a socket bound to 127.0.0.1 sends nothing to other machines: cargo lab03 send {address} --unbound")
        }
        ("sendto", Some(Errno::ENETUNREACH | Errno::EHOSTUNREACH)) => {
            format!("see the way there: ip route get {host}")
        }
        ("send", Some(Errno::ECONNREFUSED)) => {
            format!("nobody has that port; start the receiver: cargo lab03 receive {address}")
        }
        ("recvmsg", Some(Errno::EAGAIN)) => {
            format!("nothing came in time; send something: cargo lab03 send {address}")
        }
        _ => return error.into(),
    };
    anyhow!("{error}\n  hint: {hint}")
}
