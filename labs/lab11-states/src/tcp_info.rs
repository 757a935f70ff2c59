//! The state as the socket itself tells it: the only way to see CLOSED, which is in no table.

use anyhow::Context;
use nix::{getsockopt_impl, libc, sockopt_impl, sys::socket::getsockopt};
use shared::kernel::State;
use socket2::Socket;

sockopt_impl!(
    /// The head of `struct tcp_info`, see tcp(7). Its first byte is the state.
    TcpInfo, GetOnly, libc::IPPROTO_TCP, libc::TCP_INFO, [u8; 8]
);

/// getsockopt(fd, SOL_TCP, TCP_INFO).
pub fn state(sock: &Socket) -> nix::Result<u8> {
    getsockopt(sock, TcpInfo).map(|info| info[0])
}

/// The state with this number.
pub fn name(number: u8) -> anyhow::Result<State> {
    State::from_number(number).with_context(|| format!("TCP has no state {number}"))
}
