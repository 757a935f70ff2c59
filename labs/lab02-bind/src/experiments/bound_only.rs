//! Asks sock_diag(7) for TCP sockets that are only bound: they do not listen and are not connected.

use std::{net::SocketAddr, os::fd::AsRawFd};

use anyhow::{Result, ensure};
use nix::{
    libc,
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket},
};
use shared::At;

/// No state of TCP, but a bit to ask with, since Linux 6.8. ss of iproute2 6.8 sets it for `-B` and for `-a`.
const BOUND_INACTIVE: u32 = 1 << 13;
/// Not in libc: include/uapi/linux/sock_diag.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `struct nlmsghdr`, and in `struct inet_diag_msg` behind it the local port and the local address.
const NLMSG_HEADER: usize = 16;
const LOCAL_PORT: usize = NLMSG_HEADER + 4;
const LOCAL_IP: usize = NLMSG_HEADER + 8;

/// Whether the kernel lists an IPv4 socket bound to `addr` that neither listens nor is connected; Linux before 6.8 lists
/// none.
pub fn is_listed(addr: SocketAddr) -> Result<bool> {
    let netlink =
        socket(AddressFamily::Netlink, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)
            .at("socket", "NETLINK_SOCK_DIAG")?;
    let request = [
        &72u32.to_ne_bytes()[..], // nlmsghdr: length, type, flags, sequence number, port
        &SOCK_DIAG_BY_FAMILY.to_ne_bytes(),
        &((libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16).to_ne_bytes(),
        &[0; 8],
        &[libc::AF_INET as u8, libc::IPPROTO_TCP as u8, 0, 0], // inet_diag_req_v2: then states and local port
        &BOUND_INACTIVE.to_ne_bytes(),
        &addr.port().to_be_bytes(),
        &[0; 46],
    ]
    .concat();
    send(netlink.as_raw_fd(), &request, MsgFlags::empty()).at("send", "NETLINK_SOCK_DIAG")?;
    let mut listed = false;
    loop {
        let mut buffer = vec![0u8; 64 * 1024];
        let bytes_read = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty()).at("recv", "NETLINK_SOCK_DIAG")?;
        let mut rest = &buffer[..bytes_read];
        while let Some(header) = rest.first_chunk::<NLMSG_HEADER>() {
            let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
            ensure!((NLMSG_HEADER..=rest.len()).contains(&length), "sock_diag: a message of {length} bytes");
            match i32::from(u16::from_ne_bytes([header[4], header[5]])) {
                libc::NLMSG_DONE => return Ok(listed),
                libc::NLMSG_ERROR => anyhow::bail!("sock_diag refused the request"),
                _ => listed |= is_bound_to(&rest[..length], addr),
            }
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        }
    }
}

fn is_bound_to(message: &[u8], addr: SocketAddr) -> bool {
    let port = message.get(LOCAL_PORT..LOCAL_PORT + 2);
    let ip = message.get(LOCAL_IP..LOCAL_IP + 4).and_then(|ip| <[u8; 4]>::try_from(ip).ok());
    port == Some(&addr.port().to_be_bytes()) && ip.is_some_and(|ip| addr.ip() == std::net::IpAddr::from(ip))
}
