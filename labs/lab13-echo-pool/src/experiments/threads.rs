//! The pool, and what stops it.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use anyhow::{Result, ensure};
use kernel::{Pair, Patience, wait_until};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv},
};
use shared::{Predicts, Role, Stage, Verdict, returned};
use socket2::Socket;

use super::{LIMIT, connected, request, server_role};

/// So long nobody answers before the third client counts as not served. The deadline below is far shorter.
const NOT_SERVED: Duration = Duration::from_secs(2);
/// The servers' own deadline, in seconds.
const DEADLINE: &str = "0.3";

pub fn silent_clients(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum ServedBy {
        Main,
        Worker,
        Nobody,
    }
    let (mut server, server_addr, silent) = held_pool(stage, "0")?;
    stage.say("silent", "two clients are connected and say nothing: one for each thread");
    let question = stage.ask(
        "Two threads, a queue of ten, no deadline. Now client 3 sends a request. Who serves it?",
        [
            ("main itself, as no thread is free", ServedBy::Main),
            ("a thread, between two looks at its silent client", ServedBy::Worker),
            ("nobody, as long as the two stay silent", ServedBy::Nobody),
        ],
        Predicts { source: None, kit: ServedBy::Nobody },
    )?;
    let (echo, third) = third_client(stage, server_addr)?;
    let observed = match echo {
        Err(_) => ServedBy::Nobody,
        Ok(_) if server.printed().contains(&format!(": serves {}", third.local)) => ServedBy::Worker,
        Ok(_) => ServedBy::Main,
    };
    drop(silent);

    stage.say("mended", format_args!("the same with --deadline {DEADLINE}: who is silent for so long is closed"));
    let (mut server, server_addr, silent) = held_pool(stage, DEADLINE)?;
    let (echo, _) = third_client(stage, server_addr)?;
    ensure!(echo == Ok(9), "with a deadline the third client got {echo:?}");
    wait_until("two silent clients closed", LIMIT, || {
        Ok((server.printed().matches("nothing in time: closed").count() == silent.len()).then_some(()))
    })?;
    stage.say("mended", format_args!("{} silent clients were closed", silent.len()));
    stage.verdict(question, observed, "a thread is held as long as its client likes; only a deadline frees it")
}

/// A pool of two threads, each held by a silent client.
fn held_pool(stage: &mut Stage, deadline: &str) -> Result<(Role, SocketAddr, Vec<Socket>)> {
    let (mut server, server_addr) = server_role(&["server-multi", "0", "2", "10", "--deadline", deadline])?;
    let mut silent = Vec::new();
    for _ in 0..2 {
        let (sock, pair) = connected(server_addr)?;
        stage.server(server.line_with(&format!(": serves {}", pair.local))?);
        silent.push(sock);
    }
    Ok((server, server_addr, silent))
}

/// A third client's request, and what it gets within the time.
fn third_client(stage: &mut Stage, server_addr: SocketAddr) -> Result<(nix::Result<usize>, Pair)> {
    let (third_sock, pair) = connected(server_addr)?;
    request(stage, "client 3", &third_sock, "Hello TCP")?;
    let mut patience = Patience::new(NOT_SERVED);
    let mut fds = [PollFd::new(third_sock.as_fd(), PollFlags::POLLIN)];
    let mut answered = false;
    while !answered && !patience.is_over() {
        answered = poll(&mut fds, PollTimeout::try_from(patience.step())?) == Ok(1);
    }
    let waited = if answered { "its socket has become readable".into() } else { format!("no echo in {NOT_SERVED:?}") };
    stage.say("client 3", waited);
    let echo = recv(third_sock.as_raw_fd(), &mut [0; 1024], MsgFlags::MSG_DONTWAIT);
    stage.say("client 3", format_args!("recv({}, 1024, MSG_DONTWAIT) = {}", third_sock.as_raw_fd(), returned(&echo)));
    ensure!(matches!(echo, Ok(9) | Err(Errno::EAGAIN)), "the third client got {echo:?}");
    Ok((echo, pair))
}
