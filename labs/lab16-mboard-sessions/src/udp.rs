//! What server, client and relay need besides their socket calls: addresses, random numbers, the time until a deadline.

use std::{
    hash::{BuildHasher, RandomState},
    net::{SocketAddr, SocketAddrV4, SocketAddrV6},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{poll::PollTimeout, sys::socket::SockaddrStorage};

/// More than a datagram can hold, 65507 bytes over IPv4 and 65527 over IPv6: nothing is cut.
pub const BUFFER_SIZE: usize = 65_536;

/// The address recvfrom(2) wrote down.
pub fn source_addr(source: Option<SockaddrStorage>) -> Result<SocketAddr> {
    let source = source.context("recvfrom gave no address")?;
    let v4 = source.as_sockaddr_in().map(|addr| SocketAddrV4::from(*addr).into());
    v4.or_else(|| source.as_sockaddr_in6().map(|addr| SocketAddrV6::from(*addr).into())).context("not an IP address")
}

/// A number that nobody can guess: std's hash has a key that the kernel drew.
pub fn random() -> u32 {
    RandomState::new().hash_one(0) as u32
}

/// A clock that counts only time in which this program ran: Ctrl-Z, and fg a minute later, make no session idle.
pub struct Clock {
    counted: Duration,
    last_look: Instant,
}

impl Clock {
    pub fn start() -> Self {
        Clock { counted: Duration::ZERO, last_look: Instant::now() }
    }

    /// Ask at least once a second while something is due: no more than two seconds are counted for each time.
    pub fn now(&mut self) -> Duration {
        let look = Instant::now();
        self.counted += look.duration_since(self.last_look).min(Duration::from_secs(2));
        self.last_look = look;
        self.counted
    }
}

/// How long poll may wait: to the deadline, at most a second; with none, for ever. Rounded up, so that poll does not come
/// back just before the deadline.
pub fn until(deadline: Option<Duration>, now: Duration) -> PollTimeout {
    let wait = |deadline: Duration| deadline.saturating_sub(now).as_nanos().div_ceil(1_000_000).min(1000) as u16;
    deadline.map_or(PollTimeout::NONE, |deadline| wait(deadline).into())
}
