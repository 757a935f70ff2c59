//! The real server under more clients than it wants, and under one that does not read.

use std::{fs, net::Shutdown, os::fd::AsRawFd, time::Duration};

use anyhow::{Context, Result};
use kernel::{NotSeen, Pair, State, setting, wait_for_state, wait_until};
use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, kill},
        socket::{MsgFlags, recv, send},
    },
};
use shared::{At, Predicts, Role, Stage, Verdict, returned};
use socket2::{Domain, Socket, Type};

use super::{TIME_LIMIT, connected, let_in, listening, local_addr, server_role};
use crate::{outbox::OUTBOX_LIMIT, room::REFUSAL};

/// The server prints its line on a new client long before this.
const ANNOUNCE_LIMIT: Duration = Duration::from_secs(5);
/// Long enough that a few hundred lines fill every buffer on the way to a client that does not read.
const LONG_LINE: usize = 60_000;

pub fn fifth(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Fifth {
        NotConnected,
        Reset,
        Told,
        Waits,
    }
    let (mut server, server_addr) = server_role()?;
    let mut four = Vec::new();
    for _ in 0..4 {
        let client_sock = let_in(&mut server, server_addr)?;
        stage.server(format_args!("> New connection [{}]", local_addr(&client_sock)?));
        four.push(client_sock);
    }
    stage.look(format_args!("ss -tanp 'sport = :{}'", server_addr.port()));
    let question = stage.ask(
        "Four are in. A fifth connects, sends a line and reads. What does it get?",
        [
            ("connect fails: ECONNREFUSED", Fifth::NotConnected),
            ("connect works, then recv fails: ECONNRESET", Fifth::Reset),
            ("connect works, recv waits until one of the four leaves", Fifth::Waits),
            ("connect works, recv says why, then 0", Fifth::Told),
        ],
        Predicts { source: None, kit: Fifth::Told },
    )?;
    stopped(&server)?;
    stage.say("stop", format_args!("kill -STOP {}: the server's program stands still now", server.pid()));
    let fifth_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
    fifth_sock.set_read_timeout(Some(TIME_LIMIT)).at("setsockopt", server_addr)?;
    let fifth_fd = fifth_sock.as_raw_fd();

    let connect_result = fifth_sock.connect(&server_addr.into());
    stage.say("fifth", format_args!("connect({fifth_fd}, {server_addr}) = {}", returned(&connect_result)));
    if connect_result.is_err() {
        return stage.verdict(question, Fifth::NotConnected, "");
    }
    let pair = Pair::of(&fifth_sock)?;
    let [state, _] = stage.kernel([("fifth", pair), ("server's end", pair.other_end())])?;

    let sent = send(fifth_fd, b"me too\n", MsgFlags::empty());
    stage.say("fifth", format_args!("send({fifth_fd}, \"me too\\n\", 7) = {}", returned(&sent)));

    kill(server.pid(), Signal::SIGCONT).at("kill", server.pid())?;
    stage.say("go on", format_args!("kill -CONT {}", server.pid()));
    let mut buffer = [0; 1024];
    let mut told = String::new();
    let end = loop {
        let received = recv(fifth_fd, &mut buffer, MsgFlags::empty());
        if received == Err(Errno::EINTR) {
            continue; // SIGCHLD of the server under strace; Ctrl-Z, then fg: with SO_RCVTIMEO recv is not restarted, signal(7)
        }
        stage.say("fifth", format_args!("recv({fifth_fd}, 1024) = {}", returned(&received)));
        match received {
            Ok(bytes_read) if bytes_read > 0 => told += &String::from_utf8_lossy(&buffer[..bytes_read]),
            end => break end,
        }
    };
    stage.say("fifth", format_args!("heard {:?}", told.trim_end()));
    // A reset takes the socket out of the table, even if recv had returned 0 before.
    let [end_state] = stage.kernel([("fifth", pair)])?;
    let observed = match (end, end_state) {
        (Ok(_), Some(State::CloseWait)) if told == format!("{REFUSAL}\n") => Fifth::Told,
        (Ok(_), None) | (Err(Errno::ECONNRESET), _) => Fifth::Reset,
        (Err(Errno::EAGAIN), _) => Fifth::Waits,
        end => anyhow::bail!("heard {told:?}, then {end:?}"),
    };
    anyhow::ensure!(state == Some(State::Established), "connected, but {state:?}");
    if observed == Fifth::Told {
        let mut client = Role::start(&["client", &server_addr.port().to_string()])?;
        for line in ["> Connected to server", REFUSAL] {
            stage.client(client.line_with(line)?);
        }
    }
    drop(four);
    stage.verdict(question, observed, "the kernel had connected the client; the rejection is a line of text")
}

/// Stops the server's process: what happens until SIGCONT, the kernel does alone.
pub(super) fn stopped(server: &Role) -> Result<()> {
    kill(server.pid(), Signal::SIGSTOP).at("kill", server.pid())?;
    let stat = format!("/proc/{}/stat", server.pid());
    // proc_pid_stat(5): T is stopped; t, the same while strace looks on.
    let stopped = |text: String| text.contains(") T ") || text.contains(") t ");
    wait_until("the server stopped", TIME_LIMIT, || Ok(stopped(fs::read_to_string(&stat)?).then_some(())))
}

pub fn slot_freed(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Next {
        LetIn,
        Rejected,
        Waits,
    }
    let (mut server, server_addr) = server_role()?;
    let mut inside = Vec::new();
    for _ in 0..4 {
        inside.push(let_in(&mut server, server_addr)?);
    }
    let refused_sock = connected(server_addr)?;
    stage.server(server.line_with("> Rejected")?);

    let leaving_sock = inside.pop().context("four were in")?;
    let pair = Pair::of(&leaving_sock)?;
    let leaving_fd = leaving_sock.as_raw_fd();
    stage.look(format_args!("ss -tan 'sport = :{0} or dport = :{0}'", server_addr.port()));
    let question = stage.ask(
        "The fourth client leaves, and its connection is in TIME-WAIT. Then the next client connects. What does the server do?",
        [
            ("reject the client until TIME-WAIT ends", Next::Rejected),
            ("leave it in the accept queue until TIME-WAIT ends", Next::Waits),
            ("let the client in at once", Next::LetIn),
        ],
        Predicts { source: None, kit: Next::LetIn },
    )?;
    // The server closes only after the ACK of this FIN has come, or a late ACK may cost TIME-WAIT: lab10, how-long.
    stopped(&server)?;
    leaving_sock.shutdown(Shutdown::Write).at("shutdown", server_addr)?;
    stage.say("fourth", format_args!("shutdown({leaving_fd}, SHUT_WR) = 0  on {}", pair.local));
    wait_for_state(pair, Some(State::FinWait2), TIME_LIMIT)?;
    kill(server.pid(), Signal::SIGCONT).at("kill", server.pid())?;
    wait_for_state(pair, Some(State::TimeWait), TIME_LIMIT)?; // recv need not wait then, so no SIGCHLD can interrupt it
    let end = recv(leaving_fd, &mut [0; 8], MsgFlags::empty()).at("recv", server_addr)?;
    stage.say("fourth", format_args!("recv({leaving_fd}, 8) = {end}"));
    drop(leaving_sock); // close(2)
    wait_for_state(pair.other_end(), None, TIME_LIMIT)?;
    stage.kernel([("fourth", pair), ("server's end", pair.other_end())])?;

    let next_sock = connected(server_addr)?;
    let next_addr = local_addr(&next_sock)?;
    stage.say("next", format_args!("connect({}, {server_addr}) = 0", next_sock.as_raw_fd()));
    let observed = match server.wait_for_within(&format!(" [{next_addr}]"), ANNOUNCE_LIMIT) {
        Ok(before) => {
            let what = before.rsplit('\n').next().unwrap_or_default();
            stage.server(format_args!("{what} [{next_addr}]"));
            if what == "> New connection" { Next::LetIn } else { Next::Rejected }
        }
        Err(error) if error.is::<NotSeen>() => Next::Waits,
        Err(error) => return Err(error),
    };
    let [left, _] = stage.kernel([("fourth", pair), ("next", Pair::of(&next_sock)?)])?;
    anyhow::ensure!(left == Some(State::TimeWait), "the fourth client's TIME-WAIT has gone");
    // TIME-WAIT has the address of the client that left; the next client has another.
    let new_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", pair.local)?;
    let bound = new_sock.bind(&pair.local.into());
    stage.say("another", format_args!("bind({}, {}) = {}", new_sock.as_raw_fd(), pair.local, returned(&bound)));
    anyhow::ensure!(bound.is_err(), "TIME-WAIT does not block the port of the client that left");
    drop(refused_sock);
    stage.verdict(
        question,
        observed,
        "the limit of four is the program's own count; TIME-WAIT blocks only the leaver's port",
    )
}

pub fn one_line(stage: &mut Stage) -> Result<Verdict> {
    let (listen_sock, server_addr) = listening()?;
    let listen_fd = listen_sock.as_raw_fd();
    let mut conn_socks = Vec::new();
    let mut clients = Vec::new();
    for _ in 0..2 {
        let client = Role::start(&["client", &server_addr.port().to_string()])?;
        let (conn_sock, _) = listen_sock.accept().at("accept", server_addr)?;
        stage.server(format_args!("accept({listen_fd}) = {}", conn_sock.as_raw_fd()));
        conn_socks.push(conn_sock);
        clients.push(client);
    }
    let third_sock = connected(server_addr)?;
    let third_fd = third_sock.as_raw_fd();
    let (conn_sock, _) = listen_sock.accept().at("accept", server_addr)?;
    stage.server(format_args!("accept({listen_fd}) = {}", conn_sock.as_raw_fd()));
    conn_socks.push(conn_sock);

    let question = stage.ask(
        "The line is \"I have 3 clients\": 16 letters. With how many sends, of how many bytes, does it reach the three clients?",
        [
            ("1 send of 17 bytes, on the listening socket", (1, 17)),
            ("1 send of 51 bytes, on a connection", (1, 51)),
            ("3 sends of 16 bytes, one on each connection", (3, 16)),
            ("3 sends of 17 bytes, one on each connection", (3, 17)),
        ],
        Predicts { source: None, kit: (3, 17) },
    )?;
    let line = b"I have 3 clients\n";
    let mut buffer = [0; 1024];
    let mut sends = 0;
    let mut received = Err(Errno::EAGAIN);
    let socks = [&listen_sock, &conn_socks[0], &conn_socks[1], &conn_socks[2]];
    for sock in socks {
        let sent = send(sock.as_raw_fd(), line, MsgFlags::empty());
        stage.server(format_args!("send({}, \"I have 3 clients\\n\", 17) = {}", sock.as_raw_fd(), returned(&sent)));
        if sent.is_err() {
            continue;
        }
        sends += 1;
        if let Some(client) = clients.get_mut(sends - 1) {
            stage.client(client.line_with("> Server response : ")?);
            received = recv(third_fd, &mut buffer, MsgFlags::MSG_DONTWAIT);
            stage.say("third", format_args!("recv({third_fd}, 1024, MSG_DONTWAIT) = {}", returned(&received)));
        } else {
            received = uninterrupted(|| recv(third_fd, &mut buffer, MsgFlags::empty()));
            stage.say("third", format_args!("recv({third_fd}, 1024) = {}", returned(&received)));
        }
        if received.is_ok() {
            break;
        }
    }
    let bytes_read = received.at("recv", server_addr)?;
    stage.verdict(
        question,
        (sends, bytes_read),
        "TCP has no send to all: each connection gets its own copy, newline included",
    )
}

pub fn no_reader(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Gets {
        NoBytes,
        SomeBytes,
    }
    let (mut server, server_addr) = server_role()?;
    let reader_sock = let_in(&mut server, server_addr)?;
    let silent_sock = let_in(&mut server, server_addr)?;
    let (reader_fd, silent_fd) = (reader_sock.as_raw_fd(), silent_sock.as_raw_fd());
    let silent_addr = local_addr(&silent_sock)?;
    // More than every buffer on the way takes: the receive buffer, the send buffer, and the server's own queue.
    let largest = |name| setting(name).last().map_or(1 << 23, |bytes| *bytes as usize);
    let buffers = largest("net/ipv4/tcp_rmem") + largest("net/ipv4/tcp_wmem") + OUTBOX_LIMIT;
    let most_lines = 3 * buffers / LONG_LINE;

    stage.server("never blocks in send: what a client does not take waits in a queue");
    stage.server(format_args!(
        "drops a client for which more than {} KiB would wait: SO_LINGER 0, then close",
        OUTBOX_LIMIT / 1024
    ));
    let question = stage.ask(
        "One client reads, another is silent. The operator sends long lines until the server drops the silent client. Then the silent client calls recv until it gets no more bytes. What does it get?",
        [
            ("no bytes, then 0", (Gets::NoBytes, Ok(()))),
            ("no bytes, then -1 ECONNRESET", (Gets::NoBytes, Err(Errno::ECONNRESET))),
            ("some bytes, then 0", (Gets::SomeBytes, Ok(()))),
            ("some bytes, then -1 ECONNRESET", (Gets::SomeBytes, Err(Errno::ECONNRESET))),
        ],
        Predicts { source: None, kit: (Gets::SomeBytes, Err(Errno::ECONNRESET)) },
    )?;
    let line = "x".repeat(LONG_LINE);
    let mut buffer = vec![0; 64 * 1024];
    let (mut calls, mut bytes, mut lines) = (0, 0, 0);
    let mut waits = false;
    let mut dropped = false;
    while lines < most_lines && !dropped && !waits {
        server.type_line(&line)?;
        lines += 1;
        while bytes < lines * (LONG_LINE + 1) && !waits {
            match uninterrupted(|| recv(reader_fd, &mut buffer, MsgFlags::empty())) {
                Ok(bytes_read) if bytes_read > 0 => {
                    bytes += bytes_read;
                    calls += 1;
                }
                Err(Errno::EAGAIN) => waits = true,
                other => anyhow::bail!("after {bytes} bytes the reader got {other:?}"),
            }
        }
        dropped = server.printed().contains("> Dropped client");
    }
    if !dropped && !waits {
        // The reader has its last line before the server has come to the silent client.
        let seen = wait_until("a dropped client", TIME_LIMIT, || {
            Ok(server.printed().contains("> Dropped client").then_some(()))
        });
        dropped = seen.is_ok();
    }
    stage.say("reader", format_args!("recv({reader_fd}, 65536) x{calls} = {bytes} bytes"));
    stage.say("operator", format_args!("{lines} lines of {} bytes with their newline", LONG_LINE + 1));
    anyhow::ensure!(!waits, "the reader waits, too: the server blocks in send");
    anyhow::ensure!(dropped, "the server dropped nobody");
    stage.server(server.line_with(&format!("> Dropped client [{silent_addr}]"))?);
    let (mut late_calls, mut late_bytes) = (0, 0);
    let end = loop {
        match uninterrupted(|| recv(silent_fd, &mut buffer, MsgFlags::empty())) {
            Ok(bytes_read) if bytes_read > 0 => {
                late_bytes += bytes_read;
                late_calls += 1;
            }
            end => break end,
        }
    };
    stage.say("silent", format_args!("recv({silent_fd}, 65536) x{late_calls} = {late_bytes} bytes"));
    stage.say("silent", format_args!("recv({silent_fd}, 65536) = {}", returned(&end)));
    let gets = if late_bytes > 0 { Gets::SomeBytes } else { Gets::NoBytes };
    stage.verdict(
        question,
        (gets, end.map(|_| ())),
        "what had reached the client's kernel is still read; then recv tells of the reset",
    )
}

/// Repeats a call that Ctrl-Z and fg interrupted: with SO_RCVTIMEO the kernel does not restart it, see signal(7).
fn uninterrupted<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}
