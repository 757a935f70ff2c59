//! A lab's experiments as a table: chosen, listed, played in a row, and their verdicts on a board.

use std::io::{IsTerminal, stdin};
use std::process::ExitCode;

use anyhow::{Context, Result};
use kernel::Need;
use roles::Screen;

use crate::cli::{DemoArgs, usage};
use crate::stage::{ANSWERED, CONFIRMED, CORRECTED, LABEL, NOT_PLAYED, SKIPPED, Stage, UNEXPECTED, Verdict};

/// One claim of the lecture, and the function that lets the kernel decide it.
pub struct Experiment {
    /// Its name on the command line.
    pub id: &'static str,
    /// One of the three a class remembers.
    pub starred: bool,
    /// How long a class needs for it, discussion included.
    pub minutes: u8,
    /// What the source says, in our words.
    pub claim: &'static str,
    /// Where it says so; or "ours".
    pub source: &'static str,
    /// What it cannot run without. The lab's sheet holds a recorded run of each experiment that needs something.
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
    /// What none of the experiments can run without.
    pub needs: &'static [Need],
    /// The experiments, starred ones first.
    pub experiments: &'static [Experiment],
    /// What to type next: label and command.
    pub next: &'static [(&'static str, &'static str)],
}

/// Behind a row of the scoreboard that is shown in part.
const CUT: &str = " ...";

/// An experiment that was played: its number, itself, and how it ended.
pub(crate) type Played = (usize, &'static Experiment, Verdict);

/// The number, the star and the name of an experiment.
pub(crate) fn title(number: usize, experiment: &Experiment) -> String {
    format!("{number} {} {}", if experiment.starred { '*' } else { ' ' }, experiment.id)
}

/// Plays a lab's experiments, or the named ones, and shows the scoreboard.
///
/// # Errors
/// A thread cannot be started; the file for `--record` cannot be written.
pub fn play(lesson: &Lesson, args: &DemoArgs) -> Result<ExitCode> {
    let chosen = match choose(lesson, &args.names) {
        Ok(chosen) => chosen,
        Err(error) => return Ok(usage(lesson.lab, &error.to_string())),
    };
    let mut screen = Screen::new();
    screen.measure();
    if args.list {
        chosen.iter().for_each(|(number, experiment)| list(&mut screen, *number, experiment));
        for Need { what, provided_by, .. } in lesson.needs.iter().filter(|need| !(need.met)()) {
            let missing = format!("{what}; missing here, so they are skipped: {provided_by}");
            screen.line(screen.hang("all need ", &missing));
        }
        return Ok(ExitCode::SUCCESS);
    }
    if args.predict && !stdin().is_terminal() {
        return Ok(usage(lesson.lab, "--predict asks you, so it needs a terminal"));
    }
    let release = kernel::version();
    let version = release.split('.').take(2).collect::<Vec<_>>().join(".");
    screen.line(screen.bold(&format!("{}  {}  Linux {version}, loopback", lesson.lab, lesson.setting)));
    if let Some(small) = screen.too_small(args.pause) {
        screen.line(small);
    }
    let mut stage = Stage::new(screen, lesson.lab, args)?;
    let mut board: Vec<Played> = Vec::new();
    let missing = lesson.needs.iter().find(|need| !(need.met)());
    if let Some(Need { what, provided_by, .. }) = missing {
        let line = stage.screen.hang(&format!("{:<LABEL$}", "missing"), &format!("{what}: {provided_by}"));
        stage.screen.line(line); // whole: a row of the scoreboard has two lines
    }
    for (number, experiment) in chosen {
        stage.turn_to(experiment);
        let (verdict, key) = match missing {
            Some(need) => (Verdict::skipped(need), None),
            None => stage.play_one(number, experiment)?,
        };
        let quit = key == Some('q');
        // Quit at its question: it is still to be played. What was played is recorded already.
        if missing.is_some() || verdict.outcome == NOT_PLAYED && !quit {
            stage.record(&verdict)?;
        }
        board.push((number, experiment, verdict));
        if quit {
            break;
        }
    }
    if let Some(no_input) = stage.without_input() {
        stage.screen.end();
        return Ok(usage(lesson.lab, no_input));
    }
    if board.len() > 1 || board.len() == lesson.experiments.len() || missing.is_some() {
        scoreboard(&mut stage.screen, &board);
        lesson.next.iter().for_each(|(label, command)| stage.screen.line(format_args!("{label:<LABEL$}{command}")));
    }
    stage.screen.end();
    stage.end_if_interrupted();
    let unexpected = board.iter().any(|(_, _, verdict)| verdict.outcome == UNEXPECTED);
    Ok(if unexpected { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The named experiments with their numbers, in the order named; all if none is named.
pub(crate) fn choose(lesson: &Lesson, chosen: &[String]) -> Result<Vec<(usize, &'static Experiment)>> {
    let numbered: Vec<_> = lesson.experiments.iter().enumerate().map(|(at, experiment)| (at + 1, experiment)).collect();
    if chosen.is_empty() {
        return Ok(numbered);
    }
    let find = |name: &String| {
        let found = numbered.iter().find(|(number, experiment)| *name == number.to_string() || name == experiment.id);
        found.copied().with_context(|| format!("no experiment '{name}'; there are {}", names(lesson)))
    };
    chosen.iter().map(find).collect()
}

/// All that names an experiment: `1 to 2 or one, other`.
pub(crate) fn names(lesson: &Lesson) -> String {
    let ids: Vec<_> = lesson.experiments.iter().map(|experiment| experiment.id).collect();
    format!("1 to {} or {}", ids.len(), ids.join(", "))
}

fn list(screen: &mut Screen, number: usize, experiment: &Experiment) {
    let minutes = format!("{}  {} min", title(number, experiment), experiment.minutes);
    screen.line(screen.bold(&minutes));
    screen.line(screen.hang("    ", experiment.claim));
    screen.line(format_args!("    [{}]", experiment.source));
    for Need { what, provided_by, met } in experiment.needs {
        let missing = if met() { String::new() } else { format!("; missing here, so it is skipped: {provided_by}") };
        screen.line(screen.hang("    ", &format!("needs {what}{missing}")));
    }
}

fn scoreboard(screen: &mut Screen, board: &[Played]) {
    screen.line(screen.bold("\nscoreboard"));
    let width = board.iter().map(|(_, experiment, _)| experiment.id.len() + 4).max().unwrap_or(0);
    for (number, experiment, verdict) in board {
        let lead = format!("{:<width$}  {:<10}  ", title(*number, experiment), verdict.outcome);
        let missed = if verdict.foreseen() == Some(false) { "(you missed it) " } else { "" };
        let row = screen.hang(&lead, &format!("{missed}{}", verdict.text));
        let lines = if screen.width() < 79 { usize::MAX } else { 2 }; // 24 lines are enough where there is room
        let mut shown = row.lines().take(lines).collect::<Vec<_>>().join("\n");
        if row.lines().count() > lines {
            while shown.lines().last().is_some_and(|line| line.len() + CUT.len() > screen.width()) {
                shown.truncate(shown.trim_end().rfind(' ').unwrap_or(0));
            }
            shown = shown.trim_end().to_string() + CUT;
        }
        screen.line(shown.replacen(verdict.outcome, &screen.bold(verdict.outcome), 1));
    }
    let count = |outcome| board.iter().filter(|(_, _, verdict)| verdict.outcome == outcome).count();
    let counts = [CONFIRMED, CORRECTED, ANSWERED, SKIPPED, UNEXPECTED].map(|word| format!("{} {word}", count(word)));
    let counts = screen.hang("", &counts.join(", "));
    screen.line(counts);
    let guesses: Vec<bool> = board.iter().filter_map(|(_, _, verdict)| verdict.foreseen()).collect();
    if !guesses.is_empty() {
        let held = guesses.iter().filter(|held| **held).count();
        screen.line(format_args!("you foresaw {held} of {}", guesses.len()));
    }
}
