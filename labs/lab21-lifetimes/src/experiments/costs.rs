//! What a connection costs: at its beginning, while it is idle, and in memory.

use std::{
    fs,
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kernel::{
    Pair, State,
    namespace::{START_LIMIT, own},
    tcp_info, tcp_socket, tcp_sockets, wait_until,
};
use nix::{
    getsockopt_impl, libc, sockopt_impl,
    sys::socket::{
        MsgFlags, getsockopt, recv, send, setsockopt,
        sockopt::{KeepAlive, TcpKeepIdle},
    },
};
use shared::{At, Predicts, Role, Stage, Verdict, returned};
use socket2::Socket;

use super::{LIMIT, accepted, connected, listening, page_role, receive_message, send_all, waits};
use crate::{delayed::TRIES, relay::ONE_WAY};

/// How long the session is idle.
const IDLE: Duration = Duration::from_secs(2);
/// The shortest wait of TCP_KEEPIDLE, in seconds: see tcp(7).
const KEEP_IDLE_S: u32 = 1;
const CONNECTIONS: usize = 1000;

sockopt_impl!(
    /// What the socket holds, in bytes: struct sock's counters, include/uapi/linux/sock_diag.h.
    SoMeminfo, GetOnly, libc::SOL_SOCKET, libc::SO_MEMINFO, [u32; 9]
);
/// Places in it: what is received and not read, and the room for that.
const RMEM_ALLOC: usize = 0;
const RCVBUF: usize = 1;
/// Reserved pages, and what is sent and not acknowledged.
const FWD_ALLOC: usize = 4;
const WMEM_QUEUED: usize = 5;

/// What one end has sent since it began.
fn segments_out(sock: &Socket) -> Result<u32> {
    Ok(tcp_info::of(sock).at("getsockopt", "TCP_INFO")?.segs_out)
}

/// Segments without their acknowledgement.
fn unacked(sock: &Socket) -> Result<u32> {
    Ok(tcp_info::of(sock).at("getsockopt", "TCP_INFO")?.unacked)
}

pub fn idle_session(stage: &mut Stage) -> Result<Verdict> {
    let (listen_sock, server_addr) = listening()?;
    let client_sock = connected(server_addr)?;
    let conn_sock = accepted(&listen_sock)?;
    let (client, client_fd, conn_fd) = (Pair::of(&client_sock)?, client_sock.as_raw_fd(), conn_sock.as_raw_fd());
    let mut buffer = [0; 1024];
    let sent = send(client_fd, b"ls\n", MsgFlags::MSG_NOSIGNAL);
    stage.client(format_args!("send({client_fd}, \"ls\\n\", 3) = {}", returned(&sent)));
    ensure!(waits(&conn_sock, LIMIT)?, "not seen within {LIMIT:?}: the line");
    let received = recv(conn_fd, &mut buffer, MsgFlags::empty());
    stage.server(format_args!("recv({conn_fd}, 1024) = {}", returned(&received)));
    let sent = send(conn_fd, b"notes.txt\n", MsgFlags::MSG_NOSIGNAL);
    stage.server(format_args!("send({conn_fd}, \"notes.txt\\n\", 10) = {}", returned(&sent)));
    ensure!(waits(&client_sock, LIMIT)?, "not seen within {LIMIT:?}: the answer");
    let received = recv(client_fd, &mut buffer, MsgFlags::empty());
    stage.client(format_args!("recv({client_fd}, 1024) = {}", returned(&received)));
    wait_until("all acknowledged", LIMIT, || {
        let open = unacked(&client_sock)? + unacked(&conn_sock)?;
        Ok((open == 0).then_some(()))
    })?;
    let before = [segments_out(&client_sock)?, segments_out(&conn_sock)?];
    stage.say("TCP_INFO", format_args!("segments sent so far: client {}, server {}", before[0], before[1]));

    stage.look(format_args!("ss -tno 'sport = :{0} or dport = :{0}'", client.local.port()));
    let question = stage.ask(
        "Now the user thinks for two seconds, and nobody calls send. What does the connection do meanwhile?",
        [
            ("segments pass: each end shows that it is alive", (true, true)),
            ("no segment passes, but a timer runs in the kernel", (false, true)),
            ("no segment passes, and no timer runs", (false, false)),
        ],
        Predicts { source: None, kit: (false, false) },
    )?;
    let came = waits(&client_sock, IDLE)?;
    ensure!(!came, "something came, and nobody had sent it");
    let idle = [segments_out(&client_sock)? - before[0], segments_out(&conn_sock)? - before[1]];
    let timers = [client, client.other_end()].map(timer);
    let [client_timer, server_timer] = timers;
    let (client_timer, server_timer) = (client_timer?, server_timer?);
    stage.say("TCP_INFO", format_args!("segments sent while idle: client {}, server {}", idle[0], idle[1]));
    let shown = |timer: Option<Duration>| timer.map_or("none".into(), |left| format!("{:.1} s", left.as_secs_f64()));
    stage.say("kernel", format_args!("timer: client {}, server {}", shown(client_timer), shown(server_timer)));
    stage.kernel([("client", client), ("server", client.other_end())])?;
    let observed = (idle != [0, 0], client_timer.is_some() || server_timer.is_some());

    // Only who asks for it gets a sign of life: SO_KEEPALIVE, here with the shortest wait.
    let asked =
        setsockopt(&client_sock, KeepAlive, &true).and_then(|()| setsockopt(&client_sock, TcpKeepIdle, &KEEP_IDLE_S));
    asked.at("setsockopt", "SO_KEEPALIVE")?;
    stage.say("keepalive", format_args!("the client sets SO_KEEPALIVE, and TCP_KEEPIDLE to {KEEP_IDLE_S} s"));
    let probe = wait_until("a keepalive probe and its answer", LIMIT, || {
        let sent = [segments_out(&client_sock)? - before[0], segments_out(&conn_sock)? - before[1]];
        Ok((sent[0] > idle[0] && sent[1] > idle[1]).then_some(sent))
    })?;
    stage.say(
        "TCP_INFO",
        format_args!("segments sent since: client {}, server {}", probe[0] - idle[0], probe[1] - idle[1]),
    );
    stage.say(
        "kernel",
        format_args!("timer: client {}, server {}", shown(timer(client)?), shown(timer(client.other_end())?)),
    );
    stage.verdict(
        question,
        observed,
        "an idle connection is two rows in two tables; nothing passes unless you ask for it",
    )
}

/// What is left of this end's timer, if one runs.
fn timer(pair: Pair) -> Result<Option<Duration>> {
    Ok(tcp_socket(pair)?.context("the connection is in no table")?.timer)
}

pub fn first_byte(stage: &mut Stage) -> Result<Verdict> {
    let question = stage.ask(
        "A client asks over a new connection, and then once more over the same one. How many round trips does each request take until the first byte of its answer is there?",
        [
            ("new connection 1, kept connection 1", (1, 1)),
            ("new connection 2, kept connection 1", (2, 1)),
            ("new connection 3, kept connection 1", (3, 1)),
            ("new connection 2, kept connection 2", (2, 2)),
        ],
        Predicts { source: None, kit: (2, 1) },
    )?;
    let mut child = Role::start_in_namespace(&["delayed", &own()?])?;
    stage.say("hosts", "A is 10.0.0.1, the server; B is 10.0.0.2, the client");
    let there_and_back = 2 * ONE_WAY.as_millis();
    stage.say("line", format_args!("passes each frame on after {ONE_WAY:?}: there and back {there_and_back}ms"));
    stage.client(format_args!("asks {TRIES} times each way, for up to {START_LIMIT:?} in all"));
    let printed = child.wait_for_within("end of the scene\n", START_LIMIT)?;
    let mut trips = [0; 2];
    for (trips, label) in trips.iter_mut().zip(["new", "kept"]) {
        let values = |what: &str| {
            let prefix = format!("{label} {what} ");
            printed.lines().filter_map(|line| line.strip_prefix(&prefix)).map(String::from).collect::<Vec<_>>()
        };
        let times = values("ms").iter().map(|ms| ms.parse()).collect::<Result<Vec<u64>, _>>()?;
        let (at, ms) = times.iter().enumerate().min_by_key(|(_, ms)| **ms).context("no time was measured")?;
        let passed = values("segments");
        let passed: Vec<&str> = passed.get(at).context("no segment passed")?.split(", ").collect();
        let answer = passed.iter().position(|segment| is_answer(segment)).context("no answer passed")?;
        // Of the ACKs without data the handshake's is shown: nobody waits for the others.
        let matters = |at: &usize| match passed[*at] {
            "client ACK" | "server ACK" => *at > 0 && passed[*at - 1] == "server SYN ACK",
            _ => true,
        };
        let segments: Vec<&str> = (0..=answer).filter(matters).map(|at| passed[at]).collect();
        stage.say(label, segments.join(", "));
        // A round trip begins where the client sends after the server did, and it ends with the server's next segment.
        let mut before = "server";
        for segment in &segments[..segments.len() - 1] {
            let who = if segment.starts_with("client ") { "client" } else { "server" };
            *trips += usize::from(who == "client" && before == "server");
            before = who;
        }
        stage.say(
            "",
            format_args!("round trips: {trips}; the first byte after {ms} ms, the quickest of {}", times.len()),
        );
    }
    stage.verdict(question, (trips[0], trips[1]), "a new connection costs one round trip more than a kept one")
}

/// The server's first segment with data.
fn is_answer(segment: &str) -> bool {
    segment.starts_with("server ") && segment.ends_with(" bytes")
}

pub fn thousand_kept(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Held {
        NextToNothing,
        Half,
        All,
    }
    let (server, server_addr) = page_role(&["--idle", "0"])?;
    let descriptors = || -> Result<[usize; 2]> {
        let open = |path: String| fs::read_dir(&path).map(Iterator::count).with_context(|| path);
        Ok([open("/proc/self/fd".into())?, open(format!("/proc/{}/fd", server.pid()))?])
    };
    let before = descriptors()?;
    let mut client_socks = Vec::new();
    for _ in 0..CONNECTIONS {
        let client_sock = connected(server_addr)?;
        send_all(&client_sock, format!("GET /object/1 HTTP/1.1\r\nHost: {server_addr}\r\n\r\n").as_bytes())?;
        receive_message(&client_sock)?;
        client_socks.push(client_sock);
        if client_socks.len() % (CONNECTIONS / 4) == 0 {
            let kept = client_socks.len();
            stage.client(format_args!("{kept} connections are kept; over each came an answer"));
        }
    }
    let after = descriptors()?;
    stage.say(
        "/proc",
        format_args!("descriptors more than before: client {}, server {}", after[0] - before[0], after[1] - before[1]),
    );
    let rows = tcp_sockets(server_addr.port())?;
    let established = rows.iter().filter(|row| row.state == State::Established).count();
    stage.say("kernel", format_args!("{established} ESTABLISHED on the server's one port"));
    let meminfo = |sock: &Socket| getsockopt(&sock.as_fd(), SoMeminfo).at("getsockopt", "SO_MEMINFO");
    let first = meminfo(client_socks.first().context("no connection")?)?;
    stage.say(
        "meminfo",
        format_args!("room for what is received and not read: {} bytes at each client's end", first[RCVBUF]),
    );

    let question = stage.ask(
        "All connections are idle. How much of this room does the kernel hold for them in memory now?",
        [
            ("all of it: accept and connect take it", Held::All),
            ("about half of it: the answer is over", Held::Half),
            ("next to nothing: no byte is in it", Held::NextToNothing),
        ],
        Predicts { source: None, kit: Held::NextToNothing },
    )?;
    let (mut room, mut held) = (0_u64, 0_u64);
    for client_sock in &client_socks {
        let info = meminfo(client_sock)?;
        room += u64::from(info[RCVBUF]);
        held += u64::from(info[RMEM_ALLOC]) + u64::from(info[FWD_ALLOC]) + u64::from(info[WMEM_QUEUED]);
    }
    stage.say("meminfo", format_args!("all together: room {room} bytes, held {held} bytes"));
    let observed = match held * 100 / room.max(1) {
        0..10 => Held::NextToNothing,
        10..75 => Held::Half,
        _ => Held::All,
    };
    for client_sock in &client_socks {
        // A reset at close(2) leaves no TIME-WAIT: a thousand of them would be in the way of other labs.
        client_sock.set_linger(Some(Duration::ZERO)).at("setsockopt", "SO_LINGER")?;
    }
    drop(client_socks); // close(2)
    stage.verdict(question, observed, "buffers are limits, not memory; an idle end costs a descriptor and its struct")
}
