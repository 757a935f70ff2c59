//! One end is off-line: who keeps the message, and for whom.

use std::os::fd::AsRawFd;

use anyhow::{Result, ensure};
use kernel::Pair;
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv},
};
use rumqttc::QoS;
use shared::{At, Predicts, Role, Stage, Verdict, returned};
use socket2::{Domain, Socket, Type};

use super::{
    SILENCE, accepted, bound,
    brokers::{Broker, text, up_to},
    waits,
};
use crate::mqtt::As;

/// Texts that ann gets when she is back.
#[derive(Debug, PartialEq)]
enum Gets {
    All,
    SessionAndRetained,
    Session,
    Retained,
    Other(Vec<String>),
}

pub fn off_line(stage: &mut Stage) -> Result<Verdict> {
    let broker = Broker::start(stage)?;
    broker.has_subscribed(stage, "ann", "letters")?;

    // Direct: the receiver's address is bound, and nobody listens there.
    let (_receiver_sock, receiver_addr) = bound()?;
    let client_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", receiver_addr)?;
    let connected = client_sock.connect(&receiver_addr.into());
    let fd = client_sock.as_raw_fd();
    stage.say("direct", "bob connects to ann herself, without the broker");
    stage.say("bob", format_args!("connect({fd}, {receiver_addr}) = {}", returned(&connected)));
    ensure!(connected.is_err(), "somebody listens at {receiver_addr}");

    broker.published(stage, "bob", "letters", "hi Ann", &[])?;
    broker.published(stage, "bob", "news", "rain", &[])?;
    broker.published(stage, "bob", "state", "on", &["--retain"])?;

    let question = stage.ask(
        "Three texts, three PUBACKs. Ann's session knows letters only. She comes back and subscribes to all three topics. Which texts does she get?",
        [
            ("\"hi Ann\", \"rain\", \"on\"", Gets::All),
            ("\"hi Ann\", \"on\"", Gets::SessionAndRetained),
            ("\"hi Ann\"", Gets::Session),
            ("\"on\"", Gets::Retained),
        ],
        Predicts { source: Some(Gets::All), kit: Gets::SessionAndRetained },
    )?;
    let mut ann = broker.client(As::session("ann"))?;
    for topic in ["letters", "news", "state"] {
        ann.subscribe(topic, QoS::AtLeastOnce)?;
    }
    let known = if ann.remembered { "remembers" } else { "does not know" };
    stage.say("ann", format_args!("CONNECT: the broker {known} her; SUBSCRIBE letters, news, state"));
    let mut marks = broker.client(As::guest("marks"))?;
    for topic in ["letters", "news", "state"] {
        marks.publish(topic, b"end", QoS::AtLeastOnce, false)?; // what came before it on this topic is before it
    }
    let mut got = up_to(&mut ann, "end", 3)?;
    got.sort_by(|one, other| one.topic.cmp(&other.topic));
    for publish in &got {
        let retained = if publish.retain { ", retained" } else { "" };
        stage.say("ann", format_args!("gets {} \"{}\"{retained}", publish.topic, text(publish)));
    }
    stage.say("counted", format_args!("{} of 3 acknowledged texts", got.len()));
    let texts: Vec<String> = got.iter().map(text).collect();
    let observed = match texts.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["hi Ann", "rain", "on"] => Gets::All,
        ["hi Ann", "on"] => Gets::SessionAndRetained,
        ["hi Ann"] => Gets::Session,
        ["on"] => Gets::Retained,
        _ => Gets::Other(texts),
    };
    stage.verdict(question, observed, "a broker keeps what it is told to keep: for a session, or as retained")
}

pub fn pending(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Arrives {
        Retried,
        Acknowledged,
        Two,
        Nothing,
    }
    let broker = Broker::start(stage)?;
    broker.has_subscribed(stage, "server", "requests")?;
    let (server_sock, server_addr) = bound()?;

    let mut direct = Role::start(&["tell", &server_addr.to_string(), "from A", "--again"])?;
    direct.wait_for("and again every 200 ms\n")?;
    stage.say("client A", format_args!("connect to {server_addr}: ECONNREFUSED, tries again every 200 ms"));
    broker.published(stage, "client B", "requests", "from B", &[])?;
    stage.say("kill", format_args!("kill -9 {}  client A, which still tries", direct.pid()));
    drop(direct); // kill -9, and it is waited for

    let question = stage.ask(
        "Both clients are gone. Now the server is back: it listens at its address, and it asks the broker. What does it get?",
        [
            ("the text that A tried to send again and again", Arrives::Retried),
            ("the text that B left with the broker", Arrives::Acknowledged),
            ("two texts: A's kernel goes on trying", Arrives::Two),
            ("nothing: whoever sent a text is gone", Arrives::Nothing),
        ],
        Predicts { source: Some(Arrives::Acknowledged), kit: Arrives::Acknowledged },
    )?;
    server_sock.listen(5).at("listen", server_addr)?;
    stage.server(format_args!("listen({}, 5) = 0", server_sock.as_raw_fd()));
    let direct = waits(&server_sock, SILENCE)?;
    stage.server(if direct { "a connection comes".into() } else { format!("no connection in {SILENCE:?}") });
    let mut server = broker.client(As::session("server"))?;
    server.subscribe("requests", QoS::AtLeastOnce)?;
    broker.client(As::guest("marks"))?.publish("requests", b"end", QoS::AtLeastOnce, false)?;
    let got = up_to(&mut server, "end", 1)?;
    for publish in &got {
        stage.server(format_args!("gets {} \"{}\" from the broker", publish.topic, text(publish)));
    }
    stage.say("counted", format_args!("direct {}, through the broker {}", usize::from(direct), got.len()));
    let observed = match (direct, got.len()) {
        (false, 1) => Arrives::Acknowledged,
        (true, 0) => Arrives::Retried,
        (false, 0) => Arrives::Nothing,
        _ => Arrives::Two,
    };
    stage.verdict(question, observed, "what waits in a client dies with it; the broker outlives its clients")
}

pub fn dead_sender(stage: &mut Stage) -> Result<Verdict> {
    let (server_sock, server_addr) = bound()?;
    server_sock.listen(5).at("listen", server_addr)?;
    stage.server(format_args!("listen({}, 5) = 0  and it is busy: no accept", server_sock.as_raw_fd()));
    let mut sender = Role::start(&["tell", &server_addr.to_string(), "Hello"])?;
    sender.wait_for("5 bytes sent")?;
    let pid = sender.pid();
    sender.wait_for_end()?;
    drop(sender);
    let gone = !std::path::Path::new(&format!("/proc/{pid}")).exists();
    stage.client(format_args!("has sent 5 bytes and ended; /proc/{pid} is {}", if gone { "gone" } else { "there" }));

    let question = stage.ask(
        "Only now the server calls accept, and recv. What does recv return?",
        [
            ("-1 ECONNRESET: the sender is gone", Err(Errno::ECONNRESET)),
            ("0: the end of the stream", Ok(0)),
            ("5: the bytes of the dead sender", Ok(5)),
            ("-1 ENOTCONN: no one is connected", Err(Errno::ENOTCONN)),
        ],
        Predicts { source: Some(Err(Errno::ECONNRESET)), kit: Ok(5) },
    )?;
    let conn_sock = accepted(&server_sock)?;
    let conn_fd = conn_sock.as_raw_fd();
    stage.server(format_args!("accept({}) = {conn_fd}", server_sock.as_raw_fd()));
    match Pair::of(&conn_sock) {
        Ok(pair) => drop(stage.kernel([("server", pair)])?),
        Err(error) => stage.say("kernel", format_args!("server {error}")), // a reset came
    }
    let mut buffer = [0; 1024];
    let observed = loop {
        match recv(conn_fd, &mut buffer, MsgFlags::empty()) {
            Err(Errno::EINTR) => {}
            received => break received,
        }
    };
    stage.server(format_args!("recv({conn_fd}, 1024) = {}", returned(&observed)));
    stage.verdict(question, observed, "the receiver's kernel keeps the bytes; for them the sender need not live on")
}
