//! Who may speak to a socket, who hears of a loss, and where the kernel counts it.

use std::{
    fs,
    io::IoSliceMut,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
};

use anyhow::{Context, Result, bail, ensure};
use kernel::{udp_sockets, wait_until};
use nix::{
    cmsg_space,
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recv, recvmsg, send, sendto, setsockopt, sockopt},
};
use shared::{At, Predicts, Stage, Verdict, returned};

use super::{ANY_PORT, LIMIT, SILENCE, bound, to};

pub fn connect(stage: &mut Stage) -> Result<Verdict> {
    let (sock, local_addr) = bound(ANY_PORT)?;
    let (free_sock, _) = bound(ANY_PORT)?;
    let (peer_sock, peer_addr) = bound(ANY_PORT)?;
    let (stranger_sock, _) = bound(ANY_PORT)?;
    let (fd, free_fd) = (sock.as_raw_fd(), free_sock.as_raw_fd());
    let (peer_fd, stranger_fd) = (peer_sock.as_raw_fd(), stranger_sock.as_raw_fd());

    stage.look(format_args!("ss -uan 'sport = :{}'", local_addr.port()));
    let question = stage.ask(
        "A UDP socket calls connect(peer). What does that do?",
        [
            ("only the peer can reach it; a datagram nobody takes is reported", Some((false, true))),
            ("it fails: UDP has no connections", None),
            ("it saves the address for send(), nothing else", Some((true, false))),
            ("only the peer can reach it; a datagram nobody takes vanishes", Some((false, false))),
        ],
        Predicts { source: Some(None), kit: Some((false, true)) },
    )?;
    let connected = sock.connect(&peer_addr.into());
    stage.client(format_args!("connect({fd}, {peer_addr}) = {}", returned(&connected)));
    if connected.is_err() {
        return stage.verdict(question, None, "");
    }
    let row = udp_sockets(local_addr.port())?.into_iter().find(|row| row.pair.local == local_addr);
    let row = row.context("the socket is in no table")?;
    stage.say("kernel", format_args!("client {} {} > {}", row.state, row.pair.local, row.pair.peer));

    // Who is heard? The stranger speaks first, so the peer's datagram would stand behind it.
    for (who, fd, payload) in [("stranger", stranger_fd, "from afar"), ("peer", peer_fd, "hello")] {
        let length = payload.len();
        let sent = sendto(fd, payload.as_bytes(), &to(local_addr), MsgFlags::empty()).at("sendto", local_addr)?;
        stage.say(who, format_args!("sendto({fd}, \"{payload}\", {length}, {local_addr}) = {sent}"));
    }
    let mut buffer = [0; 1024];
    let mut heard = Vec::new();
    loop {
        let received = recv(fd, &mut buffer, MsgFlags::empty());
        if received == Err(Errno::EINTR) {
            continue; // Ctrl-Z, then fg: with SO_RCVTIMEO recv is not restarted, signal(7)
        }
        stage.client(format_args!("recv({fd}, 1024) = {}", returned(&received)));
        match received {
            Ok(bytes_read) => heard.push(String::from_utf8_lossy(&buffer[..bytes_read]).into_owned()),
            Err(Errno::EAGAIN) => break,
            Err(errno) => bail!("recv: {errno:?}"),
        }
        sock.set_read_timeout(Some(SILENCE)).at("setsockopt", "SO_RCVTIMEO")?;
    }
    ensure!(heard.iter().any(|text| text == "hello"), "the peer was not heard, only {heard:?}");
    let hears_strangers = heard.iter().any(|text| text == "from afar");

    // Who hears that nobody is there any more? The ICMP message comes back after the send that caused it.
    drop(peer_sock); // close(2)
    stage.say("peer", format_args!("close({peer_fd}) = 0"));
    let first = send(fd, b"one", MsgFlags::empty());
    stage.client(format_args!("send({fd}, \"one\", 3) = {}", returned(&first)));
    first.at("send", peer_addr)?;
    let mut fds = [PollFd::new(sock.as_fd(), PollFlags::empty())]; // POLLERR is always told
    poll(&mut fds, PollTimeout::try_from(LIMIT)?).at("poll", "")?;
    let second = send(fd, b"two", MsgFlags::empty());
    stage.client(format_args!("send({fd}, \"two\", 3) = {}", returned(&second)));
    let hears_refusal = second == Err(Errno::ECONNREFUSED);
    for payload in ["one", "two"] {
        let sent = sendto(free_fd, payload.as_bytes(), &to(peer_addr), MsgFlags::empty());
        let returned = returned(&sent);
        stage.say("another", format_args!("sendto({free_fd}, \"{payload}\", 3, {peer_addr}) = {returned}  no connect"));
        ensure!(sent == Ok(payload.len()), "without connect, sendto to a closed port returned {sent:?}");
    }
    stage.verdict(
        question,
        Some((hears_strangers, hears_refusal)),
        "one peer: strangers are not heard, ICMP errors are",
    )
}

/// Many more than fit.
const DATAGRAMS: usize = 100;
const LENGTH: usize = 1000;
/// SO_RCVBUF in bytes. The kernel doubles it, and counts its own overhead against it.
const RECEIVE_BUFFER: usize = 8 * 1024;

/// What became of the datagrams a receiver had no room for.
#[derive(Debug, PartialEq)]
enum Overflow {
    NoneLost,
    SendWaits,
    SendFails,
    Counted,
}

pub fn overflow(stage: &mut Stage) -> Result<Verdict> {
    let (receive_sock, peer_addr) = bound(ANY_PORT)?;
    let (sock, _) = bound(ANY_PORT)?;
    let (fd, receive_fd) = (sock.as_raw_fd(), receive_sock.as_raw_fd());
    receive_sock.set_recv_buffer_size(RECEIVE_BUFFER).at("setsockopt", peer_addr)?;
    stage.say("receiver", format_args!("setsockopt({receive_fd}, SOL_SOCKET, SO_RCVBUF, [{RECEIVE_BUFFER}]) = 0"));

    stage.look(format_args!("ss -uanm 'sport = :{}'", peer_addr.port()));
    let question = stage.ask(
        "The receiver is busy. The sender sends 100 datagrams of 1000 bytes. What happens?",
        [
            ("none is lost: the kernel keeps them", Overflow::NoneLost),
            ("sendto() waits until there is room", Overflow::SendWaits),
            ("every sendto() returns 1000; the kernel counts what it drops", Overflow::Counted),
            ("sendto() fails once the receiver is full", Overflow::SendFails),
        ],
        Predicts { source: Some(Overflow::Counted), kit: Overflow::Counted },
    )?;
    let mut bytes_sent = 0;
    for _ in 0..DATAGRAMS {
        match sendto(fd, &[b'x'; LENGTH], &to(peer_addr), MsgFlags::empty()) {
            Ok(bytes) => bytes_sent += bytes,
            Err(Errno::EAGAIN) => return stage.verdict(question, Overflow::SendWaits, ""),
            Err(_) => return stage.verdict(question, Overflow::SendFails, ""),
        }
    }
    stage.say("sender", format_args!("sendto({fd}, {LENGTH}, {peer_addr}) x{DATAGRAMS} = {bytes_sent} bytes"));

    // The receiver is back: it reads until each datagram has either been read or been counted as dropped.
    let mut buffer = [0; LENGTH];
    let mut received = 0;
    let listed = wait_until("received + dropped = sent", LIMIT, || {
        while recv(receive_fd, &mut buffer, MsgFlags::MSG_DONTWAIT) == Ok(LENGTH) {
            received += 1;
        }
        let dropped = drops(peer_addr)?;
        Ok((received + dropped == DATAGRAMS).then_some(dropped))
    })?;
    let bytes_read = received * LENGTH;
    stage.say("receiver", format_args!("recv({receive_fd}, {LENGTH}, MSG_DONTWAIT) x{received} = {bytes_read} bytes"));

    // From now on each datagram brings along how many were dropped before it was queued.
    setsockopt(&receive_sock, sockopt::RxqOvfl, &1).at("setsockopt", peer_addr)?;
    stage.say("receiver", format_args!("setsockopt({receive_fd}, SOL_SOCKET, SO_RXQ_OVFL, [1]) = 0"));
    sendto(fd, b"and now?", &to(peer_addr), MsgFlags::empty()).at("sendto", peer_addr)?;
    stage.say("sender", format_args!("sendto({fd}, \"and now?\", 8, {peer_addr}) = 8"));
    let mut control = cmsg_space!(u32);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let message = recvmsg::<SockaddrStorage>(receive_fd, &mut parts, Some(&mut control), MsgFlags::empty());
    let message = message.at("recvmsg", peer_addr)?;
    let told = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::RxqOvfl(dropped) => Some(dropped as usize),
        _ => None,
    });
    let dropped = told.unwrap_or(0); // no control message: none was dropped
    let returned = message.bytes;
    stage.say("receiver", format_args!("recvmsg({receive_fd}, iov_len={LENGTH}) = {returned}  SO_RXQ_OVFL {dropped}"));
    stage.say("kernel", format_args!("{received} received + {listed} dropped (/proc/net/udp) = {}", received + listed));
    ensure!(dropped == listed, "SO_RXQ_OVFL says {dropped} dropped, /proc/net/udp {listed}");
    let observed = if dropped == 0 { Overflow::NoneLost } else { Overflow::Counted };
    stage.verdict(question, observed, "the sender hears nothing; received + dropped = sent")
}

/// The last column of the socket's row in /proc/net/udp: datagrams it had no room for.
fn drops(addr: SocketAddr) -> Result<usize> {
    let SocketAddr::V4(addr) = addr else { bail!("{addr} is not in the table of IPv4") };
    let local = format!("{:08X}:{:04X}", u32::from_ne_bytes(addr.ip().octets()), addr.port());
    let table = fs::read_to_string("/proc/net/udp").at("open", "/proc/net/udp")?;
    let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let row = rows.find(|row| row.get(1) == Some(&local.as_str())).context("the socket is not in /proc/net/udp")?;
    row.last().and_then(|drops| drops.parse().ok()).context("no column of drops")
}
