//! Experiments: asked, played against the kernel, and decided by what was observed.

use std::fmt::{Debug, Display};
use std::io::{IsTerminal, stdin};
use std::process::{ExitCode, exit};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, bail};
use nix::sys::termios::{FlushArg, tcflush};
use nix::sys::utsname::uname;

use crate::kernel::{Pair, State, tcp_socket};
use crate::{DemoArgs, NotSeen, Screen};

/// Lines stay below 80 columns.
const WIDTH: usize = 79;
/// The label in front of each line.
const LABEL: usize = 10;
/// A call that still blocks after this time is the finding.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// A pause in the output longer than this carries a stamp.
const STAMP_FROM: Duration = Duration::from_millis(100);

const CONFIRMED: &str = "CONFIRMED";
const CORRECTED: &str = "CORRECTED";
const ANSWERED: &str = "ANSWERED";
const UNEXPECTED: &str = "UNEXPECTED";
const SKIPPED: &str = "SKIPPED";
const NOT_PLAYED: &str = "not played";

/// What an experiment needs of this machine, beyond Linux 5.10.
pub struct Need {
    /// What it is, as in "needs ...".
    pub what: &'static str,
    /// The command or setting that provides it.
    pub provided_by: &'static str,
    /// Whether this machine has it.
    pub met: fn() -> bool,
}

/// One claim of the lecture, and the function that lets the kernel decide it.
pub struct Experiment {
    /// Its name on the command line.
    pub id: &'static str,
    /// One of the three a class remembers.
    pub starred: bool,
    /// What the source says, in our words.
    pub claim: &'static str,
    /// Where it says so; or "ours".
    pub source: &'static str,
    /// What it cannot run without.
    pub needs: &'static [Need],
    /// The experiment.
    pub play: fn(&mut Stage) -> Result<Verdict>,
}

/// A lab's experiments and what to do after them.
pub struct Lesson {
    /// The lab's package name.
    pub lab: &'static str,
    /// One clause for the header: where the two ends run.
    pub setting: &'static str,
    /// The experiments, starred ones first.
    pub experiments: &'static [Experiment],
    /// What to type next: label and command.
    pub next: &'static [(&'static str, &'static str)],
}

/// What is predicted before the experiment runs.
pub struct Predicts<T> {
    /// By the source; `None` where it asks, or where the question is ours.
    pub source: Option<T>,
    /// By this kit.
    pub kit: T,
}

/// A question that was put: its answers, each with the observation that would prove it, and the predictions.
pub struct Question<T> {
    answers: Vec<(&'static str, T)>,
    predicts: Predicts<T>,
    guess: Option<usize>,
}

impl<T: PartialEq + Debug> Question<T> {
    fn place(&self, value: &T) -> Option<usize> {
        self.answers.iter().position(|(_, answer)| answer == value)
    }

    /// The answer a value proves, with its letter; the bare value where it proves none.
    fn told(&self, value: &T) -> String {
        match self.place(value) {
            Some(at) => format!("{}) {}", letter(at), self.answers[at].0),
            None => format!("{value:?}"),
        }
    }
}

/// What an experiment hands back: only [`Stage::verdict`] makes one from an observation.
pub struct Verdict {
    outcome: &'static str,
    /// The answer's letter and what is true; for UNEXPECTED what was observed.
    text: String,
    /// Whether the viewer's own prediction held, if there was one.
    foreseen: Option<bool>,
}

/// Where an experiment speaks.
pub struct Stage {
    screen: Screen,
    lab: &'static str,
    id: &'static str,
    pause: bool,
    predict: bool,
    /// What the kit expects of the question that stands.
    expected: String,
    last_line: String,
    last_time: Instant,
    /// Hears what to say if nothing follows for too long; `None` while nothing needs to.
    watchdog: Sender<Option<String>>,
}

impl Stage {
    /// Puts a question just before the deciding call. Each answer comes with the observation that would prove it.
    ///
    /// # Errors
    /// The viewer asked to skip, to start again or to quit.
    pub fn ask<T: PartialEq + Debug>(
        &mut self,
        question: &str,
        answers: impl IntoIterator<Item = (&'static str, T)>,
        predicts: Predicts<T>,
    ) -> Result<Question<T>> {
        let mut asked = Question { answers: answers.into_iter().collect(), predicts, guess: None };
        self.expected = asked.told(&asked.predicts.kit);
        self.say("ask", question);
        let lettered: Vec<String> = asked.answers.iter().map(|(_, value)| asked.told(value)).collect();
        let on_one_line = lettered.join("   ");
        if on_one_line.len() <= WIDTH - LABEL {
            self.say("", on_one_line);
        } else {
            lettered.iter().for_each(|answer| self.say("", answer));
        }
        while self.predict && asked.guess.is_none() {
            let last = letter(asked.answers.len() - 1);
            let typed = self.input(&format!("your prediction, a to {last} (s skip, q quit)"))?;
            asked.guess = (0..asked.answers.len()).find(|at| typed.eq_ignore_ascii_case(&letter(*at).to_string()));
        }
        if self.pause && !self.predict {
            self.input("[Enter] let the kernel decide   (r again, s skip, q quit)")?;
        }
        Ok(asked)
    }

    /// Decides: compares what was observed with both predictions. `lesson` says in a few words what is true.
    ///
    /// # Errors
    /// The kit's own prediction is none of the question's answers.
    pub fn verdict<T: PartialEq + Debug>(
        &mut self,
        question: Question<T>,
        observed: T,
        lesson: &str,
    ) -> Result<Verdict> {
        let Predicts { source, kit } = &question.predicts;
        let at = question.place(kit).context("the kit's prediction is none of the answers")?;
        let foreseen = question.guess.map(|guess| question.place(&observed) == Some(guess));
        let outcome = match source {
            _ if observed != *kit => UNEXPECTED,
            Some(source) if *source == observed => CONFIRMED,
            Some(_) => CORRECTED,
            None => ANSWERED,
        };
        let text = match outcome {
            UNEXPECTED => format!("seen otherwise: {}", question.told(&observed)),
            _ => format!("{}) {lesson}", letter(at)),
        };
        Ok(Verdict { outcome, text, foreseen })
    }

    /// One line: who, and what happened. A text too long for the line goes on below.
    pub fn say(&mut self, label: &str, text: impl Display) {
        let waited = self.last_time.elapsed();
        let stamp = if waited > STAMP_FROM { format!("  +{:.2}s", waited.as_secs_f64()) } else { String::new() };
        let line = hang(&format!("{label:<LABEL$}"), &format!("{text}{stamp}"));
        self.screen.line(&line);
        self.last_line = line.split_whitespace().collect::<Vec<_>>().join(" ");
        self.last_time = Instant::now();
        self.watch(true);
    }

    /// What the client's end did.
    pub fn client(&mut self, text: impl Display) {
        self.say("client", text);
    }

    /// What the server's end did.
    pub fn server(&mut self, text: impl Display) {
        self.say("server", text);
    }

    /// Reads and prints the states of these connection ends from the kernel's table; `None`: in no table.
    ///
    /// # Errors
    /// As [`tcp_socket`].
    pub fn kernel<const N: usize>(&mut self, ends: [(&str, Pair); N]) -> Result<[Option<State>; N]> {
        let mut states = [None; N];
        let mut line = Vec::new();
        for (state, (name, pair)) in states.iter_mut().zip(ends) {
            *state = tcp_socket(pair)?.map(|row| row.state);
            line.push(format!("{name} {}", state.map_or("in no table".into(), |state| state.to_string())));
        }
        self.say("kernel", line.join("   "));
        Ok(states)
    }

    /// The command that shows the same in the next terminal, while the class looks at the question.
    pub fn look(&mut self, command: impl Display) {
        if self.pause {
            self.say("look", command);
        }
    }

    /// Reads a line of the viewer, or fails with the key that asks for something else: r, s or q.
    fn input(&mut self, prompt: &str) -> Result<String> {
        self.watch(false);
        let _ = tcflush(stdin(), FlushArg::TCIFLUSH); // what was typed too early; ENOTTY in a pipe
        self.screen.ask(&format!("{:LABEL$}{prompt} ", ""));
        self.screen.settle();
        self.screen.ask_nothing();
        let mut line = String::new();
        if stdin().read_line(&mut line)? == 0 {
            bail!(Error::msg('q'));
        }
        self.screen.typed();
        self.last_time = Instant::now();
        self.watch(true);
        match line.trim() {
            key @ ("r" | "s" | "q") => bail!(Error::msg(key.as_bytes()[0] as char)),
            other => Ok(other.into()),
        }
    }

    fn watch(&self, on: bool) {
        let observed = format!("not seen within {SILENCE_LIMIT:?}: the end of the last call");
        let _ = self.watchdog.send(on.then(|| self.unexpected(&observed))); // it lives as long as the program
    }

    /// Plays one experiment; also the key, if the viewer asked for something else than to go on.
    fn play_one(&mut self, number: usize, experiment: &Experiment) -> (Verdict, Option<char>) {
        self.id = experiment.id;
        self.expected = "the experiment to reach its question".into();
        if self.pause {
            self.screen.clear();
        }
        self.screen.line(self.screen.bold(&format!("\n{}", title(number, experiment))));
        self.last_time = Instant::now();
        self.say("claim", experiment.claim);
        self.say("", experiment.source);
        let played = match experiment.needs.iter().find(|need| !(need.met)()) {
            Some(Need { what, provided_by, .. }) => {
                let text = format!("needs {what}; {provided_by}; a recorded run is in the sheet");
                Ok(Verdict { outcome: SKIPPED, text, foreseen: None })
            }
            None => (experiment.play)(self),
        };
        self.watch(false);
        let verdict = match played.map_err(|error| error.downcast::<char>()) {
            Ok(verdict) => verdict,
            Err(Ok(key)) => return (Verdict { outcome: NOT_PLAYED, text: String::new(), foreseen: None }, Some(key)),
            Err(Err(error)) => {
                let otherwise = || format!("seen otherwise: {error:#}");
                let text = error.downcast_ref::<NotSeen>().map_or_else(otherwise, NotSeen::to_string);
                Verdict { outcome: UNEXPECTED, text, foreseen: None }
            }
        };
        let told = match verdict.outcome {
            UNEXPECTED => self.unexpected(&verdict.text),
            outcome => hang(&format!("{:<LABEL$}{outcome:<9}  ", "verdict"), &verdict.text),
        };
        self.screen.line(told.replacen(verdict.outcome, &self.screen.bold(verdict.outcome), 1));
        if let Some(foreseen) = verdict.foreseen {
            self.say("you", if foreseen { "foresaw it" } else { "predicted something else" });
        }
        let next = if self.pause { self.input("[Enter] go on   (r again, q quit)").err() } else { None };
        (verdict, next.map(|error| error.downcast().unwrap_or('q')))
    }

    /// What is said when the kit's own prediction failed.
    fn unexpected(&self, observed: &str) -> String {
        let rows = [
            ("verdict", UNEXPECTED),
            ("expected", &self.expected),
            ("observed", observed),
            ("last", &self.last_line),
            ("kernel", &format!("Linux {}", kernel_version())),
            ("again", &format!("cargo run -p {} -- demo {}", self.lab, self.id)),
            ("note", "Unless you changed the code, you caused none of this: the kit's prediction failed here."),
        ];
        rows.map(|(label, text)| hang(&format!("{label:<LABEL$}"), text)).join("\n")
    }

    fn scoreboard(&mut self, lesson: &Lesson, board: &[(usize, &Experiment, Verdict)]) {
        self.screen.line(self.screen.bold("\nscoreboard"));
        let width = board.iter().map(|(_, experiment, _)| experiment.id.len() + 4).max().unwrap_or(0);
        for (number, experiment, verdict) in board {
            let lead = format!("{:<width$}  {:<10}  ", title(*number, experiment), verdict.outcome);
            let row = hang(&lead, &verdict.text);
            let row = row.lines().take(2).collect::<Vec<_>>().join("\n");
            self.screen.line(row.replacen(verdict.outcome, &self.screen.bold(verdict.outcome), 1));
        }
        let count = |outcome| board.iter().filter(|(_, _, verdict)| verdict.outcome == outcome).count();
        let counts =
            [CONFIRMED, CORRECTED, ANSWERED, SKIPPED, UNEXPECTED].map(|word| format!("{} {word}", count(word)));
        self.screen.line(counts.join(", "));
        let guesses: Vec<bool> = board.iter().filter_map(|(_, _, verdict)| verdict.foreseen).collect();
        if !guesses.is_empty() {
            let held = guesses.iter().filter(|held| **held).count();
            self.screen.line(format_args!("you foresaw {held} of {}", guesses.len()));
        }
        lesson.next.iter().for_each(|(label, command)| self.screen.line(format_args!("{label:<LABEL$}{command}")));
    }
}

fn letter(at: usize) -> char {
    (b'a'..=b'z').nth(at).map_or('?', char::from)
}

fn title(number: usize, experiment: &Experiment) -> String {
    format!("{number} {} {}", if experiment.starred { '*' } else { ' ' }, experiment.id)
}

/// `lead` and the text behind it, broken between words, its further lines below its first.
fn hang(lead: &str, text: &str) -> String {
    let indent = lead.len();
    let (mut lines, mut column) = (lead.to_string(), indent);
    for word in text.split(' ') {
        if column > indent && column + 1 + word.len() > WIDTH {
            lines = format!("{}\n{:indent$}", lines.trim_end(), "");
            column = indent;
        }
        let gap = if column > indent { " " } else { "" };
        lines += &format!("{gap}{word}");
        column += gap.len() + word.len();
    }
    lines.trim_end().into()
}

fn kernel_version() -> String {
    uname().map_or("of unknown version".into(), |name| name.release().to_string_lossy().into_owned())
}

/// Plays a lab's experiments, or the named ones, and shows the scoreboard.
///
/// # Errors
/// A thread cannot be started.
pub fn play(lesson: &Lesson, args: &DemoArgs) -> Result<ExitCode> {
    let chosen = match choose(lesson, &args.names) {
        Ok(chosen) => chosen,
        Err(error) => return Ok(crate::cli::usage(lesson.lab, &error.to_string())),
    };
    let mut screen = Screen::new();
    if args.list {
        chosen.iter().for_each(|(number, experiment)| list(&mut screen, *number, experiment));
        return Ok(ExitCode::SUCCESS);
    }
    if args.predict && !stdin().is_terminal() {
        return Ok(crate::cli::usage(lesson.lab, "--predict asks you, so it needs a terminal"));
    }
    let release = kernel_version();
    let version = release.split('.').take(2).collect::<Vec<_>>().join(".");
    let heading = format!("{}  {}  Linux {version}, loopback", lesson.lab, lesson.setting);
    screen.line(screen.bold(&heading));
    let mut stage = Stage {
        screen,
        lab: lesson.lab,
        id: "",
        pause: args.pause,
        predict: args.predict,
        expected: String::new(),
        last_line: String::new(),
        last_time: Instant::now(),
        watchdog: watchdog()?,
    };
    let mut board: Vec<(usize, &Experiment, Verdict)> = Vec::new();
    for (number, experiment) in chosen {
        let (verdict, key) = loop {
            let (verdict, key) = stage.play_one(number, experiment);
            if key != Some('r') {
                break (verdict, key);
            }
        };
        board.push((number, experiment, verdict));
        if key == Some('q') {
            break;
        }
    }
    stage.scoreboard(lesson, &board);
    let unexpected = board.iter().any(|(_, _, verdict)| verdict.outcome == UNEXPECTED);
    Ok(if unexpected { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The named experiments with their numbers, in the order named; all if none is named.
fn choose(lesson: &Lesson, names: &[String]) -> Result<Vec<(usize, &'static Experiment)>> {
    let numbered: Vec<_> = lesson.experiments.iter().enumerate().map(|(at, experiment)| (at + 1, experiment)).collect();
    if names.is_empty() {
        return Ok(numbered);
    }
    let find = |name: &String| {
        let found = numbered.iter().find(|(number, experiment)| *name == number.to_string() || name == experiment.id);
        found.copied().with_context(|| {
            let ids: Vec<_> = lesson.experiments.iter().map(|experiment| experiment.id).collect();
            format!("no experiment '{name}'; there are 1 to {} or {}", ids.len(), ids.join(", "))
        })
    };
    names.iter().map(find).collect()
}

fn list(screen: &mut Screen, number: usize, experiment: &Experiment) {
    screen.line(screen.bold(&title(number, experiment)));
    screen.line(hang("    ", experiment.claim));
    screen.line(format_args!("    [{}]", experiment.source));
    for need in experiment.needs.iter().filter(|need| !(need.met)()) {
        screen.line(format_args!("    skipped here: needs {}; {}", need.what, need.provided_by));
    }
}

/// A second pair of eyes, in a thread because the experiment itself may be stuck in a system call.
fn watchdog() -> Result<Sender<Option<String>>> {
    let (sender, reports) = channel::<Option<String>>();
    thread::Builder::new().spawn(move || {
        let mut report = None;
        loop {
            match reports.recv_timeout(SILENCE_LIMIT) {
                Ok(next) => report = next,
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(report) = &report {
                        Screen::new().line(report);
                        exit(1);
                    }
                }
            }
        }
    })?;
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_behind_its_label_keeps_its_words_and_the_width() {
        let text = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen";
        let lines = hang("claim     ", text);
        assert!(lines.lines().count() > 1 && lines.lines().all(|line| line.len() <= WIDTH), "{lines}");
        assert_eq!(lines.split_whitespace().skip(1).collect::<Vec<_>>().join(" "), text);
        assert!(lines.lines().skip(1).all(|line| line.starts_with("          ")), "{lines}");
    }

    fn asked(stage: &mut Stage, source: Option<u8>, observed: u8) -> Result<Verdict> {
        let question = stage.ask("Which?", [("one", 1), ("two", 2)], Predicts { source, kit: 2 })?;
        stage.verdict(question, observed, "it is two")
    }

    const fn experiment(play: fn(&mut Stage) -> Result<Verdict>, needs: &'static [Need]) -> Experiment {
        Experiment { id: "an-experiment", starred: false, claim: "It is so.", source: "nowhere", needs, play }
    }

    const MISSING: Need = Need { what: "what nobody has", provided_by: "nothing", met: || false };

    /// Plays one experiment: its outcome, what is told of it, and whether the program would fail.
    fn played(experiment: Experiment) -> (&'static str, String, bool) {
        let experiments: &'static [Experiment] = Box::leak(Box::new([experiment]));
        let lesson = Lesson { lab: "lab99-none", setting: "a test", experiments, next: &[] };
        let failed =
            format!("{:?}", play(&lesson, &DemoArgs::default()).unwrap()) == format!("{:?}", ExitCode::FAILURE);
        let mut stage = Stage {
            screen: Screen::new(),
            lab: "lab99-none",
            id: "",
            pause: false,
            predict: false,
            expected: String::new(),
            last_line: String::new(),
            last_time: Instant::now(),
            watchdog: watchdog().unwrap(),
        };
        let (verdict, _) = stage.play_one(1, &experiments[0]);
        (verdict.outcome, verdict.text, failed)
    }

    #[test]
    fn what_was_observed_decides_between_the_source_and_the_kit() {
        let (outcome, text, failed) = played(experiment(|stage| asked(stage, Some(2), 2), &[]));
        assert_eq!((outcome, text.as_str(), failed), (CONFIRMED, "b) it is two", false));
        let (outcome, _, failed) = played(experiment(|stage| asked(stage, Some(1), 2), &[]));
        assert_eq!((outcome, failed), (CORRECTED, false));
        let (outcome, _, failed) = played(experiment(|stage| asked(stage, None, 2), &[]));
        assert_eq!((outcome, failed), (ANSWERED, false));
    }

    #[test]
    fn a_kit_that_is_wrong_is_unexpected_and_fails_even_where_the_source_was_right() {
        let (outcome, text, failed) = played(experiment(|stage| asked(stage, Some(1), 1), &[]));
        assert_eq!((outcome, text.as_str(), failed), (UNEXPECTED, "seen otherwise: a) one", true));
        let (outcome, text, failed) = played(experiment(|stage| asked(stage, None, 3), &[]));
        assert_eq!((outcome, text.as_str(), failed), (UNEXPECTED, "seen otherwise: 3", true));
    }

    #[test]
    fn an_error_is_unexpected_and_silence_is_told_from_another_answer() {
        let (outcome, text, failed) = played(experiment(|_| bail!("the kernel is on strike"), &[]));
        assert_eq!((outcome, text.as_str(), failed), (UNEXPECTED, "seen otherwise: the kernel is on strike", true));
        let silent = |_: &mut Stage| crate::wait_until("a word", Duration::ZERO, || Ok(None));
        let (outcome, text, failed) = played(experiment(silent, &[]));
        assert_eq!((outcome, text.as_str(), failed), (UNEXPECTED, "not seen within 0ns: a word", true));
    }

    #[test]
    fn what_is_missing_skips_the_experiment_and_is_named() {
        let (outcome, text, failed) = played(experiment(|stage| asked(stage, None, 1), &[MISSING]));
        assert_eq!((outcome, failed), (SKIPPED, false));
        assert!(text.starts_with("needs what nobody has; nothing"), "{text}");
    }
}
