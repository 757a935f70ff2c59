//! Who waits while a call takes its time.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use dxr::Value;
use kernel::{Patience, State, tcp_sockets, wait_until};
use shared::{Predicts, Stage, Verdict};

use super::{LIMIT, SILENCE, proxy, server_role};
use crate::proxy::{Failure, Proxy};

type Answer = Result<Value, Failure>;

pub fn behind_the_slow(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Gets {
        Answer,
        AnswerAfterSlow,
        Refused,
    }
    let mut observed = Gets::Answer;
    let mut question = None;
    for threaded in [false, true] {
        let options: &[&str] = if threaded { &["--slow", "--threaded"] } else { &["--slow"] };
        if threaded {
            stage.say("mended", "the same with server --threaded: a thread for each connection");
        }
        let (mut server, server_addr) = server_role(options)?;
        let slow = beside(proxy(server_addr), "slow", vec![]);
        server.wait_for("slow: waits for Enter\n")?;
        stage.say("client A", "calls slow(); the server's method is at work");
        if !threaded {
            question = Some(stage.ask(
                "slow() returns once Enter is pressed at the server; nobody has. Client B calls last(0). What does B get?",
                [
                    ("its answer at once", Gets::Answer),
                    ("its answer, once slow() has returned", Gets::AnswerAfterSlow),
                    ("ECONNREFUSED: the server is busy", Gets::Refused),
                ],
                Predicts { source: None, kit: Gets::AnswerAfterSlow },
            )?);
        }
        let fast = beside(proxy(server_addr), "last", vec![Value::Integer(0)]);
        if threaded {
            let answer = within(&fast, LIMIT)?.context("with threads B has no answer")?;
            stage.say("client B", format_args!("last(0) has {}", told(&answer)));
            ensure!(answer.is_ok() && within(&slow, Duration::ZERO)?.is_none(), "slow() has returned before");
            stage.say("client A", "still waits");
            server.type_line("")?;
            ensure!(within(&slow, LIMIT)?.is_some(), "slow() does not return");
            continue;
        }

        // B's connection and its call are in the kernel, and the program has neither; or B has its answer.
        let (mut answer, mut queued) = (None, None);
        wait_until("B's call in the kernel, or an answer", LIMIT, || {
            answer = within(&fast, Duration::ZERO)?;
            let rows = tcp_sockets(server_addr.port())?;
            let unread = |row: &&kernel::Row| row.state == State::Established && row.recv_queue > 0 && row.inode == 0;
            queued = rows.iter().find(unread).map(|row| row.recv_queue);
            Ok((answer.is_some() || queued.is_some()).then_some(()))
        })?;
        if answer.is_none() {
            answer = within(&fast, SILENCE)?; // a server with threads is only about to accept B
        }
        if let (None, Some(bytes)) = (&answer, queued) {
            stage.say("client B", format_args!("has waited {SILENCE:?}: no answer"));
            stage.say("kernel", format_args!("B is connected, not accepted; {bytes} bytes of its call wait unread"));
            stage.say("server", "Enter is pressed: slow() returns");
            server.type_line("")?;
            ensure!(within(&slow, LIMIT)?.is_some_and(|answer| answer.is_ok()), "slow() does not return");
            let after = within(&fast, LIMIT)?.context("B has no answer after slow() either")?;
            stage.say("client B", format_args!("last(0) has {}", told(&after)));
            after?;
            observed = Gets::AnswerAfterSlow;
        } else if let Some(answer) = answer {
            stage.say("client B", format_args!("last(0) has {}", told(&answer)));
            if answer.is_err() {
                observed = Gets::Refused;
            }
        }
    }
    let question = question.context("nothing was asked")?;
    stage.verdict(
        question,
        observed,
        "one thread runs one call at a time: whoever calls next waits, however short its call is",
    )
}

/// Calls in a thread of its own.
fn beside(proxy: Proxy, name: &'static str, params: Vec<Value>) -> Receiver<Answer> {
    let (done, answers) = channel();
    thread::spawn(move || done.send(proxy.call(name, params)));
    answers
}

/// The answer, if it comes in time.
fn within(answers: &Receiver<Answer>, limit: Duration) -> Result<Option<Answer>> {
    let mut patience = Patience::new(limit);
    loop {
        match answers.recv_timeout(patience.step()) {
            Ok(answer) => return Ok(Some(answer)),
            Err(RecvTimeoutError::Timeout) if patience.is_over() => return Ok(None),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => anyhow::bail!("the call was answered before"),
        }
    }
}

fn told(answer: &Answer) -> String {
    match answer {
        Ok(_) => "its answer".into(),
        Err(failure) => failure.to_string(),
    }
}
