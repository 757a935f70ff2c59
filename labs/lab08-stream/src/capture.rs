//! Two segments over lo, captured with a packet socket: packet(7) needs CAP_NET_RAW, so it runs as a child of the demo.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    libc,
    sys::socket::{MsgFlags, recv, send},
};
use shared::{At, Screen};
use socket2::{Domain, Protocol, Socket, Type};

/// What the lecture sends.
pub const MESSAGE: &[u8] = b"Hello World!";
const LIMIT: Duration = Duration::from_secs(5);
/// The flags of a segment that opens a connection: SYN and nothing else of the old six.
const SYN: u8 = 0x02;

/// Connects, sends the message, and prints the SYN and the segment that carries it, from the IP header on, in
/// hexadecimal.
pub fn run() -> Result<()> {
    // socket(AF_PACKET, SOCK_DGRAM, htons(ETH_P_IP)): every IPv4 packet that arrives, without its link header
    let protocol = Protocol::from(i32::from((libc::ETH_P_IP as u16).to_be()));
    let packet_sock =
        Socket::new(Domain::from(libc::AF_PACKET), Type::DGRAM, Some(protocol)).at("socket", "AF_PACKET")?;
    packet_sock.set_read_timeout(Some(LIMIT)).at("setsockopt", "AF_PACKET")?;

    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listen_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", any_port)?;
    listen_sock.set_read_timeout(Some(LIMIT)).at("setsockopt", any_port)?;
    listen_sock.bind(&any_port.into()).at("bind", any_port)?;
    listen_sock.listen(1).at("listen", any_port)?;
    let server_addr = local_addr(&listen_sock)?;
    let client_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
    client_sock.connect(&server_addr.into()).at("connect", server_addr)?;
    let client_addr = local_addr(&client_sock)?;
    let (conn_sock, _) = listen_sock.accept().at("accept", server_addr)?;
    conn_sock.set_read_timeout(Some(LIMIT)).at("setsockopt", server_addr)?;
    send(client_sock.as_raw_fd(), MESSAGE, MsgFlags::empty()).at("send", server_addr)?;
    let mut buffer = [0; 1024];
    let bytes_read = recv(conn_sock.as_raw_fd(), &mut buffer, MsgFlags::empty()).at("recv", client_addr)?;
    ensure!(&buffer[..bytes_read] == MESSAGE, "the receiver got {:?}", &buffer[..bytes_read]);

    let ports = [client_addr.port().to_be_bytes(), server_addr.port().to_be_bytes()].concat();
    let deadline = Instant::now() + LIMIT;
    let mut screen = Screen::new();
    let (mut syn_seen, mut message_seen) = (false, false);
    while !(syn_seen && message_seen) {
        ensure!(Instant::now() < deadline, std::io::Error::from(ErrorKind::TimedOut));
        let bytes_read = recv(packet_sock.as_raw_fd(), &mut buffer, MsgFlags::empty()).at("recv", "AF_PACKET")?;
        let packet = &buffer[..bytes_read];
        let tcp = packet.first().and_then(|first| packet.get(usize::from(first & 0xf) * 4..)).unwrap_or_default();
        if packet.get(9) != Some(&6) || !tcp.starts_with(&ports) {
            continue;
        }
        let hex: String = packet.iter().map(|byte| format!("{byte:02x}")).collect();
        if !syn_seen && tcp.get(13).is_some_and(|flags| flags & 0x3f == SYN) {
            screen.line(format_args!("syn {hex}"));
            syn_seen = true;
        } else if !message_seen && tcp.ends_with(MESSAGE) {
            screen.line(format_args!("message {hex}"));
            message_seen = true;
        }
    }
    Ok(())
}

fn local_addr(sock: &Socket) -> Result<SocketAddr> {
    sock.local_addr().at("getsockname", "")?.as_socket().context("not an IP socket")
}
