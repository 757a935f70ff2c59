//! How many blocks are on their way in one round trip.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use board::{Request, reply};
use shared::{At, Predicts, Stage, Verdict};

use super::{LIMIT, exchange, relay_role, server_role};
use crate::session::BLOCK_LEN;

/// One way, in milliseconds.
const DELAY_MS: &str = "10";
const ROUND_TRIP: Duration = Duration::from_millis(20);
/// Blocks of the message.
const BLOCKS: usize = 64;
/// A busy machine can make a run slower, never faster: of so many runs the fastest counts.
const RUNS: usize = 5;

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
        "Window 1: one of 64 blocks each round trip. How long does the same take with 16 blocks unconfirmed?",
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
    stage.say("", "The relay ends TCP's connection and makes another, so its slow start does not show.");
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
    stage.say("", format_args!("{label:<10}{:>6} ms   window 1 takes {ratio:>5.1} times as long", took.as_millis()));
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
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).at("bind", "127.0.0.1:0")?;
    let server_addr = listener.local_addr().at("getsockname", "")?;
    let (_relay, relay_addr) = relay_role(server_addr, &["--delay-ms", DELAY_MS, "--tcp"])?;
    let mut fastest = Duration::MAX;
    for _ in 0..3 {
        let start = Instant::now();
        let mut client = TcpStream::connect(relay_addr).at("connect", relay_addr)?;
        client.set_read_timeout(Some(LIMIT)).at("setsockopt", "")?;
        // The relay takes what the send buffer does not; the server is not yet asked.
        client.write_all(text).at("send", relay_addr)?;
        client.shutdown(Shutdown::Write).at("shutdown", relay_addr)?;
        let (mut conn, _) = listener.accept().at("accept", server_addr)?;
        let mut received = Vec::new();
        conn.read_to_end(&mut received).at("recv", "")?;
        conn.write_all(b"0:").at("send", "")?;
        drop(conn); // close(2)
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).at("recv", "")?;
        fastest = fastest.min(start.elapsed());
        ensure!(received == text && answer == b"0:", "TCP delivered something else");
    }
    Ok(fastest)
}
