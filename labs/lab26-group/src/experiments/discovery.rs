//! A client that knows no server.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use shared::{At, Predicts, Role, Stage, Verdict};

use super::{crash::members, room::OwnGroup};

#[derive(Debug, PartialEq)]
enum Text {
    Lost,
    WithTheDead,
    WithTheOther,
    Twice,
}

pub fn discovery(stage: &mut Stage) -> Result<Verdict> {
    let names = ["ann", "bob"];
    let group = OwnGroup::new()?;
    let mut members = members(stage, &group, &names, "fifo")?;
    let mut client = Role::start(&["find", &group.addr.to_string(), "--answers", "2"])?;
    let first = client.line_with("taken: it is the first")?;
    stage.say("client", first.trim());
    let other = client.line_with(" answers from ")?;
    stage.say("client", other.trim());
    let taken = names.iter().position(|name| first.contains(&format!("* {name} "))).context("no name")?;
    ensure!(other.contains(names[1 - taken]), "answers from {first} and {other}");
    client.type_line("one")?;
    let said = client.line_with(" has said it")?;
    stage.say("client", format_args!("one   {}", said.trim()));

    let question = stage.ask(
        "Two servers have answered; the client has taken the first. Now this one gets kill -9, and the client sends its \
         next text. What becomes of the text?",
        [
            ("it is lost: UDP reports no dead server", Text::Lost),
            ("it waits for the dead one to come back", Text::WithTheDead),
            ("the other one says it: the client asks again", Text::WithTheOther),
            ("it is said twice: both servers have it", Text::Twice),
        ],
        Predicts { source: Some(Text::WithTheOther), kit: Text::WithTheOther },
    )?;
    kill(members[taken].pid(), Signal::SIGKILL).at("kill", members[taken].pid())?;
    stage.say("kill", format_args!("kill({}, SIGKILL) to {}", members[taken].pid(), names[taken]));
    client.type_line("two")?;
    let gone = client.line_with("asking the group again")?;
    stage.say("client", gone.trim());
    let said = client.line_with(" has said it")?;
    stage.say("client", format_args!("two   {}", said.trim()));
    let survivor = &mut members[1 - taken];
    let text = format!("{}: two\n", names[1 - taken]);
    survivor.wait_for(&text)?;
    let times = survivor.printed().matches(&text).count();
    stage.say(names[1 - taken], format_args!("its log has the text {times} time"));
    let observed = if times == 1 { Text::WithTheOther } else { Text::Twice };
    stage.verdict(question, observed, "the group is asked again, and whoever is there answers")
}
