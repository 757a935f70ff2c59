//! The commands of the command line: how they are joined, how they begin, what they print.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command as Program, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};

/// A line that is longer is cut, so that a program that prints no newline cannot fill the memory.
const LONGEST_LINE: usize = 8192;
/// For `--after`: of what was printed no more is kept.
const REMEMBERED: usize = 64 << 10;

/// One command.
#[derive(Default)]
pub struct Command {
    /// Its program and its arguments.
    pub words: Vec<String>,
    /// It starts once the command before it has printed this.
    pub after: Option<String>,
    /// It has standard input.
    pub typed_at: bool,
    /// Its process, once it was started.
    pub process: Option<i32>,
    /// It has become the program that it names.
    pub began: bool,
    /// How its process ended: its exit status, or 128 and the signal.
    pub status: Option<i32>,
    /// It waits in a socket call, or did: whoever comes next finds it ready.
    pub ready: bool,
    /// It has called listen.
    pub listens: bool,
    /// Standard input of a command at which nobody types: a pipe that stays open.
    held_input: Option<OwnedFd>,
    /// Its standard output and its standard error.
    outputs: Vec<Output>,
    /// The last of what it printed.
    printed: Vec<u8>,
}

/// One of a command's two outputs.
struct Output {
    from: File,
    error: bool,
    line: Vec<u8>,
}

/// Splits what stands behind `--` at `--and`; `--after TEXT` may follow that.
///
/// # Errors
/// A command without a program, an `--after` without a text.
pub fn split(words: &[String], after: Option<&str>) -> Result<Vec<Command>> {
    let mut commands = Vec::new();
    for (at, words) in words.split(|word| word == "--and").enumerate() {
        let mut command = Command { words: words.to_vec(), ..Command::default() };
        command.after = after.filter(|_| at > 0).map(String::from);
        if words.first().is_some_and(|word| word == "--after") {
            ensure!(at > 0, "--after stands behind --and: run -- SERVER --and --after TEXT CLIENT");
            command.after = Some(words.get(1).context("--after wants the text to wait for")?.clone());
            command.words.drain(..2);
        }
        ensure!(!command.words.is_empty(), "a command is missing: run -- COMMAND [ARGS] [--and COMMAND [ARGS]]");
        commands.push(command);
    }
    Ok(commands)
}

impl Command {
    /// Starts a process that stops itself before it becomes the program, so that it can be traced from its first call.
    ///
    /// # Errors
    /// What fork(2) says, and what opening its outputs says.
    pub fn start(&mut self) -> Result<i32> {
        let (stdout, output) = terminal().or_else(|_| pipe())?;
        let (stderr, errors) = pipe()?;
        let mut program = Program::new("/proc/self/exe");
        program.args(["run", "--stub", "--"]).args(&self.words).stdout(output).stderr(errors);
        if !self.typed_at {
            let (input, keep) = pipe()?;
            program.stdin(input);
            self.held_input = Some(keep);
        }
        // A lab that is started by another lab's test ends with its parent, and this is another parent. A terminal
        // without colours is what the picture can show.
        program.env_remove(shared::PARENT).env("TERM", "dumb").env("NO_COLOR", "1");
        let child = program.spawn().context("cannot start a process; see the limit: ulimit -u")?;
        let process = child.id().cast_signed();
        for (from, error) in [(stdout, false), (stderr, true)] {
            fcntl(&from, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).context("fcntl O_NONBLOCK")?;
            self.outputs.push(Output { from: File::from(from), error, line: Vec::new() });
        }
        self.process = Some(process);
        Ok(process)
    }

    /// What it printed since the last look, line by line, and whether it went to standard error. `all`: also what no
    /// newline has ended.
    pub fn lines(&mut self, all: bool) -> Vec<(bool, String)> {
        let (mut lines, mut buffer) = (Vec::new(), [0; 4096]);
        self.outputs.retain_mut(|output| {
            let open = loop {
                match output.from.read(&mut buffer) {
                    Ok(0) => break false,
                    Ok(length) => {
                        self.printed.extend(&buffer[..length]);
                        output.line.extend(&buffer[..length]);
                        output.cut(&mut lines);
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => break error.kind() == ErrorKind::WouldBlock, // EIO: the terminal was closed
                }
            };
            if (all || !open) && !output.line.is_empty() {
                lines.push((output.error, text(&std::mem::take(&mut output.line))));
            }
            open
        });
        let surplus = self.printed.len().saturating_sub(REMEMBERED);
        self.printed.drain(..surplus);
        lines
    }

    /// Whether it printed this.
    pub fn has_printed(&self, text: &str) -> bool {
        text.is_empty() || self.printed.windows(text.len()).any(|part| part == text.as_bytes())
    }

    /// To wait for the next output.
    pub fn open_outputs(&self) -> impl Iterator<Item = &File> {
        self.outputs.iter().map(|output| &output.from)
    }
}

impl Output {
    /// Takes whole lines out.
    fn cut(&mut self, lines: &mut Vec<(bool, String)>) {
        while let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.line.drain(..=end).collect();
            lines.push((self.error, text(&line[..end])));
        }
        if self.line.len() > LONGEST_LINE {
            lines.push((self.error, text(&std::mem::take(&mut self.line))));
        }
    }
}

fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line).trim_end_matches('\r').to_string()
}

/// A terminal for standard output: the C library then writes line by line, and a line stands where it was printed.
fn terminal() -> Result<(OwnedFd, OwnedFd)> {
    let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    let pair = openpty(Some(&size), None)?;
    let mut settings = tcgetattr(&pair.slave)?;
    cfmakeraw(&mut settings);
    tcsetattr(&pair.slave, SetArg::TCSANOW, &settings)?;
    for fd in [&pair.master, &pair.slave] {
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    }
    Ok((pair.master, pair.slave))
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    nix::unistd::pipe2(OFlag::O_CLOEXEC).context("pipe")
}

/// The child's side of [`Command::start`]: stops itself, then becomes the program.
///
/// # Errors
/// What sigprocmask(2) and raise(3) say.
pub fn stub(words: &[String]) -> Result<ExitCode> {
    SigSet::all().thread_unblock()?;
    let Some((name, args)) = words.split_first() else { bail!("no command") };
    raise(Signal::SIGSTOP)?;
    let error = Program::new(name).args(args).exec();
    let not_found = error.kind() == ErrorKind::NotFound;
    let text = if not_found { format!("{name}: command not found") } else { format!("{name}: {error}") };
    shared::Screen::new().line(text);
    Ok(ExitCode::from(if not_found { 127 } else { 126 })) // as a shell does
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(String::from).collect()
    }

    #[test]
    fn commands_are_joined_by_and() {
        let commands = split(&words("server 4444 --and --after ready client --and other"), None).unwrap();
        assert_eq!(commands[0].words, ["server", "4444"]);
        assert_eq!(
            (&commands[1].words[..], commands[1].after.as_deref()),
            (&["client".to_string()][..], Some("ready"))
        );
        assert_eq!((commands.len(), commands[2].after.as_deref()), (3, None));
        let commands = split(&words("server --and client"), Some("up")).unwrap();
        assert_eq!((commands[0].after.as_deref(), commands[1].after.as_deref()), (None, Some("up")));
    }

    #[test]
    fn a_join_without_a_command_is_refused() {
        for line in ["--and client", "server --and", "server --and --after", "--after x server"] {
            assert!(split(&words(line), None).is_err(), "{line}");
        }
    }
}
