//! How many blocks are on their way in one round trip.

use std::{
    net::{Ipv4Addr, Shutdown, SocketAddr},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use board::{Request, reply};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv, send},
};
use shared::{At, Predicts, Stage, Verdict};
use socket2::{Domain, Socket, Type};

use super::{LIMIT, exchange, relay_role, server_role};
use crate::session::BLOCK_LEN;

/// One way, in milliseconds.
const DELAY_MS: &str = "10";
const ROUND_TRIP: Duration = Duration::from_millis(20);
/// Blocks of the message.
const BLOCKS: usize = 32;
/// A busy machine can make a run slower, never faster: of so many runs the fastest counts.
const RUNS: usize = 10;

pub fn round_trips(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Gain {
        None,
        Half,
        Many,
    }
    let (_server, server_addr) = server_role(&[])?;
    let (_relay, relay_addr) = relay_role(server_addr, &["--delay-ms", DELAY_MS])?;
    let text = vec![b'a'; BLOCKS * BLOCK_LEN - 2];
    stage.say("relay", format_args!("{DELAY_MS} ms there and {DELAY_MS} ms back"));
    let one = timed_session(relay_addr, &text, 1)?;
    let least = ROUND_TRIP * (BLOCKS as u32 + 2);
    told(stage, "window 1", one, one);
    ensure!(one >= least, "faster than {} round trips: the relay did not delay", BLOCKS + 2);

    let question = stage.ask(
        "Window 1: one of 32 blocks each round trip. How long does the same take with 16 blocks unconfirmed?",
        [
            ("as long: as many blocks, as many bytes", Gain::None),
            ("about half: blocks and confirmations overlap", Gain::Half),
            ("a small part: 16 blocks share a round trip", Gain::Many),
        ],
        Predicts { source: None, kit: Gain::Many },
    )?;
    let mut four = timed_session(relay_addr, &text, 4)?;
    let mut sixteen = timed_session(relay_addr, &text, 16)?;
    for _ in 1..RUNS {
        if one >= 2 * four && four > sixteen && one >= 4 * sixteen {
            break;
        }
        four = four.min(timed_session(relay_addr, &text, 4)?);
        sixteen = sixteen.min(timed_session(relay_addr, &text, 16)?);
    }
    told(stage, "window 4", four, one);
    told(stage, "window 16", sixteen, one);
    let tcp = timed_tcp(&text)?;
    told(stage, "TCP", tcp, one);
    stage.say("relay", "The relay ends TCP's connection and makes another, so its slow start does not show.");
    ensure!(one >= 2 * four, "a window of 4 gained less than a half");
    ensure!(one >= 4 * tcp, "TCP gained less than three quarters");
    let observed = match one.as_secs_f64() / sixteen.as_secs_f64() {
        gain if gain >= 4.0 => Gain::Many,
        gain if gain >= 1.5 => Gain::Half,
        _ => Gain::None,
    };
    stage.verdict(question, observed, "time is round trips, not bytes: a window shares one among its blocks")
}

fn told(stage: &mut Stage, label: &str, took: Duration, one: Duration) {
    let ratio = one.as_secs_f64() / took.as_secs_f64();
    let times = if took == one { String::new() } else { format!("; window 1 takes {ratio:.1} times as long") };
    stage.say("client", format_args!("{label}: {} ms{times}", took.as_millis()));
}

/// From the opening to the end of a session that publishes the text.
fn timed_session(to: SocketAddr, text: &[u8], window: u32) -> Result<Duration> {
    let request = Request::Publish { text }.encode();
    let start = Instant::now();
    let (answer, _) = exchange(to, request, window)?;
    let took = start.elapsed();
    reply(&answer)?;
    Ok(took)
}

/// The same bytes and an answer over TCP, through a relay with the same delay.
fn timed_tcp(text: &[u8]) -> Result<Duration> {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listen_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", any_port)?;
    listen_sock.bind(&any_port.into()).at("bind", any_port)?;
    listen_sock.listen(1).at("listen", any_port)?;
    let server_addr = listen_sock.local_addr().at("getsockname", any_port)?.as_socket().context("not an IP socket")?;
    let (_relay, relay_addr) = relay_role(server_addr, &["--delay-ms", DELAY_MS, "--tcp"])?;
    let mut fastest = Duration::MAX;
    for _ in 0..RUNS {
        let start = Instant::now();
        let client_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", relay_addr)?;
        client_sock.set_read_timeout(Some(LIMIT)).at("setsockopt", relay_addr)?;
        client_sock.connect(&relay_addr.into()).at("connect", relay_addr)?;
        send_all(&client_sock, text)?; // what the send buffer does not hold, the relay takes
        client_sock.shutdown(Shutdown::Write).at("shutdown", relay_addr)?;
        let (conn_sock, _) = listen_sock.accept().at("accept", server_addr)?;
        conn_sock.set_read_timeout(Some(LIMIT)).at("setsockopt", server_addr)?;
        let received = recv_to_end(&conn_sock)?;
        send_all(&conn_sock, b"0:")?;
        drop(conn_sock); // close(2)
        let answer = recv_to_end(&client_sock)?;
        fastest = fastest.min(start.elapsed());
        ensure!(received == text && answer == b"0:", "TCP delivered something else");
    }
    Ok(fastest)
}

fn send_all(sock: &Socket, bytes: &[u8]) -> Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match send(sock.as_raw_fd(), rest, MsgFlags::empty()) {
            Err(Errno::EINTR) => {} // after Ctrl-Z and fg: signal(7)
            result => rest = &rest[result.at("send", "")?..],
        }
    }
    Ok(())
}

fn recv_to_end(sock: &Socket) -> Result<Vec<u8>> {
    let (mut received, mut buffer) = (Vec::new(), vec![0; 65_536]);
    loop {
        match recv(sock.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(0) => return Ok(received),
            Err(Errno::EINTR) => {} // with SO_RCVTIMEO after Ctrl-Z and fg: signal(7)
            result => received.extend(&buffer[..result.at("recv", "")?]),
        }
    }
}
