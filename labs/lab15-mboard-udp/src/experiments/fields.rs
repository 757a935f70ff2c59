//! What the delimiter separates, and what memory keeps.

use std::{env, fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use board::{Board, FIRST_ID, Request, ids, message, now, reply};
use shared::{At, Predicts, Stage, Verdict};

use super::{ANY_PORT, ANY_PORT_IPV6, bound, hears, says, server_role};

pub fn ipv6_author(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Fifth {
        Text,
        EndOfText,
        MoreThanText,
    }
    const TEXT: &str = "at 12:30";
    let mut observed = Fifth::EndOfText;
    let mut question = None;
    for any_port in [ANY_PORT, ANY_PORT_IPV6] {
        let (server_sock, server_addr) = bound(any_port)?;
        let (client_sock, _) = bound(any_port)?;
        let mut board = Board::default();
        let request = Request::Publish { text: TEXT.as_bytes() }.encode();
        says(stage, "client", &client_sock, &request, server_addr).at("sendto", server_addr)?;
        let (request, author) = hears(stage, "server", &server_sock)?;
        board.answer(&request, author, now())?;

        if any_port == ANY_PORT_IPV6 {
            question = Some(stage.ask(
                "The author is at ::1. The client cuts the answer at its first four colons. What is the fifth field?",
                [
                    ("the text: at 12:30", Fifth::Text),
                    ("the end of the text: 30", Fifth::EndOfText),
                    ("part of the address, the port, the text", Fifth::MoreThanText),
                ],
                Predicts { source: Some(Fifth::Text), kit: Fifth::MoreThanText },
            )?);
        }
        // As the lecture writes an answer to 3:ID.
        let kept = board.get(FIRST_ID).context("it is not on the board")?;
        let lecture = format!("0:{}:{}:{}:{TEXT}", kept.time.as_secs(), author.ip(), author.port());
        says(stage, "server", &server_sock, lecture.as_bytes(), author).at("sendto", author)?;
        let (answer, _) = hears(stage, "client", &client_sock)?;
        let answer = String::from_utf8(answer)?;
        let fields: Vec<&str> = answer.splitn(5, ':').collect(); // Python: answer.split(':', 4)
        let fifth = fields.last().copied().unwrap_or_default();
        stage.client(format_args!("fields: {fields:?}"));
        observed = match fifth {
            TEXT => Fifth::Text,
            "30" => Fifth::EndOfText,
            _ => Fifth::MoreThanText,
        };
        if any_port == ANY_PORT {
            ensure!(observed == Fifth::Text, "over IPv4 the fifth field was {fifth:?}");
            continue;
        }

        // Ours puts an IPv6 address in brackets.
        let answer = board.answer(&Request::Get { id: FIRST_ID }.encode(), author, now())?;
        says(stage, "mended", &server_sock, &answer, author).at("sendto", author)?;
        let (answer, _) = hears(stage, "mended", &client_sock)?;
        let read = message(FIRST_ID, reply(&answer)?)?;
        ensure!(read.author == author && read.text == TEXT.as_bytes(), "read otherwise: {read:?}");
        stage.say("mended", format_args!("author {}, text {TEXT:?}", read.author));
    }
    let question = question.context("nothing was asked")?;
    stage.verdict(question, observed, "only the last field may hold the delimiter: an IPv6 address needs brackets")
}

/// A file that goes with its experiment.
struct Journal(PathBuf);

impl Drop for Journal {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

pub fn restart(stage: &mut Stage) -> Result<Verdict> {
    let question = stage.ask(
        "The client was told 0: (OK). The server is killed and started again. What does the client get for 2:0, all ids?",
        [
            ("an answer with the one id", Some(1)),
            ("an answer with no id", Some(0)),
            ("no answer: the port is still taken", None),
        ],
        Predicts { source: None, kit: Some(0) },
    )?;
    let observed = after_a_kill(stage, &[])?;

    let journal = Journal(env::temp_dir().join(format!("lab15-{}.redb", std::process::id())));
    let file = journal.0.to_str().context("the temporary folder has no name in UTF-8")?;
    stage.say("mended", "the same with --journal FILE: a message is on disk before it is confirmed");
    let kept = after_a_kill(stage, &["--journal", file])?;
    ensure!(kept == Some(1), "with a journal the answer was {kept:?}");
    stage.verdict(question, observed, "a confirmation is worth what the server keeps: first to the disk, then 0:")
}

/// How many ids a server tells after kill -9 and a new start on the same port; `None`: it could not start.
fn after_a_kill(stage: &mut Stage, options: &[&str]) -> Result<Option<usize>> {
    let (server, server_addr) = server_role("0", options)?;
    let (client_sock, _) = bound(ANY_PORT)?;
    says(stage, "client", &client_sock, b"1:Hello world!", server_addr).at("sendto", server_addr)?;
    hears(stage, "client", &client_sock)?;
    stage.say("kill", format_args!("kill -9 {}", server.pid()));
    drop(server); // kill -9, and it is waited for
    let (_server, _) = match server_role(&server_addr.to_string(), options) {
        Err(_) if bound(server_addr).is_err() => return Ok(None), // EADDRINUSE: the server has said so
        started => started?,
    };
    stage.server(format_args!("started again on {server_addr}"));
    says(stage, "client", &client_sock, b"2:0", server_addr).at("sendto", server_addr)?;
    let (answer, _) = hears(stage, "client", &client_sock)?;
    Ok(Some(ids(reply(&answer)?)?.len()))
}
