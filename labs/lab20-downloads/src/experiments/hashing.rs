//! Work that needs a processor all the time.

use std::{
    fs,
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use nix::{
    sched::{sched_getcpu, sched_setaffinity},
    unistd::Pid,
};
use shared::{At, Predicts, Stage, Verdict};

use super::{only, processors};
use crate::{content::Content, files::NO_THREAD};

const FILES: u16 = 4;
const SIZE: u64 = 1_500_000;
/// Two processors need this much less time, at least, than one. Two halves of one core share what they compute with.
const GAINED: f64 = 1.1;
/// More than two processors can give.
const TOO_MUCH: f64 = 3.0;
/// On a machine whose host is busy, a processor may stand still unseen: so many rounds may be needed.
const ROUNDS: usize = 5;

/// What one thread needed for its files.
#[derive(Clone, Copy)]
struct Needed {
    /// Where it ran.
    processor: usize,
    ran: Duration,
    time: Duration,
}

pub fn hashing(stage: &mut Stage) -> Result<Verdict> {
    let [first, second] = processors()?[..2] else { return Err(anyhow!("one processor only")) };
    let mut row = in_a_row(first)?;
    stage.say("row", format_args!("one thread hashes {FILES} files of {SIZE} bytes"));
    stage.say("row", format_args!("{:.2} s of processor {first}", row.as_secs_f64()));

    let question = stage.ask(
        "The same four files in four threads, on two processors. How does that change the time?",
        [
            ("no gain: threads take turns", 1),
            ("half of it: one part for each processor", 2),
            ("a quarter of it: one part for each thread", 4),
        ],
        Predicts { source: Some(2), kit: 2 },
    )?;
    let mut observed = 1;
    for _ in 0..ROUNDS {
        let start = Arc::new(Barrier::new(FILES.into()));
        let mut threads = Vec::new();
        for number in 1..=FILES {
            let processor = if number % 2 == 1 { first } else { second };
            threads.push(hashed(processor, vec![number], start.clone())?);
        }
        let mut needed = Vec::new();
        for thread in threads {
            needed.push(thread.join().map_err(|_| anyhow!("a thread panicked"))??);
        }
        let ran = [first, second].map(|processor| {
            let on = needed.iter().filter(|needed| needed.processor == processor);
            on.map(|needed| needed.ran).sum::<Duration>()
        });
        let time = needed.iter().map(|needed| needed.time).max().unwrap_or_default();
        // Hashing never sleeps, so on an idle machine the clock says the same as the processor that ran longer. What other
        // programs took of it, and time after Ctrl-Z, is not counted.
        let alone = ran[0].max(ran[1]);
        let gain = row.as_secs_f64() / alone.as_secs_f64();
        let [one, two] = ran.map(|ran| ran.as_secs_f64());
        let time = time.as_secs_f64();
        stage.say(
            "threads",
            format_args!("{one:.2} s of processor {first} and {two:.2} s of {second}, by the clock {time:.2} s"),
        );
        stage.say("gain", format_args!("{gain:.1} times as fast, the time of other programs not counted"));
        observed = match gain {
            gain if gain < GAINED => 1,
            gain if gain < TOO_MUCH => 2,
            _ => 4,
        };
        if observed == 2 {
            break;
        }
        row = in_a_row(first)?;
    }
    stage.verdict(question, observed, "hashing waits for nothing but a processor: a part of the time for each of them")
}

/// How long one thread runs for all files.
fn in_a_row(processor: usize) -> Result<Duration> {
    let thread = hashed(processor, (1..=FILES).collect(), Arc::new(Barrier::new(1)))?;
    Ok(thread.join().map_err(|_| anyhow!("a thread panicked"))??.ran)
}

/// A thread that hashes these files, on this processor only, once all have started.
fn hashed(processor: usize, numbers: Vec<u16>, start: Arc<Barrier>) -> Result<thread::JoinHandle<Result<Needed>>> {
    let hash = move || {
        let here = only(processor)?;
        sched_setaffinity(Pid::from_raw(0), &here).at("sched_setaffinity", processor)?;
        start.wait();
        let (began, before) = (Instant::now(), ran()?);
        for number in numbers {
            Content { number, size: SIZE }.digest();
        }
        let (time, after) = (began.elapsed(), ran()?);
        Ok(Needed { processor: sched_getcpu().at("getcpu", "")?, ran: after.saturating_sub(before), time })
    };
    thread::Builder::new().spawn(hash).context(NO_THREAD)
}

/// How long this thread has run: /proc/thread-self/schedstat, in nanoseconds.
fn ran() -> Result<Duration> {
    let path = "/proc/thread-self/schedstat";
    let text = fs::read_to_string(path).at("open", path)?;
    let nanoseconds = text.split_whitespace().next().and_then(|word| word.parse().ok());
    Ok(Duration::from_nanos(nanoseconds.context("no number in schedstat")?))
}
