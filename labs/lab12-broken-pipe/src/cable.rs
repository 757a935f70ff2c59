//! The cable of one connection on loopback, and what the kernel does while the cable is out.
//!
//! No privilege is needed: a packet leaves with a TTL of 64, and IP_MINTTL 255 makes the receiving socket drop each packet
//! with a smaller one, acknowledgements included. Set on one socket, nothing arrives there; set on both, nothing arrives
//! anywhere. The sender notices nothing: the packet was sent.

use std::time::Duration;

use kernel::{Need, setting};
use nix::{
    getsockopt_impl, libc, setsockopt_impl, sockopt_impl,
    sys::socket::{getsockopt, setsockopt},
};
use socket2::Socket;

sockopt_impl!(
    /// The smallest TTL that this socket accepts: ip(7). nix does not have it.
    MinTtl, SetOnly, libc::IPPROTO_IP, libc::IP_MINTTL, i32
);
sockopt_impl!(
    /// The same for IPv6: RFC 5082.
    MinHopCount, SetOnly, libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT, i32
);
sockopt_impl!(
    /// `struct tcp_info` as far as Linux 5.4 has it, see tcp(7) and include/uapi/linux/tcp.h.
    TcpInfo, GetOnly, libc::IPPROTO_TCP, libc::TCP_INFO, [u8; 228]
);

/// Larger than any TTL but the largest.
pub const CUT: i32 = 255;
/// Every TTL will do.
pub const MENDED: i32 = 0;

/// Else every packet arrives with the largest TTL there is.
pub const SMALL_TTL: Need = Need {
    what: "net.ipv4.ip_default_ttl below 255",
    provided_by: "sysctl -w net.ipv4.ip_default_ttl=64",
    met: || setting("net/ipv4/ip_default_ttl").first().is_none_or(|ttl| *ttl < 255),
};

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
    let info = getsockopt(sock, TcpInfo)?;
    let word = |at: usize| u32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
    Ok(Repeats {
        expired: info[2],
        doubled: info[4],
        timer: Duration::from_micros(word(8).into()),
        sent_again: word(100),
        early: word(224),
    })
}
