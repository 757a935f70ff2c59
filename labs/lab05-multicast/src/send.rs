//! Terminal 3: the lecture's multicast sender. It names a group and a port, and never learns who listens.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
};

use anyhow::Result;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, SockaddrIn, sendto},
};
use shared::{At, Pause, Screen, Stop};
use socket2::{Domain, Socket, Type};

use crate::{
    SendArgs,
    log::{debug, info},
};

/// As in the lecture.
const MESSAGE: &str = "Hello world!";

/// Sends until Ctrl-C.
pub fn run(args: &SendArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();
    let (group_addr, interface) = (args.group, args.interface);

    pause.before(&mut screen, "socket(AF_INET, SOCK_DGRAM, 0)");
    let sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", "")?;
    let fd = sock.as_raw_fd();
    debug(&mut screen, "UDP socket declared ...");

    // Not needed, though the lecture sets it: a sender's port is its own, chosen by the first sendto.
    pause.before(&mut screen, format_args!("setsockopt({fd}, SOL_SOCKET, SO_REUSEADDR, 1)"));
    sock.set_reuse_address(true).at("setsockopt SO_REUSEADDR", "")?;
    debug(&mut screen, "UDP socket reuse set ...");

    // Not in the lecture. Without this option the routing table chooses, and the datagrams leave the machine.
    pause.before(&mut screen, format_args!("setsockopt({fd}, IPPROTO_IP, IP_MULTICAST_IF, {interface})"));
    sock.set_multicast_if_v4(&interface).at("setsockopt IP_MULTICAST_IF", interface)?;
    debug(&mut screen, format_args!("Set multicast interface [{interface}] ..."));

    // Not needed: 1 is what a new socket has.
    pause.before(&mut screen, format_args!("setsockopt({fd}, IPPROTO_IP, IP_MULTICAST_LOOP, 1)"));
    sock.set_multicast_loop_v4(true).at("setsockopt IP_MULTICAST_LOOP", "")?;
    debug(&mut screen, "Enabled loop-back multi-casts ...");

    // The lecture's IP_DEFAULT_MULTICAST_TTL is no option: see ttl-option.
    pause.before(&mut screen, format_args!("setsockopt({fd}, IPPROTO_IP, IP_MULTICAST_TTL, {})", args.ttl));
    sock.set_multicast_ttl_v4(args.ttl.into()).at("setsockopt IP_MULTICAST_TTL", args.ttl)?;
    debug(&mut screen, format_args!("Set multicast time-to-live [{}] hops ...", args.ttl));

    // No bind: the kernel chooses the port at the first sendto.
    for number in 1.. {
        pause.before(&mut screen, format_args!("sendto({fd}, \"{MESSAGE}\", {}, {group_addr})", MESSAGE.len()));
        if stop.requested() {
            break;
        }
        let destination = SockaddrIn::from(group_addr);
        match sendto(fd, MESSAGE.as_bytes(), &destination, MsgFlags::empty()) {
            Err(Errno::EINTR) => continue,
            result => result.at("sendto", SocketAddr::from(group_addr))?,
        };
        debug(&mut screen, format_args!("[{number}] Multi-cast sent ..."));

        let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::try_from(args.interval)?) {
            Ok(_) | Err(Errno::EINTR) => {}
            result => _ = result.at("poll", "")?,
        }
    }
    info(&mut screen, "Terminating server ...");

    drop(sock); // close(2)
    debug(&mut screen, "Socket closed ...");
    info(&mut screen, "Server terminated ...");
    Ok(())
}
