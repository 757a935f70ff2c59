//! Terminal 1: one socket, one thread, many sessions. A request is carried out when its last block is here.

use std::{
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use anyhow::{Context, Result};
use board::{Board, now};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, poll},
    sys::socket::{MsgFlags, SockaddrStorage, recvfrom, sendto},
};
use shared::{At, Pause, Screen, Stop};
use socket2::{Domain, Socket, Type};

use crate::{
    SERVER, ServerArgs, place,
    session::{Event, Limits, Sessions},
    udp::{BUFFER_SIZE, Clock, random, source_addr, until},
};

/// The server asks for this, so that a burst of many windows finds room; the kernel grants at most net.core.rmem_max,
/// doubled.
const RCVBUF: usize = 1024 * 1024;
/// So many datagrams are received before what they call for is sent.
const BURST: usize = 64;

/// Serves until Ctrl-C.
pub fn run(args: &ServerArgs) -> Result<()> {
    let addr = place(&args.address, SERVER)?;
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();
    let mut board = match &args.journal {
        Some(path) => journal::open(path)?,
        None => Board::default(),
    };

    let family = if addr.is_ipv6() { "AF_INET6" } else { "AF_INET" };
    pause.before(&mut screen, format_args!("socket({family}, SOCK_DGRAM, 0)"));
    let sock = Socket::new(Domain::for_address(addr), Type::DGRAM, None).at("socket", addr)?;
    let fd = sock.as_raw_fd();

    pause.before(&mut screen, format_args!("setsockopt({fd}, SOL_SOCKET, SO_RCVBUF, {RCVBUF})"));
    sock.set_recv_buffer_size(RCVBUF).at("setsockopt", addr)?;

    pause.before(&mut screen, format_args!("bind({fd}, {addr})"));
    sock.bind(&addr.into()).at("bind", addr)?;

    sock.set_nonblocking(true).at("fcntl", addr)?; // poll waits, so that Ctrl-C and the deadlines are heard
    let local_addr = sock.local_addr().at("getsockname", addr)?.as_socket().context("not an IP socket")?;
    screen.line(format_args!("Socket is bound to {local_addr}"));
    screen.line("Waiting for requests ...");

    let limits = Limits {
        sessions: args.max_sessions.into(),
        message: usize::try_from(args.max_message)?,
        memory: usize::try_from(args.max_memory)?,
        idle: Duration::from_millis(args.idle.into()),
        timing: args.repeats.timing(),
    };
    let mut sessions = Sessions::new(limits, random);
    let mut clock = Clock::start();
    let mut buffer = vec![0; BUFFER_SIZE];
    while !stop.requested() {
        let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(sock.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, until(sessions.deadline(), clock.now())) {
            Err(Errno::EINTR) => continue, // Ctrl-Z, then fg
            result => _ = result.at("poll", addr)?,
        }
        if fds[1].any() == Some(true) {
            for _ in 0..BURST {
                pause.before(&mut screen, format_args!("recvfrom({fd}, {BUFFER_SIZE})"));
                let (bytes_read, source) = match recvfrom::<SockaddrStorage>(fd, &mut buffer) {
                    Err(Errno::EAGAIN | Errno::EINTR) => break, // all received
                    result => result.at("recvfrom", addr)?,
                };
                let from = source_addr(source)?;
                if let Some(event) = sessions.hear(from, &buffer[..bytes_read], clock.now()) {
                    carry_out(event, &mut board, &mut sessions, &mut screen)?;
                }
            }
        }
        let (due, freed) = sessions.due(clock.now());
        for (to, datagram) in due {
            pause.before(&mut screen, format_args!("sendto({fd}, {}, {to})", datagram.len()));
            // What cannot be sent is lost, as it could be on any link: the next repetition mends it.
            let _ = sendto(fd, &datagram, &SockaddrStorage::from(to), MsgFlags::empty());
        }
        for event in freed {
            tell(&event, &sessions, &mut screen);
        }
    }
    drop(sock); // close(2)
    Ok(())
}

/// A whole request goes to the board, and the board's answer back into the session. Every event gets a line.
fn carry_out(event: Event, board: &mut Board, sessions: &mut Sessions, screen: &mut Screen) -> Result<()> {
    tell(&event, sessions, screen);
    if let Event::Whole { session, client, request, .. } = event {
        let refused = match board.answer(&request, client, now()) {
            Ok(answer) => sessions.answer(session, answer),
            Err(error) => {
                screen.line(format_args!("[{session}] not published: {error:#}")); // the journal: its disk is full
                sessions.no_answer(session)
            }
        };
        if let Some(refused) = refused {
            tell(&refused, sessions, screen);
        }
    }
    Ok(())
}

fn tell(event: &Event, sessions: &Sessions, screen: &mut Screen) {
    let (count, bytes) = sessions.held();
    match event {
        Event::Opened { session, client } => screen.line(format_args!("[{session}] session for {client}")),
        Event::Whole { session, request, again, .. } => {
            let bytes = request.len();
            screen.line(format_args!("[{session}] whole: {bytes} bytes; blocks that came again: {again}"));
        }
        Event::Ended { session } => screen.line(format_args!("[{session}] ended")),
        Event::Freed { session, bytes: of } => screen.line(format_args!(
            "[{session}] forgotten with {of} bytes: its client is silent; left {count} sessions, {bytes} bytes"
        )),
        Event::Refused { id, from, why } => screen.line(format_args!("[{id}] refused to {from}: {why}")),
    }
}
