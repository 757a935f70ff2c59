//! One datagram over lo, captured: a packet socket needs CAP_NET_RAW, so this runs as a child of the demo.

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kernel::{Capture, Pair, wait_until};
use nix::sys::socket::{MsgFlags, SockaddrStorage, recv, sendto};
use shared::{At, Screen};
use socket2::{Domain, Socket, Type};

/// What the lecture sends.
pub const MESSAGE: &[u8] = b"Hello world!";
const LIMIT: Duration = Duration::from_secs(5);

/// Sends the message from one port of 127.0.0.1 to another and prints the packet.
pub fn run(from: u16, to: u16) -> Result<()> {
    let capture = Capture::start()?;
    let (sock, local_addr) = bound(from)?;
    let (receive_sock, peer_addr) = bound(to)?;
    let pair = Pair { local: local_addr, peer: peer_addr };
    let packet = wait_until("the datagram to be captured", LIMIT, || {
        sendto(sock.as_raw_fd(), MESSAGE, &SockaddrStorage::from(peer_addr), MsgFlags::empty())
            .at("sendto", peer_addr)?;
        let mut buffer = [0; 1024];
        let bytes_read = recv(receive_sock.as_raw_fd(), &mut buffer, MsgFlags::empty()).at("recv", peer_addr)?;
        ensure!(&buffer[..bytes_read] == MESSAGE, "the receiver got {:?}", &buffer[..bytes_read]);
        // On everybody's lo other packets may fill the packet socket, and ours is lost: then once more.
        Ok(capture.packets(pair)?.pop())
    })?;
    Screen::new().line(format_args!("captured {packet}"));
    Ok(())
}

/// A UDP socket on this port of 127.0.0.1.
fn bound(port: u16) -> Result<(Socket, SocketAddr)> {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", addr)?;
    sock.bind(&addr.into()).at("bind", addr)?;
    let local_addr = sock.local_addr().at("getsockname", addr)?.as_socket().context("not an IP socket")?;
    Ok((sock, local_addr))
}
