//! One after another, or at once: what the clock says.

use std::time::Duration;

use anyhow::{Context, Result};
use kernel::State;
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use shared::{At, Predicts, Stage, Verdict};

use super::{Downloads, ends_in, only, processors, server};
use crate::timeline::Times;

const FILES: u16 = 4;
/// As many threads as files.
const THREADS: usize = 4;
/// The pace of a file on a link that all files share.
const ON_LINK: Duration = Duration::from_millis(150);
/// The pace of a file that has a link of its own.
const ON_ITS_OWN: Duration = Duration::from_millis(300);
/// So many files at a time, and so many times as fast: that is no chance. A row comes to 1.0, four files at once to 4.0.
const OVERLAPPED: f64 = 1.2;
/// On a busy machine, or after Ctrl-Z and fg, one round may be slow.
const ROUNDS: usize = 5;

/// This thread, and all that it starts, stay on one processor as long as this lives.
struct OneProcessor(CpuSet);

impl OneProcessor {
    fn new(processor: usize) -> Result<OneProcessor> {
        let before = sched_getaffinity(Pid::from_raw(0)).at("sched_getaffinity", "")?;
        sched_setaffinity(Pid::from_raw(0), &only(processor)?).at("sched_setaffinity", processor)?;
        Ok(OneProcessor(before))
    }
}

impl Drop for OneProcessor {
    fn drop(&mut self) {
        let _ = sched_setaffinity(Pid::from_raw(0), &self.0); // it was allowed before
    }
}

pub fn four_files(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Threads {
        Same,
        Shorter,
        Longer,
    }
    let processor = *processors()?.first().context("no processor is allowed")?;
    let _here = OneProcessor::new(processor)?;
    stage.say("main", format_args!("sched_setaffinity: processor {processor} only, for the server and all threads"));
    let pace = ON_ITS_OWN.as_secs_f64().to_string();
    let (_server, addr) = server(stage, &["--seconds", &pace, "--size", "30000"])?;
    stage.server(format_args!("sends each file at a pace of its own: {pace} s for 30000 bytes"));
    let mut row = Downloads::new(addr, FILES, 1, false)?;
    row.run(1)?;
    row.ensure_whole()?;
    let in_a_row = Times::of(&row.manager.jobs);
    stage.say("row", told(&in_a_row));
    drop(row); // its connection is closed

    let question = stage.ask(
        "The same four files in four threads, on this one processor. How long do they take?",
        [
            ("as long as in a row", Threads::Same),
            ("longer: switching costs time", Threads::Longer),
            ("shorter: the waits overlap", Threads::Shorter),
        ],
        Predicts { source: Some(Threads::Same), kit: Threads::Shorter },
    )?;
    let mut observed = Threads::Longer;
    for _ in 0..ROUNDS {
        let mut at_once = Downloads::new(addr, FILES, THREADS, false)?;
        at_once.run(THREADS)?;
        at_once.ensure_whole()?;
        let times = Times::of(&at_once.manager.jobs);
        stage.say("threads", told(&times));
        let open = ends_in(addr, State::Established)?;
        stage.say("kernel", format_args!("connections of the threads: {open} ESTABLISHED"));
        // A row that only the machine has made slow proves nothing: the waits must have overlapped, too.
        let overlapped = times.at_a_time() > OVERLAPPED;
        observed = match in_a_row.total().as_secs_f64() / times.total().as_secs_f64() {
            faster if faster > OVERLAPPED && overlapped => Threads::Shorter,
            faster if faster > 1.0 / OVERLAPPED => Threads::Same,
            _ => Threads::Longer,
        };
        if observed == Threads::Shorter {
            break;
        }
    }
    stage.verdict(question, observed, "who waits for bytes needs no processor; four can wait at the same time")
}

pub fn one_link(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Time {
        Quarter,
        Half,
        Whole,
    }
    let pace = ON_LINK.as_secs_f64().to_string();
    let (_server, addr) = server(stage, &["--link", "--seconds", &pace, "--size", "30000"])?;
    stage.server(format_args!("sends all files over one link: {pace} s for 30000 bytes of any of them"));
    let mut row = Downloads::new(addr, FILES, 1, false)?;
    row.run(1)?;
    row.ensure_whole()?;
    stage.say("row", told(&Times::of(&row.manager.jobs)));
    drop(row);

    let question = stage.ask(
        "The same four files in four threads, over the same link. How long do they take?",
        [
            ("a quarter of it: four come at a time", Time::Quarter),
            ("half of it: some of the waits overlap", Time::Half),
            ("as long as in a row: the link is full", Time::Whole),
        ],
        Predicts { source: Some(Time::Quarter), kit: Time::Whole },
    )?;
    let mut at_once = Downloads::new(addr, FILES, THREADS, false)?;
    at_once.run(THREADS)?;
    at_once.ensure_whole()?;
    let times = Times::of(&at_once.manager.jobs);
    stage.say("threads", told(&times));
    stage.say("kernel", format_args!("connections of the threads: {} ESTABLISHED", ends_in(addr, State::Established)?));
    // Against what the link needs for these bytes: on a busy machine the row may have taken longer than that.
    let link = ON_LINK * u32::from(FILES);
    stage.say("link", format_args!("needs {:.2} s for these bytes", link.as_secs_f64()));
    let observed = match times.total().as_secs_f64() / link.as_secs_f64() {
        part if part < 0.45 => Time::Quarter,
        part if part < 0.75 => Time::Half,
        _ => Time::Whole,
    };
    stage.verdict(question, observed, "threads share a wait for somebody else, not the link; each got a quarter of it")
}

pub fn more_threads(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Eight {
        Quarter,
        Same,
        Refused,
    }
    const MANY: u16 = 8;
    let pace = ON_ITS_OWN.as_secs_f64() / 2.0;
    let options = ["--workers", "2", "--count", "8", "--size", "30000", "--seconds", &pace.to_string()];
    let (_server, addr) = server(stage, &options)?;
    stage.server(format_args!("sends two files at a time; each of them takes {pace} s"));
    let mut two = Downloads::new(addr, MANY, 2, false)?;
    two.run(2)?;
    two.ensure_whole()?;
    stage.say("two", told(&Times::of(&two.manager.jobs)));
    drop(two);

    let question = stage.ask(
        "Now eight threads ask for the eight files at once. How long do they take?",
        [
            ("a quarter: eight threads, eight files at a time", Eight::Quarter),
            ("as long as with two: the server sends two at a time", Eight::Same),
            ("no time to measure: six connections are refused", Eight::Refused),
        ],
        Predicts { source: None, kit: Eight::Same },
    )?;
    let mut eight = Downloads::new(addr, MANY, usize::from(MANY), false)?;
    eight.run(usize::from(MANY))?;
    let times = Times::of(&eight.manager.jobs);
    stage.say("eight", told(&times));
    stage.say("kernel", format_args!("connections of the threads: {} ESTABLISHED", ends_in(addr, State::Established)?));
    let refused = eight.manager.jobs.iter().any(|job| job.state().failure.is_some());
    // Against what two at a time need, as the pace says.
    let two_at_a_time = pace * f64::from(MANY) / 2.0;
    stage.server(format_args!("needs {two_at_a_time:.2} s for eight files, two at a time"));
    let observed = match times.total().as_secs_f64() / two_at_a_time {
        _ if refused => Eight::Refused,
        part if part < 0.75 => Eight::Quarter,
        _ => Eight::Same,
    };
    stage.verdict(question, observed, "six wait with a connection: the slowest part of the way sets the pace")
}

fn told(times: &Times) -> String {
    let (sum, total) = (times.sum().as_secs_f64(), times.total().as_secs_f64());
    format!("{total:.2} s; bytes came for {sum:.2} s in all, so {:.1} files at a time", times.at_a_time())
}
