//! What the tests of the labs share. They run the real binaries, own every process they start, and wait with deadlines.
//!
//! Failures of a helper are failures of the test that called it, so helpers panic, and say all they saw.
#![allow(clippy::unwrap_used)]

mod demo;
mod peers;
mod strace;
mod terminal;

use std::{
    env, fs,
    io::{ErrorKind, Read},
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sched::{CpuSet, sched_getcpu, sched_setaffinity},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

pub use demo::{
    Demo, assert_a_new_build_changes_no_verdict, assert_addresses_are_refused, assert_common_rules,
    assert_demo_needs_no_privileges, assert_privileged_port_is_refused, assert_readme_quotes_a_run,
    assert_sheet_quotes_a_run, assert_stops_change_no_verdict,
};
pub use kernel::{NotSeen, wait_until};
pub use peers::{
    TCP_TOOLS, addr_behind, foreign, nobody, python_server, serving, tcp_tool, texts, wait_until_it_hears_ctrl_c,
    without_ipv6,
};
pub use shared::Role;
pub use strace::{assert_printed_calls_are_real, assert_printed_calls_are_real_with};
pub use terminal::{Pty, Terminal};

/// A program that has not ended by then hangs.
pub const RUN_LIMIT: Duration = Duration::from_secs(60);
/// The ordinary account of tests that run as root: nobody.
pub const NOBODY: u32 = 65534;

/// What a program left behind.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Finished {
    /// Its exit status; 128 and the signal's number where a signal ended it, as a shell counts.
    pub fn code(&self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }
}

/// Runs a program to its end, its standard input closed unless the command says otherwise.
///
/// # Panics
/// It cannot be started, or runs longer than [`RUN_LIMIT`].
pub fn run(command: &mut Command) -> Finished {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut err = child.stderr.take().unwrap();
    let read_out = thread::spawn(move || read_all(&mut out));
    let read_err = thread::spawn(move || read_all(&mut err));
    let deadline = Instant::now() + RUN_LIMIT;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() >= deadline {
            child.kill().unwrap();
            let stdout = read_out.join().unwrap();
            panic!("{command:?} still ran after {RUN_LIMIT:?}; it printed:\n{stdout}");
        }
        thread::sleep(Duration::from_millis(5)); // a bounded poll: the deadline is above
    };
    Finished { status, stdout: read_out.join().unwrap(), stderr: read_err.join().unwrap() }
}

/// Runs a program that should fail: its exit status and its standard error.
///
/// # Panics
/// As [`run`].
pub fn failed(command: &mut Command) -> (i32, String) {
    let finished = run(command);
    (finished.code(), finished.stderr)
}

fn read_all(from: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The top of the checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().into()
}

/// The names of all labs.
///
/// # Panics
/// There is none.
pub fn labs() -> Vec<String> {
    let folders = fs::read_dir(root().join("labs")).unwrap();
    let mut labs: Vec<_> = folders.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    assert!(!labs.is_empty());
    labs.sort();
    labs
}

/// The folder with the programs of all labs, built if they are not yet.
///
/// # Panics
/// They do not build.
pub fn built() -> PathBuf {
    let test = env::current_exe().unwrap();
    let [folder, target] = [2, 3].map(|up| test.ancestors().nth(up).unwrap()); // target/debug/deps/TEST
    let mut build = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.current_dir(root()).args(["build", "--quiet", "--workspace", "--bins", "--target-dir"]).arg(target);
    if folder.ends_with("release") {
        build.arg("--release");
    }
    let status = build.stdin(Stdio::null()).status().unwrap();
    assert!(status.success(), "{build:?}: {status}");
    folder.into()
}

/// True if PATH has this program.
pub fn have(program: &str) -> bool {
    env::split_paths(&env::var_os("PATH").unwrap_or_default()).any(|folder| folder.join(program).is_file())
}

/// True where something needed is missing: says so and the test ends there. CI installs everything, so there it fails.
///
/// # Panics
/// With `CI` set.
pub fn skip_without(missing: bool, what: &str, provided_by: &str) -> bool {
    if missing {
        assert!(env::var_os("CI").is_none(), "CI lets nothing skip: {what} is missing ({provided_by})");
        use std::io::Write;
        // Past the test harness's capture: a skipped test must not look like a passed one.
        let _ = writeln!(std::io::stderr(), "SKIP: needs {what}: {provided_by}");
    }
    missing
}

/// A folder that is removed with its owner.
pub struct TempDir(PathBuf);

impl TempDir {
    /// A new folder that every account can enter.
    ///
    /// # Panics
    /// The folder cannot be made.
    #[expect(clippy::new_without_default, reason = "it makes a folder")]
    pub fn new() -> TempDir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let folder = loop {
            let name = format!("labkit-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let folder = env::temp_dir().join(name);
            match fs::create_dir(&folder) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {} // of a test that was killed
                made => {
                    made.unwrap();
                    break folder;
                }
            }
        };
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        TempDir(folder)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What the scripts use besides ss, netstat, ip and tmux.
const TOOLS: &str =
    "awk basename bash cat cut date dirname env grep head id ls mktemp pgrep ps readlink rm sed sleep sort
    stty tail timeout tr uname wc";

/// A PATH, made in `folder`, with the usual tools and of ss, netstat and the like only those named.
///
/// # Panics
/// A tool is not in this process's own PATH.
pub fn path_with(folder: &TempDir, extra: &[&str]) -> String {
    let folders: Vec<_> = env::split_paths(&env::var_os("PATH").unwrap()).collect();
    for tool in TOOLS.split_whitespace().chain(extra.iter().copied()) {
        let found = folders.iter().map(|folder| folder.join(tool)).find(|file| file.is_file());
        let found = found.unwrap_or_else(|| panic!("{tool} is not in PATH"));
        std::os::unix::fs::symlink(found, folder.path().join(tool)).unwrap();
    }
    folder.path().to_str().unwrap().into()
}

/// Copies a program to where every account may run it.
///
/// # Panics
/// The folder does not take it.
pub fn copy_program(binary: &str, folder: &TempDir) -> PathBuf {
    // Not fs::copy: a child that another test starts meanwhile would have the copy open for writing until its execve, and
    // running the copy would fail with ETXTBSY.
    assert!(Command::new("cp").arg(binary).arg(folder.path()).status().unwrap().success());
    folder.path().join(Path::new(binary).file_name().unwrap())
}

/// The same binary as an ordinary account: as it is for one, as nobody for root.
///
/// # Panics
/// The binary cannot be copied to where nobody may run it.
pub fn as_ordinary_account(binary: &str, folder: &TempDir) -> Command {
    let mut command = Command::new(copy_program(binary, folder));
    if nix::unistd::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY); // std drops the supplementary groups with them
    }
    command
}

/// Sends a signal to a role.
///
/// # Panics
/// The role has ended and was waited for.
pub fn signal(role: &Role, signal: Signal) {
    kill(role.pid(), signal).unwrap();
}

/// Waits for a role's end, which must be a good one.
///
/// # Panics
/// It goes on, or its exit status is not 0.
pub fn ends_well(role: &mut Role) {
    assert_eq!(role.wait_for_end().unwrap().code(), Some(0), "{}", role.printed());
}

/// Ctrl-C, and a good end.
///
/// # Panics
/// As [`ends_well`].
pub fn interrupt(role: &mut Role) {
    signal(role, Signal::SIGINT);
    ends_well(role);
}

/// With `--pause`: waits for each of these calls to be announced, and presses Enter.
///
/// # Panics
/// Another call comes, or none.
pub fn step(role: &mut Role, calls: &[&str]) {
    for call in calls {
        role.wait_for(&format!("next: {call}")).unwrap();
        role.type_line("").unwrap();
    }
}

/// Other people's TCP clients type a line, close their sending side, and print `answer`.
///
/// # Panics
/// One of them does not.
pub fn assert_foreign_clients_get(addr: SocketAddr, line: &str, answer: &str) {
    let python = "import socket,sys\ns=socket.create_connection(('127.0.0.1',int(sys.argv[1])))\n\
                  s.sendall(sys.stdin.buffer.read())\ns.shutdown(socket.SHUT_WR)\nprint(s.makefile().read(),end='')";
    let python = || {
        let missing = skip_without(!have("python3"), "python3", "apt-get install python3");
        let mut command = Command::new("python3");
        (!missing).then(|| Role::spawn(command.args(["-c", python, &addr.port().to_string()])).unwrap())
    };
    for mut peer in TCP_TOOLS.iter().filter_map(|tool| tcp_tool(tool, addr)).chain(python()) {
        peer.type_line(line).unwrap();
        peer.input = None;
        peer.wait_for(answer).unwrap();
        peer.wait_for_end().unwrap();
    }
}

/// Ctrl-Z while the program waits for something, and fg; false if it had ended before.
///
/// # Panics
/// It neither waits, stops nor ends.
pub fn stop_and_go_on(role: &Role) -> bool {
    let stat = format!("/proc/{}/stat", role.pid());
    let comes_to = |state: &str| {
        wait_until(state, RUN_LIMIT, || {
            let stat = fs::read_to_string(&stat)?;
            Ok(if stat.contains(") Z ") { Some(false) } else { stat.contains(state).then_some(true) })
        })
        .unwrap()
    };
    if !comes_to(") S ") {
        return false;
    }
    signal(role, Signal::SIGSTOP);
    let stopped = comes_to(") T ");
    signal(role, Signal::SIGCONT);
    stopped
}

/// Keeps a test that looks at TIME-WAIT, and the programs it starts from now on, on one processor. On two, the second end's
/// FIN may overtake the acknowledgement it sent just before. TIME-WAIT answers the late one, the second end is gone, and
/// its reset ends TIME-WAIT (RFC 1337).
///
/// # Panics
/// The kernel does not let it.
pub fn one_processor() {
    let mut here = CpuSet::new();
    here.set(sched_getcpu().unwrap()).unwrap();
    sched_setaffinity(Pid::from_raw(0), &here).unwrap();
}

/// The open descriptors of a process.
///
/// # Panics
/// The process is gone or somebody else's.
pub fn descriptors(pid: Pid) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}
