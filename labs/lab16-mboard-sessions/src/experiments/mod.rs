//! What the lecture says of sessions over UDP, and what it leaves open, decided by running it.

mod blocks;
mod ends;
mod parts;
mod windows;

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use board::{Message, Request, ids, message, reply};
use kernel::{
    Need,
    capture::CAPTURE,
    need::{DESCRIPTORS, LOOPBACK, LOOPBACK_NETWORK, PORTS, setting},
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, poll},
    sys::socket::{MsgFlags, recv, send},
};
use shared::{At, Experiment, Lesson, Role, Stage, escaped};
use socket2::{Domain, Socket, Type};

use crate::{
    LONGEST_PAUSE,
    session::{BLOCK_LEN, ClientEnd, Timing, wire::Datagram},
    udp::{random, until},
};

/// How long a datagram may take; far more than loopback needs.
const LIMIT: Duration = Duration::from_secs(5);
/// Bytes asked of one recv.
const BUFFER_SIZE: usize = 2048;

/// A filter on a socket takes a few bytes of its option memory.
const OPTION_MEMORY: Need = Need {
    what: "net.core.optmem_max of 1024 or more",
    provided_by: "sysctl -w net.core.optmem_max=131072",
    met: || setting("net/core/optmem_max").first().is_none_or(|most| *most >= 1024),
};

pub const LESSON: Lesson = Lesson {
    lab: crate::LAB,
    setting: "client and server on this machine",
    needs: &[LOOPBACK, PORTS, DESCRIPTORS],
    experiments: &[
        Experiment {
            id: "interleaved",
            starred: true,
            minutes: 6,
            claim: "Blocks of different sessions arrive interleaved; the session id tells which buffer each belongs to.",
            source: "notes ch.2, Part 2: Stateful Protocol, Design",
            needs: &[],
            play: blocks::interleaved,
        },
        Experiment {
            id: "lost-confirmation",
            starred: true,
            minutes: 6,
            claim: "Each block is sent and its delivery confirmed, one by one; then the final assembly happens.",
            source: "notes ch.2, Part 2: Stateful Protocol, Design; the question is ours",
            needs: &[],
            play: blocks::lost_confirmation,
        },
        Experiment {
            id: "round-trips",
            starred: true,
            minutes: 8,
            claim: "The most intuitive way: send the blocks one by one and confirm the delivery of each one.",
            source: "notes ch.2, Part 2: Stateful Protocol, Design; the question is ours",
            needs: &[],
            play: windows::round_trips,
        },
        Experiment {
            id: "third-party",
            starred: false,
            minutes: 4,
            claim: "The server keeps the session id and the socket address of the client that asked for it.",
            source: "notes ch.2, Part 2: Stateful Protocol, Design",
            needs: &[],
            play: blocks::third_party,
        },
        Experiment {
            id: "new-address",
            starred: false,
            minutes: 4,
            claim: "A session belongs to the socket address that asked for it.",
            source: "notes ch.2, Part 2: Stateful Protocol, Design; the question is ours",
            needs: &[],
            play: ends::new_address,
        },
        Experiment {
            id: "restart",
            starred: false,
            minutes: 4,
            claim: "The state of a client is kept on the server side.",
            source: "notes ch.2, Server-side and Part 2: Stateful Protocol; the question is ours",
            needs: &[LOOPBACK_NETWORK],
            play: ends::restart,
        },
        Experiment {
            id: "dead-clients",
            starred: false,
            minutes: 5,
            claim: "Received parts of a message are stored by the server until all of it is there.",
            source: "notes ch.2, Server-side; the question is ours",
            needs: &[],
            play: ends::dead_clients,
        },
        Experiment {
            id: "parts",
            starred: false,
            minutes: 6,
            claim: "UDP leaves sessions to the application layer; TCP has them in the transport layer.",
            source: "notes ch.1, TCP/IP model, and ch.2, Part 2; the question is ours",
            needs: &[CAPTURE, OPTION_MEMORY],
            play: parts::parts,
        },
    ],
    next: &[
        ("by hand", "cargo lab16 server"),
        ("", "cargo lab16 relay --delay-ms 20 --drop 5"),
        ("", "cargo lab16 client 7779 --publish 'Hello world!'"),
        ("watch", "scripts/states.sh 7777 --watch"),
        ("sheet", "cargo lab16 sheet"),
    ],
};

/// A UDP socket whose only peer is `to`. A recv that hears nothing for LIMIT fails.
fn client_socket(to: SocketAddr) -> Result<Socket> {
    let client_sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", to)?;
    client_sock.connect(&to.into()).at("connect", to)?;
    client_sock.set_read_timeout(Some(LIMIT)).at("setsockopt", to)?;
    Ok(client_sock)
}

/// Sends a datagram of the protocol and prints the call.
fn say(stage: &mut Stage, label: &str, sock: &Socket, datagram: Datagram) -> Result<()> {
    let bytes = datagram.bytes();
    let bytes_sent = send_whole(sock, &bytes)?;
    let (fd, text) = (sock.as_raw_fd(), shown(&bytes));
    stage.say(label, format_args!("send({fd}, {}) = {bytes_sent}  {text}", bytes.len()));
    Ok(())
}

fn send_whole(sock: &Socket, datagram: &[u8]) -> Result<usize> {
    loop {
        match send(sock.as_raw_fd(), datagram, MsgFlags::empty()) {
            Err(Errno::EINTR) => {} // after Ctrl-Z and fg: signal(7)
            result => return Ok(result.at("send", "")?),
        }
    }
}

/// Receives a datagram and prints the call.
fn hear(stage: &mut Stage, label: &str, sock: &Socket) -> Result<Vec<u8>> {
    let datagram = receive(sock)?;
    let (fd, bytes_read, text) = (sock.as_raw_fd(), datagram.len(), shown(&datagram));
    stage.say(label, format_args!("recv({fd}, {BUFFER_SIZE}) = {bytes_read}  {text}"));
    Ok(datagram)
}

fn receive(sock: &Socket) -> Result<Vec<u8>> {
    let mut buffer = vec![0; BUFFER_SIZE];
    loop {
        match recv(sock.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Err(Errno::EINTR) => {} // with SO_RCVTIMEO after Ctrl-Z and fg: signal(7)
            result => {
                buffer.truncate(result.at("recv", "")?);
                return Ok(buffer);
            }
        }
    }
}

/// Asks for a session, and gets one.
fn opened(stage: &mut Stage, label: &str, sock: &Socket) -> Result<u32> {
    let asked = random();
    say(stage, label, sock, Datagram::Open { token: asked, window: 1 })?;
    let datagram = hear(stage, label, sock)?;
    match Datagram::parse(&datagram) {
        Some(Datagram::Session { token, session }) if token == asked => Ok(session),
        _ => bail!("the server gave no session: {}", shown(&datagram)),
    }
}

/// A block of a request, counted from 1.
fn block<'a>(session: u32, request: &'a [u8], number: u32) -> Datagram<'a> {
    let from = (number as usize - 1) * BLOCK_LEN;
    let to = request.len().min(from + BLOCK_LEN);
    Datagram::Block { session, number, last: to == request.len(), bytes: &request[from..to] }
}

/// Confirms the answer, which is one block, and ends the session.
fn finished(stage: &mut Stage, label: &str, sock: &Socket, session: u32) -> Result<()> {
    let datagram = hear(stage, label, sock)?;
    let answer = match Datagram::parse(&datagram) {
        Some(Datagram::Block { last: true, number: 1, bytes, .. }) => bytes,
        _ => bail!("no answer: {}", shown(&datagram)),
    };
    ensure!(reply(answer).is_ok(), "the board answered {}", escaped(answer));
    send_whole(sock, &Datagram::Confirm { session, number: 1, next: 2 }.bytes())?;
    send_whole(sock, &Datagram::End { session }.bytes())?;
    Ok(())
}

/// A datagram on one line: of a block its header and its length.
fn shown(datagram: &[u8]) -> String {
    match Datagram::parse(datagram) {
        Some(Datagram::Block { session, number, last, bytes }) if bytes.len() > 8 => {
            let kind = if last { 'L' } else { 'B' };
            format!("{kind}:{session}:{number}: and {} bytes", bytes.len())
        }
        _ => escaped(datagram),
    }
}

/// A whole session with the code of the client: the answer, and how many blocks were sent again.
fn exchange(to: SocketAddr, request: Vec<u8>, window: u32) -> Result<(Vec<u8>, u32)> {
    let sock = client_socket(to)?;
    let timing = Timing { first: Duration::from_millis(500), most: LONGEST_PAUSE, attempts: 8 };
    let start = Instant::now();
    let mut session = ClientEnd::new(random(), request, window, timing, 1 << 20, start.elapsed());
    loop {
        for datagram in session.due(start.elapsed()) {
            send_whole(&sock, &datagram)?;
        }
        if let Some(result) = session.result() {
            let answer = result.map_err(|failure| anyhow::anyhow!("{failure}"))?;
            return Ok((answer, session.blocks().1));
        }
        let mut fds = [PollFd::new(sock.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, until(session.deadline(), start.elapsed())) {
            Ok(0) | Err(Errno::EINTR) => {}
            result => {
                result.at("poll", "")?;
                session.hear(&receive(&sock)?, start.elapsed());
            }
        }
    }
}

/// All messages of a board.
fn board_of(server_addr: SocketAddr) -> Result<Vec<Message>> {
    let (answer, _) = exchange(server_addr, Request::Last { count: 0 }.encode(), 16)?;
    let get = |id| {
        let (answer, _) = exchange(server_addr, Request::Get { id }.encode(), 16)?;
        Ok(message(id, reply(&answer)?)?)
    };
    ids(reply(&answer)?)?.into_iter().map(get).collect()
}

/// A text as runs of equal letters: `3000 x "a"`.
fn runs(text: &[u8]) -> String {
    let run = |run: &[u8]| format!("{} x {:?}", run.len(), escaped(&run[..1]));
    text.chunk_by(|one, next| one == next).map(run).collect::<Vec<_>>().join(", ")
}

/// The real server as a child process, on a port of the kernel's choice.
fn server_role(options: &[&str]) -> Result<(Role, SocketAddr)> {
    server_role_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), options)
}

/// Unless `options` say otherwise, it forgets no session while a class thinks.
fn server_role_at(addr: SocketAddr, options: &[&str]) -> Result<(Role, SocketAddr)> {
    let idle: &[&str] = if options.contains(&"--idle") { &[] } else { &["--idle", "3600000"] };
    let mut server = Role::start(&[&["server", &addr.to_string()], idle, options].concat())?;
    let banner = server.line_with("Socket is bound to ")?;
    let addr = banner.rsplit(' ').next().and_then(|addr| addr.parse().ok()).context("no address in the banner")?;
    server.wait_for("Waiting for requests ...\n")?;
    Ok((server, addr))
}

/// The real relay as a child process, on a port of the kernel's choice.
fn relay_role(to: SocketAddr, options: &[&str]) -> Result<(Role, SocketAddr)> {
    let mut relay = Role::start(&[&["relay", "0", "--to", &to.to_string()], options].concat())?;
    let banner = relay.line_with("Relay is bound to ")?;
    let addr =
        banner.split([' ', ',']).nth(4).and_then(|addr| addr.parse().ok()).context("no address in the banner")?;
    Ok((relay, addr))
}
