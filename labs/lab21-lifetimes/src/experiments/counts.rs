//! How many connections a page takes, and how many connections ports allow.

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsRawFd,
};

use anyhow::{Context, Result, ensure};
use kernel::{Pair, State, tcp_sockets, wait_for_state, wait_until};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv},
};
use shared::{At, Predicts, Stage, Verdict, returned};
use socket2::{Domain, Socket, Type};

use super::{LIMIT, accepted, connected, listening, page_role, receive_message, send_all, waits};
use crate::service::OBJECTS;

pub fn ten_objects(stage: &mut Stage) -> Result<Verdict> {
    let (_server, server_addr) = page_role(&[])?;
    let mut targets = vec!["/".to_string()];
    targets.extend((1..=OBJECTS).map(|number| format!("/object/{number}")));

    // As the lecture has it: each request says that it is the last one of its connection.
    let (pairs, _) = visited(stage, "close", server_addr, &targets, "Connection: close\r\n")?;
    let time_waits = wait_until("the end of all connections", LIMIT, || {
        let rows = tcp_sockets(server_addr.port())?;
        let here = rows.iter().filter(|row| pairs.contains(&row.pair.other_end()));
        let over = here.clone().all(|row| row.state == State::TimeWait);
        Ok(over.then_some(here.count()))
    })?;
    stage.say("kernel", format_args!("connections opened: {}; server's ends in TIME-WAIT: {time_waits}", pairs.len()));

    let question = stage.ask(
        "The same 11 requests of HTTP/1.1 again, and now neither end says a word about Connection. How many connections?",
        [
            ("11: each request begins with a handshake", 11),
            ("1: both ends keep the connection unasked", 1),
            ("2: one for the page, and one for its objects", 2),
        ],
        Predicts { source: Some(11), kit: 1 },
    )?;
    let (pairs, kept) = visited(stage, "unasked", server_addr, &targets, "")?;
    stage.say("kernel", format_args!("connections opened: {}", pairs.len()));
    if let Some(kept_sock) = &kept {
        let pair = Pair::of(kept_sock)?;
        stage.kernel([("client", pair), ("server", pair.other_end())])?;
    }
    stage.verdict(question, pairs.len(), "HTTP/1.1 keeps a connection unless an end says close: one handshake for all")
}

/// Gets all targets, one after the other, over as few connections as the answers allow. Returns the addresses of each
/// connection, and the socket of the one that is still there.
fn visited(
    stage: &mut Stage,
    label: &str,
    addr: SocketAddr,
    targets: &[String],
    wish: &str,
) -> Result<(Vec<Pair>, Option<Socket>)> {
    let (mut kept, mut pairs): (Option<Socket>, Vec<Pair>) = (None, Vec::new());
    let mut buffer = [0; 1024];
    for (number, target) in targets.iter().enumerate() {
        let client_sock = match kept.take() {
            Some(client_sock) => client_sock,
            None => {
                let client_sock = connected(addr)?;
                pairs.push(Pair::of(&client_sock)?);
                if number == 0 {
                    stage.say(label, format_args!("connect({}, {addr}) = 0", client_sock.as_raw_fd()));
                }
                client_sock
            }
        };
        let fd = client_sock.as_raw_fd();
        send_all(&client_sock, format!("GET {target} HTTP/1.1\r\nHost: {addr}\r\n{wish}\r\n").as_bytes())?;
        let head = receive_message(&client_sock)?;
        ensure!(head.words[1] == "200", "the answer was {:?}", head.words);
        let says = head.field("Connection").map_or("says nothing of Connection".into(), |word| format!("says {word}"));
        if number == 0 {
            stage.say(label, format_args!("GET {target}, answered with {}; the answer {says}", head.words[1]));
        }
        if head.keeps_connection() {
            kept = Some(client_sock);
            continue;
        }
        ensure!(waits(&client_sock, LIMIT)?, "not seen within {LIMIT:?}: the server's end of stream");
        let ended = recv(fd, &mut buffer, MsgFlags::empty());
        ensure!(ended == Ok(0), "recv did not return end of stream");
        wait_for_state(pairs[pairs.len() - 1].other_end(), Some(State::FinWait2), LIMIT)?; // RFC 1337: see lab10
        drop(client_sock); // close(2)
        if number == 0 {
            stage.say(label, format_args!("recv({fd}, 1024) = {}  the server closed first", returned(&ended)));
            stage.say(label, format_args!("close({fd}) = 0  and so for the ten objects"));
        }
    }
    if kept.is_some() {
        stage.say(label, "and so for the ten objects");
    }
    Ok((pairs, kept))
}

pub fn four_addresses(stage: &mut Stage) -> Result<Verdict> {
    let (first_listen_sock, first_addr) = listening()?;
    let (second_listen_sock, second_addr) = listening()?;
    // Two ports that connect chooses for nobody, as they are bound. SO_REUSEADDR: each may be bound again, by those who
    // set the option, too.
    let holders = [bound(0)?, bound(0)?];
    let mut ports = [0; 2];
    for (port, holder) in ports.iter_mut().zip(&holders) {
        *port = holder.local_addr().at("getsockname", "")?.as_socket().context("not an IP socket")?.port();
    }
    stage.client(format_args!("has two ports, {} and {}, and binds each socket to one of them", ports[0], ports[1]));
    stage.server(format_args!("two servers, {first_addr} and {second_addr}"));

    let question = stage.ask(
        "The client connects from each port to each server, and once more from each port to the first server. How many of these six connections are there at once?",
        [
            ("2: each connection takes a port of the client", 2),
            ("4: each port of the client once towards each server", 4),
            ("6: a port is only a number in the segments", 6),
        ],
        Predicts { source: Some(2), kit: 4 },
    )?;
    let mut open = Vec::new();
    let tries = [first_addr, second_addr, first_addr].into_iter().flat_map(|addr| ports.map(|port| (port, addr)));
    for (port, server_addr) in tries {
        let sock = bound(port)?;
        let connected = sock.connect(&server_addr.into());
        let fd = sock.as_raw_fd();
        let told = connected.as_ref().map_or("-1 EADDRNOTAVAIL", |()| "0");
        match connected {
            Ok(()) => {
                let listen_sock = if server_addr == first_addr { &first_listen_sock } else { &second_listen_sock };
                open.push((sock, accepted(listen_sock)?));
            }
            Err(error) => {
                let errno = error.raw_os_error().map(Errno::from_raw);
                ensure!(errno == Some(Errno::EADDRNOTAVAIL), "connect {server_addr}: {error}");
            }
        }
        stage.client(format_args!("connect({fd}, {server_addr}) = {told}  from {port}"));
    }
    let mut established = 0;
    for (_, conn_sock) in &open {
        let row = wait_for_state(Pair::of(conn_sock)?, Some(State::Established), LIMIT)?;
        established += usize::from(row.is_some());
    }
    stage.say("kernel", format_args!("{established} ESTABLISHED at the servers' ends, on two ports"));
    drop(holders);
    stage.verdict(question, established, "a connection is its four addresses together; each end's port may be in many")
}

/// A client's socket, bound to this port with SO_REUSEADDR.
fn bound(port: u16) -> Result<Socket> {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", addr)?;
    sock.set_reuse_address(true).at("setsockopt", addr)?;
    sock.bind(&addr.into()).at("bind", addr)?;
    Ok(sock)
}
