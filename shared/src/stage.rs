//! Experiments: asked, played against the kernel, and decided by what was observed.

use std::{
    fmt::{self, Debug, Display},
    io::{IsTerminal, stdin},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::sys::utsname::uname;

use crate::{
    DemoArgs, NotSeen, Screen,
    cli::usage,
    kernel::{Pair, State, tcp_socket},
    watchdog::Watchdog,
};

/// Lines stay below 80 columns.
const WIDTH: usize = 79;
/// The label in front of each line.
const LABEL: usize = 10;
/// A pause in the output longer than this carries a stamp.
const STAMP_FROM: Duration = Duration::from_millis(100);

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

/// How an experiment ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Confirmed,
    Corrected,
    Answered,
    Unexpected,
    Skipped,
    NotPlayed,
}

impl Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Outcome::Confirmed => "CONFIRMED",
            Outcome::Corrected => "CORRECTED",
            Outcome::Answered => "ANSWERED",
            Outcome::Unexpected => "UNEXPECTED",
            Outcome::Skipped => "SKIPPED",
            Outcome::NotPlayed => "not played",
        })
    }
}

impl Outcome {
    fn sgr(self) -> &'static str {
        match self {
            Outcome::Confirmed => "1;32",
            Outcome::Corrected => "1;33",
            Outcome::Answered => "1;36",
            Outcome::Unexpected => "1;31",
            Outcome::Skipped | Outcome::NotPlayed => "2",
        }
    }
}

/// What an experiment hands back: only [`Stage::verdict`] makes one, from an observation.
pub struct Verdict {
    outcome: Outcome,
    /// The answer's letter and what is true.
    text: String,
    observed: String,
    /// Whether the viewer's own prediction held, if there was one.
    foreseen: Option<bool>,
}

/// What the viewer asked for instead of going on.
#[derive(Debug)]
enum Request {
    Again,
    Skip,
    Quit,
}

impl std::error::Error for Request {}

impl Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Where an experiment speaks.
pub struct Stage {
    screen: Screen,
    pause: bool,
    predict: bool,
    /// What the kit expects of the question that stands.
    expected: String,
    last_line: String,
    last_time: Instant,
    watchdog: Watchdog,
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
        self.watchdog.lock().expected.clone_from(&self.expected);
        self.wrapped("ask", question);
        let lettered: Vec<String> = asked.answers.iter().map(|(_, value)| asked.told(value)).collect();
        let on_one_line = lettered.join("   ");
        if on_one_line.len() <= WIDTH - LABEL {
            self.say("", on_one_line);
        } else {
            for answer in &lettered {
                self.wrapped("", answer);
            }
        }
        if self.predict {
            asked.guess = Some(self.guess(asked.answers.len())?);
        } else if self.pause {
            self.wait_for_enter("[Enter] let the kernel decide   (r again, s skip, q quit)")?;
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
        let outcome = match source {
            _ if observed != *kit => Outcome::Unexpected,
            Some(source) if *source == observed => Outcome::Confirmed,
            Some(_) => Outcome::Corrected,
            None => Outcome::Answered,
        };
        Ok(Verdict {
            outcome,
            text: format!("{}) {lesson}", letter(at)),
            observed: format!("seen otherwise: {}", question.told(&observed)),
            foreseen: question.guess.map(|guess| question.place(&observed) == Some(guess)),
        })
    }

    /// One line: who, and what happened.
    pub fn say(&mut self, label: &str, text: impl Display) {
        let text = text.to_string();
        let waited = self.last_time.elapsed();
        let stamp = if waited > STAMP_FROM { format!("  +{:.2}s", waited.as_secs_f64()) } else { String::new() };
        self.last_line = format!("{label:<LABEL$}{text}").trim_end().into();
        self.watchdog.lock().last_line.clone_from(&self.last_line);
        self.screen.line(format_args!("{}{stamp}", self.last_line));
        self.last_time = Instant::now();
    }

    /// What the client's end did.
    pub fn client(&mut self, text: impl Display) {
        self.say("client", text);
    }

    /// What the server's end did.
    pub fn server(&mut self, text: impl Display) {
        self.say("server", text);
    }

    /// Announces a wait that may take longer than 300 ms.
    pub fn waits(&mut self, limit: Duration, what: impl Display) {
        self.say("wait", format_args!("up to {limit:.0?} for {what}"));
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

    /// The command that shows the same in the next terminal, for the class to run while the question stands.
    pub fn look(&mut self, command: impl Display) {
        if self.pause {
            self.say("look", command);
        }
    }

    fn wrapped(&mut self, label: &str, text: &str) {
        for (at, line) in wrap(text).into_iter().enumerate() {
            self.say(if at == 0 { label } else { "" }, line);
        }
    }

    /// Reads a line of the viewer; the time it takes is nobody's.
    fn input(&mut self, prompt: &str) -> Result<String> {
        self.watchdog.rest();
        self.screen.ask(prompt);
        self.screen.settle();
        self.screen.ask_nothing();
        let mut line = String::new();
        if stdin().read_line(&mut line)? == 0 {
            bail!(Request::Quit);
        }
        self.screen.typed();
        self.last_time = Instant::now();
        self.watchdog.go_on();
        match line.trim() {
            "r" => bail!(Request::Again),
            "s" => bail!(Request::Skip),
            "q" => bail!(Request::Quit),
            other => Ok(other.to_string()),
        }
    }

    fn wait_for_enter(&mut self, prompt: &str) -> Result<()> {
        self.input(&format!("          {prompt} ")).map(|_| ())
    }

    fn guess(&mut self, answers: usize) -> Result<usize> {
        loop {
            let last = letter(answers - 1);
            let answer = self.input(&format!("          your prediction, a to {last} (s skip, q quit): "))?;
            if let Some(at) = (0..answers).find(|at| answer.eq_ignore_ascii_case(&letter(*at).to_string())) {
                return Ok(at);
            }
        }
    }
}

fn letter(at: usize) -> char {
    (b'a'..=b'z').nth(at).map_or('?', char::from)
}

/// Breaks a text into lines that fit behind the label.
fn wrap(text: &str) -> Vec<String> {
    wrap_to(text, WIDTH - LABEL)
}

fn wrap_to(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.into()),
        }
    }
    lines
}

/// Plays a lab's experiments, or the named ones, and shows the scoreboard.
///
/// # Errors
/// An experiment that does not exist; `--predict` without a terminal.
pub fn play(lesson: &Lesson, args: &DemoArgs) -> Result<ExitCode> {
    let chosen = match choose(lesson, &args.names) {
        Ok(chosen) => chosen,
        Err(error) => return Ok(usage(lesson.lab, &error.to_string())),
    };
    if args.list {
        list(&chosen);
        return Ok(ExitCode::SUCCESS);
    }
    if args.predict && !stdin().is_terminal() {
        return Ok(usage(lesson.lab, "--predict asks you, so it needs a terminal"));
    }
    let mut stage = Stage {
        screen: Screen::new(),
        pause: args.pause,
        predict: args.predict,
        expected: String::new(),
        last_line: String::new(),
        last_time: Instant::now(),
        watchdog: Watchdog::start()?,
    };
    let release = kernel_version();
    let version = release.split('.').take(2).collect::<Vec<_>>().join(".");
    let heading = format!("{}  {}  Linux {version}, loopback", lesson.lab, lesson.setting);
    stage.screen.line(stage.screen.emphasise("1", &heading));
    let mut board: Vec<(usize, &Experiment, Verdict)> = Vec::new();
    let mut quit = false;
    for (number, experiment) in chosen {
        let verdict = loop {
            if quit {
                break Verdict::without(Outcome::NotPlayed, "");
            }
            let (verdict, request) = stage.play_one(lesson.lab, number, experiment);
            quit = matches!(request, Some(Request::Quit));
            if !matches!(request, Some(Request::Again)) {
                break verdict;
            }
        };
        board.push((number, experiment, verdict));
    }
    stage.scoreboard(lesson, &board);
    let unexpected = board.iter().any(|(_, _, verdict)| verdict.outcome == Outcome::Unexpected);
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

fn list(chosen: &[(usize, &Experiment)]) {
    let mut screen = Screen::new();
    for (number, experiment) in chosen {
        screen.line(screen.emphasise("1", &title(*number, experiment)));
        for line in wrap(experiment.claim) {
            screen.line(format_args!("    {line}"));
        }
        screen.line(format_args!("    [{}]", experiment.source));
        for need in experiment.needs.iter().filter(|need| !(need.met)()) {
            screen.line(format_args!("    skipped here: needs {}; {}", need.what, need.provided_by));
        }
    }
}

fn title(number: usize, experiment: &Experiment) -> String {
    format!("{number} {} {}", if experiment.starred { '*' } else { ' ' }, experiment.id)
}

fn kernel_version() -> String {
    uname().map_or("of unknown version".into(), |name| name.release().to_string_lossy().into_owned())
}

/// What is said when the kit's own prediction failed.
pub(crate) fn unexpected(lab: &str, id: &str, expected: &str, observed: &str, last_line: &str) -> Vec<String> {
    let mut lines = vec![format!("{:<LABEL$}{}", "verdict", Outcome::Unexpected)];
    let again = format!("cargo run -p {lab} -- demo {id}");
    for (label, text) in [
        ("expected", expected),
        ("observed", observed),
        ("last", last_line),
        ("kernel", &format!("Linux {}", kernel_version())),
        ("again", &again),
        ("note", "Nothing you did caused this: what the kit predicts did not happen on this machine."),
    ] {
        for (at, line) in wrap(text).into_iter().enumerate() {
            lines.push(format!("{:<LABEL$}{line}", if at == 0 { label } else { "" }));
        }
    }
    lines
}

impl Verdict {
    fn without(outcome: Outcome, text: &str) -> Verdict {
        Verdict { outcome, text: text.into(), observed: String::new(), foreseen: None }
    }

    /// For an experiment that finds out on the way that something is missing: what, and what provides it.
    pub fn skipped(needs: &str, provided_by: &str) -> Verdict {
        let text = format!("needs {needs}; {provided_by}; a recorded run is in the sheet");
        Verdict::without(Outcome::Skipped, &text)
    }
}

impl Stage {
    fn play_one(&mut self, lab: &str, number: usize, experiment: &Experiment) -> (Verdict, Option<Request>) {
        if self.pause {
            self.screen.clear();
        }
        self.screen.line("");
        self.screen.line(self.screen.emphasise("1", &title(number, experiment)));
        self.last_time = Instant::now();
        self.wrapped("claim", experiment.claim);
        self.say("", experiment.source);
        self.expected = "the experiment to reach its question".into();
        self.watchdog.watch(lab, experiment.id);
        let played = match experiment.needs.iter().find(|need| !(need.met)()) {
            Some(need) => Ok(Verdict::skipped(need.what, need.provided_by)),
            None => (experiment.play)(self),
        };
        self.watchdog.rest();
        let verdict = match played.map_err(|error| error.downcast::<Request>()) {
            Ok(verdict) => verdict,
            Err(Ok(request)) => return (Verdict::without(Outcome::NotPlayed, ""), Some(request)),
            Err(Err(error)) => Verdict {
                observed: match error.downcast_ref::<NotSeen>() {
                    Some(not_seen) => not_seen.to_string(),
                    None => format!("seen otherwise: {error:#}"),
                },
                ..Verdict::without(Outcome::Unexpected, "")
            },
        };
        self.tell(lab, experiment.id, &verdict);
        let request = if self.pause { self.wait_for_enter("[Enter] go on   (r again, q quit)").err() } else { None };
        (verdict, request.map(|error| error.downcast().unwrap_or(Request::Quit)))
    }

    fn tell(&mut self, lab: &str, id: &str, verdict: &Verdict) {
        if verdict.outcome == Outcome::Unexpected {
            for line in unexpected(lab, id, &self.expected, &verdict.observed, &self.last_line) {
                self.screen.line(self.screen.emphasise(Outcome::Unexpected.sgr(), &line));
            }
            return;
        }
        let word = self.screen.emphasise(verdict.outcome.sgr(), &format!("{:<9}", verdict.outcome));
        let lines = wrap_to(&verdict.text, WIDTH - LABEL - 11);
        for (at, line) in lines.iter().enumerate() {
            match at {
                0 => self.screen.line(format_args!("{:<LABEL$}{word}  {line}", "verdict")),
                _ => self.screen.line(format_args!("{:<LABEL$}{:indent$}{line}", "", "", indent = LABEL + 1)),
            }
        }
        if let Some(foreseen) = verdict.foreseen {
            self.say("you", if foreseen { "foresaw it" } else { "predicted something else" });
        }
    }

    fn scoreboard(&mut self, lesson: &Lesson, board: &[(usize, &Experiment, Verdict)]) {
        self.screen.line("");
        self.screen.line(self.screen.emphasise("1", "scoreboard"));
        let ids = board.iter().map(|(_, experiment, _)| experiment.id.len()).max().unwrap_or(0);
        for (number, experiment, verdict) in board {
            let word = self.screen.emphasise(verdict.outcome.sgr(), &format!("{:<10}", verdict.outcome));
            let indent = 4 + ids + 2 + 10 + 2;
            let title = title(*number, experiment);
            let text = if verdict.outcome == Outcome::Unexpected { &verdict.observed } else { &verdict.text };
            for (at, line) in wrap_to(text, WIDTH - indent).iter().enumerate().take(2) {
                match at {
                    0 => self.screen.line(format_args!("{title:<width$}  {word}  {line}", width = ids + 4)),
                    _ => self.screen.line(format_args!("{:indent$}{line}", "")),
                }
            }
        }
        let count = |outcome| board.iter().filter(|(_, _, verdict)| verdict.outcome == outcome).count();
        let outcomes =
            [Outcome::Confirmed, Outcome::Corrected, Outcome::Answered, Outcome::Skipped, Outcome::Unexpected];
        let counts: Vec<_> = outcomes.into_iter().map(|outcome| format!("{} {outcome}", count(outcome))).collect();
        self.screen.line(counts.join(", "));
        let guesses: Vec<bool> = board.iter().filter_map(|(_, _, verdict)| verdict.foreseen).collect();
        if !guesses.is_empty() {
            let held = guesses.iter().filter(|held| **held).count();
            self.screen.line(format_args!("you foresaw {held} of {}", guesses.len()));
        }
        for (label, command) in lesson.next {
            self.screen.line(format_args!("{label:<LABEL$}{command}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrapped_text_keeps_its_words_and_its_width() {
        let text = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen";
        let lines = wrap(text);
        assert_eq!(lines.join(" "), text);
        assert!(lines.len() > 1 && lines.iter().all(|line| line.len() <= WIDTH - LABEL));
    }
}
