//! shutdown acts on the connection, close on a descriptor.

use std::{
    net::Shutdown,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::process::ExitStatusExt,
    },
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context, Result, ensure};
use kernel::{Pair, State, wait_for_state, wait_until};
use nix::{
    errno::Errno,
    libc::SIGPIPE,
    sys::socket::{MsgFlags, recv, send},
};
use shared::{At, Predicts, Stage, Verdict, returned};
use socket2::{Domain, Socket, Type};

use super::{LIMIT, connected_pair};

/// Every Linux has one here, whatever PATH says.
const SHELL: &str = "/bin/sh";
const ECHO: &str = "echo more";
const IGNORING: &str = "trap '' PIPE; echo more";

pub fn send_after(stage: &mut Stage) -> Result<Verdict> {
    let (client_sock, conn_sock) = connected_pair()?;
    let client_fd = client_sock.as_raw_fd();
    let (client, server) = (Pair::of(&client_sock)?, Pair::of(&conn_sock)?);

    client_sock.shutdown(Shutdown::Write).at("shutdown", "")?;
    stage.client(format_args!("shutdown({client_fd}, SHUT_WR) = 0"));
    wait_for_state(client, Some(State::FinWait2), LIMIT)?;
    stage.kernel([("client", client), ("server", server)])?;
    let refused = send(client_fd, b"more", MsgFlags::empty());
    stage.client(format_args!("send({client_fd}, \"more\", 4) = {}", returned(&refused)));
    ensure!(refused == Err(Errno::EPIPE), "send returned {refused:?} after SHUT_WR");

    let question = stage.ask(
        "A shell gets this socket as its standard output and runs echo. How does the shell end?",
        [
            ("killed by a signal", (Some(SIGPIPE), None)),
            ("exit status 1, after an error message", (None, Some(1))),
            ("exit status 0, as if echo had worked", (None, Some(0))),
        ],
        Predicts { source: None, kit: (Some(SIGPIPE), None) },
    )?;
    let ended = shell(ECHO, &client_sock)?;
    stage.say("sh -c", format_args!("\"{ECHO}\": {ended}"));
    let observed = (ended.signal(), ended.code());

    let ended = shell(IGNORING, &client_sock)?;
    stage.say("sh -c", format_args!("\"{IGNORING}\": {ended}"));
    ensure!(ended.code().is_some_and(|code| code != 0), "with SIGPIPE ignored the shell ended with {ended}");
    stage.verdict(question, observed, "SIGPIPE ends the program; one that ignores it, as Rust does, gets EPIPE")
}

/// Runs a shell whose standard output is a copy of this socket. echo is a part of the shell, so its SIGPIPE is known: std
/// gives every program it starts the default action.
fn shell(script: &str, sock: &Socket) -> Result<ExitStatus> {
    let copy = OwnedFd::from(sock.try_clone().at("fcntl", "F_DUPFD_CLOEXEC")?);
    let mut command = Command::new(SHELL);
    command.args(["-c", script]).stdin(Stdio::null()).stdout(copy).stderr(Stdio::null());
    let mut child = command.spawn().with_context(|| format!("cannot start {SHELL}"))?;
    wait_until("the shell's end", LIMIT, || Ok(child.try_wait()?))
}

pub fn descriptor(stage: &mut Stage) -> Result<Verdict> {
    let (client_sock, conn_sock) = connected_pair()?;
    let (client_fd, conn_fd) = (client_sock.as_raw_fd(), conn_sock.as_raw_fd());
    let (client, server) = (Pair::of(&client_sock)?, Pair::of(&conn_sock)?);

    client_sock.shutdown(Shutdown::Both).at("shutdown", "")?;
    stage.client(format_args!("shutdown({client_fd}, SHUT_RDWR) = 0"));
    let question = stage.ask(
        "Both directions are shut down. Is the descriptor's number free, and is the connection still in the kernel's table?",
        [
            ("number taken, connection in the table", (false, true)),
            ("number taken, connection in no table", (false, false)),
            ("number free, connection in the table", (true, true)),
            ("number free, connection in no table", (true, false)),
        ],
        Predicts { source: Some((false, true)), kit: (false, true) },
    )?;
    wait_for_state(server, Some(State::CloseWait), LIMIT)?;
    let end = recv(conn_fd, &mut [0; 1024], MsgFlags::empty());
    stage.server(format_args!("recv({conn_fd}, 1024) = {}", returned(&end)));
    ensure!(end == Ok(0), "the server's recv returned {end:?} instead of end of stream");
    wait_for_state(client, Some(State::FinWait2), LIMIT)?; // its FIN is acknowledged
    let [state, _] = stage.kernel([("client", client), ("server", server)])?;
    let new_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", "")?;
    let new_fd = new_sock.as_raw_fd();
    stage.client(format_args!("socket(AF_INET, SOCK_STREAM) = {new_fd}"));
    let observed = (new_fd == client_fd, state.is_some());

    let unconnected = new_sock.shutdown(Shutdown::Both);
    stage.client(format_args!("shutdown({new_fd}, SHUT_RDWR) = {}", returned(&unconnected)));
    drop(client_sock); // close(2): now the number is free
    stage.client(format_args!("close({client_fd}) = 0"));
    let next_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", "")?;
    stage.client(format_args!("socket(AF_INET, SOCK_STREAM) = {}", next_sock.as_raw_fd()));
    ensure!(next_sock.as_raw_fd() == client_fd, "close did not free descriptor {client_fd}");
    stage.verdict(question, observed, "shutdown frees no descriptor; close does")
}
