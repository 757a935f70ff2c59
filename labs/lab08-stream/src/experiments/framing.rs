//! Three ways to find the end of a message in a stream, and the lecture's loop beside them.

use std::os::fd::AsRawFd;

use anyhow::Result;
use kernel::{Pair, State, wait_for_state};
use nix::sys::socket::{MsgFlags, recv, send};
use shared::{At, Predicts, Stage, Verdict};
use socket2::Socket;

use super::LIMIT;
use crate::connection::connected;

/// The lecture's receive buffer.
const BUFFER: usize = 1024;

/// What a receiver took for messages, and whether it noticed that the last one is not complete.
#[derive(Debug, Default, PartialEq)]
struct Heard {
    messages: Vec<Vec<u8>>,
    cut: bool,
    /// The receiver would go on calling recv at the end of the stream.
    spins: bool,
}

/// How the messages are put into the stream, and how they are taken out.
struct Framing {
    name: &'static str,
    frame: fn(&[u8]) -> Vec<u8>,
    receive: fn(&Socket) -> Result<Heard>,
}

const FRAMINGS: [Framing; 4] = [
    Framing { name: "loop", frame: with_terminator, receive: lectures_loop },
    Framing { name: "split", frame: with_terminator, receive: split_at_terminator },
    Framing { name: "length", frame: with_length, receive: by_length },
    Framing { name: "end", frame: <[u8]>::to_vec, receive: until_end },
];

pub fn framing(stage: &mut Stage) -> Result<Verdict> {
    let mut text = "x".repeat(2 * BUFFER).into_bytes();
    text[BUFFER - 1] = b'\n'; // the last byte of the first block
    let half = "x".repeat(2 * BUFFER).into_bytes();
    stage.say("receivers", "four, and how each finds the end of a message:");
    stage.say("loop", "the lecture's: it takes whole blocks until one ends with \\n");
    stage.say("split", "it cuts what has come at each \\n, also within a block");
    stage.say("length", "4 bytes first say how many bytes the message has");
    stage.say("end", "all bytes until the end of the stream are one message");
    let question = stage.ask(
        "Three trials. In the first, byte 1024 of a message of 2048 bytes is a newline. In the second, one send has two messages, \"first\" and \"second\". In the third, the sender dies halfway. Which receivers get the first two right and notice the third?",
        [
            ("loop, split and length", [true, true, true, false]),
            ("split and length", [false, true, true, false]),
            ("length and end", [false, false, true, true]),
            ("only length", [false, false, true, false]),
        ],
        Predicts { source: Some([true, true, true, false]), kit: [false, false, true, false] },
    )?;
    stage.say(
        "table",
        "each sender writes as its receiver reads; what the server took, in bytes without \\n and length:",
    );
    stage.say("server", format_args!("{:10}{:15}{:14}{}", "took", "newline in it", "two at once", "dies halfway"));
    let mut right = [true; 4];
    for (right, framing) in right.iter_mut().zip(FRAMINGS) {
        let two = [(framing.frame)(b"first"), (framing.frame)(b"second")].concat();
        let cut = (framing.frame)(&half);
        let trials = [
            ((framing.frame)(&text), Heard { messages: vec![text.clone()], ..Heard::default() }),
            (two, Heard { messages: vec![b"first".to_vec(), b"second".to_vec()], ..Heard::default() }),
            (cut[..cut.len() / 2].to_vec(), Heard { cut: true, ..Heard::default() }),
        ];
        let mut cells = Vec::new();
        for (bytes, wanted) in trials {
            let heard = sent_and_received(&bytes, framing.receive)?;
            *right &= heard == wanted;
            cells.push(told(&heard));
        }
        stage.say("", format_args!("{:10}{:15}{:14}{}", framing.name, cells[0], cells[1], cells[2]));
    }
    stage.verdict(question, right, "a length says where the end is, whatever the bytes are")
}

/// One connection: the bytes in one send, then close, as the kernel does it for a program that dies.
fn sent_and_received(bytes: &[u8], receive: fn(&Socket) -> Result<Heard>) -> Result<Heard> {
    let (client_sock, conn_sock) = connected()?;
    let server_end = Pair::of(&conn_sock)?;
    let sent = send(client_sock.as_raw_fd(), bytes, MsgFlags::empty()).at("send", server_end.local)?;
    anyhow::ensure!(sent == bytes.len(), "send took {sent} of {} bytes", bytes.len());
    drop(client_sock); // close(2)
    wait_for_state(server_end, Some(State::CloseWait), LIMIT)?; // all of it is there, and its end
    receive(&conn_sock)
}

/// The lengths of the messages, or what else the receiver made of it.
fn told(heard: &Heard) -> String {
    let lengths: Vec<_> = heard.messages.iter().map(|message| message.len().to_string()).collect();
    match (heard.spins, heard.cut) {
        (true, _) => "spins".into(),
        (false, true) if lengths.is_empty() => "notices".into(),
        _ => lengths.join(" + "),
    }
}

fn with_terminator(message: &[u8]) -> Vec<u8> {
    [message, b"\n"].concat()
}

/// Four bytes, highest first, then the message.
fn with_length(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u32).to_be_bytes(), message].concat()
}

/// `while not message.endswith('\n'): message += recv(1024)`
fn lectures_loop(conn_sock: &Socket) -> Result<Heard> {
    let (mut message, mut buffer) = (Vec::new(), [0; BUFFER]);
    while !message.ends_with(b"\n") {
        let bytes_read = recv(conn_sock.as_raw_fd(), &mut buffer, MsgFlags::empty()).at("recv", "")?;
        if bytes_read == 0 {
            return Ok(Heard { spins: true, ..Heard::default() }); // see the experiment no-terminator
        }
        message.extend(&buffer[..bytes_read]);
    }
    message.pop();
    Ok(Heard { messages: vec![message], ..Heard::default() })
}

fn split_at_terminator(conn_sock: &Socket) -> Result<Heard> {
    let (mut heard, mut rest, mut buffer) = (Heard::default(), Vec::new(), [0; BUFFER]);
    loop {
        let bytes_read = recv(conn_sock.as_raw_fd(), &mut buffer, MsgFlags::empty()).at("recv", "")?;
        if bytes_read == 0 {
            heard.cut = !rest.is_empty();
            return Ok(heard);
        }
        rest.extend(&buffer[..bytes_read]);
        while let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
            heard.messages.push(rest[..at].to_vec());
            rest.drain(..=at);
        }
    }
}

fn by_length(conn_sock: &Socket) -> Result<Heard> {
    let (mut heard, mut rest, mut buffer) = (Heard::default(), Vec::new(), [0; BUFFER]);
    loop {
        let bytes_read = recv(conn_sock.as_raw_fd(), &mut buffer, MsgFlags::empty()).at("recv", "")?;
        if bytes_read == 0 {
            heard.cut = !rest.is_empty();
            return Ok(heard);
        }
        rest.extend(&buffer[..bytes_read]);
        while let Some(message) = first_by_length(&rest) {
            rest.drain(..4 + message.len());
            heard.messages.push(message);
        }
    }
}

/// The first message, once its length and all its bytes are there.
fn first_by_length(bytes: &[u8]) -> Option<Vec<u8>> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    Some(rest.get(..u32::from_be_bytes(*length) as usize)?.to_vec())
}

fn until_end(conn_sock: &Socket) -> Result<Heard> {
    let (mut message, mut buffer) = (Vec::new(), [0; BUFFER]);
    loop {
        let bytes_read = recv(conn_sock.as_raw_fd(), &mut buffer, MsgFlags::empty()).at("recv", "")?;
        if bytes_read == 0 {
            return Ok(Heard { messages: vec![message], ..Heard::default() });
        }
        message.extend(&buffer[..bytes_read]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_behind_its_length_comes_out_when_it_is_whole() {
        let two = [with_length(b"one"), with_length(b"")].concat();
        assert_eq!(first_by_length(&two[..3]), None);
        assert_eq!(first_by_length(&two[..6]), None);
        assert_eq!(first_by_length(&two), Some(b"one".to_vec()));
        assert_eq!(first_by_length(&two[7..]), Some(Vec::new()));
    }
}
