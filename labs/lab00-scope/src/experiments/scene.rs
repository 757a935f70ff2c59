//! A scene is played by a child of the demo, in a private network: there an ordinary account may capture, and nothing else
//! passes. The demo shows what the child prints, and asks in between.

use std::{fmt::Display, io::stdin, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use kernel::{
    Pair, State,
    namespace::{START_LIMIT, ensure_private, own},
    tcp_socket,
};
use shared::{Role, Screen, Stage};

use super::{checksums, closing, group, losses, sending};

/// The child's longest wait, and more.
const LINE_LIMIT: Duration = Duration::from_secs(25);

/// The child's side: each line it prints is a label and a text.
pub struct Scene(Screen);

/// Plays the scene of one experiment; `outside` is the network of whoever started it.
pub fn play(experiment: &str, outside: &str) -> Result<()> {
    ensure_private(outside)?;
    let mut scene = Scene(Screen::new());
    scene.say("ready", "");
    let played = match experiment {
        "close-returns" => closing::close_returns_scene(&mut scene),
        "one-send" => sending::one_send_scene(&mut scene),
        "same-bytes" => checksums::same_bytes_scene(&mut scene),
        "sent-again" => sending::sent_again_scene(&mut scene),
        "not-received" => losses::not_received_scene(&mut scene),
        "missed" => losses::missed_scene(&mut scene),
        "group" => group::group_scene(&mut scene),
        "reset" => closing::reset_scene(&mut scene),
        other => bail!("no scene {other}"),
    };
    match &played {
        Ok(observed) => scene.say("observed", observed),
        Err(error) => scene.say("failed", format_args!("{error:#}")), // nobody sees standard error: namespace::command
    }
    played.map(drop)
}

impl Scene {
    pub fn say(&mut self, label: &str, text: impl Display) {
        self.0.line(format_args!("{label}\t{text}"));
    }

    /// The question is put; goes on once the class has predicted.
    pub fn ask(&mut self) -> Result<()> {
        self.say("ask", "");
        ensure!(stdin().read_line(&mut String::new())? > 0, "nobody asks any more");
        Ok(())
    }

    /// The states of both ends in the kernel's table, printed and returned.
    pub fn kernel(&mut self, client: Pair) -> Result<[Option<State>; 2]> {
        let state = |pair| Ok::<_, anyhow::Error>(tcp_socket(pair)?.map(|row| row.state));
        let states = [state(client)?, state(client.other_end())?];
        let [client, server] = states.map(named);
        self.say("kernel", format_args!("client {client}   server {server}"));
        Ok(states)
    }
}

/// The name of a state; `None`: the kernel's table does not have this end.
pub fn named(state: Option<State>) -> String {
    state.map_or("in no table".into(), |state| state.to_string())
}

/// The demo's side.
pub struct Shown(Role);

impl Shown {
    /// Starts the child, and shows what it does before the question.
    pub fn start(stage: &mut Stage, experiment: &str) -> Result<Shown> {
        let mut shown = Shown(Role::start_in_namespace(&["captured", experiment, &own()?])?);
        shown.0.wait_for_within("ready\t\n", START_LIMIT)?;
        shown.show(stage, "ask")?;
        let enter = format!("nsenter --preserve-credentials -U -n -t {}", shown.0.pid());
        stage.look(format_args!("{enter} ss -tuan"));
        Ok(shown)
    }

    /// Goes on after the question: shows what the child does, returns what it observed.
    pub fn observed(mut self, stage: &mut Stage) -> Result<String> {
        self.0.type_line("")?;
        self.show(stage, "observed")
    }

    /// Shows line after line, up to the one with this label; returns its text.
    fn show(&mut self, stage: &mut Stage, last: &str) -> Result<String> {
        loop {
            let line = self.0.wait_for_within("\n", LINE_LIMIT)?;
            let (label, text) = line.split_once('\t').with_context(|| format!("in the scene: {line}"))?;
            match label {
                _ if label == last => return Ok(text.into()),
                "failed" => bail!("in the scene: {text}"),
                _ => stage.say(label, text),
            }
        }
    }
}
