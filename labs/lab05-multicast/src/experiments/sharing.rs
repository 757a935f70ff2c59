//! Several receivers on one port of one host, and the addresses they bind.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::AsRawFd,
};

use anyhow::{Result, bail, ensure};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv},
};
use shared::{At, Predicts, Stage, Verdict, returned};
use socket2::{Domain, Socket, Type};

use super::{HELLO, LIMIT, LO, OwnGroup, bound, join, local_addr, recv_one, send_text, sender};

/// Whether the first receiver sets SO_REUSEADDR, and whether the second does.
const CASES: [(bool, bool); 4] = [(false, false), (false, true), (true, false), (true, true)];

/// In which of [`CASES`] the second bind works, and how many of the two then get a datagram to the group.
#[derive(Debug, PartialEq)]
struct Shared {
    binds: [bool; 4],
    receivers: usize,
}

pub fn second_receiver(stage: &mut Stage) -> Result<Verdict> {
    let both = CASES.map(|(first, second)| first && second);
    let question = stage.ask(
        "Two receivers on this host bind one group and port. Which of them has to set SO_REUSEADDR for that? Then \
         one datagram is sent to the group: how many of the two get it?",
        [
            ("neither has to; two get it", Shared { binds: [true; 4], receivers: 2 }),
            ("the second has to; two get it", Shared { binds: CASES.map(|(_, second)| second), receivers: 2 }),
            ("each has to; one gets it", Shared { binds: both, receivers: 1 }),
            ("each has to; two get it", Shared { binds: both, receivers: 2 }),
        ],
        Predicts { source: None, kit: Shared { binds: both, receivers: 2 } },
    )?;
    let group = OwnGroup::new()?;
    let mut binds = [false; 4];
    let mut receivers = 1;
    for (binds, (first_reuse, second_reuse)) in binds.iter_mut().zip(CASES) {
        let first_sock = receiver(first_reuse)?;
        first_sock.bind(&group.addr.into()).at("bind", group.addr)?;
        let second_sock = receiver(second_reuse)?;
        let bound = second_sock.bind(&group.addr.into());

        let yes_no = |set| if set { "yes" } else { "no" };
        stage.say(
            "reuse",
            format_args!(
                "first {:<4} second {:<4} bind({}, {}) = {}",
                yes_no(first_reuse),
                yes_no(second_reuse),
                second_sock.as_raw_fd(),
                group.addr,
                returned(&bound).split(" (").next().unwrap_or_default(),
            ),
        );
        *binds = bound.is_ok();
        ensure!(
            *binds || bound.is_err_and(|error| error.kind() == ErrorKind::AddrInUse),
            "another error than EADDRINUSE"
        );
        if *binds {
            receivers = how_many_hear(stage, &group, [first_sock, second_sock])?;
        }
    }

    let senders = [sender()?, sender()?]; // without SO_REUSEADDR
    let mut ports = Vec::new();
    for send_sock in &senders {
        send_text(stage, send_sock, HELLO, group.addr).at("sendto", group.addr)?;
        ports.push(local_addr(send_sock)?.port());
    }
    stage.say("senders", format_args!("two, without SO_REUSEADDR, at ports {} and {}", ports[0], ports[1]));
    ensure!(ports[0] != ports[1], "two senders have the same port");
    stage.verdict(
        question,
        Shared { binds, receivers },
        "each receiver on a host has to set it, the first one too; no sender has to",
    )
}

/// A receiver that is not bound yet.
fn receiver(reuse: bool) -> Result<Socket> {
    let sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", "")?;
    sock.set_read_timeout(Some(LIMIT)).at("setsockopt", "SO_RCVTIMEO")?;
    sock.set_reuse_address(reuse).at("setsockopt", "SO_REUSEADDR")?;
    Ok(sock)
}

/// Both join, then one datagram goes to the group: how many of them get it.
fn how_many_hear(stage: &mut Stage, group: &OwnGroup, socks: [Socket; 2]) -> Result<usize> {
    let send_sock = sender()?;
    for sock in &socks {
        join(stage, "receiver", sock, group.ip())?;
    }
    send_text(stage, &send_sock, HELLO, group.addr).at("sendto", group.addr)?;
    let mut heard = 0;
    for sock in &socks {
        let fd = sock.as_raw_fd();
        let received = recv_one(sock, &mut [0; 1024]);
        stage.say("receiver", format_args!("recvfrom({fd}, 1024) = {}", returned(&received)));
        heard += usize::from(received.is_ok());
    }
    Ok(heard)
}

/// Which of three destinations a socket heard: its group, another group of the host, 127.0.0.1.
type Heard = [bool; 3];

pub fn bound_to(stage: &mut Stage) -> Result<Verdict> {
    let (group, other) = (OwnGroup::new()?, OwnGroup::new()?);
    let other_addr = SocketAddrV4::new(*other.ip(), group.port());
    let any_addr = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, group.port());
    let group_sock = bound(group.addr)?;
    stage.say("to group", format_args!("bind({}, {}) = 0", group_sock.as_raw_fd(), group.addr));
    let any_sock = bound(any_addr)?;
    stage.say("to any", format_args!("bind({}, {any_addr}) = 0", any_sock.as_raw_fd()));
    join(stage, "to group", &group_sock, group.ip())?;
    for joined in [group.ip(), other.ip()] {
        join(stage, "to any", &any_sock, joined)?;
    }

    let send_sock = sender()?;
    let question = stage.ask(
        "Three datagrams to this port: the first to the group, the second to another group, the third to 127.0.0.1. \
         How many does each receiver get?",
        [
            ("to group: one     to any: three", [[true, false, false], [true; 3]]),
            ("to group: two     to any: three", [[true, true, false], [true; 3]]),
            ("to group: one     to any: two", [[true, false, false], [false, true, true]]),
            ("to group: three   to any: three", [[true; 3], [true; 3]]),
        ],
        Predicts { source: None, kit: [[true, false, false], [true; 3]] },
    )?;
    let destinations = [("one", group.addr), ("two", other_addr), ("three", SocketAddrV4::new(LO, group.port()))];
    for (text, addr) in destinations {
        send_text(stage, &send_sock, text, addr).at("sendto", addr)?;
    }
    // "to any" waits for as many as were sent. What has reached it by then has reached "to group", too.
    let by_any = heard_until_empty(stage, "to any", &any_sock, destinations.len())?;
    let by_group = heard_until_empty(stage, "to group", &group_sock, 0)?;
    let observed =
        [by_group, by_any].map(|heard| -> Heard { destinations.map(|(text, _)| heard.contains(&text.into())) });
    stage.verdict(question, observed, "a bound address is a filter: only datagrams to this address pass")
}

/// Receives and says so: waits for `expected` datagrams, at most LIMIT for each, then reads until none is left.
fn heard_until_empty(stage: &mut Stage, label: &str, sock: &Socket, expected: usize) -> Result<Vec<String>> {
    let fd = sock.as_raw_fd();
    let mut heard = Vec::new();
    loop {
        let (flags, shown) =
            if heard.len() < expected { (MsgFlags::empty(), "") } else { (MsgFlags::MSG_DONTWAIT, ", MSG_DONTWAIT") };
        let mut buffer = [0; 1024];
        match recv(fd, &mut buffer, flags) {
            Ok(bytes_read) => {
                let text = String::from_utf8_lossy(&buffer[..bytes_read]).into_owned();
                stage.say(label, format_args!("recv({fd}, 1024{shown}) = {bytes_read}  {text:?}"));
                heard.push(text);
            }
            Err(Errno::EINTR) => {} // with SO_RCVTIMEO after Ctrl-Z and fg: signal(7)
            Err(Errno::EAGAIN) => {
                stage.say(label, format_args!("recv({fd}, 1024{shown}) = -1 EAGAIN"));
                return Ok(heard);
            }
            Err(errno) => bail!("recv: {errno:?}"),
        }
    }
}
