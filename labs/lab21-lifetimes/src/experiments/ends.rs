//! Which end closes first, and what a client sees of a close that it did not wait for.

use std::os::fd::AsRawFd;

use anyhow::{Result, bail, ensure};
use kernel::{Pair, State, tcp_sockets, wait_for_state, wait_until};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv, send},
};
use shared::{Predicts, Stage, Verdict, returned};

use super::{LIMIT, accepted, connected, listening, page_role, receive_message, send_all, waits};
use crate::delayed::{ANSWER, REQUEST};

/// Requests, each with a connection of its own.
const REQUESTS: usize = 200;
/// Of these connections so many are open at the same time: an acknowledgement may be delayed by 40 to 200 ms, once for all.
const AT_ONCE: usize = 20;

pub fn who_closes(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Whose {
        Visitors,
        Server,
        Half,
    }
    let (_server, server_addr) = page_role(&[])?;
    stage.client(format_args!("will get an object of {server_addr} {REQUESTS} times, with Connection: close"));
    let question = stage.ask(
        "Each request has a connection of its own, and each connection is closed. On whose ports are the TIME-WAITs afterwards?",
        [
            ("on 200 ports of the visitor: it connected", Whose::Visitors),
            ("on the one port of the server: it closed", Whose::Server),
            ("on half of each: both ends have closed", Whose::Half),
        ],
        Predicts { source: None, kit: Whose::Server },
    )?;
    let mut pairs = Vec::new();
    for number in 0..REQUESTS / AT_ONCE {
        let mut client_socks = Vec::new();
        for _ in 0..AT_ONCE {
            let client_sock = connected(server_addr)?;
            pairs.push(Pair::of(&client_sock)?);
            send_all(&client_sock, b"GET /object/1 HTTP/1.1\r\nHost: page\r\nConnection: close\r\n\r\n")?;
            receive_message(&client_sock)?;
            ensure!(waits(&client_sock, LIMIT)?, "not seen within {LIMIT:?}: the server's end of stream");
            let client_fd = client_sock.as_raw_fd();
            let ended = recv(client_fd, &mut [0; 8], MsgFlags::empty());
            ensure!(ended == Ok(0), "recv did not return end of stream");
            if pairs.len() == 1 {
                stage.client(format_args!("recv({client_fd}, 8) = 0  behind the answer: the server's FIN"));
            }
            client_socks.push(client_sock);
        }
        // RFC 1337: this end closes once the other one has its acknowledgement, which may be delayed; see lab10.
        let batch = &pairs[pairs.len() - AT_ONCE..];
        wait_until("FIN-WAIT-2 at each server's end", LIMIT, || {
            let rows = tcp_sockets(server_addr.port())?;
            let closed =
                rows.iter().filter(|row| row.state == State::FinWait2 && batch.contains(&row.pair.other_end()));
            Ok((closed.count() == AT_ONCE).then_some(()))
        })?;
        if number == 0 {
            stage.kernel([("server", pairs[0].other_end()), ("client", pairs[0])])?;
        }
        let client_fd = client_socks[0].as_raw_fd();
        drop(client_socks); // close(2)
        if number == 0 {
            stage.client(format_args!("close({client_fd}) = 0  and so {} times more", REQUESTS - 1));
        }
    }
    // Until the kernel has processed every last segment: no connection is on its way any more.
    let (visitors, server) = wait_until("the end of all connections", LIMIT, || {
        let rows = tcp_sockets(0)?; // all ports: one look for all connections
        let at_server: Vec<_> = rows.iter().filter(|row| pairs.contains(&row.pair.other_end())).collect();
        let at_visitors: Vec<_> = rows.iter().filter(|row| pairs.contains(&row.pair)).collect();
        let over = at_server.iter().chain(&at_visitors).all(|row| row.state == State::TimeWait);
        Ok(over.then_some((at_visitors.len(), at_server.len())))
    })?;
    let where_now = format!("{server} on the server's port, {visitors} on ports of the visitor");
    stage.say("kernel", format_args!("TIME-WAIT: {where_now}"));
    let observed = match (visitors, server) {
        (0, server) if server > REQUESTS / 2 => Whose::Server,
        (visitors, 0) if visitors > REQUESTS / 2 => Whose::Visitors,
        (1.., 1..) => Whose::Half,
        _ => bail!("too few are left: {where_now}"),
    };

    // The other way: the connection is kept, and the visitor has had enough.
    let client_sock = connected(server_addr)?;
    let (client, client_fd) = (Pair::of(&client_sock)?, client_sock.as_raw_fd());
    send_all(&client_sock, b"GET /object/1 HTTP/1.1\r\nHost: page\r\n\r\n")?;
    receive_message(&client_sock)?;
    drop(client_sock); // close(2)
    wait_for_state(client.other_end(), None, LIMIT)?;
    stage.say("kept", format_args!("close({client_fd}) = 0  here the visitor closes first"));
    stage.kernel([("visitor", client), ("server", client.other_end())])?;
    stage.verdict(question, observed, "Connection: close lets the server close first: TIME-WAIT is on its port")
}

pub fn closed_meanwhile(stage: &mut Stage) -> Result<Verdict> {
    let (listen_sock, server_addr) = listening()?;
    let client_sock = connected(server_addr)?;
    let conn_sock = accepted(&listen_sock)?;
    let (client, client_fd, conn_fd) = (Pair::of(&client_sock)?, client_sock.as_raw_fd(), conn_sock.as_raw_fd());
    send_all(&client_sock, REQUEST)?;
    receive_message(&conn_sock)?;
    send_all(&conn_sock, ANSWER)?;
    receive_message(&client_sock)?;
    stage.client("one request and its answer; the connection is kept");
    drop(conn_sock); // close(2): FIN
    stage.server(format_args!("close({conn_fd}) = 0  as after an idle time: the client does not look"));
    wait_for_state(client, Some(State::CloseWait), LIMIT)?;
    stage.kernel([("client", client)])?;

    stage.look(format_args!("ss -tan 'sport = :{0} or dport = :{0}'", client.local.port()));
    let length = REQUEST.len();
    let question = stage.ask(
        "The client sends its next request over the kept connection. What do send and recv return?",
        [
            ("send EPIPE: the connection is closed", (Err(Errno::EPIPE), None)),
            ("send all its bytes, recv ECONNRESET", (Ok(length), Some(Err(Errno::ECONNRESET)))),
            ("send all its bytes, recv 0", (Ok(length), Some(Ok(0)))),
            ("send all its bytes, recv the answer", (Ok(length), Some(Ok(ANSWER.len())))),
        ],
        Predicts { source: None, kit: (Ok(length), Some(Ok(0))) },
    )?;
    let mut buffer = [0; 1024];
    let sent = send(client_fd, REQUEST, MsgFlags::MSG_NOSIGNAL);
    stage.client(format_args!("send({client_fd}, {length}) = {}", returned(&sent)));
    let mut observed = (sent, None);
    if sent.is_ok() {
        wait_for_state(client, None, LIMIT)?; // the server's reset has come: nobody is there to take the request
        stage.kernel([("client", client)])?;
        let received = recv(client_fd, &mut buffer, MsgFlags::MSG_DONTWAIT);
        stage.client(format_args!("recv({client_fd}, 1024) = {}", returned(&received)));
        observed.1 = Some(received);
    }

    // The same sight with another past: this server has done what it was asked to do, and closed before it answered.
    let client_sock = connected(server_addr)?;
    let conn_sock = accepted(&listen_sock)?;
    let (client_fd, conn_fd) = (client_sock.as_raw_fd(), conn_sock.as_raw_fd());
    send_all(&client_sock, b"POST /guests HTTP/1.1\r\nContent-Length: 0\r\n\r\n")?;
    let head = receive_message(&conn_sock)?;
    stage.say("done", format_args!("another server gets {} {}, does it, and then:", head.words[0], head.words[1]));
    drop(conn_sock); // close(2)
    stage.server(format_args!("close({conn_fd}) = 0  before its answer"));
    ensure!(waits(&client_sock, LIMIT)?, "not seen within {LIMIT:?}: the end of stream");
    let received = recv(client_fd, &mut buffer, MsgFlags::empty());
    stage.client(format_args!("recv({client_fd}, 1024) = {}  done or not: recv says the same", returned(&received)));
    ensure!(received == Ok(0), "the client could tell the two apart");

    let client_sock = connected(server_addr)?;
    let conn_sock = accepted(&listen_sock)?;
    send_all(&client_sock, REQUEST)?;
    receive_message(&conn_sock)?;
    send_all(&conn_sock, ANSWER)?;
    let head = receive_message(&client_sock)?;
    stage.say("repeated", format_args!("GET / once more, over a new connection: {} {}", head.words[1], head.words[2]));
    stage.say("", "GET may be done twice; the POST is not repeated, a person must look");
    stage.verdict(
        question,
        observed,
        "the kernel takes the request, nobody answers: repeat it only if twice does no harm",
    )
}
