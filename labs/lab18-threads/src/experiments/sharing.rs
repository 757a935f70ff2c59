//! Memory that all threads share, and how a lock and a condition keep it in order.

use std::{
    cmp::Ordering,
    sync::{
        Arc, Barrier,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use kernel::wait_until;
use shared::{Predicts, Stage, Verdict};

use super::LIMIT;
use crate::{hello::NO_THREAD, queue::Queue};

const ADDITIONS: u64 = 1_000_000;
/// A round in which no addition is lost is played again: the two threads may by chance have run one after the other.
const ROUNDS: usize = 100;
/// A consumer that was woken and pops ends in far less than this.
const ENDED: Duration = Duration::from_secs(5);

pub fn lost_updates(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Sum {
        Exact,
        Less,
        More,
    }
    stage.say("threads", "each calls load, adds 1 and calls store, a million times; there is no lock");

    let question = stage.ask(
        "Two threads share one counter that begins with 0. What do we find in it after such a round?",
        [
            ("2000000 in each round", Sum::Exact),
            ("less than 2000000 in some round", Sum::Less),
            ("more than 2000000 in some round", Sum::More),
        ],
        Predicts { source: Some(Sum::Less), kit: Sum::Less },
    )?;
    let (mut round, mut sum) = (0, 2 * ADDITIONS);
    while sum == 2 * ADDITIONS && round < ROUNDS {
        round += 1;
        sum = counted(|counter| counter.store(counter.load(Relaxed) + 1, Relaxed))?;
    }
    let lost = (2 * ADDITIONS).saturating_sub(sum);
    stage.say("threads", format_args!("round {round}, load and store: {sum}, so {lost} additions are lost"));
    let observed = match sum.cmp(&(2 * ADDITIONS)) {
        Ordering::Less => Sum::Less,
        Ordering::Equal => Sum::Exact,
        Ordering::Greater => Sum::More,
    };
    let sum = counted(|counter| {
        counter.fetch_add(1, Relaxed);
    })?;
    stage.say("mended", format_args!("fetch_add, one step: {sum}"));
    ensure!(sum == 2 * ADDITIONS, "fetch_add has lost {}", 2 * ADDITIONS - sum);
    stage.verdict(question, observed, "what is stored may be old: keep a read and its write together")
}

/// What two threads leave in a counter, after a million additions each.
fn counted(add: impl Fn(&AtomicU64) + Send + Sync + Copy + 'static) -> Result<u64> {
    let (counter, start) = (Arc::new(AtomicU64::new(0)), Arc::new(Barrier::new(2)));
    let mut threads = Vec::new();
    for _ in 0..2 {
        let (counter, start) = (counter.clone(), start.clone());
        let work = move || {
            start.wait(); // both exist
            (0..ADDITIONS).for_each(|_| add(&counter));
        };
        threads.push(thread::Builder::new().spawn(work).context(NO_THREAD)?);
    }
    for thread in threads {
        thread.join().map_err(|_| anyhow!("a thread panicked"))?;
    }
    Ok(counter.load(Relaxed))
}

pub fn if_for_while(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Second {
        Waits,
        SameElement,
        Nothing,
    }
    let queue = Arc::new(Queue::new());
    let mut consumers = Vec::new();
    for name in ["Consumer-1", "Consumer-2"] {
        let queue = queue.clone();
        let get = move || queue.get_with_if();
        consumers.push(thread::Builder::new().name(name.into()).spawn(get).context(NO_THREAD)?);
    }
    wait_until("two consumers that wait", LIMIT, || Ok((queue.waiting() == 2).then_some(())))?;
    stage.say("listing", "if len(q) <= 0: wait(), then pop(): two consumers wait in it");

    let question = stage.ask(
        "One element is put, and notifyAll wakes both consumers. One of them takes it. What does the other one do?",
        [
            ("it goes on waiting for an element of its own", Second::Waits),
            ("it takes the same element a second time", Second::SameElement),
            ("it pops from an empty queue", Second::Nothing),
        ],
        Predicts { source: Some(Second::Waits), kit: Second::Nothing },
    )?;
    queue.put("only", |_| ());
    stage.say("producer", "put(\"only\"), notifyAll()");
    // Both were woken. A consumer that has not ended after this time waits again.
    let ended = wait_until("the end of both consumers", ENDED, || {
        Ok(consumers.iter().all(thread::JoinHandle::is_finished).then_some(()))
    });
    if ended.is_err() {
        queue.put("for the second", |_| ());
    }
    let mut got = Vec::new();
    for consumer in consumers {
        got.push(consumer.join().map_err(|_| anyhow!("a consumer panicked"))?);
    }
    got.sort_unstable();
    let told: Vec<_> = got.iter().map(|element| element.map_or("nothing".into(), |text| format!("{text:?}"))).collect();
    stage.say("listing", format_args!("the two got {} (nothing: an IndexError in Python)", told.join(" and ")));
    let observed = match (ended.is_ok(), got.iter().flatten().count()) {
        (false, _) => Second::Waits,
        (true, 2) => Second::SameElement,
        (true, _) => Second::Nothing,
    };

    // The same with while: the second waits again, until there is an element for it.
    let (queue, looks) = (Arc::new(Queue::new()), Arc::new(AtomicU64::new(0)));
    let mut consumers = Vec::new();
    for name in ["Consumer-1", "Consumer-2"] {
        let (queue, looks) = (queue.clone(), looks.clone());
        let get = move || {
            queue.get(|_| {
                looks.fetch_add(1, Relaxed); // it has found the queue empty
            })
        };
        consumers.push(thread::Builder::new().name(name.into()).spawn(get).context(NO_THREAD)?);
    }
    wait_until("two consumers that wait", LIMIT, || Ok((queue.waiting() == 2).then_some(())))?;
    queue.put("only", |_| ());
    wait_until("one consumer that waits again", LIMIT, || Ok((looks.load(Relaxed) == 3).then_some(())))?;
    wait_until("the other one's end", LIMIT, || {
        Ok(consumers.iter().any(thread::JoinHandle::is_finished).then_some(()))
    })?;
    stage.say("while", "one consumer has the element; the other one found the queue empty and waits again");
    queue.put("one more", |_| ());
    let mut got = Vec::new();
    for consumer in consumers {
        got.push(consumer.join().map_err(|_| anyhow!("a consumer panicked"))?);
    }
    got.sort_unstable();
    stage.say("while", format_args!("after a second element: {got:?}"));
    ensure!(got == ["one more", "only"], "with while the two got {got:?}");
    stage.verdict(question, observed, "being woken is no promise: look again, in a while")
}
