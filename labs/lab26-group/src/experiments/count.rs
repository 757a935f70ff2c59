//! One packet for twenty receivers, counted in a private network: there lo carries nothing else.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::{Context, Result};
use kernel::{Counters, namespace::START_LIMIT};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, SockaddrIn, recv, sendto},
};
use shared::{At, Predicts, Role, Screen, Stage, Verdict};
use socket2::{Domain, Socket, Type};

use crate::udp::LO;

const MEMBERS: usize = 20;
const GROUP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 26, 26, 26), 53126);
/// UDP datagrams that were sent: IGMP and IPv6 have packets of their own on lo.
const COUNTER: &str = "UdpOutDatagrams";
const LIMIT: Duration = Duration::from_secs(5);

pub fn one_packet(stage: &mut Stage) -> Result<Verdict> {
    stage.say("network", "unshare -Urn: a private one, with lo only");
    let question = stage.ask(
        "A text goes to 20 members: first by one sendto to their group, then by one sendto to each. How many UDP datagrams \
         does the kernel count as sent?",
        [
            ("to the group 1, one by one 20", (1, 20)),
            ("to the group 20, one by one 20", (20, 20)),
            ("to the group 1, one by one 1", (1, 1)),
            ("to the group 21, one by one 20", (21, 20)),
        ],
        Predicts { source: Some((1, 20)), kit: (1, 20) },
    )?;
    let mut counter = Role::start_in_namespace(&["count"])?;
    counter.wait_for_within("ready\n", START_LIMIT)?;
    let mut packets = [0; 2];
    for packets in &mut packets {
        let line = counter.line_with(" UdpOutDatagrams +")?;
        stage.say("counted", line.trim());
        *packets = line.split_whitespace().last().and_then(|word| word.parse().ok()).context("the line is cut")?;
    }
    stage.verdict(question, (packets[0], packets[1]), "the sender sends once; the copies are made at the receivers")
}

/// The role: sends both ways, and counts.
pub fn run() -> Result<()> {
    let mut screen = Screen::new();
    let mut socks = Vec::new();
    for _ in 0..MEMBERS {
        let sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", "")?;
        sock.set_read_timeout(Some(LIMIT)).at("setsockopt SO_RCVTIMEO", "")?;
        sock.set_reuse_address(true).at("setsockopt SO_REUSEADDR", "")?;
        sock.bind(&GROUP.into()).at("bind", GROUP)?;
        sock.join_multicast_v4(GROUP.ip(), &LO).at("setsockopt IP_ADD_MEMBERSHIP", LO)?;
        socks.push(sock);
    }
    let mut alone = Vec::new();
    for _ in 0..MEMBERS {
        let sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", "")?;
        sock.set_read_timeout(Some(LIMIT)).at("setsockopt SO_RCVTIMEO", "")?;
        sock.bind(&SocketAddrV4::new(LO, 0).into()).at("bind", LO)?;
        alone.push(sock);
    }
    let send_sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", "")?;
    send_sock.set_multicast_if_v4(&LO).at("setsockopt IP_MULTICAST_IF", LO)?;
    screen.line("ready");

    let before = Counters::read()?;
    send(&send_sock, GROUP)?;
    let received = received(&socks);
    screen
        .line(format_args!("sendto x1 to the group, {received} received; UdpOutDatagrams +{}", before.risen(COUNTER)?));

    let before = Counters::read()?;
    for sock in &alone {
        let addr = sock.local_addr().at("getsockname", "")?.as_socket_ipv4().context("not IPv4")?;
        send(&send_sock, addr)?;
    }
    let received = self::received(&alone);
    screen
        .line(format_args!("sendto x20 one by one, {received} received; UdpOutDatagrams +{}", before.risen(COUNTER)?));
    Ok(())
}

fn send(sock: &Socket, to: SocketAddrV4) -> Result<()> {
    while let Err(errno) = sendto(sock.as_raw_fd(), b"hello", &SockaddrIn::from(to), MsgFlags::empty()) {
        if errno != Errno::EINTR {
            return Ok(Err(errno).at("sendto", std::net::SocketAddr::from(to))?);
        }
    }
    Ok(())
}

/// How many of them get a datagram.
fn received(socks: &[Socket]) -> usize {
    let gets = |sock: &&Socket| loop {
        match recv(sock.as_raw_fd(), &mut [0; 64], MsgFlags::empty()) {
            Err(Errno::EINTR) => {} // with SO_RCVTIMEO after Ctrl-Z and fg: signal(7)
            received => return received.is_ok(),
        }
    };
    socks.iter().filter(gets).count()
}
