//! Who may speak to a connected socket, and who hears of a loss.

use std::os::fd::AsRawFd;

use anyhow::{Context, Result, bail, ensure};
use kernel::{udp_sockets, wait_until};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv, send, sendto},
};
use shared::{At, Predicts, Stage, Verdict, returned};

use super::{ANY_PORT, LIMIT, SILENCE, bound, to, waits};

pub fn connect(stage: &mut Stage) -> Result<Verdict> {
    let (sock, local_addr) = bound(ANY_PORT)?;
    let (free_sock, _) = bound(ANY_PORT)?;
    let (peer_sock, peer_addr) = bound(ANY_PORT)?;
    let (stranger_sock, _) = bound(ANY_PORT)?;
    let (fd, free_fd) = (sock.as_raw_fd(), free_sock.as_raw_fd());
    let (peer_fd, stranger_fd) = (peer_sock.as_raw_fd(), stranger_sock.as_raw_fd());

    // One datagram is in the queue before the socket connects.
    let sent = sendto(stranger_fd, b"early", &to(local_addr), MsgFlags::empty()).at("sendto", local_addr)?;
    stage.say("stranger", format_args!("sendto({stranger_fd}, \"early\", 5, {local_addr}) = {sent}"));
    wait_until("a datagram in the queue", LIMIT, || {
        let row = udp_sockets(local_addr.port())?.into_iter().find(|row| row.pair.local == local_addr);
        Ok(row.filter(|row| row.recv_queue > 0).map(|_| ()))
    })?;

    stage.look(format_args!("ss -uan 'sport = :{}'", local_addr.port()));
    let question = stage.ask(
        "This UDP socket calls connect(peer), then the stranger sends again. Later the peer closes its port, and the socket sends twice. Is the stranger heard, and is the closed port reported?",
        [
            ("connect fails: UDP has no connections", None),
            ("the stranger yes, the closed port no", Some((true, false))),
            ("the stranger no, the closed port yes", Some((false, true))),
            ("the stranger no, the closed port no", Some((false, false))),
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
    let mut limit = LIMIT;
    loop {
        if !waits(&[&sock], limit)? {
            stage.client(format_args!("waited {limit:?}: nothing more came"));
        }
        let received = recv(fd, &mut buffer, MsgFlags::MSG_DONTWAIT);
        let text = received
            .map_or(String::new(), |bytes_read| format!("  {:?}", String::from_utf8_lossy(&buffer[..bytes_read])));
        stage.client(format_args!("recv({fd}, 1024, MSG_DONTWAIT) = {}{text}", returned(&received)));
        match received {
            Ok(bytes_read) => heard.push(buffer[..bytes_read].to_vec()),
            Err(Errno::EAGAIN) => break,
            Err(errno) => bail!("recv: {errno:?}"),
        }
        if heard.last().is_some_and(|payload| payload == b"hello") {
            limit = SILENCE; // is there more?
        }
    }
    let hears = |payload: &[u8]| heard.iter().any(|heard| heard == payload);
    ensure!(hears(b"early") && hears(b"hello"), "of \"early\" and \"hello\" not both were heard");
    let hears_strangers = hears(b"from afar");

    // Who hears that nobody is there any more? The ICMP message comes back after the send that caused it.
    drop(peer_sock); // close(2)
    stage.say("peer", format_args!("close({peer_fd}) = 0"));
    let first = send(fd, b"one", MsgFlags::empty());
    stage.client(format_args!("send({fd}, \"one\", 3) = {}", returned(&first)));
    first.at("send", peer_addr)?;
    waits(&[&sock], LIMIT)?;
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
        "only the peer is heard from now on, and ICMP errors are reported",
    )
}
