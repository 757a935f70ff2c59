//! One datagram for several sockets of this host.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::fd::AsRawFd,
};

use anyhow::{Context, Result, ensure};
use kernel::wait_until;
use nix::{
    libc,
    sys::socket::{MsgFlags, SockProtocol, SockaddrStorage, recv, sendto},
};
use shared::{At, Predicts, Stage, Verdict, returned};
use socket2::{Domain, Socket, Type};

use super::{
    LIMIT, bound,
    packets::Capture,
    scene::{Scene, Shown},
};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 0, 0, 100);
const MEMBERS: usize = 3;

pub fn group(stage: &mut Stage) -> Result<Verdict> {
    let scene = Shown::start(stage, "group")?;
    let question = stage.ask(
        "One datagram goes to the group, over lo. Three sockets are members. How often does it stand in the capture, and \
         how often is it received?",
        [
            ("1 time captured, 3 times received", "1, 3".to_string()),
            ("2 times captured, 3 times received", "2, 3".into()),
            ("3 times captured, 3 times received", "3, 3".into()),
            ("4 times captured, 3 times received", "4, 3".into()),
        ],
        Predicts { source: None, kit: "2, 3".into() },
    )?;
    let observed = scene.observed(stage)?;
    stage.verdict(
        question,
        observed,
        "it passes lo once, out and in; the copies for the members are made behind the capture",
    )
}

pub fn group_scene(scene: &mut Scene) -> Result<String> {
    let capture = Capture::start(scene, SockProtocol::EthAll)?;
    let mut group_addr = SocketAddrV4::new(GROUP, 0);
    let mut members = Vec::new();
    for _ in 0..MEMBERS {
        let member_sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", "")?;
        member_sock.set_reuse_address(true).at("setsockopt SO_REUSEADDR", "")?;
        member_sock.bind(&SocketAddr::from(group_addr).into()).at("bind", group_addr)?;
        let local_addr = member_sock.local_addr().at("getsockname", group_addr)?;
        group_addr = local_addr.as_socket_ipv4().context("not an IPv4 socket")?; // the others take the same port
        member_sock.join_multicast_v4(&GROUP, &Ipv4Addr::LOCALHOST).at("setsockopt IP_ADD_MEMBERSHIP", GROUP)?;
        let member_fd = member_sock.as_raw_fd();
        scene.say("member", format_args!("bind({member_fd}, {group_addr}) = 0"));
        scene.say("member", format_args!("setsockopt({member_fd}, SOL_IP, IP_ADD_MEMBERSHIP, {GROUP}) = 0"));
        members.push(member_sock);
    }
    let (send_sock, send_addr) = bound()?;
    let send_fd = send_sock.as_raw_fd();
    send_sock.set_multicast_if_v4(&Ipv4Addr::LOCALHOST).at("setsockopt IP_MULTICAST_IF", "127.0.0.1")?;
    capture.take()?;

    scene.ask()?;
    let sent = sendto(send_fd, b"hello", &SockaddrStorage::from(group_addr), MsgFlags::empty());
    scene.say("sender", format_args!("sendto({send_fd}, \"hello\", 5, {group_addr}) = {}", returned(&sent)));
    sent.at("sendto", group_addr)?;
    let mut received = 0;
    for member_sock in &members {
        let member_fd = member_sock.as_raw_fd();
        let bytes_read = recv(member_fd, &mut [0; 16], MsgFlags::empty());
        scene.say("member", format_args!("recv({member_fd}, 16) = {}", returned(&bytes_read)));
        received += usize::from(bytes_read == Ok(5));
    }
    // A datagram to a port of its own comes behind all copies of the first one.
    let last_addr = SocketAddr::from((GROUP, send_addr.port()));
    sendto(send_fd, b"end", &SockaddrStorage::from(last_addr), MsgFlags::empty()).at("sendto", last_addr)?;
    let mut seen = Vec::new();
    wait_until("the last datagram in the capture", LIMIT, || {
        seen.extend(capture.take()?);
        Ok(seen
            .iter()
            .any(|seen| seen.is_between(send_addr, last_addr) && seen.kind != libc::PACKET_OUTGOING)
            .then_some(()))
    })?;
    seen.retain(|seen| seen.is_between(send_addr, group_addr.into()));
    for seen in &seen {
        let kind = match seen.kind {
            libc::PACKET_OUTGOING => "PACKET_OUTGOING: it goes out",
            libc::PACKET_HOST | libc::PACKET_BROADCAST | libc::PACKET_MULTICAST => "it comes in",
            _ => "of another kind",
        };
        scene.say("captured", format_args!("{send_addr} > {group_addr}  {kind}"));
    }
    ensure!(received > 0, "nobody received it");
    Ok(format!("{}, {received}", seen.len()))
}
