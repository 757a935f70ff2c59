//! What send returns: how many bytes this kernel took. What the other program has read, send does not know.

use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result, bail, ensure};
use kernel::{Pair, Patience, setting};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv, send},
};
use shared::{At, Predicts, Stage, Verdict, returned};
use socket2::Socket;

use super::{BIG, LIMIT, big_message, recv_all, row, send_all};
use crate::connection::connected;

/// How long to wait for room while nobody reads: the last bytes still on their way make some.
const ROOM_LIMIT_MS: u16 = 250;

pub fn delivered(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum SendAll {
        Waits,
        Partly,
        Fails,
        ReturnsUnread,
        ReturnsRead,
    }
    let (client_sock, conn_sock) = connected()?;
    let pair = Pair::of(&client_sock)?;
    let (client_fd, conn_fd) = (client_sock.as_raw_fd(), conn_sock.as_raw_fd());
    client_sock.set_write_timeout(Some(LIMIT)).at("setsockopt", pair.local)?; // a send that waits so long waits for ever

    stage.look(format_args!("ss -tn 'sport = :{0} or dport = :{0}'", pair.peer.port()));
    let question = stage.ask(
        "The server has accepted and never calls recv. The client sends the big message, 84001 bytes, with send in a loop, as sendall does. What happens?",
        [
            ("send takes all 84001 bytes", SendAll::ReturnsUnread),
            ("send waits: nothing is delivered", SendAll::Waits),
            ("send takes 1024 bytes, the length of a recv", SendAll::Partly),
            ("send fails: nobody receives", SendAll::Fails),
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
        (1024, _) => SendAll::Partly,
        (_, Some(Errno::EAGAIN)) => SendAll::Waits, // LIMIT is over: the buffers were full before the end
        (0, Some(_)) => SendAll::Fails,
        other => bail!("send took {} bytes, then {:?}", other.0, other.1),
    };
    stage.verdict(question, observed, "sent means copied into this kernel; the server's close threw it all away")
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

    // On a busy machine the server is faster than the client's kernel, and finds nothing for a moment: it reads on.
    let mut blocks = recv_all(&conn_sock, 65536)?;
    let mut patience = Patience::new(LIMIT);
    while !writable(&client_sock, PollTimeout::try_from(patience.step())?)? && !patience.is_over() {
        blocks.extend(recv_all(&conn_sock, 65536)?);
    }
    let bytes_read: usize = blocks.iter().map(Vec::len).sum();
    stage.server(format_args!("recv({conn_fd}, 65536, MSG_DONTWAIT) x{} = {bytes_read} bytes", blocks.len()));
    let more = if writable(&client_sock, PollTimeout::ZERO)? {
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
    loop {
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => {}
            ready => return Ok(ready.at("poll", "")? > 0),
        }
    }
}

/// The third number of net.ipv4.tcp_rmem or tcp_wmem: how far the kernel lets a buffer grow, in bytes.
fn largest(name: &str) -> Result<usize> {
    let bytes = setting(&format!("net/ipv4/{name}")).get(2).copied().with_context(|| format!("no setting {name}"))?;
    Ok(usize::try_from(bytes)?)
}
