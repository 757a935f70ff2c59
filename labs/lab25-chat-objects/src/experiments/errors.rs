//! What a caller learns of an error, and what a taken name does.

use anyhow::Result;
use kernel::NotSeen;
use shared::{Predicts, Stage, Verdict};

use super::{Calls, server_role, workshop_role};
use crate::{
    objects::{Chat, ChatClient, User, UserClient},
    workshop::{Workshop, WorkshopClient},
};

pub fn lost_panic(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Gets {
        Text,
        BareError,
        Nothing,
    }
    let calls = Calls::new()?;
    let (mut server, server_addr) = workshop_role()?;
    let workshop: WorkshopClient = calls.connect(stage, "client", server_addr)?;
    let refusing = workshop.clone();
    let refused = calls.wait("the answer of refuse", async move { refusing.refuse().await })?;
    stage.server("refuse() returns an error that its interface declares");
    stage.client(format_args!("refuse() fails: {refused:?}"));

    let question = stage.ask(
        "fail() has a bug: it panics with the text \"no user 42\". What does the client get?",
        [
            ("an error with the text \"no user 42\"", Gets::Text),
            ("an error that does not say what it was", Gets::BareError),
            ("no answer: the call waits for one", Gets::Nothing),
        ],
        Predicts { source: None, kit: Gets::BareError },
    )?;
    let failing = workshop.clone();
    let gets = match calls.wait("the answer of fail", async move { failing.fail().await }) {
        Ok(result) => {
            stage.client(format_args!("fail() fails: {result:?}"));
            if format!("{result:?}").contains("no user 42") { Gets::Text } else { Gets::BareError }
        }
        Err(error) if error.is::<NotSeen>() => Gets::Nothing,
        Err(error) => return Err(error),
    };
    stage.server(server.line_with("panic in process ")?.trim_end());
    let inside = calls.wait("the next answer", async move { workshop.inside().await })?;
    stage.client(match &inside {
        Ok(_) => "the next call is answered: the object is still there".into(),
        Err(error) => format!("the next call fails: {error}"),
    });
    stage.verdict(question, gets, "a declared error travels whole, as a value; of a panic only \"it failed\" arrives")
}

pub fn name_taken(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Reads {
        First,
        Second,
        Nobody,
    }
    let calls = Calls::new()?;
    let mut observed = Reads::Nobody;
    let mut question = None;
    for options in [&["--overwrite"][..], &[]] {
        let overwrites = !options.is_empty();
        if !overwrites {
            stage.say("mended", "the same with a server that looks first whether the name is taken");
        }
        let (_server, server_addr) = server_role(options)?;
        let chat: ChatClient = calls.connect(stage, "clients", server_addr)?;
        let register = |name: &str| {
            let (chat, name) = (chat.clone(), name.to_string());
            calls.wait("the answer of register", async move { chat.register(name, None).await })
        };
        let first = register("ann")??;
        let bob = register("bob")??;
        stage.say("clients", "register(\"ann\") and register(\"bob\") are done");
        if overwrites {
            question = Some(stage.ask(
                "A second client registers as ann, then bob posts a private message to ann. Who gets the message?",
                [
                    ("the first ann: she had the name before", Reads::First),
                    ("the second ann: the name is hers now", Reads::Second),
                    ("nobody: the name stands for two users", Reads::Nobody),
                ],
                Predicts { source: None, kit: Reads::Second },
            )?);
        }
        let second = register("ann")?;
        stage.say(
            "second",
            match &second {
                Ok(_) => "register(\"ann\") is done".into(),
                Err(error) => format!("register(\"ann\") fails: {error:?}"),
            },
        );
        let told = calls.wait("post_private", async move { bob.post_private("secret".into(), "ann".into()).await })?;
        stage.say(
            "bob",
            format_args!("post_private(\"secret\", \"ann\") {}", if told.is_ok() { "is done" } else { "fails" }),
        );
        let read = |user: Option<UserClient>| -> Result<Vec<String>> {
            let Some(user) = user else { return Ok(Vec::new()) };
            let messages = calls.wait("get", async move { user.get().await })??;
            Ok(messages.iter().map(|message| message.to_string()).collect())
        };
        let (first_reads, second_reads) = (read(Some(first))?, read(second.ok())?);
        stage.say("first", format_args!("get() returns {first_reads:?}"));
        if overwrites {
            stage.say("second", format_args!("get() returns {second_reads:?}"));
            observed = match (first_reads.is_empty(), second_reads.is_empty()) {
                (false, true) => Reads::First,
                (true, false) => Reads::Second,
                _ => Reads::Nobody,
            };
        }
    }
    let question = question.ok_or_else(|| anyhow::anyhow!("nothing was asked"))?;
    stage.verdict(question, observed, "users[me] = user replaces whoever had the name: look first, and refuse")
}
