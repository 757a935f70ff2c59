//! Resets: what they destroy, and who hears of them.

use std::{os::fd::AsRawFd, time::Duration};

use anyhow::{Context, Result, ensure};
use kernel::{Counters, Pair, State, tcp_socket, wait_for_state, wait_until, window};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv, send},
};
use shared::{At, Predicts, Stage, Verdict, returned};
use socket2::Socket;

use super::{LIMIT, connected_pair};

/// The request: 12 bytes.
const REQUEST: &[u8] = b"last message";
/// How many of them the server reads on the second connection.
const READ_OF_REQUEST: usize = 4;

pub fn unread_input(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Arrives {
        All,
        Part,
        PartThenEnd,
        Nothing,
    }
    // First a close after the whole request was read.
    let (client_sock, conn_sock) = connected_pair()?;
    let conn_fd = conn_sock.as_raw_fd();
    let accepted = answer(stage, &client_sock, &conn_sock, 1024)?;
    drop(conn_sock); // close(2): the FIN is queued behind the unsent answer
    stage.server(format_args!("close({conn_fd}) = 0"));
    let (bytes_read, end) = read_to_the_end(stage, &client_sock);
    ensure!(bytes_read == accepted && end == Ok(0), "{bytes_read} of {accepted} bytes arrived, then {end:?}");
    drop(client_sock);

    let length = REQUEST.len();
    stage.say("again", format_args!("the same, but the server reads only {READ_OF_REQUEST} of the {length} bytes"));
    let (client_sock, conn_sock) = connected_pair()?;
    let (client, server) = (Pair::of(&client_sock)?, Pair::of(&conn_sock)?);
    let conn_fd = conn_sock.as_raw_fd();
    let accepted = answer(stage, &client_sock, &conn_sock, READ_OF_REQUEST)?;
    let waiting = tcp_socket(server)?.context("the server's end is in no table")?;
    stage.say(
        "kernel",
        format_args!("server unread {}, unsent {}", waiting.recv_queue, window::unsent_bytes(&conn_sock)?),
    );

    stage.look(format_args!("ss -tan 'sport = :{0} or dport = :{0}'", server.local.port()));
    let question = stage.ask(
        "Now the server closes again. How much of the answer that send took does the client get this time?",
        [
            ("all of it, then end of stream", Arrives::All),
            ("what had reached its kernel, then ECONNRESET", Arrives::Part),
            ("what had reached its kernel, then end of stream", Arrives::PartThenEnd),
            ("nothing: ECONNRESET at once", Arrives::Nothing),
        ],
        Predicts { source: None, kit: Arrives::Part },
    )?;
    let before = Counters::read()?;
    // While the class looked at the question, more may have gone: the kernel probes the full window.
    stage.say("kernel", format_args!("server unsent {} just before close", window::unsent_bytes(&conn_sock)?));
    drop(conn_sock); // close(2)
    stage.server(format_args!("close({conn_fd}) = 0"));
    let (bytes_read, end) = read_to_the_end(stage, &client_sock);
    stage.kernel([("client", client), ("server", server)])?;
    stage.counted(&before, ["TCPAbortOnClose", "OutRsts"])?;
    let observed = match (bytes_read, end) {
        (all, Ok(0)) if all == accepted => Arrives::All,
        (_, Ok(0)) => Arrives::PartThenEnd,
        (0, Err(_)) => Arrives::Nothing,
        (part, Err(Errno::ECONNRESET)) if part < accepted => Arrives::Part,
        other => anyhow::bail!("of {accepted} bytes the client read {other:?}"),
    };
    stage.verdict(
        question,
        observed,
        "on Linux a close with unread input sends a reset and throws away what was not sent",
    )
}

/// The client sends its request; the server reads once and fills the client's window with its answer. Returns how much
/// of the answer send took.
fn answer(stage: &mut Stage, client_sock: &Socket, conn_sock: &Socket, read: usize) -> Result<usize> {
    let (client_fd, conn_fd) = (client_sock.as_raw_fd(), conn_sock.as_raw_fd());
    let sent = send(client_fd, REQUEST, MsgFlags::empty());
    let (text, length) = (REQUEST.escape_ascii(), REQUEST.len());
    stage.client(format_args!("send({client_fd}, \"{text}\", {length}) = {}", returned(&sent)));
    let server = Pair::of(conn_sock)?;
    wait_until("the request", LIMIT, || Ok(tcp_socket(server)?.filter(|row| row.recv_queue as usize == length)))?;
    let request = recv(conn_fd, &mut vec![0; read], MsgFlags::empty());
    stage.server(format_args!("recv({conn_fd}, {read}) = {}", returned(&request)));

    // Until the client's window is full: the rest of the answer then waits in the server's kernel.
    let block = [b'a'; 65536];
    let (mut accepted, mut sends) = (0, 0);
    loop {
        match send(conn_fd, &block, MsgFlags::MSG_DONTWAIT) {
            Ok(bytes_sent) => (accepted, sends) = (accepted + bytes_sent, sends + 1),
            Err(Errno::EAGAIN) if window::is_full(conn_sock)? => break,
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => return Ok(Err(errno).at("send", "")?),
        }
    }
    stage.server(format_args!("send({conn_fd}, 65536, MSG_DONTWAIT) x{sends} = {accepted} bytes"));
    Ok(accepted)
}

/// Reads until recv returns 0 or fails: the sum, and that last result.
fn read_to_the_end(stage: &mut Stage, sock: &Socket) -> (usize, nix::Result<usize>) {
    let fd = sock.as_raw_fd();
    let mut buffer = vec![0; 65536];
    let (mut bytes_read, mut reads) = (0, 0);
    let end = loop {
        match recv(fd, &mut buffer, MsgFlags::empty()) {
            Ok(more @ 1..) => (bytes_read, reads) = (bytes_read + more, reads + 1),
            Err(Errno::EINTR) => {}
            end => break end,
        }
    };
    stage.client(format_args!("recv({fd}, 65536) x{reads} = {bytes_read} bytes"));
    stage.client(format_args!("recv({fd}, 65536) = {}", returned(&end)));
    (bytes_read, end)
}

pub fn first_send(stage: &mut Stage) -> Result<Verdict> {
    let (client_sock, conn_sock) = connected_pair()?;
    let (client_fd, conn_fd) = (client_sock.as_raw_fd(), conn_sock.as_raw_fd());
    let (client, server) = (Pair::of(&client_sock)?, Pair::of(&conn_sock)?);

    drop(conn_sock); // close(2): FIN
    stage.server(format_args!("close({conn_fd}) = 0"));
    wait_for_state(client, Some(State::CloseWait), LIMIT)?;
    wait_for_state(server, Some(State::FinWait2), LIMIT)?;
    stage.kernel([("client", client), ("server", server)])?;

    let question = stage.ask(
        "No program has the server's end any more. The client sends, waits a moment, and sends again. What do the two return?",
        [
            ("-1 EPIPE, -1 EPIPE", [Err(Errno::EPIPE), Err(Errno::EPIPE)]),
            ("-1 ECONNRESET, -1 EPIPE", [Err(Errno::ECONNRESET), Err(Errno::EPIPE)]),
            ("5, 5", [Ok(5), Ok(5)]),
            ("5, -1 EPIPE", [Ok(5), Err(Errno::EPIPE)]),
        ],
        Predicts { source: Some([Err(Errno::EPIPE), Err(Errno::EPIPE)]), kit: [Ok(5), Err(Errno::EPIPE)] },
    )?;
    let before = Counters::read()?;
    let first = send(client_fd, b"first", MsgFlags::empty());
    stage.client(format_args!("send({client_fd}, \"first\", 5) = {}", returned(&first)));
    wait_until("an answer to these bytes", LIMIT, || {
        Ok(tcp_socket(client)?.is_none_or(|row| row.send_queue == 0).then_some(()))
    })?;
    stage.kernel([("client", client), ("server", server)])?;
    stage.counted(&before, ["OutRsts"])?;
    let second = send(client_fd, b"again", MsgFlags::empty());
    stage.client(format_args!("send({client_fd}, \"again\", 5) = {}", returned(&second)));
    let received = recv(client_fd, &mut [0; 1024], MsgFlags::empty());
    stage.client(format_args!("recv({client_fd}, 1024) = {}", returned(&received)));
    stage.verdict(question, [first, second], "the first send succeeds and draws a reset; the second fails with EPIPE")
}

pub fn linger_0(stage: &mut Stage) -> Result<Verdict> {
    // An ordinary close first.
    let (client_sock, conn_sock) = connected_pair()?;
    let (client_fd, conn_fd) = (client_sock.as_raw_fd(), conn_sock.as_raw_fd());
    let (client, server) = (Pair::of(&client_sock)?, Pair::of(&conn_sock)?);
    drop(client_sock); // close(2)
    stage.client(format_args!("close({client_fd}) = 0"));
    wait_for_state(server, Some(State::CloseWait), LIMIT)?;
    let end = recv(conn_fd, &mut [0; 1024], MsgFlags::empty());
    stage.server(format_args!("recv({conn_fd}, 1024) = {}", returned(&end)));
    ensure!(end == Ok(0), "the server's recv returned {end:?} instead of end of stream");
    wait_for_state(client, Some(State::FinWait2), LIMIT)?; // or a late ACK may end TIME-WAIT: lab10, how-long
    drop(conn_sock); // close(2)
    stage.server(format_args!("close({conn_fd}) = 0"));
    wait_for_state(client, Some(State::TimeWait), LIMIT)?;
    stage.kernel([("client", client), ("server", server)])?;

    let (client_sock, conn_sock) = connected_pair()?;
    let (client_fd, conn_fd) = (client_sock.as_raw_fd(), conn_sock.as_raw_fd());
    let (client, server) = (Pair::of(&client_sock)?, Pair::of(&conn_sock)?);
    stage.say("again", "a new connection; it has the same descriptors");
    client_sock.set_linger(Some(Duration::ZERO)).at("setsockopt", "")?;
    stage.client(format_args!("setsockopt({client_fd}, SOL_SOCKET, SO_LINGER, {{l_onoff=1, l_linger=0}}) = 0"));
    let question = stage.ask(
        "On this second connection SO_LINGER is on, with 0 s. The client closes. What does the server's recv return, and in which state is the client's end?",
        [
            ("0, TIME-WAIT", (Ok(0), Some(State::TimeWait))),
            ("0, in no table", (Ok(0), None)),
            ("-1 ECONNRESET, in no table", (Err(Errno::ECONNRESET), None)),
            ("-1 ECONNRESET, TIME-WAIT", (Err(Errno::ECONNRESET), Some(State::TimeWait))),
        ],
        Predicts { source: None, kit: (Err(Errno::ECONNRESET), None) },
    )?;
    let before = Counters::read()?;
    drop(client_sock); // close(2)
    stage.client(format_args!("close({client_fd}) = 0"));
    wait_until("news of the close at the server's end", LIMIT, || {
        Ok(tcp_socket(server)?.is_none_or(|row| row.state != State::Established).then_some(()))
    })?;
    stage.counted(&before, ["TCPAbortOnData", "OutRsts"])?;
    let received = recv(conn_fd, &mut [0; 1024], MsgFlags::empty());
    stage.server(format_args!("recv({conn_fd}, 1024) = {}", returned(&received)));
    drop(conn_sock); // close(2)
    stage.server(format_args!("close({conn_fd}) = 0"));
    if received == Ok(0) {
        wait_for_state(client, Some(State::TimeWait), LIMIT)?;
    }
    let [state, _] = stage.kernel([("client", client), ("server", server)])?;
    stage.verdict(question, (received, state), "close sends a reset instead of a FIN; no TIME-WAIT stays behind")
}
