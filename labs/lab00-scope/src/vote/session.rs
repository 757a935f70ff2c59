//! A lecture with votes: what the demo shows, what the lecturer presses, and what then happens to the vote.

mod play;

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Instant;

use anyhow::Result;
use shared::{DOUBLE_PRESS, Screen};

use super::ballot::Phase;
use super::console::{Console, Key};
use super::demo::Demo;
use super::picture::{gathering, hidden, histogram, voting};
use super::reader::Reader;
use super::room::Room;
use super::routes::Class;
use super::save::Save;

/// What `?` shows.
const KEYS: [&str; 2] = [
    "Enter, Space, Right: go on   k: the kernel decides now   r: again   s: skip   q: quit",
    "h: hides or shows the votes for each answer   c: the code",
];
/// The key by which a program goes on in a demo, however soon: see shared/roles/src/keys.rs.
const GO: &str = "g";
/// Rows that the histograms below a verdict need: a demo that knows of fewer shows its question again above it.
const HISTOGRAM_ROWS: usize = 7;
/// A demo with --pause needs as many rows.
const LEAST_ROWS: usize = 24;

/// What is waited for.
#[derive(PartialEq, Eq)]
enum Step {
    /// The class opens the page.
    Gather,
    /// The demo plays.
    Play,
    /// The class votes, or has voted.
    Vote,
    /// The lecturer answers this prompt of the demo.
    Prompt(String),
    /// The lecturer ends it.
    Over,
    /// Nothing any more.
    End,
}

/// What has the screen to itself until the next key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    Nothing,
    /// The address and its code.
    Code,
    /// The keys.
    Help,
}

/// What is played: a program of a lab, and the experiments.
pub struct Show {
    /// The lab's program.
    pub program: PathBuf,
    /// What stands behind `demo`.
    pub names: Vec<String>,
}

/// A lecture while it is held.
pub struct Session {
    show: Show,
    room: Room,
    /// The class and its votes.
    pub class: Class,
    /// The lecturer's terminal.
    pub console: Console,
    /// The demo, once it is played.
    pub demo: Option<Demo>,
    save: Save,
    reader: Reader,
    step: Step,
    over: Over,
    /// When a key was pressed last.
    pressed: Option<Instant>,
    /// The votes for each answer are hidden: the class talks before it knows what most of it believe.
    hides: bool,
    /// A question was voted on, and its votes are not kept yet.
    pending: bool,
    /// Experiments that are decided: played again, the class knows the answer.
    decided: HashSet<String>,
    results: Vec<String>,
    /// How the demo ended.
    pub ended: Option<ExitStatus>,
}

/// The size that a demo is told.
fn demo_size(console: &Console) -> (usize, usize) {
    let (columns, rows) = console.size();
    (columns, rows.saturating_sub(HISTOGRAM_ROWS).max(rows.min(LEAST_ROWS)))
}

/// The keys, below a line that is empty.
fn help() -> Vec<String> {
    let screen = Screen::new();
    let keys = KEYS.map(|keys| screen.hang("          ", keys)).join("\n");
    format!("\n{keys}").lines().map(String::from).collect()
}

impl Session {
    /// Begins with the address for the class.
    pub fn new(show: Show, room: Room, class: Class, console: Console, save: Save) -> Session {
        let (reader, step, decided, results) = (Reader::default(), Step::Gather, HashSet::new(), Vec::new());
        let (demo, over, pressed, hides, pending, ended) = (None, Over::Nothing, None, true, false, None);
        Session {
            show,
            room,
            class,
            console,
            demo,
            save,
            reader,
            step,
            over,
            pressed,
            hides,
            pending,
            decided,
            results,
            ended,
        }
    }

    /// Whether a key is waited for.
    pub fn waits(&self) -> bool {
        !matches!(self.step, Step::Play | Step::End)
    }

    /// Whether all is over.
    pub fn is_over(&self) -> bool {
        self.step == Step::End
    }

    /// Nothing was asked yet: an end of input then is a mistake on the command line.
    pub fn is_at_its_beginning(&self) -> bool {
        self.step == Step::Gather
    }

    /// Shows what belongs to this step below the demo's lines.
    pub fn draw(&mut self) {
        let (columns, _) = self.console.size();
        let ballot = &self.class.ballot;
        let lines = match &self.step {
            _ if self.over == Over::Code => gathering(&self.room, self.console.size()),
            _ if self.over == Over::Help => help(),
            Step::Gather => gathering(&self.room, self.console.size()),
            Step::Vote if ballot.phase() == Phase::Open => voting(&self.room, (columns, self.console.room())),
            Step::Vote if self.hides => [vec![String::new()], hidden(ballot)].concat(),
            Step::Vote => [vec![String::new()], histogram(ballot, columns)].concat(),
            _ => Vec::new(),
        };
        self.console.draw(&lines, &self.status());
    }

    /// The counts go on while nobody presses anything.
    pub fn tick(&mut self) {
        if self.console.is_back() {
            self.draw();
        } else if self.waits() {
            let status = self.status();
            self.console.status(&status);
        }
    }

    /// The last line: how many are here or have voted, and the key that goes on.
    fn status(&self) -> String {
        let ballot = &self.class.ballot;
        let (here, voted) = (self.class.crowd.here(Instant::now()), ballot.voted());
        let name = if ballot.rounds() > 1 { format!("vote {}", ballot.round()) } else { "vote".into() };
        match &self.step {
            _ if self.over != Over::Nothing => format!("          {here} here   [Enter] back"),
            Step::Gather => format!("          {here} here   [Enter] begin   (? keys)"),
            Step::Vote if ballot.phase() == Phase::Open => {
                format!("          {voted} voted, {here} here   [Enter] close {name}   (? keys)")
            }
            Step::Vote if !ballot.is_last() => {
                "          [Enter] vote again   (k the kernel decides now, ? keys)".into()
            }
            Step::Vote => "          [Enter] let the kernel decide   (? keys)".into(),
            Step::Prompt(prompt) => prompt.clone(),
            Step::Over => "          [Enter] end   (the page says that it is over)".into(),
            Step::Play | Step::End => String::new(),
        }
    }

    fn wait_for(&mut self, step: Step) {
        self.step = step;
        self.console.forget_typed();
        self.draw();
    }

    /// What the lecturer pressed.
    ///
    /// # Errors
    /// The demo's terminal cannot be resized.
    pub fn press(&mut self, key: Key) -> Result<()> {
        let pressed = self.pressed.replace(Instant::now());
        if key == Key::Go && self.console.has_keys() && pressed.is_some_and(|before| before.elapsed() < DOUBLE_PRESS) {
            return Ok(());
        }
        if std::mem::replace(&mut self.over, Over::Nothing) != Over::Nothing {
            self.console.back();
            self.draw();
            return Ok(());
        }
        match (key, &self.step) {
            (Key::Code, Step::Vote | Step::Prompt(_)) => {
                self.over = Over::Code;
                let lines = gathering(&self.room, self.console.size());
                self.console.instead(&lines, &self.status());
            }
            (Key::Help, _) => {
                self.over = Over::Help;
                self.draw();
            }
            (Key::Go, Step::Gather) => {
                self.console.erase();
                self.demo = Some(Demo::start(&self.show.program, &self.show.names, demo_size(&self.console))?);
                self.step = Step::Play;
            }
            (Key::Quit | Key::End, Step::Gather) | (Key::Go | Key::Quit | Key::End, Step::Over) => {
                self.console.erase();
                self.step = Step::End;
            }
            (_, Step::Vote) => self.vote(key)?,
            (Key::Go, Step::Prompt(_)) => self.answer(GO)?,
            (Key::Again, Step::Prompt(_)) => self.answer("r")?,
            (Key::Skip, Step::Prompt(_)) => self.answer("s")?,
            (Key::Quit | Key::End, Step::Prompt(_)) => self.answer("q")?,
            _ => {}
        }
        Ok(())
    }

    /// What was pressed while a question stands.
    fn vote(&mut self, key: Key) -> Result<()> {
        let ballot = &mut self.class.ballot;
        match (key, ballot.phase()) {
            (Key::Go, Phase::Open) => {
                ballot.close();
                self.hides = !ballot.is_last();
                self.draw();
            }
            (Key::Hide, Phase::Closed) => {
                self.hides = !self.hides;
                self.draw();
            }
            (Key::Go, _) if !ballot.is_last() => {
                ballot.open();
                self.draw();
            }
            (Key::Go | Key::Kernel, _) => {
                ballot.decides_now();
                self.answer(GO)?;
            }
            (Key::Again, _) => {
                ballot.close();
                self.pending = false; // what was voted before it began again is not kept
                self.answer("r")?;
            }
            (Key::Skip, _) => self.answer("s")?,
            (Key::Quit | Key::End, _) => self.answer("q")?,
            _ => {}
        }
        Ok(())
    }

    /// Presses a key of the demo, in the place of its prompt.
    fn answer(&mut self, key: &str) -> Result<()> {
        let shown = match &self.step {
            Step::Prompt(prompt) => prompt.clone(),
            _ => format!("          {} voted", self.class.ballot.voted()),
        };
        self.console.answered(&shown);
        self.console.measure();
        self.step = Step::Play;
        if let Some(demo) = &mut self.demo {
            demo.resize(demo_size(&self.console))?;
            demo.press(key);
        }
        Ok(())
    }
}
