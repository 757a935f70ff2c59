//! Which end stays behind, and what becomes of an end whose process is gone.

use std::{
    net::{Ipv4Addr, Shutdown, SocketAddr},
    os::fd::{AsFd, AsRawFd},
};

use anyhow::{Context, Result, ensure};
use kernel::{Pair, State, tcp_socket, wait_for_state, wait_until};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, poll},
    sys::{
        signal::{Signal, kill},
        socket::{MsgFlags, recv, send},
    },
};
use shared::{At, Predicts, Role, Stage, Verdict, returned};
use socket2::{Domain, Socket, Type};

use super::{LIMIT, acknowledged, connected_pair, listening};

/// Once a buffer has had no room for so long, it is full: acknowledgements are on their way for microseconds.
const NO_ROOM_MS: u8 = 50;

/// The ends that are left in TIME-WAIT: client's, server's.
type Left = (bool, bool);

pub fn closes_first(stage: &mut Stage) -> Result<Verdict> {
    let question = stage.ask(
        "Three connections are closed: by the client first, by the server first, by both at once. Who has TIME-WAIT?",
        [
            ("always the client: it opened the connection", [(true, false); 3]),
            ("always the server: its port is the one that is busy", [(false, true); 3]),
            ("always both: each has sent a FIN", [(true, true); 3]),
            ("who closed last; both if at once", [(false, true), (true, false), (true, true)]),
            ("who closed first; both if at once", [(true, false), (false, true), (true, true)]),
        ],
        Predicts { source: None, kit: [(true, false), (false, true), (true, true)] },
    )?;
    let (listen_sock, server_addr) = listening(false)?;

    stage.say("first", "the client");
    let (client_sock, conn_sock) = connected_pair(&listen_sock, server_addr)?;
    let client_first = one_first(stage, ("client", client_sock), ("server", conn_sock))?;

    stage.say("first", "the server");
    let (client_sock, conn_sock) = connected_pair(&listen_sock, server_addr)?;
    let (server, client) = one_first(stage, ("server", conn_sock), ("client", client_sock))?;

    stage.say("at once", "each FIN is sent behind bytes that the other end has no room for");
    let (client_sock, conn_sock) = connected_pair(&listen_sock, server_addr)?;
    let at_once = both_at_once(stage, client_sock, conn_sock)?;

    let observed = [client_first, (client, server), at_once];
    stage.verdict(question, observed, "the end that closes first has it; both if they close at once")
}

/// One end closes, the other hears of it and closes too.
fn one_first(stage: &mut Stage, first: (&str, Socket), second: (&str, Socket)) -> Result<Left> {
    let ((first_name, first_sock), (second_name, second_sock)) = (first, second);
    let (first_end, second_end) = (Pair::of(&first_sock)?, Pair::of(&second_sock)?);
    let (first_fd, second_fd) = (first_sock.as_raw_fd(), second_sock.as_raw_fd());
    drop(first_sock); // close(2): FIN
    stage.say(first_name, format_args!("close({first_fd}) = 0"));
    let bytes_read = recv(second_fd, &mut [0; 8], MsgFlags::empty());
    stage.say(second_name, format_args!("recv({second_fd}, 8) = {}", returned(&bytes_read)));
    ensure!(bytes_read == Ok(0), "recv did not return end of stream");
    acknowledged(first_end)?;
    drop(second_sock); // close(2): the other FIN
    stage.say(second_name, format_args!("close({second_fd}) = 0"));
    settled(stage, [(first_name, first_end), (second_name, second_end)])
}

/// Both ends are full of bytes that nobody reads; so both FINs wait behind them, and neither end knows of the other's.
fn both_at_once(stage: &mut Stage, client_sock: Socket, conn_sock: Socket) -> Result<Left> {
    let (client, server) = (Pair::of(&client_sock)?, Pair::of(&conn_sock)?);
    let (client_fd, conn_fd) = (client_sock.as_raw_fd(), conn_sock.as_raw_fd());
    for sock in [&client_sock, &conn_sock] {
        fill(sock)?;
    }
    client_sock.shutdown(Shutdown::Write).at("shutdown", "")?;
    stage.client(format_args!("shutdown({client_fd}, SHUT_WR) = 0"));
    conn_sock.shutdown(Shutdown::Write).at("shutdown", "")?;
    stage.server(format_args!("shutdown({conn_fd}, SHUT_WR) = 0"));
    let states = stage.kernel([("client", client), ("server", server)])?;
    ensure!(states == [Some(State::FinWait1); 2], "both FINs should be on their way: {states:?}");

    to_the_end(client_fd)?;
    wait_for_state(client, Some(State::Closing), LIMIT)?; // it has the other FIN before the other end has its own
    wait_for_state(server, Some(State::FinWait2), LIMIT)?;
    stage.client("read all, and the server's FIN");
    stage.kernel([("client", client), ("server", server)])?;
    to_the_end(conn_fd)?;
    stage.server("read all, and the client's FIN");
    let left = settled(stage, [("client", client), ("server", server)]);
    drop((client_sock, conn_sock)); // close(2): nothing is left to be sent
    left
}

/// Sends until neither the other end's window nor this end's buffer has room.
fn fill(sock: &Socket) -> Result<()> {
    loop {
        match send(sock.as_raw_fd(), &[b'a'; 65536], MsgFlags::MSG_DONTWAIT) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                let mut fds = [PollFd::new(sock.as_fd(), PollFlags::POLLOUT)];
                if poll(&mut fds, NO_ROOM_MS) == Ok(0) {
                    return Ok(());
                }
            }
            Err(errno) => return Ok(Err(errno).at("send", "")?),
        }
    }
}

fn to_the_end(fd: i32) -> Result<()> {
    let mut buffer = vec![0; 65536];
    while recv(fd, &mut buffer, MsgFlags::empty()).at("recv", "")? > 0 {}
    Ok(())
}

/// Waits until the last acknowledgement is there, prints both states, says who is left.
fn settled(stage: &mut Stage, ends: [(&str, Pair); 2]) -> Result<Left> {
    let on_the_way = |state| matches!(state, State::FinWait1 | State::LastAck | State::Closing | State::FinWait2);
    wait_until("both ends at rest", LIMIT, || {
        for (_, pair) in ends {
            if tcp_socket(pair)?.is_some_and(|row| on_the_way(row.state)) {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })?;
    let [first, second] = stage.kernel(ends)?.map(|state| state == Some(State::TimeWait));
    Ok((first, second))
}

pub fn killed(stage: &mut Stage) -> Result<Verdict> {
    let mut role = Role::start(&["server", "127.0.0.1:0"])?;
    let line = role.line_with(" is in listening state")?;
    let server_addr: SocketAddr = line.split_whitespace().nth(1).context("no address")?.parse()?;
    let client_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
    client_sock.set_read_timeout(Some(LIMIT)).at("setsockopt", server_addr)?;
    let connected = client_sock.connect(&server_addr.into());
    let client_fd = client_sock.as_raw_fd();
    stage.client(format_args!("connect({client_fd}, {server_addr}) = {}", returned(&connected)));
    connected.at("connect", server_addr)?;
    role.wait_for("New client connected from")?;
    let client = Pair::of(&client_sock)?;
    let server = client.other_end();
    let listener = Pair { local: server_addr, peer: (Ipv4Addr::UNSPECIFIED, 0).into() };
    stage.kernel([("listener", listener), ("server", server), ("client", client)])?;

    stage.look(format_args!("scripts/states.sh {} --watch", server_addr.port()));
    let question = stage.ask(
        "The server's process is killed with kill -9, so it closes nothing. What is left of its two sockets?",
        [
            ("both, until a time-out: nobody has closed them", (Some(State::Listen), Some(State::Established))),
            ("nothing: the client gets a reset", (None, None)),
            ("what close would leave: a FIN was sent, FIN-WAIT-2", (None, Some(State::FinWait2))),
            ("the connection in TIME-WAIT", (None, Some(State::TimeWait))),
        ],
        Predicts { source: Some((Some(State::Listen), Some(State::Established))), kit: (None, Some(State::FinWait2)) },
    )?;
    kill(role.pid(), Signal::SIGKILL).at("kill", "")?;
    role.wait_for_end()?;
    stage.say("kill -9", format_args!("process {} is gone", role.pid()));
    let bytes_read = recv(client_fd, &mut [0; 8], MsgFlags::empty());
    stage.client(format_args!("recv({client_fd}, 8) = {}", returned(&bytes_read)));
    wait_until("the FIN acknowledged", LIMIT, || {
        Ok(tcp_socket(server)?.is_none_or(|row| row.state != State::FinWait1).then_some(()))
    })?;
    let [listener, left, _] = stage.kernel([("listener", listener), ("server", server), ("client", client)])?;

    // And on to TIME-WAIT, though there is no process any more.
    drop(client_sock); // close(2)
    stage.client(format_args!("close({client_fd}) = 0"));
    let row = wait_for_state(server, Some(State::TimeWait), LIMIT)?.context("no row")?;
    ensure!(row.inode == 0, "a socket without a process has inode {}", row.inode);
    stage.say("kernel", format_args!("server {}, inode {}: no process, no descriptor", row.state, row.inode));
    stage.verdict(question, (listener, left), "the kernel closes what the process had; the rest needs no process")
}
