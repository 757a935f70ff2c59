//! The capture: a packet socket, see packet(7). It gets a copy of each packet where the kernel takes it from the device,
//! before IP looks at it.

use std::{
    io::IoSliceMut,
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use etherparse::{NetSlice, SlicedPacket, TcpSlice, TransportSlice, UdpSlice};
use kernel::Pair;
use nix::{
    cmsg_space,
    errno::Errno,
    getsockopt_impl, libc, setsockopt_impl, sockopt_impl,
    sys::socket::{
        AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, getsockopt, recvmsg,
        socket,
    },
};
use shared::At;

use super::scene::Scene;

sockopt_impl!(
    /// A note of the kernel on each packet, as a control message.
    PacketAuxdata, SetOnly, libc::SOL_PACKET, libc::PACKET_AUXDATA, bool
);
sockopt_impl!(
    /// `struct tpacket_stats`: how many packets there were, and how many of them found the queue full. Reading sets
    /// both to 0.
    PacketStatistics, GetOnly, libc::SOL_PACKET, libc::PACKET_STATISTICS, [u32; 2]
);

/// `struct tpacket_auxdata` begins with tp_status; five words in all.
type Auxdata = [u32; 5];

/// A packet socket of an experiment.
pub struct Capture(OwnedFd);

/// One packet, from the IP header on.
pub struct Seen {
    /// PACKET_HOST, PACKET_OUTGOING ..
    pub kind: u8,
    /// The kernel's note, where PACKET_AUXDATA is set.
    pub status: Option<u32>,
    /// The kernel's time stamp, where SO_TIMESTAMPNS is set.
    pub at: Option<SystemTime>,
    pub bytes: Vec<u8>,
}

/// What of a TCP segment the experiments look at.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    pub from_client: bool,
    /// Such as "FIN ACK".
    pub flags: String,
    pub payload: Vec<u8>,
    /// The kernel's time stamp, where SO_TIMESTAMPNS is set.
    pub at: Option<SystemTime>,
}

impl Capture {
    /// Captures from now on: IPv4 packets as they come in, or with EthAll all packets, as they go out too.
    pub fn start(scene: &mut Scene, protocol: SockProtocol) -> Result<Capture> {
        let name = if protocol == SockProtocol::EthAll { "ETH_P_ALL" } else { "ETH_P_IP" };
        let fd = socket(AddressFamily::Packet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol)
            .at("socket AF_PACKET", name)?;
        scene.say("capture", format_args!("socket(AF_PACKET, SOCK_DGRAM, htons({name})) = {}", fd.as_raw_fd()));
        Ok(Capture(fd))
    }

    pub fn fd(&self) -> &OwnedFd {
        &self.0
    }

    /// How many packets found the queue full since the last look.
    pub fn missed(&self) -> Result<u32> {
        let [_, drops] = getsockopt(&self.0, PacketStatistics).at("getsockopt PACKET_STATISTICS", "")?;
        Ok(drops)
    }

    /// What has passed since the last look, without waiting.
    pub fn take(&self) -> Result<Vec<Seen>> {
        let (mut buffer, mut seen) = (vec![0; 65536], Vec::new());
        loop {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let mut control = cmsg_space!(Auxdata);
            let received =
                recvmsg::<LinkAddr>(self.0.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT);
            let message = match received {
                Err(Errno::EAGAIN) => return Ok(seen),
                Err(Errno::EINTR) => continue,
                received => received.at("recvmsg", "AF_PACKET")?,
            };
            let (mut status, mut at) = (None, None);
            for note in message.cmsgs().at("recvmsg", "AF_PACKET")? {
                match note {
                    ControlMessageOwned::ScmTimestampns(time) => at = Some(UNIX_EPOCH + Duration::from(time)),
                    ControlMessageOwned::Unknown(note) => {
                        status = note.data_bytes.first_chunk().map(|word| u32::from_ne_bytes(*word));
                    }
                    _ => {}
                }
            }
            let kind = message.address.context("a packet from nowhere")?.pkttype();
            let length = message.bytes;
            seen.push(Seen { kind, status, at, bytes: buffer[..length].to_vec() });
        }
    }

    /// The segments of this connection among what has passed since the last look; `client` is the client's end.
    pub fn segments(&self, client: Pair) -> Result<Vec<Segment>> {
        Ok(self.take()?.iter().filter_map(|seen| seen.segment(client)).collect())
    }

    /// The UDP datagrams of this sender among what has passed since the last look.
    pub fn datagrams(&self, from: SocketAddr, to: SocketAddr) -> Result<Vec<Seen>> {
        let mut seen = self.take()?;
        seen.retain(|seen| seen.is_between(from, to));
        Ok(seen)
    }
}

impl Seen {
    /// The segment, if it is one of this connection; `client` is the client's end.
    pub fn segment(&self, client: Pair) -> Option<Segment> {
        let ends = ends(&self.bytes)?;
        let from_client = ends == (client.local, client.peer);
        if !from_client && ends != (client.peer, client.local) {
            return None;
        }
        let TransportSlice::Tcp(tcp) = SlicedPacket::from_ip(&self.bytes).ok()?.transport? else { return None };
        Some(Segment { from_client, flags: flags(&tcp), payload: tcp.payload().to_vec(), at: self.at })
    }

    /// Whether it went from one of these addresses to the other.
    pub fn is_between(&self, from: SocketAddr, to: SocketAddr) -> bool {
        ends(&self.bytes) == Some((from, to))
    }

    /// The UDP header and what follows it; `None` for another packet.
    pub fn udp(&self) -> Option<UdpSlice<'_>> {
        match SlicedPacket::from_ip(&self.bytes).ok()?.transport? {
            TransportSlice::Udp(udp) => Some(udp),
            _ => None,
        }
    }
}

/// The two addresses of an IPv4 packet with ports.
fn ends(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let packet = SlicedPacket::from_ip(bytes).ok()?;
    let Some(NetSlice::Ipv4(ip)) = packet.net else { return None };
    let (source, destination) = match packet.transport? {
        TransportSlice::Udp(udp) => (udp.source_port(), udp.destination_port()),
        TransportSlice::Tcp(tcp) => (tcp.source_port(), tcp.destination_port()),
        _ => return None,
    };
    let header = ip.header();
    Some(((header.source_addr(), source).into(), (header.destination_addr(), destination).into()))
}

fn flags(tcp: &TcpSlice) -> String {
    let flags = [(tcp.fin(), "FIN"), (tcp.syn(), "SYN"), (tcp.rst(), "RST"), (tcp.psh(), "PSH"), (tcp.ack(), "ACK")];
    flags.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect::<Vec<_>>().join(" ")
}
