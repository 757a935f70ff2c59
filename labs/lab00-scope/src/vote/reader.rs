//! Reads a demo's screen as the class reads it: experiment, question, answers, verdict, and what is waited for.
//!
//! Certain, because a demo with --pause writes whole lines, each with its label in the first ten columns, and clears the
//! screen before an experiment's title; only a prompt ends without a newline. See `Stage` in shared/src/stage.rs.

use super::ballot::{Question, place};

/// The label in front of each line, as in shared/src/stage.rs.
const LABEL: usize = 10;
const CLEAR: &str = "\x1b[2J\x1b[H";
/// How every prompt of a demo begins and ends.
const PROMPT: (&str, &str) = ("          [Enter] ", "keys) ");
/// The prompt below a question, and the one below a verdict.
const AT_QUESTION: &str = "[Enter] let the kernel decide";
const BELOW_VERDICT: &str = "[Enter] go on   (r again";

/// A part of what a demo wrote.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    /// Lines, to be shown as they are.
    Lines(String),
    /// The screen is to be cleared; an experiment follows.
    Cleared,
    /// A question stands, and the demo waits.
    Asks { question: Question, prompt: String },
    /// The verdict stands below it, and the demo waits.
    Decided { verdict: Verdict, prompt: String },
    /// The demo waits for something else.
    Waits { prompt: String },
}

/// A verdict as it was shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The place of the answer that the kernel decided for; `None` for UNEXPECTED and SKIPPED.
    pub right: Option<usize>,
    /// All its words.
    pub words: String,
}

/// What was read so far.
#[derive(Default)]
pub struct Reader {
    /// The beginning of a line.
    rest: Vec<u8>,
    /// The screen was cleared and no line with words followed yet.
    fresh: bool,
    experiment: String,
    /// The label of the block that the last line belongs to, and whose lines are kept.
    label: String,
    ask: Vec<String>,
    verdict: Vec<String>,
}

impl Reader {
    /// Takes what the demo wrote next.
    pub fn read(&mut self, bytes: &[u8]) -> Vec<Seen> {
        self.rest.extend(bytes.iter().filter(|byte| **byte != b'\r'));
        let mut seen = Vec::new();
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let shown = line.strip_prefix(CLEAR).inspect(|_| {
                self.fresh = true;
                seen.push(Seen::Cleared);
            });
            let shown = shown.unwrap_or(&line);
            self.take(&plain(shown.trim_end_matches('\n')));
            match seen.last_mut() {
                Some(Seen::Lines(lines)) => *lines += shown,
                _ => seen.push(Seen::Lines(shown.into())),
            }
        }
        let rest = String::from_utf8_lossy(&self.rest).into_owned();
        if rest.starts_with(PROMPT.0) && rest.ends_with(PROMPT.1) {
            self.rest.clear();
            seen.push(self.waits(rest));
        }
        seen
    }

    /// What is left of a line at the end.
    pub fn end(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.rest)).into_owned()
    }

    fn take(&mut self, line: &str) {
        if std::mem::take(&mut self.fresh) {
            self.fresh = line.is_empty();
            if let Some(experiment) = title(line) {
                self.experiment = experiment.into();
                self.ask.clear();
                self.verdict.clear();
            }
            return;
        }
        let (label, text) = line.split_at_checked(LABEL).unwrap_or((line, ""));
        if !label.trim().is_empty() || line.is_empty() {
            self.label = label.trim().into();
        }
        let block = match self.label.as_str() {
            "ask" => &mut self.ask,
            "verdict" => &mut self.verdict,
            _ => return,
        };
        if !label.trim().is_empty() {
            block.clear();
        }
        block.push(text.trim().into());
    }

    fn waits(&mut self, prompt: String) -> Seen {
        self.label.clear();
        if prompt.contains(AT_QUESTION) {
            if let Some(question) = question(&self.experiment, &self.ask) {
                return Seen::Asks { question, prompt };
            }
        } else if prompt.contains(BELOW_VERDICT) && !self.verdict.is_empty() {
            return Seen::Decided { verdict: verdict(&std::mem::take(&mut self.verdict)), prompt };
        }
        Seen::Waits { prompt }
    }
}

/// A line without bold type.
fn plain(line: &str) -> String {
    line.replace("\x1b[1m", "").replace("\x1b[0m", "")
}

/// The experiment's name in `1 * half-close`.
fn title(line: &str) -> Option<&str> {
    let (number, rest) = line.split_once(' ')?;
    let id = rest.strip_prefix(['*', ' '])?.strip_prefix(' ')?;
    let named = id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    (number.parse::<u32>().is_ok() && named).then_some(id)
}

/// Question and answers from the lines behind `ask`: a text, then `a) ...   b) ...` in one line or one line each, and
/// any of them may go on below.
fn question(experiment: &str, lines: &[String]) -> Option<Question> {
    let mut asked = Question { experiment: experiment.into(), ..Question::default() };
    for line in lines {
        let mut rest = line.as_str();
        while !rest.is_empty() {
            let begins = |at: usize| format!("{}) ", super::ballot::letter(at));
            if let Some(answer) = rest.strip_prefix(&begins(asked.answers.len())) {
                asked.answers.push(String::new());
                rest = answer;
            }
            let next = format!("   {}", begins(asked.answers.len()));
            let (part, behind) = if asked.answers.is_empty() { (rest, "") } else { cut(rest, &next) };
            let text = asked.answers.last_mut().unwrap_or(&mut asked.text);
            *text += if text.is_empty() { "" } else { " " };
            *text += part;
            rest = behind;
        }
    }
    (asked.answers.len() > 1 && !asked.text.is_empty()).then_some(asked)
}

/// What stands before `mark`, and from its letter on.
fn cut<'a>(text: &'a str, mark: &str) -> (&'a str, &'a str) {
    text.find(mark).map_or((text, ""), |at| (&text[..at], text[at..].trim_start()))
}

/// `CONFIRMED  b) the half-close arrives as end of stream`
fn verdict(lines: &[String]) -> Verdict {
    let words = lines.join(" ");
    let (outcome, rest) = words.split_once(' ').unwrap_or((&words, ""));
    let decided = matches!(outcome, "CONFIRMED" | "CORRECTED" | "ANSWERED");
    let right = rest.trim_start().split_once(')').filter(|_| decided).and_then(|(letter, _)| place(letter));
    Verdict { right, words: words.split_whitespace().collect::<Vec<_>>().join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCREEN: &str = "lab09-shutdown  here\r\n\x1b[2J\x1b[H\r\n\x1b[1m1 * half-close\x1b[0m\r\nclaim     It is so.\r\n\
        client    ask nothing\r\nask       The client calls\r\n          shutdown. What now?\r\n          a) nothing,\r\n\
        \u{20}         it blocks\r\n          b) 0 bytes\r\n          [Enter] let the kernel decide   (? keys) ";
    const AFTER: &str = "\r\nclient    shutdown(4, SHUT_WR) = 0\r\n\r\n1 * half-close\r\nask       The client calls\r\n\
        \u{20}         shutdown. What now?\r\n          a) nothing,\r\n          it blocks\r\n          b) 0 bytes\r\n\
        verdict   \x1b[1mCONFIRMED\x1b[0m  b) it arrives as\r\n          end of stream\r\n          \
        [Enter] go on   (r again, q quit, ? keys) ";

    fn half_close() -> Question {
        Question {
            experiment: "half-close".into(),
            text: "The client calls shutdown. What now?".into(),
            answers: vec!["nothing, it blocks".into(), "0 bytes".into()],
        }
    }

    #[test]
    fn question_answers_and_verdict_are_read_however_they_come_in() {
        for step in [1, 2, 7, 64, 4096] {
            let mut reader = Reader::default();
            let chunks = SCREEN.as_bytes().chunks(step).chain(AFTER.as_bytes().chunks(step));
            let seen: Vec<Seen> = chunks.flat_map(|chunk| reader.read(chunk)).collect();
            let asks: Vec<&Question> = seen
                .iter()
                .filter_map(|seen| match seen {
                    Seen::Asks { question, .. } => Some(question),
                    _ => None,
                })
                .collect();
            assert_eq!(asks, [&half_close()], "{step}");
            let words = "CONFIRMED b) it arrives as end of stream".into();
            let Some(Seen::Decided { verdict, prompt }) = seen.last() else { panic!("{seen:?}") };
            assert_eq!((verdict, prompt.ends_with("? keys) ")), (&Verdict { right: Some(1), words }, true));
            assert_eq!(seen.iter().filter(|seen| **seen == Seen::Cleared).count(), 1);
        }
    }

    #[test]
    fn answers_in_one_line_are_told_apart() {
        let lines = ["What does recv return?", "a) 0 (b) too)   b) b)  c) d   c) EPIPE"].map(String::from);
        assert_eq!(question("x", &lines).unwrap().answers, ["0 (b) too)", "b)  c) d", "EPIPE"]);
    }

    #[test]
    fn a_verdict_without_a_right_answer_names_none() {
        for words in ["UNEXPECTED", "SKIPPED    needs a) luck", "", "CONFIRMED", "CORRECTED  bb) x"] {
            assert_eq!(verdict(&[words.into()]).right, None, "{words}");
        }
    }

    #[test]
    fn no_output_confuses_it_for_good() {
        let mut random = shared::SplitMix64::new(19);
        for _ in 0..2000 {
            let mut reader = Reader::default();
            let noise: Vec<u8> =
                (0..random.draw() % 300).map(|_| b"ask a)b\n\x1b[ \xff1*"[random.draw() as usize % 14]).collect();
            reader.read(&noise);
            reader.read(b"\n");
            let seen = reader.read(SCREEN.as_bytes());
            let asked = matches!(seen.last(), Some(Seen::Asks { question, .. }) if *question == half_close());
            assert!(asked, "{:?}: {seen:?}", String::from_utf8_lossy(&noise));
        }
    }
}
