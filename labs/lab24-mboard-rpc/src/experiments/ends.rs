//! A server that is killed in the middle of a call.

use std::{env, fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use dxr::Value;
use shared::{Predicts, Role, Stage, Verdict};

use super::{proxy, server_role};
use crate::proxy::Failure;

/// The file of a journal, removed with its owner.
struct Journal(PathBuf);

impl Drop for Journal {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

pub fn killed_in_call(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Gets {
        Id,
        Fault,
        TheFirstError,
    }
    let journal = Journal(env::temp_dir().join(format!("lab24-{}.redb", std::process::id())));
    let file = journal.0.to_str().context("the temporary folder has no name in UTF-8")?;

    let first = publish_at(stage, &["--journal", file, "--die", "before"])?;
    let first = first.err().context("a server that was killed before it published has answered")?;
    ensure!(!matches!(first, Failure::Fault(_)), "{first}");
    messages(stage, file, 0)?;

    let question = stage.ask(
        "Now the server publishes, and is killed before it answers. What does the caller get this time?",
        [
            ("the id: the message is on the board", Gets::Id),
            ("a fault: the board has it, the answer is lost", Gets::Fault),
            ("the error of the first time, word for word", Gets::TheFirstError),
        ],
        Predicts { source: None, kit: Gets::TheFirstError },
    )?;
    let second = publish_at(stage, &["--journal", file, "--die", "after"])?;
    messages(stage, file, 1)?;
    let observed = match second {
        Ok(_) => Gets::Id,
        Err(Failure::Fault(_)) => Gets::Fault,
        Err(second) => {
            ensure!(second.to_string() == first.to_string(), "first \"{first}\", then \"{second}\"");
            Gets::TheFirstError
        }
    };
    stage.verdict(question, observed, "the error does not say whether the call was done: asking again may do it twice")
}

/// Calls publish on a server with these options, which is killed in the middle of it.
fn publish_at(stage: &mut Stage, options: &[&str]) -> Result<Result<Value, Failure>> {
    let (mut server, server_addr) = server_role(options)?;
    let result = proxy(server_addr).call("publish", vec![Value::String("Give 100 euros".into())]);
    stage.server(server.line_with("kill -9: ")?.trim_end());
    server.wait_for_end()?;
    match &result {
        Ok(_) => stage.client("publish has a result"),
        Err(failure) => stage.client(format_args!("publish: {failure}")),
    }
    Ok(result)
}

/// What is on the board once the server is started again.
fn messages(stage: &mut Stage, file: &str, expected: usize) -> Result<()> {
    let mut server = Role::start(&["server", "0", "--journal", file])?;
    let banner = server.line_with(" messages; calls to ")?;
    let told = banner.split(';').next().unwrap_or_default();
    stage.say("restart", told);
    ensure!(told == format!("The board has {expected} messages"), "{told}");
    Ok(())
}
