//! One direction closed, the other one open.

use std::{net::Shutdown, os::fd::AsRawFd};

use anyhow::{Result, ensure};
use kernel::{Pair, State, tcp_socket, wait_for_state, wait_until};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv, send},
};
use shared::{At, Predicts, Stage, Verdict, returned};

use super::{LIMIT, connected_pair};

/// Far more than both buffers hold: 10 MB.
const ANSWER: usize = 10_000_000;

pub fn half_close(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Gets {
        Nothing,
        WhatWasUnderWay,
        All,
    }
    let (client_sock, conn_sock) = connected_pair()?;
    let (client_fd, conn_fd) = (client_sock.as_raw_fd(), conn_sock.as_raw_fd());
    let (client, server) = (Pair::of(&client_sock)?, Pair::of(&conn_sock)?);

    let sent = send(client_fd, b"request", MsgFlags::empty());
    stage.client(format_args!("send({client_fd}, \"request\", 7) = {}", returned(&sent)));
    stage.kernel([("client", client), ("server", server)])?;

    client_sock.shutdown(Shutdown::Write).at("shutdown", "")?;
    stage.client(format_args!("shutdown({client_fd}, SHUT_WR) = 0"));
    wait_for_state(client, Some(State::FinWait2), LIMIT)?;
    stage.kernel([("client", client), ("server", server)])?;

    stage.look(format_args!("ss -tan 'sport = :{0} or dport = :{0}'", server.local.port()));
    let question = stage.ask(
        "The server reads to the end and answers with 10 MB. How much of it does the client get?",
        [
            ("nothing: its connection is closed", Gets::Nothing),
            ("what its receive buffer holds: it acknowledges no more", Gets::WhatWasUnderWay),
            ("all of it", Gets::All),
        ],
        Predicts { source: Some(Gets::All), kit: Gets::All },
    )?;
    let request = recv(conn_fd, &mut [0; 1024], MsgFlags::empty());
    stage.server(format_args!("recv({conn_fd}, 1024) = {}", returned(&request)));
    let end = recv(conn_fd, &mut [0; 1024], MsgFlags::empty());
    stage.server(format_args!("recv({conn_fd}, 1024) = {}", returned(&end)));
    ensure!(end == Ok(0), "the server's recv returned {end:?} instead of end of stream");

    // One thread plays both ends: the server sends what fits (MSG_DONTWAIT), then the client reads once.
    let answer = vec![b'a'; ANSWER];
    let mut buffer = vec![0; 65536];
    let (mut bytes_sent, mut bytes_read, mut reads) = (0, 0, 0);
    while bytes_read < ANSWER {
        match send(conn_fd, &answer[bytes_sent..], MsgFlags::MSG_DONTWAIT) {
            Ok(accepted) => bytes_sent += accepted,
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => break,
        }
        match recv(client_fd, &mut buffer, MsgFlags::empty()) {
            Ok(more @ 1..) => (bytes_read, reads) = (bytes_read + more, reads + 1),
            Err(Errno::EINTR) => {}
            Ok(0) | Err(_) => break,
        }
    }
    stage.server(format_args!("{bytes_sent} bytes handed to send"));
    stage.client(format_args!("recv({client_fd}, 65536) x{reads} = {bytes_read} bytes"));
    stage.kernel([("client", client), ("server", server)])?;

    drop(conn_sock); // close(2): FIN
    stage.server(format_args!("close({conn_fd}) = 0"));
    let end = recv(client_fd, &mut buffer, MsgFlags::empty());
    stage.client(format_args!("recv({client_fd}, 65536) = {}", returned(&end)));
    if bytes_read == ANSWER {
        wait_for_state(client, Some(State::TimeWait), LIMIT)?;
        wait_for_state(server, None, LIMIT)?;
    }
    stage.kernel([("client", client), ("server", server)])?;
    let observed = match bytes_read {
        ANSWER if end == Ok(0) => Gets::All,
        0 => Gets::Nothing,
        _ => Gets::WhatWasUnderWay,
    };
    stage.verdict(question, observed, "only its sending side is closed; 10 MB still arrive")
}

pub fn shut_rd(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Recv {
        Refused,
        Empty,
        Blocks,
        Delivers,
    }
    let (client_sock, conn_sock) = connected_pair()?;
    let (client_fd, conn_fd) = (client_sock.as_raw_fd(), conn_sock.as_raw_fd());
    let (client, server) = (Pair::of(&client_sock)?, Pair::of(&conn_sock)?);

    client_sock.shutdown(Shutdown::Read).at("shutdown", "")?;
    stage.client(format_args!("shutdown({client_fd}, SHUT_RD) = 0"));
    let empty = recv(client_fd, &mut [0; 1024], MsgFlags::empty());
    stage.client(format_args!("recv({client_fd}, 1024) = {}  nothing came, and it does not block", returned(&empty)));
    ensure!(empty == Ok(0), "recv returned {empty:?} with nothing received");
    stage.kernel([("client", client), ("server", server)])?;

    let sent = send(conn_fd, b"abc", MsgFlags::empty());
    stage.server(format_args!("send({conn_fd}, \"abc\", 3) = {}", returned(&sent)));

    stage.look(format_args!("ss -tan 'sport = :{0} or dport = :{0}'", server.local.port()));
    let question = stage.ask(
        "The client calls recv again. What does it return?",
        [
            ("-1: receiving is not allowed", Recv::Refused),
            ("0, as before: the bytes are thrown away", Recv::Empty),
            ("nothing: now it blocks", Recv::Blocks),
            ("3: the bytes are there", Recv::Delivers),
        ],
        Predicts { source: Some(Recv::Refused), kit: Recv::Delivers },
    )?;
    let sender = wait_until("an acknowledgement of the server's bytes", LIMIT, || {
        Ok(tcp_socket(server)?.filter(|row| row.send_queue == 0))
    })?;
    let unread = tcp_socket(client)?.map_or(0, |row| row.recv_queue);
    stage.say("kernel", format_args!("server unacknowledged {}   client unread {unread}", sender.send_queue));

    let mut buffer = [0; 1024];
    let received = recv(client_fd, &mut buffer, MsgFlags::empty());
    stage.client(format_args!("recv({client_fd}, 1024) = {}", returned(&received)));
    let again = recv(client_fd, &mut [0; 1024], MsgFlags::empty());
    stage.client(format_args!("recv({client_fd}, 1024) = {}", returned(&again)));
    stage.kernel([("client", client), ("server", server)])?;
    let observed = match received {
        Ok(3) if &buffer[..3] == b"abc" => Recv::Delivers,
        Ok(_) => Recv::Empty,
        Err(Errno::EAGAIN) => Recv::Blocks,
        Err(_) => Recv::Refused,
    };
    stage.verdict(question, observed, "what arrives is acknowledged and delivered; only an empty recv gives 0")
}
