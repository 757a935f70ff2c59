//! What holds for every lab's demo.

use std::{fs, os::unix::process::ExitStatusExt, process::Command};

use nix::sys::signal::Signal;

use crate::{Finished, Role, root, run, signal};

const OUTCOMES: [&str; 5] = ["CONFIRMED", "CORRECTED", "ANSWERED", "SKIPPED", "UNEXPECTED"];

/// A demo that was played.
pub struct Demo {
    /// The run.
    pub finished: Finished,
}

impl Demo {
    /// Plays all experiments of a lab.
    pub fn play(binary: &str) -> Demo {
        Demo { finished: run(Command::new(binary).arg("demo")) }
    }

    /// Each experiment's name and verdict, read from the scoreboard.
    pub fn verdicts(&self) -> Vec<(String, String)> {
        let board = self.finished.stdout.lines().skip_while(|line| *line != "scoreboard");
        let rows = board.map(|line| line.split_whitespace().filter(|word| *word != "*").collect::<Vec<_>>());
        rows.filter(|words| words.len() > 2 && OUTCOMES.contains(&words[2]))
            .map(|words| (words[1].into(), words[2].into()))
            .collect()
    }

    /// Holds the verdicts against the recorded ones, and the output against the rules of all labs.
    ///
    /// # Panics
    /// A verdict differs, a line is too wide, a byte is not ASCII, the scoreboard is too long.
    pub fn assert_verdicts(&self, expected: &[(&str, &str)]) {
        let Finished { stdout, stderr, .. } = &self.finished;
        let verdicts = self.verdicts();
        let observed: Vec<_> = verdicts.iter().map(|(id, verdict)| (id.as_str(), verdict.as_str())).collect();
        assert_eq!(observed, expected, "\n{stdout}{stderr}");
        assert_eq!(self.finished.code(), 0, "\n{stdout}{stderr}");
        assert_eq!(stderr, "");
        for line in stdout.lines() {
            assert!(line.len() < 80, "{} columns: {line}", line.len());
            assert!(line.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "not plain ASCII: {line:?}");
        }
        let scoreboard = stdout.lines().skip_while(|line| *line != "scoreboard").count();
        assert!((1..=24).contains(&scoreboard), "a scoreboard of {scoreboard} lines");
    }
}

/// The rules of the command line that hold in every lab; `role` are arguments of one that runs until Ctrl-C, and `ready`
/// is what it prints once it runs.
///
/// # Panics
/// One of them is broken.
pub fn assert_common_rules(binary: &str, role: &[&str], ready: &str) {
    let help = run(Command::new(binary).arg("--help"));
    assert_eq!(help.code(), 0);
    assert!(help.stdout.contains("Examples:"), "{}", help.stdout);

    let list = run(Command::new(binary).args(["demo", "--list"]));
    assert_eq!(list.code(), 0);
    assert!(list.stdout.starts_with("1 * "), "starred first: {}", list.stdout);
    assert!(!list.stdout.contains("verdict") && !list.stdout.contains("a) "), "answers in the list: {}", list.stdout);

    let unknown = run(Command::new(binary).args(["demo", "no-such-experiment"]));
    assert_eq!(unknown.code(), 2);
    assert!(unknown.stderr.contains("no experiment 'no-such-experiment'; there are 1 to "), "{}", unknown.stderr);

    let predict = run(Command::new(binary).args(["demo", "--predict"]));
    assert_eq!(predict.code(), 2);
    assert!(predict.stderr.contains("needs a terminal"), "{}", predict.stderr);

    // A reader that has seen enough: no message, and what a program killed by SIGPIPE would leave.
    let closed =
        run(Command::new("bash").args(["-c", "\"$0\" demo 2>&1 | head -1; echo \"${PIPESTATUS[0]}\"", binary]));
    assert_eq!(closed.stdout.lines().count(), 2, "{}", closed.stdout);
    assert_eq!(closed.stdout.lines().last(), Some("141"), "{}", closed.stdout);

    for stop in [Signal::SIGINT, Signal::SIGTERM] {
        let mut running = Role::spawn(Command::new(binary).args(role)).unwrap();
        running.wait_for(ready).unwrap();
        signal(&running, stop);
        assert_eq!(running.wait_for_end().unwrap().code(), Some(0), "{stop} ends a role in good order");

        // --pause waits for the class, so there is something to interrupt.
        let mut demo = Role::spawn(Command::new(binary).args(["demo", "--pause"])).unwrap();
        demo.wait_for("[Enter]").unwrap();
        signal(&demo, stop);
        assert_eq!(demo.wait_for_end().unwrap().signal(), Some(stop as i32), "130 to a shell, for SIGINT");
    }

    let mut skipped = Role::spawn(Command::new(binary).args(["demo", "1", "--pause"])).unwrap();
    skipped.wait_for("[Enter]").unwrap();
    skipped.type_line("r").unwrap(); // again
    skipped.wait_for("[Enter]").unwrap();
    skipped.type_line("s").unwrap();
    skipped.wait_for("not played").unwrap();
    assert_eq!(skipped.wait_for_end().unwrap().code(), Some(0));
}

/// Guards the sheet: each output it quotes between "```text" and "```" must be what the demo prints, digits aside.
///
/// # Panics
/// NOTES.md has no section for the lab, the section quotes nothing, or a quoted line is not in the output.
pub fn assert_sheet_quotes_a_run(lab: &str, demo: &Demo) {
    let notes = fs::read_to_string(root().join("NOTES.md")).unwrap();
    let section = notes.split("\n## ").find(|section| section.starts_with(lab)).expect("a section of NOTES.md");
    let printed: Vec<String> = demo.finished.stdout.lines().map(without_digits).collect();
    let mut quoted = 0;
    for block in section.split("```text\n").skip(1) {
        for line in block.split("```").next().unwrap().lines().filter(|line| !line.is_empty()) {
            assert!(printed.contains(&without_digits(line)), "the sheet quotes a line no run prints: {line}");
            quoted += 1;
        }
    }
    assert!(quoted >= 5, "the sheet of {lab} quotes only {quoted} lines of output");
}

/// Ports, descriptors, process ids and times differ from run to run; so does which lines carry a stamp, `  +1.03s`.
fn without_digits(line: &str) -> String {
    let line = line.rsplit_once("  +").filter(|(_, stamp)| is_stamp(stamp)).map_or(line, |(before, _)| before);
    let mut plain = String::new();
    for character in line.trim_end().chars() {
        let shown = if character.is_ascii_digit() { '#' } else { character };
        if !(shown == '#' && plain.ends_with('#')) {
            plain.push(shown);
        }
    }
    plain
}

fn is_stamp(text: &str) -> bool {
    text.strip_suffix('s').is_some_and(|seconds| seconds.parse::<f64>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_stamps_make_no_difference() {
        assert_eq!(without_digits("server    recv(5, 1024) = 0  +1.03s"), without_digits("server    recv(4, 64) = 12"));
        assert_ne!(without_digits("a  +1 more"), without_digits("a"));
    }
}
