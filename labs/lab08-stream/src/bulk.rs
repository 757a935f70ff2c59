//! As many bytes as go through in a given time: what the bench compares with iperf3.

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv, send},
};
use shared::{At, Screen};
use socket2::{Domain, Socket, Type};

/// After this time without a connection or a byte the other end counts as gone.
const LIMIT: Duration = Duration::from_secs(10);
/// Bytes of a page of memory.
const PAGE: usize = 4096;

/// The same memory from the start of a page on, as iperf3 has its blocks. The kernel copies by pages: a block that starts 16
/// bytes behind a page, as malloc's do, cost an eighth more processor time for each byte.
fn on_a_page(memory: &mut [u8]) -> &mut [u8] {
    let start = memory.as_ptr().align_offset(PAGE);
    &mut memory[start..]
}

/// Prints its port, receives from one client until the end of the stream, prints bytes, calls and microseconds. With
/// `whole`, recv returns when the block is full, and for the last one when the stream ends.
pub fn sink(block: usize, whole: bool) -> Result<()> {
    let mut screen = Screen::new();
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listen_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", any_port)?;
    listen_sock.set_read_timeout(Some(LIMIT)).at("setsockopt", any_port)?; // accept hears it too
    listen_sock.bind(&any_port.into()).at("bind", any_port)?;
    listen_sock.listen(1).at("listen", any_port)?;
    let local_addr = listen_sock.local_addr().at("getsockname", "")?.as_socket().context("not an IP socket")?;
    screen.line(format_args!("port {}", local_addr.port()));

    let (conn_sock, peer_addr) = listen_sock.accept().at("accept", local_addr)?;
    let peer_addr = peer_addr.as_socket().context("not an IP socket")?;
    conn_sock.set_read_timeout(Some(LIMIT)).at("setsockopt", peer_addr)?;
    let started = Instant::now();
    let mut memory = vec![0; block + PAGE];
    let buffer = &mut on_a_page(&mut memory)[..block];
    let flags = if whole { MsgFlags::MSG_WAITALL } else { MsgFlags::empty() };
    let (mut bytes, mut calls) = (0, 0);
    loop {
        match recv(conn_sock.as_raw_fd(), buffer, flags) {
            Ok(0) => break,
            Err(Errno::EINTR) => {}
            received => {
                bytes += received.at("recv", peer_addr)?;
                calls += 1;
            }
        }
    }
    screen.line(format_args!("received {bytes} {calls} {}", started.elapsed().as_micros()));
    Ok(())
}

/// Sends blocks until the time is over.
pub fn source(addr: SocketAddr, block: usize, time: Duration) -> Result<()> {
    let sock = Socket::new(Domain::for_address(addr), Type::STREAM, None).at("socket", addr)?;
    sock.set_write_timeout(Some(LIMIT)).at("setsockopt", addr)?;
    sock.connect(&addr.into()).at("connect", addr)?;
    let mut memory = vec![b'x'; block + PAGE];
    let buffer = &on_a_page(&mut memory)[..block];
    let end = Instant::now() + time;
    while Instant::now() < end {
        match send(sock.as_raw_fd(), buffer, MsgFlags::empty()) {
            Err(Errno::EINTR) => {}
            // send may take less than the block. All bytes are alike, so the rest need not be kept.
            sent => drop(sent.at("send", addr)?),
        }
    }
    Ok(())
}
