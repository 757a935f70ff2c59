//! Terminal 1: the lecture's receiver, one datagram into one buffer.

use std::{
    io::IoSliceMut,
    os::fd::{AsFd, AsRawFd},
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    poll::PollTimeout,
    sys::socket::{MsgFlags, SockaddrStorage, recvmsg},
};
use shared::{At, Pause, Screen, Stop, escaped};
use socket2::{Domain, Socket, Type};

use crate::{
    ReceiveArgs,
    terminal::{hinted, wait_for},
};

/// Receives, then waits for Enter, end of input or Ctrl-C.
pub fn run(args: &ReceiveArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();
    let addr = args.address;
    screen.line("Application started");

    // sock = socket(family, SOCK_DGRAM, 0)
    let family = if addr.is_ipv6() { "AF_INET6" } else { "AF_INET" };
    pause.before(&mut screen, format_args!("socket({family}, SOCK_DGRAM, 0)"));
    let sock = Socket::new(Domain::for_address(addr), Type::DGRAM, None).at("socket", addr)?;
    let fd = sock.as_raw_fd();

    if args.reuse_addr {
        // setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on)
        pause.before(&mut screen, format_args!("setsockopt({fd}, SOL_SOCKET, SO_REUSEADDR, 1)"));
        sock.set_reuse_address(true).at("setsockopt", addr)?;
    }

    // bind(sock, &local_addr, sizeof local_addr)
    pause.before(&mut screen, format_args!("bind({fd}, {addr})"));
    sock.bind(&addr.into()).at("bind", addr)?;

    // getsockname(sock, &local_addr, &length)
    let local_addr = sock.local_addr().at("getsockname", addr)?.as_socket().context("not an IP socket")?;
    screen.line(format_args!("Socket is bound to {local_addr}"));

    let mut buffer = vec![0; args.buffer as usize];
    let mut received = 0;
    while (args.count == 0 || received < args.count) && !stop.requested() {
        screen.line("Waiting for message ...");
        // recvfrom(sock, buffer, sizeof buffer, 0, &peer_addr, &length) would wait for ever, deaf to Ctrl-C;
        // so poll(2) waits for both, and recvfrom's sister recvmsg also says whether the datagram was cut.
        pause.before(&mut screen, format_args!("recvmsg({fd}, {})", args.buffer));
        let timeout = args.timeout.map_or(Ok(PollTimeout::NONE), PollTimeout::try_from)?;
        let ready = wait_for(&stop, sock.as_fd(), timeout).at("poll", "")?;
        if stop.requested() {
            break;
        }
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let message = match recvmsg::<SockaddrStorage>(fd, &mut parts, None, MsgFlags::MSG_DONTWAIT) {
            Err(Errno::EAGAIN) if ready => continue, // it came damaged: its checksum did not fit
            Err(Errno::EINTR) => continue,
            message => message.at("recvmsg", local_addr).map_err(hinted)?,
        };
        received += 1;
        let peer_addr = message.address.map_or("nobody".into(), |address| address.to_string());
        let (bytes_read, cut) = (message.bytes, message.flags.contains(MsgFlags::MSG_TRUNC));
        screen.line(format_args!("Received message from {peer_addr}"));
        screen.line(format_args!("Payload length {bytes_read} bytes: [{}]", escaped(&buffer[..bytes_read])));
        if cut {
            screen.line("MSG_TRUNC: the datagram was longer than the buffer; the rest of it is gone");
        }
    }

    if !stop.requested() {
        screen.line("Press Enter to terminate ...");
        stop.wait_for_enter();
    }
    screen.line("Closing the UDP socket ...");
    drop(sock); // close(2)
    screen.line("Terminating ...");
    Ok(())
}
