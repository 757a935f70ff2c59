//! What ptrace(2) reports, thread by thread: it tells where each stands, and lets go whoever has nothing to show.

mod ends;
mod jobs;

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::calls::{Entered, hides_sockets};
use super::registers;
use super::threads::{Place, Thread, family};

/// The kernel's word for a stop that is no signal's: include/uapi/linux/ptrace.h.
const PTRACE_EVENT_STOP: i32 = 128;

/// A process.
pub struct Process {
    /// Its program.
    pub program: String,
    /// Who forked it, if that is one of ours.
    pub parent: Option<i32>,
    /// The command that it belongs to, by its place on the command line.
    pub command: usize,
    /// It has become the program of the command line, or is a child of one.
    pub began: bool,
    /// It was shown.
    pub told: bool,
}

/// What the reports mean for the picture.
pub enum Report {
    /// A process runs another program now.
    Began(i32),
    /// A process is gone: what it was, how it ended, its exit status or 128 and the signal.
    Ended { process: i32, of: Process, how: String, status: i32 },
    /// Something to say of a process.
    Note(i32, String),
}

/// All threads and processes.
#[derive(Default)]
pub struct Tracer {
    /// By number.
    pub threads: BTreeMap<i32, Thread>,
    /// By number.
    pub processes: BTreeMap<i32, Process>,
    /// For whoever draws.
    pub reports: Vec<Report>,
    /// Sockets whose calls are not stopped at: those to the kernel's own tables.
    pub unseen: HashSet<u64>,
    /// Processes that were stopped and are to go on.
    roused: HashSet<i32>,
    /// Processes that were stopped and are to be killed.
    doomed: HashSet<i32>,
    /// Processes of another architecture, which were told.
    foreign: HashSet<i32>,
    /// How long the threads that have ended lived, all together.
    pub lived: Duration,
    /// How long threads stood still because of us, all together.
    pub stopped: Duration,
    /// How often.
    pub stops: u64,
}

fn options() -> Options {
    Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_TRACEEXIT
        | Options::PTRACE_O_EXITKILL
}

impl Tracer {
    /// Begins to trace a command that has stopped itself, or is about to.
    ///
    /// # Errors
    /// EPERM where tracing is forbidden.
    pub fn seize(&mut self, process: i32, command: usize) -> Result<()> {
        let pid = Pid::from_raw(process);
        waitpid(pid, Some(WaitPidFlag::WUNTRACED)).context("waitpid")?;
        let allowed = "ptrace is not allowed here; see sysctl kernel.yama.ptrace_scope, and the container's rules";
        ptrace::seize(pid, options()).context(allowed)?;
        self.threads.insert(process, Thread::new(process, process));
        let waiting = Process { program: String::new(), parent: None, command, began: false, told: false };
        self.processes.insert(process, waiting);
        Ok(())
    }

    /// Takes every report that is there. Whether there was one.
    ///
    /// # Errors
    /// What waitpid(2) says.
    pub fn collect(&mut self) -> Result<bool> {
        let mut any = false;
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(any),
                Err(Errno::EINTR) => {}
                // A real-time signal has no name here, so that nix cannot tell which thread got it.
                Err(Errno::EINVAL) => self.find_nameless(),
                status => self.take(status.context("waitpid")?),
            }
            any = true;
        }
    }

    fn take(&mut self, status: WaitStatus) {
        let Some(id) = status.pid().map(Pid::as_raw) else { return };
        match status {
            WaitStatus::Exited(_, code) => return self.gone(id, format!("exited with {code}"), code),
            WaitStatus::Signaled(_, signal, core) => {
                let core = if core { ", core dumped" } else { "" };
                return self.gone(id, format!("killed by {signal}{core}"), 128 + signal as i32);
            }
            _ => {}
        }
        self.know(id);
        if let Some(thread) = self.threads.get_mut(&id) {
            thread.moved();
            thread.stopped_at = Some(Instant::now());
        }
        self.stops += 1;
        match status {
            WaitStatus::PtraceSyscall(_) => self.system_call(id),
            WaitStatus::PtraceEvent(_, signal, PTRACE_EVENT_STOP) => self.stop(id, signal),
            WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_EXEC) => self.executed(id),
            WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_EXIT) => self.exits(id),
            WaitStatus::PtraceEvent(..) => {
                // A new child or thread reports itself once it runs. Who made it may have ended by then.
                if let Ok(new) = ptrace::getevent(Pid::from_raw(id)) {
                    self.know(new as i32);
                }
                self.go_on(id, None);
            }
            WaitStatus::Stopped(_, signal) => self.signalled(id, signal),
            _ => {}
        }
    }

    /// A thread that is seen for the first time: a command's child or its thread.
    fn know(&mut self, id: i32) {
        if self.threads.contains_key(&id) {
            return;
        }
        let Some((process, parent)) = family(id) else { return };
        self.threads.insert(id, Thread::new(id, process));
        if !self.processes.contains_key(&process) {
            let of = self.processes.get(&parent);
            let (command, program) = of.map_or((0, String::new()), |of| (of.command, of.program.clone()));
            let parent = of.is_some().then_some(parent);
            self.processes.insert(process, Process { program, parent, command, began: true, told: false });
        }
    }

    fn system_call(&mut self, id: i32) {
        match registers::read(id) {
            Some(registers::Stop::Entry { number, args }) => {
                if let Some((process, signal)) = jobs::signals(id, number, &args) {
                    self.before_signal(process, signal);
                }
                if let Some(name) = hides_sockets(number) {
                    self.note(id, format!("{name}: calls that go through a ring are not seen"));
                }
                let began = self.threads.get(&id).and_then(|thread| self.processes.get(&thread.process));
                let began = began.is_some_and(|process| process.began);
                let call = Entered::new(id, number, args).filter(|_| began);
                let unseen = |call: &Entered| call.socket_inode(id).is_some_and(|inode| self.unseen.contains(&inode));
                match call.filter(|call| !unseen(call)) {
                    Some(call) => self.set(id, Place::Asks(Box::new(call))),
                    None => self.go_on(id, None),
                }
            }
            Some(registers::Stop::Exit { result }) => {
                let Some(thread) = self.threads.get_mut(&id) else { return };
                match std::mem::replace(&mut thread.place, Place::Runs) {
                    Place::Inside(inside) => thread.place = Place::Back(inside, result),
                    _ => self.go_on(id, None),
                }
            }
            Some(registers::Stop::Foreign) => {
                if self.foreign.insert(id) {
                    self.note(id, "a program for another kind of processor: its calls are not read".into());
                }
                self.go_on(id, None);
            }
            None => self.go_on(id, None),
        }
    }

    /// Lets a stopped thread go on, with a signal or without.
    pub fn go_on(&mut self, id: i32, signal: Option<Signal>) {
        self.stands_still_no_more(id);
        let _ = ptrace::syscall(Pid::from_raw(id), signal); // ESRCH: it was killed; waitpid tells
    }

    /// A thread is somewhere else now.
    pub fn set(&mut self, id: i32, place: Place) {
        if let Some(thread) = self.threads.get_mut(&id) {
            thread.place = place;
        }
    }

    fn stands_still_no_more(&mut self, id: i32) {
        let since = self.threads.get_mut(&id).and_then(|thread| thread.stopped_at.take());
        self.stopped += since.map_or(Duration::ZERO, |since| since.elapsed());
    }

    fn note(&mut self, id: i32, text: String) {
        let process = self.threads.get(&id).map_or(id, |thread| thread.process);
        self.reports.push(Report::Note(process, text));
    }
}
