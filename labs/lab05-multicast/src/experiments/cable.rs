//! A cable of our own: the copy for the sender's own host, the far end, and the frames on the cable.

use anyhow::{Context, Result, ensure};
use kernel::namespace::START_LIMIT;
use shared::{Predicts, Stage, Verdict};

use crate::wire::{self, Heard, SETTINGS};

pub fn loop_back(stage: &mut Stage) -> Result<Verdict> {
    stage.say("cable", "unshare -Urn: a private network, a veth pair in it");
    let mut wire = wire::start()?;
    wire.wait_for_within("ready\n", START_LIMIT)?;
    stage.say("", "near end: a sender and a receiver; far end: three receivers");

    let question = stage.ask(
        "IP_MULTICAST_LOOP is untouched, on, or off: at the sender, and at the receiver of the same machine. When \
         does this receiver hear the multicast?",
        [
            ("if sender and receiver have set it", heard_where(|setting| setting == Some((true, true)))),
            ("unless the receiver has set it to off", heard_where(|setting| setting.is_none_or(|(_, on)| on))),
            ("unless the sender has set it to off", heard_where(|setting| setting.is_none_or(|(on, _)| on))),
            ("with each setting: it is the same machine", heard_where(|_| true)),
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
            stage.say("frames", "one for each datagram, however many hear it; the last two were for");
            stage.say("", heard.frames.join(" and "));
        }
        observed.push(heard.near);
    }
    stage.verdict(question, observed, "only the option of the sender counts, and it is on by default")
}

/// Over IPv4 and IPv6, for each of the settings.
fn heard_where(hears: fn(Option<(bool, bool)>) -> bool) -> Vec<[bool; 2]> {
    SETTINGS.iter().map(|setting| [hears(*setting); 2]).collect()
}

/// RFC 1112 6.4 and RFC 2464 7: the frame's address is made from the group's address.
fn wire_addresses(heard: &Heard) -> bool {
    heard.frames == ["01:00:5e:01:01:01", "33:33:00:01:00:01"]
}
