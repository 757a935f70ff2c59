//! Who waits for a client that does not end its request.

use std::{net::Shutdown, os::fd::AsRawFd};

use anyhow::{Result, ensure};
use kernel::Pair;
use nix::sys::socket::{MsgFlags, send};
use shared::{At, Predicts, Stage, Verdict, returned};

use super::{LIMIT, SILENCE, connected, receive_all, server_role, waits};

pub fn nobody_else(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Gets {
        Answer,
        Nothing,
        Refused,
    }
    let mut observed = Gets::Nothing;
    let mut question = None;
    // The lecture's server has no deadline; the mended one has one of a second.
    for deadline in ["0", "1"] {
        if deadline != "0" {
            stage.say("mended", "the same with server --deadline 1: a request must be whole within a second");
        }
        let (mut server, server_addr) = server_role(&["--deadline", deadline])?;
        let first_sock = connected(server_addr)?;
        server.wait_for(" connected\n")?;
        let first_fd = first_sock.as_raw_fd();
        let sent = send(first_fd, b"1:Hello world!", MsgFlags::MSG_NOSIGNAL);
        stage.say(
            "client A",
            format_args!("send({first_fd}, \"1:Hello world!\", 14) = {}  and no shutdown", returned(&sent)),
        );

        if deadline == "0" {
            question = Some(stage.ask(
                "Client A has sent its request, and does not call shutdown. Client B connects and asks, in good order. What does B get?",
                [
                    ("its answer: the request of A is complete", Gets::Answer),
                    ("a connection, and then nothing", Gets::Nothing),
                    ("-1 ECONNREFUSED: the server is busy", Gets::Refused),
                ],
                Predicts { source: None, kit: Gets::Nothing },
            )?);
        }
        let second_sock = match connected(server_addr) {
            Ok(sock) => sock,
            Err(error) => {
                stage.say("client B", error);
                observed = Gets::Refused;
                break;
            }
        };
        let second_fd = second_sock.as_raw_fd();
        let second = Pair::of(&second_sock)?;
        let sent = send(second_fd, b"2:0", MsgFlags::MSG_NOSIGNAL);
        stage.say("client B", format_args!("send({second_fd}, \"2:0\", 3) = {}", returned(&sent)));
        second_sock.shutdown(Shutdown::Write).at("shutdown", server_addr)?;
        stage.say("client B", format_args!("shutdown({second_fd}, SHUT_WR) = 0"));
        if deadline == "0" {
            if waits(&second_sock, SILENCE)? {
                stage.say("client B", "an answer comes");
                observed = Gets::Answer;
                break;
            }
            stage.say("client B", format_args!("nothing in {SILENCE:?}"));
            stage.kernel([("client B", second), ("server's end", second.other_end())])?;
        } else {
            stage.say("client B", format_args!("waits for its answer, up to {LIMIT:?}"));
            let (answer, _) = receive_all(&second_sock)?;
            stage.server(server.line_with(" closed: no end of stream in time")?.trim_end());
            stage.say("client B", format_args!("has the answer \"{}\"", answer.escape_ascii()));
            ensure!(answer == b"0:", "client B was told something else");
        }
    }
    let question = question.ok_or_else(|| anyhow::anyhow!("nothing was asked"))?;
    stage.verdict(question, observed, "one thread waits for whom it accepted: give every client a deadline")
}
