//! Over a cable of our own: the local copy, the far end, and the frames between them.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use shared::{Predicts, Role, Stage, Verdict};

use super::LIMIT;
use crate::wire::{Heard, SETTINGS};

pub fn loop_back(stage: &mut Stage) -> Result<Verdict> {
    let own = std::env::current_exe()?;
    let mut wire = Role::spawn(Command::new("unshare").args(["-Urn"]).arg(own).arg("wire"))?;
    wire.wait_for_within("ready\n", LIMIT)?;
    stage.say("cable", "unshare -Urn: a network of our own, and a veth pair in it");
    stage.say("", "one sender and one receiver at the near end, three at the far end");

    let question = stage.ask(
        "IP_MULTICAST_LOOP is untouched, on or off at the sender, and at the receiver. When does the near one hear?",
        [
            ("when both have set it", heard_where(|setting| setting == Some((true, true)))),
            ("when the receiver has not switched it off", heard_where(|setting| setting.is_none_or(|(_, on)| on))),
            ("when the sender has not switched it off", heard_where(|setting| setting.is_none_or(|(on, _)| on))),
            ("always: it is the same machine", heard_where(|_| true)),
        ],
        Predicts {
            source: Some(heard_where(|setting| setting == Some((true, true)))),
            kit: heard_where(|setting| setting.is_none_or(|(on, _)| on)),
        },
    )?;
    wire.type_line("go")?;
    stage.say("", "sender receiver   near IPv4  near IPv6  far IPv6");
    let mut observed = Vec::new();
    for setting in SETTINGS {
        let line = wire.line_with("heard ")?;
        let heard = Heard::from_line(&line).context("the cable's line is cut")?;
        let on_off = |on| if on { "on" } else { "off" };
        let (sender, receiver) = setting.map_or(("-", "-"), |(sender, receiver)| (on_off(sender), on_off(receiver)));
        let [near_v4, near_v6] = heard.near.map(|near| if near { "heard" } else { "nothing" });
        let far = heard.far;
        stage.say("loop", format_args!("{sender:<6} {receiver:<9}  {near_v4:<9}  {near_v6:<9}  {far} of 3 heard"));
        ensure!(far == 3, "only {far} of the three at the far end heard");
        ensure!(heard.frames.len() == 2, "two datagrams came in {} frames", heard.frames.len());
        ensure!(wire_addresses(&heard), "frames for {:?}", heard.frames);
        if setting == SETTINGS[SETTINGS.len() - 1] {
            stage.say("frames", "one for each datagram, whoever hears it; the last two were for");
            stage.say("", heard.frames.join(" and "));
        }
        observed.push(heard.near);
    }
    stage.verdict(question, observed, "only the sender's counts, and it is on by default")
}

/// Over IPv4 and IPv6, for each of the settings.
fn heard_where(hears: fn(Option<(bool, bool)>) -> bool) -> Vec<[bool; 2]> {
    SETTINGS.iter().map(|setting| [hears(*setting); 2]).collect()
}

/// RFC 1112 6.4 and RFC 2464 7: the address of the frame is made of the group's.
fn wire_addresses(heard: &Heard) -> bool {
    heard.frames == ["01:00:5e:01:01:01", "33:33:00:01:00:01"]
}
