//! Where a call runs, and over which connections it travels.

use std::{process, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use kernel::{NotSeen, wait_until};
use nix::sys::signal::{Signal, kill};
use remoc::{codec, rtc::ServerShared};
use shared::{At, Predicts, Stage, Verdict};

use super::{Calls, LIMIT, client_role, connections, peers_of, server_role, stands_still, workshop_role};
use crate::{
    objects::{Chat, ChatClient, Message, Window},
    workshop::{Here, PlaceServerShared, Workshop, WorkshopClient},
};

/// How long a call must wait to count as waiting.
const SILENCE: Duration = Duration::from_millis(300);

pub fn whose_process(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Runs {
        Client,
        Server,
        Elsewhere,
    }
    let calls = Calls::new()?;
    let (server, server_addr) = workshop_role()?;
    let workshop: WorkshopClient = calls.connect(stage, "client", server_addr)?;
    let (client_pid, server_pid) = (process::id(), server.pid().as_raw().cast_unsigned());
    stage.say("processes", format_args!("client {client_pid}, server {server_pid}"));

    let in_runtime = calls.0.enter(); // remoc starts tasks of its own
    let object = Here;
    let copy = object.clone();
    let (serving, reference) = PlaceServerShared::<_, codec::Default>::new(Arc::new(object), 1);
    calls.0.spawn(serving.serve(true));
    drop(in_runtime);

    let question = stage.ask(
        "The client passes an object by reference, and a copy of it by value. The server calls process() on each. Where does the method run?",
        [
            ("by reference: client; by value: server", (Runs::Client, Runs::Server)),
            ("by reference: server; by value: client", (Runs::Server, Runs::Client)),
            ("by reference: server; by value: server", (Runs::Server, Runs::Server)),
            ("by reference: client; by value: client", (Runs::Client, Runs::Client)),
        ],
        Predicts { source: None, kit: (Runs::Client, Runs::Server) },
    )?;
    stage.client("calls ask_both(reference, copy)");
    let asking = workshop.clone(); // the connection lasts while a reference is left
    let (by_reference, by_value) =
        calls.wait("the answer of ask_both", async move { asking.ask_both(reference, copy).await })??;
    stage.server(format_args!("by reference: process() ran in process {by_reference}"));
    stage.server(format_args!("by value: process() ran in process {by_value}"));
    stage.say("kernel", format_args!("{} connection to the server", connections(server_addr)?));
    drop(workshop);
    let place = |pid| match pid {
        pid if pid == client_pid => Runs::Client,
        pid if pid == server_pid => Runs::Server,
        _ => Runs::Elsewhere,
    };
    stage.verdict(
        question,
        (place(by_reference), place(by_value)),
        "a reference is called back to where the object lives; a value arrives as a copy",
    )
}

pub fn many_at_once(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    struct Seen {
        connections: usize,
        at_once: bool,
    }
    const CALLS: usize = 100;
    let calls = Calls::new()?;
    let (_server, server_addr) = workshop_role()?;
    let workshop: WorkshopClient = calls.connect(stage, "client", server_addr)?;
    stage.client(format_args!("has one reference to an object; meet({CALLS}) waits in it for {CALLS} calls"));

    let question = stage.ask(
        "The client makes 100 calls of meet(100) at once. How do they get to the server?",
        [
            ("over 100 connections, all calls at once", Seen { connections: CALLS, at_once: true }),
            ("over 1 connection, one call after another", Seen { connections: 1, at_once: false }),
            ("over 1 connection, all calls at once", Seen { connections: 1, at_once: true }),
        ],
        Predicts { source: None, kit: Seen { connections: 1, at_once: true } },
    )?;
    let make_call = || {
        let workshop = workshop.clone();
        calls.0.spawn(async move { workshop.meet(CALLS).await })
    };
    let mut waiting: Vec<_> = (1..CALLS).map(|_| make_call()).collect();
    let inside = || {
        let workshop = workshop.clone();
        let inside = calls.wait("the number of calls inside", async move { workshop.inside().await })??;
        Ok((inside == CALLS - 1 || waiting.iter().any(|call| call.is_finished())).then_some(inside))
    };
    let inside = wait_until("99 calls inside, or a call that gave up", LIMIT, inside)?;
    stage.server(format_args!("{inside} calls are inside the object, none has returned"));
    let connections = connections(server_addr)?;
    stage.say("kernel", format_args!("{connections} connection to the server"));
    waiting.push(make_call());
    stage.client("makes the 100th call");
    let mut met = Vec::new();
    for call in waiting {
        met.push(calls.wait("the return of meet", call)???);
    }
    let most = met.iter().max().copied().unwrap_or(0);
    stage.client(format_args!("{} calls have returned; at most {most} were inside at once", met.len()));
    // One after another, each would be alone inside. A slow machine may bring the last ones after the first have given up.
    stage.verdict(
        question,
        Seen { connections, at_once: most > 1 },
        "each call has a number on the one connection: answers come in any order",
    )
}

pub fn third_process(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Way {
        Direct,
        ThroughServer,
        Copy,
    }
    let calls = Calls::new()?;
    let (server, server_addr) = server_role(&[])?;
    let ann = client_role("ann", server_addr)?;
    stage.say("ann", format_args!("is in: a client with a window, in process {}", ann.pid()));
    let chat: ChatClient = calls.connect(stage, "carol", server_addr)?;
    let window = calls.wait("the reference to ann's window", async move { chat.window_of("ann".into()).await })??;
    stage.say("carol", "window_of(\"ann\") returns the reference to ann's window");

    let question = stage.ask(
        "Carol, a third process, calls show() on ann's window. Which way does the call go?",
        [
            ("from carol to ann, over a connection of its own", Way::Direct),
            ("from carol to the server, and from there to ann", Way::ThroughServer),
            ("nowhere: carol has a copy, and it runs here", Way::Copy),
        ],
        Predicts { source: None, kit: Way::ThroughServer },
    )?;
    let show = |text: &str| {
        let (window, message) = (window.clone(), Message { from: "carol".into(), private: false, text: text.into() });
        async move { window.show(message).await }
    };
    let shown_in = calls.wait("the answer of show", show("one"))??;
    stage.say("carol", format_args!("show(\"one\") ran in process {shown_in}"));
    let peers = peers_of(ann.pid())?;
    let peers_text = peers.iter().map(|peer| if *peer == server_addr { "the server" } else { "somebody else" });
    stage.say(
        "kernel",
        format_args!("ann's connections: {}, to {}", peers.len(), peers_text.collect::<Vec<_>>().join(", ")),
    );

    kill(server.pid(), Signal::SIGSTOP).at("kill", server.pid())?;
    let stopped = || Ok(stands_still(server.pid())?.then_some(())); // a thread may run on until it is interrupted
    wait_until("all threads of the server stopped", LIMIT, stopped)?;
    stage.say("stop", format_args!("kill -STOP {}: the server's program stands still", server.pid()));
    let second = calls.0.spawn(show("two"));
    let while_stopped = wait_until("the answer of show", SILENCE, || Ok(second.is_finished().then_some(())));
    match &while_stopped {
        Ok(()) => stage.say("carol", "show(\"two\") has returned"),
        Err(error) if error.is::<NotSeen>() => {
            stage.say("carol", format_args!("show(\"two\") has not returned in {SILENCE:?}"));
        }
        Err(_) => {}
    }
    kill(server.pid(), Signal::SIGCONT).at("kill", server.pid())?;
    stage.say("go on", format_args!("kill -CONT {}", server.pid()));
    let second_in = calls.wait("the answer of show", second)???;
    stage.say("carol", format_args!("show(\"two\") ran in process {second_in}"));
    let way = match while_stopped {
        _ if shown_in == process::id() => Way::Copy,
        Ok(()) => Way::Direct,
        Err(error) if error.is::<NotSeen>() => Way::ThroughServer,
        Err(error) => return Err(error).context("waiting for show"),
    };
    stage.verdict(question, way, "here a reference that is handed on leads back through whoever handed it on")
}
