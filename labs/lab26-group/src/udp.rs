//! The two sockets of a member: one in the group, one of its own. Both stay on lo.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::AsRawFd,
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, SockaddrIn, recvfrom, sendto, setsockopt, sockopt},
};
use shared::{At, Pause, Screen};
use socket2::{Domain, Socket, Type};

/// The interface, by its address.
pub const LO: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// Holds any datagram.
pub const BUFFER_SIZE: usize = 65536;

/// The socket that hears what is sent to the group.
pub fn join(screen: &mut Screen, pause: &mut Pause, group: SocketAddrV4) -> Result<Socket> {
    pause.before(screen, "socket(AF_INET, SOCK_DGRAM, 0)");
    let sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", "")?;
    let fd = sock.as_raw_fd();
    sock.set_nonblocking(true).at("fcntl", "")?;

    // Needed by every member on this machine, the first one too: lab05, second-receiver.
    pause.before(screen, format_args!("setsockopt({fd}, SOL_SOCKET, SO_REUSEADDR, [1])"));
    sock.set_reuse_address(true).at("setsockopt SO_REUSEADDR", "")?;

    pause.before(screen, format_args!("bind({fd}, {group})"));
    sock.bind(&group.into()).at("bind", group)?;

    let ip = group.ip();
    pause.before(screen, format_args!("setsockopt({fd}, SOL_IP, IP_ADD_MEMBERSHIP, {ip} on {LO})"));
    sock.join_multicast_v4(ip, &LO).at("setsockopt IP_ADD_MEMBERSHIP", LO)?;
    Ok(sock)
}

/// The socket that sends to the group; answers to it come to its own port.
pub fn own(screen: &mut Screen, pause: &mut Pause) -> Result<Socket> {
    let any_port = SocketAddrV4::new(LO, 0);
    pause.before(screen, "socket(AF_INET, SOCK_DGRAM, 0)");
    let sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", "")?;
    let fd = sock.as_raw_fd();
    sock.set_nonblocking(true).at("fcntl", "")?;

    pause.before(screen, format_args!("bind({fd}, {any_port})"));
    sock.bind(&any_port.into()).at("bind", any_port)?;

    // Without it the routing table chooses, and the datagrams leave the machine.
    pause.before(screen, format_args!("setsockopt({fd}, SOL_IP, IP_MULTICAST_IF, {LO})"));
    sock.set_multicast_if_v4(&LO).at("setsockopt IP_MULTICAST_IF", LO)?;

    // No router passes it on. 1 and LOOP are what a new socket has; the group depends on both.
    pause.before(screen, format_args!("setsockopt({fd}, SOL_IP, IP_MULTICAST_TTL, [1])"));
    sock.set_multicast_ttl_v4(1).at("setsockopt IP_MULTICAST_TTL", "")?;
    pause.before(screen, format_args!("setsockopt({fd}, SOL_IP, IP_MULTICAST_LOOP, [1])"));
    setsockopt(&sock, sockopt::IpMulticastLoop, &true).at("setsockopt IP_MULTICAST_LOOP", "")?;
    Ok(sock)
}

/// Sends a datagram. What finds no room is lost, like any datagram: repair brings it.
///
/// # Errors
/// Whatever else sendto says.
pub fn send(sock: &Socket, bytes: &[u8], to: SocketAddrV4) -> Result<()> {
    loop {
        match sendto(sock.as_raw_fd(), bytes, &SockaddrIn::from(to), MsgFlags::empty()) {
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ECONNREFUSED) => return Ok(()),
            result => return Ok(result.map(|_| ()).at("sendto", std::net::SocketAddr::from(to))?),
        }
    }
}

/// The next datagram and its sender, if one waits.
///
/// # Errors
/// Whatever recvfrom says.
pub fn receive(sock: &Socket, buffer: &mut [u8]) -> Result<Option<(usize, SocketAddrV4)>> {
    loop {
        match recvfrom::<SockaddrIn>(sock.as_raw_fd(), buffer) {
            Err(Errno::EINTR | Errno::ECONNREFUSED) => {} // a client that asked has gone
            Err(Errno::EAGAIN) => return Ok(None),
            Err(errno) => return Ok(Err(errno).at("recvfrom", "")?),
            Ok((bytes_read, peer)) => {
                let peer = peer.context("recvfrom gave no address")?;
                return Ok(Some((bytes_read, SocketAddrV4::new(peer.ip(), peer.port()))));
            }
        }
    }
}
