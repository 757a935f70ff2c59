//! TCP_INFO: what a TCP socket says of itself, also where it is in no table.

use nix::sys::socket::getsockopt;
use nix::{getsockopt_impl, libc, sockopt_impl};
use socket2::Socket;

use crate::State;

sockopt_impl!(
    /// The head of `struct tcp_info`, see tcp(7). Its first byte is the state.
    TcpInfo, GetOnly, libc::IPPROTO_TCP, libc::TCP_INFO, [u8; 8]
);

/// getsockopt(fd, SOL_TCP, TCP_INFO): the socket's state; `None` if it is one this crate does not know.
///
/// # Errors
/// ENOPROTOOPT or EOPNOTSUPP for a socket that is not TCP.
pub fn state(sock: &Socket) -> nix::Result<Option<State>> {
    getsockopt(sock, TcpInfo).map(|info| State::from_number(info[0]))
}
