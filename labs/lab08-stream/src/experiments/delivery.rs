//! What send tells: how much the kernel took. Not what the other end's kernel has, nor what its program has read.

use std::{
    fs,
    os::fd::{AsFd, AsRawFd},
};

use anyhow::{Context, Result, bail, ensure};
use kernel::Pair;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv, send},
};
use shared::{At, Predicts, Stage, Verdict, returned};
use socket2::Socket;

use super::{BIG, LIMIT, big_message, connected, recv_all, row, send_all};

/// What the server's program reads before it closes: ten recvs of the lecture's length.
const READ: usize = 10 * 1024;
/// If the client's kernel gets more off its hands at all, then long before this.
const ROOM_LIMIT_MS: u16 = 250;

pub fn delivered(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum SendAll {
        Waits,
        Partly,
        ReturnsUnread,
        ReturnsRead,
    }
    let (client_sock, conn_sock) = connected()?;
    let pair = Pair::of(&client_sock)?;
    let (client_fd, conn_fd) = (client_sock.as_raw_fd(), conn_sock.as_raw_fd());

    stage.look(format_args!("ss -tn 'sport = :{0} or dport = :{0}'", pair.peer.port()));
    let question = stage.ask(
        "The server has accepted and never calls recv. The client sends the big message, 84001 bytes, with send in a loop, as sendall does. What happens?",
        [
            ("all is sent, and the server's program has read none of it", SendAll::ReturnsUnread),
            ("it waits, for nothing is delivered", SendAll::Waits),
            ("1024 bytes are sent, the length of a recv", SendAll::Partly),
        ],
        Predicts { source: Some(SendAll::Waits), kit: SendAll::ReturnsUnread },
    )?;
    let (sent, error) = send_all(stage, &client_sock, &big_message());
    let (client, server) = (row(pair)?, row(pair.other_end())?);
    stage.say(
        "kernel",
        format_args!(
            "unread: server's Recv-Q {}; unacknowledged: client's Send-Q {}",
            server.recv_queue, client.send_queue
        ),
    );
    // What has arrived and is not acknowledged yet counts in both.
    let in_kernels = client.send_queue as usize + server.recv_queue as usize;

    drop(conn_sock); // close(2) with bytes unread: the kernel sends a reset
    stage.server(format_args!("close({conn_fd}) = 0"));
    let heard = recv(client_fd, &mut [0; 8], MsgFlags::empty());
    stage.client(format_args!("recv({client_fd}, 8) = {}", returned(&heard)));
    let observed = match (sent, error) {
        (BIG, None) if in_kernels >= BIG && heard == Err(Errno::ECONNRESET) => SendAll::ReturnsUnread,
        (BIG, None) => SendAll::ReturnsRead,
        (_, Some(Errno::EAGAIN)) => SendAll::Waits, // LIMIT is over: the buffers were full before the end
        (1024, None) => SendAll::Partly,
        other => bail!("send took {} bytes, then {:?}", other.0, other.1),
    };
    stage.verdict(question, observed, "sent means: copied into the kernel. Then the server threw it away")
}

pub fn no_reader(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Offered {
        TakenWhole,
        TakenInPart { goes_on: bool },
        Refused(Errno),
    }
    let (client_sock, conn_sock) = connected()?;
    let pair = Pair::of(&client_sock)?;
    let (client_fd, conn_fd) = (client_sock.as_raw_fd(), conn_sock.as_raw_fd());
    client_sock.set_nonblocking(true).at("fcntl", pair.local)?;
    // More than both ends' kernels may keep for one connection.
    let offered = largest("tcp_wmem")? + largest("tcp_rmem")? + (1 << 20);
    let message = vec![0; offered];

    stage.look(format_args!("ss -tn 'sport = :{0} or dport = :{0}'", pair.peer.port()));
    let question = stage.ask(
        &format!(
            "Nobody reads. A non-blocking client offers {} MiB to send, and goes on as sendall does. What does send return?",
            offered >> 20
        ),
        [
            ("all of it: what is sent is on its way", Offered::TakenWhole),
            ("-1 EMSGSIZE: too much at once", Offered::Refused(Errno::EMSGSIZE)),
            ("less; then -1 EAGAIN, until the server reads", Offered::TakenInPart { goes_on: true }),
            ("less; then -1 EAGAIN, also after the server has read", Offered::TakenInPart { goes_on: false }),
        ],
        Predicts {
            source: Some(Offered::TakenInPart { goes_on: true }),
            kit: Offered::TakenInPart { goes_on: true },
        },
    )?;
    let (mut sent, mut error) = (0, None);
    while sent < offered {
        let (taken, errno) = send_all(stage, &client_sock, &message[sent..]);
        (sent, error) = (sent + taken, errno);
        if error != Some(Errno::EAGAIN) || !writable(&client_sock, ROOM_LIMIT_MS.into())? {
            break;
        }
    }
    if sent == offered {
        return stage.verdict(question, Offered::TakenWhole, "");
    }
    if let (0, Some(errno)) = (sent, error) {
        return stage.verdict(question, Offered::Refused(errno), "");
    }
    ensure!(error == Some(Errno::EAGAIN), "after {sent} bytes send failed: {error:?}");
    let (client, server) = (row(pair)?, row(pair.other_end())?);
    stage.say("kernel", format_args!("server's Recv-Q {}, client's Send-Q {}", server.recv_queue, client.send_queue));

    let blocks = recv_all(&conn_sock, 65536)?;
    let bytes_read: usize = blocks.iter().map(Vec::len).sum();
    stage.server(format_args!("recv({conn_fd}, 65536, MSG_DONTWAIT) x{} = {bytes_read} bytes", blocks.len()));
    let more = if writable(&client_sock, PollTimeout::try_from(LIMIT)?)? {
        let more = send(client_fd, &message[sent..], MsgFlags::empty());
        stage.client(format_args!("send({client_fd}, {}) = {}", offered - sent, returned(&more)));
        more.unwrap_or(0)
    } else {
        0
    };
    stage.verdict(
        question,
        Offered::TakenInPart { goes_on: more > 0 },
        "flow control: both buffers fill up, and reading makes room",
    )
}

/// Waits for room in the send buffer; false if there is none within the time.
fn writable(sock: &Socket, timeout: PollTimeout) -> Result<bool> {
    let mut fds = [PollFd::new(sock.as_fd(), PollFlags::POLLOUT)];
    Ok(poll(&mut fds, timeout).at("poll", "")? > 0)
}

/// The third number of net.ipv4.tcp_rmem or tcp_wmem: how far the kernel lets a buffer grow, in bytes.
fn largest(setting: &str) -> Result<usize> {
    let file = format!("/proc/sys/net/ipv4/{setting}");
    let numbers = fs::read_to_string(&file).at("open", &file)?;
    numbers
        .split_whitespace()
        .nth(2)
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("{file}: {numbers}"))
}

pub fn half_read(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Tells {
        Send,
        SendQueue,
        Nobody(Errno),
        NoError,
    }
    let (client_sock, conn_sock) = connected()?;
    let pair = Pair::of(&client_sock)?;
    let (client_fd, conn_fd) = (client_sock.as_raw_fd(), conn_sock.as_raw_fd());
    let (sent, error) = send_all(stage, &client_sock, &big_message());
    ensure!(sent == BIG, "send took {sent} bytes, then {error:?}");

    let question = stage.ask(
        "The server calls recv(1024) ten times, then it closes. What tells the client how much the server has read?",
        [
            ("send: it has returned what was delivered", Tells::Send),
            ("Send-Q: what is no longer in it was read", Tells::SendQueue),
            ("nothing: the next send says -1 ECONNRESET, no number", Tells::Nobody(Errno::ECONNRESET)),
            ("nothing: the next send works like the last one", Tells::NoError),
        ],
        Predicts { source: Some(Tells::Send), kit: Tells::Nobody(Errno::ECONNRESET) },
    )?;
    let (mut buffer, mut calls, mut bytes_read) = ([0; 1024], 0, 0);
    while bytes_read < READ {
        bytes_read += recv(conn_fd, &mut buffer, MsgFlags::empty()).at("recv", pair.local)?;
        calls += 1;
    }
    stage.server(format_args!("recv({conn_fd}, 1024) x{calls} = {bytes_read} bytes"));
    let send_queue = row(pair)?.send_queue as usize;
    stage.say("kernel", format_args!("client's Send-Q {send_queue}, so {} acknowledged", sent - send_queue));
    drop(conn_sock); // close(2) with bytes unread: the kernel sends a reset
    stage.server(format_args!("close({conn_fd}) = 0"));
    // The reset, or the end of the stream where all was read: both make the socket readable.
    let mut fds = [PollFd::new(client_sock.as_fd(), PollFlags::POLLIN)];
    ensure!(poll(&mut fds, PollTimeout::try_from(LIMIT)?).at("poll", "")? > 0, "the client's socket heard nothing");
    let next = [(); 2].map(|()| {
        let next = send(client_fd, b"and on", MsgFlags::empty());
        stage.client(format_args!("send({client_fd}, \"and on\", 6) = {}", returned(&next)));
        next
    });
    let observed = match next {
        _ if bytes_read == sent => Tells::Send,
        _ if bytes_read == sent - send_queue => Tells::SendQueue,
        [Err(errno), Err(Errno::EPIPE)] => Tells::Nobody(errno),
        _ => Tells::NoError,
    };
    stage.verdict(question, observed, "only the other program knows; ask it for an answer of its own")
}
