//! What a header says, and what was read of it.

use std::{fs, os::fd::AsRawFd};

use anyhow::{Context, Result, ensure};
use kernel::Pair;
use nix::sys::socket::{MsgFlags, send};
use shared::{At, Predicts, Role, Stage, Verdict, escaped, returned};

use super::{connected_pair, let_in, receive, server_role};
use crate::{
    frames::{HEADER, header, length},
    naive::claimed_length,
};

/// What the client claims, and does not send.
const CLAIMED: usize = 1_000_000_000;
/// A server that needs this much more than before has believed the claim, or half of it: the rest is for what a first
/// message costs.
const BELIEVED_KIB: u64 = 500_000;

pub fn two_pieces(stage: &mut Stage) -> Result<Verdict> {
    let (client_sock, conn_sock) = connected_pair()?;
    let (client_fd, conn_fd) = (client_sock.as_raw_fd(), conn_sock.as_raw_fd());
    let whole = header(1234);
    stage.client("the message has 1234 bytes: the header is \"1234\" and 60 spaces");

    let question = stage.ask(
        "The header comes in two segments: \"12\", then \"34\" and the spaces. recv(64), then int(): which length?",
        [
            ("1234: recv(64) waits for 64 bytes", Ok(1234)),
            ("12: recv(64) returns what is there", Ok(12)),
            ("0: what is missing is filled with zeros", Ok(0)),
            ("none: int() of half a header fails", Err(())),
        ],
        Predicts { source: Some(Ok(1234)), kit: Ok(12) },
    )?;
    let piece = &whole[..2];
    let first = send(client_fd, piece, MsgFlags::empty());
    stage.client(format_args!("send({client_fd}, {}) = {}  {:?}", piece.len(), returned(&first), start_of(piece)));
    let mut buffer = [0; HEADER];
    let received = receive(&conn_sock, &mut buffer);
    stage.server(format_args!("recv({conn_fd}, 64) = {}", returned(&received)));
    let bytes_read = received.at("recv", "")?;
    let observed = claimed_length(&buffer[..bytes_read]).map_err(|_| ());
    let read_as = observed.map_or("no number".into(), |length| length.to_string());
    stage.server(format_args!("int({:?}) is {read_as}", start_of(&buffer[..bytes_read])));

    // The other 62 bytes are now taken for the message, and what follows for the next header.
    let rest = &whole[piece.len()..];
    let second = send(client_fd, rest, MsgFlags::empty());
    stage.client(format_args!("send({client_fd}, {}) = {}  {:?}", rest.len(), returned(&second), start_of(rest)));
    let mut body = vec![0; observed.unwrap_or(0).min(HEADER)];
    let received = receive(&conn_sock, &mut body);
    stage.server(format_args!("recv({conn_fd}, {}) = {}", body.len(), returned(&received)));
    stage.server(format_args!("takes {:?} for the message", start_of(&body)));

    // The same two pieces, done right: recv again until 64 bytes are there.
    let (client_sock, conn_sock) = connected_pair()?;
    let client_fd = client_sock.as_raw_fd();
    let (mut collected, mut calls) = (0, 0);
    send(client_fd, &whole[..2], MsgFlags::empty()).at("send", "")?;
    while collected < HEADER {
        collected += receive(&conn_sock, &mut buffer[collected..]).at("recv", "")?;
        calls += 1;
        if calls == 1 {
            send(client_fd, &whole[2..], MsgFlags::empty()).at("send", "")?;
        }
    }
    let right = length(&buffer, usize::MAX);
    stage.say(
        "mended",
        format_args!("after {calls} calls of recv {collected} bytes are here: length {}", right.clone().unwrap_or(0)),
    );
    ensure!(right == Ok(1234), "the collected header was read as {right:?}");
    stage.verdict(question, observed, "recv returns as soon as one byte is there; collect until 64 are")
}

/// The first bytes, and three dots for the rest.
fn start_of(bytes: &[u8]) -> String {
    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(8)]).into_owned();
    if bytes.len() > 8 { shown + "..." } else { shown }
}

pub fn mere_claim(stage: &mut Stage) -> Result<Verdict> {
    let (mut naive, naive_addr) = server_role(&["--naive"])?;
    let (mut mended, mended_addr) = server_role(&["--max-message", "2000000000"])?;
    stage.client(format_args!("the header says {CLAIMED}; not one byte of the message follows"));

    let question = stage.ask(
        "The header has arrived. How much address space does recv(length) in our copy of the exam's loop take now?",
        [("next to none: memory comes with the bytes", false), ("about 1 GB: recv's buffer is made first", true)],
        Predicts { source: None, kit: true },
    )?;
    let mut believed = [false; 2];
    for ((believed, who), (server, addr)) in
        believed.iter_mut().zip(["naive", "mended"]).zip([(&mut naive, naive_addr), (&mut mended, mended_addr)])
    {
        let (client_sock, _) = let_in(server, addr)?;
        let client_fd = client_sock.as_raw_fd();
        let before = address_space_kib(server)?;
        let sent = send(client_fd, &header(CLAIMED), MsgFlags::empty());
        stage.client(format_args!("send({client_fd}, 64) = {}  the header", returned(&sent)));
        // Once the header is out of the queue, and the next recv waits.
        let pair = Pair::of(&client_sock)?.other_end();
        kernel::wait_until("the header to be read", super::LIMIT, || {
            let read = kernel::tcp_socket(pair)?.is_some_and(|row| row.recv_queue == 0);
            let grown = address_space_kib(server)?.saturating_sub(before);
            Ok((read && (who == "mended" || grown > BELIEVED_KIB)).then_some(()))
        })
        .or_else(|error| if error.is::<kernel::NotSeen>() { Ok(()) } else { Err(error) })?;
        let grown = address_space_kib(server)?.saturating_sub(before);
        let after = before + grown;
        stage.say(who, format_args!("VmPeak of process {}: {before} KiB before, {after} KiB after", server.pid()));
        *believed = grown > BELIEVED_KIB;
    }
    ensure!(!believed[1], "the mended server believed the claim, too");
    stage.verdict(question, believed[0], "a length is a claim: set a limit, and let memory grow with what comes")
}

/// The most address space that a process ever had, in KiB: proc(5), VmPeak.
fn address_space_kib(server: &Role) -> Result<u64> {
    let path = format!("/proc/{}/status", server.pid());
    let status = fs::read_to_string(&path).at("open", &path)?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:")).context("no VmPeak")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

pub fn no_number(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Handler {
        Dies,
        SkipsHeader,
        TakesAll,
        AnswersAndStays,
    }
    let (mut naive, addr) = server_role(&["--naive"])?;
    let (client_sock, client_addr) = let_in(&mut naive, addr)?;
    let client_fd = client_sock.as_raw_fd();
    stage.say("exam", "msg_length = int(msg_length); msg = conn.recv(msg_length).decode(FORMAT)");

    let question = stage.ask(
        "A header says \"-1\", padded with spaces. What becomes of this client's handler in our copy of this code?",
        [
            ("it leaves out this header and reads the next", Handler::SkipsHeader),
            ("its thread dies: recv(-1) raises an exception", Handler::Dies),
            ("it receives all that comes: -1 is no limit", Handler::TakesAll),
            ("it answers \"Msg received\" to an empty message", Handler::AnswersAndStays),
        ],
        Predicts { source: None, kit: Handler::Dies },
    )?;
    let mut bad_header = [b' '; HEADER];
    bad_header[..2].copy_from_slice(b"-1");
    let sent = send(client_fd, &bad_header, MsgFlags::empty());
    stage.client(format_args!("send({client_fd}, 64) = {}  \"-1\" and 62 spaces", returned(&sent)));
    let mut buffer = [0; 2048];
    let received = receive(&client_sock, &mut buffer);
    stage.client(format_args!("recv({client_fd}, 2048) = {}", returned(&received)));
    let observed = match received {
        Ok(0) => {
            let told = naive.line_with(&format!("[CLOSED] {client_addr}: "))?;
            stage.say("naive", told);
            Handler::Dies
        }
        Ok(_) => Handler::AnswersAndStays,
        Err(_) => Handler::SkipsHeader,
    };

    // The mended server says what is wrong before it closes, and so to the other headers that are none.
    for bad in ["-1", "12abc", "", "99999999999999999999"] {
        let (mut mended, addr) = server_role(&[])?;
        let (client_sock, _) = let_in(&mut mended, addr)?;
        let client_fd = client_sock.as_raw_fd();
        let mut bad_header = [b' '; HEADER];
        bad_header[..bad.len()].copy_from_slice(bad.as_bytes());
        send(client_fd, &bad_header, MsgFlags::empty()).at("send", addr)?;
        let bytes_read = receive(&client_sock, &mut buffer).at("recv", addr)?;
        let answer = escaped(&buffer[..bytes_read]);
        stage.say("mended", format_args!("to {bad:?}: {answer}"));
        ensure!(answer.starts_with("Error: the header "), "to {bad:?} the server answered {answer:?}");
    }
    stage.verdict(question, observed, "an exception ends the thread, and the client is told nothing")
}
