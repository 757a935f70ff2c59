//! The real server under more clients than it wants, and under one that does not read.

use std::{fs, net::Shutdown, os::fd::AsRawFd, time::Duration};

use anyhow::{Context, Result};
use kernel::{NotSeen, Pair, State, wait_for_state, wait_until};
use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, kill},
        socket::{MsgFlags, recv, send},
    },
};
use shared::{At, Predicts, Role, Stage, Verdict, returned};
use socket2::{Domain, Socket, Type};

use super::{LIMIT, connected, let_in, local_addr, server_role};
use crate::{outbox::OUTBOX_LIMIT, room::REFUSAL};

/// A new client that the server lets in is announced long before this.
const ROOM_LIMIT: Duration = Duration::from_secs(2);
/// Long enough that a few hundred lines fill every buffer on the way to a client that does not read.
const LONG_LINE: usize = 60_000;
const LINES_AT_MOST: usize = 500;

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
    stopped(&server)?;
    stage.say("stop", format_args!("kill -STOP {}: it runs no line of its program now", server.pid()));

    stage.look(format_args!("ss -tanp 'sport = :{}'", server_addr.port()));
    let question = stage.ask(
        "Four are in. A fifth connects, sends a line and reads. What does it get?",
        [
            ("connect fails: ECONNREFUSED", Fifth::NotConnected),
            ("connect works, then recv fails: ECONNRESET", Fifth::Reset),
            ("connect waits until somebody leaves", Fifth::Waits),
            ("connect works, recv says why, then 0", Fifth::Told),
        ],
        Predicts { source: None, kit: Fifth::Told },
    )?;
    let fifth_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
    fifth_sock.set_read_timeout(Some(LIMIT)).at("setsockopt", server_addr)?;
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
            continue; // SIGCHLD of the server, under strace; or Ctrl-Z, then fg: with SO_RCVTIMEO signal(7) restarts nothing
        }
        stage.say("fifth", format_args!("recv({fifth_fd}, 1024) = {}", returned(&received)));
        match received {
            Ok(bytes_read) if bytes_read > 0 => told += &String::from_utf8_lossy(&buffer[..bytes_read]),
            end => break end,
        }
    };
    stage.say("fifth", format_args!("heard {:?}", told.trim_end()));
    // A reset would have taken the socket out of the table, even where recv had already returned 0.
    let [end_state] = stage.kernel([("fifth", pair)])?;
    let observed = match (end, end_state) {
        (Ok(_), Some(State::CloseWait)) if told == format!("{REFUSAL}\n") => Fifth::Told,
        (Ok(_), None) | (Err(Errno::ECONNRESET), _) => Fifth::Reset,
        (Err(Errno::EAGAIN), _) => Fifth::Waits,
        end => anyhow::bail!("heard {told:?}, then {end:?}"),
    };
    anyhow::ensure!(state == Some(State::Established), "connected, but {state:?}");
    drop(four);
    stage.verdict(question, observed, "the kernel had connected it; being rejected is a line of text")
}

/// Stops the server's process: what happens until SIGCONT, its kernel does alone.
fn stopped(server: &Role) -> Result<()> {
    kill(server.pid(), Signal::SIGSTOP).at("kill", server.pid())?;
    let stat = format!("/proc/{}/stat", server.pid());
    // proc_pid_stat(5): T is stopped; t, the same while strace looks on.
    let stopped = |text: String| text.contains(") T ") || text.contains(") t ");
    wait_until("the server stopped", LIMIT, || Ok(stopped(fs::read_to_string(&stat)?).then_some(())))
}

pub fn slot_freed(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Room {
        AtOnce,
        Later,
    }
    let (mut server, server_addr) = server_role()?;
    let mut inside = Vec::new();
    for _ in 0..4 {
        inside.push(let_in(&mut server, server_addr)?);
    }
    let refused_sock = connected(server_addr)?;
    let refusal = server.line_with("> Rejected")?;
    stage.server(&refusal);

    let leaving_sock = inside.pop().context("four were in")?;
    let pair = Pair::of(&leaving_sock)?;
    let leaving_fd = leaving_sock.as_raw_fd();
    stage.look(format_args!("ss -tan 'dport = :{}'", server_addr.port()));
    let question = stage.ask(
        "One of the four closes: TIME-WAIT. When does the server let the next one in?",
        [("after a minute, with the end of TIME-WAIT", Room::Later), ("at once", Room::AtOnce)],
        Predicts { source: None, kit: Room::AtOnce },
    )?;
    // The server closes only once this FIN is acknowledged, or a late ACK may cost TIME-WAIT: lab10, how-long.
    stopped(&server)?;
    leaving_sock.shutdown(Shutdown::Write).at("shutdown", server_addr)?;
    stage.client(format_args!("shutdown({leaving_fd}, SHUT_WR) = 0"));
    wait_for_state(pair, Some(State::FinWait2), LIMIT)?;
    kill(server.pid(), Signal::SIGCONT).at("kill", server.pid())?;
    wait_for_state(pair, Some(State::TimeWait), LIMIT)?; // so recv need not wait, and no SIGCHLD can interrupt it
    let end = recv(leaving_fd, &mut [0; 8], MsgFlags::empty()).at("recv", server_addr)?;
    stage.client(format_args!("recv({leaving_fd}, 8) = {end}"));
    drop(leaving_sock); // close(2)
    wait_for_state(pair.other_end(), None, LIMIT)?;
    stage.kernel([("who left", pair), ("server's end", pair.other_end())])?;

    let next_sock = connected(server_addr)?;
    let next_addr = local_addr(&next_sock)?;
    stage.say("next", format_args!("connect({}, {server_addr}) = 0", next_sock.as_raw_fd()));
    let observed = match server.wait_for_within(&format!("> New connection [{next_addr}]\n"), ROOM_LIMIT) {
        Ok(_) => {
            stage.server(format_args!("> New connection [{next_addr}]"));
            Room::AtOnce
        }
        Err(error) if error.is::<NotSeen>() => Room::Later,
        Err(error) => return Err(error),
    };
    drop(refused_sock);
    stage.verdict(question, observed, "the place is the server's; TIME-WAIT is the leaver's own port")
}

pub fn one_line(stage: &mut Stage) -> Result<Verdict> {
    let (mut server, server_addr) = server_role()?;
    let port = server_addr.port().to_string();
    let mut clients = [Role::start(&["client", &port])?, Role::start(&["client", &port])?];
    let third_sock = let_in(&mut server, server_addr)?;
    let third_fd = third_sock.as_raw_fd();
    for (client, line) in clients.iter_mut().zip(["Line 1 sending to server", "racecar"]) {
        client.wait_for("> Enter string : ")?;
        client.type_line(line)?;
        stage.server(server.line_with("Client message")?);
    }
    let sent = send(third_fd, b"taco cat\n", MsgFlags::empty());
    stage.say("third", format_args!("send({third_fd}, \"taco cat\\n\", 9) = {}", returned(&sent)));
    stage.server(server.line_with("Client message")?);
    server.wait_for("> Enter message to send to all clients : ")?;
    stage.server("> Enter message to send to all clients :");

    let typed = "I have 3 clients";
    let turned = "stneilc 3 evah I";
    let question = stage.ask(
        "Which bytes does the third client receive?",
        [
            ("\"stneilc 3 evah I\": the server reverses", (turned.to_string(), typed.to_string())),
            ("\"I have 3 clients\": each client reverses", (typed.to_string(), turned.to_string())),
            ("the first client's copy only: one send() reaches one", (String::new(), turned.to_string())),
        ],
        Predicts { source: Some((typed.into(), turned.into())), kit: (typed.into(), turned.into()) },
    )?;
    server.type_line(typed)?;
    stage.say("operator", typed);
    let mut buffer = [0; 1024];
    let received = recv(third_fd, &mut buffer, MsgFlags::empty());
    stage.say("third", format_args!("recv({third_fd}, 1024) = {}", returned(&received)));
    let bytes = String::from_utf8_lossy(&buffer[..received.unwrap_or(0)]).trim_end().to_string();
    stage.say("third", format_args!("heard {bytes:?}"));
    let mut shown = Vec::new();
    for client in &mut clients {
        let line = client.line_with("> Server response : ")?;
        stage.client(&line);
        shown.push(line.trim_start_matches("> Server response : ").to_string());
    }
    anyhow::ensure!(shown[0] == shown[1], "the two clients show different lines: {shown:?}");
    stage.verdict(question, (bytes, shown.remove(0)), "one send() per client, the line as typed")
}

pub fn no_reader(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Others {
        Wait,
        ServedOtherDropped,
        ServedOtherKept,
    }
    let (mut server, server_addr) = server_role()?;
    let reader_sock = let_in(&mut server, server_addr)?;
    let silent_sock = let_in(&mut server, server_addr)?;
    let (reader_fd, silent_fd) = (reader_sock.as_raw_fd(), silent_sock.as_raw_fd());
    let silent_addr = local_addr(&silent_sock)?;

    let question = stage.ask(
        "One client reads, one never does. The operator sends line after line of 60,000 bytes. What becomes of the reader?",
        [
            ("it waits: the server's send() to the other blocks", Others::Wait),
            ("it gets every line, and so would the other: the kernel keeps them", Others::ServedOtherKept),
            ("it gets every line; the other is dropped", Others::ServedOtherDropped),
        ],
        Predicts { source: None, kit: Others::ServedOtherDropped },
    )?;
    let line = "x".repeat(LONG_LINE);
    let mut buffer = vec![0; 64 * 1024];
    let (mut calls, mut bytes, mut lines) = (0, 0, 0);
    let mut waits = false;
    let mut dropped = false;
    while lines < LINES_AT_MOST && !dropped && !waits {
        server.type_line(&line)?;
        lines += 1;
        while bytes < lines * (LONG_LINE + 1) && !waits {
            match recv(reader_fd, &mut buffer, MsgFlags::empty()) {
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
    stage.say("reader", format_args!("recv({reader_fd}, 65536) x{calls} = {bytes} bytes"));
    stage.say("operator", format_args!("{lines} lines of {} bytes with their newline", LONG_LINE + 1));
    let observed = if dropped {
        stage.server(server.line_with(&format!("> Dropped client [{silent_addr}]"))?);
        // It can still read what had reached its own receive buffer; then comes the reset.
        let mut late = 0;
        let end = loop {
            match recv(silent_fd, &mut buffer, MsgFlags::empty()) {
                Ok(bytes_read) if bytes_read > 0 => late += bytes_read,
                end => break end,
            }
        };
        stage.say("silent", format_args!("finds {late} bytes in its own kernel buffer, then:"));
        stage.say("silent", format_args!("recv({silent_fd}, 65536) = {}", returned(&end)));
        anyhow::ensure!(end == Err(Errno::ECONNRESET), "the silent client saw {end:?} instead of a reset");
        Others::ServedOtherDropped
    } else if waits {
        Others::Wait
    } else {
        Others::ServedOtherKept
    };
    let lesson = format!("non-blocking send, and a queue with an end: {} KiB", OUTBOX_LIMIT / 1024);
    stage.verdict(question, observed, &lesson)
}
