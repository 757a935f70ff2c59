//! Two segments over lo, captured with a packet socket: packet(7) needs CAP_NET_RAW, so it runs as a child of the demo.

use std::{
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use kernel::Pair;
use nix::{
    errno::Errno,
    libc,
    sys::socket::{MsgFlags, recv, send},
};
use shared::{At, Screen};
use socket2::{Domain, Protocol, Socket, Type};

use crate::experiments::connected;

/// What the lecture sends.
pub const MESSAGE: &[u8] = b"Hello World!";
const LIMIT: Duration = Duration::from_secs(5);
/// How long to look for the segments before there is another connection.
const AGAIN: Duration = Duration::from_millis(200);
/// The flags of a segment that opens a connection: SYN and nothing else of the old six.
const SYN: u8 = 0x02;

/// Connects, sends the message, and prints the SYN and the segment that carries it, from the IP header on, in
/// hexadecimal.
pub fn run() -> Result<()> {
    let packet_sock = packet_socket()?;

    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        // On everybody's lo all packets come by. They may fill the packet socket, ours are lost then: once more.
        let ports = one_message()?;
        if let (Some(syn), Some(message)) = captured(&packet_sock, &ports)? {
            Screen::new().line(format_args!("syn {syn}\nmessage {message}"));
            return Ok(());
        }
    }
    bail!("the segments were not captured within {LIMIT:?}")
}

/// A connection of its own with one message; both ports, as they stand in front of the client's segments.
fn one_message() -> Result<[u8; 4]> {
    let (client_sock, conn_sock) = connected()?;
    let Pair { local, peer } = Pair::of(&client_sock)?;
    send(client_sock.as_raw_fd(), MESSAGE, MsgFlags::empty()).at("send", peer)?;
    let mut buffer = [0; 1024];
    let bytes_read = recv(conn_sock.as_raw_fd(), &mut buffer, MsgFlags::empty()).at("recv", local)?;
    ensure!(&buffer[..bytes_read] == MESSAGE, "the receiver got {:?}", &buffer[..bytes_read]);
    let [[a, b], [c, d]] = [local.port().to_be_bytes(), peer.port().to_be_bytes()];
    Ok([a, b, c, d])
}

/// The client's SYN and its segment with the message, in hexadecimal, as far as they come by.
fn captured(packet_sock: &Socket, ports: &[u8]) -> Result<(Option<String>, Option<String>)> {
    let (mut syn, mut message) = (None, None);
    let mut buffer = [0; 1024];
    let again = Instant::now() + AGAIN;
    while (syn.is_none() || message.is_none()) && Instant::now() < again {
        let bytes_read = match recv(packet_sock.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Err(Errno::EAGAIN) => break,
            received => received.at("recv", "AF_PACKET")?,
        };
        let packet = &buffer[..bytes_read];
        let tcp = packet.first().and_then(|first| packet.get(usize::from(first & 0xf) * 4..)).unwrap_or_default();
        if packet.get(9) != Some(&6) || !tcp.starts_with(ports) {
            continue;
        }
        let hex = || packet.iter().map(|byte| format!("{byte:02x}")).collect();
        if tcp.get(13).is_some_and(|flags| flags & 0x3f == SYN) {
            syn = Some(hex());
        } else if tcp.ends_with(MESSAGE) {
            message = Some(hex());
        }
    }
    Ok((syn, message))
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
