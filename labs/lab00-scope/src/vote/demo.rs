//! A lab's demo on a pseudo-terminal of its own: which program it is, what it writes, the keys it gets.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::fcntl::OFlag;
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shared::{At, PARENT};

/// A demo that was told to end has its sockets to close; then it is killed.
const END_LIMIT: Duration = Duration::from_secs(3);

/// The program of a lab: a path, or lab07, 7 or lab07-multiclient beside this program.
///
/// # Errors
/// There is none; the text has the command that builds it.
pub fn find(lab: &str) -> Result<PathBuf, String> {
    if lab.contains('/') {
        return if is_program(Path::new(lab)) { Ok(lab.into()) } else { Err(format!("{lab} is no program")) };
    }
    let digits = lab.strip_prefix("lab").unwrap_or(lab);
    let (digits, word) = digits.split_once('-').unwrap_or((digits, ""));
    let number = digits.parse::<u8>().ok().filter(|number| *number < 100 && digits.len() <= 2);
    let Some(number) = number else { return Err(format!("'{lab}' is no lab: say lab07, or a path")) };
    let short = format!("lab{number:02}-");
    let fits = |name: &str| name.starts_with(&short) && !name.contains('.') && (word.is_empty() || name == lab);
    let beside = std::env::current_exe().ok().and_then(|file| Some(file.parent()?.to_path_buf())).unwrap_or_default();
    if let Some(name) = names(&beside).into_iter().find(|name| fits(name) && is_program(&beside.join(name))) {
        return Ok(beside.join(name));
    }
    let kit = Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(names).unwrap_or_default();
    let name = kit.into_iter().find(|name| fits(name));
    let build = name.map_or("cargo build --workspace".into(), |name| format!("cargo build --bin {name}"));
    Err(format!("there is no {lab} in {}\n  hint: {build}", beside.display()))
}

fn names(folder: &Path) -> Vec<String> {
    let entries = folder.read_dir().into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// Whether the lab has these experiments; what is wrong with them is said by the lab itself, and its exit status returned.
///
/// # Errors
/// The program cannot be started.
pub fn check(program: &Path, names: &[String]) -> Result<Result<(), u8>> {
    let mut list = Command::new(program);
    let list = list.args(["demo", "--list"]).args(names).stdin(Stdio::null()).stdout(Stdio::null()).env_remove(PARENT);
    let status = list.status().with_context(|| format!("cannot start {}", program.display()))?;
    Ok(if status.success() { Ok(()) } else { Err(status.code().and_then(|code| code.try_into().ok()).unwrap_or(1)) })
}

/// A demo that runs; killed when dropped.
pub struct Demo {
    child: Child,
    screen: PtyMaster,
    /// Our own end of its terminal, to set the size; its reader ends when the demo has closed its own.
    terminal: PathBuf,
}

impl Demo {
    /// Starts `program demo --pause` with these further arguments on a terminal of this size.
    ///
    /// # Errors
    /// There is no pseudo-terminal, or the program cannot be started.
    pub fn start(program: &Path, names: &[String], (columns, rows): (usize, usize)) -> Result<Demo> {
        let screen = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK);
        let screen = screen.at("posix_openpt", "")?;
        grantpt(&screen).at("grantpt", "")?;
        unlockpt(&screen).at("unlockpt", "")?;
        let terminal = PathBuf::from(ptsname_r(&screen).at("ptsname", "")?);
        let end = open(&terminal)?;
        resize(&terminal, (columns, rows))?;
        let side = || end.try_clone().map(Stdio::from).at("dup", terminal.display());
        let mut command = Command::new(program);
        // PARENT would end what a demo starts by other means than a role, as lab17 does. Not needed: a demo whose terminal is
        // gone ends at its next prompt or line.
        command.args(["demo", "--pause"]).args(names).env_remove(PARENT).env("TERM", "xterm"); // it must clear
        let child = command.stdin(side()?).stdout(side()?).stderr(side()?).spawn();
        let child = child.with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Demo { child, screen, terminal })
    }

    /// Sets the size of its terminal; the demo asks for it before each experiment.
    ///
    /// # Errors
    /// stty(1) is missing.
    pub fn resize(&self, size: (usize, usize)) -> Result<()> {
        resize(&self.terminal, size)
    }

    /// What it wrote: nothing yet, some bytes, or `None` at its end.
    pub fn read(&mut self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 4096];
        match self.screen.read(&mut buffer) {
            Ok(bytes_read @ 1..) => {
                buffer.truncate(bytes_read);
                Some(buffer)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Some(Vec::new())
            }
            Ok(_) | Err(_) => None, // EIO: nobody has the other end any more
        }
    }

    /// Presses a key.
    pub fn press(&mut self, key: &str) {
        let _ = self.screen.write_all(key.as_bytes()); // EIO: it has ended, which the next read tells
    }

    /// How it ended, once it has.
    ///
    /// # Errors
    /// As waitpid(2).
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait().at("waitpid", self.child.id())?)
    }

    /// Interrupts it as Ctrl-C does, and waits for its end; what it still writes is read away.
    pub fn interrupt(&mut self) {
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGINT); // ESRCH: Ctrl-C reached it, too
        let until = Instant::now() + END_LIMIT;
        while Instant::now() < until && matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.read();
            std::thread::sleep(Duration::from_millis(10)); // a bounded poll
        }
    }
}

impl AsFd for Demo {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.screen.as_fd()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it has ended, usually
        let _ = self.child.wait();
    }
}

fn open(terminal: &Path) -> Result<OwnedFd> {
    let file = File::options().read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits()).open(terminal);
    Ok(file.at("open", terminal.display())?.into())
}

/// stty(1) knows how; an ioctl of our own would be unsafe code.
fn resize(terminal: &Path, (columns, rows): (usize, usize)) -> Result<()> {
    let size = ["rows", &rows.to_string(), "columns", &columns.to_string()];
    let mut stty = Command::new("stty");
    stty.args(size).stdin(open(terminal)?).stdout(Stdio::null()).stderr(Stdio::null());
    stty.status().context("cannot run stty, which sets the size of the demo's terminal")?;
    Ok(())
}
