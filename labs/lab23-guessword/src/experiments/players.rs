//! Players who come late, go in the middle of a line, or never read.

use std::net::Shutdown;

use anyhow::{Result, anyhow, bail, ensure};
use kernel::{NotSeen, setting, wait_until};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv, send},
};
use shared::{At, Predicts, Stage, Verdict};

use super::{CHUNK, LIMIT, player::Player, server_role};
use crate::{
    outbox::OUTBOX_LIMIT,
    position::Position,
    wire::{Event, numbered},
};

pub fn joins_late(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum First {
        Nothing,
        State,
        Events,
    }
    let (_server, server_addr) = server_role("server")?;
    let mut ann = Player::join(stage, "ann", server_addr)?;
    let mut screen = Position::default();
    screen.hear(&ann.hears(stage)?).map_err(anyhow::Error::msg)?;
    for line in ["letter", "e", "x", "t"] {
        ann.send(stage, line)?;
        screen.hear(&ann.hears(stage)?).map_err(anyhow::Error::msg)?;
    }

    let question = stage.ask(
        "Carl joins now. Then Ann proposes \"l\". What has the server sent to Carl before Ann's \"l\"?",
        [
            ("no line: Carl begins with what comes next", First::Nothing),
            ("one line: the state as it is at that moment", First::State),
            ("one line for each event, from the first on", First::Events),
        ],
        Predicts { source: None, kit: First::State },
    )?;
    let mut carl = Player::join(stage, "carl", server_addr)?;
    screen.hear(&ann.hears(stage)?).map_err(anyhow::Error::msg)?; // so the server has let Carl in
    ann.send(stage, "l")?;
    screen.hear(&ann.hears(stage)?).map_err(anyhow::Error::msg)?;
    let (mut late, mut lines) = (Position::default(), Vec::new());
    loop {
        let line = carl.hears(stage)?;
        let now = line.starts_with("now ");
        late.hear(&line).map_err(anyhow::Error::msg)?;
        if matches!(numbered(&line), Ok((_, Event::Letter { letter: 'l', .. }))) {
            break;
        }
        lines.push(now);
    }
    stage.say("screens", format_args!("Ann's  {screen}"));
    stage.say("", format_args!("Carl's {late}"));
    ensure!(late == screen, "Carl's screen is not the same as Ann's");
    let observed = match lines[..] {
        [] => First::Nothing,
        [true] => First::State,
        _ => First::Events,
    };
    stage.verdict(question, observed, "the state holds all events so far; its number says which event is next")
}

pub fn leaves_halfway(stage: &mut Stage) -> Result<Verdict> {
    let (_server, server_addr) = server_role("server")?;
    let mut ann = Player::join(stage, "ann", server_addr)?;
    ann.hears(stage)?;
    let bob = Player::join(stage, "bob", server_addr)?;
    ann.hears_of(stage, "joined bob")?;
    ann.send(stage, "letter")?;
    ann.hears_of(stage, " word ")?;
    let fd = bob.fd();
    let sent = send(fd, b"e", MsgFlags::MSG_NOSIGNAL).at("send", server_addr)?;
    stage.say("bob", format_args!("send({fd}, \"e\", 1) = {sent}  without the newline"));

    let question = stage.ask(
        "Bob leaves before he has sent the newline. Then Ann proposes \"e\", too. Who gets the two points?",
        [
            ("Bob: his letter came first", "bob"),
            ("Ann: Bob's line has no end", "ann"),
            ("nobody: Bob's letter is gone", "nobody"),
        ],
        Predicts { source: None, kit: "ann" },
    )?;
    bob.sock.shutdown(Shutdown::Write).at("shutdown", server_addr)?;
    stage.say("bob", format_args!("shutdown({fd}, SHUT_WR) = 0"));
    // A letter that counted comes before the news that Bob has left.
    let mut scored = None;
    loop {
        let line = ann.hears(stage)?;
        match numbered(&line).map_err(anyhow::Error::msg)?.1 {
            Event::Letter { name, .. } => scored = Some(name),
            Event::Left { .. } => break,
            _ => bail!("the server says {line:?}"),
        }
    }
    ann.send(stage, "e")?;
    let line = ann.hears(stage)?;
    if let Ok((_, Event::Letter { name, places: 2, .. })) = numbered(&line) {
        scored = Some(name);
    }
    let observed = match scored.as_deref() {
        Some("bob") => "bob",
        Some("ann") => "ann",
        _ => "nobody",
    };
    drop(bob); // close(2)
    stage.verdict(question, observed, "there is no turn to wait for; a line counts once its newline has come")
}

/// Strokes in one send of the client: half of what the server asks of one recv.
const BATCH: usize = 1000;

pub fn never_reads(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Ann {
        Waits,
        AllAndBobDropped,
        AllAndBobKept,
    }
    let (mut server, server_addr) = server_role("whiteboard")?;
    let mut ann = Player::join(stage, "ann", server_addr)?;
    ann.line()?; // the whole picture
    let bob = Player::join(stage, "bob", server_addr)?;
    ann.hears_of(stage, "joined bob")?;
    // More than every buffer on the way takes: Bob's receive buffer, which does not grow while nobody reads; the server's
    // send buffer, and its own queue.
    let bytes = |name, at: usize| setting(name).get(at).map_or(1 << 22, |bytes| *bytes as usize);
    let buffers = bytes("net/ipv4/tcp_rmem", 1) + bytes("net/ipv4/tcp_wmem", 2) + OUTBOX_LIMIT;
    let most = 3 * buffers / "123456 stroke ann 5 5 #\n".len();

    let question = stage.ask(
        "Bob never reads. Ann draws on and on, and reads what the server sends. What becomes of the two?",
        [
            ("Ann waits for ever: the server's send to Bob blocks", Ann::Waits),
            ("Ann hears of all her strokes; Bob is dropped at a limit", Ann::AllAndBobDropped),
            ("Ann hears of all her strokes; Bob stays, and misses some", Ann::AllAndBobKept),
        ],
        Predicts { source: None, kit: Ann::AllAndBobDropped },
    )?;
    stage.server(format_args!(
        "queues for each client up to {} KiB, and sends what the kernel takes",
        OUTBOX_LIMIT / 1024
    ));
    let batch = "5 5 #\n".repeat(BATCH);
    let (mut sends, mut sent, mut strokes, mut heard, mut waits) = (0, 0, 0, 0, false);
    let dropped = |server: &mut shared::Role| server.printed().contains("> Dropped client");
    let mut buffer = vec![0; CHUNK];
    while strokes < most && !waits && !dropped(&mut server) {
        let mut rest = batch.as_bytes();
        while !rest.is_empty() {
            match send(ann.fd(), rest, MsgFlags::MSG_NOSIGNAL) {
                Err(Errno::EINTR) => continue,
                bytes_sent => {
                    let bytes_sent = bytes_sent.at("send", server_addr)?;
                    rest = &rest[bytes_sent..];
                    (sends, sent) = (sends + 1, sent + bytes_sent);
                }
            }
        }
        strokes += BATCH;
        while heard < strokes && !waits {
            match recv(ann.fd(), &mut buffer, MsgFlags::empty()) {
                Ok(0) => bail!("the server has closed Ann's connection"),
                Ok(bytes_read) => heard += count(&mut ann, &buffer[..bytes_read])?,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => waits = true, // nothing for LIMIT
                Err(errno) => Err(errno).at("recv", server_addr)?,
            }
        }
    }
    stage.say("ann", format_args!("send({}) x{sends} = {sent} bytes: \"5 5 #\\n\" again and again", ann.fd()));
    stage.say("ann", format_args!("hears of {heard} of {strokes} strokes"));
    let gone = match wait_until("Bob dropped", if waits { std::time::Duration::ZERO } else { LIMIT }, || {
        Ok(dropped(&mut server).then_some(()))
    }) {
        Ok(()) => true,
        Err(error) if error.is::<NotSeen>() => false,
        Err(error) => return Err(error),
    };
    if gone {
        stage.server(server.line_with("> Dropped client")?.trim_end());
        ann.hears_of(stage, "left bob")?;
    }
    drop(bob); // close(2)
    let observed = match (waits, gone) {
        (true, _) => Ann::Waits,
        (false, true) => Ann::AllAndBobDropped,
        (false, false) => Ann::AllAndBobKept,
    };
    stage.verdict(question, observed, "a server that never blocks in send keeps a queue, and a queue needs a limit")
}

/// How many strokes these bytes complete.
fn count(ann: &mut Player, bytes: &[u8]) -> Result<usize> {
    let mut strokes = 0;
    for line in ann.splitter.push(bytes) {
        let crate::lines::Line::Text(text) = line else { return Err(anyhow!("the server's line is no text")) };
        if text.contains(" stroke ") { strokes += 1 } else { ann.lines.push_back(text) }
    }
    Ok(strokes)
}
