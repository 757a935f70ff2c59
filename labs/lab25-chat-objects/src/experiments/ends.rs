//! What is left of an object, and of a reference, when a process ends.

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd},
    process,
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use kernel::{NotSeen, Pair, Patience, wait_until};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, kill},
};
use remoc::{
    codec,
    rtc::{Client, ServerShared},
};
use shared::{At, Predicts, Role, Stage, Verdict, returned};
use socket2::{Domain, Socket, Type};

use super::{Calls, LIMIT, address_behind, free_group};
use crate::{
    bell::bell,
    chat::{Entrance, REQUESTS, Room},
    connection::offer,
    objects::{Chat, ChatClient, ChatServerShared, Message, User, Window},
};

pub fn killed_client(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Call {
        Runs,
        Fails,
        Waits,
    }
    let calls = Calls::new()?;
    // This process is the server: it has the reference to the object in the client.
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listen_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", any_port)?;
    let listen_fd = listen_sock.as_raw_fd();
    stage.server(format_args!("socket(AF_INET, SOCK_STREAM, 0) = {listen_fd}"));
    listen_sock.bind(&any_port.into()).at("bind", any_port)?;
    listen_sock.listen(1).at("listen", any_port)?;
    stage.server(format_args!("listen({listen_fd}, 1) = 0"));
    let server_addr = listen_sock.local_addr().at("getsockname", any_port)?.as_socket().context("not an IP socket")?;

    let mut ann = Role::start(&["client", "--name", "ann", "--uri", &server_addr.to_string()])?;
    let mut patience = Patience::new(LIMIT);
    while poll(&mut [PollFd::new(listen_sock.as_fd(), PollFlags::POLLIN)], PollTimeout::try_from(patience.step())?)
        != Ok(1)
    {
        ensure!(!patience.is_over(), "not seen within {LIMIT:?}: a connection");
    }
    let (conn_sock, _) = listen_sock.accept().at("accept", server_addr)?;
    let (conn_fd, pair) = (conn_sock.as_raw_fd(), Pair::of(&conn_sock)?);
    stage.server(format_args!("accept({listen_fd}) = {conn_fd}"));

    let (events, _ear) = bell()?;
    let room = Arc::new(Entrance(Room::new(events, false)));
    let in_runtime = calls.0.enter();
    let (serving, chat): (_, ChatClient) = ChatServerShared::<_, codec::Default>::new(room.clone(), REQUESTS);
    calls.0.spawn(serving.serve(true));
    drop(in_runtime);
    calls.wait("the client to take its first reference", offer(conn_sock, chat, None))??;
    ann.wait_for(&format!("the window lives in process {}\n", ann.pid()))?;
    let users = || {
        let room = room.clone();
        calls.wait("the users", async move { room.get_users().await })?.context("get_users")
    };
    let reference = room.clone();
    let window = calls.wait("the reference", async move { reference.window_of("ann".into()).await })??;
    let show = |text: &str| {
        let (window, message) = (window.clone(), Message { from: "bob".into(), private: false, text: text.into() });
        async move { window.show(message).await }
    };
    let shown_in = calls.wait("the answer of show", show("one"))??;
    stage.server(format_args!("process {}: show(\"one\") ran in process {shown_in}", process::id()));
    let printed = ann.line_with("From bob : one")?;
    stage.say("ann", format_args!("process {}: {}", ann.pid(), printed.trim_start_matches("Message to send: ").trim()));
    stage.server(format_args!("get_users() returns {:?}", users()?));
    stage.kernel([("server", pair), ("ann", pair.other_end())])?;

    let question = stage.ask(
        "Ann's process is killed with kill -9. The server still has the reference to ann's window. What does its next call of show() do?",
        [
            ("it works: a reference keeps the object", Call::Runs),
            ("it fails: the object went with its process", Call::Fails),
            ("it waits: nobody has told the server", Call::Waits),
        ],
        Predicts { source: Some(Call::Runs), kit: Call::Fails },
    )?;
    kill(ann.pid(), Signal::SIGKILL).at("kill", ann.pid())?;
    ann.wait_for_end()?;
    stage.say("kill", format_args!("kill -9 {}", ann.pid()));
    // The kernel has sent FIN for the dead; remoc reads it and closes all references that came over this connection.
    let told = window.clone();
    let closed = calls.wait("the end of the reference", async move { told.closed().await });
    if closed.is_ok() {
        stage.server("the reference to ann's window is closed");
    }
    let call = match calls.wait("the answer of show", show("two")) {
        Ok(Ok(pid)) => {
            stage.server(format_args!("show(\"two\") ran in process {pid}"));
            Call::Runs
        }
        Ok(Err(error)) => {
            stage.server(format_args!("show(\"two\") fails: {error:?} ({error})"));
            Call::Fails
        }
        Err(error) if error.is::<NotSeen>() => {
            stage.server(format_args!("show(\"two\") has not returned in {LIMIT:?}"));
            Call::Waits
        }
        Err(error) => return Err(error),
    };
    if call == Call::Fails {
        wait_until("ann to leave the list", LIMIT, || Ok(users()?.is_empty().then_some(())))?;
        stage.server(format_args!("get_users() returns {:?}  nobody called a method to leave", users()?));
    }
    stage.verdict(
        question,
        call,
        "the kernel closes the dead one's socket; the reference breaks, and ann leaves the list",
    )
}

pub fn restarted(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Old {
        Answers,
        Dead,
        Waits,
    }
    let calls = Calls::new()?;
    // An address of its own, so that nobody takes the port while no server has it.
    let [_, second, third, fourth] = process::id().to_be_bytes();
    let own_ip = Ipv4Addr::new(127, second | 0x80, third, fourth.max(1));
    let group = free_group()?.to_string();
    let start = |place: &str| Role::start(&["server", place, "--group", &group]);
    let mut first = start(&format!("{own_ip}:0"))?;
    let server_addr = address_behind(&mut first, "chat://")?;
    let chat: ChatClient = calls.connect(stage, "client", server_addr)?;
    let entering = chat.clone();
    let me = calls.wait("register", async move { entering.register("ann".into(), None).await })??;
    let posting = me.clone();
    calls.wait("post", async move { posting.post("hello".into()).await })??;
    stage.client("register(\"ann\") and post(\"hello\") are done");

    let first_pid = first.pid();
    drop(first); // kill -9
    stage.say("kill", format_args!("kill -9 {first_pid}: the server"));
    let nobody_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
    let refused = nobody_sock.connect(&server_addr.into());
    stage.client(format_args!("connect({}, {server_addr}) = {}", nobody_sock.as_raw_fd(), returned(&refused)));
    drop(nobody_sock);
    let mut again = start(&server_addr.to_string())?;
    again.wait_for(&format!("chat://{server_addr}\n"))?;
    stage.server(format_args!("a new server listens on {server_addr}, in process {}", again.pid()));

    let question = stage.ask(
        "The client calls get_users() on the reference that it got from the first server. What comes back?",
        [
            ("the list of the new server's users", Old::Answers),
            ("an error: the reference is dead", Old::Dead),
            ("nothing: the call waits for ever", Old::Waits),
        ],
        Predicts { source: None, kit: Old::Dead },
    )?;
    let told = chat.closed();
    if calls.wait("the end of the reference", told).is_ok() {
        stage.say("old", "the reference is closed");
    }
    let old = match calls.wait("the answer of get_users", async move { chat.get_users().await }) {
        Ok(Ok(users)) => {
            stage.say("old", format_args!("get_users() returns {users:?}"));
            Old::Answers
        }
        Ok(Err(error)) => {
            stage.say("old", format_args!("get_users() fails: {error}"));
            Old::Dead
        }
        Err(error) if error.is::<NotSeen>() => Old::Waits,
        Err(error) => return Err(error),
    };
    let new: ChatClient = calls.connect(stage, "new", server_addr)?;
    let (asking, entering) = (new.clone(), new.clone());
    let users = calls.wait("get_users", async move { asking.get_users().await })??;
    let bob = calls.wait("register", async move { entering.register("bob".into(), None).await })??;
    let messages = calls.wait("get", async move { bob.get().await })??;
    stage.say("new", format_args!("get_users() returns {users:?}, get() {messages:?}: users and messages are gone"));
    stage.verdict(question, old, "a reference dies with its connection; the URI is only a name for a place")
}
