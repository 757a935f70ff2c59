//! How a connection ends: what the call returned, what passed, and which states are left.

use std::{
    os::fd::AsRawFd,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};
use kernel::{Pair, State, options::MinTtl, wait_for_state, wait_until};
use nix::{
    sys::socket::{MsgFlags, SockProtocol, recv, send, setsockopt, sockopt::ReceiveTimestampns},
    unistd::close,
};
use shared::{At, Predicts, Stage, Verdict, returned};

use super::{
    CUT, LIMIT, MENDED, connected_pair,
    packets::{Capture, Segment},
    scene::{Scene, Shown, named},
};

pub fn close_returns(stage: &mut Stage) -> Result<Verdict> {
    let scene = Shown::start(stage, "close-returns")?;
    let question = stage.ask(
        "The server's end hears nothing now, so it acknowledges nothing. The client calls close. When does close \
         return, and in which states are client and server then?",
        [
            ("at once; FIN-WAIT-1 and ESTABLISHED", "before the ACK, FIN-WAIT-1 and ESTABLISHED".to_string()),
            ("at once; in no table and ESTABLISHED", "before the ACK, in no table and ESTABLISHED".into()),
            ("at once; TIME-WAIT and ESTABLISHED", "before the ACK, TIME-WAIT and ESTABLISHED".into()),
            ("not before the ACK; FIN-WAIT-2 and CLOSE-WAIT", "after the ACK, FIN-WAIT-2 and CLOSE-WAIT".into()),
        ],
        Predicts { source: None, kit: "before the ACK, FIN-WAIT-1 and ESTABLISHED".into() },
    )?;
    let observed = scene.observed(stage)?;
    stage.verdict(question, observed, "no: close leaves the FIN to the kernel, which repeats it until the ACK comes")
}

pub fn close_returns_scene(scene: &mut Scene) -> Result<String> {
    let capture = Capture::start(scene, SockProtocol::EthIp)?;
    setsockopt(capture.fd(), ReceiveTimestampns, &true).at("setsockopt SO_TIMESTAMPNS", "")?;
    scene.say("capture", "SO_TIMESTAMPNS is set: each packet has the kernel's time stamp");
    let (client_sock, conn_sock) = connected_pair()?;
    let (pair, client_fd, conn_fd) = (Pair::of(&client_sock)?, client_sock.as_raw_fd(), conn_sock.as_raw_fd());
    scene.kernel(pair)?;
    setsockopt(&conn_sock, MinTtl, &CUT).at("setsockopt IP_MINTTL", "")?;
    scene.say("server", format_args!("setsockopt({conn_fd}, SOL_IP, IP_MINTTL, [{CUT}]) = 0"));
    scene.say("cable", "is out at the server: its end drops all that arrives, for the TTL is only 64");
    capture.segments(pair)?; // the handshake

    scene.ask()?;
    let called = SystemTime::now();
    let closed = close(client_sock);
    let took = called.elapsed().unwrap_or_default();
    scene.say("client", format_args!("close({client_fd}) = {}", returned(&closed)));
    closed.at("close", "")?;
    let [client, server] = scene.kernel(pair)?;
    let mut segments = Vec::new();
    see(&capture, pair, &mut segments, "the FIN", |segment| segment.from_client && segment.flags.contains("FIN"))?;
    let answers = segments.iter().filter(|segment| !segment.from_client).count();
    scene.say("captured", format_args!("client > server  FIN ACK   server > client: {answers} segments"));

    setsockopt(&conn_sock, MinTtl, &MENDED).at("setsockopt IP_MINTTL", "")?;
    scene.say("server", format_args!("setsockopt({conn_fd}, SOL_IP, IP_MINTTL, [{MENDED}]) = 0  the cable is back"));
    see(&capture, pair, &mut segments, "the ACK of the FIN", |segment| !segment.from_client && segment.flags == "ACK")?;
    let fins = segments.iter().filter(|segment| segment.flags.contains("FIN")).count();
    scene.say("captured", format_args!("client > server  FIN ACK x{fins} by now   server > client  ACK"));
    wait_for_state(pair, Some(State::FinWait2), LIMIT)?;
    scene.kernel(pair)?;
    let ack = segments.iter().find(|segment| !segment.from_client && segment.flags == "ACK");
    let stamp = ack.and_then(|ack| ack.at).context("an ACK without a time stamp")?;
    let waited = stamp.duration_since(called).unwrap_or_default();
    scene.say("timed", format_args!("close took {}; the ACK came {} after the call", ms(took), ms(waited)));
    let when = if took < waited { "before" } else { "after" };
    Ok(format!("{when} the ACK, {} and {}", named(client), named(server)))
}

fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}

/// Takes what passes until it holds such a segment.
fn see(
    capture: &Capture,
    pair: Pair,
    segments: &mut Vec<Segment>,
    what: &str,
    wanted: impl Fn(&Segment) -> bool,
) -> Result<()> {
    wait_until(what, LIMIT, || {
        segments.extend(capture.segments(pair)?);
        Ok(segments.iter().any(&wanted).then_some(()))
    })
}

pub fn reset(stage: &mut Stage) -> Result<Verdict> {
    let scene = Shown::start(stage, "reset")?;
    let question = stage.ask(
        "With SO_LINGER 0 close sends a RST instead of a FIN. Which segment follows the RST, and in which state is the \
         client's end then?",
        [
            ("an ACK follows; its end is in TIME-WAIT", "ACK, TIME-WAIT".to_string()),
            ("an ACK follows; its end is in no table", "ACK, in no table".into()),
            ("none follows; its end is in TIME-WAIT", "nothing, TIME-WAIT".into()),
            ("none follows; its end is in no table", "nothing, in no table".into()),
        ],
        Predicts { source: None, kit: "nothing, in no table".into() },
    )?;
    let observed = scene.observed(stage)?;
    stage.verdict(question, observed, "nobody answers a RST, and both kernels forget the connection at once")
}

pub fn reset_scene(scene: &mut Scene) -> Result<String> {
    let capture = Capture::start(scene, SockProtocol::EthIp)?;
    let (client_sock, conn_sock) = connected_pair()?;
    let (pair, client_fd, conn_fd) = (Pair::of(&client_sock)?, client_sock.as_raw_fd(), conn_sock.as_raw_fd());
    let sent = send(client_fd, b"hello", MsgFlags::empty());
    scene.say("client", format_args!("send({client_fd}, \"hello\", 5) = {}", returned(&sent)));
    let read = recv(conn_fd, &mut [0; 1024], MsgFlags::empty());
    scene.say("server", format_args!("recv({conn_fd}, 1024) = {}", returned(&read)));
    client_sock.set_linger(Some(Duration::ZERO)).at("setsockopt SO_LINGER", "")?;
    scene.say("client", format_args!("setsockopt({client_fd}, SOL_SOCKET, SO_LINGER) = 0  on, 0 seconds"));
    scene.kernel(pair)?;

    scene.ask()?;
    let closed = close(client_sock);
    scene.say("client", format_args!("close({client_fd}) = {}", returned(&closed)));
    closed.at("close", "")?;
    wait_for_state(pair.other_end(), None, LIMIT)?; // the server's kernel has dealt with the RST
    let states = scene.kernel(pair)?;
    let read = recv(conn_fd, &mut [0; 1024], MsgFlags::empty());
    scene.say("server", format_args!("recv({conn_fd}, 1024) = {}", returned(&read)));

    // Another connection is opened: an answer to the RST would be on its way before its segments.
    let mut segments = Vec::new();
    let (later_sock, later_conn_sock) = connected_pair()?;
    let later = Pair::of(&later_sock)?;
    wait_until("a later connection", LIMIT, || {
        let seen = capture.take()?;
        segments.extend(seen.iter().filter_map(|seen| seen.segment(pair)));
        Ok(seen.iter().any(|seen| seen.segment(later).is_some()).then_some(()))
    })?;
    drop((later_sock, later_conn_sock));
    let Some(at) = segments.iter().position(|segment| segment.flags.contains("RST")) else { bail!("no RST passed") };
    scene.say("captured", format_args!("client > server  {}", segments[at].flags));
    let answers: Vec<_> = segments[at + 1..].iter().map(|segment| segment.flags.as_str()).collect();
    let answer = if answers.is_empty() { "nothing" } else { answers[0] };
    scene.say("captured", format_args!("after it, before the next connection: {answer}"));
    Ok(format!("{answer}, {}", named(states[0])))
}
