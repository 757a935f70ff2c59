//! What every lab's command line has in common: the way in and out, `demo`, `sheet`.

use std::env;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write, stdout};
use std::num::NonZeroUsize;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio, exit};

use anyhow::Result;
use clap::{Args, Parser};

use roles::{At, CallError, Screen, end_with_parent};

use crate::lesson::{Lesson, choose, names};

/// The program that draws a run.
const SCOPE: &str = "lab00-scope";
/// Set for a demo that the scope draws, in a private network that the next terminal does not see.
pub(crate) const DRAWN: &str = "LAB_DRAWN";
/// Below each prediction of a hand-out.
const ROOM_TO_WRITE: &str = "\n   ____________________________________________________________\n\n";

/// The options of `demo`, the same in every lab.
#[derive(Args, Clone, Debug, Default)]
#[command(max_term_width = 79)] // of all help texts: each lab's command line has these options
pub struct DemoArgs {
    /// Experiments to play, by name or number; all if none is named
    #[arg(value_name = "NAME|NUMBER")]
    pub names: Vec<String>,
    /// List number, name, claim and source; no answers. * marks the three to remember
    #[arg(long)]
    pub list: bool,
    /// For the projector: one experiment a screen, each question waits for the class
    #[arg(long)]
    pub pause: bool,
    /// Ask for your own prediction first and keep the score (needs a terminal)
    #[arg(long)]
    pub predict: bool,
    /// Append each prediction and verdict to FILE, a line of JSON each
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Draw what the named experiments call, send and change; with --pause each question waits for the class
    #[arg(long, requires = "names", conflicts_with_all = ["list", "predict", "record"])]
    pub wire: bool,
    /// Deal the answers anew; 0 deals them as the sheets show them
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

/// The options of `sheet`, the same in every lab.
#[derive(Args, Clone, Debug, Default)]
pub struct SheetArgs {
    /// The folded parts, too: output, reasons, answers
    #[arg(long)]
    pub all: bool,
    /// A hand-out: question, predictions with room to write, commands
    #[arg(long, conflicts_with = "all")]
    pub questions: bool,
}

/// Understands a lab's command line, or ends the program: 0 after a help text, 2 with what is wrong.
pub fn parse<C: Parser>(lesson: &Lesson) -> C {
    let mut command = C::command();
    command.build(); // adds the role `help`
    let first = env::args_os().nth(1).and_then(|word| word.into_string().ok()).filter(|word| !word.starts_with('-'));
    // Unlike clap, which takes each unknown word for an experiment's name, this says which roles there are.
    if let Some(word) = first.filter(|word| command.find_subcommand(word).is_none())
        && choose(lesson, std::slice::from_ref(&word)).is_err()
    {
        let roles = command.get_subcommands().filter(|role| !role.is_hide_set()).map(|role| role.get_name());
        let roles = roles.filter(|role| !["demo", "sheet", "help"].contains(role)).collect::<Vec<_>>().join(", ");
        let (lab, experiments) = (&lesson.lab[.."labNN".len()], names(lesson));
        tell(format_args!("{lab}: '{word}' is neither a role ({roles}) nor an experiment ({experiments})\n"));
        exit(2);
    }
    C::parse()
}

/// For clap: a count that must not be 0.
///
/// # Errors
/// What else it is, in words.
pub fn at_least_one(text: &str) -> Result<NonZeroUsize, String> {
    text.parse().ok().and_then(NonZeroUsize::new).ok_or_else(|| "a whole number, at least 1".into())
}

/// Runs a lab's `body` and turns its error into a message with a hint; `lab` is its package name.
pub fn run(lab: &str, body: impl FnOnce() -> Result<ExitCode>) -> ExitCode {
    end_with_parent().and_then(|()| body()).unwrap_or_else(|error| {
        tell(format_args!("{}: {error:#}\n", &lab[.."labNN".len()]));
        if let Some(hint) = error.downcast_ref::<CallError>().and_then(CallError::hint) {
            tell(format_args!("  hint: {hint}\n"));
        }
        ExitCode::FAILURE
    })
}

/// Says what is wrong with the command line; exit status 2, as clap's own.
pub(crate) fn usage(lab: &str, problem: &str) -> ExitCode {
    tell(format_args!("{}: {problem}\n  hint: cargo {0} demo --help\n", &lab[.."labNN".len()]));
    ExitCode::from(2)
}

/// Becomes lab00-scope, which plays the named experiments and draws them. It is built beside this program.
pub(crate) fn draw(lab: &str, args: &DemoArgs) -> Result<ExitCode> {
    let own = env::current_exe()?;
    let scope = own.with_file_name(SCOPE);
    if lab == SCOPE || !scope.is_file() {
        let how = if lab == SCOPE { "the other labs have it" } else { "build it first: cargo build --bin lab00-scope" };
        return Ok(usage(lab, &format!("--wire is drawn by lab00-scope; {how}")));
    }
    let mut scope = Command::new(scope);
    scope.args(["run", "--brief", "--"]).arg(own).args(["demo", "--seed", &args.seed.to_string()]).args(&args.names);
    scope.args(args.pause.then_some("--pause")).env(DRAWN, "yes");
    Err(scope.exec()).at("execve", SCOPE)?
}

/// Writes to standard error; nobody is left to tell if that is closed too.
fn tell(message: impl Display) {
    let _ = write!(io::stderr(), "{message}");
}

/// Prints the lab's sheet up to its first folded part, or as `args` ask; through a pager on a terminal.
///
/// # Errors
/// The pager cannot be waited for.
pub fn sheet(sheet: &str, args: &SheetArgs) -> Result<ExitCode> {
    let text = sheet_text(sheet, args);
    if stdout().is_terminal() {
        let pager = env::var("PAGER").unwrap_or_else(|_| "less -FRX".into());
        let child = Command::new("sh").args(["-c", &pager]).stdin(Stdio::piped()).spawn();
        if let Ok(mut child) = child {
            let typed = child.stdin.take().map(|mut input| input.write_all(text.as_bytes()));
            // A pager that is left early closes the pipe: EPIPE. One that is not installed: sh's exit status 127.
            if child.wait()?.code() != Some(127) || typed.is_none() {
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
    Screen::new().line(text.trim_end());
    Ok(ExitCode::SUCCESS)
}

fn sheet_text(sheet: &str, args: &SheetArgs) -> String {
    let shown = if args.all { sheet } else { sheet.split("<details>").next().unwrap_or(sheet) };
    let mut text = String::new();
    let mut predicting = false;
    for line in shown.lines().filter(|line| !matches!(line.trim(), "<details>" | "</details>")) {
        predicting = line.starts_with("**Predict.**") || predicting && !line.starts_with("**");
        let next = predicting && (line.starts_with(|first: char| first.is_ascii_digit()) || line.is_empty());
        if args.questions && next && !text.ends_with("**Predict.**\n") {
            text += ROOM_TO_WRITE;
        }
        text += &line.replace("<summary>", "").replace("</summary>", "");
        text += "\n";
    }
    let rest = if args.all || args.questions { "" } else { "What was seen, why, and the answers: sheet --all\n" };
    format!("{}\n{}{rest}", text.trim_end(), if rest.is_empty() { "" } else { "\n" })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHEET: &str = "# lab99\n\n**Predict.**\n1. One?\n2. Two?\n\n**Run.**\n\n\u{20}   go\n\n<details>\n\
                         <summary>See</summary>\n\nseen\n</details>\n";

    #[test]
    fn a_count_is_at_least_one() {
        assert_eq!(at_least_one("12").map(NonZeroUsize::get), Ok(12));
        for text in ["0", "-1", "", "x", "1.5", "99999999999999999999"] {
            assert_eq!(at_least_one(text), Err("a whole number, at least 1".into()), "{text}");
        }
    }

    #[test]
    fn a_sheet_ends_before_its_folded_parts_and_all_unfolds_them() {
        let text = sheet_text(SHEET, &SheetArgs::default());
        assert!(text.contains("    go\n") && text.ends_with("sheet --all\n") && !text.contains("See"), "{text}");
        let text = sheet_text(SHEET, &SheetArgs { all: true, questions: false });
        assert!(text.ends_with("See\n\nseen\n") && !text.contains('<'), "{text}");
    }

    #[test]
    fn a_hand_out_has_room_to_write_below_each_prediction() {
        let text = sheet_text(SHEET, &SheetArgs { all: false, questions: true });
        let expected = format!("1. One?\n{ROOM_TO_WRITE}2. Two?\n{ROOM_TO_WRITE}\n**Run.**\n\n    go\n");
        assert!(text.ends_with(&expected), "{text}");
    }
}
