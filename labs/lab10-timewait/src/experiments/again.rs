//! When the port of a killed server may be bound again.

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsRawFd,
};

use anyhow::{Context, Result, ensure};
use kernel::{Pair, State};
use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, kill},
        socket::{MsgFlags, recv},
    },
};
use shared::{At, CallError, Predicts, Role, Stage, Verdict, returned};
use socket2::{Domain, Socket, Type};

use crate::connection::{acknowledged, readable};

pub fn still_connected(stage: &mut Stage) -> Result<Verdict> {
    // The old run: the lecture program, which sets SO_REUSEADDR.
    let mut server = Role::start(&["server", "127.0.0.1:0"])?;
    let option = server.line_with("SO_REUSEADDR is ")?;
    let line = server.line_with(" is in listening state")?;
    let server_addr: SocketAddr = line.split_whitespace().nth(1).context("no address")?.parse()?;
    let client_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
    let client_fd = client_sock.as_raw_fd();
    let connected = client_sock.connect(&server_addr.into());
    stage.client(format_args!("connect({client_fd}, {server_addr}) = {}", returned(&connected)));
    connected.at("connect", server_addr)?;
    let client = Pair::of(&client_sock)?;
    let conn = client.other_end();
    server.wait_for(&format!("New client connected from {}", client.local))?;
    let listener = Pair { local: server_addr, peer: (Ipv4Addr::UNSPECIFIED, 0).into() };
    stage.kernel([("listener", listener), ("server", conn), ("client", client)])?;
    stage.say("old run", option.trim_end());

    stage.look(format_args!("scripts/states.sh {} --watch", server_addr.port()));
    let question = stage.ask(
        "The server is killed, its client stays connected. Both runs set SO_REUSEADDR. What is left on the port, and \
         what does bind do?",
        [
            ("nothing: bind succeeds", (None, Ok(()))),
            ("FIN-WAIT-2: bind succeeds", (Some(State::FinWait2), Ok(()))),
            ("FIN-WAIT-2: bind fails until the client closes", (Some(State::FinWait2), Err(Errno::EADDRINUSE))),
            ("TIME-WAIT: bind fails for some time", (Some(State::TimeWait), Err(Errno::EADDRINUSE))),
        ],
        Predicts {
            source: Some((Some(State::TimeWait), Err(Errno::EADDRINUSE))),
            kit: (Some(State::FinWait2), Ok(())),
        },
    )?;
    kill(server.pid(), Signal::SIGKILL).at("kill", "")?;
    server.wait_for_end()?;
    stage.say("kill -9", format_args!("process {} is gone; the kernel closes what it had open", server.pid()));
    readable(&client_sock)?;
    let bytes_read = recv(client_fd, &mut [0; 8], MsgFlags::empty());
    stage.client(format_args!("recv({client_fd}, 8) = {}  and it stays connected", returned(&bytes_read)));
    ensure!(bytes_read == Ok(0), "recv did not return end of stream");
    acknowledged(conn)?;
    let [listener, left, _] = stage.kernel([("listener", listener), ("server", conn), ("client", client)])?;
    ensure!(listener.is_none(), "the listener outlived its process");

    let with = bind_again(stage, server_addr, true)?;
    stage.say("compare", "without SO_REUSEADDR, as the handout has it");
    let without = bind_again(stage, server_addr, false)?;
    ensure!(without == Err(Errno::EADDRINUSE), "without SO_REUSEADDR bind should fail");
    stage.kernel([("server", conn), ("client", client)])?;
    stage.verdict(
        question,
        (left, with),
        "FIN-WAIT-2 is left, not TIME-WAIT; with SO_REUSEADDR in both runs bind succeeds",
    )
}

/// A new run: binds the port, and lets go of it.
fn bind_again(stage: &mut Stage, server_addr: SocketAddr, reuse: bool) -> Result<Result<(), Errno>> {
    let new_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
    let fd = new_sock.as_raw_fd();
    if reuse {
        new_sock.set_reuse_address(true).at("setsockopt", server_addr)?;
        stage.say("new run", format_args!("setsockopt({fd}, SOL_SOCKET, SO_REUSEADDR, [1], 4) = 0"));
    }
    let bound = new_sock.bind(&server_addr.into());
    stage.say("new run", format_args!("bind({fd}, {server_addr}) = {}", returned(&bound)));
    Ok(bound.at("bind", server_addr).map_err(|CallError { errno, .. }| errno.unwrap_or(Errno::UnknownErrno)))
}
