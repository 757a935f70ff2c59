//! Orders: two who speak at once, and an answer that overtakes its question.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Result, ensure};
use shared::{Predicts, Stage, Verdict};

use super::room::{NAMES, Room};
use crate::group::{Datagram, Order, Settings};

const HEARTBEAT: Duration = Duration::from_millis(100);

pub fn two_at_once(stage: &mut Stage) -> Result<Verdict> {
    let question = stage.ask(
        "ann says \"red\" and bob says \"blue\" before either hears the other; nothing is lost. First, each member shows \
         what it says or hears at once. Then, ann is the sequencer: a text is shown in the place that ann gives it. How \
         many different logs do ann, bob and cid have?",
        [
            ("first 1, then 1: lo keeps one order", (1, 1)),
            ("first 2, then 1: ann's order counts", (2, 1)),
            ("first 2, then 2: bob keeps his own", (2, 2)),
            ("first 3, then 1: each hears it another way", (3, 1)),
        ],
        Predicts { source: None, kit: (2, 1) },
    )?;
    let without = two_speak(stage, Order::None)?;
    let with = two_speak(stage, Order::Total)?;
    stage.verdict(question, (without, with), "each shows its own text first; one order for all needs a decision")
}

/// How many different logs there are.
fn two_speak(stage: &mut Stage, order: Order) -> Result<usize> {
    stage.say("order", if order == Order::Total { "total: ann is the sequencer" } else { "none: as it comes" });
    let mut room = Room::open(Settings::new(order, HEARTBEAT))?;
    room.aloud = true;
    room.say(0, "red");
    room.say(1, "blue");
    room.deliver(stage, |_, _| false)?;
    let logs = room.logs();
    for (name, log) in NAMES.iter().zip(&logs) {
        stage.say(name, format_args!("has {}", log.join(", ")));
        ensure!(log.len() == 2, "{name} has {log:?}");
    }
    Ok(logs.into_iter().collect::<BTreeSet<_>>().len())
}

/// cid's log when the answer has come, and when the question has come, too.
type Logs = [&'static str; 2];

pub fn overtaken(stage: &mut Stage) -> Result<Verdict> {
    let question = stage.ask(
        "ann asks \"lunch?\", but cid's copy is lost. bob hears it and answers \"yes\". cid gets the answer, and later \
         ann's question by repair. What does cid's log show in the end, first with fifo, then with vector clocks?",
        [
            ("fifo: lunch? yes   clocks: lunch? yes", ["lunch? yes", "lunch? yes"]),
            ("fifo: yes lunch?   clocks: lunch? yes", ["yes lunch?", "lunch? yes"]),
            ("fifo: yes lunch?   clocks: yes lunch?", ["yes lunch?", "yes lunch?"]),
            ("fifo: lunch? yes   clocks: yes lunch?", ["lunch? yes", "yes lunch?"]),
        ],
        Predicts { source: None, kit: ["yes lunch?", "lunch? yes"] },
    )?;
    let fifo = answered(stage, Order::Fifo)?;
    let causal = answered(stage, Order::Causal)?;
    let known = |log: String| -> &'static str {
        if log == "lunch? yes" {
            "lunch? yes"
        } else if log == "yes lunch?" {
            "yes lunch?"
        } else {
            "something else"
        }
    };
    let observed: Logs = [known(fifo), known(causal)];
    stage.verdict(question, observed, "fifo orders one sender only; the clock says what an answer follows")
}

fn answered(stage: &mut Stage, order: Order) -> Result<String> {
    stage.say("order", if order == Order::Causal { "causal: vector clocks" } else { "fifo" });
    let mut room = Room::open(Settings::new(order, HEARTBEAT))?;
    room.aloud = true;
    room.say(0, "lunch?");
    room.deliver(stage, |to, datagram| to == 2 && matches!(datagram, Datagram::Item(_)))?;
    ensure!(room.seats[1].log == ["lunch?"] && room.seats[2].log.is_empty(), "{:?}", room.logs());
    stage.say("cid", "throws it away: lost");
    room.say(1, "yes");
    room.deliver(stage, |_, _| false)?;
    let before = room.seats[2].log.join(" ");
    stage.say("cid", if before.is_empty() { "holds the answer back".into() } else { format!("shows: {before}") });
    room.pass(stage, HEARTBEAT * 4)?;
    let after = room.seats[2].log.join(" ");
    stage.say("cid", format_args!("in the end: {after}"));
    Ok(after)
}
