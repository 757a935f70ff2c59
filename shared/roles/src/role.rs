//! A lecture program as a child process: typed at, read with a deadline, and gone with its owner.

use std::io::{Read, Write};
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::{Pid, getpid, getppid};

use kernel::{NotSeen, Patience, namespace, wait_until};

use crate::At;

/// How long a program may take to answer before its silence is the finding.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// A link to the program that runs, whatever has become of its file.
const RUNS: &str = "/proc/self/exe";
/// The variable that tells a child whose death it shall not outlive.
pub const PARENT: &str = "LAB_PARENT";

/// Called first by every lab: a role started by a demo ends with it, even with `kill -9`.
///
/// # Errors
/// What prctl(2) says.
pub fn end_with_parent() -> Result<()> {
    let Some(parent) = std::env::var(PARENT).ok().and_then(|pid| pid.parse().ok()) else { return Ok(()) };
    set_pdeathsig(Signal::SIGKILL).at("prctl", "PR_SET_PDEATHSIG")?;
    if getppid() != Pid::from_raw(parent) {
        std::process::exit(1); // the parent died before the line above
    }
    Ok(())
}

/// This program's file, to be started again. Where it was replaced meanwhile, as by a new build: a descriptor of the one
/// that runs. Children inherit the descriptor; /proc/PID/exe would be closed to those in a user namespace of their own.
///
/// # Errors
/// /proc is not there; EMFILE.
pub fn own_program() -> Result<PathBuf> {
    static RUNNING: Mutex<Option<RawFd>> = Mutex::new(None);
    let file = std::env::current_exe()?;
    if file.exists() {
        return Ok(file);
    }
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    let fd = match *running {
        Some(fd) => fd,
        None => {
            let opened = open(RUNS, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).at("open", RUNS)?;
            // A high one: the sockets of a child have the numbers that they have elsewhere.
            *running.insert(fcntl(opened, FcntlArg::F_DUPFD(10)).at("fcntl", RUNS)?)
        }
    };
    Ok(format!("/proc/self/fd/{fd}").into())
}

/// A running program whose standard input and output are ours; killed when dropped.
pub struct Role {
    child: Child,
    /// Its standard input; `None` ends it, as Ctrl-D does.
    pub input: Option<ChildStdin>,
    /// What a thread of its own reads from the program; it ends with the program's output.
    output: Receiver<Vec<u8>>,
    /// All it printed.
    printed: Vec<u8>,
    /// How much of that was asked for already.
    taken: usize,
}

impl Role {
    /// Starts another role of this same binary.
    ///
    /// # Errors
    /// What fork(2) and execve(2) say.
    pub fn start(args: &[&str]) -> Result<Role> {
        Role::spawn(Command::new(own_program()?).args(args))
    }

    /// Starts any program; its standard input and output become pipes.
    ///
    /// # Errors
    /// What fork(2) and execve(2) say.
    pub fn spawn(command: &mut Command) -> Result<Role> {
        Role::spawn_on(command, Stdio::piped())
    }

    /// As [`Role::start`], in a private network: [`namespace::NAMESPACE`]. Wait for its first words with
    /// [`namespace::START_LIMIT`].
    ///
    /// # Errors
    /// What fork(2) and execve(2) say.
    pub fn start_in_namespace(args: &[&str]) -> Result<Role> {
        Role::spawn(namespace::command(own_program()?).args(args))
    }

    /// As [`Role::spawn`], with another standard input, such as a pseudo-terminal.
    ///
    /// # Errors
    /// What fork(2) and execve(2) say.
    pub fn spawn_on(command: &mut Command, input: Stdio) -> Result<Role> {
        let program = command.get_program().to_owned();
        command.env(PARENT, getpid().to_string()).stdin(input).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {program:?}"))?;
        let mut stdout = child.stdout.take().context("no standard output")?;
        let (chunks, output) = channel();
        let read = move || {
            let mut buffer = [0; 4096];
            while let Ok(bytes_read @ 1..) = stdout.read(&mut buffer) {
                if chunks.send(buffer[..bytes_read].to_vec()).is_err() {
                    break; // the role was dropped
                }
            }
        };
        let role = Role { input: child.stdin.take(), child, output, printed: Vec::new(), taken: 0 };
        thread::Builder::new().spawn(read).context("cannot start a thread; see the limit: ulimit -u")?;
        Ok(role)
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
        Ok(input.write_all(format!("{line}\n").as_bytes()).at("write", "standard input")?)
    }

    /// Waits for `text`, takes all up to its end and returns what stood before it.
    ///
    /// # Errors
    /// [`NotSeen`] with what was printed instead.
    pub fn wait_for(&mut self, text: &str) -> Result<String> {
        self.wait_for_within(text, ANSWER_LIMIT)
    }

    /// As [`Role::wait_for`], with a limit of one's own.
    ///
    /// # Errors
    /// [`NotSeen`] with what was printed instead; how the program ended, if it did.
    pub fn wait_for_within(&mut self, text: &str, limit: Duration) -> Result<String> {
        let mut patience = Patience::new(limit);
        let mut from = self.taken; // nothing before it can be the start of `text`
        loop {
            let found = self.printed[from..].windows(text.len()).position(|window| window == text.as_bytes());
            if let Some(at) = found.map(|at| from + at) {
                let before = String::from_utf8_lossy(&self.printed[self.taken..at]).into_owned();
                self.taken = at + text.len();
                return Ok(before);
            }
            from = from.max((self.printed.len() + 1).saturating_sub(text.len()));
            match self.output.recv_timeout(patience.step()) {
                Ok(chunk) => self.printed.extend(chunk),
                Err(RecvTimeoutError::Timeout) if !patience.is_over() => {}
                Err(reason) => {
                    let instead = String::from_utf8_lossy(&self.printed[self.taken..]).into_owned();
                    if reason == RecvTimeoutError::Timeout {
                        bail!(NotSeen { what: format!("{text:?} printed"), limit, instead });
                    }
                    let status = wait_until("the program's end", ANSWER_LIMIT, || Ok(self.child.try_wait()?));
                    let how = status.map_or("closed its output".into(), |status| format!("ended ({status})"));
                    bail!("the program {how} before it printed {text:?}; seen instead: {instead:?}");
                }
            }
        }
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

    /// All it printed so far, without waiting.
    pub fn printed(&mut self) -> String {
        self.printed.extend(self.output.try_iter().flatten());
        String::from_utf8_lossy(&self.printed).into_owned()
    }

    /// Waits for the program's end, with a deadline; its output stays readable.
    ///
    /// # Errors
    /// [`NotSeen`] if it goes on.
    pub fn wait_for_end(&mut self) -> Result<ExitStatus> {
        let status = wait_until("the program's end", ANSWER_LIMIT, || Ok(self.child.try_wait()?))?;
        // Its last words may still be on their way, though not for ever: a grandchild may hold the pipe open.
        while let Ok(chunk) = self.output.recv_timeout(Duration::from_millis(500)) {
            self.printed.extend(chunk);
        }
        Ok(status)
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing left to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said_to_wait_for(text: &str, script: &str) -> String {
        let mut role = Role::spawn(Command::new("sh").args(["-c", script])).unwrap();
        role.wait_for_within(text, Duration::from_millis(300)).unwrap_err().to_string()
    }

    #[test]
    fn a_program_that_ended_is_told_from_one_that_is_silent() {
        let ended = "the program ended (exit status: 3) before it printed \"ready\"; seen instead: \"hello\\n\"";
        assert_eq!(said_to_wait_for("ready", "echo hello; exit 3"), ended);
        assert!(said_to_wait_for("ready", "kill -9 $$").contains("ended (signal: 9"), "and how a signal ended it");
        assert_eq!(said_to_wait_for("ready", "exec sleep 60"), "not seen within 300ms: \"ready\" printed");
    }
}
