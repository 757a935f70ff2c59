//! Terminal 3, between client and server, in both directions: a network that delays, loses, doubles and reorders.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, poll},
    sys::socket::{MsgFlags, SockaddrStorage, recv, recvfrom, send, sendto},
};
use shared::{At, Pause, Screen, Stop};
use socket2::{Domain, Socket, Type};

use crate::{
    RELAY, RelayArgs,
    fate::{Fate, Fates},
    place,
    udp::{BUFFER_SIZE, source_addr, until},
};

/// So many clients are known at a time; further ones are not relayed.
const CLIENTS: usize = 64;
/// A datagram that is overtaken takes longer by this time and by twice the delay.
const OVERTAKEN: Duration = Duration::from_millis(10);

/// A client, and the socket that speaks for it to the server.
struct Way {
    client: SocketAddr,
    server_sock: Socket,
    /// Datagrams towards the server.
    count: u64,
}

/// A datagram that waits until it is due.
struct Waiting {
    client: SocketAddr,
    to_server: bool,
    datagram: Vec<u8>,
}

/// Relays until Ctrl-C.
pub fn run(args: &RelayArgs) -> Result<()> {
    let addr = place(&args.address, RELAY)?;
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();
    let family = if addr.is_ipv6() { "AF_INET6" } else { "AF_INET" };

    pause.before(&mut screen, format_args!("socket({family}, SOCK_DGRAM, 0)"));
    let sock = Socket::new(Domain::for_address(addr), Type::DGRAM, None).at("socket", addr)?;
    let fd = sock.as_raw_fd();

    pause.before(&mut screen, format_args!("bind({fd}, {addr})"));
    sock.bind(&addr.into()).at("bind", addr)?;

    sock.set_nonblocking(true).at("fcntl", addr)?; // poll waits, so that Ctrl-C and the delay are heard
    let local_addr = sock.local_addr().at("getsockname", addr)?.as_socket().context("not an IP socket")?;
    ensure!(args.to != local_addr, "--to {}: that is the relay itself", args.to);
    screen.line(format_args!(
        "Relay is bound to {local_addr}, sends on to {} after {} ms, seed {}",
        args.to, args.delay_ms, args.seed
    ));

    let delay = Duration::from_millis(args.delay_ms.into());
    let mut fates =
        [Fates::new(args.seed, args.rates, &args.lose), Fates::new(!args.seed, args.rates, &args.lose_back)];
    let mut ways: Vec<Way> = Vec::new();
    let mut waiting: BTreeMap<(Duration, u64), Waiting> = BTreeMap::new(); // by time, then in the order of arrival
    let (start, mut running) = (Instant::now(), 0);
    let mut buffer = vec![0; BUFFER_SIZE];
    while !stop.requested() {
        let deadline = waiting.first_key_value().map(|((at, _), _)| *at);
        let mut fds = vec![PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(sock.as_fd(), PollFlags::POLLIN)];
        fds.extend(ways.iter().map(|way| PollFd::new(way.server_sock.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, until(deadline, start.elapsed())) {
            Err(Errno::EINTR) => continue, // Ctrl-Z, then fg
            result => _ = result.at("poll", addr)?,
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any() == Some(true)).collect();

        let mut came: Vec<Waiting> = Vec::new();
        if ready[1] {
            pause.before(&mut screen, format_args!("recvfrom({fd}, {BUFFER_SIZE})"));
            match recvfrom::<SockaddrStorage>(fd, &mut buffer) {
                Ok((bytes_read, source)) => {
                    let (client, datagram) = (source_addr(source)?, buffer[..bytes_read].to_vec());
                    came.push(Waiting { client, to_server: true, datagram });
                }
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(errno) => Err(errno).at("recvfrom", addr)?,
            }
        }
        for (way, _) in ways.iter().zip(&ready[2..]).filter(|(_, ready)| **ready) {
            pause.before(&mut screen, format_args!("recv({}, {BUFFER_SIZE})", way.server_sock.as_raw_fd()));
            // ECONNREFUSED: no server is there now. To the client that is a lost datagram.
            if let Ok(bytes_read) = recv(way.server_sock.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                let datagram = buffer[..bytes_read].to_vec();
                came.push(Waiting { client: way.client, to_server: false, datagram });
            }
        }
        for arrived in came {
            let fates = &mut fates[usize::from(!arrived.to_server)];
            let fate = fates.draw();
            let direction = if arrived.to_server { "to the server" } else { "to the client" };
            let (word, copies, longer) = match fate {
                Fate::Pass => ("", 1, Duration::ZERO),
                Fate::Drop => ("lost", 0, Duration::ZERO),
                Fate::Duplicate => ("sent on twice", 2, Duration::ZERO),
                Fate::Overtaken => ("overtaken by those behind it", 1, OVERTAKEN + 2 * delay),
            };
            if fate != Fate::Pass {
                screen.line(format_args!("Datagram {} {direction}: {word}", fates.count));
            }
            for _ in 0..copies {
                running += 1;
                let Waiting { client, to_server, datagram } = &arrived;
                let copy = Waiting { client: *client, to_server: *to_server, datagram: datagram.clone() };
                waiting.insert((start.elapsed() + delay + longer, running), copy);
            }
        }

        while let Some(due) = waiting.first_entry().filter(|entry| entry.key().0 <= start.elapsed()) {
            let Waiting { client, to_server, datagram } = due.remove();
            if !to_server {
                pause.before(&mut screen, format_args!("sendto({fd}, {}, {client})", datagram.len()));
                let _ = sendto(fd, &datagram, &SockaddrStorage::from(client), MsgFlags::empty()); // or it is lost
                continue;
            }
            let Some(way) = way(&mut ways, client, args)? else {
                screen.line(format_args!("Ignored {client}: {CLIENTS} clients are relayed"));
                continue;
            };
            way.count += 1;
            if args.rebind.is_some_and(|count| way.count == count + 1) {
                way.server_sock = towards(args.to)?;
                let new_addr =
                    way.server_sock.local_addr().at("getsockname", "")?.as_socket().context("not an IP socket")?;
                screen.line(format_args!("To the server {client} is now {new_addr}"));
            }
            let server_fd = way.server_sock.as_raw_fd();
            pause.before(&mut screen, format_args!("send({server_fd}, {})", datagram.len()));
            let _ = send(server_fd, &datagram, MsgFlags::empty()); // or it is lost
        }
    }
    drop(sock); // close(2)
    Ok(())
}

/// The way of this client, new if it has none; `None`: there are enough.
fn way<'a>(ways: &'a mut Vec<Way>, client: SocketAddr, args: &RelayArgs) -> Result<Option<&'a mut Way>> {
    let at = match ways.iter().position(|way| way.client == client) {
        Some(at) => at,
        None if ways.len() == CLIENTS => return Ok(None),
        None => {
            ways.push(Way { client, server_sock: towards(args.to)?, count: 0 });
            ways.len() - 1
        }
    };
    Ok(ways.get_mut(at))
}

/// A socket whose only peer is the server.
fn towards(to: SocketAddr) -> Result<Socket> {
    let server_sock = Socket::new(Domain::for_address(to), Type::DGRAM, None).at("socket", to)?;
    server_sock.connect(&to.into()).at("connect", to)?;
    server_sock.set_nonblocking(true).at("fcntl", to)?;
    Ok(server_sock)
}
