//! Signals: they are passed on; those that stop a process, and what continues it.

use std::fs;

use nix::libc;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::super::threads::{Look, Place, Suspended, Thread};
use super::{Tracer, options};

/// Signals that come all the time and change nothing, and those whose effect is told.
const QUIET: [Signal; 8] = [
    Signal::SIGCHLD,
    Signal::SIGURG,
    Signal::SIGWINCH,
    Signal::SIGCONT,
    Signal::SIGSTOP,
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
];

impl Tracer {
    /// A new child, or a group-stop.
    pub(super) fn stop(&mut self, id: i32, signal: Signal) {
        let process = self.threads.get(&id).map_or(id, |thread| thread.process);
        let began = self.processes.get(&process).is_some_and(|process| process.began);
        if signal == Signal::SIGTRAP {
            self.roused.remove(&process);
            return self.go_on(id, None);
        }
        if !began || self.roused.contains(&process) {
            if began && process == id {
                self.note(id, "goes on".into());
            }
            let _ = kill(Pid::from_raw(id), Signal::SIGCONT); // ESRCH: it is gone
            return self.go_on(id, None);
        }
        if self.doomed.contains(&process) {
            return; // it stays as it is: the signal that ends it is on its way
        }
        // PTRACE_LISTEN would leave it stopped and traced; nix has no such call. It is let go, and taken again later.
        if process == id {
            self.note(id, format!("stopped by {signal}"));
        }
        let _ = ptrace::detach(Pid::from_raw(id), None);
        self.set(id, Place::Suspended(Suspended::new()));
        self.stands_still_no_more(id);
    }

    /// Whether a process was stopped by a signal, and is not traced now.
    pub fn is_suspended(&self, process: i32) -> bool {
        self.threads.get(&process).is_some_and(|thread| matches!(thread.place, Place::Suspended(_)))
    }

    /// Traces a stopped process again and continues it: it does nothing that is not seen.
    pub fn rouse(&mut self, process: i32) {
        let suspended = |thread: &&Thread| thread.process == process && matches!(thread.place, Place::Suspended(_));
        let ids: Vec<i32> = self.threads.values().filter(suspended).map(|thread| thread.id).collect();
        self.roused.insert(process);
        for id in ids {
            if ptrace::seize(Pid::from_raw(id), options()).is_ok() {
                self.set(id, Place::Runs); // it reports its stop next
            }
        }
    }

    /// A signal is about to be sent to a stopped process, by a call: it is traced again first, so that its end is seen.
    pub(super) fn before_signal(&mut self, process: i32, signal: i32) {
        if !self.is_suspended(process) {
            return;
        }
        match signal {
            libc::SIGCONT => self.rouse(process),
            libc::SIGKILL => {
                self.doomed.insert(process);
                let suspended = |thread: &&Thread| thread.process == process;
                for thread in self.threads.values().filter(suspended) {
                    let _ = ptrace::seize(Pid::from_raw(thread.id), options()); // ESRCH: it has ended
                }
            }
            _ => {} // it gets the signal when it goes on
        }
    }

    /// Traces again whoever was stopped and was continued from outside. Whether there was one.
    pub fn resume_tracing(&mut self) -> bool {
        let over = |thread: &mut Thread| match &mut thread.place {
            Place::Suspended(suspended) => suspended.is_over(thread.id).then_some(thread.id),
            _ => None,
        };
        let ids: Vec<i32> = self.threads.values_mut().filter_map(over).collect();
        let mut any = false;
        for id in ids {
            let pid = Pid::from_raw(id);
            if ptrace::seize(pid, options()).and_then(|()| ptrace::interrupt(pid)).is_ok() {
                self.set(id, Place::Runs);
                self.note(id, "goes on".into());
                any = true;
            } else if Look::at(id).is_none() {
                self.gone(id, "ended while it was not traced".into(), 128 + Signal::SIGKILL as i32);
            } // else it has ended; waitpid tells how
        }
        any
    }

    /// A signal is on its way to a thread: it gets it.
    pub(super) fn signalled(&mut self, id: i32, signal: Signal) {
        let process = self.threads.get(&id).map_or(id, |thread| thread.process);
        let began = self.processes.get(&process).is_some_and(|process| process.began);
        if began && !QUIET.contains(&signal) {
            self.note(process, format!("gets {signal}"));
        }
        self.go_on(id, Some(signal));
    }

    /// The thread with a real-time signal: nix can neither name it nor pass it on. It does not reach the program; its C library
    /// uses two of them, for pthread_cancel(3) and for setuid(2) in all threads.
    pub(super) fn find_nameless(&mut self) {
        let ids: Vec<i32> = self.threads.values().filter(|thread| thread.stopped_at.is_none()).map(|t| t.id).collect();
        for id in ids {
            let info = ptrace::getsiginfo(Pid::from_raw(id)).ok();
            if let Some(info) = info.filter(|info| info.si_signo >= 32) {
                self.note(id, format!("real-time signal {} is lost: run cannot pass it on", info.si_signo));
                self.go_on(id, None);
            } else if Look::at(id).is_none() {
                self.gone(id, "killed by a real-time signal".into(), 128);
            }
        }
    }
}

/// The process that a call is about to signal, and the signal.
pub(super) fn signals(caller: i32, number: u64, args: &[u64; 6]) -> Option<(i32, i32)> {
    match number as i64 {
        libc::SYS_kill => Some((args[0] as i32, args[1] as i32)),
        libc::SYS_tgkill => Some((args[0] as i32, args[2] as i32)),
        libc::SYS_pidfd_send_signal => {
            let info = fs::read_to_string(format!("/proc/{caller}/fdinfo/{}", args[0] as i32)).ok()?;
            let process = info.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok()?;
            Some((process, args[1] as i32))
        }
        _ => None,
    }
}
