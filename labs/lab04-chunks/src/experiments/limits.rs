//! Two limits: a receive buffer that is full, and a call that hands over more than a datagram holds.

use std::{io::IoSliceMut, os::fd::AsRawFd};

use anyhow::{Result, ensure};
use kernel::Counters;
use nix::{
    cmsg_space,
    errno::Errno,
    sys::socket::{
        ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendto, setsockopt,
        sockopt::{RxqOvfl, UdpGsoSegment},
    },
};
use shared::{At, Predicts, Stage, Verdict, returned};

use super::{LIMIT, receiver, recv_block, say_calls, send_blocks, sender, sockaddr};
use crate::{
    message::{BLOCK_LEN, lecture_message},
    udp::drops,
};

/// In bytes. The kernel grants twice as much, and charges its own overhead to it.
const SMALL: usize = 40_000;
/// The longest payload of a datagram over IPv4: 65535 less 20 for IP and 8 for UDP.
const DATAGRAM_LIMIT: usize = 65_507;

pub fn small_buffer(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Excess {
        SenderWaits,
        SenderFails,
        AllKept,
        DroppedAndCounted,
        DroppedUncounted,
    }
    let (recv_sock, recv_addr) = receiver()?;
    let recv_fd = recv_sock.as_raw_fd();
    recv_sock.set_recv_buffer_size(SMALL).at("setsockopt", recv_addr)?;
    stage.say("receiver", format_args!("setsockopt({recv_fd}, SOL_SOCKET, SO_RCVBUF) = 0  asked for {SMALL} bytes"));
    let room = recv_sock.recv_buffer_size().at("getsockopt", recv_addr)?;
    stage.say("receiver", format_args!("getsockopt({recv_fd}, SOL_SOCKET, SO_RCVBUF) = 0  got {room}"));
    let send_sock = sender()?;
    send_sock.set_write_timeout(Some(LIMIT)).at("setsockopt", "")?;
    let message = lecture_message();
    let blocks: Vec<&[u8]> = message.chunks(BLOCK_LEN).collect();

    stage.look(format_args!("ss -uamn 'sport = :{}'", recv_addr.port()));
    let question = stage.ask(
        "The receiver is slow and reads nothing yet. The sender sends 83 blocks, more than the receive buffer holds. \
         What happens to the rest?",
        [
            ("sendto waits until the receiver reads", Excess::SenderWaits),
            ("sendto succeeds; the rest is dropped and counted", Excess::DroppedAndCounted),
            ("sendto fails with ENOBUFS for the rest", Excess::SenderFails),
            ("sendto succeeds; the rest waits at the sender", Excess::AllKept),
            ("sendto succeeds; the rest is dropped, no trace stays", Excess::DroppedUncounted),
        ],
        Predicts { source: None, kit: Excess::DroppedAndCounted },
    )?;
    let before = Counters::read()?;
    match send_blocks(stage, "sender", &send_sock, recv_addr, &blocks) {
        Ok(()) => {}
        Err(error) => {
            let excess = match error.downcast_ref::<shared::CallError>().and_then(|error| error.errno) {
                Some(Errno::EAGAIN) => Excess::SenderWaits,
                Some(Errno::ENOBUFS) => Excess::SenderFails,
                _ => return Err(error),
            };
            return stage.verdict(question, excess, "");
        }
    }
    let dropped = drops(&recv_sock)?;
    stage.say("kernel", format_args!("this socket's row in /proc/net/udp, last column: {dropped} drops"));
    stage.counted(&before, ["UdpRcvbufErrors"])?;

    // The receiver wakes up and reads all that waits.
    recv_sock.set_nonblocking(true).at("fcntl", recv_addr)?;
    let mut buffer = [0; BLOCK_LEN];
    let mut lengths = Vec::new();
    let end = loop {
        match recv_block(&recv_sock, &mut buffer) {
            Ok((bytes_read, _)) => lengths.push(bytes_read),
            Err(errno) => break errno,
        }
    };
    ensure!(end == Errno::EAGAIN && !lengths.is_empty(), "{} calls, then {end:?}", lengths.len());
    let call = format!("recvfrom({recv_fd}, {BLOCK_LEN})");
    say_calls(stage, "receiver", &call, &lengths);
    stage.say("receiver", format_args!("{call} = {}", returned(&Err::<usize, _>(end))));
    // A short last block may find room where a full one found none; then the newline has come.
    let (calls, bytes) = (lengths.len(), lengths.iter().sum::<usize>());
    let says = if lengths.last() == Some(&BLOCK_LEN) { "waits for ever" } else { "says complete" };
    stage.say("", format_args!("with {bytes} of {} bytes the lecture's receiver {says}", message.len()));

    // SO_RXQ_OVFL: the next datagram that the buffer takes carries the number of drops.
    setsockopt(&recv_sock, RxqOvfl, &1).at("setsockopt", recv_addr)?;
    stage.say("receiver", format_args!("setsockopt({recv_fd}, SOL_SOCKET, SO_RXQ_OVFL) = 0"));
    recv_sock.set_nonblocking(false).at("fcntl", recv_addr)?;
    send_blocks(stage, "sender", &send_sock, recv_addr, &[b"one more"])?;
    let mut iov = [IoSliceMut::new(&mut buffer)];
    let mut space = cmsg_space!(u32);
    recv_sock.set_read_timeout(None).at("setsockopt", recv_addr)?; // the datagram has come; without a timeout recvmsg has no EINTR: signal(7)
    let received = recvmsg::<SockaddrIn>(recv_fd, &mut iov, Some(&mut space), MsgFlags::empty());
    let received = received.at("recvmsg", recv_addr)?;
    let told = received.cmsgs().at("recvmsg", recv_addr)?.find_map(|cmsg| match cmsg {
        ControlMessageOwned::RxqOvfl(dropped) => Some(u64::from(dropped)),
        _ => None,
    });
    let told_text = told.map_or("nothing".into(), |told| told.to_string());
    stage.say("receiver", format_args!("recvmsg({recv_fd}) = {}  SO_RXQ_OVFL says {told_text}", received.bytes));

    let lost = blocks.len() - calls;
    stage.say(
        "count",
        format_args!("of the {} blocks {calls} were read and {lost} lost; drops {dropped}", blocks.len()),
    );
    let observed = match lost {
        0 => Excess::AllKept,
        _ if dropped == lost as u64 && told == Some(dropped) => Excess::DroppedAndCounted,
        _ => Excess::DroppedUncounted,
    };
    stage.verdict(question, observed, "the sender saw success; the receiving kernel dropped and counted the rest")
}

pub fn kernel_splits(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Sent {
        Refused,
        Datagrams { full: usize, calls: usize },
    }
    let (recv_sock, recv_addr) = receiver()?;
    let send_sock = sender()?;
    let send_fd = send_sock.as_raw_fd();
    let to = sockaddr(recv_addr)?;
    let message = lecture_message();

    let result = sendto(send_fd, &message, &to, MsgFlags::empty());
    stage.say("sender", format_args!("sendto({send_fd}, {}, {recv_addr}) = {}", message.len(), returned(&result)));

    let question = stage.ask(
        "The sender sets UDP_SEGMENT to 1024 and hands 65507 bytes to one sendto, the most a datagram may hold. What \
         does the receiver get?",
        [
            ("nothing: sendto fails with EMSGSIZE", Sent::Refused),
            ("one datagram of 65507 bytes", Sent::Datagrams { full: 0, calls: 1 }),
            ("one datagram of 1024 bytes: the rest is cut off", Sent::Datagrams { full: 1, calls: 1 }),
            ("64 datagrams: 63 of 1024 bytes and one shorter", Sent::Datagrams { full: 63, calls: 64 }),
        ],
        Predicts { source: Some(Sent::Refused), kit: Sent::Datagrams { full: 63, calls: 64 } },
    )?;
    setsockopt(&send_sock, UdpGsoSegment, &(BLOCK_LEN as i32)).at("setsockopt", recv_addr)?;
    stage.say("sender", format_args!("setsockopt({send_fd}, SOL_UDP, UDP_SEGMENT) = 0  {BLOCK_LEN}"));

    let part = &message[..DATAGRAM_LIMIT];
    let result = sendto(send_fd, part, &to, MsgFlags::empty());
    stage.say("sender", format_args!("sendto({send_fd}, {DATAGRAM_LIMIT}, {recv_addr}) = {}", returned(&result)));
    if result == Err(Errno::EMSGSIZE) {
        return stage.verdict(question, Sent::Refused, "");
    }
    result.at("sendto", recv_addr)?;
    let mut buffer = vec![0; DATAGRAM_LIMIT];
    let mut received = Vec::<u8>::new();
    let mut lengths = Vec::new();
    while received.len() < DATAGRAM_LIMIT {
        let bytes_read = match recv_block(&recv_sock, &mut buffer) {
            Err(Errno::EAGAIN) => break, // nothing more within LIMIT
            result => result.at("recvfrom", recv_addr)?.0,
        };
        received.extend(&buffer[..bytes_read]);
        lengths.push(bytes_read);
    }
    let call = format!("recvfrom({}, {DATAGRAM_LIMIT})", recv_sock.as_raw_fd());
    say_calls(stage, "receiver", &call, &lengths);
    ensure!(received == part[..received.len()], "other bytes than were sent");
    let full = lengths.iter().filter(|length| **length == BLOCK_LEN).count();

    let result = sendto(send_fd, &message, &to, MsgFlags::empty());
    stage.say("sender", format_args!("sendto({send_fd}, {}, {recv_addr}) = {}", message.len(), returned(&result)));
    ensure!(result == Err(Errno::EMSGSIZE), "84001 bytes in one call: {result:?}");
    let observed = Sent::Datagrams { full, calls: lengths.len() };
    stage.verdict(
        question,
        observed,
        "with UDP_SEGMENT the kernel splits up to 65507 bytes a call; beyond that the program must",
    )
}
