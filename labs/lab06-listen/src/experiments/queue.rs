//! The accept queue: how many it takes, what the next one hears, and what becomes of those who wait.

use std::{net::SocketAddr, os::fd::AsRawFd, time::Duration};

use anyhow::{Context, Result, ensure};
use kernel::{Pair, Row, State, tcp_socket, tcp_sockets};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv},
};
use shared::{At, Predicts, Stage, Verdict, returned};
use socket2::Socket;

use super::{bound, client_socket, handshake_over};

/// The lecture's 0, and two more.
const BACKLOGS: [i32; 3] = [0, 1, 5];
/// A handshake that is admitted takes microseconds; the first SYN is repeated after 1 s. Between the two.
const HANDSHAKE_LIMIT: Duration = Duration::from_millis(500);
/// With the second SYN at the latest, about 1 s after an accept has made room.
const ROOM_LIMIT: Duration = Duration::from_secs(4);
/// More clients than any of the backlogs admits.
const CLIENTS: usize = 10;

pub fn backlog(stage: &mut Stage) -> Result<Verdict> {
    let question = stage.ask(
        "Nobody accepts. With listen(fd, 0), listen(fd, 1) and listen(fd, 5): how many clients get connected?",
        [
            ("0, 1 and 5", Some([0, 1, 5])),
            ("1, 2 and 6", Some([1, 2, 6])),
            ("5, 5 and 5: fewer is not possible", Some([5, 5, 5])),
            ("all of them: the kernel rounds up", None),
        ],
        Predicts { source: Some(Some([0, 1, 5])), kit: Some([1, 2, 6]) },
    )?;
    let mut admitted = [0; 3];
    for (admitted, backlog) in admitted.iter_mut().zip(BACKLOGS) {
        let (listen_sock, server_addr) = bound()?;
        listen_sock.listen(backlog).at("listen", server_addr)?;
        stage.server(format_args!("listen({}, {backlog}) = 0", listen_sock.as_raw_fd()));
        let mut clients: Vec<Socket> = Vec::new();
        while clients.len() < CLIENTS {
            let client_sock = client_socket()?;
            client_sock.set_nonblocking(true).at("fcntl", server_addr)?;
            let _in_progress = client_sock.connect(&server_addr.into()); // EINPROGRESS: poll tells the end
            let over = handshake_over(&client_sock, HANDSHAKE_LIMIT)?;
            let error = client_sock.take_error().at("getsockopt", server_addr)?;
            ensure!(error.is_none(), "client {} heard {error:?}", clients.len() + 1);
            clients.push(client_sock);
            if !over {
                break;
            }
            *admitted += 1;
        }
        let queue = listener(server_addr)?;
        let last = clients.last().context("nobody connected")?;
        let last_end = Pair { local: super::local_addr(last)?, peer: server_addr };
        let last_state = tcp_socket(last_end)?.map(|row| row.state);
        stage.say(
            "kernel",
            format_args!(
                "{admitted} connected; accept queue {}, limit {}; the next one: {}",
                queue.recv_queue,
                queue.send_queue,
                last_state.map_or("in no table".into(), |state| state.to_string()),
            ),
        );
        ensure!(queue.recv_queue == *admitted, "{admitted} connected, but {} wait for accept", queue.recv_queue);
    }
    let observed = (admitted.iter().all(|count| (*count as usize) < CLIENTS)).then_some(admitted);
    stage.verdict(question, observed, "a backlog of N admits N+1; 0 is a queue of one")
}

pub fn full_queue(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Next {
        Denied,
        WaitsForEver,
        WaitsThenIn,
    }
    let (listen_sock, server_addr) = bound()?;
    listen_sock.listen(0).at("listen", server_addr)?;
    stage.server(format_args!("listen({}, 0) = 0", listen_sock.as_raw_fd()));
    let first_sock = client_socket()?;
    first_sock.connect(&server_addr.into()).at("connect", server_addr)?;
    stage.say("first", format_args!("connect({}, {server_addr}) = 0", first_sock.as_raw_fd()));
    let queue = listener(server_addr)?;
    stage.say("kernel", format_args!("accept queue {}, limit {}: full", queue.recv_queue, queue.send_queue));

    stage.look(format_args!("ss -tano 'sport = :{0} or dport = :{0}'", server_addr.port()));
    let question = stage.ask(
        "The accept queue is full. A second client connects. What does it hear?",
        [
            ("a reset: ECONNREFUSED or ECONNRESET", Next::Denied),
            ("nothing, and once the server accepts it is in", Next::WaitsThenIn),
            ("nothing, even after the server has accepted: its SYN is lost", Next::WaitsForEver),
        ],
        Predicts { source: Some(Next::Denied), kit: Next::WaitsThenIn },
    )?;
    let second_sock = client_socket()?;
    let second_fd = second_sock.as_raw_fd();
    second_sock.set_nonblocking(true).at("fcntl", server_addr)?;
    let in_progress = second_sock.connect(&server_addr.into());
    stage.say("second", format_args!("connect({second_fd}, {server_addr}) = {}", returned(&in_progress)));
    let heard = handshake_over(&second_sock, HANDSHAKE_LIMIT)?;
    let error = second_sock.take_error().at("getsockopt", server_addr)?;
    let observed = if heard {
        stage.say("second", format_args!("heard {error:?}"));
        ensure!(error.is_some(), "it was let into a queue that is full");
        Next::Denied
    } else {
        let row = tcp_socket(Pair { local: super::local_addr(&second_sock)?, peer: server_addr })?;
        let row = row.context("the second client is in no table")?;
        let next_syn = row.timer.unwrap_or_default().as_millis();
        stage.say("kernel", format_args!("second {}, sends its SYN again in {next_syn} ms", row.state));
        ensure!(row.state == State::SynSent, "the second client is in {}", row.state);

        let (conn_sock, _) = listen_sock.accept().at("accept", server_addr)?;
        stage.server(format_args!("accept({}) = {}", listen_sock.as_raw_fd(), conn_sock.as_raw_fd()));
        stage.say("wait", format_args!("up to {ROOM_LIMIT:?} for the second client's next SYN"));
        if handshake_over(&second_sock, ROOM_LIMIT)? {
            let error = second_sock.take_error().at("getsockopt", server_addr)?;
            ensure!(error.is_none(), "the second client failed: {error:?}");
            let [state] = stage.kernel([("second", Pair::of(&second_sock)?)])?;
            ensure!(state == Some(State::Established), "the second client is in {state:?}");
            Next::WaitsThenIn
        } else {
            Next::WaitsForEver
        }
    };
    stage.verdict(question, observed, "its SYN is dropped, it tries again, and gets in")
}

pub fn close_listener(stage: &mut Stage) -> Result<Verdict> {
    let (listen_sock, server_addr) = bound()?;
    let listen_fd = listen_sock.as_raw_fd();
    listen_sock.listen(5).at("listen", server_addr)?;
    stage.server(format_args!("listen({listen_fd}, 5) = 0"));
    let waiting = [client_socket()?, client_socket()?, client_socket()?];
    for client_sock in &waiting {
        client_sock.connect(&server_addr.into()).at("connect", server_addr)?;
        stage.client(format_args!("connect({}, {server_addr}) = 0", client_sock.as_raw_fd()));
    }
    let queue = listener(server_addr)?;
    stage.say("kernel", format_args!("accept queue {}, limit {}", queue.recv_queue, queue.send_queue));
    let pairs = [Pair::of(&waiting[0])?, Pair::of(&waiting[1])?, Pair::of(&waiting[2])?];

    let question = stage.ask(
        "Three clients wait for accept. The server closes the listening socket. What does their recv return?",
        [
            ("0: end of stream", [Ok(0); 3]),
            ("-1 ECONNRESET", [Err(Errno::ECONNRESET); 3]),
            ("nothing: they stay connected", [Err(Errno::EAGAIN); 3]),
        ],
        Predicts { source: None, kit: [Err(Errno::ECONNRESET); 3] },
    )?;
    drop(listen_sock); // close(2)
    stage.server(format_args!("close({listen_fd}) = 0"));
    let mut heard = [Ok(0); 3];
    for (heard, client_sock) in heard.iter_mut().zip(&waiting) {
        *heard = recv(client_sock.as_raw_fd(), &mut [0; 8], MsgFlags::empty());
        stage.client(format_args!("recv({}, 8) = {}", client_sock.as_raw_fd(), returned(heard)));
    }
    let left = pairs.iter().filter(|pair| tcp_socket(**pair).is_ok_and(|row| row.is_some())).count();
    stage.say("kernel", format_args!("{left} of the three are still in a table"));
    stage.verdict(question, heard, "nobody can accept them any more: each is reset")
}

/// The listening socket with this address: its accept queue and the limit of it.
fn listener(server_addr: SocketAddr) -> Result<Row> {
    let mut rows = tcp_sockets(server_addr.port())?.into_iter();
    let listens = |row: &Row| row.state == State::Listen && row.pair.local == server_addr;
    rows.find(listens).context("no listener in the kernel's table")
}
