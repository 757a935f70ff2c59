//! What a connection costs on which nothing happens, and what asking costs.

use std::{
    fs,
    net::Shutdown,
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use anyhow::{Result, ensure};
use kernel::{Pair, Patience, State, tcp_socket, tcp_sockets, wait_until};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv, send},
};
use shared::{At, Predicts, Role, Stage, Verdict, returned};

use super::{LIMIT, Peer, connected, segments, send_all, server_role, waits};
use crate::{frames::frame, wire::Live};

const CLIENTS: usize = 100;
/// How long nothing happens.
const IDLE: Duration = Duration::from_secs(2);
/// A minute of asking, a request each second.
const ASKS: usize = 60;

pub fn idle_cost(stage: &mut Stage) -> Result<Verdict> {
    let (server, server_addr) = server_role(&["--keepalive", "0"])?;
    stage.server("has --keepalive 0: its kernel asks nobody");
    let before = descriptors(&server)?;
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        clients.push(Peer::enter(server_addr, &format!("client{number}"))?);
    }
    // The last acknowledgements may be delayed; then there is peace.
    let rows = wait_until("all acknowledgements", LIMIT, || {
        let rows = tcp_sockets(server_addr.port())?;
        let rows: Vec<_> = rows.into_iter().filter(|row| row.state == State::Established).collect();
        Ok((rows.len() >= CLIENTS && rows.iter().all(|row| row.send_queue + row.recv_queue == 0)).then_some(rows))
    })?;
    let timers = rows.iter().filter(|row| row.timer.is_some()).count();
    stage.say("kernel", format_args!("{} connections ESTABLISHED, {timers} of them with a timer", rows.len()));
    let costs = descriptors(&server)?.saturating_sub(before);
    stage.server(format_args!("has {costs} descriptors more than without clients"));
    stage.look(format_args!("ss -tanom 'sport = :{}'", server_addr.port()));
    let question = stage.ask(
        "A hundred clients are connected. For two seconds nobody publishes. How many segments go over the hundred connections?",
        [("0", 0), ("100, a sign of life each", 100), ("400, each second one each way", 400)],
        Predicts { source: None, kit: 0 },
    )?;
    let count = || clients.iter().map(|client| segments(&client.sock)).sum::<Result<u32>>();
    let so_far = count()?;
    stage.say("kernel", format_args!("TCP_INFO of the hundred: {so_far} segments so far, in and out"));
    stage.say("wait", format_args!("{IDLE:?}"));
    let mut patience = Patience::new(IDLE);
    while !patience.is_over() {
        let mut fds: Vec<_> = clients.iter().map(|peer| PollFd::new(peer.sock.as_fd(), PollFlags::POLLIN)).collect();
        let woken = poll(&mut fds, PollTimeout::try_from(patience.step())?);
        ensure!(!matches!(woken, Ok(1..)), "somebody was told something");
    }
    let now = count()?;
    stage.say("kernel", format_args!("TCP_INFO of the hundred: {now} segments"));
    ensure!(costs >= CLIENTS, "{CLIENTS} clients, and {costs} descriptors");
    stage.verdict(question, now - so_far, "an idle connection costs a descriptor at each end, and no packet")
}

fn descriptors(role: &Role) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{}/fd", role.pid()))?.count())
}

pub fn asking(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Asking {
        Less,
        ThreeTimes,
        TwentyTimes,
    }
    let (_server, server_addr) = server_role(&["--keepalive", "0"])?;
    let mut bob = Peer::enter(server_addr, "bob")?;
    stage.say("asks", "as in lab17: each second a new connection, one request, the answer, close");
    stage.say("is told", "as in lab22: one connection, a message, the client's confirmation");
    let question = stage.ask(
        "In a minute one message is published. Compare the segments of 60 requests with all segments of the one connection, its handshake included.",
        [
            ("asking needs fewer: a connection costs while it is open", Asking::Less),
            ("asking needs about three times as many", Asking::ThreeTimes),
            ("asking needs more than twenty times as many", Asking::TwentyTimes),
        ],
        Predicts { source: None, kit: Asking::TwentyTimes },
    )?;
    let mut asked = 0;
    let request = frame(b"4:1");
    for number in 0..ASKS {
        let sock = connected(server_addr)?;
        let fd = sock.as_raw_fd();
        if number == 0 {
            let sent = send(fd, &request, MsgFlags::MSG_NOSIGNAL);
            stage.say("asks", format_args!("send({fd}, \"3:4:1\\n\", {}) = {}", request.len(), returned(&sent)));
            sent.at("send", server_addr)?;
        } else {
            send_all(&sock, &request)?;
        }
        sock.shutdown(Shutdown::Write).at("shutdown", server_addr)?;
        let mut buffer = [0; 1024];
        loop {
            ensure!(waits(&sock, LIMIT)?, "not seen within {LIMIT:?}: an answer");
            if recv(fd, &mut buffer, MsgFlags::empty()).at("recv", server_addr)? == 0 {
                break;
            }
        }
        let segments = segments(&sock)?;
        if number == 0 {
            stage.say("asks", format_args!("shutdown({fd}, SHUT_WR) = 0"));
            stage.say("kernel", format_args!("TCP_INFO: {segments} segments for this request"));
        }
        asked += segments;
    }
    stage.say("kernel", format_args!("TCP_INFO: {asked} segments for {ASKS} requests, sent one after the other here"));

    let mut ann = Peer::enter(server_addr, "ann")?;
    bob.publish(b"Hello world!")?;
    let id = ann.told()?;
    ann.say(&Live::Have { id }.encode())?;
    let end = Pair::of(&ann.sock)?;
    wait_until("the last acknowledgement", LIMIT, || {
        let quiet =
            |end| Ok::<_, anyhow::Error>(tcp_socket(end)?.is_some_and(|row| row.send_queue + row.recv_queue == 0));
        Ok((quiet(end)? && quiet(end.other_end())?).then_some(()))
    })?;
    let told = segments(&ann.sock)?;
    stage.say("kernel", format_args!("TCP_INFO: {told} segments for the connection on which ann was told"));
    let observed = match f64::from(asked) / f64::from(told) {
        ratio if ratio < 1.0 => Asking::Less,
        ratio if ratio > 20.0 => Asking::TwentyTimes,
        _ => Asking::ThreeTimes,
    };
    stage.verdict(question, observed, "who is told pays for news; who asks pays for each question")
}
