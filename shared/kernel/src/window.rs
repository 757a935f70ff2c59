//! A filled window, seen as full: the other end does not read, and bytes that send took may not go out.

use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::getsockopt;
use nix::{getsockopt_impl, libc, sockopt_impl};
use socket2::Socket;

use crate::wait_until;

/// An acknowledgement is delayed by 40 ms, on some kernels by 200 ms; this is far more.
const LIMIT: Duration = Duration::from_secs(5);

sockopt_impl!(
    /// `struct tcp_info` up to `tcpi_snd_wnd` (Linux 5.4), see tcp(7).
    TcpInfo, GetOnly, libc::IPPROTO_TCP, libc::TCP_INFO, [u8; 232]
);

/// Where the fields `tcpi_...` stand in `struct tcp_info`, in bytes.
const SND_MSS: usize = 16;
const UNACKED: usize = 24;
const NOTSENT_BYTES: usize = 144;
const SND_WND: usize = 228;

/// What a sender knows of its way to the other end.
struct Sender {
    /// The largest segment, in bytes.
    segment_bytes: u32,
    /// Segments sent and not acknowledged.
    in_flight: u32,
    /// Taken by send, and not sent yet.
    unsent_bytes: u32,
    /// The window that the other end has told.
    window_bytes: u32,
}

impl Sender {
    fn of(sock: &Socket) -> Result<Sender> {
        let info = getsockopt(sock, TcpInfo).context("getsockopt TCP_INFO")?;
        let word = |at: usize| u32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
        Ok(Sender {
            segment_bytes: word(SND_MSS),
            in_flight: word(UNACKED),
            unsent_bytes: word(NOTSENT_BYTES),
            window_bytes: word(SND_WND),
        })
    }

    /// Whether the next segment has no room in the window, with nothing in flight whose acknowledgement may open it.
    fn is_stopped(&self) -> bool {
        self.in_flight == 0 && self.window_bytes < self.unsent_bytes.min(self.segment_bytes)
    }
}

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
        Ok(Sender::of(sock)?.is_stopped().then_some(true))
    })
}

/// The bytes that send took and that have not left this kernel yet.
///
/// # Errors
/// What getsockopt(2) says of a socket that is not TCP.
pub fn unsent_bytes(sock: &Socket) -> Result<u32> {
    Ok(Sender::of(sock)?.unsent_bytes)
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
