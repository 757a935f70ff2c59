//! Tasks as the kernel's table shows them.

use std::{
    ffi::CString,
    fs::{self, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::channel,
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result, anyhow, ensure};
use kernel::wait_until;
use nix::{
    fcntl::OFlag,
    spawn::{PosixSpawnAttr, PosixSpawnFileActions, posix_spawn},
    sys::{
        signal::{Signal, kill},
        stat::Mode,
        wait::waitpid,
    },
    unistd::{getpid, gettid, mkfifo},
};
use shared::{At, Predicts, Role, Stage, Verdict, own_program};

use super::{Folder, LIMIT};
use crate::{
    hello::NO_THREAD,
    tasks::{task, tasks},
};

pub fn one_row(stage: &mut Stage) -> Result<Verdict> {
    let mut hello = Role::start(&["hello", "4", "--stay"])?;
    hello.wait_for("Click Enter")?;
    let pid = hello.pid();
    stage.say("hello", format_args!("process {pid} has started four threads, and all of them stay"));

    stage.look(format_args!("ps -L -o pid,tid,stat,comm -p {pid}"));
    let question = stage.ask(
        "ps shows a row for each process that it finds in /proc. How many rows does it show for this program?",
        [("none", 0), ("one", 1), ("four", 4), ("five", 5)],
        Predicts { source: Some(1), kit: 1 },
    )?;
    let named = wait_until("four threads with names", LIMIT, || {
        let tasks = tasks(pid)?;
        Ok((tasks.iter().filter(|task| task.name.starts_with("User-")).count() == 4).then_some(tasks))
    })?;
    let is_task = |name: &str| named.iter().any(|task| task.tid.to_string() == name);
    let mut rows = 0;
    for entry in fs::read_dir("/proc").at("open", "/proc")? {
        rows += usize::from(entry.at("getdents64", "/proc")?.file_name().to_str().is_some_and(is_task));
    }
    stage.say("kernel", format_args!("/proc shows {rows} of the five: {pid}"));
    let names: Vec<_> = named.iter().map(|task| format!("{} {}", task.tid, task.name)).collect();
    stage.say("kernel", format_args!("/proc/{pid}/task shows {}: {}", named.len(), names.join(", ")));
    ensure!(named.len() == 5, "the program has {} tasks", named.len());
    stage.verdict(question, rows, "a row is a process; ps -L shows its threads, five here")
}

pub fn run_or_sleep(stage: &mut Stage) -> Result<Verdict> {
    stage.say("tasks", "one computes; one waits for input; one waits in vfork(2)");
    stage.say("tasks", "one was sent SIGSTOP; one has ended, and its parent has not waited for it");

    let question = stage.ask(
        "The kernel shows a letter for the state of each of these five. How many different letters?",
        [("two", 2), ("three", 3), ("four", 4), ("five", 5)],
        Predicts { source: Some(2), kit: 5 },
    )?;
    let computing = Computing::start()?;
    let mut waiting = Role::start(&["hello", "1"])?;
    waiting.wait_for("Click Enter")?;
    let mut stopped = Role::start(&["hello", "1"])?;
    stopped.wait_for("Click Enter")?;
    kill(stopped.pid(), Signal::SIGSTOP).at("kill", stopped.pid())?;
    let ended = Role::start(&["--version"])?; // waited for when it is dropped
    let forking = Forking::start(Folder::new()?)?;

    let own = getpid();
    let mut letters = Vec::new();
    for (what, pid, tid, wanted) in [
        ("computes", own, computing.tid, 'R'),
        ("waits for input", waiting.pid(), waiting.pid().as_raw(), 'S'),
        ("waits in vfork", own, forking.tid, 'D'),
        ("was sent SIGSTOP", stopped.pid(), stopped.pid().as_raw(), 'T'),
        ("has ended", ended.pid(), ended.pid().as_raw(), 'Z'),
    ] {
        // Each state holds once it is reached. What comes instead is the finding.
        let seen = wait_until("the state", LIMIT, || Ok((task(pid, tid)?.state == wanted).then_some(wanted)));
        let state = seen.or_else(|_| Ok::<_, anyhow::Error>(task(pid, tid)?.state))?;
        stage.say("kernel", format_args!("{state}  task {tid} {what}"));
        letters.push(state);
    }
    letters.sort_unstable();
    letters.dedup();
    kill(stopped.pid(), Signal::SIGCONT).at("kill", stopped.pid())?;
    forking.end()?;
    computing.end()?;
    stage.verdict(question, letters.len(), "R runs or is ready, S and D sleep, T is stopped, Z has ended")
}

/// A thread of this process that computes.
struct Computing {
    tid: i32,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Computing {
    fn start() -> Result<Computing> {
        let (stop, (started, starts)) = (Arc::new(AtomicBool::new(false)), channel());
        let compute = {
            let stop = stop.clone();
            move || {
                let _ = started.send(gettid().as_raw()); // whoever started this thread still listens
                while !stop.load(Relaxed) {}
            }
        };
        let thread = thread::Builder::new().name("computes".into()).spawn(compute).context(NO_THREAD)?;
        Ok(Computing { tid: starts.recv()?, stop, thread: Some(thread) })
    }

    fn end(mut self) -> Result<()> {
        self.stop.store(true, Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        ended.transpose().map_err(|_| anyhow!("a thread panicked"))?;
        Ok(())
    }
}

impl Drop for Computing {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

/// A thread of this process that starts a program with posix_spawn(3), which calls vfork(2) or clone(2) with
/// CLONE_VFORK: the thread waits until its child calls execve(2). The child cannot yet: first it must open a FIFO for
/// reading, and nobody writes.
struct Forking {
    tid: i32,
    fifo: PathBuf,
    thread: Option<JoinHandle<Result<()>>>,
    _folder: Folder,
}

impl Forking {
    fn start(folder: Folder) -> Result<Forking> {
        let fifo = folder.0.join("fifo");
        mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR).at("mkfifo", fifo.display())?;
        let program = own_program()?;
        let arguments = [CString::new(crate::LAB)?, CString::new("--version")?];
        let (started, starts) = channel();
        let its_fifo = fifo.clone();
        let fork = move || {
            let _ = started.send(gettid().as_raw()); // whoever started this thread still listens
            let mut opens = PosixSpawnFileActions::init().at("posix_spawn_file_actions_init", "")?;
            let mode = Mode::empty();
            opens.add_open(0, &its_fifo, OFlag::O_RDONLY, mode).at("posix_spawn", its_fifo.display())?;
            opens.add_open(1, "/dev/null", OFlag::O_WRONLY, mode).at("posix_spawn", "/dev/null")?;
            let attributes = PosixSpawnAttr::init().at("posix_spawnattr_init", "")?;
            let child = posix_spawn::<_, _, CString>(&program, &opens, &attributes, &arguments, &[]);
            waitpid(child.at("posix_spawn", program.display())?, None).at("waitpid", "")?;
            Ok(())
        };
        let thread = thread::Builder::new().name("forks".into()).spawn(fork).context(NO_THREAD)?;
        Ok(Forking { tid: starts.recv()?, fifo, thread: Some(thread), _folder: folder })
    }

    /// Opens the FIFO for writing as well: the child goes on, and so does the thread.
    fn release(&self) -> Result<()> {
        let flags = OFlag::O_NONBLOCK.bits();
        let both_ends = OpenOptions::new().read(true).write(true).custom_flags(flags).open(&self.fifo);
        both_ends.at("open", self.fifo.display())?;
        Ok(())
    }

    fn end(mut self) -> Result<()> {
        let thread = self.thread.take().context("it has ended")?;
        // The child may not have come to its open yet: offer the other end until it is through.
        wait_until("the child's execve", LIMIT, || {
            self.release()?;
            Ok(thread.is_finished().then_some(()))
        })?;
        thread.join().map_err(|_| anyhow!("a thread panicked"))?
    }
}

impl Drop for Forking {
    fn drop(&mut self) {
        if self.thread.is_some() {
            let _ = self.release(); // or the child would wait for ever
        }
    }
}
