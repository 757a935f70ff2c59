//! What fits into a datagram, and what is left of it in the receiver's buffer.

use std::{
    io::IoSliceMut,
    net::{Ipv6Addr, SocketAddr},
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kernel::Patience;
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, SockaddrStorage, recv, recvmsg, sendto},
};
use shared::{At, Predicts, Stage, Verdict, returned};

use super::{ANY_PORT, LIMIT, SILENCE, bound, to, waits};

/// The lecture's `recv_buffer_length`.
const BUFFER: usize = 1024;

pub fn rest_is_gone(stage: &mut Stage) -> Result<Verdict> {
    let (receive_sock, peer_addr) = bound(ANY_PORT)?;
    let (sock, _) = bound(ANY_PORT)?;
    let (fd, receive_fd) = (sock.as_raw_fd(), receive_sock.as_raw_fd());
    let long = [b'x'; 2000];

    for payload in [&long[..], b"second"] {
        let length = payload.len();
        let bytes_sent = sendto(fd, payload, &to(peer_addr), MsgFlags::empty()).at("sendto", peer_addr)?;
        stage.say("sender", format_args!("sendto({fd}, {length}, {peer_addr}) = {bytes_sent}"));
    }
    stage.look(format_args!("ss -uanm 'sport = :{}'", peer_addr.port()));
    let question = stage.ask(
        "The receiver reads twice, with a buffer of 1024 bytes. What do the two calls return?",
        [
            ("1024 bytes, then the other 976 of the first datagram", [Ok(1024), Ok(976)]),
            ("1024 bytes, then the 6 of \"second\"", [Ok(1024), Ok(6)]),
            ("1024 bytes, then 982: the rest and \"second\"", [Ok(1024), Ok(982)]),
            ("EMSGSIZE, then the 6 of \"second\"", [Err(Errno::EMSGSIZE), Ok(6)]),
        ],
        Predicts { source: Some([Ok(1024), Ok(976)]), kit: [Ok(1024), Ok(6)] },
    )?;
    let mut buffer = [0; BUFFER];
    let mut observed = [Ok(0); 2];
    for observed in &mut observed {
        let mut parts = [IoSliceMut::new(&mut buffer)];
        // recvmsg(2) is recv(2) that also returns flags.
        let received = recvmsg::<SockaddrStorage>(receive_fd, &mut parts, None, MsgFlags::empty());
        *observed = received.as_ref().map(|message| message.bytes).map_err(|errno| *errno);
        let flags = match received {
            Ok(message) if message.flags.contains(MsgFlags::MSG_TRUNC) => "MSG_TRUNC",
            _ => "0",
        };
        let returned = returned(observed);
        let text = String::from_utf8_lossy(&buffer[..observed.unwrap_or(0)]);
        let text = if text.len() > 10 { format!("{:?}...", &text[..10]) } else { format!("{text:?}") };
        stage.say(
            "receiver",
            format_args!("recvmsg({receive_fd}, iov_len={BUFFER}, msg_flags={flags}) = {returned}  {text}"),
        );
    }

    // With MSG_TRUNC as an argument the result is the datagram's own length, whatever fits the buffer.
    let bytes_sent = sendto(fd, &long, &to(peer_addr), MsgFlags::empty()).at("sendto", peer_addr)?;
    stage.say("sender", format_args!("sendto({fd}, {}, {peer_addr}) = {bytes_sent}", long.len()));
    let own_length = recv(receive_fd, &mut buffer, MsgFlags::MSG_TRUNC);
    stage.say("receiver", format_args!("recv({receive_fd}, {BUFFER}, MSG_TRUNC) = {}", returned(&own_length)));
    ensure!(own_length == Ok(long.len()), "MSG_TRUNC told {own_length:?} of {} bytes", long.len());
    stage.verdict(question, observed, "each call takes one datagram; what does not fit is thrown away")
}

pub fn largest(stage: &mut Stage) -> Result<Verdict> {
    let question = stage.ask(
        "What is the largest payload that sendto() takes over IPv4?",
        [
            ("65,535 bytes", 65_535),
            ("65,527 bytes", 65_527),
            ("65,507 bytes", 65_507),
            ("1,472 bytes", 1_472), // what an Ethernet frame holds
        ],
        Predicts { source: Some(65_527), kit: 65_507 },
    )?;
    let observed = largest_payload(stage, ANY_PORT, &[1_472, 1_473, 65_507, 65_508, 65_527, 65_535])?;

    let any_port = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    if bound(any_port).is_ok() {
        stage.say("", "the same over IPv6, whose length field leaves out its header");
        let over_ipv6 = largest_payload(stage, any_port, &[65_527, 65_528])?;
        ensure!(over_ipv6 == 65_527, "over IPv6 the largest was {over_ipv6}");
    } else {
        stage.say("", "not tried over IPv6: it is off here (sysctl -w net.ipv6.conf.lo.disable_ipv6=0)");
    }
    stage.verdict(question, observed, "65,507: the 20 bytes of the IPv4 header count, too")
}

/// Sends each of these many bytes; what is taken must also arrive whole. The largest that was taken.
fn largest_payload(stage: &mut Stage, any_port: SocketAddr, lengths: &[usize]) -> Result<usize> {
    let (receive_sock, peer_addr) = bound(any_port)?;
    let (sock, _) = bound(any_port)?;
    let (fd, receive_fd) = (sock.as_raw_fd(), receive_sock.as_raw_fd());
    let mut buffer = vec![0; 65_536];
    let mut largest = 0;
    for length in lengths {
        let payload = vec![b'x'; *length];
        let sent = sendto(fd, &payload, &to(peer_addr), MsgFlags::empty());
        stage.say("sender", format_args!("sendto({fd}, {length}, {peer_addr}) = {}", returned(&sent)));
        match sent {
            Err(Errno::EMSGSIZE) => continue, // nothing was sent
            sent => sent.at("sendto", peer_addr)?,
        };
        let received = recv(receive_fd, &mut buffer, MsgFlags::empty());
        stage.say("receiver", format_args!("recv({receive_fd}, {}) = {}", buffer.len(), returned(&received)));
        let bytes_read = received.at("recv", peer_addr)?;
        ensure!(bytes_read == *length, "{bytes_read} of {length} bytes arrived");
        largest = largest.max(bytes_read);
    }
    Ok(largest)
}

pub fn empty(stage: &mut Stage) -> Result<Verdict> {
    let (receive_sock, peer_addr) = bound(ANY_PORT)?;
    let (sock, _) = bound(ANY_PORT)?;
    let (fd, receive_fd) = (sock.as_raw_fd(), receive_sock.as_raw_fd());

    let bytes_sent = sendto(fd, b"", &to(peer_addr), MsgFlags::empty()).at("sendto", peer_addr)?;
    stage.say("sender", format_args!("sendto({fd}, \"\", 0, {peer_addr}) = {bytes_sent}"));
    drop(sock); // close(2)
    stage.say("sender", format_args!("close({fd}) = 0"));
    receive_sock.set_read_timeout(Some(SILENCE)).at("setsockopt", "SO_RCVTIMEO")?;
    stage.say("receiver", "SO_RCVTIMEO is 200 ms: a recv() that finds nothing returns EAGAIN after that time");
    waits(&[&receive_sock], LIMIT)?; // until what was sent has come, if anything comes

    stage.look(format_args!("ss -uan 'sport = :{}'", peer_addr.port()));
    let question = stage.ask(
        "The sender sent an empty payload and closed its socket. The receiver calls recv() twice. What do the calls return?",
        [
            ("EAGAIN after 200 ms, then EAGAIN again", [None, None]),
            ("0, then 0 again", [Some(0), Some(0)]),
            ("0, then EAGAIN after 200 ms", [Some(0), None]),
            ("EAGAIN after 200 ms, then 0", [None, Some(0)]),
        ],
        Predicts { source: None, kit: [Some(0), None] },
    )?;
    let mut buffer = [0; BUFFER];
    let mut observed = [None; 2];
    for observed in &mut observed {
        let mut patience = Patience::new(SILENCE);
        let received = loop {
            match recv(receive_fd, &mut buffer, MsgFlags::empty()) {
                // Ctrl-Z, then fg: with SO_RCVTIMEO recv is not restarted, signal(7). The rest of the time is left.
                Err(Errno::EINTR) => {
                    let left = if patience.is_over() { Duration::from_millis(1) } else { patience.step() };
                    receive_sock.set_read_timeout(Some(left)).at("setsockopt", "SO_RCVTIMEO")?;
                }
                received => break received,
            }
        };
        stage.say("receiver", format_args!("recv({receive_fd}, {BUFFER}) = {}", returned(&received)));
        *observed = match received {
            Err(Errno::EAGAIN) => None, // SO_RCVTIMEO
            received => Some(received.at("recv", peer_addr)?),
        };
    }
    stage.verdict(question, observed, "0 is a datagram without payload; UDP has no end of stream")
}

pub fn text(stage: &mut Stage) -> Result<Verdict> {
    let (receive_sock, peer_addr) = bound(ANY_PORT)?;
    let (sock, _) = bound(ANY_PORT)?;
    let (fd, receive_fd) = (sock.as_raw_fd(), receive_sock.as_raw_fd());

    let question = stage.ask(
        "In UTF-8, how many bytes does \"Hello world!\" need? How many does the Estonian word for truth need: t, U+00F5, d, \
         e?",
        [("13 and 5", [13, 5]), ("12 and 4", [12, 4]), ("11 and 4", [11, 4]), ("12 and 5", [12, 5])],
        // Of the second text the lecture says nothing; the first decides.
        Predicts { source: Some([11, 4]), kit: [12, 5] },
    )?;
    let mut buffer = [0; BUFFER];
    let mut observed = [0; 2];
    for (observed, text) in observed.iter_mut().zip(["Hello world!", "t\u{f5}de"]) {
        let payload = text.as_bytes();
        let (length, shown) = (payload.len(), as_strace_shows(payload));
        let sent = sendto(fd, payload, &to(peer_addr), MsgFlags::empty()).at("sendto", peer_addr)?;
        stage.say("sender", format_args!("sendto({fd}, \"{shown}\", {length}, {peer_addr}) = {sent}"));
        let bytes_read = recv(receive_fd, &mut buffer, MsgFlags::empty()).at("recv", peer_addr)?;
        stage.say("receiver", format_args!("recv({receive_fd}, {BUFFER}) = {bytes_read}"));
        let arrived = std::str::from_utf8(&buffer[..bytes_read]).context("not UTF-8")?;
        stage.say("receiver", format_args!("{bytes_read} bytes are {} characters in UTF-8", arrived.chars().count()));
        ensure!(arrived.as_bytes() == payload, "another text arrived: {arrived:?}");
        *observed = bytes_read;
    }
    stage.verdict(question, observed, "12 characters, 12 bytes; in UTF-8 U+00F5 takes two bytes")
}

/// Bytes as strace writes them: those beyond ASCII in octal.
fn as_strace_shows(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|byte| if byte.is_ascii() { char::from(*byte).to_string() } else { format!("\\{byte:o}") })
        .collect()
}
