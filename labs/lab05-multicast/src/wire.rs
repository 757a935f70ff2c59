//! A cable inside a private network: a veth pair, both ends on this machine, nobody else on it.
//!
//! The experiment starts this role in a network namespace, for an ordinary account too. For each setting of the LOOP
//! options the role sends one datagram over IPv4 and one over IPv6 at the near end, and prints who heard them.

use std::{
    io::stdin,
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6},
    os::fd::AsRawFd,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kernel::{
    namespace::{START_LIMIT, ensure_private, own},
    wait_until,
};
use nix::{
    errno::Errno,
    libc,
    net::if_::if_nametoindex,
    sys::socket::{LinkAddr, MsgFlags, SockaddrIn, SockaddrIn6, recv, recvfrom, sendto},
};
use shared::{At, Role, Screen};
use socket2::{Domain, Protocol, Socket, Type};

use crate::WireArgs;

/// For ip(8). The addresses are for documentation (RFC 5737) and for one link (RFC 4291 2.5.6); nodad, because an
/// address cannot be used before the search for duplicates has ended.
const SET_UP: &[&str] = &[
    "link add near type veth peer name far",
    "link set near addrgenmode none",
    "link set far addrgenmode none",
    "addr add 192.0.2.1/24 dev near",
    "addr add fe80::1/64 dev near nodad",
    "addr add fe80::2/64 dev far nodad",
    "link set near up",
    "link set far up",
];
const NEAR_ADDR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const GROUP_V4: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 1, 1, 1), 53124);
/// Transient, on one link: RFC 4291 2.7.
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff12, 0, 0, 0, 0, 0, 1, 1);
const PORT_V6: u16 = 53126;

const LIMIT: Duration = Duration::from_secs(5);
/// Both copies are made in the same call, the local one first. Once the far end has its copy, only a machine that is too
/// busy to hand over the local one needs this time.
const GRACE: Duration = Duration::from_millis(100);

/// The LOOP options of sender and receiver: untouched, or set to these.
pub const SETTINGS: [Option<(bool, bool)>; 5] =
    [None, Some((true, true)), Some((true, false)), Some((false, true)), Some((false, false))];

/// Who heard the two datagrams of one setting.
#[derive(Debug, PartialEq)]
pub struct Heard {
    /// The receiver at the sender's end, over IPv4 and over IPv6.
    pub near: [bool; 2],
    /// How many of three receivers at the far end, over IPv6.
    pub far: usize,
    /// The frames in which both datagrams came out at the far end, by the address they were for.
    pub frames: Vec<String>,
}

impl Heard {
    fn line(&self) -> String {
        format!("heard {} {} {} {}", self.near[0], self.near[1], self.far, self.frames.join(" "))
    }

    /// What [`run`] printed.
    pub fn from_line(line: &str) -> Option<Heard> {
        let mut words = line.strip_prefix("heard ")?.split_whitespace();
        let near = [words.next()?.parse().ok()?, words.next()?.parse().ok()?];
        Some(Heard { near, far: words.next()?.parse().ok()?, frames: words.map(String::from).collect() })
    }
}

/// Starts this role in a private network; it says `ready` within [`START_LIMIT`].
pub fn start() -> Result<Role> {
    Role::start_in_namespace(&["wire", &own()?])
}

/// Whether this machine lets us have such a cable.
pub fn possible() -> bool {
    start().is_ok_and(|mut wire| wire.wait_for_within("ready\n", START_LIMIT).is_ok())
}

/// Lays the cable, says `ready`, waits for a line, then plays each of [`SETTINGS`].
pub fn run(args: &WireArgs) -> Result<()> {
    ensure_private(&args.outside)?;
    for command in SET_UP {
        let told = Command::new("ip").args(command.split(' ')).status().context("cannot start ip")?;
        ensure!(told.success(), "this failed: ip {command}");
    }
    let near = if_nametoindex("near").at("if_nametoindex", "near")?;
    let far = if_nametoindex("far").at("if_nametoindex", "far")?;
    wait_until("a route to the group", LIMIT, || Ok(play(near, far, None).ok()))?;
    let mut screen = Screen::new();
    screen.line("ready");
    if stdin().read_line(&mut String::new())? == 0 {
        return Ok(());
    }
    for setting in SETTINGS {
        screen.line(play(near, far, setting)?.line());
    }
    Ok(())
}

/// One setting: new sockets, two datagrams.
fn play(near: u32, far: u32, setting: Option<(bool, bool)>) -> Result<Heard> {
    // Sees each frame of both ends; tcpdump reads from such a socket.
    let every_protocol = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
    let frame_sock = Socket::new(Domain::PACKET, Type::RAW, Some(every_protocol)).at("socket", "AF_PACKET")?;
    frame_sock.set_nonblocking(true).at("fcntl", "")?;

    let near_v4_sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", "")?;
    near_v4_sock.bind(&GROUP_V4.into()).at("bind", GROUP_V4)?;
    near_v4_sock.join_multicast_v4(GROUP_V4.ip(), &NEAR_ADDR).at("setsockopt IP_ADD_MEMBERSHIP", NEAR_ADDR)?;
    let near_v6_sock = receiver_v6("near", near)?;
    let far_socks = [receiver_v6("far", far)?, receiver_v6("far", far)?, receiver_v6("far", far)?];

    let v4_sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", "")?;
    v4_sock.set_multicast_if_v4(&NEAR_ADDR).at("setsockopt IP_MULTICAST_IF", NEAR_ADDR)?;
    let v6_sock = Socket::new(Domain::IPV6, Type::DGRAM, None).at("socket", "")?;
    v6_sock.set_multicast_if_v6(near).at("setsockopt IPV6_MULTICAST_IF", near)?; // by number, not by address

    if let Some((sender, receiver)) = setting {
        v4_sock.set_multicast_loop_v4(sender).at("setsockopt IP_MULTICAST_LOOP", "")?;
        near_v4_sock.set_multicast_loop_v4(receiver).at("setsockopt IP_MULTICAST_LOOP", "")?;
        v6_sock.set_multicast_loop_v6(sender).at("setsockopt IPV6_MULTICAST_LOOP", "")?;
        near_v6_sock.set_multicast_loop_v6(receiver).at("setsockopt IPV6_MULTICAST_LOOP", "")?;
    }

    let group_v6 = SocketAddrV6::new(GROUP_V6, PORT_V6, 0, near);
    sendto(v4_sock.as_raw_fd(), b"over IPv4", &SockaddrIn::from(GROUP_V4), MsgFlags::empty()).at("sendto", GROUP_V4)?;
    sendto(v6_sock.as_raw_fd(), b"over IPv6", &SockaddrIn6::from(group_v6), MsgFlags::empty())
        .at("sendto", group_v6)?;

    let mut heard = Heard { near: [false; 2], far: 0, frames: Vec::new() };
    for far_sock in &far_socks {
        heard.far += usize::from(hears(far_sock, LIMIT)?);
    }
    heard.near = [hears(&near_v4_sock, GRACE)?, hears(&near_v6_sock, GRACE)?];
    let mut frame = [0; 256];
    while let Ok((bytes_read, Some(from))) = recvfrom::<LinkAddr>(frame_sock.as_raw_fd(), &mut frame) {
        let arrived = from.ifindex() == usize::try_from(far)? && from.pkttype() != libc::PACKET_OUTGOING;
        if arrived && (frame[..bytes_read].ends_with(b"over IPv4") || frame[..bytes_read].ends_with(b"over IPv6")) {
            heard.frames.push(frame[..6].iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":"));
        }
    }
    Ok(heard)
}

/// A receiver of the IPv6 group at one end of the cable.
fn receiver_v6(device: &str, index: u32) -> Result<Socket> {
    let any_addr = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, PORT_V6, 0, 0);
    let sock = Socket::new(Domain::IPV6, Type::DGRAM, None).at("socket", any_addr)?;
    sock.set_reuse_address(true).at("setsockopt SO_REUSEADDR", "")?;
    // Both ends are on this host: without this option a member at one end would hear frames of the other end, too.
    sock.bind_device(Some(device.as_bytes())).at("setsockopt SO_BINDTODEVICE", device)?;
    sock.bind(&any_addr.into()).at("bind", any_addr)?;
    sock.join_multicast_v6(&GROUP_V6, index).at("setsockopt IPV6_ADD_MEMBERSHIP", device)?;
    Ok(sock)
}

/// Whether a datagram has come, or comes within `limit`.
fn hears(sock: &Socket, limit: Duration) -> Result<bool> {
    sock.set_read_timeout(Some(limit)).at("setsockopt SO_RCVTIMEO", "")?;
    loop {
        match recv(sock.as_raw_fd(), &mut [0; 64], MsgFlags::empty()) {
            Err(Errno::EINTR) => {} // Ctrl-Z, then fg: with SO_RCVTIMEO recv is not restarted, signal(7)
            Err(Errno::EAGAIN) => return Ok(false),
            result => return Ok(result.at("recv", "").map(|_| true)?),
        }
    }
}
