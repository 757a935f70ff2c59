//! Connections that end without a word: a cable that is cut, a server that dies.

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsRawFd,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use kernel::{Pair, State, options::MinTtl, tcp_socket};
use nix::{errno::Errno, sys::socket::setsockopt};
use shared::{At, Predicts, Role, Stage, Verdict, returned};
use socket2::{Domain, Socket, Type};

use super::{CUT, LIMIT, Peer, server_role};

/// Clients of the experiment server-back.
const CLIENTS: [&str; 3] = ["ann", "bob", "carol"];
/// Attempts of a client that does not pause.
const ATTEMPTS: usize = 100;

pub fn cut_cable(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum StillThere {
        LAndK,
        L,
        Nobody,
    }
    let (mut server_l, addr_l) = server_role(&["--keepalive", "0"])?;
    let (mut server_k, addr_k) = server_role(&["--keepalive", "1,1,1"])?;
    stage.say("server L", "is as in the lecture: it waits");
    stage.say("server K", "has --keepalive 1,1,1: a probe after an idle second, then 1 s for its answer");
    let (ann_l, ann_k) = (Peer::enter(addr_l, "ann")?, Peer::enter(addr_k, "ann")?);
    let (end_l, end_k) = (Pair::of(&ann_l.sock)?.other_end(), Pair::of(&ann_k.sock)?.other_end());
    stage.kernel([("ann at L", end_l), ("ann at K", end_k)])?;
    stage.look(format_args!("ss -tano 'sport = :{} or sport = :{}'", addr_l.port(), addr_k.port()));
    let question = stage.ask(
        "Ann's cable is cut, and nobody says a word. Some seconds later: which server still has her among its clients?",
        [
            ("K and L: on an idle connection nothing can fail", StillThere::LAndK),
            ("L: it never asks whether she is there", StillThere::L),
            ("no server: the link's end closes the connection", StillThere::Nobody),
        ],
        Predicts { source: None, kit: StillThere::L },
    )?;
    for peer in [&ann_l, &ann_k] {
        setsockopt(&peer.sock, MinTtl, &CUT).at("setsockopt IP_MINTTL", CUT)?;
        stage.say("ann", format_args!("setsockopt({}, SOL_IP, IP_MINTTL, [{CUT}]) = 0", peer.sock.as_raw_fd()));
    }
    stage.say("cable", "is cut: ann's kernel drops all that arrives, for its TTL is only 64");
    stage.say("wait", "for K to give her up, up to 10s");
    let gone_k = server_k.line_with("] is gone: ");
    if let Ok(gone) = &gone_k {
        stage.say("server K", gone);
    }
    let gone_l = server_l.printed().contains("is gone");
    let [at_l, at_k] = stage.kernel([("ann at L", end_l), ("ann at K", end_k)])?;
    let timer = tcp_socket(end_l)?.and_then(|row| row.timer);
    stage.say(
        "kernel",
        format_args!("timer of ann at L: {}", timer.map_or("none, for ever".into(), |t| format!("{t:?}"))),
    );
    stage.kernel([("ann's own ends: L", end_l.other_end()), ("K", end_k.other_end())])?;
    let observed = match (at_l, at_k, gone_l) {
        (Some(State::Established), Some(State::Established), false) => StillThere::LAndK,
        (Some(State::Established), None, false) => StillThere::L,
        (None, None, true) => StillThere::Nobody,
        other => anyhow::bail!("at L, at K, L has told: {other:?}"),
    };
    stage.verdict(question, observed, "silence looks like an idle client; only a probe tells them apart")
}

pub fn server_back(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Connect {
        Refused,
        Waits,
        TimesOut,
    }
    // Bound and never listening: it keeps the port for the server's second run, and refuses nobody a bind with the option.
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let keeper_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", any_port)?;
    keeper_sock.set_reuse_address(true).at("setsockopt", any_port)?;
    keeper_sock.bind(&any_port.into()).at("bind", any_port)?;
    let server_addr = keeper_sock.local_addr().at("getsockname", any_port)?.as_socket().context("not an IP socket")?;
    let server_again = || -> Result<Role> {
        let mut server = Role::start(&["server", &server_addr.to_string()])?;
        server.wait_for(" messages; clients connect to ")?;
        Ok(server)
    };
    let server = server_again()?;
    let mut clients = Vec::new();
    for name in CLIENTS {
        let mut client = Role::start(&["client", &server_addr.to_string(), "--name", name])?;
        client.wait_for("Connected to ")?;
        clients.push(client);
    }
    stage.server(format_args!("on {server_addr}, with ann, bob and carol"));
    let question = stage.ask(
        "The server is killed. What does connect to its port return, until the server is back?",
        [
            ("nothing yet: it waits for a new listen", Connect::Waits),
            ("-1 ECONNREFUSED, at once each time", Connect::Refused),
            ("-1 ETIMEDOUT, after about two minutes", Connect::TimesOut),
        ],
        Predicts { source: None, kit: Connect::Refused },
    )?;
    stage.say("kill", format_args!("kill -9 {}", server.pid()));
    drop(server);
    let begun = Instant::now();
    let mut results = Vec::new();
    let mut fd = 0;
    for _ in 0..ATTEMPTS {
        let sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
        sock.set_write_timeout(Some(LIMIT)).at("setsockopt", server_addr)?; // a connect that waits is seen as EINPROGRESS
        fd = sock.as_raw_fd();
        results.push(sock.connect(&server_addr.into()));
    }
    let took_ms = begun.elapsed().as_secs_f64() * 1000.0;
    let last = results.pop().context("no attempt")?;
    let errno = |result: &std::io::Result<()>| result.as_ref().map_err(|error| error.raw_os_error()).err().flatten();
    ensure!(results.iter().all(|result| errno(result) == errno(&last)), "not all attempts ended alike: {results:?}");
    stage.say("no pause", format_args!("connect({fd}, {server_addr}) x{ATTEMPTS} = {}", returned(&last)));
    stage.say(
        "no pause",
        format_args!("{ATTEMPTS} attempts in {took_ms:.0} ms: a client that only tries again is a load"),
    );
    let observed = match errno(&last).map(Errno::from_raw) {
        Some(Errno::ECONNREFUSED) => Connect::Refused,
        Some(Errno::ETIMEDOUT) => Connect::TimesOut,
        Some(Errno::EINPROGRESS) => Connect::Waits,
        other => anyhow::bail!("connect ended with {other:?}"),
    };

    let mut first_pauses = Vec::new();
    for (name, client) in CLIENTS.iter().zip(&mut clients) {
        let mut pauses: Vec<f64> = Vec::new();
        while pauses.len() < 3 {
            let line = client.line_with("; again in ")?;
            let pause = line.rsplit(' ').nth(1).and_then(|seconds| seconds.parse().ok());
            pauses.push(pause.context("no pause in the line")?);
        }
        stage.say(name, format_args!("pauses {:.2} s, {:.2} s, {:.2} s ...", pauses[0], pauses[1], pauses[2]));
        ensure!(pauses.is_sorted(), "the pauses of {name} do not grow: {pauses:?}");
        first_pauses.push(pauses);
    }
    ensure!(first_pauses.windows(2).any(|pair| pair[0] != pair[1]), "all clients pause alike: {first_pauses:?}");
    let _server = server_again()?;
    stage.server("is back");
    for (name, client) in CLIENTS.iter().zip(&mut clients) {
        let line = client.line_with("Connected to ")?;
        stage.say(name, line.trim_start_matches("> "));
    }
    Peer::enter(server_addr, "dave")?.publish(b"Hello again!")?;
    for client in &mut clients {
        client.wait_for("  Hello again!\n")?;
    }
    stage.say("dave", "publishes \"Hello again!\": ann, bob and carol show it");
    stage.verdict(
        question,
        observed,
        "a closed port answers at once, so the client must pause: longer each time, spread",
    )
}
