//! What holds for every lab's demo.

use std::{
    env, fs,
    io::Write,
    net::TcpListener,
    os::{fd::AsRawFd, unix::process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::sys::{
    signal::{Signal, kill},
    socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, getsockname},
};
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    unistd::Pid,
};

use crate::{
    Finished, RUN_LIMIT, Role, TempDir, Terminal, as_ordinary_account, copy_program, ends_well, failed, root, run,
    signal, skip_without, stop_and_go_on, wait_until, wait_until_it_hears_ctrl_c,
};

/// Where an experiment is skipped, this says what it lacks.
const CHECK: &str = "scripts/check.sh says what is missing";
const OUTCOMES: [&str; 5] = ["CONFIRMED", "CORRECTED", "ANSWERED", "SKIPPED", "UNEXPECTED"];

/// A demo that was played.
pub struct Demo {
    /// The lab's binary.
    binary: String,
    /// The run.
    pub finished: Finished,
}

impl Demo {
    /// Plays all experiments of a lab.
    pub fn play(binary: &str) -> Demo {
        let demo = Demo { binary: binary.into(), finished: run(Command::new(binary).arg("demo")) };
        let (kept, own) = (kept(binary), kept(&format!("{binary}.{}", std::process::id())));
        // Renamed, so that nobody reads half of it. Where the folder takes no file, the next reader plays again.
        let _ = fs::create_dir_all(kept.parent().unwrap());
        let _ = fs::write(&own, &demo.finished.stdout).and_then(|()| fs::rename(&own, kept));
        demo
    }

    /// What the demo printed when it was last played by a test, if the binary is not newer; else plays it now.
    ///
    /// # Panics
    /// There is no such binary.
    pub fn last_output(binary: &str) -> String {
        let changed = |path: &Path| fs::metadata(path).and_then(|file| file.modified());
        let built = changed(Path::new(binary)).unwrap();
        let kept = kept(binary);
        let fresh = changed(&kept).is_ok_and(|played| played >= built);
        let output = if fresh { fs::read_to_string(kept).ok() } else { None };
        output.unwrap_or_else(|| Demo::play(binary).finished.stdout)
    }

    /// Each experiment's name and verdict, read from the scoreboard.
    pub fn verdicts(&self) -> Vec<(String, String)> {
        let board = self.finished.stdout.lines().skip_while(|line| *line != "scoreboard");
        let rows = board.map(|line| line.split_whitespace().filter(|word| *word != "*").collect::<Vec<_>>());
        rows.filter(|words| words.len() > 2 && OUTCOMES.contains(&words[2]))
            .map(|words| (words[1].into(), words[2].into()))
            .collect()
    }

    /// Holds the verdicts against the recorded ones, and the output against the rules of all labs.
    ///
    /// # Panics
    /// A verdict differs, a line is too wide, a byte is not ASCII, the scoreboard is too long.
    pub fn assert_verdicts(&self, expected: &[(&str, &str)]) {
        let Finished { stdout, stderr, .. } = &self.finished;
        let verdicts = self.verdicts();
        let mut observed: Vec<_> = verdicts.iter().map(|(id, verdict)| (id.as_str(), verdict.as_str())).collect();
        for (observed, expected) in observed.iter_mut().zip(expected) {
            let skipped = observed.1 == "SKIPPED" && expected.1 != "SKIPPED";
            if skip_without(skipped, &format!("what the experiment {} needs", observed.0), CHECK) {
                observed.1 = expected.1;
            }
        }
        assert_eq!(observed, expected, "\n{stdout}{stderr}");
        assert_eq!(self.finished.code(), 0, "\n{stdout}{stderr}");
        assert_eq!(stderr, "");
        for line in stdout.lines() {
            assert!(line.len() < 80, "{} columns: {line}", line.len());
            assert!(line.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "not plain ASCII: {line:?}");
        }
        let scoreboard = stdout.lines().skip_while(|line| *line != "scoreboard").count();
        assert!((1..=24).contains(&scoreboard), "a scoreboard of {scoreboard} lines");
    }
}

/// Where the output of a demo is kept for the tests of the kit as a whole, so that no demo is played twice for them.
fn kept(binary: &str) -> PathBuf {
    let (folder, name) = binary.rsplit_once('/').unwrap();
    Path::new(folder).join("demos").join(name)
}

/// The rules of the command line that hold in every lab; `role` are arguments of one that runs until Ctrl-C, and `ready`
/// is what it prints once it runs.
///
/// # Panics
/// One of them is broken.
pub fn assert_common_rules(binary: &str, role: &[&str], ready: &str) {
    assert_help_fits_and_roles_are_named(binary);

    let list = run(Command::new(binary).args(["demo", "--list"]));
    assert_eq!(list.code(), 0);
    assert!(list.stdout.starts_with("1 * "), "starred first: {}", list.stdout);
    assert!(!list.stdout.contains("verdict") && !list.stdout.contains("a) "), "answers in the list: {}", list.stdout);

    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let full = Command::new(binary).args(["demo", "--list"]).stdout(full).stderr(Stdio::piped()).output().unwrap();
    let told = String::from_utf8_lossy(&full.stderr).into_owned();
    assert_eq!((full.status.code(), told.contains("No space left on device")), (Some(1), true), "{told}");

    // An experiment's name alone plays it, so no role may have the same name.
    for title in list.stdout.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_digit())) {
        let id =
            title.split_whitespace().find(|word| word.starts_with(|first: char| first.is_ascii_lowercase())).unwrap();
        assert_eq!(run(Command::new(binary).args([id, "--list"])).code(), 0, "{binary} {id}");
    }

    let unknown = run(Command::new(binary).args(["demo", "no-such-experiment"]));
    assert_eq!(unknown.code(), 2);
    assert!(unknown.stderr.contains("no experiment 'no-such-experiment'; there are 1 to "), "{}", unknown.stderr);

    let predict = run(Command::new(binary).args(["demo", "--predict"]));
    assert_eq!(predict.code(), 2);
    assert!(predict.stderr.contains("needs a terminal"), "{}", predict.stderr);

    // A reader that has gone: no message, and what a program killed by SIGPIPE would leave.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut demo = Command::new(binary);
    let demo = demo.arg("demo").stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped());
    let closed = demo.spawn().unwrap().wait_with_output().unwrap();
    assert_eq!((closed.status.code(), closed.stderr), (Some(141), Vec::new()));

    assert_a_blocked_write_hears_ctrl_c(binary, role);

    for stop in [Signal::SIGINT, Signal::SIGTERM] {
        let mut running = Role::spawn(Command::new(binary).args(role)).unwrap();
        running.wait_for(ready).unwrap();
        signal(&running, stop);
        assert_eq!(running.wait_for_end().unwrap().code(), Some(0), "{stop} ends a role in good order");

        // --pause waits for the class, so there is something to interrupt.
        let mut demo = Role::spawn(Command::new(binary).args(["demo", "--pause"])).unwrap();
        demo.wait_for("[Enter]").unwrap();
        signal(&demo, stop);
        assert_eq!(demo.wait_for_end().unwrap().signal(), Some(stop as i32), "130 to a shell, for SIGINT");
    }

    assert_a_terminal_is_served(binary);

    let mut skipped = Role::spawn(Command::new(binary).args(["demo", "1", "--pause"])).unwrap();
    skipped.wait_for("[Enter]").unwrap();
    skipped.type_line("r").unwrap(); // again
    skipped.wait_for("[Enter]").unwrap();
    skipped.type_line("s").unwrap();
    assert_eq!(skipped.wait_for_end().unwrap().code(), Some(0));
}

/// All help texts have room in 80 columns, words whole; a role's name with a slip in it is told from an experiment's.
///
/// # Panics
/// A line is too wide, or a name is missing.
fn assert_help_fits_and_roles_are_named(binary: &str) {
    let help = |role: &[&str]| {
        let help = run(Command::new(binary).args(role).arg("--help"));
        let wide: Vec<_> = help.stdout.lines().filter(|line| line.chars().count() > 79).collect();
        assert!(help.code() == 0 && wide.is_empty(), "{role:?} --help, wider than 79 columns: {wide:#?}");
        help.stdout
    };
    let whole = help(&[]);
    assert!(whole.contains("Examples:"), "{whole}");
    let commands = whole.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // What goes on from the line above is indented further.
    let names = commands.filter_map(|line| line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')));
    let roles: Vec<&str> = names.map(|line| line.split(' ').next().unwrap()).filter(|name| *name != "help").collect();
    assert!(roles.len() > 2, "{whole}");
    roles.iter().for_each(|role| drop(help(&[role])));

    let slip = failed(Command::new(binary).args(["sever", "0"]));
    let list = run(Command::new(binary).arg("--list")).stdout;
    let named = roles.iter().filter(|role| !["demo", "sheet"].contains(role)).all(|role| slip.1.contains(role));
    let first = list.split_whitespace().nth(2).unwrap();
    assert!(slip.0 == 2 && slip.1.lines().count() == 1 && named && slip.1.contains(first), "{slip:?}");
}

/// Another program is put in the place of the demo's file while it runs, as a new build does: the verdicts are the same.
///
/// # Panics
/// A verdict differs, or the demo does not end.
pub fn assert_a_new_build_changes_no_verdict(demo: &Demo) {
    let folder = TempDir::new();
    let file = copy_program(&demo.binary, &folder);
    let mut role = Role::spawn(Command::new(&file).args(["demo", "--pause"])).unwrap();
    role.wait_for("[Enter]").unwrap();
    fs::write(folder.path().join("another"), "#!/bin/sh\nexit 1\n").unwrap();
    fs::rename(folder.path().join("another"), &file).unwrap();
    let enough = "\n".repeat(400);
    role.input.take().unwrap().write_all(enough.as_bytes()).unwrap();
    wait_until("the end of the demo", RUN_LIMIT, || Ok(role.printed().contains("\nscoreboard\n").then_some(())))
        .unwrap();
    let status = role.wait_for_end().unwrap();
    let played = Finished { status, stdout: role.printed(), stderr: String::new() };
    let replaced = Demo { binary: demo.binary.clone(), finished: played };
    assert_eq!(replaced.verdicts(), demo.verdicts(), "\n{}", replaced.finished.stdout);
}

/// A role whose output goes into a full pipe that nobody reads still ends at Ctrl-C.
///
/// # Panics
/// It does not.
fn assert_a_blocked_write_hears_ctrl_c(binary: &str, role: &[&str]) {
    let (_reader, mut writer) = std::io::pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    while writer.write(&[b'x'; 4096]).is_ok() {} // until EAGAIN
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    let mut child = Command::new(binary).args(role).stdin(Stdio::piped()).stdout(writer).spawn().unwrap();
    let pid = Pid::from_raw(child.id().cast_signed());
    let ended = wait_until_it_hears_ctrl_c(pid).and_then(|()| {
        kill(pid, Signal::SIGINT)?;
        wait_until("the end of a program whose output is full", RUN_LIMIT, || Ok(child.try_wait()?))
    });
    let _ = child.kill(); // ESRCH: it has ended
    let _ = child.wait();
    assert_eq!(ended.unwrap().code(), Some(0));
}

/// Ctrl-Z and fg, again and again through a whole demo: each call that waits is interrupted, and no verdict changes.
///
/// # Panics
/// A verdict is UNEXPECTED, or the demo does not end.
pub fn assert_stops_change_no_verdict(binary: &str) {
    let mut demo = Role::spawn(Command::new(binary).arg("demo")).unwrap();
    wait_until("the end of the demo", RUN_LIMIT, || {
        stop_and_go_on(&demo);
        Ok(demo.printed().contains(" UNEXPECTED\n").then_some(()))
    })
    .unwrap();
    ends_well(&mut demo);
}

/// A paused demo on a terminal of 80 columns and 24 rows: the keys, and what stands above the verdict.
///
/// # Panics
/// A key does something else, a line is cut, or the question is out of sight.
fn assert_a_terminal_is_served(binary: &str) {
    const PROMPT: &str = "? keys)";
    let mut small = Terminal::start(Command::new(binary).args(["--pause", "1"]), 70, 20);
    small.wait_for("this terminal has 70 x 20; a demo needs 60 x 24");
    let shown = small.wait_for("? keys)");
    assert!(shown.lines().all(|line| line.len() < 70), "{shown}");
    drop(small);

    let mut demo = Terminal::start(Command::new(binary).args(["--pause", "1"]), 80, 24);
    let asked = demo.wait_for(PROMPT);
    demo.type_text("x"); // no key: nothing happens
    demo.type_text("?");
    assert!(!demo.wait_for("PageDown: go on").contains("verdict "), "a key that means nothing reveals nothing");
    demo.wait_for(PROMPT);
    demo.type_text("\x1b[D"); // Left, the clicker's way back
    let again = demo.wait_for(PROMPT);
    // Line by line: on a busy machine any of them may carry a stamp.
    let question = |text: &str| text.split("\nask ").last().unwrap().lines().map(without_digits).collect::<Vec<_>>();
    assert_eq!(question(&again), question(&asked), "Left plays it again");
    let mut shown = again;
    while !shown.contains("\nverdict ") {
        demo.type_text("\x1b[6~"); // PageDown, the clicker's way on
        shown += &demo.wait_for(PROMPT);
    }
    for line in shown.lines() {
        assert!(line.len() < 80, "{} columns: {line}", line.len());
    }
    let screen: Vec<&str> = shown.lines().rev().take(24).collect();
    assert!(screen.iter().any(|line| line.starts_with("ask ")), "the question is out of sight:\n{shown}");
    demo.type_text("q");
    assert_eq!(demo.end().code(), Some(0));
    let refused = run(Command::new(binary).args(["demo", "--pause"]));
    assert!(refused.code() == 2 && refused.stderr.contains("--pause waits for Enter"), "{refused:?}");
}

/// Plays the demo as an ordinary account: nothing may be UNEXPECTED, nor SKIPPED for want of privileges.
///
/// # Panics
/// Something is; and with `CI` set anything SKIPPED at all.
pub fn assert_demo_needs_no_privileges(binary: &str) {
    let Finished { stdout, stderr, .. } = run(as_ordinary_account(binary, &TempDir::new()).arg("demo"));
    assert!(stdout.contains(" SKIPPED, 0 UNEXPECTED"), "{stdout}{stderr}");
    let skipped = !stdout.contains(" 0 SKIPPED, ");
    skip_without(skipped, "what an ordinary account's SKIPPED experiments need", CHECK);
}

/// A role that takes a port under 1024 says to an ordinary account what is missing; `addr` is where it would bind.
///
/// # Panics
/// It says something else, or gets the port.
pub fn assert_privileged_port_is_refused(binary: &str, role: &[&str], addr: &str) {
    let start = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    if skip_without(start.trim() == "0", "privileged ports", "sysctl net.ipv4.ip_unprivileged_port_start=1024") {
        return;
    }
    let (code, stderr) = failed(as_ordinary_account(binary, &TempDir::new()).args(role));
    let lab = lab_of(binary);
    let hint = "see the limit: cat /proc/sys/net/ipv4/ip_unprivileged_port_start";
    assert_eq!(stderr, format!("{lab}: bind {addr}: EACCES (13) Permission denied\n  hint: {hint}\n"), "{role:?}");
    assert_eq!(code, 1, "{role:?}");
}

/// TCP roles that take ADDRESS:PORT name the call, the address, the errno and a command that helps: where the port is
/// taken, where nobody listens, and where the address is
/// not ours; and how an address is written. `binds` and `connects` are the roles' names.
///
/// # Panics
/// They do not.
pub fn assert_addresses_are_refused(binary: &str, binds: &str, connects: &str) {
    let refused = |role: &str, addr: &str, error: &str| {
        let (code, stderr) = failed(Command::new(binary).args([role, addr]));
        let expected = format!("{}: {error}\n  hint: ", lab_of(binary));
        assert!(code == 1 && stderr.starts_with(&expected), "{role} {addr}: {code} {stderr}");
    };
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    refused(binds, &addr, &format!("bind {addr}: EADDRINUSE (98) Address already in use"));
    // Bound and not listening: nobody else can take this port meanwhile.
    let silent = nix::sys::socket::socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(silent.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
    let addr = getsockname::<SockaddrIn>(silent.as_raw_fd()).unwrap().to_string();
    refused(connects, &addr, &format!("connect {addr}: ECONNREFUSED (111) Connection refused"));
    for (role, text) in [(binds, "77777"), (connects, "127.0.0.1:65536")] {
        let (code, stderr) = failed(Command::new(binary).args([role, text]));
        let help = "': not PORT, ADDRESS, NAME or one of these with :PORT, such as";
        let named = stderr.contains(&format!("'{text}' for '[ADDRESS]")) && stderr.contains(help);
        assert!(code == 2 && named, "{role} {text}: {code} {stderr}");
    }
    let foreign = "192.0.2.1:7777"; // of RFC 5737, for documentation
    refused(binds, foreign, &format!("bind {foreign}: EADDRNOTAVAIL (99) Cannot assign requested address"));
}

/// The name at the start of a lab's messages: lab07 of lab07-multiclient.
fn lab_of(binary: &str) -> &str {
    binary.rsplit('/').next().unwrap().split('-').next().unwrap()
}

/// With this set, a test that guards a sheet first puts the output of this run into it: `UPDATE_SHEET=1 cargo test`.
const UPDATE_SHEET: &str = "UPDATE_SHEET";

/// Before what belongs to the line above.
const INDENT: &str = "          ";

/// Guards the sheet: each output it quotes between "```text" and "```" must be what the demo prints, digits aside; and
/// it quotes each experiment that can be skipped.
///
/// # Panics
/// The lab has no sheet, the sheet quotes too little, or a quoted line is not in the output.
pub fn assert_sheet_quotes_a_run(lab: &str, demo: &Demo) {
    let skipped = demo.verdicts().iter().any(|(_, verdict)| verdict == "SKIPPED");
    if skip_without(skipped, "what a skipped experiment needs: the sheet quotes a whole run", CHECK) {
        return;
    }
    let path = root().join("labs").join(lab).join("README.md");
    let mut sheet = fs::read_to_string(&path).expect("the lab's sheet");
    if env::var_os(UPDATE_SHEET).is_some() {
        sheet = with_output(&sheet, &demo.finished.stdout, &can_be_skipped(&demo.binary));
        fs::write(&path, &sheet).unwrap();
    }
    let shown = run(Command::new(&demo.binary).args(["sheet", "--all"])).stdout;
    assert!(shown.starts_with(&format!("# {lab}\n")) && !shown.contains("<details>"), "{shown}");
    let quoted = assert_quoted_lines_are_in(&demo.finished.stdout, &sheet);
    assert!(quoted >= 5, "the sheet of {lab} quotes only {quoted} lines of output");
    for title in can_be_skipped(&demo.binary) {
        let recorded = sheet.contains(&format!("```text\n{title}\n"));
        assert!(recorded, "'{title}' can be skipped, and the sheet has no run of it ({UPDATE_SHEET}=1 puts it there)");
    }
}

/// Guards the run that README.md quotes, as [`assert_sheet_quotes_a_run`] guards a sheet.
///
/// # Panics
/// README.md quotes nothing, or a line that the demo does not print.
pub fn assert_readme_quotes_a_run(binary: &str) {
    let output = Demo::last_output(binary);
    let path = root().join("README.md");
    let mut readme = fs::read_to_string(&path).unwrap();
    if env::var_os(UPDATE_SHEET).is_some() {
        readme = with_output(&readme, &output, &[]);
        fs::write(&path, &readme).unwrap();
    }
    assert!(assert_quoted_lines_are_in(&output, &readme) >= 5, "README.md quotes no run");
}

/// Each line between "```text" and "```" was printed, digits aside; how many there are. Where a line is broken makes no
/// difference: the length of a number may change that.
fn assert_quoted_lines_are_in(output: &str, text: &str) -> usize {
    let printed: Vec<String> = output.lines().map(without_digits).collect();
    let whole: Vec<String> = unbroken(output).iter().map(|lines| joined(lines)).collect();
    let blocks: Vec<&str> = text.split("```text\n").skip(1).map(|block| block.split("```").next().unwrap()).collect();
    for lines in blocks.iter().flat_map(|block| unbroken(block)) {
        let found = whole.contains(&joined(&lines)) || lines.iter().all(|line| printed.contains(&without_digits(line)));
        assert!(found, "a quoted line that no run prints ({UPDATE_SHEET}=1 mends it): {lines:#?}");
    }
    blocks.iter().flat_map(|block| block.lines()).filter(|line| !line.is_empty()).count()
}

/// The lines, each with those that go on with it.
fn unbroken(text: &str) -> Vec<Vec<&str>> {
    let mut groups: Vec<Vec<&str>> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        match groups.last_mut() {
            Some(group) if line.starts_with(INDENT) => group.push(line),
            _ => groups.push(vec![line]),
        }
    }
    groups
}

fn joined(lines: &[&str]) -> String {
    without_digits(&lines.join(" ").split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The titles of the experiments that need something, and so can be skipped: `3 * name`.
fn can_be_skipped(binary: &str) -> Vec<String> {
    let list = run(Command::new(binary).args(["demo", "--list"])).stdout;
    let (mut title, mut titles) = (String::new(), Vec::new());
    for line in list.lines() {
        if let Some((name, _)) =
            line.rsplit_once("  ").filter(|_| line.starts_with(|first: char| first.is_ascii_digit()))
        {
            title = name.into();
        } else if line.starts_with("    needs ") && titles.last() != Some(&title) {
            titles.push(title.clone());
        }
    }
    titles
}

/// A line that has nothing but the stamp of the line above.
fn is_stamp(line: &str) -> bool {
    line.trim_start()
        .strip_prefix('+')
        .and_then(|stamp| stamp.strip_suffix('s'))
        .is_some_and(|s| s.parse::<f64>().is_ok())
}

/// The sheet with each block of output replaced by what this run printed under the same title.
fn with_output(sheet: &str, stdout: &str, wanted: &[String]) -> String {
    let (played, board) = stdout.split_once("\nscoreboard\n").expect("a scoreboard");
    let counts = board.lines().position(|line| line.contains(" SKIPPED, ")).expect("the counts");
    let board = board.lines().take(counts + 1).collect::<Vec<_>>().join("\n");
    let kept = |block: &str| block.trim_end().lines().filter(|line| !is_stamp(line)).collect::<Vec<_>>().join("\n");
    let blocks: Vec<String> = played.split("\n\n").map(kept).collect();
    let mut parts = sheet.split("```text\n");
    let mut updated = parts.next().unwrap().to_string();
    for part in parts {
        let (old, after) = part.split_once("```").expect("an end of the output");
        let title = old.lines().next().unwrap_or_default();
        let found = blocks.iter().find(|block| block.lines().next() == Some(title));
        let new = match title {
            "scoreboard" => format!("scoreboard\n{board}\n"),
            _ => found.map_or_else(|| old.to_string(), |block| format!("{block}\n")),
        };
        if title == "scoreboard" {
            let missing = |block: &&String| {
                let title = block.lines().next().unwrap_or_default();
                wanted.iter().any(|wanted| wanted == title) && !sheet.contains(&format!("```text\n{title}\n"))
            };
            blocks.iter().filter(missing).for_each(|block| updated += &format!("```text\n{block}\n```\n\n"));
        }
        updated += &format!("```text\n{new}```{after}");
    }
    updated
}

/// Ports, descriptors, process ids and times differ from run to run; and on a busy machine any line may carry a stamp.
fn without_digits(line: &str) -> String {
    let is_stamp = |word: &str| word.strip_suffix('s').is_some_and(|seconds| seconds.parse::<f64>().is_ok());
    let text = line.rsplit_once(" +").filter(|(_, word)| is_stamp(word)).map_or(line, |(text, _)| text);
    let mut plain = String::new();
    let mut hexadecimal = false;
    for character in text.trim_end().chars() {
        hexadecimal = plain.ends_with('#') && (character == 'x' || hexadecimal && character.is_ascii_hexdigit());
        if hexadecimal {
            continue; // of 0x91a8 the digits are as free as those of a decimal number
        }
        let shown = if character.is_ascii_digit() { '#' } else { character };
        // The bars of a timeline are made of these; how long they are differs from run to run, too.
        if !("#_.-=".contains(shown) && plain.ends_with(shown)) {
            plain.push(shown);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::{assert_quoted_lines_are_in, without_digits};

    #[test]
    fn where_a_line_is_broken_makes_no_difference() {
        let printed = "server    recv(5, 1024) = 12\n          bytes  +0.12s\nkernel    one\n";
        assert_eq!(assert_quoted_lines_are_in(printed, "```text\nserver    recv(5, 8) = 1 bytes\n```"), 1);
    }

    #[test]
    #[should_panic(expected = "a quoted line that no run prints")]
    fn a_line_that_was_not_printed_is_found() {
        assert_quoted_lines_are_in("server    one\n          two\n", "```text\nserver    one\n          three\n```");
    }

    #[test]
    fn a_stamp_and_the_digits_make_no_difference_and_all_else_does() {
        assert_eq!(without_digits("client    recv(5, 8) = 0  +1.03s"), without_digits("client    recv(6, 8) = 0"));
        assert_eq!(without_digits("port 37288 = 0x91a8, 4"), without_digits("port 5 = 0x1234, 44"));
        assert_ne!(without_digits("client    recv(5, 8) = 0"), without_digits("client    recv(5, 8) = -1 EAGAIN"));
        assert_eq!(without_digits("Thread-2  __---===|"), without_digits("Thread-3  _-----==|"));
        assert_ne!(without_digits("Thread-2  __---===|"), without_digits("Thread-3  __...---===|"));
    }
}
