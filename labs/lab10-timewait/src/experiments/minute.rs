//! How long it lasts, read from the kernel's own timer, and what does not change that.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use kernel::{Pair, State, wait_for_state};
use shared::{At, Predicts, Role, Stage, Verdict};

use super::{ABOUT_A_MINUTE, LIMIT, acknowledged, connected_pair, listening};
use crate::fin_timeout;

const FIN_TIMEOUT: &str = "/proc/sys/net/ipv4/tcp_fin_timeout";
/// So short that nobody has to wait for it.
const CHANGED_TO: &str = "1";

pub fn how_long(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Lasts {
        RoundTrip,
        AboutAMinute,
        FourMinutes,
        Another(Option<Duration>),
    }
    let setting = setting()?;
    stage.say("setting", format_args!("tcp_fin_timeout is {setting} s"));
    let (listen_sock, server_addr) = listening(false)?;
    let (client_sock, conn_sock) = connected_pair(&listen_sock, server_addr)?;
    let client = Pair::of(&client_sock)?;

    let question = stage.ask(
        "The client closes, then the server. The kernel starts a timer for the client's TIME-WAIT. How long?",
        [
            ("some milliseconds: a few round trips of this network", Lasts::RoundTrip),
            ("4 minutes: RFC 9293 has 2 MSL, and an MSL of 2 minutes", Lasts::FourMinutes),
            ("about 60 seconds", Lasts::AboutAMinute),
        ],
        Predicts { source: None, kit: Lasts::AboutAMinute },
    )?;
    drop(client_sock); // close(2): FIN
    acknowledged(client)?;
    drop(conn_sock); // close(2): the other FIN
    let row = wait_for_state(client, Some(State::TimeWait), LIMIT)?.context("no row")?;
    let left = row.timer.map_or("none".into(), |left| format!("{:.1} s", left.as_secs_f64()));
    stage.say("kernel", format_args!("client {}  timer {left}", row.state));
    let observed = match row.timer {
        Some(left) if left < Duration::from_secs(5) => Lasts::RoundTrip,
        Some(left) if ABOUT_A_MINUTE.contains(&left) => Lasts::AboutAMinute,
        Some(left) if left > Duration::from_secs(200) => Lasts::FourMinutes,
        left => Lasts::Another(left),
    };
    stage.verdict(question, observed, "60 s, a constant of Linux (TCP_TIMEWAIT_LEN)")
}

pub fn fin_timeout(stage: &mut Stage) -> Result<Verdict> {
    stage.say("private", "a network namespace of its own, where the setting may be changed");
    stage.say("setting", format_args!("there tcp_fin_timeout becomes {CHANGED_TO} s, here it stays {} s", setting()?));
    let question = stage.ask(
        "Which wait does the setting shorten: TIME-WAIT, or FIN-WAIT-2 of a closed socket whose peer does not close?",
        [
            ("TIME-WAIT only", (true, false)),
            ("both", (true, true)),
            ("FIN-WAIT-2 only", (false, true)),
            ("neither: it is for connections that start after a reboot", (false, false)),
        ],
        Predicts { source: None, kit: (false, true) },
    )?;
    let outside = fs::read_link(fin_timeout::NAMESPACE).at("readlink", fin_timeout::NAMESPACE)?;
    let outside = outside.to_str().context("no namespace")?;
    let mut role = Role::start_in_namespace(&["fin-timeout", CHANGED_TO, outside])?;
    let line = role.line_with("timers ")?;
    let seen = line.trim_start_matches("timers ").trim();
    stage.say("private", seen);
    let after = |word: &str| -> Result<f64> {
        let number = seen.split(word).nth(1).and_then(|rest| rest.split_whitespace().next());
        Ok(number.context("a timer is missing")?.parse()?)
    };
    let (time_wait, fin_wait_2) = (after("TIME-WAIT ")?, after("FIN-WAIT-2 ")?);
    let shortened = [time_wait, fin_wait_2].map(|left| !ABOUT_A_MINUTE.contains(&Duration::from_secs_f64(left)));
    if shortened[1] {
        let line = role.line_with(" is gone after ")?;
        stage.say("private", line.trim());
    }
    stage.verdict(question, shortened.into(), "it is for FIN-WAIT-2; TIME-WAIT is a constant")
}

fn setting() -> Result<String> {
    Ok(fs::read_to_string(FIN_TIMEOUT).at("open", FIN_TIMEOUT)?.trim().into())
}
