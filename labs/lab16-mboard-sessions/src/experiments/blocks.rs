//! Blocks of several senders, and a block that comes twice.

use std::{os::fd::AsRawFd, time::Duration};

use anyhow::{Result, ensure};
use board::Request;
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv},
};
use shared::{At, Predicts, Stage, Verdict, returned};

use super::{
    BUFFER_SIZE, LIMIT, block, board_of, client_socket, finished, hear, opened, relay_role, runs, say, server_role,
};
use crate::session::{
    BLOCK_LEN,
    wire::{Datagram, Refusal},
};

/// Three blocks, the code of the request counted.
const LONG: usize = 2 * BLOCK_LEN + 500;
/// Two blocks.
const SHORT: usize = BLOCK_LEN + 500;
/// How long the client waits for a confirmation that was lost.
const NO_CONFIRMATION: Duration = Duration::from_millis(300);

pub fn interleaved(stage: &mut Stage) -> Result<Verdict> {
    let (_server, server_addr) = server_role(&[])?;
    let (ann_sock, bob_sock) = (client_socket(server_addr)?, client_socket(server_addr)?);
    let (ann_text, bob_text) = (vec![b'a'; LONG], vec![b'b'; LONG]);
    let [ann_request, bob_request] = [&ann_text, &bob_text].map(|text| Request::Publish { text }.encode());
    let ann_session = opened(stage, "ann", &ann_sock)?;
    let bob_session = opened(stage, "bob", &bob_sock)?;

    let own = [&ann_text, &bob_text].map(|text| runs(text)).to_vec();
    let question = stage.ask(
        "Ann and Bob send three blocks each, in turns. What does the board hold afterwards?",
        [
            ("two messages, each with its own blocks", own.clone()),
            ("one message: the blocks as they came", vec![mixed(&ann_text, &bob_text)]),
            ("one message: who finishes first wins", vec![runs(&ann_text)]),
            ("no message: each block ends the other's", vec![]),
        ],
        Predicts { source: Some(own.clone()), kit: own },
    )?;
    for number in 1..=3 {
        say(stage, "ann", &ann_sock, block(ann_session, &ann_request, number))?;
        say(stage, "bob", &bob_sock, block(bob_session, &bob_request, number))?;
        hear(stage, "ann", &ann_sock)?;
        hear(stage, "bob", &bob_sock)?;
    }
    finished(stage, "ann", &ann_sock, ann_session)?;
    finished(stage, "bob", &bob_sock, bob_session)?;
    let messages = board_of(server_addr)?;
    for message in &messages {
        stage.say("board", format_args!("from {}: {}", message.author, runs(&message.text)));
    }
    let observed: Vec<String> = messages.iter().map(|message| runs(&message.text)).collect();
    stage.verdict(question, observed, "the session id in each block names its buffer; lab04 had one for all")
}

/// Two texts as one buffer would hold them.
fn mixed(one: &[u8], other: &[u8]) -> String {
    let blocks = one.chunks(BLOCK_LEN).zip(other.chunks(BLOCK_LEN));
    runs(&blocks.flat_map(|(one, other)| [one, other].concat()).collect::<Vec<u8>>())
}

pub fn lost_confirmation(stage: &mut Stage) -> Result<Verdict> {
    let (mut server, server_addr) = server_role(&[])?;
    let (mut relay, relay_addr) = relay_role(server_addr, &["--lose-back", "2"])?;
    let client_sock = client_socket(relay_addr)?;
    let client_fd = client_sock.as_raw_fd();
    let text = [vec![b'a'; BLOCK_LEN - 2], vec![b'z'; 500]].concat();
    let request = Request::Publish { text: &text }.encode();
    let session = opened(stage, "client", &client_sock)?;
    say(stage, "client", &client_sock, block(session, &request, 1))?;
    relay.wait_for("Datagram 2 to the client: lost\n")?;
    stage.say("relay", "Datagram 2 to the client: lost");
    client_sock.set_read_timeout(Some(NO_CONFIRMATION)).at("setsockopt", "")?;
    let nothing = loop {
        match recv(client_fd, &mut [0; BUFFER_SIZE], MsgFlags::empty()) {
            Err(Errno::EINTR) => {} // with SO_RCVTIMEO after Ctrl-Z and fg: signal(7)
            result => break result,
        }
    };
    stage.client(format_args!("recv({client_fd}, {BUFFER_SIZE}) = {}", returned(&nothing)));
    ensure!(nothing.is_err(), "the relay did not lose the confirmation");
    client_sock.set_read_timeout(Some(LIMIT)).at("setsockopt", "")?;

    let question = stage.ask(
        "The client sends block 1 again, then the last block. How often is block 1 in the published message?",
        [
            ("once: its number shows that it came before", Some(1)),
            ("twice: the server appends what it receives", Some(2)),
            ("not at all: the session was given up", None),
        ],
        Predicts { source: None, kit: Some(1) },
    )?;
    say(stage, "client", &client_sock, block(session, &request, 1))?;
    hear(stage, "client", &client_sock)?;
    say(stage, "client", &client_sock, block(session, &request, 2))?;
    hear(stage, "client", &client_sock)?;
    finished(stage, "client", &client_sock, session)?;
    let told = server.line_with("blocks that came again")?;
    stage.server(told);
    let messages = board_of(server_addr)?;
    for message in &messages {
        stage.say("board", runs(&message.text));
    }
    let observed = match messages.as_slice() {
        [message] => {
            let letters = message.text.iter().filter(|letter| **letter == b'a').count();
            ensure!(letters % (BLOCK_LEN - 2) == 0, "{letters} letters are no whole blocks");
            Some(letters / (BLOCK_LEN - 2))
        }
        _ => None,
    };
    stage.verdict(question, observed, "a number makes a repeated block harmless; it is confirmed again, not kept")
}

pub fn third_party(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Evil {
        Refused,
        Believed,
        EndsTheSession,
    }
    let (_server, server_addr) = server_role(&[])?;
    let (ann_sock, eve_sock) = (client_socket(server_addr)?, client_socket(server_addr)?);
    let text = vec![b'a'; SHORT];
    let request = Request::Publish { text: &text }.encode();
    let forged = Request::Publish { text: &vec![b'e'; SHORT] }.encode();
    let session = opened(stage, "ann", &ann_sock)?;
    say(stage, "ann", &ann_sock, block(session, &request, 1))?;
    hear(stage, "ann", &ann_sock)?;

    let question = stage.ask(
        "Eve has read Ann's session id on the wire, and sends the last block from her own socket. What happens?",
        [
            ("it is refused, and Ann's session goes on", Evil::Refused),
            ("it is taken: the session id is right", Evil::Believed),
            ("it is refused, and Ann's session ends", Evil::EndsTheSession),
        ],
        Predicts { source: Some(Evil::Refused), kit: Evil::Refused },
    )?;
    say(stage, "eve", &eve_sock, block(session, &forged, 2))?;
    let answer = hear(stage, "eve", &eve_sock)?;
    let refused = match Datagram::parse(&answer) {
        Some(Datagram::Refused { why: Refusal::Address, .. }) => true,
        Some(Datagram::Confirm { .. }) => false,
        _ => anyhow::bail!("the server neither took nor refused it"),
    };
    say(stage, "ann", &ann_sock, block(session, &request, 2))?;
    let confirmed = hear(stage, "ann", &ann_sock)?;
    let goes_on = matches!(Datagram::parse(&confirmed), Some(Datagram::Confirm { number: 2, .. }));
    if goes_on {
        finished(stage, "ann", &ann_sock, session)?;
    }
    let messages = board_of(server_addr)?;
    for message in &messages {
        stage.say("board", runs(&message.text));
    }
    let intact = matches!(messages.as_slice(), [message] if message.text == text);
    let observed = match (refused, goes_on && intact) {
        (true, true) => Evil::Refused,
        (true, false) => Evil::EndsTheSession,
        (false, _) => Evil::Believed,
    };
    stage.verdict(question, observed, "the id and the address must fit; who can forge an address passes both")
}
