//! How a conversation ends, and what a server makes of an end that it does not expect.

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use kernel::{Pair, State, wait_for_state, wait_until};
use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, kill},
        socket::{MsgFlags, send},
    },
};
use shared::{At, Predicts, Stage, Verdict, returned};
use socket2::{Domain, Socket, Type};

use super::{LIMIT, framed, let_in, receive, server_role};
use crate::connection::RECEIVED;

/// So long the handler may do what it does.
const WATCHED: Duration = Duration::from_secs(1);

pub fn just_leaves(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Thread {
        Ends,
        Waits,
        Spins,
    }
    let (mut naive, naive_addr) = server_role(&["--naive"])?;
    let (mut mended, mended_addr) = server_role(&[])?;
    let (client_sock, client_addr) = let_in(&mut naive, naive_addr)?;
    let client_fd = client_sock.as_raw_fd();
    let client = Pair::of(&client_sock)?;
    stage.say("exam", "while connected: msg_length = conn.recv(HEADER); if msg_length: ...");

    let question = stage.ask(
        "The client closes without !DISCONNECT. What does the handler's thread in our copy of this loop do now?",
        [
            ("it waits in recv for the next header", Thread::Waits),
            ("it ends, because its client is gone", Thread::Ends),
            ("it calls recv again and again, without a wait", Thread::Spins),
        ],
        Predicts { source: None, kit: Thread::Spins },
    )?;
    drop(client_sock); // close(2): FIN
    stage.client(format_args!("close({client_fd}) = 0"));
    wait_for_state(client.other_end(), Some(State::CloseWait), LIMIT)?;
    let closed = Instant::now();
    wait_until("a second to pass", LIMIT, || Ok((closed.elapsed() >= WATCHED).then_some(())))?;
    stage.kernel([("client", client), ("naive server", client.other_end())])?;
    // It stays counted: the next client is told to be the second.
    let (next_sock, _) = let_in(&mut naive, naive_addr)?;
    stage.say("next", format_args!("connect({}, {naive_addr}) = 0", next_sock.as_raw_fd()));
    stage.say("naive", naive.line_with("[ACTIVE CONNECTIONS] ")?);
    kill(naive.pid(), Signal::SIGINT).at("kill", naive.pid())?; // its handlers say how they end
    let told = naive.line_with(&format!("[CLOSED] {client_addr}: "))?;
    stage.say("naive", &told);
    let zeros = told.split("recv has returned 0 ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
    let observed = match zeros {
        None => Thread::Ends,
        Some(0 | 1) => Thread::Waits,
        Some(_) => Thread::Spins,
    };

    let (client_sock, client_addr) = let_in(&mut mended, mended_addr)?;
    let client = Pair::of(&client_sock)?;
    drop(client_sock); // close(2)
    stage.say("mended", mended.line_with(&format!("[CLOSED] {client_addr}: "))?);
    wait_for_state(client.other_end(), None, LIMIT)?;
    stage.say("mended", mended.line_with("[ACTIVE CONNECTIONS] ")?);
    stage.verdict(question, observed, "recv returns 0 at once, again and again: 0 is the end, so leave the loop")
}

pub fn other_word(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Server {
        Ends,
        Stays,
        Silent,
    }
    let (mut server, addr) = server_role(&[])?;
    let (client_sock, client_addr) = let_in(&mut server, addr)?;
    let client_fd = client_sock.as_raw_fd();
    let client = Pair::of(&client_sock)?;

    let question = stage.ask(
        "The client's constant is DISCONNECT, the server's is !DISCONNECT. What happens when the client sends its word?",
        [
            ("the server answers and ends the connection", Server::Ends),
            ("the server does not answer: the word is unknown", Server::Silent),
            ("the server answers and waits for more messages", Server::Stays),
        ],
        Predicts { source: Some(Server::Ends), kit: Server::Stays },
    )?;
    let mut buffer = [0; 2048];
    let mut observed = Server::Silent;
    for word in ["DISCONNECT", "still there?"] {
        let sent = send(client_fd, &framed(word), MsgFlags::empty());
        stage.client(format_args!("send({client_fd}, {}) = {}  header and {word:?}", 64 + word.len(), returned(&sent)));
        let received = receive(&client_sock, &mut buffer);
        stage.client(format_args!("recv({client_fd}, 2048) = {}", returned(&received)));
        observed = match received {
            Ok(0) => Server::Ends,
            Ok(bytes_read) if buffer[..bytes_read] == *RECEIVED.as_bytes() => Server::Stays,
            _ => Server::Silent,
        };
    }
    stage.kernel([("client", client), ("server", client.other_end())])?;
    if observed != Server::Stays {
        return stage.verdict(question, observed, "the connection has ended with another word");
    }
    stage.server(server.line_with(&format!("[{client_addr}] still"))?);

    let sent = send(client_fd, &framed("!DISCONNECT"), MsgFlags::empty());
    stage.client(format_args!("send({client_fd}, 75) = {}  header and \"!DISCONNECT\"", returned(&sent)));
    stage.server(server.line_with(&format!("[CLOSED] {client_addr}: "))?);

    let (wordless_sock, wordless_addr) = let_in(&mut server, addr)?;
    let wordless_fd = wordless_sock.as_raw_fd();
    drop(wordless_sock); // close(2): FIN
    stage.say("another", format_args!("close({wordless_fd}) = 0"));
    stage.server(server.line_with(&format!("[CLOSED] {wordless_addr}: "))?);
    stage.verdict(question, observed, "to the server it is a message like any other; end of stream needs no word")
}

pub fn two_ports(stage: &mut Stage) -> Result<Verdict> {
    // Two ports of the kernel's choice stand for 5890, where the server listens, and 5050, where nobody does.
    let (server, server_addr) = server_role(&[])?;
    let other_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", "")?;
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    other_sock.bind(&any_port.into()).at("bind", any_port)?; // bound, and not listening: no one else can take it
    let other_addr = other_sock.local_addr().at("getsockname", "")?.as_socket().context("not an IP socket")?;
    stage.server(format_args!("listens on port {}; nobody listens on port {}", server_addr.port(), other_addr.port()));

    let question = stage.ask(
        "The exam's client connects to the other port. What does connect return?",
        [
            ("0: the server has this address", Ok(())),
            ("-1 ETIMEDOUT: nobody answers", Err(Errno::ETIMEDOUT)),
            ("-1 ECONNREFUSED: a reset answers", Err(Errno::ECONNREFUSED)),
            ("-1 EADDRNOTAVAIL: the port is not open", Err(Errno::EADDRNOTAVAIL)),
        ],
        Predicts { source: Some(Ok(())), kit: Err(Errno::ECONNREFUSED) },
    )?;
    let client_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", other_addr)?;
    let connected = client_sock.connect(&other_addr.into());
    stage.client(format_args!("connect({}, {other_addr}) = {}", client_sock.as_raw_fd(), returned(&connected)));
    let observed = connected.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)));

    let right_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
    let right = right_sock.connect(&server_addr.into());
    stage.client(format_args!("connect({}, {server_addr}) = {}", right_sock.as_raw_fd(), returned(&right)));
    ensure!(right.is_ok(), "nobody listens where the server said");
    drop(server);
    stage.verdict(question, observed, "a program is reached by address and port: both ends must name the same two")
}
