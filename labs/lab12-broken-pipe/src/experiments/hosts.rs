//! Two hosts and a cable: the questions. What is then done on the hosts stands below on_hosts/.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use kernel::namespace::{START_LIMIT, own};
use shared::{Predicts, Role, Stage, Verdict};

/// The longest wait on the hosts says every few seconds that it waits.
const LINE_LIMIT: Duration = Duration::from_secs(25);

/// A program of this lab that has both hosts, and plays one experiment on them.
struct OnHosts(Role);

impl OnHosts {
    /// Starts it, and shows what it does before the question.
    fn start(stage: &mut Stage, experiment: &str) -> Result<OnHosts> {
        let mut hosts = OnHosts(Role::start_in_namespace(&["on-hosts", experiment, &own()?])?);
        hosts.0.wait_for_within("ready\n", START_LIMIT)?;
        stage.say("hosts", "A is 10.0.0.1, B is 10.0.0.2, a cable joins them; the server is on A, the client on B");
        hosts.show(stage, "ask")?;
        stage.look(format_args!("nsenter --preserve-credentials -U -n -t {} ss -tano", hosts.0.pid()));
        Ok(hosts)
    }

    /// Goes on after the question: shows what it does, returns what it observed.
    fn observed(mut self, stage: &mut Stage) -> Result<String> {
        self.0.type_line("")?;
        self.show(stage, "observed")
    }

    /// Shows line after line, up to the one with this label; returns its text.
    fn show(&mut self, stage: &mut Stage, last: &str) -> Result<String> {
        loop {
            let line = self.0.wait_for_within("\n", LINE_LIMIT)?;
            let (label, text) = line.split_once('\t').with_context(|| format!("on the hosts: {line}"))?;
            match label {
                _ if label == last => return Ok(text.into()),
                "failed" => bail!("on the hosts: {text}"),
                _ => stage.say(label, text),
            }
        }
    }
}

pub fn link_down(stage: &mut Stage) -> Result<Verdict> {
    let hosts = OnHosts::start(stage, "link-down")?;
    let question = stage.ask(
        "Now the client's own link goes down. What do send (TCP), sendto (UDP) and a new connect return?",
        [
            ("4, 4, EINPROGRESS", "4, 4, EINPROGRESS".to_string()),
            ("ENETUNREACH, ENETUNREACH, ENETUNREACH", "ENETUNREACH, ENETUNREACH, ENETUNREACH".into()),
            ("4, ENETUNREACH, ENETUNREACH", "4, ENETUNREACH, ENETUNREACH".into()),
            ("EPIPE, ENETUNREACH, ENETUNREACH", "EPIPE, ENETUNREACH, ENETUNREACH".into()),
        ],
        Predicts {
            source: Some("ENETUNREACH, ENETUNREACH, ENETUNREACH".into()),
            kit: "4, ENETUNREACH, ENETUNREACH".into(),
        },
    )?;
    let observed = hosts.observed(stage)?;
    stage.verdict(question, observed, "UDP and connect need a route now; an established connection waits for one")
}

pub fn moved(stage: &mut Stage) -> Result<Verdict> {
    let hosts = OnHosts::start(stage, "moved")?;
    let question = stage.ask(
        "The client's host gets another address, as after a change of Wi-Fi. The client sends. What happens?",
        [
            ("the server gets it from the new address", "arrives".to_string()),
            ("send fails: EADDRNOTAVAIL", "fails".into()),
            ("send takes it, and the server gets nothing", "nothing".into()),
            ("the server gets a reset", "reset".into()),
        ],
        Predicts { source: Some("nothing".into()), kit: "nothing".into() },
    )?;
    let observed = hosts.observed(stage)?;
    stage.verdict(question, observed, "a connection keeps its two addresses; only a new connection has the new one")
}

pub fn gone(stage: &mut Stage) -> Result<Verdict> {
    let hosts = OnHosts::start(stage, "gone")?;
    let question = stage.ask(
        "10.0.0.1 is up, but nobody listens on port 9. No host has 10.0.0.9. How do two connects to port 9 end?",
        [
            ("10.0.0.1 ECONNREFUSED, 10.0.0.9 ECONNREFUSED", "ECONNREFUSED, ECONNREFUSED".to_string()),
            ("10.0.0.1 ETIMEDOUT, 10.0.0.9 ETIMEDOUT", "ETIMEDOUT, ETIMEDOUT".into()),
            ("10.0.0.1 ECONNREFUSED, 10.0.0.9 EHOSTUNREACH", "ECONNREFUSED, EHOSTUNREACH".into()),
            ("10.0.0.1 ECONNREFUSED, 10.0.0.9 ETIMEDOUT", "ECONNREFUSED, ETIMEDOUT".into()),
        ],
        Predicts { source: None, kit: "ECONNREFUSED, EHOSTUNREACH".into() },
    )?;
    let observed = hosts.observed(stage)?;
    stage.verdict(question, observed, "a host that is up refuses at once; for one that is gone, ARP gets no answer")
}
