//! A filled window, seen as full: the other end does not read, and bytes that send took may not go out.

use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::Socket;

use crate::{tcp_info, wait_until};

/// An acknowledgement is delayed by 40 ms, on some kernels by 200 ms; this is far more.
const LIMIT: Duration = Duration::from_secs(5);

/// Ask when send says EAGAIN: has it filled the other end's window? False: there is room after all, send more.
///
/// A window is full when this end's buffer has no room, nothing is in flight, and the other end has told a window too
/// small for the next segment: a program that does not read makes no room. As long as something is in flight, this waits
/// for its acknowledgement.
///
/// # Errors
/// [`crate::NotSeen`] where nothing is acknowledged; what getsockopt(2) says of a socket that is not TCP.
pub fn is_full(sock: &Socket) -> Result<bool> {
    wait_until("a full window, or room to send", LIMIT, || {
        let mut fds = [PollFd::new(sock.as_fd(), PollFlags::POLLOUT)];
        if poll(&mut fds, PollTimeout::ZERO) == Ok(1) {
            return Ok(Some(false));
        }
        let info = tcp_info::of(sock).context("getsockopt TCP_INFO")?;
        let no_room = info.snd_wnd < info.notsent_bytes.min(info.snd_mss); // for the next segment
        Ok((info.unacked == 0 && no_room).then_some(true))
    })
}

/// The bytes that send took and that have not left this kernel yet.
///
/// # Errors
/// What getsockopt(2) says of a socket that is not TCP.
pub fn unsent_bytes(sock: &Socket) -> Result<u32> {
    Ok(tcp_info::of(sock).context("getsockopt TCP_INFO")?.notsent_bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    use nix::errno::Errno;
    use nix::sys::socket::{MsgFlags, send};
    use std::os::fd::AsRawFd;

    use super::*;

    /// Sends until the window is full: the bytes taken.
    fn fill(sock: &Socket) -> usize {
        let mut total = 0;
        loop {
            match send(sock.as_raw_fd(), &[0; 65536], MsgFlags::MSG_DONTWAIT) {
                Ok(bytes_sent) => total += bytes_sent,
                Err(Errno::EAGAIN) if is_full(sock).unwrap() => return total,
                Err(Errno::EAGAIN) => {}
                Err(errno) => panic!("{errno}"),
            }
        }
    }

    #[test]
    fn a_window_is_full_until_the_other_end_reads() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let sock = Socket::from(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let mut conn = listener.accept().unwrap().0;
        assert!(!is_full(&sock).unwrap());
        let total = fill(&sock);
        let unsent = unsent_bytes(&sock).unwrap();
        assert!(unsent > 0 && is_full(&sock).unwrap(), "{unsent} of {total} bytes");
        conn.read_exact(&mut vec![0; total]).unwrap();
        assert!(!is_full(&sock).unwrap());
        assert_eq!(unsent_bytes(&sock).unwrap(), 0);
    }
}
