//! A line that takes its time: a program passes Ethernet frames from one cable to another, later. packet(7) needs
//! CAP_NET_RAW, which a private network gives.

use std::{
    collections::VecDeque,
    os::fd::{AsFd, AsRawFd},
    process::Command,
    sync::mpsc::Sender,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use kernel::hosts::Host;
use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    setsockopt_impl, sockopt_impl,
    sys::socket::{LinkAddr, MsgFlags, bind, recvfrom, send, setsockopt},
};
use shared::At;
use socket2::{Domain, Protocol, Socket, Type};

/// The line in each direction.
pub const ONE_WAY: Duration = Duration::from_millis(50);
/// With PACKET_VNET_HDR, in front of each frame: which checksum is still to be computed. It is passed on as it came.
const VNET_HEADER: usize = 10;
const ETHERNET_HEADER: usize = 14;
/// The longest frame, offloads included.
const FRAME: usize = 70_000;

sockopt_impl!(
    /// packet(7) leaves it out: struct virtio_net_hdr in front of each frame.
    PacketVnetHdr, SetOnly, libc::SOL_PACKET, libc::PACKET_VNET_HDR, bool
);

/// A frame on its way: when it is due, to which host, its bytes.
type Frame = (Instant, Host, Vec<u8>);

/// A TCP segment: the client's port, and what is shown of it.
pub type Segment = (u16, String);

/// One end of the line: a packet socket on this device.
pub fn line_end(device: &str) -> Result<Socket> {
    let told = Command::new("ip").args(["link", "set", device, "up"]).status().context("cannot start ip")?;
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
pub fn relay(ends: &[(Host, Socket); 2], seen: &Sender<Segment>) -> Result<()> {
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
