//! What recv hands over: bytes, and nothing of where a send ended.

use std::{os::fd::AsRawFd, time::Instant};

use anyhow::Result;
use kernel::{Pair, State, wait_for_state};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv, send},
};
use shared::{At, Predicts, Stage, Verdict, returned};
use socket2::Socket;

use super::{LIMIT, row, wait_for_bytes};
use crate::connection::connected;

/// The lecture's receive buffer.
const BUFFER: usize = 1024;
/// What a loop without an end is stopped after.
const ROUNDS: usize = 10_000;

pub fn messages(stage: &mut Stage) -> Result<Verdict> {
    let (client_sock, conn_sock) = connected()?;
    let server_end = Pair::of(&conn_sock)?;
    let client_fd = client_sock.as_raw_fd();
    for word in ["one", "two", "three"] {
        let sent = send(client_fd, word.as_bytes(), MsgFlags::empty());
        stage.client(format_args!("send({client_fd}, \"{word}\", {}) = {}", word.len(), returned(&sent)));
    }
    wait_for_bytes(server_end, "onetwothree".len())?;

    stage.look(format_args!("ss -tn 'sport = :{}'", server_end.local.port()));
    let question = stage.ask(
        "All three have arrived before the first recv. The server calls recv(1024) as long as there is something. What do the calls return?",
        [
            ("3, then 3, then 5: one send each", vec![3, 3, 5]),
            ("11: whatever has arrived", vec![11]),
            ("5: only the newest send", vec![5]),
            ("1024: the whole buffer", vec![1024]),
        ],
        Predicts { source: Some(vec![3, 3, 5]), kit: vec![11] },
    )?;
    stage.say("kernel", format_args!("server's Recv-Q {}", row(server_end)?.recv_queue));
    let blocks = drain(stage, &conn_sock);
    stage.verdict(question, blocks, "a stream of bytes; where a send ended is not kept")
}

/// Receives and shows block after block until nothing is left: their lengths.
fn drain(stage: &mut Stage, sock: &Socket) -> Vec<usize> {
    let fd = sock.as_raw_fd();
    let mut buffer = [0; BUFFER];
    let mut blocks = Vec::new();
    loop {
        let received = recv(fd, &mut buffer, MsgFlags::MSG_DONTWAIT);
        let text = match &received {
            Ok(bytes_read) => format!("  {:?}", String::from_utf8_lossy(&buffer[..*bytes_read])),
            Err(_) => String::new(),
        };
        stage.server(format_args!("recv({fd}, {BUFFER}, MSG_DONTWAIT) = {}{text}", returned(&received)));
        match received {
            Ok(bytes_read) if bytes_read > 0 => blocks.push(bytes_read),
            _ => return blocks,
        }
    }
}

pub fn no_terminator(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Loop {
        Ends,
        Waits,
        Fails(Errno),
        Spins,
    }
    let (client_sock, conn_sock) = connected()?;
    let pair = Pair::of(&client_sock)?;
    let (client_fd, conn_fd) = (client_sock.as_raw_fd(), conn_sock.as_raw_fd());
    conn_sock.set_read_timeout(Some(LIMIT)).at("setsockopt", pair.peer)?; // a recv that waits so long waits for ever
    let text = "Hello world!";
    let sent = send(client_fd, text.as_bytes(), MsgFlags::empty());
    stage.client(format_args!("send({client_fd}, {text:?}, {}) = {}", text.len(), returned(&sent)));
    drop(client_sock); // close(2)
    stage.client(format_args!("close({client_fd}) = 0"));
    wait_for_state(pair.other_end(), Some(State::CloseWait), LIMIT)?;

    stage.look(format_args!("ss -tan 'sport = :{}'", pair.peer.port()));
    let question = stage.ask(
        "The newline was never sent, and the client has gone. What does the lecture's loop do: while not message.endswith('\\n'): message += recv(1024)?",
        [
            ("it ends, with what has arrived", Loop::Ends),
            ("it never ends: recv returns 0 again and again", Loop::Spins),
            ("it waits in recv for ever", Loop::Waits),
            ("it fails: recv returns -1 ECONNRESET", Loop::Fails(Errno::ECONNRESET)),
        ],
        Predicts { source: None, kit: Loop::Spins },
    )?;
    let (mut message, mut buffer) = (Vec::new(), [0; BUFFER]);
    let mut results = Vec::new();
    let started = Instant::now();
    while !message.ends_with(b"\n") && results.len() < ROUNDS {
        let received = recv(conn_fd, &mut buffer, MsgFlags::empty());
        if received == Err(Errno::EINTR) {
            continue; // Ctrl-Z, then fg: with SO_RCVTIMEO recv is not restarted, signal(7)
        }
        results.push(received);
        match received {
            Ok(bytes_read) => message.extend(&buffer[..bytes_read]),
            Err(_) => break,
        }
    }
    let time_ms = started.elapsed().as_millis();
    let empty = results.iter().filter(|received| **received == Ok(0)).count();
    for received in results.iter().filter(|received| **received != Ok(0)) {
        stage.server(format_args!("recv({conn_fd}, 1024) = {}", returned(received)));
    }
    if empty > 1 {
        stage.server(format_args!("recv({conn_fd}, 1024) x{empty} = 0 bytes"));
    }
    stage.say(
        "here",
        format_args!("stopped after {} recvs, {time_ms} ms; message: {} bytes", results.len(), message.len()),
    );
    let observed = match results.last() {
        Some(Err(Errno::EAGAIN)) => Loop::Waits,
        Some(Err(errno)) => Loop::Fails(*errno),
        _ if empty > 1 => Loop::Spins,
        _ => Loop::Ends,
    };
    stage.verdict(question, observed, "0 is the end of the stream, and the loop does not look for it")
}
