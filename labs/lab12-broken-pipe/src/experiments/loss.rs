//! One segment of ten is lost.

use std::os::fd::AsRawFd;

use anyhow::{Result, ensure};
use kernel::{Counters, options::MinTtl, wait_until};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, send, setsockopt},
};
use shared::{At, Predicts, Stage, Verdict, returned};
use socket2::Socket;

use super::{LIMIT, connected_pair, receive};
use crate::cable::{CUT, MENDED, Repeats, repeats};

/// One byte a segment.
const SEGMENTS: &[u8; 10] = b"abcdefghij";
/// Its place in [`SEGMENTS`]: c.
const LOST: usize = 2;
/// The kernel's timers start at a few milliseconds; a machine that was busy just then is asked again.
const ATTEMPTS: u32 = 50;

/// What the receiver read, and what both kernels counted.
struct Transfer {
    /// Before the last segment was sent: two calls.
    early: [nix::Result<String>; 2],
    /// After it.
    late: nix::Result<String>,
    receiver: Repeats,
    sender: Repeats,
}

pub fn one_lost(stage: &mut Stage) -> Result<Verdict> {
    let question = stage.ask(
        "Ten segments, a to j. c is lost on the way. The receiver reads before j is sent, and after. What does it get?",
        [
            ("\"ab\", then \"cdefghij\"", ["ab", "cdefghij"].map(String::from)),
            ("\"abdefghi\", then \"j\"", ["abdefghi", "j"].map(String::from)),
            ("\"abdefghi\", then \"cj\"", ["abdefghi", "cj"].map(String::from)),
            ("\"ab\", then an error", ["ab", "an error"].map(String::from)),
        ],
        Predicts { source: Some(["ab", "cdefghij"].map(String::from)), kit: ["ab", "cdefghij"].map(String::from) },
    )?;
    let mut attempt = 1;
    let (sender_sock, receiver_sock, transfer) = loop {
        let (sender_sock, receiver_sock) = connected_pair()?;
        let transfer = ten_segments(&sender_sock, &receiver_sock)?;
        // In time if no timer brought c before the receiver read; and only c was sent again, if the machine is not busy.
        let in_time =
            transfer.early[1] == Err(Errno::EAGAIN) && transfer.early[0].as_ref().is_ok_and(|text| text.len() == LOST);
        let in_time = in_time && (transfer.sender.sent_again == 1 || attempt > ATTEMPTS / 5);
        if in_time || attempt == ATTEMPTS {
            break (sender_sock, receiver_sock, transfer);
        }
        attempt += 1;
    };

    // What was done just now; nothing was printed meanwhile, so that it went faster than the kernel's timers.
    let (send_fd, recv_fd) = (sender_sock.as_raw_fd(), receiver_sock.as_raw_fd());
    let Transfer { early: [first, second], late, receiver, sender } = transfer;
    stage.say("sender", format_args!("send({send_fd}, 1) x{LOST} = {LOST} bytes"));
    stage.say("receiver", format_args!("setsockopt({recv_fd}, SOL_IP, IP_MINTTL, [{CUT}]) = 0"));
    stage.say("sender", format_args!("send({send_fd}, 1) = 1  c is dropped"));
    stage.say("sender", format_args!("setsockopt({send_fd}, SOL_IP, IP_MINTTL, [{CUT}]) = 0  holds ACKs back"));
    stage.say("receiver", format_args!("setsockopt({recv_fd}, SOL_IP, IP_MINTTL, [{MENDED}]) = 0"));
    let more = SEGMENTS.len() - LOST - 2;
    stage.say("sender", format_args!("send({send_fd}, 1) x{more} = {more} bytes"));
    stage.say("receiver", format_args!("setsockopt({recv_fd}, SOL_IP, IP_MINTTL, [{CUT}]) = 0  while we look"));
    let length = |text: &nix::Result<String>| text.as_ref().map(String::len).map_err(|errno| *errno);
    let shown = |text: &nix::Result<String>| text.as_ref().map_or(String::new(), |text| format!("  {text:?}"));
    for read in [&first, &second] {
        let result = returned(&length(read));
        stage.say("receiver", format_args!("recv({recv_fd}, 1024, MSG_DONTWAIT) = {result}{}", shown(read)));
    }
    stage.say("kernel", format_args!("{} segments came before c, and wait in the receiver's kernel", receiver.early));
    stage.say("receiver", format_args!("setsockopt({recv_fd}, SOL_IP, IP_MINTTL, [{MENDED}]) = 0"));
    stage.say("sender", format_args!("setsockopt({send_fd}, SOL_IP, IP_MINTTL, [{MENDED}]) = 0"));
    stage.say("sender", format_args!("send({send_fd}, 1) = 1"));
    let result = returned(&length(&late));
    stage.say("receiver", format_args!("recv({recv_fd}, 1024) = {result}{}", shown(&late)));
    stage.say("kernel", format_args!("segments that the sender's kernel has sent again: {}", sender.sent_again));
    ensure!(sender.sent_again > 0, "c was never lost: nothing was sent again");

    let read = |text: nix::Result<String>| text.unwrap_or_else(|_| "an error".into());
    let observed = [read(first), read(late)];
    stage.verdict(question, observed, "early segments wait in the kernel; c is sent again, and all come in order")
}

/// Sends the segments, loses one of them, reads in between.
fn ten_segments(sender_sock: &Socket, receiver_sock: &Socket) -> Result<Transfer> {
    let send_fd = sender_sock.as_raw_fd();
    sender_sock.set_tcp_nodelay(true).at("setsockopt TCP_NODELAY", "")?; // each send is a segment
    sender_sock.set_write_timeout(Some(LIMIT)).at("setsockopt SO_SNDTIMEO", "")?; // it hears no acknowledgement for a while
    let send_one = |segment: u8| send(send_fd, &[segment], MsgFlags::empty()).at("send", "");

    for segment in &SEGMENTS[..LOST] {
        send_one(*segment)?;
    }
    let before = Counters::read()?;
    setsockopt(receiver_sock, MinTtl, &CUT).at("setsockopt IP_MINTTL", "")?;
    send_one(SEGMENTS[LOST])?;
    wait_until("a dropped segment", LIMIT, || Ok((before.risen("TCPMinTTLDrop")? > 0).then_some(())))?;

    // The sender does not hear yet what the receiver lacks; else it would send c again before anybody could look.
    setsockopt(sender_sock, MinTtl, &CUT).at("setsockopt IP_MINTTL", "")?;
    setsockopt(receiver_sock, MinTtl, &MENDED).at("setsockopt IP_MINTTL", "")?;
    for segment in &SEGMENTS[LOST + 1..SEGMENTS.len() - 1] {
        send_one(*segment)?;
    }
    setsockopt(receiver_sock, MinTtl, &CUT).at("setsockopt IP_MINTTL", "")?; // or a timer may bring c
    let early = [read_text(receiver_sock, MsgFlags::MSG_DONTWAIT), read_text(receiver_sock, MsgFlags::MSG_DONTWAIT)];
    let receiver = repeats(receiver_sock).at("getsockopt TCP_INFO", "")?;
    setsockopt(receiver_sock, MinTtl, &MENDED).at("setsockopt IP_MINTTL", "")?;
    setsockopt(sender_sock, MinTtl, &MENDED).at("setsockopt IP_MINTTL", "")?;
    send_one(SEGMENTS[SEGMENTS.len() - 1])?;
    let late = read_text(receiver_sock, MsgFlags::empty());
    let sender = repeats(sender_sock).at("getsockopt TCP_INFO", "")?;
    Ok(Transfer { early, late, receiver, sender })
}

fn read_text(sock: &Socket, flags: MsgFlags) -> nix::Result<String> {
    let mut buffer = [0; 1024];
    receive(sock, &mut buffer, flags).map(|bytes_read| String::from_utf8_lossy(&buffer[..bytes_read]).into_owned())
}
