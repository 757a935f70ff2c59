//! What recv hands over: bytes in order, cut by nothing that send did.

use std::{os::fd::AsRawFd, time::Instant};

use anyhow::{Result, ensure};
use kernel::{Pair, State, wait_for_state};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv, send},
};
use shared::{At, Predicts, Stage, Verdict, returned};
use socket2::Socket;

use super::{BIG, LIMIT, big_message, connected, recv_all, wait_for_bytes};

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
        "The server calls recv(1024) as long as there is something. Then the client sends \"Hello World!\" with one send, and the server calls recv(5) as long as there is something. How many blocks does it get?",
        [
            ("3 and 1: one for each send", (3, 1)),
            ("3 and 3: never two sends in one block", (3, 3)),
            ("1 and 1: the last one is cut, its rest is lost", (1, 1)),
            ("1 and 3: what is there, as far as it fits", (1, 3)),
        ],
        Predicts { source: Some((3, 1)), kit: (1, 3) },
    )?;
    let first = drain(stage, &conn_sock, BUFFER);
    let sent = send(client_fd, b"Hello World!", MsgFlags::empty());
    stage.client(format_args!("send({client_fd}, \"Hello World!\", 12) = {}", returned(&sent)));
    wait_for_bytes(server_end, "Hello World!".len())?;
    let second = drain(stage, &conn_sock, 5);
    stage.verdict(question, (first, second), "a stream of bytes; where a send ended is not kept")
}

/// Receives and shows block after block until nothing is left; how many they were.
fn drain(stage: &mut Stage, sock: &Socket, length: usize) -> usize {
    let fd = sock.as_raw_fd();
    let mut buffer = vec![0; length];
    let mut blocks = 0;
    loop {
        let received = recv(fd, &mut buffer, MsgFlags::MSG_DONTWAIT);
        let text = match &received {
            Ok(bytes_read) => format!("  {:?}", String::from_utf8_lossy(&buffer[..*bytes_read])),
            Err(_) => String::new(),
        };
        stage.server(format_args!("recv({fd}, {length}, MSG_DONTWAIT) = {}{text}", returned(&received)));
        if !received.is_ok_and(|bytes_read| bytes_read > 0) {
            return blocks;
        }
        blocks += 1;
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
    let sent = send(client_fd, b"Hello world!", MsgFlags::empty());
    stage.client(format_args!("send({client_fd}, \"Hello world!\", 12) = {}", returned(&sent)));
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

pub fn in_order(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Arrives {
        InOrder { blocks: [usize; 2] },
        Otherwise,
    }
    let message = big_message();
    ensure!(message.len() == BIG, "the message has {} bytes", message.len());
    let question = stage.ask(
        "84001 numbered bytes in sends of 10240, then the same in sends of 1000. After each send the server calls recv(1024) as long as there is something. What does it get?",
        [
            ("all in order, in 83 blocks both times", Arrives::InOrder { blocks: [83, 83] }),
            ("all in order, in 9 blocks, then in 85", Arrives::InOrder { blocks: [9, 85] }),
            ("all in order, in 83 blocks, then in 85", Arrives::InOrder { blocks: [83, 85] }),
            ("some blocks overtake others or are missing", Arrives::Otherwise),
        ],
        Predicts {
            source: None,
            kit: Arrives::InOrder { blocks: [83, 85] },
        },
    )?;
    let mut counts = [0; 2];
    let mut in_order = true;
    for (count, length) in counts.iter_mut().zip([10 * BUFFER, 1000]) {
        let (client_sock, conn_sock) = connected()?;
        let server_end = Pair::of(&conn_sock)?;
        let mut blocks = Vec::new();
        for part in message.chunks(length) {
            let sent = send(client_sock.as_raw_fd(), part, MsgFlags::empty()).at("send", server_end.local)?;
            ensure!(sent == part.len(), "send took {sent} of {} bytes", part.len());
            wait_for_bytes(server_end, sent)?;
            blocks.extend(recv_all(&conn_sock, BUFFER)?);
        }
        *count = blocks.len();
        stage.client(format_args!("{} sends of at most {length} bytes", message.len().div_ceil(length)));
        let bytes = blocks.concat();
        let call = format!("recv({}, 1024, MSG_DONTWAIT)", conn_sock.as_raw_fd());
        stage.server(format_args!("{call} x{count} = {} bytes", bytes.len()));
        in_order &= bytes == message;
    }
    let observed = if in_order { Arrives::InOrder { blocks: counts } } else { Arrives::Otherwise };
    stage.verdict(question, observed, "TCP keeps the order of the bytes, not the cuts between them")
}
