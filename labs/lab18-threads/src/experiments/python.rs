//! What is true of Python's own threads: python3 is the subject.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::channel,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use kernel::{NotSeen, wait_until};
use nix::{
    sched::sched_setaffinity,
    unistd::{Pid, getpid, gettid},
};
use shared::{At, Predicts, Stage, Verdict};

use super::{LIMIT, only, processors, python};
use crate::{
    hello::NO_THREAD,
    tasks::{ran_and_waited, task, tasks},
};

/// Two threads that compute, on a processor each, until the end of standard input. Turns of 10 s in place of 0.005 s:
/// each change of turns costs a wait for a processor, long on a busy machine, and these waits are no work.
const COMPUTES: &str = r"
import os, sys, threading
os.write(1, b'turn %s\n' % str(sys.getswitchinterval()).encode())
sys.setswitchinterval(10)
both = threading.Barrier(2)
def compute(processor):
    tid = threading.get_native_id()
    os.sched_setaffinity(tid, {processor})
    os.write(1, b'thread %d\n' % tid)
    both.wait()
    while True:
        pass
for processor in sys.argv[1:]:
    threading.Thread(target=compute, args=(int(processor),), daemon=True).start()
sys.stdin.read()
os._exit(0)
";
/// A lock, taken by main, released by another thread; the same with an RLock; and a release too many.
const RELEASES: &str = "
import threading
def release(lock):
    try:
        lock.release()
        told.append('released')
    except RuntimeError as error:
        told.append('RuntimeError: ' + str(error))
for name, kind in (('Lock', threading.Lock), ('RLock', threading.RLock)):
    told = []
    lock = kind()
    lock.acquire()
    other = threading.Thread(target=release, args=(lock,))
    other.start()
    other.join()
    print(name, 'by another thread:', told[0], flush=True)
told = []
release(threading.Lock())
print('Lock when unlocked:', told[0], flush=True)
";
/// Two tasks that together ran, or waited for a processor, for less than this much of the time could not run at the same
/// time. Two that could come to 2.0, and one alone to 1.0; in between are a few waits that began before.
const SERIAL: f64 = 1.3;
const PARALLEL: f64 = 1.6;
/// By then, tasks that are serial have been seen to be so.
const SEEN: Duration = Duration::from_secs(8);
/// Watched until so much time has passed, and the tasks have run for so long together.
const WATCHED: Duration = Duration::from_millis(500);
const RAN: Duration = Duration::from_millis(200);

/// What was watched for longer, and is not enough, is forgotten.
const BEGIN_AGAIN: Duration = Duration::from_secs(3);

/// What tasks did while they were watched, in parts of that time.
struct Share {
    ran: f64,
    waited: f64,
}

pub fn one_os_thread(stage: &mut Stage) -> Result<Verdict> {
    let [first, second] = processors()?[..2] else { return Err(anyhow!("one processor only")) };
    stage.say("python", format_args!("two threads compute; they ask for the processors {first} and {second}"));

    let question = stage.ask(
        "Which tasks of the kernel are these threads, and how much processor time do they get in a second?",
        [
            ("one task on one processor, 1 second", (1, 1, false)),
            ("two tasks on one processor, 1 second", (2, 1, false)),
            ("two tasks on two processors, 1 second", (2, 2, false)),
            ("two tasks on two processors, 2 seconds", (2, 2, true)),
        ],
        Predicts { source: Some((1, 1, false)), kit: (2, 2, false) },
    )?;
    let mut subject = python(COMPUTES, &[first.to_string(), second.to_string()])?;
    subject.wait_for_within("turn ", LIMIT)?;
    let turn = subject.wait_for("\n")?;
    stage.say("python", format_args!("sys.getswitchinterval() = {turn}: a turn is a time, no number of byte codes"));
    let mut tids = Vec::new();
    for _ in 0..2 {
        subject.wait_for_within("thread ", LIMIT)?;
        tids.push(subject.wait_for("\n")?.trim().parse::<i32>()?);
    }
    tids.dedup();
    let pid = subject.pid();
    let known = tasks(pid)?.into_iter().filter(|task| tids.contains(&task.tid)).count();
    let mut processors = Vec::new();
    for tid in &tids {
        let processor = task(pid, *tid)?.processor;
        stage.say("kernel", format_args!("process {pid}, task {tid}: on processor {processor}"));
        processors.push(processor);
    }
    processors.dedup();
    stage.say("python", "here in turns of 10 s: each change costs a wait for a processor");
    let python = match share(pid, &tids, |share| share.sum() < SERIAL, SEEN) {
        Err(error) if error.is::<NotSeen>() => share(pid, &tids, |_| true, LIMIT)?,
        python => python?,
    };
    drop(subject);
    stage.say("python", told(&python));

    let rust = rust_share([first, second])?;
    stage.say("rust", told(&rust));
    let observed = (known, processors.len(), python.sum() >= SERIAL);
    stage.verdict(question, observed, "tasks of the kernel, but the GIL lets one at a time compute")
}

fn told(share: &Share) -> String {
    format!("processor time / time = {:.2}, waiting for a processor {:.2}", share.ran, share.waited)
}

impl Share {
    /// On a busy machine tasks run less and wait more: it is the sum that tells how many of them compute.
    fn sum(&self) -> f64 {
        self.ran + self.waited
    }
}

/// Watches these tasks, until what they did is `enough`: the kernel counts a wait only when it is over.
fn share(pid: Pid, tids: &[i32], enough: fn(&Share) -> bool, limit: Duration) -> Result<Share> {
    let all = || -> Result<[Duration; 2]> {
        let mut sum = [Duration::ZERO; 2];
        for tid in tids {
            let [ran, waited] = ran_and_waited(pid, *tid)?;
            sum = [sum[0] + ran, sum[1] + waited];
        }
        Ok(sum)
    };
    let (mut from, mut before) = (Instant::now(), all()?);
    wait_until("two tasks that use their share of the processors", limit, || {
        let (after, time) = (all()?, from.elapsed());
        let [ran, waited] = [0, 1].map(|at| (after[at] - before[at]).as_secs_f64() / time.as_secs_f64());
        let share = Share { ran, waited };
        if time < WATCHED || after[0] - before[0] < RAN {
            return Ok(None);
        }
        if !enough(&share) && time > BEGIN_AGAIN {
            (from, before) = (Instant::now(), after); // Ctrl-Z, then fg: a stopped task neither runs nor waits
            return Ok(None);
        }
        Ok(enough(&share).then_some(share))
    })
}

/// The same two threads in Rust, in this process.
fn rust_share(processors: [usize; 2]) -> Result<Share> {
    let stop = Arc::new(AtomicBool::new(false));
    let (started, starts) = channel();
    let mut threads = Vec::new();
    for processor in processors {
        let (stop, started, here) = (stop.clone(), started.clone(), only(processor)?);
        let compute = move || {
            let pinned = sched_setaffinity(Pid::from_raw(0), &here).at("sched_setaffinity", processor);
            let _ = started.send(pinned.map(|()| gettid().as_raw())); // whoever started this thread still listens
            while !stop.load(Relaxed) {}
        };
        threads.push(thread::Builder::new().spawn(compute).context(NO_THREAD)?);
    }
    let watched = (|| {
        let tids = [starts.recv()??, starts.recv()??];
        share(getpid(), &tids, |share| share.sum() > PARALLEL, LIMIT)
    })();
    stop.store(true, Relaxed);
    for thread in threads {
        thread.join().map_err(|_| anyhow!("a thread panicked"))?;
    }
    watched
}

pub fn foreign_release(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Release {
        Works,
        Refused,
        Waits,
    }
    stage.say("python", "main: lock = threading.Lock(); lock.acquire()");

    let question = stage.ask(
        "Another thread, which never acquired this lock, calls lock.release(). What happens?",
        [
            ("RuntimeError: the lock is not its own", Release::Refused),
            ("it works: the lock is unlocked now", Release::Works),
            ("release waits until main releases", Release::Waits),
        ],
        Predicts { source: Some(Release::Works), kit: Release::Works },
    )?;
    let mut subject = python(RELEASES, &[])?;
    let told = subject.wait_for_within("\n", LIMIT);
    let observed = match told {
        Err(error) if error.is::<NotSeen>() => Release::Waits,
        Err(error) => return Err(error),
        Ok(line) => {
            stage.say("python", &line);
            if line.ends_with(": released") { Release::Works } else { Release::Refused }
        }
    };
    for kind in ["RLock by another thread: RuntimeError", "Lock when unlocked: RuntimeError"] {
        stage.say("python", subject.line_with(kind)?);
    }
    stage.verdict(question, observed, "a Lock has no owner, an RLock has one; in Rust only the owner can unlock")
}
