//! The cable of one connection on loopback, and what the kernel does while the cable is out.
//!
//! No privilege is needed: a packet leaves with a TTL of 64, and IP_MINTTL 255 makes the receiving socket drop each packet
//! with a smaller one, acknowledgements included. Set on one socket, nothing arrives there; set on both, nothing arrives
//! anywhere. The sender notices nothing: the packet was sent.

use std::time::Duration;

use kernel::{
    options::{MinHopCount, MinTtl},
    tcp_info,
};
use nix::sys::socket::setsockopt;
use socket2::Socket;

/// Larger than any TTL but the largest.
pub const CUT: i32 = 255;
/// Every TTL will do.
pub const MENDED: i32 = 0;

/// Cuts or mends the cable at this end: what arrives here is dropped, or not.
pub fn set_min_ttl(sock: &Socket, ipv6: bool, ttl: i32) -> nix::Result<()> {
    if ipv6 { setsockopt(sock, MinHopCount, &ttl) } else { setsockopt(sock, MinTtl, &ttl) }
}

/// What one end of a connection has had to repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeats {
    /// How often the retransmission timer has expired since the last acknowledgement.
    pub expired: u8,
    /// How often the kernel has doubled that timer.
    pub doubled: u8,
    /// The retransmission timer, from one expiry to the next.
    pub timer: Duration,
    /// Segments sent again, over the connection's whole life.
    pub sent_again: u32,
    /// Segments that arrived before an earlier one, and waited in the kernel.
    pub early: u32,
}

/// getsockopt(fd, SOL_TCP, TCP_INFO).
pub fn repeats(sock: &Socket) -> nix::Result<Repeats> {
    let info = tcp_info::of(sock)?;
    Ok(Repeats {
        expired: info.retransmits,
        doubled: info.backoff,
        timer: info.rto,
        sent_again: info.total_retrans,
        early: info.rcv_ooopack,
    })
}
