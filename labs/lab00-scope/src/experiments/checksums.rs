//! Equal bytes in the capture.

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsRawFd,
};

use anyhow::{Context, Result, ensure};
use kernel::{Counters, wait_until};
use nix::{
    errno::Errno,
    libc,
    sys::socket::{MsgFlags, SockProtocol, SockaddrStorage, recv, sendto, setsockopt},
};
use shared::{At, Predicts, Stage, Verdict, returned};
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    LIMIT, bound,
    packets::{Capture, PacketAuxdata, Seen},
    scene::{Scene, Shown},
};

const MESSAGE: &[u8] = b"Hello world!";

pub fn same_bytes(stage: &mut Stage) -> Result<Verdict> {
    let scene = Shown::start(stage, "same-bytes")?;
    let question = stage.ask(
        "A raw socket sends the very same bytes once more: ports, length, checksum and text. The receiver calls recv \
         again. What happens?",
        [
            ("recv returns 12: it is the same datagram", "received".to_string()),
            ("sendto fails: EINVAL, so nothing passes", "refused".into()),
            ("it passes lo, and recv does not get it", "dropped".into()),
        ],
        Predicts { source: None, kit: "dropped".into() },
    )?;
    let observed = scene.observed(stage)?;
    stage.verdict(
        question,
        observed,
        "no: the kernel knows that the first one has no sum yet; no byte in the packet says so",
    )
}

pub fn same_bytes_scene(scene: &mut Scene) -> Result<String> {
    let capture = Capture::start(scene, SockProtocol::EthIp)?;
    setsockopt(capture.fd(), PacketAuxdata, &true).at("setsockopt PACKET_AUXDATA", "")?;
    scene.say("capture", format_args!("setsockopt({}, SOL_PACKET, PACKET_AUXDATA, [1]) = 0", capture.fd().as_raw_fd()));
    let (receive_sock, receive_addr) = bound()?;
    let (send_sock, send_addr) = bound()?;
    let (send_fd, receive_fd) = (send_sock.as_raw_fd(), receive_sock.as_raw_fd());
    let captured = |what| {
        wait_until(what, LIMIT, || Ok(capture.datagrams(send_addr, receive_addr)?.pop())).context("not captured")
    };

    let sent = sendto(send_fd, MESSAGE, &SockaddrStorage::from(receive_addr), MsgFlags::empty());
    scene.say("sender", format_args!("sendto({send_fd}, \"Hello world!\", 12, {receive_addr}) = {}", returned(&sent)));
    sent.at("sendto", receive_addr)?;
    let mut buffer = [0; 1024];
    let received = recv(receive_fd, &mut buffer, MsgFlags::empty());
    scene.say("receiver", format_args!("recv({receive_fd}, 1024) = {}", returned(&received)));
    let first = captured("the datagram")?;
    show(scene, "1st", &first)?;

    scene.ask()?;
    let udp = first.udp().context("not UDP")?;
    let copy = udp.slice();
    let raw_sock = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP)).at("socket", "SOCK_RAW")?;
    raw_sock.bind(&send_addr.into()).at("bind", send_addr)?; // a raw socket has an address and no port
    let raw_fd = raw_sock.as_raw_fd();
    scene.say("raw", format_args!("socket(AF_INET, SOCK_RAW, IPPROTO_UDP) = {raw_fd}"));
    let before = Counters::read()?;
    let to = SockaddrStorage::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let sent = sendto(raw_fd, copy, &to, MsgFlags::empty());
    scene.say("raw", format_args!("sendto({raw_fd}, {}, 127.0.0.1) = {}", copy.len(), returned(&sent)));
    if sent.is_err() {
        return Ok("refused".into());
    }
    let second = captured("the copy")?;
    show(scene, "2nd", &second)?;
    ensure!(second.udp().is_some_and(|udp| udp.slice() == copy), "the copy has other bytes");

    // The kernel looks at the checksum when recv takes the datagram from the queue.
    let (received, wrong) = wait_until("the datagram, or its end", LIMIT, || {
        let received = recv(receive_fd, &mut buffer, MsgFlags::MSG_DONTWAIT);
        let wrong = before.risen("UdpInCsumErrors")?;
        Ok((received != Err(Errno::EAGAIN) || wrong > 0).then_some((received, wrong)))
    })?;
    scene.say("receiver", format_args!("recv({receive_fd}, 1024, MSG_DONTWAIT) = {}", returned(&received)));
    scene.say("counted", format_args!("UdpInCsumErrors +{wrong}"));
    for (which, seen) in [("1st", &first), ("2nd", &second)] {
        let status = seen.status.context("no PACKET_AUXDATA")?;
        let not_ready = if status & libc::TP_STATUS_CSUMNOTREADY == 0 { "not set" } else { "set" };
        scene.say("note", format_args!("{which}: TP_STATUS_CSUMNOTREADY is {not_ready}"));
    }
    Ok(if received.is_ok() { "received" } else { "dropped" }.into())
}

/// What stands in the packet.
fn show(scene: &mut Scene, which: &str, seen: &Seen) -> Result<()> {
    let udp = seen.udp().context("not UDP")?;
    let (ports, sum) = (format!("{} > {}", udp.source_port(), udp.destination_port()), udp.checksum());
    scene.say("captured", format_args!("{which}: {ports}, length {}, checksum {sum:#06x}", udp.length()));
    Ok(())
}
