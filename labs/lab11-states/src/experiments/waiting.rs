//! Who waits for whom: FIN-WAIT-2, CLOSE-WAIT, LAST-ACK.

use std::{fs, net::Shutdown, os::fd::AsRawFd};

use anyhow::{Context, Result, bail, ensure};
use kernel::{Pair, State, tcp_socket, wait_for_state};
use nix::sys::socket::{MsgFlags, recv};
use shared::{Predicts, Stage, Verdict, returned};

use super::{LIMIT, connected_pair, settled};
use crate::reach::{BLOCK, SMALL, fill};

pub fn fin_wait_2(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Ends {
        Both,
        OnlyClosed,
        Neither,
    }
    let timeout = fs::read_to_string("/proc/sys/net/ipv4/tcp_fin_timeout").context("tcp_fin_timeout")?;
    let timeout = timeout.trim();
    // One client calls shutdown and keeps its descriptor, the other calls close.
    let (held_sock, held_peer_sock) = connected_pair(None)?;
    let (closed_sock, closed_peer_sock) = connected_pair(None)?;
    let (held, orphan) = (Pair::of(&held_sock)?, Pair::of(&closed_sock)?);
    let (held_fd, closed_fd) = (held_sock.as_raw_fd(), closed_sock.as_raw_fd());
    let question = stage.ask(
        "One client calls shutdown(SHUT_WR), another close. Their servers never close. Whose FIN-WAIT-2 runs on a timer?",
        [
            ("both", Ends::Both),
            ("only that of the one that closed", Ends::OnlyClosed),
            ("neither", Ends::Neither),
        ],
        Predicts { source: Some(Ends::Both), kit: Ends::OnlyClosed },
    )?;
    let result = held_sock.shutdown(Shutdown::Write);
    stage.say("holder", format_args!("shutdown({held_fd}, SHUT_WR) = {}", returned(&result)));
    drop(closed_sock); // close(2)
    stage.say("closer", format_args!("close({closed_fd}) = 0"));
    settled([held, orphan], [Some(State::FinWait2); 2])?;
    let states = stage.kernel([("holder", held), ("closer", orphan)])?;
    ensure!(states == [Some(State::FinWait2); 2], "the two clients are in {states:?}");

    let timer = |pair| -> Result<_> { Ok(tcp_socket(pair)?.context("the client is in no table")?.timer) };
    let timers = (timer(held)?, timer(orphan)?);
    let told = |timer: Option<_>| if timer.is_some() { "runs" } else { "none" };
    stage.say("kernel", format_args!("holder timer {}   closer timer {}", told(timers.0), told(timers.1)));
    stage.say("setting", format_args!("net.ipv4.tcp_fin_timeout = {timeout} s"));
    drop((held_peer_sock, closed_peer_sock)); // close(2): until here the servers have not
    let observed = match timers {
        (Some(_), Some(_)) => Ends::Both,
        (None, Some(_)) => Ends::OnlyClosed,
        (None, None) => Ends::Neither,
        (Some(_), None) => bail!("only the one that holds its descriptor has a timer"),
    };
    stage.verdict(question, observed, "the time-out is for closed sockets; who holds one may wait for ever")
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
    settled(ends, [Some(State::FinWait2), Some(State::CloseWait)])?;
    stage.kernel([("client", ends[0]), ("server", ends[1])])?;

    stage.look(format_args!("ss -tano 'sport = :{0} or dport = :{0}'", ends[1].local.port()));
    let question = stage.ask(
        "What ends the server's CLOSE-WAIT?",
        [
            ("recv, once it has returned 0", EndedBy::Recv),
            ("a timer of the kernel", EndedBy::Timer),
            ("only the server's own shutdown or close, or a reset", EndedBy::Close),
        ],
        Predicts { source: Some(EndedBy::Close), kit: EndedBy::Close },
    )?;
    let end = recv(conn_fd, &mut [0; 1024], MsgFlags::empty());
    stage.server(format_args!("recv({conn_fd}, 1024) = {}", returned(&end)));
    let [_, after_recv] = settled(ends, [Some(State::FinWait2), Some(State::CloseWait)])?;
    stage.kernel([("client", ends[0]), ("server", ends[1])])?;
    let timer = tcp_socket(ends[1])?.and_then(|row| row.timer);
    stage.say("kernel", format_args!("server timer {}", if timer.is_some() { "runs" } else { "none" }));
    drop(conn_sock); // close(2)
    stage.server(format_args!("close({conn_fd}) = 0"));
    settled(ends, [Some(State::TimeWait), None])?;
    let [_, after_close] = stage.kernel([("client", ends[0]), ("server", ends[1])])?;
    let observed = match (after_recv, timer, after_close) {
        (Some(State::CloseWait), None, None) => EndedBy::Close,
        (Some(State::CloseWait), Some(_), _) => EndedBy::Timer,
        (None | Some(State::LastAck), _, _) => EndedBy::Recv,
        other => bail!("the server's end went through {other:?}"),
    };
    stage.verdict(question, observed, "no timer, no recv: a pile of CLOSE-WAIT is this program's leak")
}

pub fn last_ack(stage: &mut Stage) -> Result<Verdict> {
    let (client_sock, conn_sock) = connected_pair(Some(SMALL))?;
    let (client_fd, conn_fd) = (client_sock.as_raw_fd(), conn_sock.as_raw_fd());
    let ends = [Pair::of(&client_sock)?, Pair::of(&conn_sock)?];
    let result = client_sock.shutdown(Shutdown::Write);
    stage.client(format_args!("shutdown({client_fd}, SHUT_WR) = {}", returned(&result)));
    let end = recv(conn_fd, &mut [0; 1024], MsgFlags::empty());
    stage.server(format_args!("recv({conn_fd}, 1024) = {}", returned(&end)));
    let (sends, bytes_sent) = fill(&conn_sock)?;
    stage.server(format_args!("send({conn_fd}, {BLOCK}, MSG_DONTWAIT) x{sends} = {bytes_sent} bytes"));

    let owner = |pair| -> Result<_> { Ok(tcp_socket(pair)?.map(|row| (row.state, row.inode != 0))) };
    let question = stage.ask(
        "The client does not read. The server closes its only descriptor. Which state, and which process has it?",
        [
            ("in no table: closed is closed", None),
            ("LAST-ACK, no process", Some((State::LastAck, false))),
            ("LAST-ACK, still this process", Some((State::LastAck, true))),
            ("CLOSE-WAIT, no process", Some((State::CloseWait, false))),
        ],
        Predicts { source: None, kit: Some((State::LastAck, false)) },
    )?;
    drop(conn_sock); // close(2)
    stage.server(format_args!("close({conn_fd}) = 0"));
    settled(ends, [Some(State::FinWait2), Some(State::LastAck)])?;
    stage.kernel([("client", ends[0]), ("server", ends[1])])?;
    let observed = owner(ends[1])?;
    if let Some((_, owned)) = observed {
        stage.say("kernel", format_args!("server {}", if owned { "has an inode" } else { "has no inode: no process" }));
    }
    stage.verdict(question, observed, "the kernel goes on alone until the client has read, or probes give up")
}
