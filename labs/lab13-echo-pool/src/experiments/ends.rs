//! Ends that a pool meets: a client that has left, Ctrl-C, an address where nobody is.

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsRawFd,
};

use anyhow::{Context, Result, ensure};
use kernel::{State, wait_for_state, wait_until};
use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, kill},
        socket::{MsgFlags, recv},
    },
};
use shared::{At, Predicts, Stage, Verdict, returned};
use socket2::{Domain, Socket, Type};

use super::{LIMIT, connected, listener_row, request, server_end, server_role};

pub fn left_early(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Meets {
        DataThenEnd,
        Reset,
        Nobody,
    }
    let (mut server, server_addr) = server_role(&["server-multi", "0", "1", "1", "--deadline", "0"])?;
    let (silent_sock, silent) = connected(server_addr)?;
    stage.server(server.line_with(&format!("worker 1: serves {}", silent.local))?);
    let (second_sock, second) = connected(server_addr)?;
    let second_fd = second_sock.as_raw_fd();
    request(stage, "client 2", &second_sock, "Hello TCP")?;
    server.wait_for(&format!("main: accepted {}", second.local))?;

    let question = stage.ask(
        "Client 2 closes before its turn. Then the worker is free and takes it. What does the worker meet?",
        [
            ("an error: ECONNRESET, the client is gone", Meets::Reset),
            ("9 bytes, and then end of stream", Meets::DataThenEnd),
            ("nothing: it was taken out of the queue", Meets::Nobody),
        ],
        Predicts { source: None, kit: Meets::DataThenEnd },
    )?;
    drop(second_sock); // close(2): FIN
    stage.say("client 2", format_args!("close({second_fd}) = 0"));
    wait_for_state(second.other_end(), Some(State::CloseWait), LIMIT)?;
    wait_for_state(second, Some(State::FinWait2), LIMIT)?; // the FIN is acknowledged
    stage.kernel([("client 2", second), ("server's end", second.other_end())])?;
    drop(silent_sock); // close(2): the worker is free
    stage.say("client 1", "leaves");
    let line = server.line_with(&format!("worker 1: {}: ", second.local))?;
    stage.server(&line);
    let observed = match line.split(": ").last().unwrap_or_default() {
        "echoed 9 bytes, end of stream" => Meets::DataThenEnd,
        other if other.contains("ECONNRESET") => Meets::Reset,
        _ => Meets::Nobody,
    };
    stage.verdict(question, observed, "who has left looks like who is done: bytes, then 0; nobody reads the echo")
}

pub fn stop(stage: &mut Stage) -> Result<Verdict> {
    let mut question = None;
    let mut told = Vec::new();
    for signal in [Signal::SIGKILL, Signal::SIGINT] {
        let (mut server, server_addr) = server_role(&["server-multi", "0", "1", "1", "--deadline", "0"])?;
        let (_first_sock, first) = connected(server_addr)?;
        server.wait_for(&format!("worker 1: serves {}", first.local))?;
        let mut waiting = Vec::new();
        for name in ["client 2", "client 3", "client 4"] {
            let (sock, pair) = connected(server_addr)?;
            request(stage, name, &sock, "Hello TCP")?;
            server_end(pair, "the request at the server's end", |row| row.recv_queue == 9)?;
            waiting.push((name, sock));
        }
        wait_until("one in the kernel's queue", LIMIT, || {
            Ok((listener_row(server_addr)?.recv_queue == 1).then_some(()))
        })?;
        if question.is_none() {
            stage.server("serves a silent client; the three wait in its queue, in main's hand, in the kernel's queue");
            question = Some(stage.ask(
                "The server's process just ends, without a word. What does recv return to the three who wait?",
                [
                    ("0, end of stream, to each", [Ok(0); 3]),
                    ("ECONNRESET to each", [Err(Errno::ECONNRESET); 3]),
                    ("0, 0, and ECONNRESET to the one in the kernel", [Ok(0), Ok(0), Err(Errno::ECONNRESET)]),
                    ("9, the echo, to each", [Ok(9); 3]),
                ],
                Predicts { source: None, kit: [Err(Errno::ECONNRESET); 3] },
            )?);
        }
        kill(server.pid(), signal).at("kill", server.pid())?;
        stage.say("kill", format_args!("{signal} to process {}", server.pid()));
        for (name, sock) in &waiting {
            let end = loop {
                match recv(sock.as_raw_fd(), &mut [0; 1024], MsgFlags::empty()) {
                    Err(Errno::EINTR) => {} // Ctrl-Z, then fg: with SO_RCVTIMEO recv is not restarted, signal(7)
                    end => break end,
                }
            };
            stage.say(name, format_args!("recv({}, 1024) = {}", sock.as_raw_fd(), returned(&end)));
            told.push(end);
        }
        if signal == Signal::SIGKILL {
            stage.say("mended", "the same again, and Ctrl-C: this server finishes what its kernel has let in");
        } else {
            ensure!(server.wait_for_end()?.success(), "the server ended badly");
        }
    }
    ensure!(told[3..] == [Ok(9); 3], "after Ctrl-C they got {:?}", &told[3..]);
    let question = question.context("no question was put")?;
    stage.verdict(
        question,
        [told[0], told[1], told[2]],
        "unread requests become resets; a server has to finish them first",
    )
}

pub fn host_name(stage: &mut Stage) -> Result<Verdict> {
    let (_server, server_addr) = server_role(&["server-single", "127.0.0.1:0", "--deadline", "0"])?;
    let (_wide_server, wide_addr) = server_role(&["server-single", "0.0.0.0:0", "--deadline", "0"])?;
    stage.server(format_args!("one listens on {server_addr}, another one on {wide_addr}"));

    let debian = Ipv4Addr::new(127, 0, 1, 1);
    let question = stage.ask(
        "Debian's /etc/hosts gives the machine's own name the address 127.0.1.1. Which server answers there?",
        [
            ("the one on 127.0.0.1", (Ok(()), Err(Errno::ECONNREFUSED))),
            ("the one on 0.0.0.0", (Err(Errno::ECONNREFUSED), Ok(()))),
            ("each of the two", (Ok(()), Ok(()))),
            ("neither of the two", (Err(Errno::ECONNREFUSED), Err(Errno::ECONNREFUSED))),
        ],
        Predicts { source: None, kit: (Err(Errno::ECONNREFUSED), Ok(())) },
    )?;
    let mut connect = |port| {
        let addr = SocketAddr::from((debian, port));
        let client_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", addr)?;
        let result = client_sock.connect(&addr.into());
        stage.client(format_args!("connect({}, {addr}) = {}", client_sock.as_raw_fd(), returned(&result)));
        anyhow::Ok(result.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0))))
    };
    let observed = (connect(server_addr.port())?, connect(wide_addr.port())?);
    let row = listener_row(SocketAddr::from((Ipv4Addr::UNSPECIFIED, wide_addr.port()))).context("the wide server")?;
    stage.say("kernel", format_args!("{} {}", row.state, row.pair.local));
    stage.verdict(question, observed, "an address is matched exactly; 0.0.0.0 stands for all of this machine's")
}
