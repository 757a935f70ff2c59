//! Who is told, how often, and what a client that does not read costs the others.

use std::{fs, net::SocketAddr, os::fd::AsRawFd};

use anyhow::{Context, Result, ensure};
use kernel::{Pair, setting, tcp_socket, wait_until};
use nix::sys::{
    signal::{Signal, kill},
    socket::{MsgFlags, send},
};
use shared::{At, Predicts, Role, Stage, Verdict, returned};

use super::{LIMIT, Peer, server_role};
use crate::{frames::frame, wire::Live};

/// Clients of the experiment told-once.
const CLIENTS: usize = 100;
/// So many of them come back.
const BACK: usize = 10;
/// Long enough that a few hundred messages fill every buffer on the way to a client that does not read.
const LONG_TEXT: usize = 60_000;

pub fn told_once(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Copies {
        Once,
        SomeTwice,
        SomeNever,
    }
    let (_server, server_addr) = server_role(&[])?;
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        clients.push(Peer::enter(server_addr, &format!("client{number}"))?);
    }
    stage.server(format_args!("{CLIENTS} clients are here: a connection and a name each"));
    stage.look(format_args!("ss -tan 'sport = :{}'", server_addr.port()));
    let question = stage.ask(
        "One of the hundred publishes a message, the others show it. Ten of them lose their connections and come back under their names. How often has each of the 99 the message now?",
        [
            ("once", Copies::Once),
            ("once, the ten twice", Copies::SomeTwice),
            ("once, the ten never", Copies::SomeNever),
        ],
        Predicts { source: Some(Copies::Once), kit: Copies::Once },
    )?;
    let request = frame(b"1:Hello world!");
    let fd = clients[0].sock.as_raw_fd();
    let sent = send(fd, &request, MsgFlags::MSG_NOSIGNAL);
    stage.client(format_args!("send({fd}, \"14:1:Hello world!\\n\", {}) = {}", request.len(), returned(&sent)));
    sent.at("send", server_addr)?;
    let answer = clients[0].answer()?;
    ensure!(answer == b"0:", "the answer was {}", answer.escape_ascii());

    let mut copies = vec![0; CLIENTS];
    for (client, copies) in clients.iter_mut().zip(&mut copies).skip(1) {
        let id = client.told()?;
        *copies += 1;
        client.say(&Live::Have { id }.encode())?;
        *copies += client.told_so_far()?; // the server has read the confirmation now
    }
    stage.client("the 99 others: told, and each has confirmed: 7:ID");
    for (number, client) in clients.iter_mut().enumerate().skip(1).take(BACK) {
        *client = Peer::enter(server_addr, &format!("client{number}"))?; // close(2) for the old one
    }
    let missed: u64 = clients[1..=BACK].iter().map(|client| client.missed).sum();
    stage.client(format_args!("ten are back on new connections; new to them: {missed} messages"));
    for (client, copies) in clients.iter_mut().zip(&mut copies) {
        *copies += client.told_so_far()?;
    }
    let with = |wanted: usize| copies[1..].iter().filter(|copies| **copies == wanted).count();
    stage.client(format_args!("of the 99, {} have it once, {} twice, {} never", with(1), with(2), with(0)));
    stage.client(format_args!("who published it was told of it {} times: the answer \"0:\" is enough", copies[0]));
    ensure!(copies[0] == 0, "the client that published was told of its own message");
    let observed = match (with(1), with(2), with(0)) {
        (99, ..) => Copies::Once,
        (_, 0, 1..) => Copies::SomeNever,
        _ => Copies::SomeTwice,
    };
    stage.verdict(question, observed, "a mark for each name, moved by the client's own confirmation")
}

pub fn missed(stage: &mut Stage) -> Result<Verdict> {
    let (mut server, server_addr) = server_role(&[])?;
    let mut bob = Peer::enter(server_addr, "bob")?;
    let mut ann = Role::start(&["client", &server_addr.to_string(), "--name", "ann"])?;
    let here = server.line_with("] is here; messages to tell: 0")?;
    ensure!(here.contains("bob"), "who is here? {here}");
    let here = server.line_with("] is here; messages to tell: 0")?;
    let ann_addr: SocketAddr =
        here.split(['[', ']']).nth(1).and_then(|addr| addr.parse().ok()).context("no address of ann")?;
    ann.wait_for("Connected to ")?;
    bob.publish(b"one")?;
    let shown = ann.line_with("  one")?;
    stage.say("ann", format_args!("shows \"{}\"", text_of(&shown).context("no text")?));
    stage.server(server.line_with("] has all up to ")?); // only now: ann's confirmation has arrived
    stopped(&ann)?;
    stage.say("stop", format_args!("kill -STOP {}: ann's program stands still now", ann.pid()));
    bob.publish(b"two")?;
    stage.say("bob", "publishes \"two\"");
    let end = Pair { local: ann_addr, peer: server_addr };
    let queued = wait_until("\"two\" in ann's kernel", LIMIT, || {
        let confirmed = tcp_socket(end.other_end())?.is_some_and(|row| row.send_queue == 0);
        let waiting = tcp_socket(end)?.map_or(0, |row| row.recv_queue);
        Ok((confirmed && waiting > 0).then_some(waiting))
    })?;
    stage.say("kernel", format_args!("ann's end Recv-Q {queued}   server's end Send-Q 0: acknowledged"));

    let question = stage.ask(
        "Ann is killed with kill -9. Bob publishes \"three\". Ann comes back under her name. What is she told?",
        [
            ("three", vec!["three".to_string()]),
            ("two, three", vec!["two".into(), "three".into()]),
            ("one, two, three", vec!["one".into(), "two".into(), "three".into()]),
        ],
        Predicts { source: None, kit: vec!["two".into(), "three".into()] },
    )?;
    stage.say("kill", format_args!("kill -9 {}", ann.pid()));
    drop(ann); // kill -9, and it is waited for
    stage.server(server.line_with("] is gone: ")?);
    bob.publish(b"three")?;
    stage.say("bob", "publishes \"three\"");
    let mut ann = Role::start(&["client", &server_addr.to_string(), "--name", "ann"])?;
    let greeting = ann.line_with("; new messages: ")?;
    stage.say("ann", greeting.trim_start_matches("> "));
    bob.publish(b"last")?; // behind it nothing is to come
    let before = ann.wait_for("  last\n")?;
    let told: Vec<String> = before.lines().filter_map(text_of).collect();
    stage.say("ann", format_args!("is told {}, and then what was published after she came", told.join(", ")));
    stage.verdict(question, told, "TCP acknowledges for the kernel; only the program can say what it has shown")
}

/// The text of a message that a client shows: the last of four columns.
fn text_of(line: &str) -> Option<String> {
    line.splitn(4, "  ").nth(3).map(|text| text.trim_end().into())
}

/// Stops the program: what happens until its end, the kernel does alone.
fn stopped(role: &Role) -> Result<()> {
    kill(role.pid(), Signal::SIGSTOP).at("kill", role.pid())?;
    let stat = format!("/proc/{}/stat", role.pid());
    // proc_pid_stat(5): T is stopped; t, the same while strace looks on.
    let stopped = |text: String| text.contains(") T ") || text.contains(") t ");
    wait_until("the program stopped", LIMIT, || Ok(stopped(fs::read_to_string(&stat)?).then_some(())))
}

pub fn no_reader(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Fate {
        CarolWaits,
        DaveDropped,
        DaveKept,
    }
    let (mut server, server_addr) = server_role(&["--patience", "1"])?;
    let mut bob = Peer::enter(server_addr, "bob")?;
    let mut carol = Peer::enter(server_addr, "carol")?;
    let dave = Peer::enter(server_addr, "dave")?;
    // Twice what the server's send buffer may hold at most, and what the receive buffer begins with.
    let most = |name, at: usize| setting(name).get(at).map_or(1 << 22, |bytes| *bytes as usize);
    let buffers = most("net/ipv4/tcp_wmem", 2) + most("net/ipv4/tcp_rmem", 1);
    let messages = 2 * buffers / LONG_TEXT + 4;
    stage.server("has --patience 1: who reads nothing for a second is dropped");
    stage.say("dave", "is connected, and never calls recv");
    let question = stage.ask(
        "Bob publishes more than all buffers on the way to Dave hold. Carol reads. What do the two get?",
        [
            ("Carol waits from then on: the server hangs in send to Dave", Fate::CarolWaits),
            ("Carol all; Dave is dropped, and told the rest when he is back", Fate::DaveDropped),
            ("Carol all; Dave stays, and what is too much is thrown away", Fate::DaveKept),
        ],
        Predicts { source: None, kit: Fate::DaveDropped },
    )?;
    let text = vec![b'x'; LONG_TEXT];
    let (mut told, mut hangs) = (0, false);
    for _ in 0..messages {
        let read = bob.publish(&text).and_then(|()| carol.told());
        match read {
            Ok(id) => carol.say(&Live::Have { id }.encode())?,
            Err(_) => {
                hangs = true;
                break;
            }
        }
        told += 1;
    }
    stage.say("bob", format_args!("{messages} messages of {LONG_TEXT} bytes, each confirmed"));
    stage.say("carol", format_args!("was told {told} messages, each before the next was published"));
    if hangs {
        return stage.verdict(question, Fate::CarolWaits, "");
    }
    match server.line_with("] is gone: has read nothing for ") {
        Ok(dropped) if dropped.starts_with("dave ") => stage.server(dropped),
        Ok(dropped) => anyhow::bail!("somebody else was dropped: {dropped}"),
        Err(_) => return stage.verdict(question, Fate::DaveKept, ""),
    }
    drop(dave);
    let dave = Peer::enter(server_addr, "dave")?;
    stage.say("dave", format_args!("is back; new to him: {} messages", dave.missed));
    ensure!(dave.missed == messages as u64, "Dave has confirmed nothing, and {} messages are new to him", dave.missed);
    stage.verdict(question, Fate::DaveDropped, "no call may block; the board is the queue, and a drop loses nothing")
}
