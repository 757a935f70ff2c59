//! TCP_INFO: what a TCP socket says of itself, also where it is in no table.

use std::time::Duration;

use nix::sys::socket::getsockopt;
use nix::{getsockopt_impl, libc, sockopt_impl};
use socket2::Socket;

use crate::State;

sockopt_impl!(
    /// `struct tcp_info` up to `tcpi_snd_wnd` (Linux 5.4), see tcp(7) and include/uapi/linux/tcp.h.
    Bytes, GetOnly, libc::IPPROTO_TCP, libc::TCP_INFO, [u8; 232]
);

/// Fields of `struct tcp_info`, under their names there without `tcpi_`.
#[derive(Clone, Copy, Debug)]
pub struct TcpInfo {
    /// `None` if it is one this crate does not know.
    pub state: Option<State>,
    /// How often the retransmission timer has expired since the last acknowledgement.
    pub retransmits: u8,
    /// How often the kernel has doubled that timer.
    pub backoff: u8,
    /// The retransmission timer, from one expiry to the next.
    pub rto: Duration,
    /// The largest segment, in bytes.
    pub snd_mss: u32,
    /// Segments sent and not acknowledged.
    pub unacked: u32,
    /// Segments sent again, over the connection's whole life.
    pub total_retrans: u32,
    /// All segments sent.
    pub segs_out: u32,
    /// All segments received.
    pub segs_in: u32,
    /// Bytes that send took, and that are not sent yet.
    pub notsent_bytes: u32,
    /// Segments that arrived before an earlier one.
    pub rcv_ooopack: u32,
    /// The window that the other end has told, in bytes.
    pub snd_wnd: u32,
}

/// getsockopt(fd, SOL_TCP, TCP_INFO).
///
/// # Errors
/// ENOPROTOOPT or EOPNOTSUPP for a socket that is not TCP.
pub fn of(sock: &Socket) -> nix::Result<TcpInfo> {
    let info = getsockopt(sock, Bytes)?;
    let word = |at: usize| u32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
    Ok(TcpInfo {
        state: State::from_number(info[0]),
        retransmits: info[2],
        backoff: info[4],
        rto: Duration::from_micros(word(8).into()),
        snd_mss: word(16),
        unacked: word(24),
        total_retrans: word(100),
        segs_out: word(136),
        segs_in: word(140),
        notsent_bytes: word(144),
        rcv_ooopack: word(224),
        snd_wnd: word(228),
    })
}

/// The same for those who want the state only.
///
/// # Errors
/// As [`of`].
pub fn state(sock: &Socket) -> nix::Result<Option<State>> {
    Ok(of(sock)?.state)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_tells_its_state_and_counts_its_segments() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = Socket::from(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let mut conn = listener.accept().unwrap().0;
        let before = of(&client).unwrap();
        assert_eq!(before.state, Some(State::Established));
        assert!(before.segs_out >= 2 && before.segs_in >= 1, "{before:?}"); // SYN and ACK; SYN and ACK in one
        (&client).write_all(b"x").unwrap();
        conn.read_exact(&mut [0]).unwrap();
        let now = of(&client).unwrap();
        assert!(now.segs_out > before.segs_out && now.notsent_bytes == 0 && now.rcv_ooopack == 0, "{now:?}");
        assert!(now.snd_mss >= 500 && now.snd_wnd > 1000 && now.rto >= Duration::from_millis(200), "{now:?}");
    }

    #[test]
    fn a_socket_that_is_not_tcp_has_none() {
        let sock = Socket::from(std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
        assert!(state(&sock).is_err());
    }
}
