//! What makes a kernel ask whether the other end is still there; without it an idle connection waits for ever.

use std::{fmt::Display, os::fd::AsRawFd};

use anyhow::Result;
use nix::sys::socket::{
    setsockopt,
    sockopt::{KeepAlive, TcpKeepCount, TcpKeepIdle, TcpKeepInterval, TcpUserTimeout},
};
use shared::{At, Pause, Screen};
use socket2::Socket;

/// TCP_KEEPIDLE and TCP_KEEPINTVL in seconds, TCP_KEEPCNT; all 0: no probes.
#[derive(Clone, Copy)]
pub struct Keepalive {
    idle: u32,
    interval: u32,
    count: u32,
}

impl Keepalive {
    /// Parses `60,10,3`, within the limits of tcp(7); `0` is none.
    pub fn parse(text: &str) -> Result<Keepalive, String> {
        let numbers: Vec<u32> = text.split(',').filter_map(|word| word.parse().ok()).collect();
        match numbers[..] {
            [0] => Ok(Keepalive { idle: 0, interval: 0, count: 0 }),
            [idle @ 1..=32767, interval @ 1..=32767, count @ 1..=127] => Ok(Keepalive { idle, interval, count }),
            _ => {
                Err("not 0, nor three numbers such as 60,10,3: seconds, seconds (1 to 32767), probes (1 to 127)".into())
            }
        }
    }

    /// Sets it on a connection.
    pub fn set(self, sock: &Socket, addr: impl Display, pause: &mut Pause, screen: &mut Screen) -> Result<()> {
        let (fd, Keepalive { idle, interval, count }) = (sock.as_raw_fd(), self);
        if count == 0 {
            return Ok(());
        }
        pause.before(screen, format_args!("setsockopt({fd}, SOL_SOCKET, SO_KEEPALIVE, 1)"));
        setsockopt(sock, KeepAlive, &true).at("setsockopt SO_KEEPALIVE", &addr)?;
        pause.before(screen, format_args!("setsockopt({fd}, SOL_TCP, TCP_KEEPIDLE, {idle})"));
        setsockopt(sock, TcpKeepIdle, &idle).at("setsockopt TCP_KEEPIDLE", &addr)?;
        pause.before(screen, format_args!("setsockopt({fd}, SOL_TCP, TCP_KEEPINTVL, {interval})"));
        setsockopt(sock, TcpKeepInterval, &interval).at("setsockopt TCP_KEEPINTVL", &addr)?;
        pause.before(screen, format_args!("setsockopt({fd}, SOL_TCP, TCP_KEEPCNT, {count})"));
        setsockopt(sock, TcpKeepCount, &count).at("setsockopt TCP_KEEPCNT", &addr)?;
        // No probe is sent while bytes wait for their acknowledgement. This is the limit for those: the same time.
        let timeout_ms = (idle + interval * count).saturating_mul(1000);
        pause.before(screen, format_args!("setsockopt({fd}, SOL_TCP, TCP_USER_TIMEOUT, {timeout_ms})"));
        setsockopt(sock, TcpUserTimeout, &timeout_ms).at("setsockopt TCP_USER_TIMEOUT", &addr)?;
        Ok(())
    }
}
