//! Where a connection waits: in the kernel, in the program, in a thread.

use anyhow::{Context, Result, ensure};
use kernel::{State, tcp_socket, wait_for_state, wait_until};
use shared::{Predicts, Stage, Verdict};

use super::{LIMIT, Place, connected, listener_row, request, server_end, server_role, where_is};

pub fn one_at_a_time(stage: &mut Stage) -> Result<Verdict> {
    let (mut server, server_addr) = server_role(&["server-single", "0", "--deadline", "0"])?;
    let (_first_sock, first) = connected(server_addr)?;
    stage.server(server.line_with(&format!("accepted from {}", first.local))?);
    stage.say("client 1", "is connected and says nothing: the server waits in recv");

    let question = stage.ask(
        "Client 2 calls connect, then sends 9 bytes. What becomes of them while client 1 is served?",
        [
            ("connect waits for the server's accept", (false, 0)),
            ("connect is refused: the server is busy", (false, 1)),
            ("connect works; send fails: no accept yet", (true, 0)),
            ("connect works; the bytes wait in the kernel", (true, 9)),
        ],
        Predicts { source: Some((false, 0)), kit: (true, 9) },
    )?;
    let (second_sock, second) = connected(server_addr)?;
    stage
        .say("client 2", format_args!("connect({}, {server_addr}) = 0", std::os::fd::AsRawFd::as_raw_fd(&second_sock)));
    request(stage, "client 2", &second_sock, "Hello TCP")?;
    let row = server_end(second, "9 bytes at the server's end", |row| row.recv_queue == 9)?;
    stage.say("kernel", format_args!("server's end of client 2: {}, Recv-Q {}", row.state, row.recv_queue));
    let no_descriptor = row.inode == 0;
    let inode = if no_descriptor { "0: no program has a descriptor for it" } else { "not 0" };
    stage.say(
        "kernel",
        format_args!("its inode is {inode}; the listener's Recv-Q is {}", listener_row(server_addr)?.recv_queue),
    );
    ensure!(!server.printed().contains(&second.local.to_string()), "the server has accepted the second client");
    let observed = (row.state == State::Established && no_descriptor, row.recv_queue);
    stage.verdict(
        question,
        observed,
        "the kernel completes every handshake and keeps the bytes; only accept is one at a time",
    )
}

pub fn three_queues(stage: &mut Stage) -> Result<Verdict> {
    let (mut server, server_addr) = server_role(&["server-multi", "0", "1", "1", "--deadline", "0"])?;
    server.wait_for("worker 1: waits for a connection")?;
    let (_in_worker, first) = connected(server_addr)?;
    stage.server(server.line_with(&format!("worker 1: serves {}", first.local))?);
    let (_in_queue, second) = connected(server_addr)?;
    stage.server(server.line_with(&format!("main: accepted {}", second.local))?);

    let question = stage.ask(
        "One thread is busy, the queue has room for one. Clients 3 and 4 connect. Where is client 4 now?",
        [
            ("in the program's queue: it grows", Some(Place::Program)),
            ("in the kernel's accept queue", Some(Place::KernelsQueue)),
            ("refused: the server is full", Some(Place::Nowhere)),
            ("in SYN-SENT: nobody answers it", None),
        ],
        Predicts { source: None, kit: Some(Place::KernelsQueue) },
    )?;
    let (_in_hand, third) = connected(server_addr)?;
    stage.server(server.line_with(&format!("main: accepted {}", third.local))?);
    let (_in_kernel, fourth) = connected(server_addr)?;
    wait_for_state(fourth, Some(State::Established), LIMIT)?;
    wait_until("a connection in the accept queue", LIMIT, || {
        Ok((listener_row(server_addr)?.recv_queue > 0 || where_is(fourth)?.0 != Place::KernelsQueue).then_some(()))
    })?;
    let mut places = Vec::new();
    let log = server.printed();
    for (name, pair) in [("client 1", first), ("client 2", second), ("client 3", third), ("client 4", fourth)] {
        let (seen, _) = where_is(pair)?;
        let descriptor = if seen == Place::Program { "a descriptor" } else { "no descriptor" };
        let accepted = log.lines().find(|line| line.contains(&format!("accepted {},", pair.local)));
        let told = match accepted {
            Some(_) if log.contains(&format!("serves {}", pair.local)) => "accepted, served by worker 1",
            Some(line) if line.ends_with("it is full") => "accepted, in main's hand",
            Some(_) => "accepted, in the queue",
            None => "not accepted",
        };
        stage.say("kernel", format_args!("{name}  {descriptor:<13}  server: {told}"));
        places.push(seen);
    }
    stage.say("kernel", format_args!("the listener's Recv-Q is {}", listener_row(server_addr)?.recv_queue));
    let observed = places.pop();
    stage.verdict(question, observed, "a bounded queue stops main, and what main does not accept the kernel keeps")
}

pub fn completed(stage: &mut Stage) -> Result<Verdict> {
    let (mut server, server_addr) = server_role(&["server-multi", "0", "1", "1", "--deadline", "0"])?;
    let (_silent_sock, silent) = connected(server_addr)?;
    stage.server(server.line_with(&format!("worker 1: serves {}", silent.local))?);

    let (second_sock, second) = connected(server_addr)?;
    request(stage, "client 2", &second_sock, "Hello TCP")?;
    stage.server(server.line_with(&format!("main: accepted {}", second.local))?);
    let question = stage.ask(
        "main has printed its line; the manual's says \"Connection Completed\" here. Where are the 9 bytes?",
        [
            ("echoed: the request is completed", (Place::Program, 0, true)),
            ("unread, in the connection's own socket", (Place::Program, 9, false)),
            ("unread, in the listener's accept queue", (Place::KernelsQueue, 9, false)),
            ("in the program's queue, read by main", (Place::Program, 0, false)),
        ],
        Predicts { source: Some((Place::Program, 0, true)), kit: (Place::Program, 9, false) },
    )?;
    server_end(second, "a descriptor for client 2", |row| row.inode != 0)?;
    let (place, unread) = where_is(second)?;
    let descriptor = if place == Place::Program { "a descriptor" } else { "no descriptor" };
    stage.say("kernel", format_args!("server's end of client 2: {descriptor}, Recv-Q {unread}"));
    let echo = tcp_socket(second)?.context("the second connection is in no table")?.recv_queue;
    stage.say("kernel", format_args!("its own end: Recv-Q {echo}: {}", if echo > 0 { "an echo" } else { "no echo" }));
    let line = format!("worker 1: serves {}", second.local);
    let served = server.printed().contains(&line);
    stage.server(if served { "a worker serves it" } else { "no worker serves it" });
    let observed = (place, unread, echo > 0);
    stage.verdict(question, observed, "what is complete is the handshake, and accept; the request is not begun")
}
