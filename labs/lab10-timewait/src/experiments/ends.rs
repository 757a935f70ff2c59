//! Which end is left in TIME-WAIT.

use std::{
    net::Shutdown,
    os::fd::{AsRawFd, RawFd},
};

use anyhow::{Result, ensure};
use kernel::{Pair, State, tcp_socket, wait_for_state, wait_until, window};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv, send},
};
use shared::{At, Predicts, Stage, Verdict, returned};
use socket2::Socket;

use crate::connection::{LIMIT, acknowledged, connected_pair, listening, readable};

/// Whether the client's end and the server's end are left in TIME-WAIT.
type Left = (bool, bool);

pub fn closes_first(stage: &mut Stage) -> Result<Verdict> {
    let (listen_sock, server_addr) = listening()?;
    let question = stage.ask(
        "Connection 1 is closed by the client first, connection 2 by the server first. Which ends are left in \
         TIME-WAIT?",
        [
            ("the client's in each: it opened the connection", [(true, false); 2]),
            ("the server's in each: its port stays busy", [(false, true); 2]),
            ("the end that closed first", [(true, false), (false, true)]),
            ("the end that closed last", [(false, true), (true, false)]),
        ],
        Predicts { source: None, kit: [(true, false), (false, true)] },
    )?;

    stage.say("case 1", "the client closes first");
    let (client_sock, conn_sock) = connected_pair(&listen_sock, server_addr)?;
    let client_first = one_first(stage, ("client", client_sock), ("server", conn_sock))?;

    stage.say("case 2", "another connection; the server closes first");
    let (client_sock, conn_sock) = connected_pair(&listen_sock, server_addr)?;
    let (server, client) = one_first(stage, ("server", conn_sock), ("client", client_sock))?;

    stage.verdict(question, [client_first, (client, server)], "the end that closes first is left in TIME-WAIT")
}

/// One end closes; the other end reads the end of the stream and closes, too. Returns which is left: first, second.
fn one_first(stage: &mut Stage, first: (&str, Socket), second: (&str, Socket)) -> Result<Left> {
    let ((first_name, first_sock), (second_name, second_sock)) = (first, second);
    let (first_end, second_end) = (Pair::of(&first_sock)?, Pair::of(&second_sock)?);
    let (first_fd, second_fd) = (first_sock.as_raw_fd(), second_sock.as_raw_fd());
    drop(first_sock); // close(2): FIN
    stage.say(first_name, format_args!("close({first_fd}) = 0"));
    readable(&second_sock)?;
    let bytes_read = recv(second_fd, &mut [0; 8], MsgFlags::empty());
    stage.say(second_name, format_args!("recv({second_fd}, 8) = {}", returned(&bytes_read)));
    ensure!(bytes_read == Ok(0), "recv did not return end of stream");
    acknowledged(first_end)?;
    drop(second_sock); // close(2): the other FIN
    stage.say(second_name, format_args!("close({second_fd}) = 0"));
    at_rest([first_end, second_end])?;
    let [first, second] = stage.kernel([(first_name, first_end), (second_name, second_end)])?;
    Ok((first == Some(State::TimeWait), second == Some(State::TimeWait)))
}

pub fn both_at_once(stage: &mut Stage) -> Result<Verdict> {
    let (listen_sock, server_addr) = listening()?;
    let (client_sock, conn_sock) = connected_pair(&listen_sock, server_addr)?;
    let (client, server) = (Pair::of(&client_sock)?, Pair::of(&conn_sock)?);
    let (client_fd, conn_fd) = (client_sock.as_raw_fd(), conn_sock.as_raw_fd());
    fill(stage, "client", &client_sock)?;
    fill(stage, "server", &conn_sock)?;

    let question = stage.ask(
        "Both ends call shutdown(SHUT_WR) while unsent bytes hold their FINs back: both are in FIN-WAIT-1. Then the \
         client reads to the end, and after it the server. Which ends are left in TIME-WAIT?",
        [
            ("the client's end only", (true, false)),
            ("the server's end only", (false, true)),
            ("the client's end and the server's end", (true, true)),
            ("no end: each FIN acknowledges the other", (false, false)),
        ],
        Predicts { source: None, kit: (true, true) },
    )?;
    client_sock.shutdown(Shutdown::Write).at("shutdown", "")?; // close(2) with unread bytes would send a reset
    stage.client(format_args!("shutdown({client_fd}, SHUT_WR) = 0"));
    conn_sock.shutdown(Shutdown::Write).at("shutdown", "")?;
    stage.server(format_args!("shutdown({conn_fd}, SHUT_WR) = 0"));
    let states = stage.kernel([("client", client), ("server", server)])?;
    ensure!(states == [Some(State::FinWait1); 2], "each end should have closed before it got a FIN");

    read_to_the_end(stage, "client", &client_sock)?;
    wait_for_state(client, Some(State::Closing), LIMIT)?; // the server's FIN has come; its own still waits
    wait_for_state(server, Some(State::FinWait2), LIMIT)?;
    stage.kernel([("client", client), ("server", server)])?;
    read_to_the_end(stage, "server", &conn_sock)?;
    at_rest([client, server])?;
    let [client, server] = stage.kernel([("client", client), ("server", server)])?;
    drop((client_sock, conn_sock)); // close(2): nothing is left to be sent
    let left = (client == Some(State::TimeWait), server == Some(State::TimeWait));
    stage.verdict(question, left, "both shut down before they got the other's FIN: both are left in TIME-WAIT")
}

/// Sends until the other end's receive window is full and this end's send buffer, too.
fn fill(stage: &mut Stage, name: &str, sock: &Socket) -> Result<()> {
    let fd = sock.as_raw_fd();
    let (mut calls, mut total) = (0, 0);
    loop {
        match send(fd, &[b'a'; 65536], MsgFlags::MSG_DONTWAIT) {
            Ok(bytes_sent) => (calls, total) = (calls + 1, total + bytes_sent),
            Err(Errno::EAGAIN) if window::is_full(sock)? => break,
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => return Ok(Err(errno).at("send", "")?),
        }
    }
    stage.say(name, format_args!("send({fd}, 65536) x{calls} = {total} bytes, and no room for more"));
    Ok(())
}

fn read_to_the_end(stage: &mut Stage, name: &str, sock: &Socket) -> Result<()> {
    let fd: RawFd = sock.as_raw_fd();
    let mut buffer = vec![0; 65536];
    let (mut calls, mut total) = (0, 0);
    loop {
        readable(sock)?;
        let bytes_read = recv(fd, &mut buffer, MsgFlags::empty()).at("recv", "")?;
        (calls, total) = (calls + 1, total + bytes_read);
        if bytes_read == 0 {
            break;
        }
    }
    stage.say(name, format_args!("recv({fd}, 65536) x{calls} = {total} bytes, the last call 0: end of stream"));
    Ok(())
}

/// Waits until neither end has a segment under way.
fn at_rest(ends: [Pair; 2]) -> Result<()> {
    let under_way = |state| matches!(state, State::FinWait1 | State::LastAck | State::Closing | State::FinWait2);
    wait_until("TIME-WAIT or no row at each end", LIMIT, || {
        for pair in ends {
            if tcp_socket(pair)?.is_some_and(|row| under_way(row.state)) {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
}
