//! The lecture's sentences on sending and receiving over TCP, decided by the kernel.

mod delivery;
mod framing;
mod header;
mod messages;
mod wire;

use std::{os::fd::AsRawFd, time::Duration};

use anyhow::{Context, Result};
use kernel::capture::CAPTURE;
use kernel::need::{BUFFERS, LOOPBACK, PORTS};
use kernel::{Pair, Row, tcp_socket, wait_until};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv, send},
};
use shared::{At, Experiment, Lesson, Stage, returned};
use socket2::Socket;

/// How long a call or a state may take; far more than loopback needs.
const LIMIT: Duration = Duration::from_secs(5);
/// The length of the lecture's big message: 7000 times 12 bytes, and the newline.
const BIG: usize = 84_001;

pub const LESSON: Lesson = Lesson {
    lab: crate::LAB,
    setting: "both ends run in this one process",
    needs: &[LOOPBACK, PORTS],
    experiments: &[
        Experiment {
            id: "messages",
            starred: true,
            minutes: 5,
            claim: "Once the client is connected, the server calls recv and has the message that was sent.",
            source: "notes ch.2, Receiving using TCP connection",
            needs: &[],
            play: messages::messages,
        },
        Experiment {
            id: "delivered",
            starred: true,
            minutes: 5,
            claim: "sendall returns None when the data has been delivered successfully.",
            source: "notes ch.2, Sending a message using TCP connection",
            needs: &[BUFFERS],
            play: delivery::delivered,
        },
        Experiment {
            id: "no-terminator",
            starred: true,
            minutes: 5,
            claim: "The receiver appends block by block until the terminator is found.",
            source: "notes ch.2, Receiving big message using TCP; the question is ours",
            needs: &[],
            play: messages::no_terminator,
        },
        Experiment {
            id: "no-reader",
            starred: false,
            minutes: 3,
            claim: "The pipe takes any amount of data; the other end just has to be ready to receive that much.",
            source: "notes ch.2, Sending a message using TCP connection",
            needs: &[],
            play: delivery::no_reader,
        },
        Experiment {
            id: "framing",
            starred: false,
            minutes: 3,
            claim: "The receiver has to know how much will be sent: a terminator marks the end, or the first block tells the length.",
            source: "notes ch.2, Ensuring Packet Arrival Order",
            needs: &[],
            play: framing::framing,
        },
        Experiment {
            id: "in-order",
            starred: false,
            minutes: 4,
            claim: "The data is delivered in the order in which it was sent; no routine of our own is needed for that.",
            source: "notes ch.2, Ensuring Packet Arrival Order",
            needs: &[CAPTURE],
            play: wire::in_order,
        },
        Experiment {
            id: "nagle",
            starred: false,
            minutes: 6,
            claim: "The data is sent in blocks, and for each block the remote end sends an acknowledgement.",
            source: "notes ch.2, Sending a message using TCP connection",
            needs: &[CAPTURE],
            play: wire::nagle,
        },
        Experiment {
            id: "header",
            starred: false,
            minutes: 4,
            claim: "In the TCP header the window size has 4 bytes, and the options have 4 bytes.",
            source: "notes ch.2, TCP packet/header",
            needs: &[CAPTURE],
            play: header::header,
        },
    ],
    next: &[
        ("by hand", "cargo lab08 receive"),
        ("", "cargo lab08 send    (in another terminal)"),
        ("watch", "scripts/states.sh 7777 --watch"),
        ("sheet", "cargo lab08 sheet"),
    ],
};

/// The lecture's big message, each greeting with its number so that one out of order would show.
fn big_message() -> Vec<u8> {
    let greetings: String = (1..=7000).map(|number| format!("hello {number:05}!")).collect();
    format!("{greetings}\n").into_bytes()
}

/// Sends all of it, as sendall does, and shows each call. Returns how much send took, and its error if one came.
fn send_all(stage: &mut Stage, sock: &Socket, message: &[u8]) -> (usize, Option<Errno>) {
    let fd = sock.as_raw_fd();
    let mut sent = 0;
    while sent < message.len() {
        let taken = send(fd, &message[sent..], MsgFlags::empty());
        if taken == Err(Errno::EINTR) {
            continue; // Ctrl-Z, then fg: with SO_SNDTIMEO send is not restarted, signal(7)
        }
        stage.client(format_args!("send({fd}, {}) = {}", message.len() - sent, returned(&taken)));
        match taken {
            Ok(bytes_sent) => sent += bytes_sent,
            Err(errno) => return (sent, Some(errno)),
        }
    }
    (sent, None)
}

/// Receives all that is there, in blocks of at most `length` bytes; stops at the end of the stream too.
fn recv_all(sock: &Socket, length: usize) -> Result<Vec<Vec<u8>>> {
    let mut buffer = vec![0; length];
    let mut blocks = Vec::new();
    loop {
        match recv(sock.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(0) | Err(Errno::EAGAIN) => return Ok(blocks),
            received => blocks.push(buffer[..received.at("recv", "")?].to_vec()),
        }
    }
}

/// What the kernel says of this end of a connection.
fn row(pair: Pair) -> Result<Row> {
    tcp_socket(pair)?.with_context(|| format!("{} > {} is in no table", pair.local, pair.peer))
}

/// Waits until this end has so many bytes that nobody has read.
fn wait_for_bytes(pair: Pair, bytes: usize) -> Result<()> {
    wait_until(&format!("{bytes} bytes in Recv-Q"), LIMIT, || {
        Ok((row(pair)?.recv_queue as usize == bytes).then_some(()))
    })
}
