//! Who keeps the membership, and for how long.

use std::process::Command;

use anyhow::Result;
use kernel::{NotSeen, wait_until};
use nix::sys::signal::{Signal, kill};
use shared::{At, Predicts, Role, Stage, Verdict};

use super::{LIMIT, OwnGroup, users};

pub fn membership(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Left {
        WithTheFirst,
        WithTheLast,
        Later,
    }
    let group = OwnGroup::new()?;
    let group_addr = group.addr.to_string();
    let mut receivers = Vec::new();
    for _ in 0..2 {
        let mut receiver = Role::start(&["receive", &group_addr])?;
        let joined = receiver.line_with("Joined")?;
        stage.say("receiver", format_args!("process {}: {joined}", receiver.pid()));
        receivers.push(receiver);
    }
    print_membership(stage, &group)?;

    stage.look("ip maddr show dev lo    or: netstat -gn");
    let question = stage.ask(
        "kill -9 ends one, then the other: neither leaves the group. When is lo out of it?",
        [
            ("with the end of the first", Left::WithTheFirst),
            ("later: nobody called IP_DROP_MEMBERSHIP, so a timeout has to", Left::Later),
            ("with the end of the last", Left::WithTheLast),
        ],
        Predicts { source: None, kit: Left::WithTheLast },
    )?;
    let mut counts = Vec::new();
    for mut receiver in receivers {
        let before = users(group.ip())?;
        kill(receiver.pid(), Signal::SIGKILL).at("kill", receiver.pid())?;
        stage.say("kill", format_args!("kill -9 {}", receiver.pid()));
        receiver.wait_for_end()?;
        match wait_until("another number of users", LIMIT, || Ok((users(group.ip())? != before).then_some(()))) {
            Err(error) if !error.is::<NotSeen>() => return Err(error),
            _ => print_membership(stage, &group)?,
        }
        counts.push(users(group.ip())?);
    }
    let observed = match counts[..] {
        [None, _] => Left::WithTheFirst,
        [Some(1), None] => Left::WithTheLast,
        _ => Left::Later,
    };
    stage.verdict(question, observed, "a membership is a socket's; the kernel ends it with the socket")
}

/// The same number from both: the kernel's table, and ip(8) where it is installed.
fn print_membership(stage: &mut Stage, group: &OwnGroup) -> Result<()> {
    let ip = group.ip().to_string();
    let users = users(group.ip())?;
    let text = users.map_or("not joined".into(), |users| format!("joined by {users}"));
    stage.say("kernel", format_args!("/proc/net/igmp: lo, {ip}: {text}"));
    let Some(mut line) = ip_maddr(&ip) else { return Ok(()) };
    for _ in 0..2 {
        if line.is_empty() && users.is_some() {
            line = ip_maddr(&ip).unwrap_or_default(); // as in `users`: a line may be missed
        }
    }
    stage.say("ip maddr", if line.is_empty() { "the group is not in the list" } else { &line });
    Ok(())
}

/// The line of a group in what ip(8) shows of lo, empty if there is none; `None` where it is not installed.
fn ip_maddr(group: &str) -> Option<String> {
    let shown = Command::new("ip").args(["-4", "maddr", "show", "dev", "lo"]).output().ok()?;
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    let mut lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let line = lines.find(|words| words.contains(&group)).unwrap_or_default();
    shown.status.success().then(|| line.join(" "))
}
