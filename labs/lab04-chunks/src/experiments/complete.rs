//! A receiver that waits for a newline: when does it say "complete", and what has it then?

use std::{collections::HashSet, fs, os::fd::AsRawFd, time::Duration};

use anyhow::Result;
use kernel::{NotSeen, udp_sockets, wait_until};
use nix::{errno::Errno, unistd::Pid};
use shared::{At, Predicts, Stage, Verdict};
use socket2::Socket;

use super::{LIMIT, receive_role, receiver, recv_block, relay_role, say_calls, send_blocks, sender};
use crate::message::{BLOCK_LEN, TERMINATOR, lecture_message};

/// How long the receiver may still say something after the last block.
const SILENCE: Duration = Duration::from_millis(500);

/// The lecture's receiver: appends blocks until the message ends with a newline. Prints the calls, and returns the
/// message and how many addresses it came from.
fn until_newline(stage: &mut Stage, sock: &Socket) -> Result<(Vec<u8>, usize)> {
    let mut message = Vec::new();
    let mut buffer = [0; BLOCK_LEN];
    let mut lengths = Vec::new();
    let mut sources = HashSet::new();
    while !message.ends_with(&[TERMINATOR]) {
        let (bytes_read, source) = recv_block(sock, &mut buffer).at("recvfrom", "")?;
        message.extend(&buffer[..bytes_read]);
        lengths.push(bytes_read);
        sources.insert(source);
    }
    say_calls(stage, "receiver", &format!("recvfrom({}, {BLOCK_LEN})", sock.as_raw_fd()), &lengths);
    Ok((message, sources.len()))
}

pub fn two_senders(stage: &mut Stage) -> Result<Verdict> {
    let (recv_sock, recv_addr) = receiver()?;
    let (a_sock, b_sock) = (sender()?, sender()?);
    let a_message = [&[b'A'; 3000][..], b"\n"].concat();
    let b_message = [&[b'B'; 5000][..], b"\n"].concat();
    stage.say("A", "has 3001 bytes: 3000 times A, and a newline");
    stage.say("B", "has 5001 bytes: 5000 times B, and a newline");

    let question = stage.ask(
        "A and B send their blocks in turns: A, B, A, B, A, then B alone. The receiver appends blocks until a newline \
         ends the message. What is its first message?",
        [
            ("3000 A: recvfrom stays with the first sender", Some((3000, 0))),
            ("1024 A: a block of another sender ends it", Some((1024, 0))),
            ("3000 A and 5000 B: it waits for each sender", Some((3000, 5000))),
            ("3000 A and 2048 B, in turns", Some((3000, 2048))),
        ],
        Predicts { source: None, kit: Some((3000, 2048)) },
    )?;
    let mut a_blocks = a_message.chunks(BLOCK_LEN);
    let mut b_blocks = b_message.chunks(BLOCK_LEN);
    loop {
        let (a_block, b_block) = (a_blocks.next(), b_blocks.next());
        if let Some(block) = a_block {
            send_blocks(stage, "A", &a_sock, recv_addr, &[block])?;
        }
        if let Some(block) = b_block {
            send_blocks(stage, "B", &b_sock, recv_addr, &[block])?;
        }
        if a_block.is_none() && b_block.is_none() {
            break;
        }
    }
    let mut first_message = None;
    for turn in ["first", "second"] {
        let (message, sources) = match until_newline(stage, &recv_sock) {
            Ok(received) => received,
            Err(error) => {
                stage.say("receiver", format_args!("{turn} message: none, {error}"));
                break;
            }
        };
        let runs: Vec<String> = message
            .chunk_by(|one, next| one == next)
            .map(|run| if run == b"\n" { "newline".into() } else { format!("{}x{}", run.len(), run[0] as char) })
            .collect();
        stage.say("receiver", format_args!("{turn} message: {} bytes: {}", message.len(), runs.join(" ")));
        stage.say("", format_args!("from {sources} source address{}", if sources == 1 { "" } else { "es" }));
        let count = |letter| message.iter().filter(|byte| **byte == letter).count();
        first_message = first_message.or(Some((count(b'A'), count(b'B'))));
    }
    stage.verdict(question, first_message, "the first newline ends a mix of both messages; recvfrom named each source")
}

/// What the receiver said after one block of 83 was lost.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Said {
    Complete,
    Nothing,
}

pub fn one_lost(stage: &mut Stage) -> Result<Verdict> {
    let message = lecture_message();
    let blocks: Vec<&[u8]> = message.chunks(BLOCK_LEN).collect();
    stage.say("lecture", format_args!("{} bytes in {} blocks, the last byte a newline", message.len(), blocks.len()));

    let question = stage.ask(
        "A relay in the middle loses one block: in one run the 41st, in another run the last. What does the receiver \
         say in each?",
        [
            ("41st lost: it waits.   Last lost: it waits.", [Said::Nothing, Said::Nothing]),
            ("41st lost: it waits.   Last lost: complete.", [Said::Nothing, Said::Complete]),
            ("41st lost: complete.   Last lost: it waits.", [Said::Complete, Said::Nothing]),
            ("41st lost: complete.   Last lost: complete.", [Said::Complete, Said::Complete]),
        ],
        Predicts { source: Some([Said::Nothing, Said::Nothing]), kit: [Said::Complete, Said::Nothing] },
    )?;
    let mut observed = [Said::Nothing; 2];
    for (said, lost) in observed.iter_mut().zip(["41", "83"]) {
        let (mut receiver, recv_addr) = receive_role()?;
        let (mut relay, relay_addr) = relay_role(recv_addr, &["--lose", lost])?;
        let send_sock = sender()?;

        send_blocks(stage, "sender", &send_sock, relay_addr, &blocks)?;
        stage.say("relay", relay.line_with("Datagram ")?);
        relay.wait_for("So far 83 datagrams came and 82 were sent on\n")?;
        let complete = wait_until("the receiver to end, or to wait", LIMIT, || {
            let (printed, asleep) = (receiver.printed(), is_asleep(receiver.pid())?);
            let complete = printed.contains("Total length ");
            Ok((complete || blocks_in(&printed) == 82 && asleep).then_some(complete))
        })?;
        if !complete {
            stage.say("receiver", format_args!("has read 82 blocks and sleeps; it gets {SILENCE:?} more to speak"));
        }
        match receiver.wait_for_within("Total length ", if complete { LIMIT } else { SILENCE }) {
            Ok(_) => {
                let length = receiver.wait_for(" bytes")?;
                stage.say("receiver", format_args!("Total length {length} bytes"));
                *said = Said::Complete;
            }
            Err(error) if error.is::<NotSeen>() => {
                stage.say("receiver", "nothing");
                // The receiver still runs: a newline from anybody ends its message.
                send_blocks(stage, "stranger", &sender()?, recv_addr, &[b"\n"])?;
                match receiver.wait_for_within("Total length ", LIMIT) {
                    Ok(_) => {
                        let length = receiver.wait_for(" bytes")?;
                        stage.say("receiver", format_args!("that newline ends its wait: Total length {length} bytes"));
                    }
                    Err(error) if error.is::<NotSeen>() => stage.say("receiver", "still nothing"),
                    Err(error) => return Err(error),
                }
            }
            Err(error) => return Err(error),
        }
    }
    stage.verdict(question, observed, "the newline shows that the last block came, not the blocks before it")
}

/// How many blocks the receiver's lines tell of: `Received block of 1024 from 127.0.0.1:7777 x82`.
fn blocks_in(printed: &str) -> usize {
    let lines = printed.lines().filter(|line| line.starts_with("Received block of "));
    lines.map(|line| line.rsplit_once(" x").and_then(|(_, times)| times.parse().ok()).unwrap_or(1)).sum()
}

/// Whether a process waits for something: state S in proc_pid_stat(5).
fn is_asleep(pid: Pid) -> Result<bool> {
    let stat = format!("/proc/{pid}/stat");
    Ok(fs::read_to_string(&stat).at("open", &stat)?.contains(") S "))
}

pub fn whole(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Got {
        Nothing,
        Whole { calls: usize },
        Other { bytes: usize },
    }
    let (recv_sock, recv_addr) = receiver()?;
    let send_sock = sender()?;
    let message = lecture_message();
    let blocks: Vec<&[u8]> = message.chunks(BLOCK_LEN).collect();

    let question = stage.ask(
        "All blocks are sent before the receiver makes its first call. What does it get with recvfrom(1024)?",
        [
            ("nothing: UDP keeps no datagram for later", Got::Nothing),
            ("33 bytes: only the last datagram is kept", Got::Other { bytes: 33 }),
            ("84001 bytes in 83 calls", Got::Whole { calls: 83 }),
            ("84001 bytes in 84 calls: the last returns 0", Got::Whole { calls: 84 }),
        ],
        Predicts { source: Some(Got::Whole { calls: 83 }), kit: Got::Whole { calls: 83 } },
    )?;
    send_blocks(stage, "sender", &send_sock, recv_addr, &blocks)?;
    let waiting =
        udp_sockets(recv_addr.port())?.iter().find(|row| row.pair.local == recv_addr).map_or(0, |row| row.recv_queue);
    let room = recv_sock.recv_buffer_size().at("getsockopt", "")?;
    stage.say("kernel", format_args!("the waiting datagrams take {waiting} bytes of the buffer's {room}"));

    let mut received = Vec::new();
    let mut buffer = [0; BLOCK_LEN];
    let mut lengths = Vec::new();
    while !received.ends_with(&[TERMINATOR]) {
        match recv_block(&recv_sock, &mut buffer) {
            Ok((bytes_read, _)) => {
                received.extend(&buffer[..bytes_read]);
                lengths.push(bytes_read);
            }
            Err(Errno::EAGAIN) => break, // nothing more within LIMIT
            Err(errno) => Err(errno).at("recvfrom", recv_addr)?,
        }
    }
    say_calls(stage, "receiver", &format!("recvfrom({}, {BLOCK_LEN})", recv_sock.as_raw_fd()), &lengths);
    let (calls, equal) = (lengths.len(), received == message);
    stage.say("compare", format_args!("{} bytes, as sent: {equal}", received.len()));
    let observed = match received.len() {
        _ if equal => Got::Whole { calls },
        0 => Got::Nothing,
        bytes => Got::Other { bytes },
    };
    stage.verdict(question, observed, "each call returned one datagram; the buffer had room for all of them")
}

pub fn early_newline(stage: &mut Stage) -> Result<Verdict> {
    let (recv_sock, recv_addr) = receiver()?;
    let send_sock = sender()?;
    let two_lines = |first_line: usize| {
        let mut message = vec![b'x'; 1525];
        message[first_line - 1] = TERMINATOR;
        message[1524] = TERMINATOR;
        message
    };
    let question = stage.ask(
        "A message of 1525 bytes is two lines of text. The first line has 1000 bytes with its newline in one run, and \
         1024 bytes in another. After how many bytes does the receiver say complete?",
        [
            ("1525, then 1525: at the end of the message", [1525, 1525]),
            ("1000, then 1024: at the first newline", [1000, 1024]),
            ("1024, then 1024: at a block with a newline in it", [1024, 1024]),
            ("1525, then 1024: at a block with a newline at its end", [1525, 1024]),
        ],
        Predicts { source: Some([1525, 1525]), kit: [1525, 1024] },
    )?;
    let mut observed = [0; 2];
    for (complete, first_line) in observed.iter_mut().zip([1000, 1024]) {
        let message = two_lines(first_line);
        let blocks: Vec<&[u8]> = message.chunks(BLOCK_LEN).collect();
        send_blocks(stage, "sender", &send_sock, recv_addr, &blocks)?;
        *complete = until_newline(stage, &recv_sock)?.0.len();
        stage.say("receiver", format_args!("complete: {complete} bytes; the first line had {first_line}"));
    }
    // The rest of the second run becomes the start of the next message.
    send_blocks(stage, "sender", &send_sock, recv_addr, &[b"next\n"])?;
    let (next, _) = until_newline(stage, &recv_sock)?;
    stage.say(
        "receiver",
        format_args!("next message: {} bytes, though only \"next\" and a newline were sent", next.len()),
    );
    stage.verdict(question, observed, "a newline at the end of any block ends the message, not only the last one")
}
