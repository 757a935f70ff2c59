//! The cable is out: which options make the kernel say so?

use std::{
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use anyhow::{Context, Result};
use kernel::{Pair, Patience, options::MinTtl, tcp_socket};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        MsgFlags, send, setsockopt,
        sockopt::{KeepAlive, TcpKeepCount, TcpKeepIdle, TcpKeepInterval, TcpUserTimeout},
    },
};
use shared::{At, Predicts, Stage, Verdict, returned};
use socket2::Socket;

use super::{cable, connected_pair, receive};
use crate::cable::CUT;

/// So long four programs wait for news: probes end after 2 s, the user timeout after about 1.4 s.
const NEWS_LIMIT: Duration = Duration::from_secs(4);
const USER_TIMEOUT_MS: u32 = 1000;

pub fn who_learns(stage: &mut Stage) -> Result<Verdict> {
    let pairs = [connected_pair()?, connected_pair()?, connected_pair()?, connected_pair()?];
    let [idle, probing, sender, limited] = &pairs;
    let named = [("idle", idle), ("probing", probing), ("sender", sender), ("limited", limited)];

    let fd = probing.0.as_raw_fd();
    setsockopt(&probing.0, KeepAlive, &true).at("setsockopt SO_KEEPALIVE", "")?;
    stage.say("probing", format_args!("setsockopt({fd}, SOL_SOCKET, SO_KEEPALIVE, [1]) = 0"));
    setsockopt(&probing.0, TcpKeepIdle, &1).at("setsockopt TCP_KEEPIDLE", "")?; // seconds; else 7200
    stage.say("probing", format_args!("setsockopt({fd}, SOL_TCP, TCP_KEEPIDLE, [1]) = 0"));
    setsockopt(&probing.0, TcpKeepInterval, &1).at("setsockopt TCP_KEEPINTVL", "")?; // seconds; else 75
    stage.say("probing", format_args!("setsockopt({fd}, SOL_TCP, TCP_KEEPINTVL, [1]) = 0"));
    setsockopt(&probing.0, TcpKeepCount, &1).at("setsockopt TCP_KEEPCNT", "")?; // else 9
    stage.say("probing", format_args!("setsockopt({fd}, SOL_TCP, TCP_KEEPCNT, [1]) = 0"));
    let fd = limited.0.as_raw_fd();
    setsockopt(&limited.0, TcpUserTimeout, &USER_TIMEOUT_MS).at("setsockopt TCP_USER_TIMEOUT", "")?;
    stage.say("limited", format_args!("setsockopt({fd}, SOL_TCP, TCP_USER_TIMEOUT, [{USER_TIMEOUT_MS}]) = 0"));
    for (label, (client_sock, _)) in named {
        let timer = tcp_socket(Pair::of(client_sock)?)?.context("no row")?.timer;
        let timer = timer.map_or("none".into(), |timer| format!("{:.1} s, keepalive", timer.as_secs_f64()));
        stage.say("kernel", format_args!("{label}: timer {timer}"));
    }

    let question = stage.ask(
        "All four cables are cut. 'sender' and 'limited' send a byte, all four wait in poll. Who is told within 4 s?",
        [
            ("all four, and at once", [true; 4]),
            ("sender and limited: their bytes are not acknowledged", [false, false, true, true]),
            ("probing and limited: their kernels count the time", [false, true, false, true]),
            ("only probing: the kernel asks for it", [false, true, false, false]),
            ("nobody: a connection that is up stays up", [false; 4]),
        ],
        Predicts { source: Some([true; 4]), kit: [false, true, false, true] },
    )?;
    for (label, (client_sock, conn_sock)) in named {
        cable(stage, label, client_sock, CUT)?;
        setsockopt(conn_sock, MinTtl, &CUT).at("setsockopt IP_MINTTL", "")?; // and its peer's, unprinted
    }
    for (label, (client_sock, _)) in [named[2], named[3]] {
        let fd = client_sock.as_raw_fd();
        let taken = send(fd, b"x", MsgFlags::empty());
        stage.say(label, format_args!("send({fd}, \"x\", 1) = {}", returned(&taken)));
    }

    let mut told = [false; 4];
    let mut patience = Patience::new(NEWS_LIMIT);
    let mut over = false;
    while !over {
        over = patience.is_over(); // after the last look
        let waiting: Vec<_> = (0..named.len()).filter(|at| !told[*at]).collect();
        let waits_at = |at: &usize| PollFd::new(named[*at].1.0.as_fd(), PollFlags::POLLIN);
        let mut fds: Vec<PollFd> = waiting.iter().map(waits_at).collect();
        let step = u16::try_from(patience.step().as_millis())?.max(1);
        let _ = poll(&mut fds, PollTimeout::from(step)); // after EINTR the next look comes
        for (fd, at) in fds.iter().zip(waiting) {
            let (label, (client_sock, _)) = named[at];
            if fd.any() == Some(true) {
                let received = receive(client_sock, &mut [0; 8], MsgFlags::empty());
                stage.say(label, format_args!("recv({}, 8) = {}", client_sock.as_raw_fd(), returned(&received)));
                told[at] = received == Err(Errno::ETIMEDOUT);
            }
        }
    }
    let end = |(client_sock, _): &(Socket, Socket)| Pair::of(client_sock);
    stage.kernel([("idle", end(idle)?), ("sender", end(sender)?)])?;
    stage.verdict(question, told, "so soon only who has set a time; 'sender' after 15 minutes, 'idle' never")
}
