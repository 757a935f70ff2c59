//! Terminal 2: the lecture's sender, one message in one datagram.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd,
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, SockaddrStorage, send, sendto},
};
use shared::{At, Pause, Screen, Stop, escaped};
use socket2::{Domain, Socket, Type};

use crate::{SendArgs, terminal::hinted};

/// The lecture's port to send from.
const PORT: u16 = 7777;

/// Sends, then waits for Enter, end of input or Ctrl-C, so that the socket can be looked at.
pub fn run(args: &SendArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();
    let peer_addr = args.address;
    let payload = args.message.as_bytes(); // UTF-8: a letter may be more than one byte
    let length = payload.len();
    screen.line("Application started");

    // sock = socket(family, SOCK_DGRAM, 0)
    let family = if peer_addr.is_ipv6() { "AF_INET6" } else { "AF_INET" };
    pause.before(&mut screen, format_args!("socket({family}, SOCK_DGRAM, 0)"));
    let sock = Socket::new(Domain::for_address(peer_addr), Type::DGRAM, None).at("socket", peer_addr)?;
    let fd = sock.as_raw_fd();

    if args.broadcast {
        // setsockopt(sock, SOL_SOCKET, SO_BROADCAST, &on, sizeof on)
        pause.before(&mut screen, format_args!("setsockopt({fd}, SOL_SOCKET, SO_BROADCAST, 1)"));
        sock.set_broadcast(true).at("setsockopt", peer_addr)?;
    }

    if !args.unbound {
        // bind(sock, &local_addr, sizeof local_addr)
        let local_addr = args.bind.unwrap_or(match peer_addr {
            SocketAddr::V4(_) => (Ipv4Addr::LOCALHOST, PORT).into(),
            SocketAddr::V6(_) => (Ipv6Addr::LOCALHOST, PORT).into(),
        });
        pause.before(&mut screen, format_args!("bind({fd}, {local_addr})"));
        sock.bind(&local_addr.into()).at("bind", local_addr)?;

        // getsockname(sock, &local_addr, &length)
        let local_addr = sock.local_addr().at("getsockname", "")?.as_socket().context("not an IP socket")?;
        screen.line(format_args!("Socket is bound to {local_addr}"));
    }

    if args.connect {
        // connect(sock, &peer_addr, sizeof peer_addr): nothing is sent, the socket has one peer from now on
        pause.before(&mut screen, format_args!("connect({fd}, {peer_addr})"));
        sock.connect(&peer_addr.into()).at("connect", peer_addr).map_err(hinted)?;
    }

    let mut sent = 0;
    while sent < args.count && !stop.requested() {
        let bytes_sent = if args.connect {
            // send(sock, payload, length, 0)
            pause.before(&mut screen, format_args!("send({fd}, {length})"));
            send(fd, payload, MsgFlags::empty()).at("send", peer_addr)
        } else {
            // sendto(sock, payload, length, 0, &peer_addr, sizeof peer_addr)
            pause.before(&mut screen, format_args!("sendto({fd}, {length}, {peer_addr})"));
            sendto(fd, payload, &SockaddrStorage::from(peer_addr), MsgFlags::empty()).at("sendto", peer_addr)
        };
        let bytes_sent = match bytes_sent {
            Err(error) if error.errno == Some(Errno::EINTR) => continue,
            bytes_sent => bytes_sent.map_err(hinted)?, // all of it or nothing: there is no short write
        };
        sent += 1;
        screen.line(format_args!("Sent message to {peer_addr}"));
        screen.line(format_args!("Payload length {bytes_sent} bytes: [{}]", escaped(payload)));
    }

    if args.unbound {
        // The first datagram needed a port to come from: the kernel took a free one.
        let local_addr = sock.local_addr().at("getsockname", "")?.as_socket().context("not an IP socket")?;
        screen.line(format_args!("Socket was automatically bound to {local_addr}"));
    }

    screen.line("Press Enter to terminate ...");
    stop.wait_for_enter();
    screen.line("Closing the UDP socket ...");
    drop(sock); // close(2)
    screen.line("Terminating ...");
    Ok(())
}
