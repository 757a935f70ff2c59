//! Terminal 1: the lecture's server, one socket and no memory of its clients.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
};

use anyhow::{Context, Result};
use board::{Board, Code, Request, now};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, SockaddrStorage, recvfrom, sendto},
};
use shared::{At, Pause, Screen, Stop, escaped, returned};
use socket2::{Domain, Socket, Type};

use crate::{ServerArgs, place};

/// Longer than any datagram: none is cut.
const BUFFER: usize = 65_536;
/// So many bytes of a datagram are shown.
const SHOWN: usize = 60;

/// Serves until Ctrl-C.
pub fn run(args: &ServerArgs) -> Result<()> {
    let addr = place(&args.address)?;
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();
    let mut board = match &args.journal {
        Some(file) => journal::open(file)?,
        None => Board::default(),
    };

    let family = if addr.is_ipv6() { "AF_INET6" } else { "AF_INET" };
    pause.before(&mut screen, format_args!("socket({family}, SOCK_DGRAM, 0)"));
    let sock = Socket::new(Domain::for_address(addr), Type::DGRAM, None).at("socket", addr)?;
    let fd = sock.as_raw_fd();

    pause.before(&mut screen, format_args!("bind({fd}, {addr})"));
    sock.bind(&addr.into()).at("bind", addr)?;
    sock.set_nonblocking(true).at("fcntl", addr)?; // a damaged datagram wakes poll, and recvfrom finds nothing
    let local_addr = sock.local_addr().at("getsockname", addr)?.as_socket().context("not an IP socket")?;
    screen.line(format_args!("The board has {} messages; requests to {local_addr}", board.last(0).len()));

    let mut buffer = vec![0; BUFFER];
    let mut to_lose = args.lose;
    loop {
        pause.before(&mut screen, format_args!("recvfrom({fd}, {BUFFER})"));
        let mut fds = [stop.as_fd(), sock.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let woken = poll(&mut fds, PollTimeout::NONE);
        if stop.requested() {
            break;
        }
        if !matches!(woken, Ok(_) | Err(Errno::EINTR)) {
            woken.at("poll", "")?;
        }
        let (bytes_read, client_addr) = match recvfrom::<SockaddrStorage>(fd, &mut buffer) {
            Ok((bytes_read, client_addr)) => (bytes_read, client_addr.as_ref().and_then(socket_addr)),
            Err(Errno::EAGAIN | Errno::EINTR) => continue,
            Err(errno) => {
                screen.line(format_args!("recvfrom({fd}) = -1 {errno:?} ({})", errno.desc()));
                continue;
            }
        };
        let Some(client_addr) = client_addr else { continue };
        let request = &buffer[..bytes_read];
        screen.line(format_args!("{client_addr} asks     {}", shown(request)));

        // No session, no thread: what was asked stands in this one datagram, and so does the whole answer.
        let answer = match Request::parse(request) {
            Ok(Request::GetLast { .. }) => Ok(Code::UnknownRequest.reply()), // an answer for TCP: it has no limit
            _ => board.answer(request, client_addr, now()),
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                screen.line(format_args!("not published, so not answered: {error:#}"));
                continue;
            }
        };
        if to_lose > 0 {
            to_lose -= 1;
            screen.line(format_args!("{client_addr} not told {} (lost, as --lose says)", shown(&answer)));
            continue;
        }

        pause.before(&mut screen, format_args!("sendto({fd}, {}, {client_addr})", answer.len()));
        let sent = sendto(fd, &answer, &SockaddrStorage::from(client_addr), MsgFlags::empty());
        match sent {
            Ok(_) => screen.line(format_args!("{client_addr} is told  {}", shown(&answer))),
            // EMSGSIZE: it is longer than a datagram. This client hears nothing; the others are served.
            failed => {
                screen.line(format_args!("sendto({fd}, {}, {client_addr}) = {}", answer.len(), returned(&failed)))
            }
        }
    }

    drop(sock); // close(2)
    screen.line(format_args!("The board had {} messages", board.last(0).len()));
    Ok(())
}

/// The beginning of a datagram, as a terminal can show it.
fn shown(bytes: &[u8]) -> String {
    match bytes.len().checked_sub(SHOWN) {
        None | Some(0) => escaped(bytes),
        Some(more) => format!("{}... and {more} bytes more", escaped(&bytes[..SHOWN])),
    }
}

/// The address that recvfrom(2) wrote down.
pub fn socket_addr(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into())))
}
