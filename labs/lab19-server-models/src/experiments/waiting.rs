//! Who waits for accept, and what the client sees of it.

use std::os::fd::AsRawFd;
use std::{fs, net::SocketAddr};

use anyhow::{Result, ensure};
use kernel::{Pair, State, tcp_socket, wait_until};
use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, kill},
        socket::{MsgFlags, recv},
    },
};
use shared::{At, Predicts, Stage, Verdict, returned};
use socket2::{Domain, Socket, Type};

use super::{LIMIT, byte, connected, limited_server, listener, readable, served, server};
use crate::serve::errno;

/// Descriptors 0 to 4 are the server's own: three streams, its signals, its listener. Five are left for clients. What the
/// demo has inherited from whoever started it is closed first.
const FIVE_CLIENTS: &str = "exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-; ulimit -n 10;";

pub fn second_client(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Second {
        Refused,
        ResetAtOnce,
        ResetAtTheEnd,
        EndOfStream,
    }
    let (mut server, server_addr) = server(&["one-client", "0"])?;
    let (first_sock, first) = connected(stage, "first", server_addr)?;
    served(stage, "first", &first_sock)?;

    let question = stage.ask(
        "The server is busy with its one client. A second one connects. What does it get?",
        [
            ("connect fails: ECONNREFUSED", Second::Refused),
            ("a connection, and ECONNRESET as soon as it reads", Second::ResetAtOnce),
            ("a connection, and ECONNRESET when the server ends", Second::ResetAtTheEnd),
            ("a connection, and end of stream when the server ends", Second::EndOfStream),
        ],
        Predicts { source: Some(Second::ResetAtOnce), kit: Second::ResetAtTheEnd },
    )?;
    let second_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
    let second_fd = second_sock.as_raw_fd();
    let result = second_sock.connect(&server_addr.into());
    stage.say("second", format_args!("connect({second_fd}, {server_addr}) = {}", returned(&result)));
    if result.map_err(errno) == Err(Errno::ECONNREFUSED) {
        return stage.verdict(question, Second::Refused, "refused");
    }
    let second = Pair::of(&second_sock)?;
    stage.kernel([("second", second), ("its server's end", second.other_end())])?;
    let waiting = tcp_socket(listener(server_addr))?.map_or(0, |row| row.recv_queue);
    stage.say("kernel", format_args!("{waiting} connection waits for accept"));

    let first_fd = first_sock.as_raw_fd();
    drop(first_sock); // close(2)
    stage.say("first", format_args!("close({first_fd}) = 0"));
    stage.server(server.line_with(&format!("Client {} disconnected", first.local))?);
    stage.server(server.line_with("Press Enter to terminate")?);
    let while_open = recv(second_fd, &mut [0; 1], MsgFlags::MSG_DONTWAIT);
    stage.say("second", format_args!("recv({second_fd}, 1, MSG_DONTWAIT) = {}", returned(&while_open)));

    server.type_line("")?; // Enter
    stage.server(server.line_with("Terminating")?);
    ensure!(readable(&second_sock, LIMIT)?, "the second client hears nothing");
    let at_the_end = recv(second_fd, &mut [0; 1], MsgFlags::MSG_DONTWAIT);
    stage.say("second", format_args!("recv({second_fd}, 1, MSG_DONTWAIT) = {}", returned(&at_the_end)));
    ensure!(server.wait_for_end()?.success(), "the server ended badly");
    let third_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
    let third = third_sock.connect(&server_addr.into());
    let third_fd = third_sock.as_raw_fd();
    stage.say("third", format_args!("connect({third_fd}, {server_addr}) = {}", returned(&third)));
    let observed = match (while_open, at_the_end) {
        (Err(Errno::ECONNRESET), _) => Second::ResetAtOnce,
        (Err(Errno::EAGAIN), Err(Errno::ECONNRESET)) => Second::ResetAtTheEnd,
        (Err(Errno::EAGAIN), Ok(0)) => Second::EndOfStream,
        other => anyhow::bail!("the second client's recv returned {other:?}"),
    };
    stage.verdict(question, observed, "the kernel lets it in; the reset comes when the listener is closed")
}

pub fn immediately(stage: &mut Stage) -> Result<Verdict> {
    let (server, server_addr) = server(&["thread-per-socket", "0"])?;
    let (first_sock, first) = connected(stage, "first", server_addr)?;
    served(stage, "first", &first_sock)?;

    let question = stage.ask(
        "A backlog of 1. Main gets no processor for a moment, and four more clients connect. How many of the five are \
         handled as soon as main runs again?",
        [
            ("five: main accepts each, and starts its thread", 5),
            ("two: the first, and the one that the backlog admits", 2),
            ("three: the first, and two that wait for accept", 3),
            ("one: the first; the others must call connect again", 1),
        ],
        Predicts { source: Some(5), kit: 3 },
    )?;
    kill(server.pid(), Signal::SIGSTOP).at("kill", server.pid())?; // as if others had the processors
    wait_until("the server to stand still", LIMIT, || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", server.pid()))?;
        Ok((stat.contains(") T ") || stat.contains(") t ")).then_some(())) // t where a debugger has it
    })?;
    let mut clients = vec![("first", first_sock, first)];
    for name in ["second", "third", "fourth", "fifth"] {
        let sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
        sock.set_nonblocking(true).at("fcntl", server_addr)?;
        let result = sock.connect(&server_addr.into());
        stage.say(name, format_args!("connect({}, {server_addr}) = {}", sock.as_raw_fd(), returned(&result)));
        let local = sock.local_addr().at("getsockname", server_addr)?.as_socket();
        clients.push((name, sock, Pair { local: local.unwrap_or(server_addr), peer: server_addr }));
    }
    let mut in_time = 0;
    let mut states = Vec::new();
    for (name, _, pair) in &clients {
        let state = tcp_socket(*pair)?.map(|row| row.state);
        states.push(format!("{name} {}", state.map_or("in no table".into(), |state| state.to_string())));
        // The first one's server has sent its byte and closed its sending side: Figure 4.4.
        in_time += usize::from(matches!(state, Some(State::Established | State::CloseWait)));
    }
    stage.say("kernel", states.join(", "));
    kill(server.pid(), Signal::SIGCONT).at("kill", server.pid())?;
    stage.server("main runs again");
    for (name, sock, _) in &clients[1..] {
        served(stage, name, sock)?; // the stamps tell who needed a second SYN
    }
    stage.verdict(question, in_time, "two wait for accept; a SYN beyond that is dropped, and comes again after 1 s")
}

pub fn no_descriptor(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Sixth {
        Refused,
        Reset,
        ConnectWaits,
        WaitsConnected,
    }
    let (mut server, server_addr) = limited_server(FIVE_CLIENTS, &["thread-per-socket", "0", "--backlog", "5"])?;
    let mut clients = Vec::new();
    for name in ["first", "second", "third", "fourth", "fifth"] {
        let (sock, _) = connected(stage, name, server_addr)?;
        ensure!(byte(&sock)? == Ok(1), "the {name} client is not served");
        clients.push(sock);
    }
    let mut used = 0;
    for entry in fs::read_dir(format!("/proc/{}/fd", server.pid()))? {
        used += usize::from(entry?.file_name().len() == 1); // 0 to 9
    }
    stage.say("kernel", format_args!("each has its byte; of the server's descriptors 0 to 9, {used} are in use"));

    let question = stage.ask(
        "accept needs a descriptor for each client. A sixth client connects. What does it see?",
        [
            ("connect fails: ECONNREFUSED", Sixth::Refused),
            ("connect waits, in SYN-SENT", Sixth::ConnectWaits),
            ("a connection that is reset at once", Sixth::Reset),
            ("a connection on which nothing comes", Sixth::WaitsConnected),
        ],
        Predicts { source: None, kit: Sixth::WaitsConnected },
    )?;
    let sixth_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
    sixth_sock.set_nonblocking(true).at("fcntl", server_addr)?;
    let result = sixth_sock.connect(&server_addr.into());
    let sixth_fd = sixth_sock.as_raw_fd();
    stage.say("sixth", format_args!("connect({sixth_fd}, {server_addr}) = {}", returned(&result)));
    stage.server(server.line_with("accept: EMFILE")?);
    let local: Option<SocketAddr> = sixth_sock.local_addr().at("getsockname", server_addr)?.as_socket();
    let sixth = Pair { local: local.unwrap_or(server_addr), peer: server_addr };
    let [state, other_end] = stage.kernel([("sixth", sixth), ("its server's end", sixth.other_end())])?;
    let nothing = recv(sixth_fd, &mut [0; 1], MsgFlags::MSG_DONTWAIT);
    stage.say("sixth", format_args!("recv({sixth_fd}, 1, MSG_DONTWAIT) = {}", returned(&nothing)));
    let observed = match (state, other_end, nothing) {
        (Some(State::SynSent), _, _) => Sixth::ConnectWaits,
        (Some(State::Established), Some(State::Established), Err(Errno::EAGAIN)) => Sixth::WaitsConnected,
        (_, _, Err(Errno::ECONNREFUSED)) => Sixth::Refused,
        (_, _, Err(Errno::ECONNRESET)) => Sixth::Reset,
        other => anyhow::bail!("the sixth client saw {other:?}"),
    };
    let first_sock = clients.remove(0);
    let first_fd = first_sock.as_raw_fd();
    drop(first_sock); // close(2)
    stage.say("first", format_args!("close({first_fd}) = 0"));
    served(stage, "sixth", &sixth_sock)?;
    stage.verdict(question, observed, "accept fails with EMFILE, and the client stays in the queue until one is free")
}
