//! Two private networks and a broker between them: the question. What is done on the hosts stands in on_hosts.rs.

use anyhow::{Context, Result, bail};
use kernel::namespace::{START_LIMIT, own};
use shared::{Predicts, Role, Stage, Verdict};

pub fn dial_out(stage: &mut Stage) -> Result<Verdict> {
    let mut hosts = Role::start_in_namespace(&["on-hosts", &own()?])?;
    hosts.wait_for_within("ready\n", START_LIMIT)?;
    show(stage, &mut hosts, "ask")?;
    let question = stage.ask(
        "The server in B subscribes through the broker, then the client in A publishes. Does the text arrive, and who has called accept?",
        [
            ("it arrives; the broker alone accepted", "arrives, broker 2, A 0, B 0".to_string()),
            ("it arrives; the server in B accepted, too", "arrives, broker 2, A 0, B 1".into()),
            ("it does not: B cannot be reached from A", "does not arrive".into()),
        ],
        Predicts { source: Some("arrives, broker 2, A 0, B 0".into()), kit: "arrives, broker 2, A 0, B 0".into() },
    )?;
    hosts.type_line("")?;
    let observed = show(stage, &mut hosts, "observed")?;
    stage.verdict(question, observed, "each dials out, to the broker alone: nobody needs a way to the other")
}

/// Shows line after line, up to the one with this label; returns its text.
fn show(stage: &mut Stage, hosts: &mut Role, last: &str) -> Result<String> {
    loop {
        let line = hosts.wait_for_within("\n", START_LIMIT)?;
        let (label, text) = line.split_once('\t').with_context(|| format!("on the hosts: {line}"))?;
        match label {
            _ if label == last => return Ok(text.into()),
            "broken" => bail!("on the hosts: {text}"),
            _ => stage.say(label, text),
        }
    }
}
