//! How much of a message one recv returns.

use std::{net::Shutdown, os::fd::AsRawFd, thread};

use anyhow::{Result, ensure};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, send},
};
use shared::{At, Predicts, Stage, Verdict, escaped, returned};

use super::{connected_pair, let_in, receive, server_role};
use crate::frames::{HEADER, header};

/// What a message of the exam never was: larger than one segment, one buffer, one recv.
const BODY: usize = 1_000_000;

pub fn big_body(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Returns {
        All,
        Part,
        OneSegment,
        Nothing,
    }
    let (client_sock, conn_sock) = connected_pair()?;
    let (client_fd, conn_fd) = (client_sock.as_raw_fd(), conn_sock.as_raw_fd());

    let message = [&header(BODY)[..], &vec![b'x'; BODY]].concat();
    // A thread of its own: a blocking send goes on while the server reads.
    let sender = thread::Builder::new().spawn(move || {
        let mut sent = 0;
        while sent < message.len() {
            match send(client_sock.as_raw_fd(), &message[sent..], MsgFlags::MSG_NOSIGNAL) {
                Ok(bytes_sent) => sent += bytes_sent,
                Err(Errno::EINTR) => {}
                Err(_) => break, // the server's end is closed
            }
        }
        sent
    })?;
    stage.client(format_args!("a thread sends the header and {BODY} bytes through descriptor {client_fd}"));
    let mut buffer = [0; HEADER];
    let received = receive(&conn_sock, &mut buffer);
    stage.server(format_args!("recv({conn_fd}, 64) = {}", returned(&received)));
    ensure!(received == Ok(HEADER), "the header came in pieces: {received:?}");

    let question = stage.ask(
        "Now the exam's server calls recv(1000000). How many bytes does this one call return?",
        [
            ("1000000, the whole message", Returns::All),
            ("1460, one segment of Ethernet", Returns::OneSegment),
            ("a part: what has arrived so far", Returns::Part),
            ("0, since the buffer is too small", Returns::Nothing),
        ],
        Predicts { source: Some(Returns::All), kit: Returns::Part },
    )?;
    let mut body = vec![0; BODY];
    let received = receive(&conn_sock, &mut body);
    stage.server(format_args!("recv({conn_fd}, {BODY}) = {}", returned(&received)));
    let first = received.at("recv", "")?;
    let observed = match first {
        BODY => Returns::All,
        1460 => Returns::OneSegment,
        0 => Returns::Nothing,
        _ => Returns::Part,
    };
    let next = receive(&conn_sock, &mut buffer).at("recv", "")?;
    stage.server(format_args!("recv({conn_fd}, 64) = {next}  taken for the next header: {:?}", escaped(&buffer[..8])));

    // Done right: go on until all of it is there.
    let (mut collected, mut calls) = (first + next, 2);
    while collected < BODY {
        match receive(&conn_sock, &mut body[collected..]) {
            Ok(0) => break,
            Ok(bytes_read) => (collected, calls) = (collected + bytes_read, calls + 1),
            Err(errno) => return Ok(Err(errno).at("recv", "")?),
        }
    }
    drop(conn_sock); // close(2)
    let sent = sender.join().map_err(|_| anyhow::anyhow!("the sending thread panicked"))?;
    stage.say("mended", format_args!("{calls} calls of recv: {collected} bytes of {}", sent - HEADER));
    ensure!(collected == BODY, "only {collected} bytes came");
    stage.verdict(question, observed, "without MSG_WAITALL recv promises one byte: repeat it until all is there")
}

pub fn short_body(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Naive {
        TakesTheFive,
        Waits,
        Fails,
    }
    let (mut naive, addr) = server_role(&["--naive"])?;
    let (client_sock, client_addr) = let_in(&mut naive, addr)?;
    let client_fd = client_sock.as_raw_fd();
    let cut = [&header(20)[..], b"hello"].concat();
    stage.say("exam", "msg = conn.recv(msg_length).decode(FORMAT); print(msg); conn.send(\"Msg received\")");

    let question = stage.ask(
        "The header says 20. Five bytes follow, \"hello\", then the client's FIN. What does our copy of this code do?",
        [
            ("it waits for the 15 bytes that are missing", Naive::Waits),
            ("it prints \"hello\" and answers that it was received", Naive::TakesTheFive),
            ("it fails: end of stream inside a message", Naive::Fails),
        ],
        Predicts { source: None, kit: Naive::TakesTheFive },
    )?;
    let sent = send(client_fd, &cut, MsgFlags::empty());
    stage.client(format_args!("send({client_fd}, {}) = {}  the header and \"hello\"", cut.len(), returned(&sent)));
    client_sock.shutdown(Shutdown::Write).at("shutdown", addr)?;
    stage.client(format_args!("shutdown({client_fd}, SHUT_WR) = 0"));
    let mut buffer = [0; 2048];
    let received = receive(&client_sock, &mut buffer);
    stage.client(format_args!("recv({client_fd}, 2048) = {}", returned(&received)));
    let observed = match received {
        Ok(0) => Naive::Fails,
        Ok(bytes_read) => {
            stage.client(format_args!("heard {:?}", escaped(&buffer[..bytes_read])));
            let told = naive.line_with(&format!("[{client_addr}] "))?;
            stage.say("naive", told);
            Naive::TakesTheFive
        }
        Err(_) => Naive::Waits,
    };

    let (mut mended, addr) = server_role(&[])?;
    let (client_sock, client_addr) = let_in(&mut mended, addr)?;
    send(client_sock.as_raw_fd(), &cut, MsgFlags::empty()).at("send", addr)?;
    client_sock.shutdown(Shutdown::Write).at("shutdown", addr)?;
    let told = mended.line_with(&format!("[CLOSED] {client_addr}: "))?;
    stage.say("mended", &told);
    ensure!(told.contains("in the middle of a message"), "the mended server said {told:?}");
    stage.verdict(question, observed, "half a message was confirmed: compare what came with what was announced")
}
