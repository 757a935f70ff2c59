//! The accept queue: how many it takes, what the next one hears, and what becomes of those who wait.

use std::{net::SocketAddr, os::fd::AsRawFd, time::Duration};

use anyhow::{Context, Result, ensure};
use kernel::{Counters, Pair, Row, State, tcp_socket, tcp_sockets};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv},
};
use shared::{At, Predicts, Stage, Verdict, returned};

use super::{bound, client_socket, handshake_over};

/// The lecture's 0, and two more.
const BACKLOGS: [i32; 3] = [0, 1, 5];
/// Between two times: the handshake of a client that is let in takes microseconds, and a SYN is repeated after 1 s.
const HANDSHAKE_LIMIT: Duration = Duration::from_millis(500);
/// How long the second client's next SYN may take: the kernel sends it after about 1 s, or 1 s after that one.
const NEXT_SYN_LIMIT: Duration = Duration::from_secs(4);
/// More clients than any of the backlogs admits.
const CLIENTS: usize = 10;

pub fn backlog(stage: &mut Stage) -> Result<Verdict> {
    let question = stage.ask(
        "Nobody accepts. Clients connect, one after the other, until one gets no answer. With listen(fd, 0), listen(fd, 1) and \
         listen(fd, 5): how many get connected?",
        [("0, 1 and 5", [0, 1, 5]), ("1, 2 and 6", [1, 2, 6]), ("1, 1 and 5", [1, 1, 5]), ("5, 5 and 5", [5, 5, 5])],
        Predicts { source: Some([0, 1, 5]), kit: [1, 2, 6] },
    )?;
    let mut admitted = [0; 3];
    let mut kept = Vec::new(); // until the class has seen them beside the verdict
    for (admitted, backlog) in admitted.iter_mut().zip(BACKLOGS) {
        let (listen_sock, server_addr) = bound()?;
        listen_sock.listen(backlog).at("listen", server_addr)?;
        stage.server(format_args!("listen({}, {backlog}) = 0", listen_sock.as_raw_fd()));
        let (mut tried, mut clients) = (0, Vec::new());
        while tried < CLIENTS {
            let client_sock = client_socket()?;
            client_sock.set_nonblocking(true).at("fcntl", server_addr)?;
            let _in_progress = client_sock.connect(&server_addr.into()); // EINPROGRESS: poll tells the end
            let over = handshake_over(&client_sock, HANDSHAKE_LIMIT)?;
            let error = client_sock.take_error().at("getsockopt", server_addr)?;
            ensure!(error.is_none(), "client {} heard {error:?}", tried + 1);
            tried += 1;
            if !over {
                break; // close(2): no more SYNs
            }
            clients.push(client_sock);
            *admitted += 1;
        }
        let queue = listener(server_addr)?;
        stage.client(format_args!("{admitted} of {tried} connected within {HANDSHAKE_LIMIT:?} each"));
        stage.say("kernel", format_args!("accept queue {}, limit {}", queue.recv_queue, queue.send_queue));
        ensure!(queue.recv_queue == *admitted, "{admitted} connected, but {} wait for accept", queue.recv_queue);
        kept.push((listen_sock, clients));
    }
    stage.verdict(question, admitted, "a backlog of N lets N+1 in; at 0 there is a queue of one")
}

pub fn full_queue(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Second {
        Reset,
        HearsNothing,
        GetsIn,
    }
    let (listen_sock, server_addr) = bound()?;
    let backlog = 0;
    listen_sock.listen(backlog).at("listen", server_addr)?;
    stage.server(format_args!("listen({}, {backlog}) = 0", listen_sock.as_raw_fd()));
    let first_sock = client_socket()?;
    first_sock.connect(&server_addr.into()).at("connect", server_addr)?;
    stage.say("first", format_args!("connect({}, {server_addr}) = 0", first_sock.as_raw_fd()));
    let queue = listener(server_addr)?;
    stage.say("kernel", format_args!("accept queue {}, limit {}", queue.recv_queue, queue.send_queue));
    ensure!(queue.recv_queue > queue.send_queue, "the accept queue is not full");

    stage.look(format_args!("ss -tano 'sport = :{0} or dport = :{0}'", server_addr.port()));
    let question = stage.ask(
        "That queue is full. A second client connects; half a second later the server accepts the first. What does the second get?",
        [
            ("a reset: ECONNREFUSED", Second::Reset),
            ("no answer, and after that a connection", Second::GetsIn),
            ("no answer, even after that: its SYN is lost", Second::HearsNothing),
        ],
        Predicts { source: Some(Second::Reset), kit: Second::GetsIn },
    )?;
    let before = Counters::read()?;
    let second_sock = client_socket()?;
    let second_fd = second_sock.as_raw_fd();
    second_sock.set_nonblocking(true).at("fcntl", server_addr)?;
    let in_progress = second_sock.connect(&server_addr.into());
    stage.say("second", format_args!("connect({second_fd}, {server_addr}) = {}", returned(&in_progress)));
    let heard = handshake_over(&second_sock, HANDSHAKE_LIMIT)?;
    let error = second_sock.take_error().at("getsockopt", server_addr)?;
    let observed = if heard {
        let error = error.context("the second client was let into a queue that is full")?;
        stage.say("second", format_args!("getsockopt({second_fd}, SOL_SOCKET, SO_ERROR): {error}"));
        Second::Reset
    } else {
        let row = tcp_socket(Pair { local: super::local_addr(&second_sock)?, peer: server_addr })?;
        let row = row.context("the second client is in no table")?;
        let next_syn = row.timer.unwrap_or_default().as_millis();
        stage.say("kernel", format_args!("second {}, sends its SYN again in {next_syn} ms", row.state));
        stage.counted(&before, ["ListenOverflows", "ListenDrops"])?;
        ensure!(row.state == State::SynSent, "the second client is in {}", row.state);

        let (conn_sock, _) = listen_sock.accept().at("accept", server_addr)?;
        stage.server(format_args!("accept({}) = {}", listen_sock.as_raw_fd(), conn_sock.as_raw_fd()));
        stage.say("wait", format_args!("up to {NEXT_SYN_LIMIT:?} for the second client's next SYN"));
        if handshake_over(&second_sock, NEXT_SYN_LIMIT)? {
            let error = second_sock.take_error().at("getsockopt", server_addr)?;
            ensure!(error.is_none(), "the second client failed: {error:?}");
            stage.counted(&before, ["TCPSynRetrans"])?;
            let [state] = stage.kernel([("second", Pair::of(&second_sock)?)])?;
            ensure!(state == Some(State::Established), "the second client is in {state:?}");
            Second::GetsIn
        } else {
            Second::HearsNothing
        }
    };
    stage.verdict(question, observed, "the SYN is dropped; the client sends it again, and gets in")
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
            ("nothing: recv waits", [Err(Errno::EAGAIN); 3]),
        ],
        Predicts { source: None, kit: [Err(Errno::ECONNRESET); 3] },
    )?;
    drop(listen_sock); // close(2)
    stage.server(format_args!("close({listen_fd}) = 0"));
    let mut heard = [Ok(0); 3];
    for (heard, client_sock) in heard.iter_mut().zip(&waiting) {
        while {
            *heard = recv(client_sock.as_raw_fd(), &mut [0; 8], MsgFlags::empty());
            *heard == Err(Errno::EINTR) // Ctrl-Z, then fg: with SO_RCVTIMEO recv is not restarted, signal(7)
        } {}
        stage.client(format_args!("recv({}, 8) = {}", client_sock.as_raw_fd(), returned(heard)));
    }
    let left = pairs.iter().filter(|pair| tcp_socket(**pair).is_ok_and(|row| row.is_some())).count();
    stage.say("kernel", format_args!("{left} of the three clients are still in the table"));
    stage.verdict(question, heard, "no accept can fetch them any more: the kernel resets each")
}

/// The listening socket with this address: its accept queue, and the limit of that queue.
fn listener(server_addr: SocketAddr) -> Result<Row> {
    let mut rows = tcp_sockets(server_addr.port())?.into_iter();
    let listens = |row: &Row| row.state == State::Listen && row.pair.local == server_addr;
    rows.find(listens).context("no listener in the kernel's table")
}
