//! Who receives a multicast, and what does its sender learn?

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::AsRawFd,
};

use anyhow::{Result, ensure};
use nix::errno::Errno;
use shared::{At, Predicts, Role, Stage, Verdict};
use socket2::Socket;

use super::{END, HELLO, LO, OwnGroup, bound, heard_before_the_end, join, send_text, sender, users};

pub fn never_joined(stage: &mut Stage) -> Result<Verdict> {
    let group = OwnGroup::new()?;
    let mut member = Role::start(&["receive", &format!("{}:0", group.ip())])?;
    stage.say("member", format_args!("process {}: lab05-multicast receive {}:0", member.pid(), group.ip()));
    for printed in ["Socket bound to", "Joined"] {
        stage.say("member", member.line_with(printed)?);
    }
    let any_addr = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, group.port());
    let stranger_sock = bound(any_addr)?;
    stage
        .say("stranger", format_args!("bind({}, {any_addr}) = 0  and no IP_ADD_MEMBERSHIP", stranger_sock.as_raw_fd()));

    let send_sock = sender()?;
    stage.look(format_args!("scripts/groups.sh {}", group.ip()));
    let question = stage.ask(
        "The stranger never joined the group. Datagrams are sent to the group, to the port of the stranger. Which of \
         them does the stranger receive?",
        [
            ("none: only a member receives", [false, false]),
            ("each, until it sets a socket option", [true, false]),
            ("each: the kernel looks at the port only", [true, true]),
        ],
        Predicts { source: Some([false, false]), kit: [true, false] },
    )?;
    let as_it_is = hears(stage, "stranger", &send_sock, &stranger_sock, &group)?;

    let stranger_fd = stranger_sock.as_raw_fd();
    let all = i32::from(stranger_sock.multicast_all_v4().at("getsockopt", "IP_MULTICAST_ALL")?);
    stage.say("stranger", format_args!("getsockopt({stranger_fd}, SOL_IP, IP_MULTICAST_ALL, [{all}]) = 0"));
    stranger_sock.set_multicast_all_v4(false).at("setsockopt", "IP_MULTICAST_ALL")?;
    stage.say("stranger", format_args!("setsockopt({stranger_fd}, SOL_IP, IP_MULTICAST_ALL, [0]) = 0"));
    let members_only = hears(stage, "stranger", &send_sock, &stranger_sock, &group)?;
    stage.verdict(
        question,
        [as_it_is, members_only],
        "bound to 0.0.0.0, a stranger hears all groups of the host, unless IP_MULTICAST_ALL is 0",
    )
}

pub fn no_member(stage: &mut Stage) -> Result<Verdict> {
    let group = OwnGroup::new()?;
    let any_addr = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, group.port());
    let receive_sock = bound(any_addr)?;
    stage.say("receiver", format_args!("bind({}, {any_addr}) = 0", receive_sock.as_raw_fd()));
    print_users(stage, &group)?;

    let send_sock = sender()?;
    let question = stage.ask(
        "Nobody on this host has joined the group. The receiver has the right port. When does it receive datagrams to \
         the group?",
        [
            ("before it joins, and after: the port decides", [true, true]),
            ("at no time: it has bound 0.0.0.0, not the group", [false, false]),
            ("after it has joined", [false, true]),
            ("before it joins: then it was open to all", [true, false]),
        ],
        Predicts { source: None, kit: [false, true] },
    )?;
    let before = hears(stage, "receiver", &send_sock, &receive_sock, &group)?;
    join(stage, "receiver", &receive_sock, group.ip())?;
    print_users(stage, &group)?;
    let after = hears(stage, "receiver", &send_sock, &receive_sock, &group)?;
    stage.verdict(
        question,
        [before, after],
        "some socket of the host must be a member; else the kernel drops what is sent to the group",
    )
}

pub fn how_many(stage: &mut Stage) -> Result<Verdict> {
    let group = OwnGroup::new()?;
    let mut members = Vec::new();
    for _ in 0..3 {
        let member_sock = bound(group.addr)?;
        join(stage, "member", &member_sock, group.ip())?;
        members.push(member_sock);
    }
    let send_sock = sender()?;
    let question = stage.ask(
        "sendto sends 12 bytes to a group with three members, and again after all of them have left. What does it \
         return?",
        [
            ("36, then 0", [Ok(36), Ok(0)]),
            ("12, then 12", [Ok(12), Ok(12)]),
            ("12, then -1 ECONNREFUSED", [Ok(12), Err(Errno::ECONNREFUSED)]),
            ("12, then -1 ENETUNREACH", [Ok(12), Err(Errno::ENETUNREACH)]),
        ],
        Predicts { source: Some([Ok(12), Ok(12)]), kit: [Ok(12), Ok(12)] },
    )?;
    let to_three = send_text(stage, &send_sock, HELLO, group.addr);
    send_text(stage, &send_sock, END, group.addr).at("sendto", group.addr)?;
    for member_sock in &members {
        let heard = heard_before_the_end(stage, "member", member_sock)?;
        ensure!(heard == [HELLO], "a member heard {heard:?}");
    }
    for member_sock in members {
        let fd = member_sock.as_raw_fd();
        drop(member_sock); // close(2): the kernel leaves the group
        stage.say("member", format_args!("close({fd}) = 0"));
    }
    print_users(stage, &group)?;
    let to_nobody = send_text(stage, &send_sock, HELLO, group.addr);
    stage.verdict(
        question,
        [to_three, to_nobody],
        "sendto returns what the kernel took; nothing comes back from receivers",
    )
}

/// Whether a socket bound to 0.0.0.0 hears a datagram to the group. A second datagram, to the socket's own address, ends
/// the waiting: it was sent later, and lo keeps the order.
fn hears(stage: &mut Stage, label: &str, send_sock: &Socket, receive_sock: &Socket, group: &OwnGroup) -> Result<bool> {
    send_text(stage, send_sock, HELLO, group.addr).at("sendto", group.addr)?;
    let itself = SocketAddrV4::new(LO, group.port());
    send_text(stage, send_sock, END, itself).at("sendto", itself)?;
    Ok(heard_before_the_end(stage, label, receive_sock)?.contains(&HELLO.to_string()))
}

fn print_users(stage: &mut Stage, group: &OwnGroup) -> Result<()> {
    let users = users(group.ip())?;
    let text = users.map_or("not joined".into(), |users| format!("joined by {users}"));
    stage.say("kernel", format_args!("/proc/net/igmp: lo, {}: {text}", group.ip()));
    Ok(())
}
