//! Resets: what they destroy, and who hears of them.

use std::{
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kernel::{Pair, State, tcp_socket, wait_for_state};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, poll},
    sys::socket::{MsgFlags, recv, send},
};
use shared::{At, Predicts, Stage, Verdict, returned};
use socket2::Socket;

use super::{LIMIT, connected_pair};

/// What the server reads of the request's 12 bytes in the second half.
const READ_OF_REQUEST: usize = 4;
/// So long no room in the send buffer: the receiver's window is shut, it is not just slow.
const NO_ROOM_MS: u8 = 50;

pub fn unread_input(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Arrives {
        All,
        Part,
        Nothing,
    }
    // The control: the request is read to its last byte.
    let (client_sock, conn_sock) = connected_pair()?;
    let conn_fd = conn_sock.as_raw_fd();
    let (accepted, _) = answer(stage, &client_sock, &conn_sock, 1024)?;
    drop(conn_sock); // close(2): FIN, once all is sent
    stage.server(format_args!("close({conn_fd}) = 0"));
    let (bytes_read, end) = read_to_the_end(stage, &client_sock)?;
    ensure!(bytes_read == accepted && end == Ok(0), "{bytes_read} of {accepted} bytes arrived, then {end:?}");
    drop(client_sock);

    stage.say("again", "the same, but the server reads only 4 of the 12 bytes");
    let (client_sock, conn_sock) = connected_pair()?;
    let (client, server) = (Pair::of(&client_sock)?, Pair::of(&conn_sock)?);
    let conn_fd = conn_sock.as_raw_fd();
    let (accepted, unacknowledged) = answer(stage, &client_sock, &conn_sock, READ_OF_REQUEST)?;
    stage.say("kernel", format_args!("server unacknowledged {unacknowledged}"));

    stage.look(format_args!("ss -tan 'sport = :{0} or dport = :{0}'", server.local.port()));
    let question = stage.ask(
        "Now the server closes again. How much of what send took does the client get this time?",
        [
            ("all of it, and then end of stream", Arrives::All),
            ("what had reached its kernel, and then an error", Arrives::Part),
            ("nothing but an error", Arrives::Nothing),
        ],
        Predicts { source: None, kit: Arrives::Part },
    )?;
    drop(conn_sock); // close(2)
    stage.server(format_args!("close({conn_fd}) = 0"));
    let (bytes_read, end) = read_to_the_end(stage, &client_sock)?;
    stage.kernel([("client", client), ("server", server)])?;
    let observed = match (bytes_read, end) {
        (all, Ok(0)) if all == accepted => Arrives::All,
        (0, Err(_)) => Arrives::Nothing,
        (part, Err(Errno::ECONNRESET)) if part < accepted => Arrives::Part,
        other => anyhow::bail!("of {accepted} bytes the client read {other:?}"),
    };
    stage.verdict(question, observed, "close with unread input is a reset: what is under way is lost")
}

/// The client sends 12 bytes; the server reads once and fills the connection with its answer. Returns what send took, and
/// how much of it is not acknowledged.
fn answer(stage: &mut Stage, client_sock: &Socket, conn_sock: &Socket, read: usize) -> Result<(usize, u32)> {
    let (client_fd, conn_fd) = (client_sock.as_raw_fd(), conn_sock.as_raw_fd());
    let server = Pair::of(conn_sock)?;
    let sent = send(client_fd, b"last message", MsgFlags::empty());
    stage.client(format_args!("send({client_fd}, \"last message\", 12) = {}", returned(&sent)));
    let request = recv(conn_fd, &mut vec![0; read], MsgFlags::empty());
    stage.server(format_args!("recv({conn_fd}, {read}) = {}", returned(&request)));

    // Until there is no room: then the client's kernel has its fill, and the rest waits in the server's.
    let block = [b'a'; 65536];
    let (mut accepted, mut sends) = (0, 0);
    loop {
        match send(conn_fd, &block, MsgFlags::MSG_DONTWAIT) {
            Ok(bytes_sent) => (accepted, sends) = (accepted + bytes_sent, sends + 1),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                let mut fds = [PollFd::new(conn_sock.as_fd(), PollFlags::POLLOUT)];
                if poll(&mut fds, NO_ROOM_MS) == Ok(0) {
                    break;
                }
            }
            Err(errno) => return Ok(Err(errno).at("send", "")?),
        }
    }
    stage.server(format_args!("send({conn_fd}, 65536, MSG_DONTWAIT) x{sends} = {accepted} bytes"));
    let unacknowledged = tcp_socket(server)?.context("the server's end is in no table")?.send_queue;
    ensure!(unacknowledged > 0, "all that send took has arrived already");
    Ok((accepted, unacknowledged))
}

/// Reads until recv returns 0 or fails: the sum, and that last result.
fn read_to_the_end(stage: &mut Stage, sock: &Socket) -> Result<(usize, nix::Result<usize>)> {
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
    Ok((bytes_read, end))
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
        "No program has the server's end any more. The client sends twice. What does send return?",
        [
            ("-1 EPIPE, -1 EPIPE", [Err(Errno::EPIPE), Err(Errno::EPIPE)]),
            ("-1 ECONNRESET, -1 EPIPE", [Err(Errno::ECONNRESET), Err(Errno::EPIPE)]),
            ("5, 5", [Ok(5), Ok(5)]),
            ("5, -1 EPIPE", [Ok(5), Err(Errno::EPIPE)]),
        ],
        Predicts { source: Some([Err(Errno::EPIPE), Err(Errno::EPIPE)]), kit: [Ok(5), Err(Errno::EPIPE)] },
    )?;
    let first = send(client_fd, b"first", MsgFlags::empty());
    stage.client(format_args!("send({client_fd}, \"first\", 5) = {}", returned(&first)));
    wait_for_state(client, None, LIMIT)?; // the answer to it, a reset, is here
    stage.kernel([("client", client), ("server", server)])?;
    let second = send(client_fd, b"again", MsgFlags::empty());
    stage.client(format_args!("send({client_fd}, \"again\", 5) = {}", returned(&second)));
    let received = recv(client_fd, &mut [0; 1024], MsgFlags::empty());
    stage.client(format_args!("recv({client_fd}, 1024) = {}", returned(&received)));
    stage.verdict(question, [first, second], "the first send succeeds and draws a reset; the second hears of it")
}

pub fn linger_0(stage: &mut Stage) -> Result<Verdict> {
    // An ordinary close first.
    let (client_sock, conn_sock) = connected_pair()?;
    let (client_fd, conn_fd) = (client_sock.as_raw_fd(), conn_sock.as_raw_fd());
    let (client, server) = (Pair::of(&client_sock)?, Pair::of(&conn_sock)?);
    drop(client_sock); // close(2)
    stage.client(format_args!("close({client_fd}) = 0"));
    let end = recv(conn_fd, &mut [0; 1024], MsgFlags::empty());
    stage.server(format_args!("recv({conn_fd}, 1024) = {}", returned(&end)));
    ensure!(end == Ok(0), "the server's recv returned {end:?} instead of end of stream");
    wait_for_state(client, Some(State::FinWait2), LIMIT)?; // or a late ACK may cost TIME-WAIT: lab10, how-long
    drop(conn_sock); // close(2)
    stage.server(format_args!("close({conn_fd}) = 0"));
    wait_for_state(client, Some(State::TimeWait), LIMIT)?;
    stage.kernel([("client", client), ("server", server)])?;

    let (client_sock, conn_sock) = connected_pair()?;
    let (client_fd, conn_fd) = (client_sock.as_raw_fd(), conn_sock.as_raw_fd());
    let (client, server) = (Pair::of(&client_sock)?, Pair::of(&conn_sock)?);
    client_sock.set_linger(Some(Duration::ZERO)).at("setsockopt", "")?;
    stage.client(format_args!("setsockopt({client_fd}, SOL_SOCKET, SO_LINGER, {{l_onoff=1, l_linger=0}}) = 0"));
    let question = stage.ask(
        "Another connection, SO_LINGER on with 0 s. The client closes. The server's recv, and the client's state?",
        [
            ("0, TIME-WAIT", (Ok(0), Some(State::TimeWait))),
            ("0, in no table", (Ok(0), None)),
            ("-1 ECONNRESET, in no table", (Err(Errno::ECONNRESET), None)),
            ("-1 ECONNRESET, TIME-WAIT", (Err(Errno::ECONNRESET), Some(State::TimeWait))),
        ],
        Predicts { source: None, kit: (Err(Errno::ECONNRESET), None) },
    )?;
    drop(client_sock); // close(2)
    stage.client(format_args!("close({client_fd}) = 0"));
    let received = recv(conn_fd, &mut [0; 1024], MsgFlags::empty());
    stage.server(format_args!("recv({conn_fd}, 1024) = {}", returned(&received)));
    drop(conn_sock); // close(2)
    stage.server(format_args!("close({conn_fd}) = 0"));
    if received == Ok(0) {
        wait_for_state(client, Some(State::TimeWait), LIMIT)?;
    }
    let [state, _] = stage.kernel([("client", client), ("server", server)])?;
    stage.verdict(question, (received, state), "a reset: no goodbye, and nothing stays behind")
}
