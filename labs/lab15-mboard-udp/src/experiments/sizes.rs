//! What fits into one datagram.

use anyhow::{Context, Result, ensure};
use board::{Board, FIRST_ID, Request, now, reply, reply_to_get};
use nix::errno::Errno;
use shared::{At, Predicts, Stage, Verdict};

use super::{ANY_PORT, SILENCE, bound, hears, says, waits};
use crate::{DATAGRAM, client::cut};

/// The lecture's limit of a data unit: 2^16 - 32.
const LECTURE_LIMIT: usize = 65_504;
/// With "1:" it is as long as a datagram can be.
const LONGEST_TEXT: usize = DATAGRAM - 2;

pub fn at_the_limit(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Answer {
        Whole,
        Cut,
        None,
    }
    let (server_sock, server_addr) = bound(ANY_PORT)?;
    let (client_sock, client_addr) = bound(ANY_PORT)?;
    let mut board = Board::default();
    let request = Request::Publish { text: &[b'x'; LONGEST_TEXT] }.encode();
    stage.client(format_args!("publishes {LONGEST_TEXT} bytes: with \"1:\" as much as a datagram holds"));
    says(stage, "client", &client_sock, &request, server_addr).at("sendto", server_addr)?;
    let (request, from) = hears(stage, "server", &server_sock)?;
    let answer = board.answer(&request, from, now())?;
    says(stage, "server", &server_sock, &answer, from).at("sendto", from)?;
    let (published, _) = hears(stage, "client", &client_sock)?;
    ensure!(published == b"0:", "it was not published");

    let question = stage.ask(
        "The message is published. Now the client asks for it with 3:ID. What comes back?",
        [
            ("all of it, as it was published", Answer::Whole),
            ("all of it but its tail", Answer::Cut),
            ("nothing: the server cannot send it", Answer::None),
        ],
        Predicts { source: Some(Answer::Whole), kit: Answer::None },
    )?;
    let request = Request::Get { id: FIRST_ID }.encode();
    says(stage, "client", &client_sock, &request, server_addr).at("sendto", server_addr)?;
    let (request, from) = hears(stage, "server", &server_sock)?;
    let answer = board.answer(&request, from, now())?;
    let sent = says(stage, "server", &server_sock, &answer, from);
    let observed = if waits(&client_sock, SILENCE)? {
        let (received, _) = hears(stage, "client", &client_sock)?;
        if received == answer { Answer::Whole } else { Answer::Cut }
    } else {
        stage.client(format_args!("nothing in {SILENCE:?}"));
        Answer::None
    };
    ensure!(sent.is_ok() || sent == Err(Errno::EMSGSIZE), "sendto failed otherwise");

    // An answer begins with code, time, address and port: so much shorter the text must be.
    let head = answer.len() - LONGEST_TEXT;
    stage.server(format_args!("an answer to this client begins with {head} bytes: code, time, address, port"));
    for (length, expected) in [(DATAGRAM - head, Ok(DATAGRAM)), (DATAGRAM - head + 1, Err(Errno::EMSGSIZE))] {
        let id = board.publish(client_addr, now(), &vec![b'x'; length])?;
        let answer = reply_to_get(board.get(id).context("it is not on the board")?);
        let sent = says(stage, "server", &server_sock, &answer, client_addr);
        ensure!(sent == expected, "sendto: {sent:?} with a text of {length} bytes");
    }
    stage.verdict(question, observed, "the answer carries more than the request did: the two need different limits")
}

pub fn all_ids(stage: &mut Stage) -> Result<Verdict> {
    let (server_sock, server_addr) = bound(ANY_PORT)?;
    let (client_sock, client_addr) = bound(ANY_PORT)?;
    let mut board = Board::default();
    for _ in 0..5955 {
        board.publish(client_addr, now(), b"Hello world!")?;
    }
    stage.server(format_args!("has {} messages; its ids have ten digits", board.last(0).len()));
    let ask_for_all = |stage: &mut Stage, board: &mut Board| -> Result<_> {
        says(stage, "client", &client_sock, b"2:0", server_addr).at("sendto", server_addr)?;
        let (request, from) = hears(stage, "server", &server_sock)?;
        let answer = board.answer(&request, from, now())?;
        Ok(says(stage, "server", &server_sock, &answer, from))
    };
    let sent = ask_for_all(stage, &mut board)?;
    ensure!(sent == Ok(65_506), "5955 ids did not fit");
    let (answer, _) = hears(stage, "client", &client_sock)?;
    let ids = board::ids(reply(&answer)?)?.len();
    ensure!(ids == 5955, "{ids} ids came");

    let question = stage.ask(
        "One more message is published, and the client asks for all ids again. What does the server's sendto return?",
        [
            ("65517: the ids go out in two datagrams", Ok(65_517)),
            ("65507: the last id loses its end", Ok(65_507)),
            ("-1 EMSGSIZE: nothing goes out", Err(Errno::EMSGSIZE)),
        ],
        Predicts { source: Some(Ok(65_517)), kit: Err(Errno::EMSGSIZE) },
    )?;
    board.publish(client_addr, now(), b"Hello world!")?;
    stage.server(format_args!("has {} messages", board.last(0).len()));
    let observed = ask_for_all(stage, &mut board)?;
    stage.client(match waits(&client_sock, SILENCE)? {
        true => "an answer came".into(),
        false => format!("nothing in {SILENCE:?}"),
    });
    stage.verdict(question, observed, "one message too many, and nobody reads the board any more: ask for a part")
}

pub fn cut_tail(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum End {
        Whole,
        Half,
    }
    let (server_sock, server_addr) = bound(ANY_PORT)?;
    let (client_sock, _) = bound(ANY_PORT)?;
    let text = format!("a{}", "\u{f5}".repeat(40_000));
    let limit = LECTURE_LIMIT - 2;
    stage.client(format_args!("the text: \"a\", then 40000 times U+00F5, {} bytes of UTF-8", text.len()));
    let question = stage.ask(
        "The client keeps the first 65,502 bytes, as the lecture says, and publishes them. How does what the server gets end?",
        [("with a whole letter", End::Whole), ("with half of a letter", End::Half)],
        Predicts { source: None, kit: End::Half },
    )?;
    let request = Request::Publish { text: &text.as_bytes()[..limit] }.encode();
    says(stage, "client", &client_sock, &request, server_addr).at("sendto", server_addr)?;
    let (request, _) = hears(stage, "server", &server_sock)?;
    let observed = match str::from_utf8(&request[2..]) {
        Ok(_) => End::Whole,
        Err(error) => {
            ensure!(error.error_len().is_none(), "the text is damaged before its end");
            stage.server(format_args!("not UTF-8: a letter that begins at byte {} has no end", error.valid_up_to()));
            End::Half
        }
    };

    let whole = cut(&text, limit);
    stage.say("mended", format_args!("the client goes back to the end of a letter: {} bytes", whole.len()));
    let request = Request::Publish { text: whole.as_bytes() }.encode();
    says(stage, "client", &client_sock, &request, server_addr).at("sendto", server_addr)?;
    let (request, _) = hears(stage, "server", &server_sock)?;
    let letters = str::from_utf8(&request[2..]).context("still not UTF-8")?.chars().count();
    stage.server(format_args!("UTF-8: {letters} letters"));
    stage.verdict(question, observed, "a byte is no letter: cut where a letter ends")
}
