//! What does not travel: a large number, and who calls.

use anyhow::{Context, Result, ensure};
use board::FIRST_ID;
use dxr::Value;
use nix::sys::signal::{Signal, kill};
use shared::{Predicts, Stage, Verdict};

use super::{proxy, server_role};
use crate::{
    proxy::Failure,
    service::{integer, shown, text},
};

pub fn large_id(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Gets {
        Id,
        CutId,
        FaultAndPublished,
        FaultAndNothing,
    }
    let first_id = FIRST_ID.to_string();
    let (mut server, server_addr) = server_role(&["--first-id", &first_id])?;
    stage.server(format_args!("the next message gets the id {first_id}, the notes' example of an id"));
    let question = stage.ask(
        "XML-RPC's <int> has 32 bits, and the id needs 33. What does publish return, and what is on the board?",
        [
            ("the id; the message is published", Gets::Id),
            ("the id's low 32 bits; the message is published", Gets::CutId),
            ("a fault; the message is published", Gets::FaultAndPublished),
            ("a fault; nothing is published", Gets::FaultAndNothing),
        ],
        Predicts { source: None, kit: Gets::FaultAndPublished },
    )?;
    let result = proxy(server_addr).call("publish", vec![Value::String("Hello world!".into())]);
    stage.client(match &result {
        Ok(id) => format!("publish returns {}", shown(std::slice::from_ref(id))),
        Err(failure) => format!("publish: {failure}"),
    });
    kill(server.pid(), Signal::SIGINT)?; // Ctrl-C: it says how many messages there were
    let told = server.line_with("The board had ")?;
    stage.say("Ctrl-C", told.trim_end());
    let published = told.contains("had 1 messages");
    let observed = match (result, published) {
        (Ok(id), true) if integer(std::slice::from_ref(&id), 0).is_ok_and(|id| id.to_string() == first_id) => Gets::Id,
        (Ok(_), true) => Gets::CutId,
        (Err(Failure::Fault(_)), true) => Gets::FaultAndPublished,
        (Err(Failure::Fault(_)), false) => Gets::FaultAndNothing,
        (result, _) => anyhow::bail!("publish ended with {result:?}"),
    };
    for (ids, type_name) in [("i8", "<i8>, an extension"), ("string", "<string>")] {
        let (_server, server_addr) = server_role(&["--first-id", &first_id, "--ids", ids])?;
        let client = proxy(server_addr);
        let id = client.call("publish", vec![Value::String("Hello world!".into())])?;
        client.call("get", vec![id.clone()])?;
        stage.say("mended", format_args!("with {type_name}: publish returns {}, and get finds it", shown(&[id])));
    }
    stage.verdict(
        question,
        observed,
        "the call was done, then its result could not travel: a fault does not mean undone",
    )
}

pub fn who_asked(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Author {
        Client,
        Server,
        Unknown,
    }
    let (mut server, server_addr) = server_role(&[])?;
    let client = proxy(server_addr);
    let id = client.call("publish", vec![Value::String("Hello world!".into())])?;
    let line = server.line_with(" calls publish(")?;
    stage.server(line.trim_end());
    let question = stage.ask(
        "The client calls get for this message: time, address, port, text. Which address and port are kept with it?",
        [
            ("the client's, as accept returned them", Author::Client),
            ("127.0.0.1 and the server's own port", Author::Server),
            ("a space and -1, the values for nobody", Author::Unknown),
        ],
        Predicts { source: None, kit: Author::Unknown },
    )?;
    let author = |id: Value| -> Result<(String, i64)> {
        let Value::Array(message) = client.call("get", vec![id])? else { anyhow::bail!("no message") };
        let author = text(&message, 1).ok().map(String::from).zip(integer(&message, 2).ok());
        author.context("a message without an author")
    };
    let (ip, port) = author(id)?;
    stage.client(format_args!("get: address \"{ip}\", port {port}"));
    let from = line.split(' ').next().unwrap_or_default().to_string();
    let observed = match format!("{ip}:{port}") {
        kept if kept == from => Author::Client,
        kept if kept == server_addr.to_string() => Author::Server,
        kept if kept == " :-1" => Author::Unknown,
        kept => anyhow::bail!("the author is {kept}"),
    };
    let source = Value::Array(vec![Value::String("10.9.8.7".into()), Value::Integer(80)]);
    let id = client.call("publish", vec![Value::String("believe me".into()), source])?;
    let (ip, port) = author(id)?;
    stage.client(format_args!("publish(\"believe me\", [\"10.9.8.7\", 80]), then get: \"{ip}\", port {port}"));
    ensure!((ip.as_str(), port) == ("10.9.8.7", 80), "the author is {ip}:{port}");
    stage.verdict(question, observed, "a method gets its parameters and no socket; and what a caller tells is believed")
}
