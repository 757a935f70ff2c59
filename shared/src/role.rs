//! A lecture program as a child process: typed at, read with a deadline, and gone with its owner.

use std::{
    fmt,
    io::{ErrorKind, Read, Write},
    os::fd::AsFd,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        prctl::set_pdeathsig,
        signal::{Signal, kill},
    },
    unistd::{Pid, getpid, getppid},
};

use crate::{At, stop::stop_signals};

/// How long a program may take to answer before its silence is the finding.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks at something that has no descriptor to poll.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// Tells a child whose death it shall not outlive.
const PARENT: &str = "LAB_PARENT";

/// Something that was waited for did not come within the limit.
#[derive(Debug)]
pub struct NotSeen {
    /// What was waited for.
    pub what: String,
    /// How long.
    pub limit: Duration,
    /// What came instead.
    pub instead: String,
}

impl std::error::Error for NotSeen {}

impl fmt::Display for NotSeen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not seen within {:.0?}: {}", self.limit, self.what)?;
        if self.instead.is_empty() { Ok(()) } else { write!(f, "; seen instead: {:?}", self.instead) }
    }
}

/// Looks again and again until `look` finds something; its deadline is `limit`.
///
/// # Errors
/// [`NotSeen`] once the limit has passed; whatever `look` fails with.
pub fn wait_until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!(NotSeen { what: what.into(), limit, instead: String::new() });
        }
        thread::sleep(LOOK_AGAIN); // a bounded poll: the deadline is above
    }
}

/// Called first by every lab: a role started by a demo ends with it, even with `kill -9`.
pub(crate) fn end_with_parent() -> Result<()> {
    let Some(parent) = std::env::var(PARENT).ok().and_then(|pid| pid.parse().ok()) else { return Ok(()) };
    set_pdeathsig(Signal::SIGKILL).at("prctl", "PR_SET_PDEATHSIG")?;
    if getppid() != Pid::from_raw(parent) {
        std::process::exit(1); // the parent died before the line above
    }
    Ok(())
}

/// A running program whose standard input and output are ours; killed when dropped.
pub struct Role {
    child: Child,
    input: Option<ChildStdin>,
    /// All it printed.
    printed: Vec<u8>,
    /// How much of that was asked for already.
    taken: usize,
    ended: bool,
}

impl Role {
    /// Starts another role of this same binary.
    ///
    /// # Errors
    /// What fork(2) and execve(2) say.
    pub fn start(args: &[&str]) -> Result<Role> {
        Role::spawn(Command::new(std::env::current_exe()?).args(args))
    }

    /// Starts any program: standard input (unless the command sets it) and output become pipes.
    ///
    /// # Errors
    /// What fork(2) and execve(2) say.
    pub fn spawn(command: &mut Command) -> Result<Role> {
        Role::spawn_with(command, Stdio::piped())
    }

    /// As [`Role::spawn`], with another standard input, such as a pseudo-terminal.
    ///
    /// # Errors
    /// What fork(2) and execve(2) say.
    pub fn spawn_with(command: &mut Command, input: Stdio) -> Result<Role> {
        command.env(PARENT, getpid().to_string()).stdin(input).stdout(Stdio::piped());
        // A blocked mask is inherited: the child shall hear Ctrl-C.
        let blocked = stop_signals().thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_UNBLOCK)?;
        let spawned = command.spawn();
        blocked.thread_set_mask()?;
        let mut child = spawned.with_context(|| format!("cannot start {:?}", command.get_program()))?;
        let output = child.stdout.as_ref().context("no standard output")?;
        fcntl(output, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).at("fcntl", "O_NONBLOCK")?;
        Ok(Role { input: child.stdin.take(), child, printed: Vec::new(), taken: 0, ended: false })
    }

    /// The process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Types a line, with its newline.
    ///
    /// # Errors
    /// EPIPE once the program has ended.
    pub fn type_line(&mut self, line: &str) -> Result<()> {
        let input = self.input.as_mut().context("its standard input is closed")?;
        input.write_all(format!("{line}\n").as_bytes()).at("write", "standard input")?;
        Ok(())
    }

    /// Ends its standard input, as Ctrl-D does.
    pub fn close_input(&mut self) {
        self.input = None;
    }

    /// Waits for `text`, takes all up to its end and returns what stood before it.
    ///
    /// # Errors
    /// [`NotSeen`] with what was printed instead.
    pub fn wait_for(&mut self, text: &str) -> Result<String> {
        self.wait_for_within(text, ANSWER_LIMIT)
    }

    /// Waits for a line that holds `text`, takes all up to its end and returns that line.
    ///
    /// # Errors
    /// [`NotSeen`] with what was printed instead.
    pub fn line_with(&mut self, text: &str) -> Result<String> {
        let before = self.wait_for(text)?;
        let after = self.wait_for("\n")?;
        let start = before.rsplit('\n').next().unwrap_or_default();
        Ok(format!("{start}{text}{after}"))
    }

    /// As [`Role::wait_for`], with a limit of one's own.
    ///
    /// # Errors
    /// [`NotSeen`] with what was printed instead.
    pub fn wait_for_within(&mut self, text: &str, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            let unread = &self.printed[self.taken..];
            if let Some(at) = unread.windows(text.len()).position(|window| window == text.as_bytes()) {
                let before = String::from_utf8_lossy(&unread[..at]).into_owned();
                self.taken += at + text.len();
                return Ok(before);
            }
            if self.ended || Instant::now() >= deadline {
                let instead = String::from_utf8_lossy(unread).into_owned();
                bail!(NotSeen { what: format!("{text:?} printed"), limit, instead });
            }
            self.read_output(deadline)?;
        }
    }

    /// Takes all it printed so far, unseen, so that it never waits for a reader.
    ///
    /// # Errors
    /// What read(2) says.
    pub fn skip_printed(&mut self) -> Result<()> {
        while self.read_output(Instant::now())? {}
        self.taken = self.printed.len();
        Ok(())
    }

    /// All it printed so far, without waiting.
    ///
    /// # Errors
    /// What read(2) says.
    pub fn printed(&mut self) -> Result<String> {
        while self.read_output(Instant::now())? {}
        Ok(String::from_utf8_lossy(&self.printed).into_owned())
    }

    /// True if something could be read before `deadline`.
    fn read_output(&mut self, deadline: Instant) -> Result<bool> {
        let output = self.child.stdout.as_mut().context("no standard output")?;
        let left = PollTimeout::try_from(deadline.saturating_duration_since(Instant::now()))?;
        poll(&mut [PollFd::new(output.as_fd(), PollFlags::POLLIN)], left).at("poll", "standard output")?;
        let mut buffer = [0; 4096];
        match output.read(&mut buffer) {
            Ok(0) => self.ended = true,
            Ok(bytes_read) => {
                self.printed.extend(&buffer[..bytes_read]);
                return Ok(true);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error).at("read", "standard output")?,
        }
        Ok(false)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// ESRCH once the program has ended and was waited for.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(self.pid(), signal).at("kill", self.pid())?)
    }

    /// Waits for the program's end, with a deadline; its output stays readable.
    ///
    /// # Errors
    /// [`NotSeen`] if it goes on.
    pub fn wait_for_end(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + ANSWER_LIMIT;
        while !self.ended && Instant::now() < deadline {
            self.read_output(deadline)?; // a full pipe would keep it from ending
        }
        wait_until("the program's end", ANSWER_LIMIT, || Ok(self.child.try_wait()?))
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing left to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
