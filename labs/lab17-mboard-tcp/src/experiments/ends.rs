//! What end of stream says, and what the end of a connection leaves behind.

use std::{net::Shutdown, os::fd::AsRawFd};

use anyhow::{Context, Result, ensure};
use board::{Board, now};
use kernel::{Pair, State, tcp_socket, tcp_sockets, wait_until};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv, send},
};
use shared::{At, Predicts, Role, Stage, Verdict, returned};

use super::{LIMIT, accepted, connected, listening, receive_all, send_all, server_role, waits};

/// Requests, each with a connection of its own.
const REQUESTS: usize = 100;

pub fn killed_halfway(stage: &mut Stage) -> Result<Verdict> {
    let (listen_sock, server_addr) = listening()?;
    let mut client = Role::start(&["client", &server_addr.to_string(), "--publish", "-"])?;
    let conn_sock = accepted(&listen_sock)?;
    let conn_fd = conn_sock.as_raw_fd();
    let server = Pair::of(&conn_sock)?;
    client.type_line("Give 100 euros")?;
    let (mut request, mut buffer) = (Vec::new(), [0; 1024]);
    while !request.ends_with(b"\n") {
        ensure!(waits(&conn_sock, LIMIT)?, "not seen within {LIMIT:?}: what the client sends");
        let received = recv(conn_fd, &mut buffer, MsgFlags::empty());
        request.extend(&buffer[..received.at("recv", "")?]);
    }
    stage.server(format_args!("has received {} bytes: \"{}\"", request.len(), request.escape_ascii()));

    let question = stage.ask(
        "The client wants to go on with \"to nobody\", and is killed before. What does the server's next recv return?",
        [
            ("-1 ECONNRESET: the client is broken", Err(Errno::ECONNRESET)),
            ("0: the end of the stream", Ok(0)),
            ("-1 EPIPE: the pipe is broken", Err(Errno::EPIPE)),
        ],
        Predicts { source: Some(Err(Errno::ECONNRESET)), kit: Ok(0) },
    )?;
    stage.say("kill", format_args!("kill -9 {}", client.pid()));
    drop(client); // kill -9, and it is waited for
    ensure!(waits(&conn_sock, LIMIT)?, "not seen within {LIMIT:?}: the client's end");
    let observed = recv(conn_fd, &mut buffer, MsgFlags::empty());
    stage.server(format_args!("recv({conn_fd}, 1024) = {}", returned(&observed)));
    stage.kernel([("server", server)])?;
    if observed == Ok(0) {
        let mut board = Board::default();
        board.answer(&request, server.peer, now())?;
        let published = board.last(0).first().context("it was not published")?;
        stage.say("board", format_args!("has the message \"{}\"", published.text.escape_ascii()));
    }

    // The same with a length ahead: 9 bytes are announced, 4 come.
    let client_sock = connected(server_addr)?;
    let conn_sock = accepted(&listen_sock)?;
    send_all(&client_sock, b"9:1:Gi")?;
    drop(client_sock); // close(2): FIN, as after a kill
    let (request, _) = receive_all(&conn_sock)?;
    let (length, body) = request.split_at_checked(2).context("too few bytes came")?;
    stage.say("mended", "the same with a length ahead, \"9:1:Give me\", and a client that ends after \"Gi\"");
    stage.server(format_args!("has received \"{}\", then end of stream", request.escape_ascii()));
    ensure!(length == b"9:" && body.len() < 9, "the cut request is whole");
    stage.server(format_args!("{} of 9 bytes: nothing is published", body.len()));
    stage.verdict(
        question,
        observed,
        "the kernel sends FIN for the dead, too: say how long a message is, or mark its end",
    )
}

pub fn whose_time_wait(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Whose {
        Clients,
        Server,
        Nobody,
    }
    let (mut server, server_addr) = server_role(&[])?;
    let question = stage.ask(
        "A client makes a hundred requests, each as in the lecture. Afterwards, whose ports are in TIME-WAIT?",
        [
            ("the hundred ports of the client", Whose::Clients),
            ("the one port of the server", Whose::Server),
            ("none: both ends have closed", Whose::Nobody),
        ],
        Predicts { source: None, kit: Whose::Clients },
    )?;
    let mut pairs = Vec::new();
    for number in 0..REQUESTS {
        let client_sock = connected(server_addr)?;
        let client_fd = client_sock.as_raw_fd();
        pairs.push(Pair::of(&client_sock)?);
        let sent = send(client_fd, b"2:0", MsgFlags::MSG_NOSIGNAL);
        client_sock.shutdown(Shutdown::Write).at("shutdown", server_addr)?;
        let (answer, _) = receive_all(&client_sock)?;
        drop(client_sock); // close(2)
        ensure!(answer == b"0:", "the answer was {:?}", answer.escape_ascii().to_string());
        if number == 0 {
            stage.client(format_args!("send({client_fd}, \"2:0\", 3) = {}", returned(&sent)));
            stage.client(format_args!("shutdown({client_fd}, SHUT_WR) = 0"));
            stage.client("reads \"0:\", then the server's end of stream; and so 99 times more");
        }
    }
    server.wait_for(" closed: ")?;
    // Until the kernel has processed every last segment: no connection is on its way any more.
    wait_until("the end of all connections", LIMIT, || {
        for pair in &pairs {
            let states = [tcp_socket(*pair)?, tcp_socket(pair.other_end())?].map(|row| row.map(|row| row.state));
            if states.iter().any(|state| !matches!(state, None | Some(State::TimeWait))) {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })?;
    let at_server = tcp_sockets(server_addr.port())?.iter().filter(|row| row.state == State::TimeWait).count();
    let mut at_clients = 0;
    for pair in &pairs {
        at_clients += usize::from(tcp_socket(*pair)?.is_some());
    }
    stage.say(
        "kernel",
        format_args!("{at_clients} in TIME-WAIT with a port of the client, {at_server} with the server's"),
    );
    let observed = match (at_clients, at_server) {
        (clients, server) if clients > REQUESTS / 2 && server == 0 => Whose::Clients,
        (clients, server) if server > clients => Whose::Server,
        (0, 0) => Whose::Nobody,
        both => anyhow::bail!("TIME-WAIT at both ends: {both:?}"),
    };
    stage.verdict(
        question,
        observed,
        "the client's shutdown sends the first FIN: who ends first waits, on its own port",
    )
}
