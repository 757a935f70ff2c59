//! The pool, and what stops it.

use std::{
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kernel::Patience;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv},
};
use shared::{Predicts, Stage, Verdict, returned};

use super::{connected, request, server_role};

/// So long nobody answers before the third client counts as not served. The deadline below is far shorter.
const NOT_SERVED: Duration = Duration::from_secs(2);
/// The servers' own deadline, in seconds.
const DEADLINE: &str = "0.3";

pub fn silent_clients(stage: &mut Stage) -> Result<Verdict> {
    let mut served = [false; 2];
    let mut question = None;
    for (served, deadline) in served.iter_mut().zip(["0", DEADLINE]) {
        let (mut server, server_addr) = server_role(&["server-multi", "0", "2", "10", "--deadline", deadline])?;
        let mut silent = Vec::new();
        for _ in 0..2 {
            let (sock, pair) = connected(server_addr)?;
            stage.server(server.line_with(&format!(": serves {}", pair.local))?);
            silent.push(sock);
        }
        if question.is_none() {
            stage.say("silent", "two clients are connected and say nothing: one for each thread");
            question = Some(stage.ask(
                "Two threads, a queue of ten. A third client sends a request. When does it get its echo?",
                [
                    ("at once: main serves it itself", [true, true]),
                    ("not as long as the two are silent", [false, true]),
                    ("when the kernel's time-out for reading ends", [false, false]),
                ],
                Predicts { source: Some([true, true]), kit: [false, true] },
            )?);
        }
        let (third_sock, _) = connected(server_addr)?;
        request(stage, "third", &third_sock, "Hello TCP")?;
        let mut patience = Patience::new(NOT_SERVED);
        let mut fds = [PollFd::new(third_sock.as_fd(), PollFlags::POLLIN)];
        while poll(&mut fds, PollTimeout::try_from(patience.step())?) != Ok(1) && !patience.is_over() {}
        let echo = recv(third_sock.as_raw_fd(), &mut [0; 1024], MsgFlags::MSG_DONTWAIT);
        stage.say("third", format_args!("recv({}, 1024, MSG_DONTWAIT) = {}", third_sock.as_raw_fd(), returned(&echo)));
        ensure!(matches!(echo, Ok(9) | Err(Errno::EAGAIN)), "the third client got {echo:?}");
        *served = echo == Ok(9);
        if deadline == "0" {
            stage.say(
                "mended",
                format_args!("the same with --deadline {DEADLINE}: who is silent for so long is closed"),
            );
        } else {
            let closed = server.printed().matches("nothing in time: closed").count();
            stage.say("mended", format_args!("{closed} silent clients were closed"));
        }
        drop(silent);
    }
    let question = question.context("no question was put")?;
    stage.verdict(question, served, "a thread is held as long as its client likes; only a deadline frees it")
}
