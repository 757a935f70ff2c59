//! Where an experiment speaks: it asks, plays against the kernel, and is decided by what was observed.

use std::env;
use std::fmt::{Debug, Display};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::exit;
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context, Error, Result};
use kernel::{Counters, Need, NotSeen, Pair, State, need::TIME_WAIT_BUCKETS, tcp_socket, wait::Watchdog};
use roles::{At, KEYS, Keys, Pressed, Screen, let_signals_end_us};

use crate::cli::{DRAWN, DemoArgs};
use crate::lesson::{Experiment, title};

/// The label in front of each line.
pub(crate) const LABEL: usize = 10;
/// A call that still blocks after this time is the finding.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// A pause in the output longer than this carries a stamp.
const STAMP_FROM: Duration = Duration::from_millis(100);

pub(crate) const CONFIRMED: &str = "CONFIRMED";
pub(crate) const CORRECTED: &str = "CORRECTED";
pub(crate) const ANSWERED: &str = "ANSWERED";
pub(crate) const UNEXPECTED: &str = "UNEXPECTED";
pub(crate) const SKIPPED: &str = "SKIPPED";
pub(crate) const NOT_PLAYED: &str = "not played";

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

    /// The answer a value proves; the bare value where it proves none.
    fn told(&self, value: &T) -> String {
        match self.place(value) {
            Some(at) => format!("{}) {}", letter(at), self.answers[at].0),
            None => format!("{value:?}"),
        }
    }

    /// The same without its letter, which depends on how the answers were dealt.
    fn plain(&self, value: &T) -> String {
        self.place(value).map_or_else(|| format!("{value:?}"), |at| self.answers[at].0.into())
    }
}

/// What an experiment hands back: only [`Stage::verdict`] makes one from an observation.
#[derive(Default)]
pub struct Verdict {
    pub(crate) outcome: &'static str,
    /// The answer's letter and what is true; for UNEXPECTED what was observed.
    pub(crate) text: String,
    /// The viewer's own prediction, if there was one.
    pub(crate) given: Option<String>,
    /// The answer that was observed.
    pub(crate) seen: Option<String>,
    /// Once it was shown: the key that was pressed below it, if it was another than to go on.
    after: Option<Option<char>>,
}

impl Verdict {
    pub(crate) fn skipped(Need { what, provided_by, .. }: &Need) -> Verdict {
        Verdict { outcome: SKIPPED, text: format!("needs {what}: {provided_by}"), ..Verdict::default() }
    }

    /// Whether the viewer's own prediction held.
    pub(crate) fn foreseen(&self) -> Option<bool> {
        self.given.as_ref().map(|given| Some(given) == self.seen.as_ref())
    }
}

/// Where an experiment speaks.
pub struct Stage {
    pub(crate) screen: Screen,
    lab: &'static str,
    id: &'static str,
    pause: bool,
    predict: bool,
    /// Deals the answers; 0 deals them as the sheets show them.
    seed: u64,
    /// The title and the question that stands, to be shown again above the verdict.
    heading: Vec<String>,
    /// Lines on the screen since the title, the title included.
    lines: usize,
    /// The lines since the question.
    evidence: Vec<String>,
    /// What the kit expects of the question that stands.
    expected: String,
    last_line: String,
    last_time: Instant,
    /// Hears what to say if nothing follows for too long.
    watchdog: Watchdog,
    /// Where each verdict goes, too: `--record`.
    records: Option<PathBuf>,
    /// As the experiment began.
    counters: Option<Counters>,
    /// The viewer has pressed or typed something.
    heard: bool,
    no_input: bool,
    interrupted: bool,
}

impl Stage {
    pub(crate) fn new(screen: Screen, lab: &'static str, args: &DemoArgs) -> Result<Stage> {
        if let Some(path) = &args.record {
            append_to(path)?; // closed at once: the numbers of an experiment's descriptors stay those of the sheet
        }
        Ok(Stage {
            records: args.record.clone(),
            screen,
            lab,
            id: "",
            pause: args.pause || args.predict, // what was seen stays until it is read
            predict: args.predict,
            seed: args.seed,
            heading: Vec::new(),
            lines: 0,
            evidence: Vec::new(),
            expected: String::new(),
            last_line: String::new(),
            last_time: Instant::now(),
            watchdog: Watchdog::start(SILENCE_LIMIT, |report| {
                Screen::new().line(report);
                exit(1);
            })?,
            counters: None,
            heard: false,
            no_input: false,
            interrupted: false,
        })
    }

    /// Puts a question just before the deciding call. Each answer comes with the observation that would prove it. The
    /// order in which the answers are shown is not the order given here.
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
        deal(&mut asked.answers, self.id, self.seed);
        self.expected = asked.told(&asked.predicts.kit);
        let mut heading = vec![self.told("ask", question)];
        let lettered: Vec<String> = asked.answers.iter().map(|(_, value)| asked.told(value)).collect();
        let on_one_line = lettered.join("   ");
        if on_one_line.len() + LABEL <= self.screen.width() {
            heading.push(self.told("", on_one_line));
        } else {
            heading.extend(lettered.iter().map(|answer| self.told("", answer)));
        }
        self.heading.truncate(1);
        self.heading.append(&mut heading);
        if self.predict {
            let last = letter(asked.answers.len() - 1);
            let prompt = format!("your prediction, a to {last}, then Enter (s skip, q quit)");
            let place = |text: &str| (0..asked.answers.len()).find(|at| text == letter(*at).to_string());
            asked.guess = Some(self.input(&prompt, true, place)?);
        } else if self.pause {
            self.go_on("[Enter] let the kernel decide   (? keys)")?;
        }
        self.evidence.clear();
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
            _ if observed != *kit => UNEXPECTED,
            Some(source) if *source == observed => CONFIRMED,
            Some(_) => CORRECTED,
            None => ANSWERED,
        };
        let text = match outcome {
            UNEXPECTED => question.told(&observed),
            _ => format!("{}) {lesson}", letter(at)),
        };
        let given = question.guess.map(|guess| question.answers[guess].0.into());
        let seen = Some(question.plain(&observed));
        let mut verdict = self.excused(Verdict { outcome, text, given, seen, after: None });
        if self.pause {
            // Here the experiment's sockets are still open: whoever looks at them now sees what the verdict is about.
            verdict.after = Some(self.show_verdict(&verdict)?);
        }
        Ok(verdict)
    }

    /// A kernel without room for TIME-WAIT closes connections as no claim says: then a verdict UNEXPECTED is about that.
    fn excused(&self, verdict: Verdict) -> Verdict {
        let overflow = self.counters.as_ref().and_then(|before| before.risen("TCPTimeWaitOverflow").ok());
        match overflow {
            Some(1..) if verdict.outcome == UNEXPECTED => Verdict::skipped(&TIME_WAIT_BUCKETS),
            _ => verdict,
        }
    }

    /// One line: who, and what happened. A text too long for the line goes on below.
    pub fn say(&mut self, label: &str, text: impl Display) {
        let waited = self.last_time.elapsed();
        let stamp = if waited > STAMP_FROM { format!("  +{:.2}s", waited.as_secs_f64()) } else { String::new() };
        self.told(label, format_args!("{text}{stamp}"));
    }

    /// A line that nobody waited for; returns it as it was shown.
    fn told(&mut self, label: &str, text: impl Display) -> String {
        let line = self.screen.hang(&format!("{label:<LABEL$}"), &text.to_string());
        self.show(&line);
        self.last_line = line.split_whitespace().collect::<Vec<_>>().join(" ");
        self.last_time = Instant::now();
        self.watch(true);
        line
    }

    fn show(&mut self, lines: &str) {
        self.screen.line(lines);
        self.lines += lines.lines().count();
        self.evidence.extend(lines.lines().map(String::from));
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

    /// Prints by how much these counters of the kernel have risen since `before`. Other programs of the machine count
    /// too, and the line says so: it explains, and no verdict may rest on it.
    ///
    /// # Errors
    /// As [`Counters::risen`].
    pub fn counted<const N: usize>(&mut self, before: &Counters, names: [&str; N]) -> Result<()> {
        let risen = names.map(|name| Ok(format!("{name} +{}", before.risen(name)?)));
        let risen = risen.into_iter().collect::<Result<Vec<_>>>()?;
        self.say("counted", format_args!("{}  (all programs of this machine)", risen.join(", ")));
        Ok(())
    }

    /// The command that shows the same in the next terminal, while the class looks at the question.
    pub fn look(&mut self, command: impl Display) {
        if self.pause && env::var_os(DRAWN).is_none() {
            self.say("look", command);
        }
    }

    /// Waits until the viewer wants to go on, or fails with the key that asks for something else: r, s or q.
    fn go_on(&mut self, prompt: &str) -> Result<()> {
        self.input(prompt, false, |text| text.is_empty().then_some(()))
    }

    /// Waits for a key, or a line, that `accept` takes; anything else but r, s and q asks again.
    fn input<T>(&mut self, prompt: &str, line: bool, accept: impl Fn(&str) -> Option<T>) -> Result<T> {
        self.watch(false);
        let mut keys = Keys::listen(line)?;
        let taken = loop {
            self.screen.ask(&format!("{:LABEL$}{prompt} ", ""));
            self.screen.settle();
            self.screen.ask_nothing();
            let pressed = keys.wait();
            self.no_input = !self.predict && !self.heard && matches!(pressed, Pressed::End);
            self.interrupted = matches!(pressed, Pressed::Signal);
            self.heard = true;
            self.lines += 1;
            let text = match pressed {
                Pressed::Text(text) => {
                    if line {
                        self.screen.typed();
                    }
                    text
                }
                Pressed::Signal | Pressed::End => "q".into(),
            };
            match (accept(&text), text.as_str()) {
                (Some(taken), _) => break Ok(taken),
                (None, key @ ("r" | "s" | "q")) => break Err(Error::msg(key.as_bytes()[0] as char)),
                (None, "?") if !line => self.show(&self.screen.hang(&" ".repeat(LABEL), KEYS)),
                (None, _) => {}
            }
        };
        drop(keys);
        if !(self.interrupted && self.predict) {
            let_signals_end_us(); // with --predict the score comes first
        }
        self.last_time = Instant::now();
        self.watch(true);
        taken
    }

    fn watch(&self, on: bool) {
        let observed = format!("not seen within {SILENCE_LIMIT:?}: the end of the last call");
        self.watchdog.expect(on.then(|| self.unexpected(&observed)));
    }

    /// Plays one experiment, again and again while the viewer wants it; also the key, if it was another than to go on.
    ///
    /// # Errors
    /// What was to be recorded cannot be written.
    pub(crate) fn play_one(
        &mut self,
        number: usize,
        experiment: &'static Experiment,
    ) -> Result<(Verdict, Option<char>)> {
        let mut before: Option<Verdict> = None;
        loop {
            let (verdict, key) = self.play_once(number, experiment)?;
            // Begun again and then skipped: what was decided before stays.
            let decided = if verdict.outcome == NOT_PLAYED { before.take() } else { None };
            match key {
                Some('r') => before = Some(decided.unwrap_or(verdict)).filter(|verdict| verdict.outcome != NOT_PLAYED),
                key => return Ok((decided.unwrap_or(verdict), key)),
            }
        }
    }

    fn play_once(&mut self, number: usize, experiment: &'static Experiment) -> Result<(Verdict, Option<char>)> {
        self.expected = "the experiment to reach its question".into();
        self.screen.measure();
        if self.pause {
            self.screen.clear();
        }
        self.heading = vec![self.screen.bold(&title(number, experiment))];
        self.lines = 0;
        self.counters = Counters::read().ok();
        self.show(&format!("\n{}", self.heading[0]));
        self.last_time = Instant::now();
        self.told("claim", experiment.claim);
        // Whether the source asks or asserts is told with --list: here it would narrow the answers.
        self.told("", experiment.source.split("; the question is ours").next().unwrap_or_default());
        self.watch(false); // what is needed may take its time to be found
        let missing = experiment.needs.iter().find(|need| !(need.met)());
        self.watch(true);
        let played = match missing {
            Some(need) => {
                let Verdict { outcome, text, .. } = Verdict::skipped(need);
                Ok(Verdict { outcome, text: format!("{text}; a recorded run is in the sheet"), ..Verdict::default() })
            }
            None => (experiment.play)(self),
        };
        self.watch(false);
        let verdict = match played.map_err(|error| error.downcast::<char>()) {
            Ok(verdict) => verdict,
            Err(Ok(key)) => return Ok((Verdict { outcome: NOT_PLAYED, ..Verdict::default() }, Some(key))),
            Err(Err(error)) => {
                let text = error.downcast_ref::<NotSeen>().map_or_else(|| format!("{error:#}"), NotSeen::to_string);
                self.excused(Verdict { outcome: UNEXPECTED, text, ..Verdict::default() })
            }
        };
        match verdict.after {
            Some(key) => Ok((verdict, key)),
            None => self.show_verdict(&verdict).map(|key| (verdict, key)),
        }
    }

    /// Shows a verdict, records it, and with `--pause` waits: the key that was pressed, if it was another than to go on.
    fn show_verdict(&mut self, verdict: &Verdict) -> Result<Option<char>> {
        self.watch(false);
        let told = match verdict.outcome {
            UNEXPECTED => self.unexpected(&verdict.text),
            outcome => self.screen.hang(&format!("{:<LABEL$}{outcome:<9}  ", "verdict"), &verdict.text),
        };
        // The verdict and the prompt below it still belong on the screen that began with the title.
        let rows = self.screen.rows().filter(|rows| self.pause && self.lines + told.lines().count() + 1 > *rows);
        if let Some(rows) = rows {
            let evidence = std::mem::take(&mut self.evidence);
            if let Err(key) = self.show_again(&evidence, rows.max(4) - 2) {
                return Ok(Some(key.downcast().unwrap_or('q')));
            }
            let heading = self.heading.join("\n");
            self.screen.line(format_args!("\n{heading}"));
        }
        self.screen.line(told.replacen(verdict.outcome, &self.screen.bold(verdict.outcome), 1));
        if let Some(foreseen) = verdict.foreseen() {
            self.told("you", if foreseen { "foresaw it" } else { "predicted something else" });
        }
        self.watch(false);
        self.record(verdict)?;
        let next = if self.pause { self.go_on("[Enter] go on   (r again, q quit, ? keys)").err() } else { None };
        Ok(next.map(|error| error.downcast().unwrap_or('q')))
    }

    /// What was seen stays until the class has read it; what has scrolled off is shown again, a screen at a time.
    fn show_again(&mut self, evidence: &[String], rows: usize) -> Result<()> {
        let scrolled_off = evidence.len() > rows;
        let again = if scrolled_off { "what was seen, again, and " } else { "" };
        self.go_on(&format!("[Enter] {again}the verdict   (? keys)"))?;
        for page in evidence.chunks(rows).take(if scrolled_off { usize::MAX } else { 0 }) {
            self.screen.line(page.join("\n"));
            self.go_on("[Enter] go on   (? keys)")?;
        }
        Ok(())
    }

    /// Appends one line of JSON: what was predicted, what was seen; the time in seconds since 1970.
    pub(crate) fn record(&mut self, verdict: &Verdict) -> Result<()> {
        let Some(path) = &self.records else { return Ok(()) };
        // The kit's own texts are plain ASCII, so Rust's way of quoting is JSON's.
        let text = |answer: &Option<String>| answer.as_ref().map_or("null".into(), |answer| format!("{answer:?}"));
        let (given, seen, outcome) = (text(&verdict.given), text(&verdict.seen), verdict.outcome);
        let (lab, id, kernel, time) = (self.lab, self.id, kernel::version(), UNIX_EPOCH.elapsed()?.as_secs());
        let line = format!(
            "{{\"lab\": {lab:?}, \"experiment\": {id:?}, \"given\": {given}, \"seen\": {seen}, \
             \"verdict\": {outcome:?}, \"kernel\": {kernel:?}, \"time\": {time}}}\n"
        );
        Ok(append_to(path)?.write_all(line.as_bytes()).at("write", path.display())?)
    }

    /// What is said when the kit's own prediction failed.
    fn unexpected(&self, observed: &str) -> String {
        let rows = [
            ("verdict", UNEXPECTED),
            ("expected", &self.expected),
            ("observed", observed),
            ("last", &self.last_line),
            ("kernel", &format!("Linux {}", kernel::version())),
            ("again", &format!("cargo {} {}", &self.lab[.."labNN".len()], self.id)),
            ("note", "Unless you changed the code, you caused none of this: the kit's prediction failed here."),
        ];
        rows.map(|(label, text)| self.screen.hang(&format!("{label:<LABEL$}"), text)).join("\n")
    }

    /// The experiment that is spoken of now.
    pub(crate) fn turn_to(&mut self, experiment: &Experiment) {
        self.id = experiment.id;
    }

    /// What is wrong with the command line where a pause found the end of its input at once.
    pub(crate) fn without_input(&self) -> Option<&'static str> {
        self.no_input.then_some("--pause waits for Enter, and standard input has ended")
    }

    /// Ctrl-C came while the viewer was asked: the program ends of it, as any other would.
    pub(crate) fn end_if_interrupted(&self) {
        if self.interrupted {
            let_signals_end_us();
        }
    }
}

fn append_to(path: &Path) -> Result<File> {
    Ok(File::options().create(true).append(true).open(path).at("open", path.display())?)
}

/// Puts the answers into the order that the name and the seed give: each place is right about equally often.
fn deal<T>(answers: &mut [T], name: &str, seed: u64) {
    // FNV-1a, then the steps of xorshift64: a deck that is the same on every machine.
    let mut state = 0xcbf2_9ce4_8422_2325 ^ seed;
    for byte in name.bytes() {
        state = (state ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }
    for last in (1..answers.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        answers.swap(last, (state >> 32) as usize % (last + 1));
    }
}

fn letter(at: usize) -> char {
    (b'a'..=b'z').nth(at).map_or('?', char::from)
}

#[cfg(test)]
mod tests {
    use std::process::ExitCode;

    use anyhow::bail;

    use super::*;
    use crate::{Lesson, play};

    fn asked(stage: &mut Stage, source: Option<u8>, observed: u8) -> Result<Verdict> {
        let question = stage.ask("Which?", [("one", 1), ("two", 2)], Predicts { source, kit: 2 })?;
        stage.verdict(question, observed, "it is two")
    }

    const fn experiment(play: fn(&mut Stage) -> Result<Verdict>, needs: &'static [Need]) -> Experiment {
        Experiment {
            id: "an-experiment",
            starred: false,
            minutes: 1,
            claim: "It is so.",
            source: "nowhere",
            needs,
            play,
        }
    }

    const MISSING: Need = Need { what: "what nobody has", provided_by: "nothing", met: || false };

    /// Plays one experiment: its outcome, what is told of it, and whether the program would fail.
    fn played(experiment: Experiment) -> (&'static str, String, bool) {
        let experiments: &'static [Experiment] = Box::leak(Box::new([experiment]));
        let lesson = Lesson { lab: "lab99-none", setting: "a test", needs: &[], experiments, next: &[] };
        let args = DemoArgs::default();
        let failed = format!("{:?}", play(&lesson, &args).unwrap()) == format!("{:?}", ExitCode::FAILURE);
        let mut stage = Stage::new(Screen::new(), "lab99-none", &args).unwrap();
        let (verdict, _) = stage.play_one(1, &experiments[0]).unwrap();
        let dealt = verdict.text.split_once(") ").filter(|(letter, _)| letter.len() == 1);
        (verdict.outcome, dealt.map_or(verdict.text.clone(), |(_, text)| text.into()), failed)
    }

    #[test]
    fn what_was_observed_decides_between_the_source_and_the_kit() {
        let (outcome, text, failed) = played(experiment(|stage| asked(stage, Some(2), 2), &[]));
        assert_eq!((outcome, text.as_str(), failed), (CONFIRMED, "it is two", false));
        let (outcome, _, failed) = played(experiment(|stage| asked(stage, Some(1), 2), &[]));
        assert_eq!((outcome, failed), (CORRECTED, false));
        let (outcome, _, failed) = played(experiment(|stage| asked(stage, None, 2), &[]));
        assert_eq!((outcome, failed), (ANSWERED, false));
    }

    #[test]
    fn a_kit_that_is_wrong_is_unexpected_and_fails_even_where_the_source_was_right() {
        let (outcome, text, failed) = played(experiment(|stage| asked(stage, Some(1), 1), &[]));
        assert_eq!((outcome, text.as_str(), failed), (UNEXPECTED, "one", true));
        let (outcome, text, failed) = played(experiment(|stage| asked(stage, None, 3), &[]));
        assert_eq!((outcome, text.as_str(), failed), (UNEXPECTED, "3", true));
    }

    #[test]
    fn an_error_is_unexpected_and_silence_is_told_from_another_answer() {
        let (outcome, text, failed) = played(experiment(|_| bail!("the kernel is on strike"), &[]));
        assert_eq!((outcome, text.as_str(), failed), (UNEXPECTED, "the kernel is on strike", true));
        let silent = |_: &mut Stage| kernel::wait_until("a word", Duration::ZERO, || Ok(None));
        let (outcome, text, failed) = played(experiment(silent, &[]));
        assert_eq!((outcome, text.as_str(), failed), (UNEXPECTED, "not seen within 0ns: a word", true));
    }

    #[test]
    fn answers_are_dealt_to_each_place_about_equally_often_and_anew_with_a_seed() {
        let place = |question: usize, seed| {
            let mut answers = [0, 1, 2, 3];
            deal(&mut answers, &format!("experiment-{question}"), seed);
            answers.iter().position(|answer| *answer == 0).unwrap()
        };
        let mut places = [0; 4];
        (0..1000).for_each(|question| places[place(question, 0)] += 1);
        assert!(places.iter().all(|count| (200..300).contains(count)), "{places:?}");
        assert!((0..100).any(|question| place(question, 0) != place(question, 1)));
    }

    #[test]
    fn what_is_missing_skips_the_experiment_and_is_named() {
        let (outcome, text, failed) = played(experiment(|stage| asked(stage, None, 1), &[MISSING]));
        assert_eq!((outcome, failed), (SKIPPED, false));
        assert!(text.starts_with("needs what nobody has: nothing"), "{text}");
    }
}
