//! A session whose client moves, whose server forgets, whose client dies.

use std::{
    net::SocketAddr,
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use board::Request;
use kernel::NotSeen;
use shared::{Predicts, Stage, Verdict};
use socket2::Socket;

use super::{
    block, board_of, client_socket, finished, hear, opened, receive, relay_role, say, send_whole, server_role,
    server_role_at,
};
use crate::session::{
    BLOCK_LEN,
    wire::{Datagram, Refusal},
};

/// Two blocks of a request.
const TEXT: [u8; BLOCK_LEN + 500] = [b'a'; BLOCK_LEN + 500];
/// An address on which no other program looks for a port.
const OWN_ADDR: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 16, 1)), 0);
/// So many clients die.
const DEAD: usize = 1000;
/// So many of them ask at the same time.
const AT_ONCE: usize = 50;
/// The server forgets after this time. A machine on which all of them take longer to come gets more.
const IDLE: Duration = Duration::from_secs(2);
/// How long the server's line may take.
const FORGOTTEN: Duration = Duration::from_secs(20);

/// What the next block of a session got.
#[derive(Debug, PartialEq)]
enum Next {
    Confirmed,
    Address,
    Unknown,
    Silence,
    Refused,
}

fn next(datagram: &[u8]) -> Next {
    match Datagram::parse(datagram) {
        Some(Datagram::Confirm { .. }) => Next::Confirmed,
        Some(Datagram::Refused { why: Refusal::Address, .. }) => Next::Address,
        Some(Datagram::Refused { why: Refusal::Unknown, .. }) => Next::Unknown,
        _ => Next::Silence,
    }
}

pub fn new_address(stage: &mut Stage) -> Result<Verdict> {
    let (_server, server_addr) = server_role(&[])?;
    let (mut relay, relay_addr) = relay_role(server_addr, &["--rebind", "2"])?;
    let client_sock = client_socket(relay_addr)?;
    let request = Request::Publish { text: &TEXT }.encode();
    let session = opened(stage, "client", &client_sock)?;
    say(stage, "client", &client_sock, block(session, &request, 1))?;
    hear(stage, "client", &client_sock)?;

    let question = stage.ask(
        "Now the router between them gives the client another port. What does block 2 of the same session get?",
        [
            ("a confirmation: the session id is the same", Next::Confirmed),
            ("a refusal: this address has no such session", Next::Address),
            ("no answer: the server's datagrams go astray", Next::Silence),
        ],
        Predicts { source: None, kit: Next::Address },
    )?;
    say(stage, "client", &client_sock, block(session, &request, 2))?;
    stage.say("relay", relay.line_with("To the server ")?);
    let observed = next(&hear(stage, "client", &client_sock)?);
    let messages = board_of(server_addr)?;
    stage.say("board", format_args!("{} messages", messages.len()));
    ensure!(observed != Next::Address || messages.is_empty(), "half a message was published");
    stage.verdict(question, observed, "the client must start again; QUIC has connection ids, so that it need not")
}

pub fn restart(stage: &mut Stage) -> Result<Verdict> {
    let (server, server_addr) = server_role_at(OWN_ADDR, &[])?;
    let client_sock = client_socket(server_addr)?;
    let request = Request::Publish { text: &TEXT }.encode();
    let session = opened(stage, "client", &client_sock)?;
    say(stage, "client", &client_sock, block(session, &request, 1))?;
    hear(stage, "client", &client_sock)?;
    let pid = server.pid();
    drop(server); // kill -9, and waited for
    let (_server, _) = server_role_at(server_addr, &[])?;
    stage.server(format_args!("kill -9 {pid}; a new one has the port: {server_addr}"));

    let question = stage.ask(
        "Block 1 was confirmed before. What does block 2 get from the new server?",
        [
            ("an error of the kernel: ECONNREFUSED", Next::Refused),
            ("a confirmation: the address is the same", Next::Confirmed),
            ("no answer at all: it is thrown away", Next::Silence),
            ("a refusal: the session is unknown", Next::Unknown),
        ],
        Predicts { source: None, kit: Next::Unknown },
    )?;
    say(stage, "client", &client_sock, block(session, &request, 2))?;
    let observed = next(&hear(stage, "client", &client_sock)?);
    // The client starts again, and nothing of the first attempt is left.
    if observed == Next::Unknown {
        let session = opened(stage, "client", &client_sock)?;
        for number in 1..=2 {
            say(stage, "client", &client_sock, block(session, &request, number))?;
            hear(stage, "client", &client_sock)?;
        }
        finished(stage, "client", &client_sock, session)?;
        let messages = board_of(server_addr)?;
        stage.say("board", format_args!("{} message of {} bytes", messages.len(), TEXT.len()));
        ensure!(
            matches!(messages.as_slice(), [message] if message.text == TEXT),
            "the second attempt was not published"
        );
    }
    stage.verdict(question, observed, "state dies with its process; a clear no is better than silence")
}

pub fn dead_clients(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Frees {
        Close,
        Time,
        Nothing,
    }
    let question = stage.ask(
        "A thousand clients open a session each, send one block, and die. What makes the server free their buffers?",
        [
            ("the FIN that the kernel sends for a dead process", Frees::Close),
            ("time: nothing was heard of them for so long", Frees::Time),
            ("nothing: they stay until the server is restarted", Frees::Nothing),
        ],
        Predicts { source: None, kit: Frees::Time },
    )?;
    let mut idle = IDLE;
    let (mut server, server_addr, client_sock, refused, last_block) = loop {
        let limits = ["--max-sessions", &DEAD.to_string(), "--idle", &idle.as_millis().to_string()];
        let (server, server_addr) = server_role(&limits)?;
        let client_sock = client_socket(server_addr)?;
        let start = Instant::now();
        open_sessions(&client_sock)?;
        let last_block = Instant::now();
        stage.say("clients", format_args!("{DEAD} sessions, one block each, and no second one"));
        say(stage, "client", &client_sock, Datagram::Open { token: 9973, window: 1 })?;
        let answer = hear(stage, "client", &client_sock)?;
        if start.elapsed() < idle {
            break (server, server_addr, client_sock, answer, last_block);
        }
        ensure!(idle < FORGOTTEN, "{DEAD} sessions took {:.1} s", start.elapsed().as_secs_f64());
        idle *= 2;
        stage.say("again", format_args!("some were forgotten before the last one came: now with --idle {idle:?}"));
    };
    ensure!(
        Datagram::parse(&refused) == Some(Datagram::Refused { id: 9973, why: Refusal::Full }),
        "one session too many was not refused"
    );
    let full = server.line_with(" has no room for it")?;
    stage.server(full);

    let client_fd = client_sock.as_raw_fd();
    drop(client_sock);
    stage.say("clients", format_args!("close({client_fd}) = 0"));
    stage.say("wait", format_args!("for the server, at most {} s", FORGOTTEN.as_secs()));
    let observed = match server.wait_for_within("left 0 sessions, 0 bytes\n", FORGOTTEN) {
        // What close(2) sends would have come at once, long before the time since the last block is over.
        Ok(_) if last_block.elapsed() < idle / 2 => Frees::Close,
        Ok(_) => Frees::Time,
        Err(error) if error.is::<NotSeen>() => Frees::Nothing,
        Err(error) => return Err(error),
    };
    if observed == Frees::Time {
        stage.server("left 0 sessions, 0 bytes");
        opened(stage, "client", &client_socket(server_addr)?)?;
    }
    stage.verdict(question, observed, "UDP tells nothing of an end: only a limit on time and one on count help")
}

/// As many sessions as the server takes, each with a first block that was confirmed.
fn open_sessions(client_sock: &Socket) -> Result<()> {
    let block = [b'a'; BLOCK_LEN];
    for first in (1..=DEAD as u32).step_by(AT_ONCE) {
        let mut sessions = Vec::new();
        for token in first..first + AT_ONCE as u32 {
            send_whole(client_sock, &Datagram::Open { token, window: 1 }.bytes())?;
        }
        for _ in 0..AT_ONCE {
            let Some(Datagram::Session { session, .. }) = Datagram::parse(&receive(client_sock)?) else {
                anyhow::bail!("the server gave no session");
            };
            sessions.push(session);
        }
        for session in &sessions {
            let datagram = Datagram::Block { session: *session, number: 1, last: false, bytes: &block };
            send_whole(client_sock, &datagram.bytes())?;
        }
        for _ in &sessions {
            let confirmed = receive(client_sock)?;
            ensure!(next(&confirmed) == Next::Confirmed, "a block was not confirmed");
        }
    }
    Ok(())
}
