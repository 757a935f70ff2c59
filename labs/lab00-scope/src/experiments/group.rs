//! One datagram for several sockets of this host.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::fd::AsRawFd,
};

use anyhow::{Context, Result};
use kernel::wait_until;
use nix::{
    libc,
    sys::socket::{MsgFlags, SockProtocol, SockaddrStorage, recv, sendto},
};
use shared::{At, Predicts, Stage, Verdict, returned};
use socket2::{Domain, Socket, Type};

use super::{
    LIMIT, bound,
    packets::{Capture, Seen},
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
        let member_fd = member_sock.as_raw_fd();
        member_sock.set_reuse_address(true).at("setsockopt SO_REUSEADDR", "")?;
        member_sock.bind(&SocketAddr::from(group_addr).into()).at("bind", group_addr)?;
        scene.say("member", format_args!("bind({member_fd}, {group_addr}) = 0"));
        let local_addr = member_sock.local_addr().at("getsockname", group_addr)?;
        group_addr = local_addr.as_socket_ipv4().context("not an IPv4 socket")?; // the others take the same port
        member_sock.join_multicast_v4(&GROUP, &Ipv4Addr::LOCALHOST).at("setsockopt IP_ADD_MEMBERSHIP", GROUP)?;
        scene.say("member", format_args!("setsockopt({member_fd}, SOL_IP, IP_ADD_MEMBERSHIP, {GROUP}) = 0"));
        members.push(member_sock);
    }
    let (send_sock, send_addr) = bound()?;
    let send_fd = send_sock.as_raw_fd();
    send_sock.set_multicast_if_v4(&Ipv4Addr::LOCALHOST).at("setsockopt IP_MULTICAST_IF", "127.0.0.1")?;
    let last_addr = SocketAddrV4::new(GROUP, group_addr.port() ^ 1);

    scene.ask()?;
    let (sent, received, mut seen) = wait_until("a capture that has missed nothing", LIMIT, || {
        capture.take()?;
        capture.missed()?; // counts from here
        let sent = sendto(send_fd, b"hello", &SockaddrStorage::from(group_addr), MsgFlags::empty());
        sent.at("sendto", group_addr)?;
        let received: Vec<_> =
            members.iter().map(|member| recv(member.as_raw_fd(), &mut [0; 16], MsgFlags::empty())).collect();
        // To another port: it comes behind all copies of the first.
        sendto(send_fd, b"end", &SockaddrStorage::from(last_addr), MsgFlags::empty()).at("sendto", last_addr)?;
        let seen = up_to_the_end(&capture, |seen| seen.is_between(send_addr, last_addr.into()))?;
        Ok(seen.map(|seen| (sent, received, seen)))
    })?;
    scene.say("sender", format_args!("sendto({send_fd}, \"hello\", 5, {group_addr}) = {}", returned(&sent)));
    for (member_sock, bytes_read) in members.iter().zip(&received) {
        scene.say("member", format_args!("recv({}, 16) = {}", member_sock.as_raw_fd(), returned(bytes_read)));
    }
    seen.retain(|seen| seen.is_between(send_addr, group_addr.into()));
    for seen in &seen {
        let way = if seen.kind == libc::PACKET_OUTGOING { "goes out" } else { "comes in" };
        scene.say("captured", format_args!("{send_addr} > {group_addr}  {way}"));
    }
    let received = received.iter().filter(|bytes_read| **bytes_read == Ok(5)).count();
    Ok(format!("{}, {received}", seen.len()))
}

/// All that passes until the last one comes in; `None` where the capture has missed something. The kernel reports its
/// memberships by IGMP, in its own time, and on lo each of these reports takes more than half of a capture's queue.
fn up_to_the_end(capture: &Capture, last: impl Fn(&Seen) -> bool) -> Result<Option<Vec<Seen>>> {
    let mut seen = Vec::new();
    wait_until("the last datagram in the capture", LIMIT, || {
        seen.extend(capture.take()?);
        if capture.missed()? > 0 {
            return Ok(Some(None));
        }
        let over = seen.iter().any(|seen| last(seen) && seen.kind != libc::PACKET_OUTGOING);
        Ok(over.then(|| Some(std::mem::take(&mut seen))))
    })
}
