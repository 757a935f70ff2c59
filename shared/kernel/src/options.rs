//! Socket options that nix lacks and more than one lab needs. The setsockopt call stays in the lab.

use nix::{libc, setsockopt_impl, sockopt_impl};

sockopt_impl!(
    /// The smallest TTL that this socket accepts: ip(7). What arrives with a smaller one is dropped.
    MinTtl, SetOnly, libc::IPPROTO_IP, libc::IP_MINTTL, i32
);
sockopt_impl!(
    /// The same for IPv6: RFC 5082.
    MinHopCount, SetOnly, libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT, i32
);
