//! A FIN that has to wait: FIN-WAIT-1 and CLOSING.

use std::{net::Shutdown, os::fd::AsRawFd};

use anyhow::{Result, bail, ensure};
use kernel::{Pair, State, wait_until};
use nix::sys::socket::{MsgFlags, recv};
use shared::{Predicts, Stage, Verdict, returned};
use socket2::Socket;

use super::{LIMIT, connected_pair, settled};
use crate::reach::{BLOCK, SMALL, fill};

/// Fills the window of the other end, and tells of it.
fn filled(stage: &mut Stage, who: &str, sock: &Socket) -> Result<()> {
    let fd = sock.as_raw_fd();
    let (sends, bytes_sent) = fill(sock)?;
    stage.say(who, format_args!("send({fd}, {BLOCK}, MSG_DONTWAIT) x{sends} = {bytes_sent} bytes"));
    Ok(())
}

fn shut(stage: &mut Stage, who: &str, sock: &Socket) {
    let result = sock.shutdown(Shutdown::Write);
    stage.say(who, format_args!("shutdown({}, SHUT_WR) = {}", sock.as_raw_fd(), returned(&result)));
}

pub fn closing(stage: &mut Stage) -> Result<Verdict> {
    // First both windows are full.
    let (client_sock, conn_sock) = connected_pair(Some(SMALL))?;
    let ends = [Pair::of(&client_sock)?, Pair::of(&conn_sock)?];
    filled(stage, "client", &client_sock)?;
    filled(stage, "server", &conn_sock)?;
    shut(stage, "client", &client_sock);
    shut(stage, "server", &conn_sock);
    settled(ends, [Some(State::FinWait1); 2])?;
    let both_full = stage.kernel([("client", ends[0]), ("server", ends[1])])?;
    ensure!(both_full == [Some(State::FinWait1); 2], "with both windows full: {both_full:?}");

    stage.look(format_args!("ss -tano 'sport = :{0} or dport = :{0}'", ends[1].local.port()));

    stage.say("again", "only the client fills the other's window");
    let (client_sock, conn_sock) = connected_pair(Some(SMALL))?;
    let ends = [Pair::of(&client_sock)?, Pair::of(&conn_sock)?];
    filled(stage, "client", &client_sock)?;
    let question = stage.ask(
        "Both call shutdown(SHUT_WR), the client first. Nobody reads. Which states stay?",
        [
            ("client CLOSING, server FIN-WAIT-2", [Some(State::Closing), Some(State::FinWait2)]),
            ("both CLOSING", [Some(State::Closing); 2]),
            ("both FIN-WAIT-1, as before", [Some(State::FinWait1); 2]),
            ("client TIME-WAIT, server in no table", [Some(State::TimeWait), None]),
        ],
        Predicts { source: None, kit: [Some(State::Closing), Some(State::FinWait2)] },
    )?;
    shut(stage, "client", &client_sock);
    shut(stage, "server", &conn_sock);
    settled(ends, [Some(State::Closing), Some(State::FinWait2)])?;
    let observed = stage.kernel([("client", ends[0]), ("server", ends[1])])?;
    stage.verdict(question, observed, "CLOSING: their FIN is here, ours still waits behind our data")
}

pub fn fin_wait_1(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Leaves {
        AtOnce,
        OnceRead,
        Never,
    }
    let (client_sock, conn_sock) = connected_pair(Some(SMALL))?;
    let conn_fd = conn_sock.as_raw_fd();
    let ends = [Pair::of(&client_sock)?, Pair::of(&conn_sock)?];
    filled(stage, "client", &client_sock)?;
    let question = stage.ask(
        "The server's window is full. The client calls shutdown(SHUT_WR). When does it go on from FIN-WAIT-1 to FIN-WAIT-2?",
        [
            ("at once: a FIN carries no data and needs no window", Leaves::AtOnce),
            ("once the server has read all there is", Leaves::OnceRead),
            ("not even then: the server has to close", Leaves::Never),
        ],
        Predicts { source: None, kit: Leaves::OnceRead },
    )?;
    shut(stage, "client", &client_sock);
    settled(ends, [Some(State::FinWait1), Some(State::Established)])?;
    let [first, _] = stage.kernel([("client", ends[0]), ("server", ends[1])])?;

    let (mut total, mut reads) = (0, 0);
    let end = wait_until("the end of the stream", LIMIT, || {
        let result = recv(conn_fd, &mut [0; 65536], MsgFlags::empty());
        if let Ok(bytes_read @ 1..) = result {
            (total, reads) = (total + bytes_read, reads + 1);
        }
        Ok(matches!(result, Ok(0) | Err(_)).then_some(result))
    })?;
    stage.server(format_args!("recv({conn_fd}, 65536) x{reads} = {total} bytes"));
    stage.server(format_args!("recv({conn_fd}, 65536) = {}", returned(&end)));
    settled(ends, [Some(State::FinWait2), Some(State::CloseWait)])?;
    let [then, _] = stage.kernel([("client", ends[0]), ("server", ends[1])])?;
    let observed = match (first, then) {
        (Some(State::FinWait2), _) => Leaves::AtOnce,
        (Some(State::FinWait1), Some(State::FinWait2)) => Leaves::OnceRead,
        (Some(State::FinWait1), Some(State::FinWait1)) => Leaves::Never,
        other => bail!("the client went through {other:?}"),
    };
    stage.verdict(question, observed, "the FIN stands behind the data; the program is not asked")
}
