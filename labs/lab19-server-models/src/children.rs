//! The processes of the models pre-fork and processes: started, replaced when one ends, and ended with their parent.
//!
//! fork(2) alone is unsafe in a program with threads. std's Command is fork and execve; the child finds the socket where
//! inetd puts it, on descriptor 0. `LAB_PARENT` makes the kernel end it with its parent (PR_SET_PDEATHSIG, prctl(2)).

use std::{
    env,
    ffi::OsString,
    os::fd::{AsFd, OwnedFd},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal, kill},
        signalfd::{SfdFlags, SignalFd},
    },
    unistd::Pid,
};
use shared::{At, PARENT, own_program};
use socket2::Socket;

use crate::serve::Serving;

/// A process that ends by itself so soon after its start would do so again.
const LEAST_LIFE: Duration = Duration::from_millis(200);

/// All of them. Dropped, they end.
pub struct Children {
    children: Vec<(usize, Child, Instant)>,
    input: OwnedFd,
    output: Option<OwnedFd>,
    /// SIGCHLD, to be polled.
    ends: SignalFd,
}

impl Children {
    /// Starts one process for each worker; `input` is its standard input, `output` its standard output.
    pub fn start(serving: &Serving, input: &Socket, output: Option<&Socket>) -> Result<Children> {
        let mut child_ends = SigSet::empty();
        child_ends.add(Signal::SIGCHLD);
        child_ends.thread_block().at("sigprocmask", "")?;
        let ends = SignalFd::with_flags(&child_ends, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK);
        let input = input.as_fd().try_clone_to_owned().at("dup", "")?;
        let output = output.map(|output| output.as_fd().try_clone_to_owned().at("dup", "")).transpose()?;
        let mut children = Children { children: Vec::new(), input, output, ends: ends.at("signalfd", "")? };
        for number in 1..=serving.args.workers {
            let child = children.spawn(number)?;
            serving.log.line(format_args!("Process-{number} is process {}", child.id()));
            children.children.push((number, child, Instant::now()));
        }
        Ok(children)
    }

    /// One process: this program, with this program's own arguments behind `work NUMBER`.
    fn spawn(&self, number: usize) -> Result<Child> {
        let arguments: Vec<OsString> = env::args_os().skip_while(|argument| argument != "server").skip(1).collect();
        let mut command = Command::new(own_program()?);
        command.arg("work").arg(number.to_string()).args(arguments);
        command.env(PARENT, std::process::id().to_string());
        command.stdin(Stdio::from(self.input.try_clone().at("dup", "")?));
        if let Some(output) = &self.output {
            command.stdout(Stdio::from(output.try_clone().at("dup", "")?));
        }
        command.spawn().with_context(|| format!("cannot start Process-{number}; see the limit: ulimit -u"))
    }

    /// Waits for Ctrl-C; whoever ends before that gets a successor.
    pub fn replace_until_ctrl_c(&mut self, serving: &Serving) -> Result<()> {
        loop {
            let mut fds = [serving.stop.as_fd(), self.ends.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            let _ = poll(&mut fds, PollTimeout::NONE); // after EINTR it is asked again
            if serving.stop.requested() {
                return Ok(());
            }
            while self.ends.read_signal().is_ok_and(|signal| signal.is_some()) {}
            for at in 0..self.children.len() {
                let (number, child, born) = &mut self.children[at];
                let Some(status) = child.try_wait()? else { continue };
                let number = *number;
                let by_itself = status.code().is_some(); // not by a signal
                ensure!(!by_itself || born.elapsed() >= LEAST_LIFE, "Process-{number} ended at once: {status}");
                let child = self.spawn(number)?;
                serving.log.always(format_args!("Process-{number} ended: {status}. Process {} follows it", child.id()));
                self.children[at] = (number, child, Instant::now());
            }
        }
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for (_, child, _) in &self.children {
            // Ctrl-C on a terminal reaches them as well; kill(1) on the parent alone does not. ESRCH: it has ended.
            let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
        }
        for (_, child, _) in &mut self.children {
            let _ = child.wait();
        }
    }
}
