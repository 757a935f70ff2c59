//! Before there is a connection: CLOSED, SYN-RECEIVED.

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kernel::{Counters, Pair, State, tcp_info, tcp_sockets, wait_for_state};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv, send, setsockopt},
};
use shared::{At, Predicts, Stage, Verdict, returned};
use socket2::{Domain, Socket, Type};

use super::{LIMIT, connected_pair, listening, wait_until_settled};
use crate::reach::DeferAccept;

/// The kernel rounds up to 15, and then takes an ACK without data; data ends the wait earlier.
const DEFER_SECONDS: i32 = 10;

pub fn closed(stage: &mut Stage) -> Result<Verdict> {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let bound_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", "")?;
    let bound_fd = bound_sock.as_raw_fd();
    stage.say("bound", format_args!("socket(AF_INET, SOCK_STREAM, 0) = {bound_fd}"));
    bound_sock.bind(&any_port.into()).at("bind", any_port)?;
    stage.say("bound", format_args!("bind({bound_fd}, {any_port}) = 0"));
    let bound_addr = bound_sock.local_addr().at("getsockname", any_port)?.as_socket().context("not an IP socket")?;

    let (client_sock, conn_sock) = connected_pair(None)?;
    let (client_fd, conn_fd) = (client_sock.as_raw_fd(), conn_sock.as_raw_fd());
    let client = Pair::of(&client_sock)?;
    conn_sock.set_linger(Some(Duration::ZERO)).at("setsockopt", "")?; // close becomes a reset
    drop(conn_sock); // close(2)
    stage.server(format_args!("close({conn_fd}) = 0  a reset: SO_LINGER is 0"));
    wait_for_state(client, None, LIMIT)?;
    let heard = recv(client_fd, &mut [0; 1024], MsgFlags::empty());
    stage.client(format_args!("recv({client_fd}, 1024) = {}", returned(&heard)));
    ensure!(heard == Err(Errno::ECONNRESET), "no reset: {heard:?}");

    let listed = tcp_sockets(bound_addr.port())?.iter().any(|row| row.pair.local == bound_addr);
    stage.say("kernel", format_args!("bound {}   client in no table", if listed { "listed" } else { "in no table" }));
    ensure!(!listed, "the bound socket is in the table");

    let question = stage.ask(
        "netstat -a lists neither of these two sockets. Their descriptors are open. Which state does getsockopt(TCP_INFO) give for each?",
        [
            ("bound: an error, client: an error", (None, None)),
            ("bound: an error, client: CLOSED", (None, Some(State::Closed))),
            ("bound: CLOSED, client: ESTABLISHED", (Some(State::Closed), Some(State::Established))),
            ("bound: CLOSED, client: CLOSED", (Some(State::Closed), Some(State::Closed))),
        ],
        Predicts { source: None, kit: (Some(State::Closed), Some(State::Closed)) },
    )?;
    let mut states = [None, None];
    for (state, (who, sock)) in states.iter_mut().zip([("bound", &bound_sock), ("client", &client_sock)]) {
        let result = tcp_info::state(sock);
        *state = result.ok().flatten();
        let name = state.map_or(String::new(), |state| format!("  {state}"));
        let result = result.map(|_| 0);
        stage.say(
            who,
            format_args!("getsockopt({}, SOL_TCP, TCP_INFO) = {}{name}", sock.as_raw_fd(), returned(&result)),
        );
    }
    stage.verdict(
        question,
        (states[0], states[1]),
        "CLOSED is a real value in Linux: a socket has it before and after a connection",
    )
}

pub fn deferred(stage: &mut Stage) -> Result<Verdict> {
    let (listen_sock, server_addr) = listening(1, None)?;
    let listen_fd = listen_sock.as_raw_fd();
    setsockopt(&listen_sock, DeferAccept, &DEFER_SECONDS).at("setsockopt", "TCP_DEFER_ACCEPT")?;
    stage.server(format_args!("setsockopt({listen_fd}, SOL_TCP, TCP_DEFER_ACCEPT, [{DEFER_SECONDS}]) = 0"));
    let client_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
    let client_fd = client_sock.as_raw_fd();

    let question = stage.ask(
        "With this option accept hears later of a client that has sent nothing. A client connects and sends nothing. Which states do the ends have at first?",
        [
            ("client ESTABLISHED, server ESTABLISHED", [Some(State::Established); 2]),
            ("client SYN-SENT, server SYN-RECEIVED", [Some(State::SynSent), Some(State::SynReceived)]),
            ("client ESTABLISHED, server SYN-RECEIVED", [Some(State::Established), Some(State::SynReceived)]),
            ("client ESTABLISHED, server in no table", [Some(State::Established), None]),
        ],
        Predicts {
            source: Some([Some(State::Established); 2]),
            kit: [Some(State::Established), Some(State::SynReceived)],
        },
    )?;
    let before = Counters::read()?;
    let result = client_sock.connect(&server_addr.into());
    stage.client(format_args!("connect({client_fd}, {server_addr}) = {}", returned(&result)));
    let client = Pair::of(&client_sock)?;
    let ends = [client, client.other_end()];
    wait_until_settled(ends, [Some(State::Established), Some(State::SynReceived)])?;
    let observed = stage.kernel([("client", ends[0]), ("server", ends[1])])?;
    stage.counted(&before, ["TCPDeferAcceptDrop"])?;

    let sent = send(client_fd, b"hello", MsgFlags::empty());
    stage.client(format_args!("send({client_fd}, \"hello\", 5) = {}", returned(&sent)));
    wait_for_state(ends[1], Some(State::Established), LIMIT)?;
    stage.kernel([("client", ends[0]), ("server", ends[1])])?;
    stage.verdict(
        question,
        observed,
        "each end has its own state; at first the server's kernel drops an ACK without data",
    )
}
