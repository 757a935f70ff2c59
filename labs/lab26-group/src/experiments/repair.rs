//! One datagram in ten is lost: without repair the logs differ.

use std::time::Duration;

use anyhow::{Result, ensure};
use shared::{Predicts, Stage, Verdict};

use super::room::Room;
use crate::group::{Order, Settings};

const TEXTS: usize = 100;
const HEARTBEAT: Duration = Duration::from_millis(100);
/// The order, and whether somebody asks for what is missing.
const SETTINGS: [(&str, Order, bool); 3] = [
    ("plain multicast", Order::None, false),
    ("with repair", Order::None, true),
    ("with repair and fifo", Order::Fifo, true),
];

pub fn one_in_ten(stage: &mut Stage) -> Result<Verdict> {
    let question = stage.ask(
        "ann sends 100 texts to the group. bob and cid throw one datagram in ten away, as a bad network would. Three \
         settings: plain multicast; with repair (who finds a number missing asks for it); with repair and fifo (who \
         lacks a number delivers no later one). When do bob and cid have ann's log, text by text?",
        [
            ("in all three settings", [true, true, true]),
            ("in the second and the third", [false, true, true]),
            ("in the third setting only", [false, false, true]),
            ("in none of the three settings", [false, false, false]),
        ],
        Predicts { source: None, kit: [false, false, true] },
    )?;
    let mut observed = [false; 3];
    for (equal, (name, order, repair)) in observed.iter_mut().zip(SETTINGS) {
        let mut room = Room::open(Settings { repair, ..Settings::new(order, HEARTBEAT) })?;
        room.loss = 10;
        room.aloud = name == SETTINGS[0].0;
        for number in 1..=TEXTS {
            room.say(0, &format!("text {number}"));
            room.deliver(stage, |_, _| false)?;
            if number == 1 {
                room.aloud = false; // the others look like it
                let more = if name == SETTINGS[0].0 { "  and so on, 100 times" } else { "" };
                stage.say("setting", format_args!("{name}{more}"));
            }
            if number % 10 == 0 {
                room.pass(stage, HEARTBEAT)?;
            }
        }
        room.pass(stage, HEARTBEAT * 20)?;
        let logs = room.logs();
        let thrown: u32 = room.seats.iter().map(|seat| seat.thrown).sum();
        stage.say("", format_args!("{} datagrams received, {thrown} of them thrown away", room.received));
        for (name, log) in [("bob", &logs[1]), ("cid", &logs[2])] {
            let places = log.iter().zip(&logs[0]).take_while(|(one, other)| one == other).count();
            stage.say(name, format_args!("{} texts, the first {places} as in ann's log", log.len()));
        }
        ensure!(thrown > 10 && logs[0].len() == TEXTS, "{thrown} thrown away, ann has {} texts", logs[0].len());
        ensure!(
            repair == logs.iter().all(|log| log.len() == TEXTS),
            "repair {repair}, and {:?}",
            logs.iter().map(Vec::len).collect::<Vec<_>>()
        );
        *equal = logs.iter().all(|log| *log == logs[0]);
    }
    stage.verdict(question, observed, "repair brings what was lost, but late; fifo puts it in its place")
}
