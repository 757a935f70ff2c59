//! What the capture has and the program has not, and the other way round.

use std::{fs, os::fd::AsRawFd};

use anyhow::{Context, Result, ensure};
use kernel::wait_until;
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, SockProtocol, SockaddrStorage, getsockopt, recv, sendto, setsockopt, sockopt},
};
use shared::{At, Predicts, Stage, Verdict};

use super::{
    LIMIT, bound,
    packets::{Capture, PacketStatistics},
    scene::{Scene, Shown},
};

/// Small ones.
const DATAGRAMS: usize = 100;
/// Of a receive queue: room for a few of them. The kernel doubles it, see socket(7).
const SMALL: usize = 4096;

pub fn not_received(stage: &mut Stage) -> Result<Verdict> {
    let scene = Shown::start(stage, "not-received")?;
    let question = stage.ask(
        "The receiver's queue is full long before the 100 datagrams have come. Then the receiver reads all it can get. \
         How many does the capture have?",
        [
            ("100: all that were sent", "all".to_string()),
            ("as many as recv returned", "as received".into()),
            ("as many as were dropped", "as dropped".into()),
        ],
        Predicts { source: None, kit: "all".into() },
    )?;
    let observed = scene.observed(stage)?;
    stage.verdict(question, observed, "the capture stands before the socket's queue, so it has what is dropped there")
}

pub fn not_received_scene(scene: &mut Scene) -> Result<String> {
    let capture = Capture::start(scene, SockProtocol::EthIp)?;
    let (receive_sock, receive_addr) = bound()?;
    let (send_sock, send_addr) = bound()?;
    let (send_fd, receive_fd) = (send_sock.as_raw_fd(), receive_sock.as_raw_fd());
    setsockopt(&receive_sock, sockopt::RcvBuf, &SMALL).at("setsockopt SO_RCVBUF", SMALL)?;
    scene.say("receiver", format_args!("setsockopt({receive_fd}, SOL_SOCKET, SO_RCVBUF, [{SMALL}]) = 0"));

    scene.ask()?;
    let mut captured = 0;
    for _ in 0..DATAGRAMS {
        sendto(send_fd, b"x", &SockaddrStorage::from(receive_addr), MsgFlags::empty()).at("sendto", receive_addr)?;
        captured += capture.datagrams(send_addr, receive_addr)?.len();
    }
    scene.say("sender", format_args!("sendto({send_fd}, {receive_addr}) x{DATAGRAMS} = {DATAGRAMS} bytes"));
    let mut received = 0;
    // Each datagram is received or dropped; where the machine is busy, the last ones may still be on their way.
    let dropped = wait_until("the last datagram", LIMIT, || {
        while recv(receive_fd, &mut [0; 16], MsgFlags::MSG_DONTWAIT).is_ok() {
            received += 1;
        }
        let dropped = drops(receive_addr.port())?;
        captured += capture.datagrams(send_addr, receive_addr)?.len();
        Ok((received + dropped == DATAGRAMS).then_some(dropped))
    })?;
    scene.say("receiver", format_args!("recv({receive_fd}, 16, MSG_DONTWAIT) x{received} = {received} bytes"));
    scene.say("kernel", format_args!("/proc/net/udp: drops {dropped}"));
    scene.say("captured", format_args!("{captured} datagrams"));
    ensure!(dropped > 0, "nothing was dropped");
    let observed = match captured {
        DATAGRAMS => "all".into(),
        captured if captured == received => "as received".into(),
        captured if captured == dropped => "as dropped".into(),
        captured => captured.to_string(),
    };
    Ok(observed)
}

/// How many datagrams the socket with this port has dropped: the last column of its row, see proc(5).
fn drops(port: u16) -> Result<usize> {
    let table = fs::read_to_string("/proc/net/udp").at("open", "/proc/net/udp")?;
    let local = format!("0100007F:{port:04X}");
    let row = table.lines().find(|row| row.split_whitespace().nth(1) == Some(&local)).context("in no table")?;
    Ok(row.split_whitespace().last().context("no column")?.parse()?)
}

pub fn missed(stage: &mut Stage) -> Result<Verdict> {
    let scene = Shown::start(stage, "missed")?;
    let question = stage.ask(
        "The capture's queue has room for a few packets, and nobody reads it while 100 datagrams pass. The receiver gets \
         them all. Then the capture is read. How does it learn that packets are missing?",
        [
            ("recv fails once: ENOBUFS", "recvmsg fails".to_string()),
            ("none is missing: sendto waits for room", "none is missing".into()),
            ("getsockopt says how many there were", "a counter tells".into()),
            ("not at all: nobody counts them", "nothing tells".into()),
        ],
        Predicts { source: None, kit: "a counter tells".into() },
    )?;
    let observed = scene.observed(stage)?;
    stage.verdict(question, observed, "the kernel counts what found no room, and tells only a program that asks")
}

pub fn missed_scene(scene: &mut Scene) -> Result<String> {
    let capture = Capture::start(scene, SockProtocol::EthIp)?;
    let capture_fd = capture.fd().as_raw_fd();
    setsockopt(capture.fd(), sockopt::RcvBuf, &SMALL).at("setsockopt SO_RCVBUF", SMALL)?;
    scene.say("capture", format_args!("setsockopt({capture_fd}, SOL_SOCKET, SO_RCVBUF, [{SMALL}]) = 0"));
    let (receive_sock, receive_addr) = bound()?;
    let (send_sock, send_addr) = bound()?;
    let (send_fd, receive_fd) = (send_sock.as_raw_fd(), receive_sock.as_raw_fd());

    scene.ask()?;
    for _ in 0..DATAGRAMS {
        sendto(send_fd, b"x", &SockaddrStorage::from(receive_addr), MsgFlags::empty()).at("sendto", receive_addr)?;
        recv(receive_fd, &mut [0; 16], MsgFlags::empty()).at("recv", receive_addr)?;
    }
    scene.say("sender", format_args!("sendto({send_fd}, {receive_addr}) x{DATAGRAMS} = {DATAGRAMS} bytes"));
    scene.say("receiver", format_args!("received {DATAGRAMS} datagrams"));
    let taken = capture.datagrams(send_addr, receive_addr);
    let failed = taken.is_err();
    let taken = taken.map_or(0, |seen| seen.len());
    scene.say("captured", format_args!("{taken} datagrams; {} are missing", DATAGRAMS - taken));
    let again = recv(capture_fd, &mut [0; 16], MsgFlags::MSG_DONTWAIT);
    scene.say("capture", format_args!("recv({capture_fd}, 16, MSG_DONTWAIT) = {}", shared::returned(&again)));
    let [packets, drops] = getsockopt(capture.fd(), PacketStatistics).at("getsockopt PACKET_STATISTICS", "")?;
    let told = format!("{{packets={packets}, drops={drops}}}");
    scene.say("capture", format_args!("getsockopt({capture_fd}, SOL_PACKET, PACKET_STATISTICS, {told}) = 0"));
    let observed = match () {
        () if taken == DATAGRAMS => "none is missing",
        () if failed || again != Err(Errno::EAGAIN) => "recvmsg fails",
        () if drops as usize >= DATAGRAMS - taken => "a counter tells",
        () => "nothing tells",
    };
    Ok(observed.into())
}
