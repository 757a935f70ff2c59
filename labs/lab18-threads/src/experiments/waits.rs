//! Waits in a row, and waits at the same time, on one processor.

use std::{
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use shared::{At, Predicts, Stage, Verdict};

use super::{only, processors};
use crate::hello::NO_THREAD;

const WAITS: usize = 4;
const WAIT: Duration = Duration::from_millis(100);
/// Waits that fill more than this much of their time have overlapped. In a row they fill 1.0 of it at most.
const OVERLAPPED: f64 = 1.5;

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

pub fn four_waits(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Threads {
        Same,
        Shorter,
        Longer,
    }
    let processor = *processors()?.first().context("no processor is allowed")?;
    let _here = OneProcessor::new(processor)?;
    stage.say("main", format_args!("sched_setaffinity: processor {processor} only, for all of these threads"));
    let row = Instant::now();
    let in_a_row: Vec<_> = (0..WAITS).map(|_| waited()).collect();
    let (row, row_sum) = (row.elapsed(), together(&in_a_row));
    stage.say("row", told(row_sum, row));

    let question = stage.ask(
        "The same four waits in four threads, on this one processor. How long do they take?",
        [
            ("as long as in a row", Threads::Same),
            ("longer: switching costs time", Threads::Longer),
            ("shorter: the waits overlap", Threads::Shorter),
        ],
        Predicts { source: Some(Threads::Same), kit: Threads::Shorter },
    )?;
    let start = Arc::new(Barrier::new(WAITS));
    let mut threads = Vec::new();
    for _ in 0..WAITS {
        let start = start.clone();
        let wait = move || {
            start.wait(); // all four exist
            waited()
        };
        threads.push(thread::Builder::new().spawn(wait).context(NO_THREAD)?);
    }
    let mut in_threads = Vec::new();
    for thread in threads {
        in_threads.push(thread.join().map_err(|_| anyhow!("a thread panicked"))?);
    }
    let first = in_threads.iter().map(|(from, _)| *from).min().context("no thread")?;
    let last = in_threads.iter().map(|(_, to)| *to).max().context("no thread")?;
    let (time, sum) = (last - first, together(&in_threads));
    stage.say("threads", told(sum, time));
    ensure!(row_sum <= row, "in a row the waits took less than their sum");
    let overlap = sum.as_secs_f64() / time.as_secs_f64();
    let observed = if overlap > OVERLAPPED {
        Threads::Shorter
    } else if overlap > 0.9 {
        Threads::Same
    } else {
        Threads::Longer
    };
    stage.verdict(question, observed, "a thread that waits needs no processor; only computing shares it")
}

/// One wait: from when to when.
fn waited() -> (Instant, Instant) {
    let from = Instant::now();
    thread::sleep(WAIT);
    (from, Instant::now())
}

fn together(waits: &[(Instant, Instant)]) -> Duration {
    waits.iter().map(|(from, to)| *to - *from).sum()
}

fn told(sum: Duration, time: Duration) -> String {
    format!("{WAITS} waits, {:.2} s in all, took {:.2} s", sum.as_secs_f64(), time.as_secs_f64())
}
