//! Who waits for whom, and for how long: FIN-WAIT-2, CLOSE-WAIT, LAST-ACK, ESTABLISHED.

use std::{net::Shutdown, os::fd::AsRawFd, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use kernel::{Counters, Pair, State, setting, tcp_socket, wait_for_state, wait_until};
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt::TcpKeepIdle};
use shared::{At, Predicts, Stage, Verdict, returned};

use super::{LIMIT, connected_pair, wait_until_settled};
use crate::reach::{BLOCK, SMALL, fill};

pub fn fin_wait_2(stage: &mut Stage) -> Result<Verdict> {
    // One client calls shutdown and keeps its descriptor, the other calls close.
    let (held_sock, held_peer_sock) = connected_pair(None)?;
    let (closed_sock, closed_peer_sock) = connected_pair(None)?;
    let (held, orphan) = (Pair::of(&held_sock)?, Pair::of(&closed_sock)?);
    let (held_fd, closed_fd) = (held_sock.as_raw_fd(), closed_sock.as_raw_fd());
    let question = stage.ask(
        "One client calls shutdown(SHUT_WR), another calls close. Their servers never close. Does a timer end FIN-WAIT-2?",
        [
            ("after shutdown: yes, after close: yes", (true, true)),
            ("after shutdown: yes, after close: no", (true, false)),
            ("after shutdown: no, after close: yes", (false, true)),
            ("after shutdown: no, after close: no", (false, false)),
        ],
        Predicts { source: Some((false, true)), kit: (false, true) },
    )?;
    let result = held_sock.shutdown(Shutdown::Write);
    stage.say("holder", format_args!("shutdown({held_fd}, SHUT_WR) = {}", returned(&result)));
    drop(closed_sock); // close(2)
    stage.say("closer", format_args!("close({closed_fd}) = 0"));
    wait_until_settled([held, orphan], [Some(State::FinWait2); 2])?;
    let states = stage.kernel([("holder", held), ("closer", orphan)])?;
    ensure!(states == [Some(State::FinWait2); 2], "the two clients are in {states:?}");

    let timer = |pair| -> Result<_> { Ok(tcp_socket(pair)?.context("the client is in no table")?.timer) };
    let (of_held, of_orphan) = (timer(held)?, timer(orphan)?);
    stage.say("kernel", format_args!("holder timer {}   closer timer {}", seconds(of_held), seconds(of_orphan)));
    let timeout = setting("net/ipv4/tcp_fin_timeout").first().copied().context("tcp_fin_timeout")?;
    stage.say("setting", format_args!("net.ipv4.tcp_fin_timeout = {timeout} s"));
    drop((held_peer_sock, closed_peer_sock)); // close(2): until here the servers have not
    let observed = (of_held.is_some(), of_orphan.is_some());
    stage.verdict(question, observed, "the time-out is for closed sockets; a socket that a program holds has none")
}

/// What is left of a timer.
fn seconds(timer: Option<Duration>) -> String {
    timer.map_or("none".into(), |left| format!("{:.0} s", left.as_secs_f64()))
}

pub fn close_wait(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum EndedBy {
        Recv,
        Timer,
        Close,
    }
    let (client_sock, conn_sock) = connected_pair(None)?;
    let (client_fd, conn_fd) = (client_sock.as_raw_fd(), conn_sock.as_raw_fd());
    let ends = [Pair::of(&client_sock)?, Pair::of(&conn_sock)?];
    let result = client_sock.shutdown(Shutdown::Write);
    stage.client(format_args!("shutdown({client_fd}, SHUT_WR) = {}", returned(&result)));
    wait_for_state(ends[1], Some(State::CloseWait), LIMIT)?;
    wait_until_settled(ends, [Some(State::FinWait2), Some(State::CloseWait)])?;
    stage.kernel([("client", ends[0]), ("server", ends[1])])?;

    stage.look(format_args!("ss -tano 'sport = :{0} or dport = :{0}'", ends[1].local.port()));
    let question = stage.ask(
        "SO_KEEPALIVE is off. What ends the server's CLOSE-WAIT?",
        [
            ("a recv of the server that returns 0", EndedBy::Recv),
            ("a timer of the server's kernel", EndedBy::Timer),
            ("a close or shutdown of the server", EndedBy::Close),
        ],
        Predicts { source: Some(EndedBy::Close), kit: EndedBy::Close },
    )?;
    let end = recv(conn_fd, &mut [0; 1024], MsgFlags::empty());
    stage.server(format_args!("recv({conn_fd}, 1024) = {}", returned(&end)));
    let [_, after_recv] = wait_until_settled(ends, [Some(State::FinWait2), Some(State::CloseWait)])?;
    stage.kernel([("client", ends[0]), ("server", ends[1])])?;
    let timer = tcp_socket(ends[1])?.and_then(|row| row.timer);
    stage.say("kernel", format_args!("server timer {}", seconds(timer)));
    drop(conn_sock); // close(2)
    stage.server(format_args!("close({conn_fd}) = 0"));
    wait_until_settled(ends, [Some(State::TimeWait), None])?;
    let [_, after_close] = stage.kernel([("client", ends[0]), ("server", ends[1])])?;
    let observed = match (after_recv, timer, after_close) {
        (Some(State::CloseWait), None, None) => EndedBy::Close,
        (Some(State::CloseWait), Some(_), _) => EndedBy::Timer,
        (None | Some(State::LastAck), _, _) => EndedBy::Recv,
        other => bail!("the server's end went through {other:?}"),
    };
    stage.verdict(
        question,
        observed,
        "no timer and no recv ends it: many CLOSE-WAIT mean that this program forgets to close",
    )
}

pub fn last_ack(stage: &mut Stage) -> Result<Verdict> {
    let (client_sock, conn_sock) = connected_pair(Some(SMALL))?;
    let (client_fd, conn_fd) = (client_sock.as_raw_fd(), conn_sock.as_raw_fd());
    let ends = [Pair::of(&client_sock)?, Pair::of(&conn_sock)?];
    let result = client_sock.shutdown(Shutdown::Write);
    stage.client(format_args!("shutdown({client_fd}, SHUT_WR) = {}", returned(&result)));
    wait_for_state(ends[1], Some(State::CloseWait), LIMIT)?;
    let end = recv(conn_fd, &mut [0; 1024], MsgFlags::empty());
    stage.server(format_args!("recv({conn_fd}, 1024) = {}", returned(&end)));
    let (sends, bytes_sent) = fill(&conn_sock)?;
    stage.server(format_args!("send({conn_fd}, {BLOCK}, MSG_DONTWAIT) x{sends} = {bytes_sent} bytes"));

    let owner = |pair| -> Result<_> { Ok(tcp_socket(pair)?.map(|row| (row.state, row.inode != 0))) };
    let question = stage.ask(
        "The client does not read. The server closes its only descriptor. In which state is the server's end, and which process holds it?",
        [
            ("in no table, no process", None),
            ("LAST-ACK, no process", Some((State::LastAck, false))),
            ("LAST-ACK, this process", Some((State::LastAck, true))),
            ("CLOSE-WAIT, no process", Some((State::CloseWait, false))),
        ],
        Predicts { source: None, kit: Some((State::LastAck, false)) },
    )?;
    drop(conn_sock); // close(2)
    stage.server(format_args!("close({conn_fd}) = 0"));
    wait_until_settled(ends, [Some(State::FinWait2), Some(State::LastAck)])?;
    stage.kernel([("client", ends[0]), ("server", ends[1])])?;
    let observed = owner(ends[1])?;
    if let Some((_, owned)) = observed {
        stage.say("kernel", format_args!("server {}", if owned { "has an inode" } else { "has no inode: no process" }));
    }
    stage.verdict(question, observed, "the kernel goes on alone until the client has read or the probes give up")
}

pub fn keepalive(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum First {
        Never,
        WithinMinutes,
        AfterTwoHours,
    }
    let (client_sock, conn_sock) = connected_pair(None)?;
    let client_fd = client_sock.as_raw_fd();
    let ends = [Pair::of(&client_sock)?, Pair::of(&conn_sock)?];
    wait_until_settled(ends, [Some(State::Established); 2])?;
    stage.kernel([("client", ends[0]), ("server", ends[1])])?;

    stage.look(format_args!("ss -tano 'sport = :{0} or dport = :{0}'", ends[1].local.port()));
    let question = stage.ask(
        "Nobody sends. Later the client sets SO_KEEPALIVE. When does its kernel send a keep-alive, without and with the option?",
        [
            ("without: never, with: after two hours", (First::Never, First::AfterTwoHours)),
            ("without: never, with: within minutes", (First::Never, First::WithinMinutes)),
            ("without: after two hours, with: within minutes", (First::AfterTwoHours, First::WithinMinutes)),
            ("without: within minutes, with: within minutes", (First::WithinMinutes, First::WithinMinutes)),
        ],
        Predicts { source: Some((First::WithinMinutes, First::WithinMinutes)), kit: (First::Never, First::AfterTwoHours) },
    )?;
    let timer = || -> Result<_> { Ok(tcp_socket(ends[0])?.context("the client is in no table")?.timer) };
    let without = timer()?;
    stage.say("kernel", format_args!("client timer {}", seconds(without)));
    let result = client_sock.set_keepalive(true);
    stage.client(format_args!("setsockopt({client_fd}, SOL_SOCKET, SO_KEEPALIVE, [1]) = {}", returned(&result)));
    let with = timer()?;
    stage.say("kernel", format_args!("client timer {}", seconds(with)));

    // One that can be waited for.
    let before = Counters::read()?;
    setsockopt(&client_sock, TcpKeepIdle, &1).at("setsockopt", "TCP_KEEPIDLE")?;
    stage.client(format_args!("setsockopt({client_fd}, SOL_TCP, TCP_KEEPIDLE, [1]) = 0"));
    stage.say("wait", format_args!("for one keep-alive, at most {LIMIT:?}"));
    wait_until("a keep-alive", LIMIT, || Ok((before.risen("TCPKeepAlive")? > 0).then_some(())))?;
    stage.counted(&before, ["TCPKeepAlive"])?;
    let first = |timer: Option<Duration>| match timer {
        None => First::Never,
        Some(left) if left > Duration::from_secs(3600) => First::AfterTwoHours,
        Some(_) => First::WithinMinutes,
    };
    stage.verdict(
        question,
        (first(without), first(with)),
        "off by default; when on, the first one comes after 7200 s of silence",
    )
}
