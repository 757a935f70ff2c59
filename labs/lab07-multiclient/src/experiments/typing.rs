//! The real client on a pseudo-terminal, half a line typed.

use std::{io::Write, process::Command};

use anyhow::Result;
use kernel::NotSeen;
use nix::pty::openpty;
use shared::{At, Predicts, Role, Stage, Verdict, own_program};

use super::{TIME_LIMIT, server_role};

/// What became of the server's line, and of the half-typed one.
#[derive(Debug, PartialEq)]
struct Seen {
    at_once: bool,
    kept: bool,
}

pub fn while_typing(stage: &mut Stage) -> Result<Verdict> {
    let (mut server, server_addr) = server_role()?;
    let terminal = openpty(None, None).at("openpty", "")?;
    let mut keyboard = std::fs::File::from(terminal.master);
    let mut command = Command::new(own_program()?);
    command.args(["client", &server_addr.port().to_string()]);
    let mut client = Role::spawn_on(&mut command, terminal.slave.into())?;
    client.wait_for("> Enter string : ")?;
    server.wait_for("> New connection")?;

    keyboard.write_all(b"half a li").at("write", "/dev/ptmx")?;
    stage.say("keyboard", "half a li");
    let question = stage.ask(
        "Now the operator sends \"hello\". When does the client show that, and what becomes of \"half a li\"?",
        [
            ("after Enter; the half line is kept", Seen { at_once: false, kept: true }),
            ("at once; the half line is kept", Seen { at_once: true, kept: true }),
            ("at once; the half line is lost", Seen { at_once: true, kept: false }),
        ],
        Predicts { source: None, kit: Seen { at_once: true, kept: true } },
    )?;
    server.type_line("hello")?;
    stage.say("operator", "hello");
    let at_once = match client.wait_for_within("> Server response : olleh\n", TIME_LIMIT) {
        Ok(_) => {
            stage.client("> Server response : olleh");
            true
        }
        Err(error) if error.is::<NotSeen>() => false,
        Err(error) => return Err(error),
    };
    keyboard.write_all(b"ne\n").at("write", "/dev/ptmx")?;
    stage.say("keyboard", "ne, and Enter");
    let shown = server.line_with("Client message = ")?;
    stage.server(&shown);
    let kept = shown.ends_with("= enil a flah");
    stage.verdict(
        question,
        Seen { at_once, kept },
        "poll watches socket and terminal; the terminal driver keeps the half line",
    )
}
