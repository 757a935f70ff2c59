//! Terminal 3, between sender and receiver: a network that loses, doubles, swaps and delays, the same for the same seed.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
};

use anyhow::{Context, Result, ensure};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, SockaddrStorage, recv, sendto},
};
use shared::{At, Pause, Screen, Stop};
use socket2::{Domain, Socket, Type};

use crate::{
    RelayArgs,
    fate::{Fate, Fates},
    receive::SILENCE_MS,
    udp::tell_drops,
};

/// The longest payload of a datagram over IPv4: nothing is cut here.
const DATAGRAM_LIMIT: usize = 65_507;
/// What the relay asks for, so that it loses nothing itself; the kernel grants at most net.core.rmem_max.
const RCVBUF: usize = 4 * 1024 * 1024;

/// Relays until Ctrl-C.
pub fn run(args: &RelayArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();
    let addr = SocketAddr::new(args.bind, args.port);

    pause.before(&mut screen, "socket(AF_INET, SOCK_DGRAM, 0)");
    let sock = Socket::new(Domain::for_address(addr), Type::DGRAM, None).at("socket", addr)?;
    let fd = sock.as_raw_fd();

    pause.before(&mut screen, format_args!("setsockopt({fd}, SOL_SOCKET, SO_RCVBUF, {RCVBUF})"));
    sock.set_recv_buffer_size(RCVBUF).at("setsockopt", addr)?;

    pause.before(&mut screen, format_args!("bind({fd}, {addr})"));
    sock.bind(&addr.into()).at("bind", addr)?;

    let local_addr = sock.local_addr().at("getsockname", addr)?.as_socket().context("not an IP socket")?;
    ensure!(local_addr != args.to, "--to {}: that is the relay itself", args.to);
    screen.line(format_args!("Relay is bound to {local_addr}, sends on to {}, seed {}", args.to, args.seed));

    let mut fates = Fates::new(args.seed, args.rates, &args.lose);
    let mut held: Option<Vec<u8>> = None; // until the next one has passed
    let (mut sent_on, mut told) = (0u64, 0);
    let mut buffer = vec![0; DATAGRAM_LIMIT];
    while !stop.requested() {
        let timeout = if told == fates.count { PollTimeout::NONE } else { SILENCE_MS.into() };
        let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(sock.as_fd(), PollFlags::POLLIN)];
        let mut passing: Vec<Vec<u8>> = Vec::new();
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => continue,
            Ok(0) => passing.extend(held.take()), // no next one comes
            result => _ = result.at("poll", addr)?,
        }
        let silence = fds.iter().all(|fd| fd.any() == Some(false));

        if !silence {
            pause.before(&mut screen, format_args!("recv({fd}, {DATAGRAM_LIMIT}, MSG_DONTWAIT)"));
            let bytes_read = match recv(fd, &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EAGAIN | Errno::EINTR) => continue, // with a wrong checksum it is gone after poll saw it
                result => result.at("recv", addr)?,
            };
            let datagram = buffer[..bytes_read].to_vec();
            let fate = match fates.draw() {
                Fate::HoldBack if held.is_some() => Fate::Pass, // one at a time
                fate => fate,
            };
            let word = match fate {
                Fate::Pass => "",
                Fate::Drop => "lost",
                Fate::Duplicate => "sent on twice",
                Fate::HoldBack => "held back until the next one has passed",
                Fate::Delay => "delayed, and all behind it",
            };
            if fate != Fate::Pass {
                screen.line(format_args!("Datagram {}: {word}", fates.count));
            }
            match fate {
                Fate::Drop => {}
                Fate::HoldBack => held = Some(datagram),
                Fate::Duplicate => passing.extend([datagram.clone(), datagram]),
                Fate::Delay => {
                    let _ = poll(&mut [PollFd::new(stop.as_fd(), PollFlags::POLLIN)], args.delay_ms);
                    passing.push(datagram);
                }
                Fate::Pass => passing.push(datagram),
            }
            if !passing.is_empty() {
                passing.extend(held.take());
            }
        }
        for datagram in passing {
            pause.before(&mut screen, format_args!("sendto({fd}, {}, {})", datagram.len(), args.to));
            sendto(fd, &datagram, &SockaddrStorage::from(args.to), MsgFlags::empty()).at("sendto", args.to)?;
            sent_on += 1;
        }
        if silence {
            screen.line(format_args!("So far {} datagrams came and {sent_on} were sent on", fates.count));
            told = fates.count;
        }
    }
    tell_drops(&sock, &mut screen);
    drop(sock); // close(2)
    Ok(())
}
