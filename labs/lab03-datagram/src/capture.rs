//! One datagram over lo, captured with a packet socket: packet(7) needs CAP_NET_RAW, so it runs as a child of the demo.

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    errno::Errno,
    libc,
    sys::socket::{MsgFlags, SockaddrStorage, recv, sendto},
};
use shared::{At, Screen};
use socket2::{Domain, Protocol, Socket, Type};

/// What the lecture sends.
pub const MESSAGE: &[u8] = b"Hello world!";
const LIMIT: Duration = Duration::from_secs(5);
/// How long to look for the packet before the next is sent.
const AGAIN: Duration = Duration::from_millis(200);

/// Sends the message from one port of 127.0.0.1 to another and prints the packet, from its IP header on, in hexadecimal.
pub fn run(from: u16, to: u16) -> Result<()> {
    let packet_sock = packet_socket()?;

    let (sock, local_addr) = bound(from)?;
    let (receive_sock, peer_addr) = bound(to)?;
    let ports = [local_addr.port().to_be_bytes(), peer_addr.port().to_be_bytes()].concat();
    let mut buffer = [0; 1024];
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        sendto(sock.as_raw_fd(), MESSAGE, &SockaddrStorage::from(peer_addr), MsgFlags::empty())
            .at("sendto", peer_addr)?;
        let bytes_read = recv(receive_sock.as_raw_fd(), &mut buffer, MsgFlags::empty()).at("recv", peer_addr)?;
        ensure!(&buffer[..bytes_read] == MESSAGE, "the receiver got {:?}", &buffer[..bytes_read]);

        // On everybody's lo all packets come by. They may fill the packet socket, ours is lost then: once more.
        let again = Instant::now() + AGAIN;
        while Instant::now() < again {
            let bytes_read = match recv(packet_sock.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Err(Errno::EAGAIN) => break,
                received => received.at("recv", "AF_PACKET")?,
            };
            let packet = &buffer[..bytes_read];
            let udp = packet.first().and_then(|first| packet.get(usize::from(first & 0xf) * 4..)).unwrap_or_default();
            if packet.get(9) == Some(&17) && udp.starts_with(&ports) {
                let hex: String = packet.iter().map(|byte| format!("{byte:02x}")).collect();
                Screen::new().line(format_args!("packet {hex}"));
                return Ok(());
            }
        }
    }
    bail!("the datagram was not captured within {LIMIT:?}")
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

/// socket(AF_PACKET, SOCK_DGRAM, htons(ETH_P_IP)): every IPv4 packet that arrives, without its link header.
///
/// # Errors
/// EPERM without CAP_NET_RAW.
pub fn packet_socket() -> Result<Socket> {
    let protocol = Protocol::from(i32::from((libc::ETH_P_IP as u16).to_be()));
    let packet_sock =
        Socket::new(Domain::from(libc::AF_PACKET), Type::DGRAM, Some(protocol)).at("socket", "AF_PACKET")?;
    packet_sock.set_read_timeout(Some(AGAIN)).at("setsockopt", "AF_PACKET")?;
    Ok(packet_sock)
}
