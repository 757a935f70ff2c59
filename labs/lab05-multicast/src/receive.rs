//! Terminals 1 and 2: the lecture's multicast receiver. It binds the group's address and joins the group.

use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{SockaddrIn, recvfrom},
};
use shared::{At, Pause, Screen, Stop, escaped};
use socket2::{Domain, Socket, Type};

use crate::{
    ReceiveArgs,
    log::{debug, info},
};

/// Holds any datagram. The lecture's 1024 would cut a longer one without a word: see lab03.
const BUFFER_SIZE: usize = 65536;

/// Receives until Ctrl-C.
pub fn run(args: &ReceiveArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();
    let (group_addr, interface) = (args.group, args.interface);

    pause.before(&mut screen, "socket(AF_INET, SOCK_DGRAM, 0)");
    let sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", "")?;
    let fd = sock.as_raw_fd();
    debug(&mut screen, "UDP socket declared ...");

    if !args.no_reuse_addr {
        // Needed by every receiver of this port on this machine, the first one too: see second-receiver.
        pause.before(&mut screen, format_args!("setsockopt({fd}, SOL_SOCKET, SO_REUSEADDR, 1)"));
        sock.set_reuse_address(true).at("setsockopt SO_REUSEADDR", "")?;
        debug(&mut screen, "UDP socket reuse set ...");
    }
    // The lecture sets IP_MULTICAST_LOOP and a TTL here too. Both are about sending: see loop-back.

    pause.before(&mut screen, format_args!("bind({fd}, {group_addr})"));
    sock.bind(&group_addr.into()).at("bind", group_addr)?;
    let local_addr = sock.local_addr().at("getsockname", group_addr)?.as_socket().context("not an IP socket")?;
    debug(&mut screen, format_args!("Socket bound to {local_addr}"));

    let group = group_addr.ip();
    pause.before(&mut screen, format_args!("setsockopt({fd}, IPPROTO_IP, IP_ADD_MEMBERSHIP, {group} on {interface})"));
    sock.join_multicast_v4(group, &interface).at("setsockopt IP_ADD_MEMBERSHIP", interface)?;
    debug(&mut screen, format_args!("Joined {group} on {interface} ..."));

    sock.set_nonblocking(true).at("fcntl", "")?; // a datagram with a wrong checksum is gone after poll saw it
    let mut buffer = vec![0; BUFFER_SIZE];
    loop {
        let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(sock.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            result => result.at("poll", "")?,
        };
        if stop.requested() {
            break;
        }
        pause.before(&mut screen, format_args!("recvfrom({fd}, {BUFFER_SIZE})"));
        match recvfrom::<SockaddrIn>(fd, &mut buffer) {
            Ok((bytes_read, peer_addr)) => {
                let peer_addr = peer_addr.context("recvfrom gave no address")?;
                let message = escaped(&buffer[..bytes_read]);
                debug(&mut screen, format_args!("Received From: {peer_addr} [{message}]"));
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => return Err(error).at("recvfrom", local_addr)?,
        }
    }
    info(&mut screen, "Terminating client ...");

    drop(sock); // close(2): the kernel leaves the group
    debug(&mut screen, "Socket closed ...");
    info(&mut screen, "Client terminated ...");
    Ok(())
}
