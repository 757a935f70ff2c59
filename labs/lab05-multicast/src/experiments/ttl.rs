//! An option that is none: its name is a default value's, and its value another option's number.

use std::{io::IoSliceMut, os::fd::AsRawFd};

use anyhow::{Context, Result};
use nix::{
    cmsg_space, libc, setsockopt_impl, sockopt_impl,
    sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt, sockopt::Ipv4RecvTtl},
};
use shared::{At, Predicts, Stage, Verdict, returned};
use socket2::Socket;

use super::{HELLO, OwnGroup, bound, join, send_text, sender};

/// The lecture's argument.
const HOPS: i32 = 4;

sockopt_impl!(
    /// The lecture's call. In C: setsockopt(fd, IPPROTO_IP, IP_DEFAULT_MULTICAST_TTL, &hops, sizeof hops)
    DefaultMulticastTtl,
    SetOnly,
    libc::IPPROTO_IP,
    libc::IP_DEFAULT_MULTICAST_TTL,
    libc::c_int
);

/// Two bytes of a datagram's IP header, as they arrived.
#[derive(Debug, PartialEq)]
struct Header {
    ttl: i32,
    tos: u8,
}

pub fn ttl_option(stage: &mut Stage) -> Result<Verdict> {
    let group = OwnGroup::new()?;
    let receive_sock = bound(group.addr)?;
    join(stage, "receiver", &receive_sock, group.ip())?;
    setsockopt(&receive_sock, Ipv4RecvTtl, &true).at("setsockopt", "IP_RECVTTL")?;
    receive_sock.set_recv_tos_v4(true).at("setsockopt", "IP_RECVTOS")?;

    let send_sock = sender()?;
    let send_fd = send_sock.as_raw_fd();
    let question = stage.ask(
        "The sender calls setsockopt(IPPROTO_IP, IP_DEFAULT_MULTICAST_TTL, 4), then sendto. What is in the header?",
        [
            ("TTL 4, TOS 0: as asked for", Header { ttl: 4, tos: 0 }),
            ("TTL 3, TOS 0: the way through lo is a hop", Header { ttl: 3, tos: 0 }),
            ("TTL 1, TOS 0: the call fails, the option is read-only", Header { ttl: 1, tos: 0 }),
            ("TTL 1, TOS 4: the call sets something else", Header { ttl: 1, tos: 4 }),
        ],
        Predicts { source: Some(Header { ttl: 4, tos: 0 }), kit: Header { ttl: 1, tos: 4 } },
    )?;
    let set = setsockopt(&send_sock, DefaultMulticastTtl, &HOPS);
    stage.say("sender", format_args!("setsockopt({send_fd}, SOL_IP, IP_TOS, [{HOPS}]) = {}", returned(&set)));
    let (number, tos, ttl) = (libc::IP_DEFAULT_MULTICAST_TTL, libc::IP_TOS, libc::IP_MULTICAST_TTL);
    stage.say("", format_args!("IP_DEFAULT_MULTICAST_TTL is {number}, IP_TOS {tos}, IP_MULTICAST_TTL {ttl}:"));
    stage.say("", "strace writes the name of the option that has the number.");
    print_options(stage, &send_sock)?;
    send_text(stage, &send_sock, HELLO, group.addr).at("sendto", group.addr)?;
    let observed = header(stage, &receive_sock)?;

    send_sock.set_multicast_ttl_v4(HOPS.cast_unsigned()).at("setsockopt", "IP_MULTICAST_TTL")?;
    stage.say("sender", format_args!("setsockopt({send_fd}, SOL_IP, IP_MULTICAST_TTL, [{HOPS}]) = 0"));
    send_text(stage, &send_sock, HELLO, group.addr).at("sendto", group.addr)?;
    let with_the_right_one = header(stage, &receive_sock)?;
    anyhow::ensure!(with_the_right_one.ttl == HOPS, "with IP_MULTICAST_TTL the TTL is {}", with_the_right_one.ttl);
    stage.verdict(question, observed, "it set the TOS; the option is IP_MULTICAST_TTL, the default 1")
}

/// Reads both options back.
fn print_options(stage: &mut Stage, sock: &Socket) -> Result<()> {
    let fd = sock.as_raw_fd();
    let tos = sock.tos_v4().at("getsockopt", "IP_TOS")?;
    stage.say("sender", format_args!("getsockopt({fd}, SOL_IP, IP_TOS, [{tos}]) = 0"));
    let ttl = sock.multicast_ttl_v4().at("getsockopt", "IP_MULTICAST_TTL")?;
    stage.say("sender", format_args!("getsockopt({fd}, SOL_IP, IP_MULTICAST_TTL, [{ttl}]) = 0"));
    Ok(())
}

/// Receives a datagram with the control messages that IP_RECVTTL and IP_RECVTOS ask for.
fn header(stage: &mut Stage, sock: &Socket) -> Result<Header> {
    let fd = sock.as_raw_fd();
    let mut buffer = [0; 1024];
    let mut buffers = [IoSliceMut::new(&mut buffer)];
    let mut control = cmsg_space!(libc::c_int, libc::c_int);
    let message = recvmsg::<SockaddrIn>(fd, &mut buffers, Some(&mut control), MsgFlags::empty()).at("recvmsg", "")?;
    let (mut ttl, mut tos) = (None, None);
    for control_message in message.cmsgs().at("recvmsg", "control messages")? {
        match control_message {
            ControlMessageOwned::Ipv4Ttl(value) => ttl = Some(value),
            ControlMessageOwned::Ipv4Tos(value) => tos = Some(value),
            _ => {}
        }
    }
    let header = Header { ttl: ttl.context("no IP_TTL came along")?, tos: tos.context("no IP_TOS came along")? };
    stage.say(
        "receiver",
        format_args!("recvmsg({fd}) = {}  with TTL {} and TOS {}", message.bytes, header.ttl, header.tos),
    );
    Ok(header)
}
