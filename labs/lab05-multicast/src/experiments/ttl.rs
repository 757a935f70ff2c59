//! A name that is no option: IP_DEFAULT_MULTICAST_TTL is a default value, and its number is that of another option.

use std::{
    io::IoSliceMut,
    os::fd::{AsFd, AsRawFd},
};

use anyhow::{Context, Result};
use nix::{
    cmsg_space,
    errno::Errno,
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    setsockopt_impl, sockopt_impl,
    sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt, sockopt::Ipv4RecvTtl},
};
use shared::{At, Predicts, Stage, Verdict, returned};
use socket2::Socket;

use super::{HELLO, LIMIT, OwnGroup, bound, join, send_text, sender};

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
        "The sender calls setsockopt(IPPROTO_IP, IP_DEFAULT_MULTICAST_TTL, 4), then sendto. Which time-to-live (TTL) \
         and type of service (TOS) does the datagram carry?",
        [
            ("TTL 4, TOS 0: the call sets the time-to-live", Header { ttl: 4, tos: 0 }),
            ("TTL 3, TOS 0: the way through lo is one hop", Header { ttl: 3, tos: 0 }),
            ("TTL 1, TOS 0: the call fails, the 1 is fixed", Header { ttl: 1, tos: 0 }),
            ("TTL 1, TOS 4: the call sets another field", Header { ttl: 1, tos: 4 }),
        ],
        Predicts { source: Some(Header { ttl: 4, tos: 0 }), kit: Header { ttl: 1, tos: 4 } },
    )?;
    let set = setsockopt(&send_sock, DefaultMulticastTtl, &HOPS);
    stage.say("sender", format_args!("setsockopt({send_fd}, SOL_IP, IP_TOS, [{HOPS}]) = {}", returned(&set)));
    let (number, tos, ttl) = (libc::IP_DEFAULT_MULTICAST_TTL, libc::IP_TOS, libc::IP_MULTICAST_TTL);
    stage.say("", format_args!("IP_DEFAULT_MULTICAST_TTL is {number}, IP_TOS {tos}, IP_MULTICAST_TTL {ttl}:"));
    stage.say("", "the call names its option by number, and 1 is IP_TOS.");
    print_options(stage, &send_sock)?;
    send_text(stage, &send_sock, HELLO, group.addr).at("sendto", group.addr)?;
    let observed = header(stage, &receive_sock)?;

    send_sock.set_multicast_ttl_v4(HOPS.cast_unsigned()).at("setsockopt", "IP_MULTICAST_TTL")?;
    stage.say("sender", format_args!("setsockopt({send_fd}, SOL_IP, IP_MULTICAST_TTL, [{HOPS}]) = 0"));
    send_text(stage, &send_sock, HELLO, group.addr).at("sendto", group.addr)?;
    let with_the_right_one = header(stage, &receive_sock)?;
    anyhow::ensure!(with_the_right_one.ttl == HOPS, "with IP_MULTICAST_TTL the TTL is {}", with_the_right_one.ttl);
    stage.verdict(question, observed, "it set the TOS; the TTL stayed 1, its option is IP_MULTICAST_TTL")
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
    let mut fds = [PollFd::new(sock.as_fd(), PollFlags::POLLIN)];
    while poll(&mut fds, PollTimeout::try_from(LIMIT)?) == Err(Errno::EINTR) {} // recvmsg then does not wait
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
