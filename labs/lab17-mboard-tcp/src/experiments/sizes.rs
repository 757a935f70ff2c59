//! How long a message may be, and what may stand in it.

use std::{
    net::Shutdown,
    os::fd::AsRawFd,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use board::{Board, Request, messages, now, reply};
use nix::{
    errno::Errno,
    unistd::{SysconfVar, sysconf},
};
use shared::{At, Predicts, Role, Stage, Verdict, own_program};

use super::{accepted, connected, listening, receive_all, send_all, server_role};

pub fn one_answer(stage: &mut Stage) -> Result<Verdict> {
    let (listen_sock, server_addr) = listening()?;
    let mut board = Board::default();
    for _ in 0..5956 {
        board.publish(server_addr, now(), b"Hello world!")?;
    }
    stage
        .server(format_args!("has {} messages; over UDP so many ids were too long for an answer", board.last(0).len()));
    let question = stage.ask(
        "The client asks with 4:0 for all messages, on one connection. How many does it get?",
        [
            ("the first 1,000 or so, one segment full", 1000),
            ("none: the answer is too long", 0),
            ("all 5,956 of them", 5956),
        ],
        Predicts { source: Some(5956), kit: 5956 },
    )?;
    let client_sock = connected(server_addr)?;
    let conn_sock = accepted(&listen_sock)?;
    send_all(&client_sock, &Request::GetLast { count: 0 }.encode())?;
    client_sock.shutdown(Shutdown::Write).at("shutdown", server_addr)?;
    stage.client(format_args!("\"4:0\", then shutdown({}, SHUT_WR) = 0", client_sock.as_raw_fd()));
    let (request, _) = receive_all(&conn_sock)?;
    let answer = board.answer(&request, server_addr, now())?;
    stage.server(format_args!("the answer has {} bytes", answer.len()));
    let sender = std::thread::spawn(move || send_all(&conn_sock, &answer)); // longer than both buffers: somebody must read
    let (received, calls) = receive_all(&client_sock)?;
    sender.join().ok().context("the sending thread ended badly")??;
    stage.client(format_args!("recv x{calls}: {} bytes, then end of stream", received.len()));
    let observed = messages(reply(&received)?)?.len();
    stage.verdict(question, observed, "a stream has no largest size: it ends where the sender ends it")
}

pub fn command_line(stage: &mut Stage) -> Result<Verdict> {
    let (mut server, server_addr) = server_role(&[])?;
    let page = usize::try_from(sysconf(SysconfVar::PAGE_SIZE).at("sysconf", "_SC_PAGESIZE")?.context("no page size")?)?;
    let most = 32 * page; // MAX_ARG_STRLEN, with the byte 0 that ends an argument: execve(2)
    let all = sysconf(SysconfVar::ARG_MAX).at("sysconf", "_SC_ARG_MAX")?.context("no limit for arguments")?;
    stage.client(format_args!("getconf ARG_MAX: {all} bytes for all arguments together"));
    let start = |stage: &mut Stage, length: usize| -> Result<Result<(), Errno>> {
        let text = "x".repeat(length);
        let mut client = Command::new(own_program()?);
        client.args(["client", &server_addr.to_string(), "--publish", &text]);
        let ended = client.stdin(Stdio::null()).stdout(Stdio::null()).status();
        let outcome = match ended {
            Ok(status) => {
                ensure!(status.success(), "the client failed");
                Ok(())
            }
            Err(error) => Err(Errno::from_raw(error.raw_os_error().unwrap_or(0))),
        };
        let shown =
            outcome.map_or_else(|errno| format!("{errno:?} ({})", errno.desc()), |()| "Message Published".into());
        stage.client(format_args!("client --publish with a text of {length} bytes: {shown}"));
        Ok(outcome)
    };
    ensure!(start(stage, most - 1)?.is_ok(), "a text of {} bytes was not published", most - 1);
    let question = stage.ask(
        "The text gets one byte longer. What happens when the shell starts the client?",
        [
            ("the client starts, and the text is published", Ok(())),
            ("it does not start: E2BIG from execve", Err(Errno::E2BIG)),
            ("it does not start: ENAMETOOLONG from execve", Err(Errno::ENAMETOOLONG)),
        ],
        Predicts { source: None, kit: Err(Errno::E2BIG) },
    )?;
    let observed = start(stage, most)?;

    let mut client = Role::start(&["client", &server_addr.to_string(), "--publish", "-"])?;
    let text = "x".repeat(1_000_000);
    client.type_line(&text)?;
    client.input = None; // end of input, as Ctrl-D
    client.wait_for("Message Published\n")?;
    let line = server.line_with("and 999943 bytes more")?;
    ensure!(line.contains("asks"), "the server received something else");
    stage.say("mended", "client --publish - with 1000001 bytes of standard input: Message Published");
    stage.verdict(question, observed, "one argument has 32 pages at most; standard input has no limit")
}

pub fn any_byte(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Back {
        All,
        UpToTheNewline,
        UpToTheZero,
    }
    let (listen_sock, server_addr) = listening()?;
    let text: Vec<u8> = (b' '..=255).chain(0..b' ').collect();
    stage.client("the message: all 256 bytes there are, also ':', the newline, 0 and what is no UTF-8");
    let question = stage.ask(
        "The message is published and read back. Which of its bytes come back?",
        [
            ("all 256, as they were", Back::All),
            ("those in front of the newline", Back::UpToTheNewline),
            ("those in front of the byte 0", Back::UpToTheZero),
        ],
        Predicts { source: Some(Back::All), kit: Back::All },
    )?;
    let mut board = Board::default();
    let mut answer = Vec::new();
    for request in [Request::Publish { text: &text }, Request::GetLast { count: 0 }] {
        let client_sock = connected(server_addr)?;
        let conn_sock = accepted(&listen_sock)?;
        let request = request.encode();
        send_all(&client_sock, &request)?;
        client_sock.shutdown(Shutdown::Write).at("shutdown", server_addr)?;
        stage.client(format_args!("{} bytes, then shutdown({}, SHUT_WR) = 0", request.len(), client_sock.as_raw_fd()));
        let (request, _) = receive_all(&conn_sock)?;
        stage.server(format_args!("{} bytes, then end of stream", request.len()));
        send_all(&conn_sock, &board.answer(&request, server_addr, now())?)?;
        drop(conn_sock); // close(2)
        answer = receive_all(&client_sock)?.0;
        stage.client(format_args!("{} bytes, then end of stream", answer.len()));
    }
    let read = messages(reply(&answer)?)?;
    let back = &read.first().context("no message came")?.text;
    let observed = match back.len() {
        256 if *back == text => Back::All,
        length if length == text.iter().position(|byte| *byte == b'\n').unwrap_or(0) => Back::UpToTheNewline,
        _ => Back::UpToTheZero,
    };
    stage.verdict(question, observed, "the end is no byte in the stream, so no byte is forbidden")
}
