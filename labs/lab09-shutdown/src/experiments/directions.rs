//! One direction closed, the other one open.

use std::{
    net::Shutdown,
    os::fd::{AsFd, AsRawFd},
};

use anyhow::{Result, ensure};
use kernel::{Counters, Pair, State, tcp_socket, wait_for_state, wait_until};
use nix::{
    errno::Errno,
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv, send},
};
use shared::{At, Predicts, Stage, Verdict, returned};

use super::{LIMIT, connected_pair};

/// Far more than both buffers hold: 10 MB.
const ANSWER: usize = 10_000_000;
/// Not in nix; see poll(2).
const POLLRDHUP: PollFlags = PollFlags::from_bits_retain(libc::POLLRDHUP);

pub fn half_close(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Gets {
        Nothing,
        OneBuffer,
        All,
    }
    let (client_sock, conn_sock) = connected_pair()?;
    let (client_fd, conn_fd) = (client_sock.as_raw_fd(), conn_sock.as_raw_fd());
    let (client, server) = (Pair::of(&client_sock)?, Pair::of(&conn_sock)?);

    let sent = send(client_fd, b"request", MsgFlags::empty());
    stage.client(format_args!("send({client_fd}, \"request\", 7) = {}", returned(&sent)));
    stage.kernel([("client", client), ("server", server)])?;

    client_sock.shutdown(Shutdown::Write).at("shutdown", "")?;
    stage.client(format_args!("shutdown({client_fd}, SHUT_WR) = 0"));
    wait_for_state(client, Some(State::FinWait2), LIMIT)?;
    stage.kernel([("client", client), ("server", server)])?;

    stage.look(format_args!("ss -tan 'sport = :{0} or dport = :{0}'", server.local.port()));
    let question = stage.ask(
        "The server reads to the end and answers with 10 MB. How much of it does the client get?",
        [
            ("nothing: it has closed its connection", Gets::Nothing),
            ("one buffer full: its kernel acknowledges no more", Gets::OneBuffer),
            ("all of it: it can still receive", Gets::All),
        ],
        Predicts { source: Some(Gets::All), kit: Gets::All },
    )?;
    let request = recv(conn_fd, &mut [0; 1024], MsgFlags::empty());
    stage.server(format_args!("recv({conn_fd}, 1024) = {}", returned(&request)));
    let end = recv(conn_fd, &mut [0; 1024], MsgFlags::empty());
    stage.server(format_args!("recv({conn_fd}, 1024) = {}", returned(&end)));
    ensure!(end == Ok(0), "the server's recv returned {end:?} instead of end of stream");

    // One thread plays both ends: the server sends what fits (MSG_DONTWAIT), then the client reads once.
    let answer = vec![b'a'; ANSWER];
    let mut buffer = vec![0; 65536];
    let (mut bytes_sent, mut bytes_read, mut reads) = (0, 0, 0);
    while bytes_read < ANSWER {
        match send(conn_fd, &answer[bytes_sent..], MsgFlags::MSG_DONTWAIT) {
            Ok(accepted) => bytes_sent += accepted,
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => break,
        }
        match recv(client_fd, &mut buffer, MsgFlags::empty()) {
            Ok(more @ 1..) => (bytes_read, reads) = (bytes_read + more, reads + 1),
            Err(Errno::EINTR) => {}
            Ok(0) | Err(_) => break,
        }
    }
    stage.server(format_args!("{bytes_sent} bytes handed to send"));
    stage.client(format_args!("recv({client_fd}, 65536) x{reads} = {bytes_read} bytes"));
    stage.kernel([("client", client), ("server", server)])?;

    drop(conn_sock); // close(2): FIN
    stage.server(format_args!("close({conn_fd}) = 0"));
    if bytes_read == ANSWER {
        wait_for_state(client, Some(State::TimeWait), LIMIT)?;
        wait_for_state(server, None, LIMIT)?;
    }
    let end = recv(client_fd, &mut buffer, MsgFlags::empty());
    stage.client(format_args!("recv({client_fd}, 65536) = {}", returned(&end)));
    stage.kernel([("client", client), ("server", server)])?;
    let observed = match bytes_read {
        ANSWER if end == Ok(0) => Gets::All,
        0 => Gets::Nothing,
        _ => Gets::OneBuffer,
    };
    stage.verdict(question, observed, "the client closed only its sending side: all 10 MB arrive")
}

pub fn shut_rd(stage: &mut Stage) -> Result<Verdict> {
    let (client_sock, conn_sock) = connected_pair()?;
    let (client_fd, conn_fd) = (client_sock.as_raw_fd(), conn_sock.as_raw_fd());
    let (client, server) = (Pair::of(&client_sock)?, Pair::of(&conn_sock)?);

    let says = |event| poll(&mut [PollFd::new(client_sock.as_fd(), event)], PollTimeout::ZERO) == Ok(1);
    ensure!(!says(PollFlags::POLLIN) && !says(POLLRDHUP), "poll says something before anything happened");
    client_sock.shutdown(Shutdown::Read).at("shutdown", "")?;
    stage.client(format_args!("shutdown({client_fd}, SHUT_RD) = 0"));
    ensure!(says(PollFlags::POLLIN) && says(POLLRDHUP), "poll says nothing after SHUT_RD");
    stage.client("poll says POLLIN and POLLRDHUP, though nothing came");
    let empty = recv(client_fd, &mut [0; 1024], MsgFlags::empty());
    stage.client(format_args!("recv({client_fd}, 1024) = {}  and it does not block", returned(&empty)));
    ensure!(empty == Ok(0), "recv returned {empty:?} with nothing received");
    stage.kernel([("client", client), ("server", server)])?;

    stage.look(format_args!("ss -tan 'sport = :{0} or dport = :{0}'", server.local.port()));
    let question = stage.ask(
        "Now the server sends 3 bytes, and then the client calls recv again. What does it return?",
        [
            ("-1 ENOTCONN: recv is not allowed any more", Err(Errno::ENOTCONN)),
            ("-1 ECONNRESET: its kernel refused the bytes", Err(Errno::ECONNRESET)),
            ("0: its kernel threw the bytes away", Ok(0)),
            ("3: its kernel kept the bytes", Ok(3)),
        ],
        Predicts { source: Some(Err(Errno::ENOTCONN)), kit: Ok(3) },
    )?;
    let sent = send(conn_fd, b"abc", MsgFlags::empty());
    stage.server(format_args!("send({conn_fd}, \"abc\", 3) = {}", returned(&sent)));
    let sender = wait_until("an answer to the server's bytes", LIMIT, || {
        Ok(tcp_socket(server)?.filter(|row| row.send_queue == 0 || row.state != State::Established))
    })?;
    let unread = tcp_socket(client)?.map_or(0, |row| row.recv_queue);
    stage.say("kernel", format_args!("server unacknowledged {}   client unread {unread}", sender.send_queue));

    let mut buffer = [0; 1024];
    let received = recv(client_fd, &mut buffer, MsgFlags::empty());
    stage.client(format_args!("recv({client_fd}, 1024) = {}", returned(&received)));
    ensure!(received != Ok(3) || &buffer[..3] == b"abc", "other bytes than those sent: {:?}", &buffer[..3]);
    let again = recv(client_fd, &mut [0; 1024], MsgFlags::empty());
    stage.client(format_args!("recv({client_fd}, 1024) = {}", returned(&again)));
    stage.kernel([("client", client), ("server", server)])?;
    stage.verdict(
        question,
        received,
        "what arrives is acknowledged and delivered; recv gives 0 only when nothing is there",
    )
}

pub fn shut_rdwr(stage: &mut Stage) -> Result<Verdict> {
    let (client_sock, conn_sock) = connected_pair()?;
    let (client_fd, conn_fd) = (client_sock.as_raw_fd(), conn_sock.as_raw_fd());
    let (client, server) = (Pair::of(&client_sock)?, Pair::of(&conn_sock)?);

    let sent = send(conn_fd, b"early", MsgFlags::empty());
    stage.server(format_args!("send({conn_fd}, \"early\", 5) = {}", returned(&sent)));
    wait_until("the server's bytes", LIMIT, || Ok(tcp_socket(client)?.filter(|row| row.recv_queue == 5)))?;
    client_sock.shutdown(Shutdown::Both).at("shutdown", "")?;
    stage.client(format_args!("shutdown({client_fd}, SHUT_RDWR) = 0"));
    wait_for_state(client, Some(State::FinWait2), LIMIT)?;
    stage.kernel([("client", client), ("server", server)])?;
    let unread = tcp_socket(client)?.map_or(0, |row| row.recv_queue);
    stage.say("kernel", format_args!("client unread {unread}"));

    stage.look(format_args!("ss -tan 'sport = :{0} or dport = :{0}'", server.local.port()));
    let question = stage.ask(
        "Now the server sends \"late\", 4 bytes. Then the client calls recv twice. What do these two calls return?",
        [
            ("-1 ENOTCONN, -1 ENOTCONN", [Err(Errno::ENOTCONN); 2]),
            ("0, 0", [Ok(0); 2]),
            ("5, 4", [Ok(5), Ok(4)]),
            ("5, -1 ECONNRESET", [Ok(5), Err(Errno::ECONNRESET)]),
            ("-1 ECONNRESET, 0", [Err(Errno::ECONNRESET), Ok(0)]),
        ],
        Predicts { source: Some([Err(Errno::ENOTCONN); 2]), kit: [Ok(5), Err(Errno::ECONNRESET)] },
    )?;
    let before = Counters::read()?;
    let sent = send(conn_fd, b"late", MsgFlags::empty());
    stage.server(format_args!("send({conn_fd}, \"late\", 4) = {}", returned(&sent)));
    wait_until("an answer to the late bytes", LIMIT, || {
        Ok(tcp_socket(server)?.is_none_or(|row| row.send_queue == 0).then_some(()))
    })?;
    stage.kernel([("client", client), ("server", server)])?;
    stage.counted(&before, ["TCPAbortOnData", "OutRsts"])?;
    let first = recv(client_fd, &mut [0; 5], MsgFlags::empty());
    stage.client(format_args!("recv({client_fd}, 5) = {}", returned(&first)));
    let second = recv(client_fd, &mut [0; 1024], MsgFlags::empty());
    stage.client(format_args!("recv({client_fd}, 1024) = {}", returned(&second)));

    stage.say("again", "SHUT_RD, and SHUT_WR after it");
    let (client_sock, conn_sock) = connected_pair()?;
    let (client_fd, conn_fd) = (client_sock.as_raw_fd(), conn_sock.as_raw_fd());
    let (client, server) = (Pair::of(&client_sock)?, Pair::of(&conn_sock)?);
    client_sock.shutdown(Shutdown::Read).at("shutdown", "")?;
    stage.client(format_args!("shutdown({client_fd}, SHUT_RD) = 0"));
    client_sock.shutdown(Shutdown::Write).at("shutdown", "")?;
    stage.client(format_args!("shutdown({client_fd}, SHUT_WR) = 0"));
    wait_for_state(client, Some(State::FinWait2), LIMIT)?;
    let sent = send(conn_fd, b"late", MsgFlags::empty());
    stage.server(format_args!("send({conn_fd}, \"late\", 4) = {}", returned(&sent)));
    wait_for_state(client, None, LIMIT)?; // a reset ended both
    stage.kernel([("client", client), ("server", server)])?;
    let reset = recv(client_fd, &mut [0; 1024], MsgFlags::empty());
    stage.client(format_args!("recv({client_fd}, 1024) = {}", returned(&reset)));
    ensure!(reset == Err(Errno::ECONNRESET), "after SHUT_RD and SHUT_WR recv returned {reset:?}");
    stage.verdict(question, [first, second], "what came before is still read; what comes later draws a reset")
}
