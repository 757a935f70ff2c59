//! Two hosts and a slow line between them: a relay passes each Ethernet frame on, later. It needs CAP_NET_RAW and networks
//! of its own, so this runs as a child of the demo. It prints what passed and how long it took; the demo reads it.

use std::{
    collections::VecDeque,
    fs::File,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    process,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use kernel::hosts::{DEVICE, Host, Hosts};
use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, setns},
    setsockopt_impl, sockopt_impl,
    sys::socket::{LinkAddr, MsgFlags, bind, recv, recvfrom, send, setsockopt},
};
use shared::{At, Screen};
use socket2::{Domain, Protocol, Socket, Type};

pub const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: page\r\n\r\n";
pub const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nHello";
/// The line in each direction.
pub const ONE_WAY: Duration = Duration::from_millis(50);
/// How often new and kept are tried: the quickest counts, as a busy machine may delay any.
pub const TRIES: usize = 3;
/// Not in libc for all: include/uapi/linux/if_packet.h.
const PACKET_VNET_HDR: i32 = 15;
/// In front of each frame then: which checksum is still to be computed. It is passed on as it came.
const VNET_HEADER: usize = 10;
const ETHERNET_HEADER: usize = 14;
/// The longest frame, offloads included.
const FRAME: usize = 70_000;

sockopt_impl!(
    /// packet(7) leaves it out: struct virtio_net_hdr in front of each frame.
    PacketVnetHdr, SetOnly, libc::SOL_PACKET, PACKET_VNET_HDR, bool
);

/// A frame on its way: when it is due, to which host, its bytes.
type Frame = (Instant, Host, Vec<u8>);

/// A TCP segment: the client's port, and what is shown of it.
type Segment = (u16, String);

/// Makes hosts and line, asks over new connections and over kept ones, prints segments and times.
pub fn run(outside: &str) -> Result<()> {
    let between = File::open("/proc/thread-self/ns/net").context("open /proc/thread-self/ns/net")?;
    let hosts = Hosts::new(outside)?;
    hosts.ip(Host::A, &format!("link del {DEVICE}"))?; // the short cable between the two
    let here = format!("/proc/{}/fd/{}", process::id(), between.as_raw_fd());
    for (host, addr, end) in [(Host::A, "10.0.0.1/24", "to-a"), (Host::B, "10.0.0.2/24", "to-b")] {
        hosts.ip(host, &format!("link add {DEVICE} type veth peer name {end} netns {here}"))?;
        hosts.ip(host, &format!("addr add {addr} dev {DEVICE}"))?;
        hosts.ip(host, &format!("link set {DEVICE} up"))?;
    }
    setns(&between, CloneFlags::CLONE_NEWNET).context("setns back")?;
    let ends = [(Host::A, line_end("to-a")?), (Host::B, line_end("to-b")?)];
    let (seen, segments) = channel();
    thread::Builder::new().spawn(move || relay(&ends, &seen)).context("cannot start a thread")?;
    ask(&hosts, &segments)
}

/// One end of the line: a packet socket on this device.
fn line_end(device: &str) -> Result<Socket> {
    let told = process::Command::new("ip").args(["link", "set", device, "up"]).status().context("cannot start ip")?;
    ensure!(told.success(), "ip link set {device} up");
    let protocol = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
    let sock = Socket::new(Domain::from(libc::AF_PACKET), Type::RAW, Some(protocol)).at("socket", "AF_PACKET")?;
    setsockopt(&sock, PacketVnetHdr, &true).at("setsockopt", "PACKET_VNET_HDR")?;
    let mut addresses = getifaddrs().at("getifaddrs", device)?;
    let here =
        addresses.find_map(|found| Some(*found.address.filter(|_| found.interface_name == device)?.as_link_addr()?));
    bind(sock.as_raw_fd(), &here.context("the device has no address")?).at("bind", device)?;
    Ok(sock)
}

/// Passes frames on as long as this program runs. Tells each TCP segment of them.
fn relay(ends: &[(Host, Socket); 2], seen: &Sender<Segment>) -> Result<()> {
    let (mut line, mut buffer) = (VecDeque::<Frame>::new(), vec![0; FRAME]);
    loop {
        let wait =
            line.front().map(|(due, ..)| due.saturating_duration_since(Instant::now()) + Duration::from_millis(1));
        let timeout = wait.map_or(PollTimeout::NONE, |wait| PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX));
        let mut fds = [0, 1].map(|end: usize| PollFd::new(ends[end].1.as_fd(), PollFlags::POLLIN));
        let _ = poll(&mut fds, timeout); // EINTR: once more
        for ((_, sock), (other, _)) in ends.iter().zip(ends.iter().rev()) {
            while let Ok((bytes_read, from)) = receive(sock, &mut buffer) {
                if from.is_none_or(|from| from.pkttype() == libc::PACKET_OUTGOING) {
                    continue; // this relay sent it
                }
                let bytes = buffer[..bytes_read].to_vec();
                if let Some(segment) = segment(&bytes) {
                    let _ = seen.send(segment); // until the main thread ends
                }
                line.push_back((Instant::now() + ONE_WAY, *other, bytes));
            }
        }
        while line.front().is_some_and(|(due, ..)| *due <= Instant::now()) {
            let Some((_, to, bytes)) = line.pop_front() else { break };
            let end = ends.iter().find(|(host, _)| *host == to).context("no such host")?;
            let _ = send(end.1.as_raw_fd(), &bytes, MsgFlags::empty()); // ENETDOWN: the line loses it
        }
    }
}

fn receive(sock: &Socket, buffer: &mut [u8]) -> nix::Result<(usize, Option<LinkAddr>)> {
    let fd = sock.as_raw_fd();
    let mut fds = [PollFd::new(sock.as_fd(), PollFlags::POLLIN)];
    if poll(&mut fds, PollTimeout::ZERO)? == 0 {
        return Err(Errno::EAGAIN);
    }
    recvfrom::<LinkAddr>(fd, buffer)
}

/// Who sent it, its flags, and how many bytes are in it: `server SYN ACK`, `client 30 bytes`. The client is on host B.
fn segment(frame: &[u8]) -> Option<Segment> {
    let packet = frame.get(VNET_HEADER + ETHERNET_HEADER..)?;
    let is_tcp = frame[VNET_HEADER + 12..VNET_HEADER + 14] == [8, 0] && *packet.get(9)? == 6;
    let who = if packet.get(12..16)? == [10, 0, 0, 2] { "client" } else { "server" };
    let total = usize::from(u16::from_be_bytes(packet.get(2..4)?.try_into().ok()?));
    let (header, segment) = packet.get(..total)?.split_at_checked(usize::from(packet[0] & 0xf) * 4)?;
    let flags = *segment.get(13)?;
    let bytes = segment.len().checked_sub(usize::from(segment[12] >> 4) * 4)?;
    let text = match (bytes, flags & 0x12) {
        (1.., _) => format!("{who} {bytes} bytes"),
        (0, 0x12) => format!("{who} SYN ACK"),
        (0, 0x02) => format!("{who} SYN"),
        (0, _) => format!("{who} ACK"),
    };
    let port = segment.get(if who == "client" { 0..2 } else { 2..4 })?;
    (is_tcp && !header.is_empty()).then_some((u16::from_be_bytes(port.try_into().ok()?), text))
}

/// The server is on host A, the client on host B.
fn ask(hosts: &Hosts, segments: &Receiver<Segment>) -> Result<()> {
    let mut screen = Screen::new();
    let server_addr = SocketAddr::from(([10, 0, 0, 1], 8080));
    hosts.enter(Host::A)?;
    let listen_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
    listen_sock.bind(&server_addr.into()).at("bind", server_addr)?;
    listen_sock.listen(16).at("listen", server_addr)?;
    hosts.enter(Host::B)?;
    // The first one also asks for addresses (ARP) and is not counted.
    for number in 0..=TRIES {
        let (mut told, mut times) = (Vec::new(), Vec::new());
        let started = Instant::now();
        let client_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
        client_sock.connect(&server_addr.into()).at("connect", server_addr)?;
        let port = client_sock.local_addr().at("getsockname", "")?.as_socket().context("not an IP socket")?.port();
        let mut conn_sock = None;
        for (label, started) in [("new", Some(started)), ("kept", None)] {
            let started = started.unwrap_or_else(Instant::now);
            send(client_sock.as_raw_fd(), REQUEST, MsgFlags::empty()).at("send", server_addr)?;
            let conn_sock = match &mut conn_sock {
                Some(conn_sock) => conn_sock,
                none => none.insert(listen_sock.accept().at("accept", server_addr)?.0),
            };
            receive_all(conn_sock, REQUEST)?;
            send(conn_sock.as_raw_fd(), ANSWER, MsgFlags::empty()).at("send", server_addr)?;
            receive_all(&client_sock, ANSWER)?;
            times.push((label, started.elapsed().as_millis()));
            let ours = segments.try_iter().filter(|(of, _)| *of == port);
            told.push((label, ours.map(|(_, text)| text).collect::<Vec<_>>().join(", ")));
        }
        if number > 0 {
            told.iter().for_each(|(label, passed)| screen.line(format_args!("{label} segments {passed}")));
            times.iter().for_each(|(label, ms)| screen.line(format_args!("{label} ms {ms}")));
        }
    }
    screen.line("end of the scene");
    Ok(())
}

/// Receives these bytes and no others.
fn receive_all(sock: &Socket, wanted: &[u8]) -> Result<()> {
    let (mut received, mut buffer) = (Vec::<u8>::new(), [0; 1024]);
    while received.len() < wanted.len() {
        match recv(sock.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Err(Errno::EINTR) => {}
            bytes_read => match bytes_read.at("recv", "")? {
                0 => break,
                bytes_read => received.extend(&buffer[..bytes_read]),
            },
        }
    }
    ensure!(received == wanted, "received {received:?}");
    Ok(())
}
