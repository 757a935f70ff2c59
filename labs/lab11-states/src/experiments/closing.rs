//! A FIN that has to wait: FIN-WAIT-1 and CLOSING.

use std::{net::Shutdown, os::fd::AsRawFd};

use anyhow::{Result, bail, ensure};
use kernel::{Pair, State, wait_until};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv},
};
use shared::{Predicts, Stage, Verdict, returned};
use socket2::Socket;

use super::{LIMIT, connected_pair, wait_until_settled};
use crate::reach::{BLOCK, SMALL, fill};

/// Fills the other end's window, and says how.
fn fill_window(stage: &mut Stage, who: &str, sock: &Socket) -> Result<()> {
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
    fill_window(stage, "client", &client_sock)?;
    fill_window(stage, "server", &conn_sock)?;
    shut(stage, "client", &client_sock);
    shut(stage, "server", &conn_sock);
    wait_until_settled(ends, [Some(State::FinWait1); 2])?;
    let both_full = stage.kernel([("client", ends[0]), ("server", ends[1])])?;
    ensure!(both_full == [Some(State::FinWait1); 2], "with both windows full: {both_full:?}");

    stage.say("again", "only the client fills the other's window");
    let (client_sock, conn_sock) = connected_pair(Some(SMALL))?;
    let ends = [Pair::of(&client_sock)?, Pair::of(&conn_sock)?];
    fill_window(stage, "client", &client_sock)?;
    stage.look(format_args!("ss -tano 'sport = :{0} or dport = :{0}'", ends[1].local.port()));
    let question = stage.ask(
        "The client calls shutdown(SHUT_WR), then the server does. Nobody reads. Which states stay?",
        [
            ("client CLOSING, server FIN-WAIT-2", [Some(State::Closing), Some(State::FinWait2)]),
            ("client CLOSING, server CLOSING", [Some(State::Closing); 2]),
            ("client FIN-WAIT-1, server FIN-WAIT-1", [Some(State::FinWait1); 2]),
            ("client TIME-WAIT, server in no table", [Some(State::TimeWait), None]),
        ],
        Predicts { source: None, kit: [Some(State::Closing), Some(State::FinWait2)] },
    )?;
    shut(stage, "client", &client_sock);
    shut(stage, "server", &conn_sock);
    wait_until_settled(ends, [Some(State::Closing), Some(State::FinWait2)])?;
    let observed = stage.kernel([("client", ends[0]), ("server", ends[1])])?;
    stage.verdict(question, observed, "CLOSING: the server's FIN has come, and the client's own FIN is still queued")
}

pub fn fin_wait_1(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Leaves {
        AtOnce,
        OnceRoom,
        OnceClosed,
    }
    let (client_sock, conn_sock) = connected_pair(Some(SMALL))?;
    let conn_fd = conn_sock.as_raw_fd();
    let ends = [Pair::of(&client_sock)?, Pair::of(&conn_sock)?];
    fill_window(stage, "client", &client_sock)?;
    let question = stage.ask(
        "The server's window is full. The client calls shutdown(SHUT_WR). When does the client reach FIN-WAIT-2?",
        [
            ("at once: a FIN carries no data", Leaves::AtOnce),
            ("once the server has made room for the rest", Leaves::OnceRoom),
            ("once the server has closed", Leaves::OnceClosed),
        ],
        Predicts { source: None, kit: Leaves::OnceRoom },
    )?;
    shut(stage, "client", &client_sock);
    wait_until_settled(ends, [Some(State::FinWait1), Some(State::Established)])?;
    let [first, _] = stage.kernel([("client", ends[0]), ("server", ends[1])])?;

    let (mut total, mut reads) = (0, 0);
    let end = wait_until("the end of the stream", LIMIT, || {
        let result = recv(conn_fd, &mut [0; 65536], MsgFlags::empty());
        if let Ok(bytes_read @ 1..) = result {
            (total, reads) = (total + bytes_read, reads + 1);
        }
        Ok(matches!(result, Ok(0) | Err(_)).then_some(result).filter(|result| *result != Err(Errno::EINTR)))
    })?;
    stage.server(format_args!("recv({conn_fd}, 65536) x{reads} = {total} bytes"));
    stage.server(format_args!("recv({conn_fd}, 65536) = {}", returned(&end)));
    wait_until_settled(ends, [Some(State::FinWait2), Some(State::CloseWait)])?;
    let [then, _] = stage.kernel([("client", ends[0]), ("server", ends[1])])?;
    let observed = match (first, then) {
        (Some(State::FinWait2), _) => Leaves::AtOnce,
        (Some(State::FinWait1), Some(State::FinWait2)) => Leaves::OnceRoom,
        (Some(State::FinWait1), Some(State::FinWait1)) => Leaves::OnceClosed,
        other => bail!("the client went through {other:?}"),
    };
    stage.verdict(question, observed, "the FIN is queued behind the unsent data; the kernel decides, not the program")
}
