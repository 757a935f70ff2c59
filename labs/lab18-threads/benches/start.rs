//! A thread against a process: how long each takes to start and end, and how much memory each adds while it waits.
//!
//! `cargo bench -p lab18-threads` starts threads of its own and copies of cat(1), and prints ratios. A few seconds. No
//! test asserts these numbers: they are this machine's, at this moment.

use std::{
    fs,
    process::{Child, Command, Stdio},
    sync::mpsc::channel,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use shared::Screen;

/// Started and ended one after the other.
const STARTS: u32 = 500;
/// Alive at the same time.
const ALIVE: usize = 50;

fn main() -> Result<()> {
    let mut screen = Screen::new();
    let (thread_time, process_time) = (time(one_thread)?, time(one_process)?);
    let (thread_kib, process_kib) = (memory_of_threads()?, memory_of_processes()?);
    screen.line(format_args!("{:<28}{:>10}{:>10}{:>8}", "", "thread", "process", "ratio"));
    let [thread_us, process_us] = [thread_time, process_time].map(|time| time.as_secs_f64() * 1e6);
    for (what, thread, process) in [
        ("start and end, microseconds", thread_us, process_us),
        ("memory while it waits, KiB", thread_kib, process_kib),
    ] {
        screen.line(format_args!("{what:<28}{thread:>10.0}{process:>10.0}{:>8.1}", process / thread));
        for (who, value) in [("thread", thread), ("process", process)] {
            let bar = "#".repeat((value / process.max(thread) * 50.0).ceil() as usize);
            screen.line(format_args!("  {who:<8}{bar}"));
        }
    }
    Ok(())
}

/// The time that one takes, on average.
fn time(one: fn() -> Result<()>) -> Result<Duration> {
    let begin = Instant::now();
    for _ in 0..STARTS {
        one()?;
    }
    Ok(begin.elapsed() / STARTS)
}

fn one_thread() -> Result<()> {
    thread::Builder::new().spawn(|| ())?.join().map_err(|_| anyhow!("a thread panicked"))
}

/// cat(1) of nothing: it starts, reads the end of its input, and ends.
fn one_process() -> Result<()> {
    Command::new("cat").stdin(Stdio::null()).status().context("cannot start cat")?;
    Ok(())
}

/// KiB that a waiting thread adds to this process.
fn memory_of_threads() -> Result<f64> {
    let before = proportional_kib("self")?;
    let (started, starts) = channel();
    let mut threads = Vec::new();
    let mut ends = Vec::new();
    for _ in 0..ALIVE {
        let (end, ended) = channel::<()>();
        let started = started.clone();
        let wait = move || {
            let _ = started.send(());
            let _ = ended.recv(); // until the other end is dropped
        };
        threads.push(thread::Builder::new().spawn(wait)?);
        ends.push(end);
    }
    for _ in 0..ALIVE {
        starts.recv()?;
    }
    let after = proportional_kib("self")?;
    drop(ends);
    for thread in threads {
        thread.join().map_err(|_| anyhow!("a thread panicked"))?;
    }
    Ok((after - before) / ALIVE as f64)
}

/// KiB of a process that waits for input, its share of what it shares with others included.
fn memory_of_processes() -> Result<f64> {
    let mut children: Vec<Child> = Vec::new();
    for _ in 0..ALIVE {
        let child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        children.push(child.context("cannot start cat")?);
    }
    let mut sum = 0.0;
    for child in &children {
        // Once it waits: before, it is still this program, or on its way.
        let waits = || fs::read_to_string(format!("/proc/{}/wchan", child.id())).is_ok_and(|at| at.contains("pipe"));
        let begin = Instant::now();
        while !waits() && begin.elapsed() < Duration::from_secs(1) {
            thread::sleep(Duration::from_millis(1)); // a bounded poll: the limit is above
        }
        sum += proportional_kib(&child.id().to_string())?;
    }
    for mut child in children {
        drop(child.stdin.take()); // end of input: cat ends
        child.wait()?;
    }
    Ok(sum / ALIVE as f64)
}

/// Pss of proc_pid_smaps(5): memory, and of shared pages this process's share.
fn proportional_kib(pid: &str) -> Result<f64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
