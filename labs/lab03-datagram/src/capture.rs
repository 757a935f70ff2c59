//! One datagram over lo, captured with a packet socket: packet(7) needs CAP_NET_RAW, so it runs as a child of the demo.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    libc,
    sys::socket::{MsgFlags, SockaddrStorage, recv, sendto},
};
use shared::{At, Screen};
use socket2::{Domain, Protocol, Socket, Type};

/// What the lecture sends.
pub const MESSAGE: &[u8] = b"Hello world!";
const LIMIT: Duration = Duration::from_secs(5);

/// Sends the message from one port of 127.0.0.1 to another and prints the packet, from its IP header on, in hexadecimal.
pub fn run(from: u16, to: u16) -> Result<()> {
    // socket(AF_PACKET, SOCK_DGRAM, htons(ETH_P_IP)): every IPv4 packet that arrives, without its link header
    let protocol = Protocol::from(i32::from((libc::ETH_P_IP as u16).to_be()));
    let packet_sock =
        Socket::new(Domain::from(libc::AF_PACKET), Type::DGRAM, Some(protocol)).at("socket", "AF_PACKET")?;
    packet_sock.set_read_timeout(Some(LIMIT)).at("setsockopt", "AF_PACKET")?;

    let (sock, local_addr) = bound(from)?;
    let (receive_sock, peer_addr) = bound(to)?;
    sendto(sock.as_raw_fd(), MESSAGE, &SockaddrStorage::from(peer_addr), MsgFlags::empty()).at("sendto", peer_addr)?;

    let mut buffer = [0; 1024];
    let bytes_read = recv(receive_sock.as_raw_fd(), &mut buffer, MsgFlags::empty()).at("recv", peer_addr)?;
    ensure!(&buffer[..bytes_read] == MESSAGE, "the receiver got {:?}", &buffer[..bytes_read]);

    let ports = [local_addr.port().to_be_bytes(), peer_addr.port().to_be_bytes()].concat();
    let deadline = Instant::now() + LIMIT;
    loop {
        let bytes_read = recv(packet_sock.as_raw_fd(), &mut buffer, MsgFlags::empty()).at("recv", "AF_PACKET")?;
        let packet = &buffer[..bytes_read];
        let udp = packet.first().and_then(|first| packet.get(usize::from(first & 0xf) * 4..)).unwrap_or_default();
        if packet.get(9) == Some(&17) && udp.starts_with(&ports) {
            let hex: String = packet.iter().map(|byte| format!("{byte:02x}")).collect();
            Screen::new().line(format_args!("packet {hex}"));
            return Ok(());
        }
        ensure!(Instant::now() < deadline, std::io::Error::from(ErrorKind::TimedOut));
    }
}

/// A UDP socket on this port of 127.0.0.1.
fn bound(port: u16) -> Result<(Socket, SocketAddr)> {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", addr)?;
    sock.set_read_timeout(Some(LIMIT)).at("setsockopt", addr)?;
    sock.bind(&addr.into()).at("bind", addr)?;
    let local_addr = sock.local_addr().at("getsockname", addr)?.as_socket().context("not an IP socket")?;
    Ok((sock, local_addr))
}
