//! What an answer proves, and what no answer proves.

use std::os::fd::AsRawFd;

use anyhow::{Result, ensure};
use board::{Board, ids, now, reply};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv, send},
};
use shared::{At, Predicts, Stage, Verdict, returned};

use super::{ANY_PORT, LIMIT, SILENCE, bound, hears, says, server_role, waits};

pub fn lost_reply(stage: &mut Stage) -> Result<Verdict> {
    stage.say("setting", "the server throws its first answer away, as a network may: server --lose 1");
    let question = stage.ask(
        "The answer to publish is lost. The client asks again, and is told 0: (OK). How many messages does the board have?",
        [
            ("none: the first answer was not received", 0),
            ("one: the same request came again", 1),
            ("two: each request was carried out", 2),
        ],
        Predicts { source: None, kit: 2 },
    )?;
    let observed = published_twice(stage, b"1:Hello world!")?;

    stage.say("mended", "the same with a request id, which the client repeats when it asks again");
    let once = published_twice(stage, b"5:9973:Hello world!")?;
    ensure!(once == 1, "with a request id the board has {once} messages");
    stage.verdict(question, observed, "silence does not say which of the two was lost: name a request, and do it once")
}

/// How many messages a board has after this request, asked again because the first answer was lost.
fn published_twice(stage: &mut Stage, request: &[u8]) -> Result<usize> {
    let (mut server, server_addr) = server_role("0", &["--lose", "1"])?;
    let (client_sock, _) = bound(ANY_PORT)?;
    says(stage, "client", &client_sock, request, server_addr).at("sendto", server_addr)?;
    stage.server(server.line_with(" not told ")?.trim_end());
    ensure!(!waits(&client_sock, SILENCE)?, "an answer came, though the server threw it away");
    stage.client(format_args!("nothing in {SILENCE:?}: it asks again"));
    says(stage, "client", &client_sock, request, server_addr).at("sendto", server_addr)?;
    hears(stage, "client", &client_sock)?;
    says(stage, "client", &client_sock, b"2:0", server_addr).at("sendto", server_addr)?;
    let (answer, _) = hears(stage, "client", &client_sock)?;
    Ok(ids(reply(&answer)?)?.len())
}

pub fn stranger(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Told {
        ByTheStranger,
        ByNobody,
    }
    let (server_sock, server_addr) = bound(ANY_PORT)?; // it has not read its first request yet
    let (client_sock, client_addr) = bound(ANY_PORT)?;
    let (stranger_sock, stranger_addr) = bound(ANY_PORT)?;
    stage.say("setting", format_args!("the server is {server_addr}, the stranger {stranger_addr}"));
    says(stage, "client", &client_sock, b"1:Hello world!", server_addr).at("sendto", server_addr)?;

    let question = stage.ask(
        "The server has not read the request yet. A stranger sends \"0:\" to the client's port. What does the client's recvfrom do?",
        [
            ("it returns the stranger's 2 bytes", Told::ByTheStranger),
            ("it waits for the server's datagram", Told::ByNobody),
        ],
        Predicts { source: Some(Told::ByNobody), kit: Told::ByTheStranger },
    )?;
    says(stage, "stranger", &stranger_sock, b"0:", client_addr).at("sendto", client_addr)?;
    let observed = if waits(&client_sock, LIMIT)? {
        let (answer, from) = hears(stage, "client", &client_sock)?;
        ensure!(reply(&answer).is_ok() && from == stranger_addr, "{from} said something else");
        stage.client("believes it: Message Published; the board is empty");
        Told::ByTheStranger
    } else {
        stage.client(format_args!("nothing in {LIMIT:?}"));
        Told::ByNobody
    };

    // The mended client's socket has one peer. The stranger's has, too: so it is told what became of its datagram.
    client_sock.connect(&server_addr.into()).at("connect", server_addr)?;
    stage.say("mended", format_args!("connect({}, {server_addr}) = 0", client_sock.as_raw_fd()));
    stranger_sock.connect(&client_addr.into()).at("connect", client_addr)?;
    let (fd, stranger_fd) = (client_sock.as_raw_fd(), stranger_sock.as_raw_fd());
    let sent = send(stranger_fd, b"0:", MsgFlags::empty());
    stage.say("stranger", format_args!("send({stranger_fd}, \"0:\", 2) = {}", returned(&sent)));
    ensure!(waits(&stranger_sock, LIMIT)?, "not seen within {LIMIT:?}: the ICMP message to the stranger");
    let refused = recv(stranger_fd, &mut [0; 16], MsgFlags::empty());
    stage.say("stranger", format_args!("recv({stranger_fd}, 16) = {}", returned(&refused)));
    ensure!(refused == Err(Errno::ECONNREFUSED), "the kernel took the stranger's datagram");

    let mut board = Board::default();
    let (request, from) = hears(stage, "server", &server_sock)?;
    let answer = board.answer(&request, from, now())?;
    says(stage, "server", &server_sock, &answer, from).at("sendto", from)?;
    ensure!(waits(&client_sock, LIMIT)?, "not seen within {LIMIT:?}: the server's answer");
    let received = recv(fd, &mut [0; 16], MsgFlags::empty());
    stage.say("mended", format_args!("recv({fd}, 16) = {}", returned(&received)));
    ensure!(received == Ok(answer.len()), "another answer came");
    stage.verdict(question, observed, "an open port hears everybody; connect makes the kernel hand over one peer only")
}

pub fn no_sessions(stage: &mut Stage) -> Result<Verdict> {
    let (server_sock, server_addr) = bound(ANY_PORT)?;
    let (sock_a, addr_a) = bound(ANY_PORT)?;
    let (sock_b, addr_b) = bound(ANY_PORT)?;
    let mut board = Board::default();
    for (who, sock, request) in
        [("client A", &sock_a, "1:from A"), ("client B", &sock_b, "1:from B"), ("client A", &sock_a, "2:0")]
    {
        says(stage, who, sock, request.as_bytes(), server_addr).at("sendto", server_addr)?;
    }
    let question = stage.ask(
        "Two clients have asked before the server reads. How many calls of recvfrom does its one thread need?",
        [("one: it takes all that has come", 1), ("two: one for each client", 2), ("three: one for each request", 3)],
        Predicts { source: Some(3), kit: 3 },
    )?;
    let mut calls = 0;
    while waits(&server_sock, if calls == 0 { LIMIT } else { SILENCE })? {
        let (request, from) = hears(stage, "server", &server_sock)?;
        calls += 1;
        let answer = board.answer(&request, from, now())?;
        says(stage, "server", &server_sock, &answer, from).at("sendto", from)?;
    }
    let mut told = [0; 2];
    for ((who, sock, addr), told) in
        [("client A", &sock_a, addr_a), ("client B", &sock_b, addr_b)].into_iter().zip(&mut told)
    {
        while waits(sock, if *told == 0 { LIMIT } else { SILENCE })? {
            let (answer, from) = hears(stage, who, sock)?;
            ensure!(reply(&answer).is_ok() && from == server_addr, "{addr} was told something else");
            *told += 1;
        }
    }
    ensure!(told == [2, 1] || calls != 3, "the two clients got {told:?} answers");
    stage.verdict(question, calls, "a request is one datagram: it needs no connection, no session and no thread")
}
