//! The process at the other end is gone; its kernel is not.

use std::{net::SocketAddr, os::fd::AsRawFd};

use anyhow::{Context, Result, ensure};
use kernel::{Pair, State, tcp_socket, wait_for_state, wait_until};
use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, kill},
        socket::{MsgFlags, send},
    },
};
use shared::{At, Predicts, Role, Stage, Verdict, returned};
use socket2::{Domain, Socket, Type};

use super::{LIMIT, receive};

pub fn killed(stage: &mut Stage) -> Result<Verdict> {
    let (mut reader, first_sock) = served(stage, "client 1")?;
    let (mut sleeper, second_sock) = served(stage, "client 2")?;
    let (first, second) = (Pair::of(&first_sock)?, Pair::of(&second_sock)?);
    let (first_fd, second_fd) = (first_sock.as_raw_fd(), second_sock.as_raw_fd());

    let sent = send(first_fd, b"read\n", MsgFlags::empty());
    stage.say("client 1", format_args!("send({first_fd}, \"read\\n\", 5) = {}", returned(&sent)));
    reader.wait_for("Received 5 bytes")?;
    stage.say("server 1", "has read 5 bytes");
    kill(sleeper.pid(), Signal::SIGSTOP).at("kill", "")?;
    stage.say("server 2", format_args!("kill -STOP {}: it runs no line of its program now", sleeper.pid()));
    let sent = send(second_fd, b"unread\n", MsgFlags::empty());
    stage.say("client 2", format_args!("send({second_fd}, \"unread\\n\", 7) = {}", returned(&sent)));
    let unread = wait_until("the line in the server's kernel", LIMIT, || {
        Ok(tcp_socket(second.other_end())?.map(|row| row.recv_queue).filter(|bytes| *bytes > 0))
    })?;
    stage.say("kernel", format_args!("server 2 Recv-Q {unread}"));

    stage.look(format_args!("ss -tan 'sport = :{} or sport = :{}'", first.peer.port(), second.peer.port()));
    let question = stage.ask(
        "Both servers are killed with kill -9, so neither calls close. What does recv return to client 1 and client 2?",
        [
            ("it blocks for client 1, it blocks for client 2", [Err(Errno::EAGAIN); 2]),
            ("0 for client 1, 0 for client 2", [Ok(0); 2]),
            ("ECONNRESET for client 1, ECONNRESET for client 2", [Err(Errno::ECONNRESET); 2]),
            ("0 for client 1, ECONNRESET for client 2", [Ok(0), Err(Errno::ECONNRESET)]),
        ],
        Predicts { source: Some([Err(Errno::ECONNRESET); 2]), kit: [Ok(0), Err(Errno::ECONNRESET)] },
    )?;
    for role in [&mut reader, &mut sleeper] {
        kill(role.pid(), Signal::SIGKILL).at("kill", "")?;
        role.wait_for_end()?;
        stage.say("kill -9", format_args!("process {} is gone", role.pid()));
    }
    let first_end = receive(&first_sock, &mut [0; 8], MsgFlags::empty());
    stage.say("client 1", format_args!("recv({first_fd}, 8) = {}", returned(&first_end)));
    let second_end = receive(&second_sock, &mut [0; 8], MsgFlags::empty());
    stage.say("client 2", format_args!("recv({second_fd}, 8) = {}", returned(&second_end)));
    stage.kernel([("client 1", first), ("client 2", second)])?;

    // Who writes without reading: the first send succeeds, and draws a reset, for no process has that socket.
    if first_end == Ok(0) {
        wait_until("the FIN acknowledged", LIMIT, || {
            Ok(tcp_socket(first.other_end())?.is_none_or(|row| row.state != State::FinWait1).then_some(()))
        })?;
        let sent = send(first_fd, b"first", MsgFlags::empty());
        stage.say("client 1", format_args!("send({first_fd}, \"first\", 5) = {}", returned(&sent)));
        wait_for_state(first, None, LIMIT)?; // the reset is here
        let refused = send(first_fd, b"again", MsgFlags::empty());
        stage.say("client 1", format_args!("send({first_fd}, \"again\", 5) = {}", returned(&refused)));
        ensure!((sent, refused) == (Ok(5), Err(Errno::EPIPE)), "the sends returned {sent:?} and {refused:?}");
    }
    stage.verdict(
        question,
        [first_end, second_end],
        "the kernel closes a dead program's sockets: FIN, or a reset if bytes are unread",
    )
}

/// A server of its own, and a client's socket connected to it. A recv that hears nothing for LIMIT fails.
fn served(stage: &mut Stage, label: &str) -> Result<(Role, Socket)> {
    let mut role = Role::start(&["server", "127.0.0.1:0"])?;
    let line = role.line_with(" is in listening state")?;
    let server_addr: SocketAddr = line.split_whitespace().nth(1).context("no address")?.parse()?;
    let client_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
    let connected = client_sock.connect(&server_addr.into());
    stage.say(label, format_args!("connect({}, {server_addr}) = {}", client_sock.as_raw_fd(), returned(&connected)));
    connected.at("connect", server_addr)?;
    client_sock.set_read_timeout(Some(LIMIT)).at("setsockopt", server_addr)?;
    role.wait_for("New client connected from")?;
    Ok((role, client_sock))
}
