//! What a program sends, what a capture shows of that, and what the other program receives.

use std::os::fd::AsRawFd;

use anyhow::{Result, ensure};
use kernel::{Pair, options::MinTtl, tcp_info, tcp_socket, wait_until};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, SockProtocol, recv, send, setsockopt},
};
use shared::{At, Predicts, Stage, Verdict, returned};
use socket2::{Domain, Socket, Type};

use super::{
    CUT, LIMIT, MENDED, connected_pair, listening,
    packets::Capture,
    scene::{Scene, Shown},
};

/// The largest segment that the client's end will send or take.
const LARGEST: u32 = 1000;
/// In one send.
const BYTES: usize = 20_000;
/// What a frame of 1500 bytes has room for, without options.
const ETHERNET: usize = 1460;
const ONCE: &[u8] = b"once";

pub fn one_send(stage: &mut Stage) -> Result<Verdict> {
    let scene = Shown::start(stage, "one-send")?;
    let question = stage.ask(
        "A segment of this connection may have at most 1000 bytes. The client hands over 20000 bytes in one send. How \
         long is the longest segment in the capture?",
        [
            ("1000 bytes or less, as agreed", "agreed".to_string()),
            ("1460 bytes, as on Ethernet", "Ethernet".into()),
            ("more than 1460, less than 20000", "several".into()),
            ("20000 bytes: one send, one segment", "whole".into()),
        ],
        Predicts { source: None, kit: "several".into() },
    )?;
    let observed = scene.observed(stage)?;
    stage.verdict(question, observed, "no: a network card cuts long segments, behind the capture; lo leaves them long")
}

pub fn one_send_scene(scene: &mut Scene) -> Result<String> {
    let capture = Capture::start(scene, SockProtocol::EthIp)?;
    let (listen_sock, server_addr) = listening()?;
    let client_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
    let client_fd = client_sock.as_raw_fd();
    client_sock.set_tcp_mss(LARGEST).at("setsockopt TCP_MAXSEG", LARGEST)?;
    scene.say("client", format_args!("setsockopt({client_fd}, SOL_TCP, TCP_MAXSEG, [{LARGEST}]) = 0"));
    let connected = client_sock.connect(&server_addr.into());
    scene.say("client", format_args!("connect({client_fd}, {server_addr}) = {}", returned(&connected)));
    connected.at("connect", server_addr)?;
    let (conn_sock, _) = listen_sock.accept().at("accept", server_addr)?;
    let pair = Pair::of(&client_sock)?;
    let before = tcp_info::of(&client_sock).at("getsockopt TCP_INFO", "")?;
    let time_stamps = LARGEST - before.snd_mss.min(LARGEST);
    scene.say("kernel", format_args!("snd_mss {}: {LARGEST}, less {time_stamps} for time stamps", before.snd_mss));

    scene.ask()?;
    let message = vec![b'x'; BYTES];
    let mut segments = Vec::new();
    let sent = send(client_fd, &message, MsgFlags::empty());
    scene.say("client", format_args!("send({client_fd}, {BYTES}) = {}", returned(&sent)));
    ensure!(sent == Ok(BYTES), "send took only a part");
    let mut received = 0;
    while received < BYTES {
        received += recv(conn_sock.as_raw_fd(), &mut [0; 65536], MsgFlags::empty()).at("recv", "")?;
    }
    scene.say("server", format_args!("received {received} bytes"));
    wait_until("the last acknowledgement", LIMIT, || {
        segments.extend(capture.segments(pair)?);
        let row = tcp_socket(pair)?;
        Ok(row.filter(|row| row.send_queue == 0))
    })?;
    segments.extend(capture.segments(pair)?);
    let lengths: Vec<usize> =
        segments.iter().map(|segment| segment.payload.len()).filter(|length| *length > 0).collect();
    let longest = lengths.iter().copied().max().unwrap_or(0);
    ensure!(lengths.iter().sum::<usize>() >= BYTES, "the capture lacks bytes: {lengths:?}");
    let acks = segments.iter().filter(|segment| !segment.from_client && segment.flags == "ACK").count();
    let counted = tcp_info::of(&client_sock).at("getsockopt TCP_INFO", "")?.segs_out - before.segs_out;
    scene.say("captured", format_args!("segments with data: {}; the longest has {longest} bytes", lengths.len()));
    scene.say("captured", format_args!("ACKs from the server: {acks}"));
    scene.say("kernel", format_args!("segs_out +{counted}: it counts segments of {} bytes", before.snd_mss));
    let observed = match longest {
        BYTES.. => "whole",
        ETHERNET => "Ethernet",
        longest if longest <= LARGEST as usize => "agreed",
        _ => "several",
    };
    Ok(observed.into())
}

pub fn sent_again(stage: &mut Stage) -> Result<Verdict> {
    let scene = Shown::start(stage, "sent-again")?;
    let question = stage.ask(
        "The client sends \"once\". It hears no ACK, so its kernel sends the segment again. The server calls recv until \
         nothing waits. What do the capture and the program have?",
        [
            ("capture: 1 segment; program: 4 bytes", "1 segment, 4 bytes".to_string()),
            ("capture: 2 or more; program: 4 bytes", "2 or more segments, 4 bytes".into()),
            ("capture: 2 or more; program: 8 or more", "2 or more segments, more bytes".into()),
            ("capture: 2 or more; program: an error", "2 or more segments, an error".into()),
        ],
        Predicts { source: None, kit: "2 or more segments, 4 bytes".into() },
    )?;
    let observed = scene.observed(stage)?;
    stage.verdict(question, observed, "both copies have the same sequence number; TCP hands the bytes over once")
}

pub fn sent_again_scene(scene: &mut Scene) -> Result<String> {
    let capture = Capture::start(scene, SockProtocol::EthIp)?;
    let (client_sock, conn_sock) = connected_pair()?;
    let (pair, client_fd, conn_fd) = (Pair::of(&client_sock)?, client_sock.as_raw_fd(), conn_sock.as_raw_fd());
    setsockopt(&client_sock, MinTtl, &CUT).at("setsockopt IP_MINTTL", "")?;
    scene.say("client", format_args!("setsockopt({client_fd}, SOL_IP, IP_MINTTL, [{CUT}]) = 0"));
    scene.say("cable", "the client's end drops what arrives there: each ACK; the server's end drops nothing");
    let segs_in = tcp_info::of(&conn_sock).at("getsockopt TCP_INFO", "")?.segs_in;

    scene.ask()?;
    let sent = send(client_fd, ONCE, MsgFlags::empty());
    scene.say("client", format_args!("send({client_fd}, \"once\", 4) = {}", returned(&sent)));
    let mut buffer = [0; 1024];
    let first = recv(conn_fd, &mut buffer, MsgFlags::empty());
    scene.say("server", format_args!("recv({conn_fd}, 1024) = {}", returned(&first)));
    wait_until("the segment once more at the server's end", LIMIT, || {
        let info = tcp_info::of(&conn_sock).at("getsockopt TCP_INFO", "")?;
        Ok((info.segs_in >= segs_in + 2).then_some(()))
    })?;
    let second = recv(conn_fd, &mut buffer, MsgFlags::MSG_DONTWAIT);
    scene.say("server", format_args!("recv({conn_fd}, 1024, MSG_DONTWAIT) = {}", returned(&second)));
    setsockopt(&client_sock, MinTtl, &MENDED).at("setsockopt IP_MINTTL", "")?;

    let (data, answers): (Vec<_>, Vec<_>) = capture
        .segments(pair)?
        .into_iter()
        .skip_while(|segment| segment.payload.is_empty()) // the handshake
        .partition(|segment| segment.from_client && segment.payload == ONCE);
    scene.say("captured", format_args!("client > server  \"once\"  x{}", data.len()));
    let acks = answers.iter().filter(|segment| !segment.from_client).count();
    scene.say("captured", format_args!("server > client  ACK  x{acks}"));
    let arrived = tcp_info::of(&conn_sock).at("getsockopt TCP_INFO", "")?.segs_in - segs_in;
    scene.say("kernel", format_args!("server's end: segs_in +{arrived}: nothing was lost on the way there"));
    let copies = if data.len() < 2 { "1 segment" } else { "2 or more segments" };
    let bytes = match (first, second) {
        (Ok(4), Err(Errno::EAGAIN)) => "4 bytes",
        (Ok(_), Ok(_)) => "more bytes",
        _ => "an error",
    };
    Ok(format!("{copies}, {bytes}"))
}
