//! Terminals 2, 3, 4 ...: sends the lines you type and shows the server's lines reversed, whichever comes first.

use std::{
    io::stdin,
    net::{SocketAddr, ToSocketAddrs},
    os::fd::{AsFd, AsRawFd},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use shared::{At, CallError, Pause, Place, Screen, Stop};
use socket2::{Domain, Socket, Type};

use crate::{
    ClientArgs, SERVER,
    lines::{LINE_LIMIT, LineSplitter},
    talk::Client,
};

/// Whose descriptor it is that poll watches.
enum Whose {
    /// SIGINT and SIGTERM, as a descriptor.
    Signals,
    Server,
    /// Standard input.
    Keyboard,
}

/// Talks to the server until `exit`, end of input, Ctrl-C, or the end of the server's stream.
pub fn run(args: &ClientArgs, place: &Place) -> Result<ExitCode> {
    let host = place.host.clone().unwrap_or(SERVER.ip().to_string());
    let port = place.port.unwrap_or(SERVER.port());
    // Before signals become a descriptor: Ctrl-C ends a name lookup that takes long.
    let addresses: Vec<SocketAddr> = (host.as_str(), port).to_socket_addrs().at("getaddrinfo", &host)?.collect();
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();
    let Some((sock, peer_addr)) = connect_any(&addresses, &stop, &mut pause, &mut screen)? else {
        return Ok(ExitCode::SUCCESS); // Ctrl-C
    };
    screen.line(format_args!("> Connected to server IP = {host} and PORT = {}", peer_addr.port()));

    let mut client = Client::new(sock, peer_addr, screen, pause);
    let (mut typed, mut heard) = (LineSplitter::default(), LineSplitter::default());
    let mut buffer = vec![0; LINE_LIMIT];
    'talk: loop {
        client.screen.settle();
        let input = stdin();
        let mut sock_events = PollFlags::POLLIN;
        sock_events.set(PollFlags::POLLOUT, !client.outbox.is_empty());
        let mut watched = vec![
            (Whose::Signals, PollFd::new(stop.as_fd(), PollFlags::POLLIN)),
            (Whose::Server, PollFd::new(client.sock.as_fd(), sock_events)),
        ];
        if client.close_by.is_none() && client.outbox.is_empty() {
            // Not while a line waits to be sent: then the program that feeds this one has to wait, too.
            watched.push((Whose::Keyboard, PollFd::new(input.as_fd(), PollFlags::POLLIN)));
        }
        let (whose, mut fds): (Vec<Whose>, Vec<PollFd>) = watched.into_iter().unzip();
        let timeout = match client.close_by {
            Some(close_by) => PollTimeout::try_from(close_by.saturating_duration_since(Instant::now()))?,
            None => PollTimeout::NONE,
        };
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => continue,
            result => result.at("poll", "")?,
        };
        let events = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        let ready: Vec<(Whose, PollFlags)> = whose.into_iter().zip(events).filter(|(_, e)| !e.is_empty()).collect();

        if client.close_by.is_some_and(|close_by| Instant::now() >= close_by) {
            break; // the server keeps its end open
        }
        for (whose, events) in ready {
            match whose {
                Whose::Signals => {
                    stop.take();
                    if client.close_by.is_some() {
                        break 'talk; // a second Ctrl-C
                    }
                    client.leave()?;
                }
                Whose::Server => {
                    if events.intersects(!PollFlags::POLLOUT) && !client.hear(&mut heard, &mut buffer)? {
                        break 'talk;
                    }
                    if events.contains(PollFlags::POLLOUT) {
                        client.flush()?;
                    }
                }
                Whose::Keyboard if client.close_by.is_none() => client.input(&mut typed, &mut buffer)?,
                Whose::Keyboard => {} // Ctrl-C came at the same time
            }
        }
    }
    client.screen.line("> Closing client...");
    drop(client.sock); // close(2)
    Ok(if client.refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Tries one address after the other, as a name may have several; `None` after Ctrl-C.
fn connect_any(
    addresses: &[SocketAddr],
    stop: &Stop,
    pause: &mut Pause,
    screen: &mut Screen,
) -> Result<Option<(Socket, SocketAddr)>> {
    let mut last_failure: Option<CallError> = None;
    for &addr in addresses {
        let family = if addr.is_ipv6() { "AF_INET6" } else { "AF_INET" };
        pause.before(screen, format_args!("socket({family}, SOCK_STREAM, 0)"));
        let sock = Socket::new(Domain::for_address(addr), Type::STREAM, None).at("socket", addr)?;
        sock.set_nonblocking(true).at("fcntl", addr)?; // no call below blocks; poll does

        pause.before(screen, format_args!("connect({}, {addr})", sock.as_raw_fd()));
        let mut connected = sock.connect(&addr.into());
        if connected.as_ref().is_err_and(|error| error.raw_os_error() == Some(Errno::EINPROGRESS as i32)) {
            let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(sock.as_fd(), PollFlags::POLLOUT)];
            while poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {} // after a signal handler: signal(7)
            if stop.requested() {
                return Ok(None);
            }
            connected = sock.take_error().and_then(|error| error.map_or(Ok(()), Err)); // SO_ERROR
        }
        match connected.at("connect", addr) {
            Ok(()) => return Ok(Some((sock, addr))),
            Err(error) => last_failure = Some(error),
        }
    }
    Err(last_failure.context("getaddrinfo found no address")?.into())
}
