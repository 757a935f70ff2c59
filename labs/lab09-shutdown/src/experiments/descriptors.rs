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
        "echo, a C program, writes into the same socket: its standard output. How does it end?",
        [
            ("killed by a signal", (Some(SIGPIPE), None)),
            ("it reports an error: exit 1", (None, Some(1))),
            ("it notices nothing: exit 0", (None, Some(0))),
        ],
        Predicts { source: None, kit: (Some(SIGPIPE), None) },
    )?;
    let ended = into_socket(&client_sock, Command::new("echo").arg("more"))?;
    stage.say("echo", ended);
    let observed = (ended.signal(), ended.code());

    // The same where whoever started it chose to ignore SIGPIPE.
    let ignoring = "trap '' PIPE; exec echo more";
    let ended = into_socket(&client_sock, Command::new("sh").args(["-c", ignoring]))?;
    stage.say("sh -c", format_args!("\"{ignoring}\": {ended}"));
    ensure!(ended.code().is_some_and(|code| code != 0), "with SIGPIPE ignored it ended with {ended}");
    stage.verdict(question, observed, "SIGPIPE; who ignores it, as Rust does, gets EPIPE")
}

/// Runs a program whose standard output is a copy of this socket. std gives it the default action for SIGPIPE.
fn into_socket(sock: &Socket, command: &mut Command) -> Result<ExitStatus> {
    let copy = OwnedFd::from(sock.try_clone().at("fcntl", "F_DUPFD_CLOEXEC")?);
    command.stdin(Stdio::null()).stdout(copy).stderr(Stdio::null());
    let mut child = command.spawn().with_context(|| format!("cannot start {:?}", command.get_program()))?;
    wait_until("the program's end", LIMIT, || Ok(child.try_wait()?))
}

pub fn copies(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum EndsWith {
        Close,
        Shutdown,
        LastClose,
    }
    let (client_sock, conn_sock) = connected_pair()?;
    let (client_fd, conn_fd) = (client_sock.as_raw_fd(), conn_sock.as_raw_fd());
    let (client, server) = (Pair::of(&client_sock)?, Pair::of(&conn_sock)?);
    let second_sock = client_sock.try_clone().at("fcntl", "F_DUPFD_CLOEXEC")?;
    let third_sock = client_sock.try_clone().at("fcntl", "F_DUPFD_CLOEXEC")?;
    let (second_fd, third_fd) = (second_sock.as_raw_fd(), third_sock.as_raw_fd());
    stage
        .client(format_args!("descriptors {second_fd} and {third_fd} are copies of {client_fd}, as after dup or fork"));

    let question = stage.ask(
        "One copy is closed. Another calls shutdown(SHUT_WR). The third stays open. When does the server's recv return 0?",
        [
            ("after the close", EndsWith::Close),
            ("not before the last copy is closed", EndsWith::LastClose),
            ("after the shutdown", EndsWith::Shutdown),
        ],
        Predicts { source: None, kit: EndsWith::Shutdown },
    )?;
    drop(third_sock); // close(2)
    stage.client(format_args!("close({third_fd}) = 0"));
    // A FIN would arrive before this byte.
    let sent = send(client_fd, b"x", MsgFlags::empty());
    stage.client(format_args!("send({client_fd}, \"x\", 1) = {}", returned(&sent)));
    let after_close = recv(conn_fd, &mut [0; 1024], MsgFlags::empty());
    stage.server(format_args!("recv({conn_fd}, 1024) = {}", returned(&after_close)));
    stage.kernel([("client", client), ("server", server)])?;

    let shut = second_sock.shutdown(Shutdown::Write);
    stage.client(format_args!("shutdown({second_fd}, SHUT_WR) = {}", returned(&shut)));
    let after_shutdown = recv(conn_fd, &mut [0; 1024], MsgFlags::empty());
    stage.server(format_args!("recv({conn_fd}, 1024) = {}", returned(&after_shutdown)));
    if after_shutdown == Ok(0) {
        wait_for_state(client, Some(State::FinWait2), LIMIT)?; // its FIN is acknowledged
    }
    stage.kernel([("client", client), ("server", server)])?;
    let refused = send(client_fd, b"y", MsgFlags::empty());
    stage.client(format_args!("send({client_fd}, \"y\", 1) = {}", returned(&refused)));
    let observed = match (after_close, after_shutdown) {
        (Ok(0), _) => EndsWith::Close,
        (Ok(1), Ok(0)) if refused == Err(Errno::EPIPE) => EndsWith::Shutdown,
        _ => EndsWith::LastClose,
    };
    stage.verdict(question, observed, "shutdown acts on the connection, close on one descriptor")
}

pub fn descriptor(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Left {
        Both,
        DescriptorOnly,
        Nothing,
    }
    let (client_sock, conn_sock) = connected_pair()?;
    let (client_fd, conn_fd) = (client_sock.as_raw_fd(), conn_sock.as_raw_fd());
    let (client, server) = (Pair::of(&client_sock)?, Pair::of(&conn_sock)?);

    client_sock.shutdown(Shutdown::Both).at("shutdown", "")?;
    stage.client(format_args!("shutdown({client_fd}, SHUT_RDWR) = 0"));
    let question = stage.ask(
        "Both directions are shut down. The program opens another socket. Is the old number free, the connection gone?",
        [
            ("the number is taken, the connection still in the kernel's table", Left::Both),
            ("the number is taken, the connection gone", Left::DescriptorOnly),
            ("the new socket gets the old number", Left::Nothing),
        ],
        Predicts { source: Some(Left::Both), kit: Left::Both },
    )?;
    let end = recv(conn_fd, &mut [0; 1024], MsgFlags::empty());
    stage.server(format_args!("recv({conn_fd}, 1024) = {}", returned(&end)));
    ensure!(end == Ok(0), "the server's recv returned {end:?} instead of end of stream");
    wait_for_state(client, Some(State::FinWait2), LIMIT)?; // its FIN is acknowledged
    let [state, _] = stage.kernel([("client", client), ("server", server)])?;
    let new_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", "")?;
    let new_fd = new_sock.as_raw_fd();
    stage.client(format_args!("socket(AF_INET, SOCK_STREAM) = {new_fd}"));
    let observed = match state {
        _ if new_fd == client_fd => Left::Nothing,
        Some(_) => Left::Both,
        None => Left::DescriptorOnly,
    };

    let unconnected = new_sock.shutdown(Shutdown::Both);
    stage.client(format_args!("shutdown({new_fd}, SHUT_RDWR) = {}", returned(&unconnected)));
    drop(client_sock); // close(2): now the number is free
    stage.client(format_args!("close({client_fd}) = 0"));
    let next_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", "")?;
    stage.client(format_args!("socket(AF_INET, SOCK_STREAM) = {}", next_sock.as_raw_fd()));
    ensure!(next_sock.as_raw_fd() == client_fd, "close did not free descriptor {client_fd}");
    stage.verdict(question, observed, "shutdown frees no descriptor; close does")
}
