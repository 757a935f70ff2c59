//! Terminal 3, between sender and receiver: a network that loses, doubles, swaps and delays, the same for the same seed.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
};

use anyhow::{Context, Result, ensure};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, SockaddrStorage, recvfrom, sendto},
};
use shared::{At, Pause, Screen, Stop};
use socket2::{Domain, Socket, Type};

use crate::{
    RelayArgs,
    fate::{Fate, Fates},
    receive::SILENCE_MS,
    udp::{source_addr, tell_drops},
};

/// More than a datagram can hold, 65507 bytes over IPv4 and 65527 over IPv6: nothing is cut here.
const BUFFER_SIZE: usize = 65_536;
/// The relay asks for this, so that it loses nothing itself; the kernel grants at most net.core.rmem_max, doubled.
const RCVBUF: usize = 4 * 1024 * 1024;

/// Relays until Ctrl-C.
pub fn run(args: &RelayArgs) -> Result<()> {
    let addr = args.addr();
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();
    let family = if addr.is_ipv6() { "AF_INET6" } else { "AF_INET" };

    pause.before(&mut screen, format_args!("socket({family}, SOCK_DGRAM, 0)"));
    let sock = Socket::new(Domain::for_address(addr), Type::DGRAM, None).at("socket", addr)?;
    let fd = sock.as_raw_fd();

    pause.before(&mut screen, format_args!("setsockopt({fd}, SOL_SOCKET, SO_RCVBUF, {RCVBUF})"));
    sock.set_recv_buffer_size(RCVBUF).at("setsockopt", addr)?;

    pause.before(&mut screen, format_args!("bind({fd}, {addr})"));
    sock.bind(&addr.into()).at("bind", addr)?;

    sock.set_nonblocking(true).at("fcntl", addr)?; // poll waits, so that Ctrl-C is heard
    let local_addr = sock.local_addr().at("getsockname", addr)?.as_socket().context("not an IP socket")?;
    let own_addr = source_towards(args.to, local_addr)?;
    ensure!(!is_itself(args.to, local_addr) && args.to != own_addr, "--to {}: that is the relay itself", args.to);
    screen.line(format_args!("Relay is bound to {local_addr}, sends on to {}, seed {}", args.to, args.seed));

    let mut fates = Fates::new(args.seed, args.rates, &args.lose);
    let mut held: Option<Vec<u8>> = None; // until the next one has passed
    let (mut sent_on, mut told) = (0u64, 0);
    let mut buffer = vec![0; BUFFER_SIZE];
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
            pause.before(&mut screen, format_args!("recvfrom({fd}, {BUFFER_SIZE})"));
            let (bytes_read, source) = match recvfrom::<SockaddrStorage>(fd, &mut buffer) {
                Err(Errno::EAGAIN | Errno::EINTR) => continue, // with a wrong checksum it is gone after poll saw it
                result => result.at("recvfrom", addr)?,
            };
            let source = source_addr(source)?;
            if source == args.to || source == own_addr {
                // Two relays that send on to each other would never end.
                screen.line(format_args!("Ignored {bytes_read} bytes from {source}: the relay works in one direction"));
                continue;
            }
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
            while let Err(errno) = sendto(fd, &datagram, &SockaddrStorage::from(args.to), MsgFlags::empty()) {
                match errno {
                    Errno::EINTR => {}
                    Errno::EAGAIN => _ = poll(&mut [PollFd::new(sock.as_fd(), PollFlags::POLLOUT)], SILENCE_MS),
                    errno => Err(errno).at("sendto", args.to)?,
                }
            }
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

/// The source address of the datagrams that the relay sends on. A socket bound to 0.0.0.0 or :: gets its address from the
/// route: a second socket, which connects and sends nothing, shows which.
fn source_towards(to: SocketAddr, local_addr: SocketAddr) -> Result<SocketAddr> {
    if !local_addr.ip().is_unspecified() {
        return Ok(local_addr);
    }
    let probe_sock = Socket::new(Domain::for_address(to), Type::DGRAM, None).at("socket", to)?;
    probe_sock.connect(&to.into()).at("connect", to)?;
    let probe_addr = probe_sock.local_addr().at("getsockname", to)?.as_socket().context("not an IP socket")?;
    Ok(SocketAddr::new(probe_addr.ip(), local_addr.port()))
}

/// Whether `to` is the relay by another name: 0.0.0.0 and :: mean this machine (ip(7)), and so does all of 127.0.0.0/8.
fn is_itself(to: SocketAddr, local_addr: SocketAddr) -> bool {
    let [to_ip, local_ip] = [to, local_addr].map(|addr| addr.ip().to_canonical());
    let same = to_ip == local_ip || to_ip.is_unspecified() || local_ip.is_unspecified() && to_ip.is_loopback();
    same && to.port() == local_addr.port()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_relay_knows_its_other_names() {
        let itself = |to: &str, local: &str| is_itself(to.parse().unwrap(), local.parse().unwrap());
        for (to, local) in [
            ("127.0.0.1:9", "127.0.0.1:9"),
            ("0.0.0.0:9", "127.0.0.1:9"),
            ("127.0.0.1:9", "0.0.0.0:9"),
            ("127.0.0.2:9", "0.0.0.0:9"),
            ("[::ffff:127.0.0.1]:9", "127.0.0.1:9"),
            ("[::]:9", "[::1]:9"),
            ("[::ffff:127.0.0.1]:9", "[::]:9"),
        ] {
            assert!(itself(to, local), "{to} {local}");
        }
        for (to, local) in
            [("127.0.0.1:8", "127.0.0.1:9"), ("127.0.0.2:9", "127.0.0.1:9"), ("192.0.2.1:9", "0.0.0.0:9")]
        {
            assert!(!itself(to, local), "{to} {local}");
        }
    }
}
