//! How long TIME-WAIT lasts, read from the kernel's own timer, and which setting does not change it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kernel::{Pair, Row, State, namespace, tcp_socket, wait_for_state, wait_until};
use shared::{Predicts, Role, Stage, Verdict};

use crate::connection::{LIMIT, acknowledged, connected_pair, listening};

/// Between two looks at the timer.
const BETWEEN_LOOKS: Duration = Duration::from_millis(250);
/// The timer counts ticks of the kernel: 100 a second, or more.
const TICK: Duration = Duration::from_millis(20);
/// What the timer shows soon after the start of a minute; it may be a little more than 60 s.
const ABOUT_A_MINUTE: std::ops::RangeInclusive<Duration> = Duration::from_secs(50)..=Duration::from_secs(61);

pub fn how_long(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Lasts {
        RoundTrip,
        AboutAMinute,
        FourMinutes,
        Another(Duration),
    }
    let (listen_sock, server_addr) = listening()?;
    let (client_sock, conn_sock) = connected_pair(&listen_sock, server_addr)?;
    let client = Pair::of(&client_sock)?;

    let question = stage.ask(
        "The client closes, then the server. The kernel starts a timer for the client's TIME-WAIT. How long does it \
         run?",
        [
            ("some milliseconds: a few round trips of this network", Lasts::RoundTrip),
            ("4 minutes: RFC 9293 has 2 MSL, and an MSL of 2 minutes", Lasts::FourMinutes),
            ("60 seconds: a constant of Linux, whatever the network", Lasts::AboutAMinute),
        ],
        Predicts { source: None, kit: Lasts::AboutAMinute },
    )?;
    drop(client_sock); // close(2): FIN
    acknowledged(client)?;
    drop(conn_sock); // close(2): the other FIN
    wait_for_state(client, Some(State::TimeWait), LIMIT)?;

    let first = look_at_timer(stage, client)?;
    wait_until("the second look", LIMIT, || Ok((first.until.elapsed() >= BETWEEN_LOOKS).then_some(())))?;
    let second = look_at_timer(stage, client)?;
    // A timer that runs has lost as much as the clock has gained: at least this, at most that.
    let least = second.from.duration_since(first.until).saturating_sub(TICK);
    let most = second.until.duration_since(first.from) + TICK;
    let lost = first.left.saturating_sub(second.left);
    anyhow::ensure!((least..=most).contains(&lost), "the timer has lost {lost:?} in {least:?} to {most:?}");

    let observed = match first.left {
        left if left < Duration::from_secs(5) => Lasts::RoundTrip,
        left if ABOUT_A_MINUTE.contains(&left) => Lasts::AboutAMinute,
        left if left > Duration::from_secs(200) => Lasts::FourMinutes,
        left => Lasts::Another(left),
    };
    stage.verdict(question, observed, "60 s, a constant of Linux (TCP_TIMEWAIT_LEN)")
}

/// What the timer showed, at a moment between `from` and `until`.
struct Look {
    left: Duration,
    from: Instant,
    until: Instant,
}

fn look_at_timer(stage: &mut Stage, end: Pair) -> Result<Look> {
    let from = Instant::now();
    let row = tcp_socket(end)?.context("the row is gone")?;
    let until = Instant::now();
    let Row { state, timer: Some(left), .. } = row else { anyhow::bail!("{} has no timer", row.state) };
    stage.say("kernel", format_args!("client {state}  timer {:.2} s", left.as_secs_f64()));
    Ok(Look { left, from, until })
}

pub fn fin_timeout(stage: &mut Stage) -> Result<Verdict> {
    stage.say("private", "a network namespace of its own, where the setting may be changed");
    let question = stage.ask(
        "There tcp_fin_timeout becomes 1 s. Which timers of closed sockets end sooner than before?",
        [
            ("TIME-WAIT only", (true, false)),
            ("FIN-WAIT-2 only, where the peer does not close", (false, true)),
            ("TIME-WAIT, and FIN-WAIT-2 where the peer does not close", (true, true)),
            ("none: it limits how long close may block", (false, false)),
        ],
        Predicts { source: None, kit: (false, true) },
    )?;
    let mut role = Role::start_in_namespace(&["with-fin-timeout", "1", &namespace::own()?])?;
    let before = timers(stage, &mut role)?;
    let after = timers(stage, &mut role)?;
    let shortened = (after.0 < before.0 / 2.0, after.1 < before.1 / 2.0);
    if shortened.1 {
        let gone = role.line_with("FIN-WAIT-2 is gone")?;
        stage.say("private", gone.trim());
    }
    stage.verdict(question, shortened, "the setting is for FIN-WAIT-2; TIME-WAIT is a constant")
}

/// The next line of the private part: the timers of TIME-WAIT and of FIN-WAIT-2, in seconds.
fn timers(stage: &mut Stage, role: &mut Role) -> Result<(f64, f64)> {
    role.wait_for_within("tcp_fin_timeout ", namespace::START_LIMIT)?;
    let line = format!("tcp_fin_timeout {}", role.wait_for("\n")?);
    stage.say("private", &line);
    let after = |word: &str| -> Result<f64> {
        let number = line.split(word).nth(1).and_then(|rest| rest.split_whitespace().next());
        Ok(number.context("a timer is missing")?.parse()?)
    };
    Ok((after(" TIME-WAIT ")?, after(" FIN-WAIT-2 ")?))
}
