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
    /// The head of `struct tcp_info` up to `tcpi_notsent_bytes` (Linux 4.6), see tcp(7).
    SendSide, GetOnly, libc::IPPROTO_TCP, libc::TCP_INFO, [u8; 148]
);

/// Where `tcpi_unacked` and `tcpi_notsent_bytes` stand in `struct tcp_info`.
const UNACKED: usize = 24;
const NOTSENT_BYTES: usize = 144;

/// Ask when send says EAGAIN: has it filled the other end's window? False: there is room after all, send more.
///
/// Full is a window when unsent bytes wait and nothing is in flight: then the kernel has heard of no room for them, and
/// a program that does not read gives none. As long as something is in flight, this waits for its acknowledgement.
///
/// # Errors
/// [`crate::NotSeen`] where nothing is acknowledged; what getsockopt(2) says of a socket that is not TCP.
pub fn is_full(sock: &Socket) -> Result<bool> {
    wait_until("a full window, or room to send", LIMIT, || {
        let (in_flight, unsent) = send_side(sock)?;
        let mut fds = [PollFd::new(sock.as_fd(), PollFlags::POLLOUT)];
        match (in_flight, unsent) {
            (0, 1..) => Ok(Some(true)),
            _ if poll(&mut fds, PollTimeout::ZERO) == Ok(1) => Ok(Some(false)),
            _ => Ok(None),
        }
    })
}

/// The bytes that send took and that have not left this kernel yet.
///
/// # Errors
/// What getsockopt(2) says of a socket that is not TCP.
pub fn unsent_bytes(sock: &Socket) -> Result<u32> {
    Ok(send_side(sock)?.1)
}

/// Segments sent and not acknowledged; bytes not sent.
fn send_side(sock: &Socket) -> Result<(u32, u32)> {
    let info = getsockopt(sock, SendSide).context("getsockopt TCP_INFO")?;
    let word = |at: usize| u32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
    Ok((word(UNACKED), word(NOTSENT_BYTES)))
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
