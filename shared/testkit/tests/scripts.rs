//! The scripts that serve all labs: lecture.sh, votes.sh, classroom.sh, new-lab.sh, check.sh, verify-lecture.sh; and what states.sh,
//! backlog.sh, timewait.sh and fds.sh do for every program. The other tests of scripts stand in lab05 and lab07.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::Write,
    net::{TcpListener, TcpStream, UdpSocket},
    path::PathBuf,
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use kernel::{Pair, State, wait_for_state};
use nix::{
    fcntl::{Flock, FlockArg},
    libc::linger,
    sys::socket::{setsockopt, sockopt::Linger},
};
use testkit::{
    Role, TempDir, Terminal, built, have, interrupt, labs, path_with, root, run, signal, skip_without, wait_until,
};

const LIMIT: Duration = Duration::from_secs(20);

fn script(name: &str) -> Command {
    let mut command = Command::new(root().join("scripts").join(name));
    command.env_remove("TMUX").env_remove("CI");
    command
}

/// As it is typed in the checkout, with the labs' programs that are built.
fn with_programs(name: &str, args: &[&str]) -> Command {
    let mut command = script(name);
    command.args(args).arg("--bin").arg(built());
    command
}

/// Runs a command that reads these lines.
fn typed(command: &mut Command, lines: &str) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(lines.as_bytes()); // EPIPE where it stops reading earlier
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn lecture_lists_its_experiments_and_their_minutes() {
    let listed = run(&mut with_programs("lecture.sh", &["06/1,3", "09/half-close", "--list"]));
    assert_eq!(listed.code(), 0, "{listed:?}");
    let lines: Vec<&str> = listed.stdout.lines().collect();
    assert!(lines[0].starts_with("3 experiments, ") && lines[0].ends_with(" minutes"), "{listed:?}");
    let minutes = |line: &str| line.split_whitespace().nth(4).unwrap().parse::<u32>().unwrap();
    let total: u32 = lines[1..].iter().map(|line| minutes(line)).sum();
    assert_eq!(lines[0], format!("3 experiments, {total} minutes"));
    for (line, lab, number) in [(lines[1], "lab06-listen", "1"), (lines[3], "lab09-shutdown", "1")] {
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!((words[1], words[2]), (lab, number), "{line}");
    }
    for wrong in ["06/no-such", "6/1;2", "77", "06/"] {
        let refused = run(&mut with_programs("lecture.sh", &[wrong]));
        assert_ne!(refused.code(), 0, "{wrong}: {refused:?}");
        assert_ne!(refused.stderr, "", "{wrong}");
    }
}

#[test]
fn lecture_keeps_one_score_over_labs_and_goes_on_where_it_was_left() {
    let folder = TempDir::new();
    let record = folder.path().join("record");
    let lecture = |more: &[&str]| {
        let mut command = with_programs("lecture.sh", &["07/2,3", "09/1", "--record", record.to_str().unwrap()]);
        command.args(more);
        command
    };
    // Begin; the first question and its verdict; quit at the second question; quit the lecture.
    let left = typed(&mut lecture(&[]), "\n\n\nq\nq\n");
    let stdout = text(&left.stdout);
    assert_eq!(left.status.code(), Some(0), "{stdout}{}", text(&left.stderr));
    assert!(stdout.contains("so far    1 of 3 experiments, "), "{stdout}");
    let again = stdout.lines().last().unwrap();
    assert!(again.starts_with("go on:    scripts/lecture.sh 07/2,3 09/1 --bin "), "{again}");
    assert!(again.contains(" --from 2 --record "), "{again}");

    let went_on = typed(&mut lecture(&["--from", "2"]), "\n\n\n\n\n\n");
    let stdout = text(&went_on.stdout);
    assert_eq!(went_on.status.code(), Some(0), "{stdout}{}", text(&went_on.stderr));
    assert!(stdout.contains("so far    2 of 3 experiments, "), "{stdout}");
    assert!(stdout.contains("next      3: lab09-shutdown 1, "), "{stdout}");
    assert!(
        stdout.contains("so far    3 of 3 experiments, ") && stdout.ends_with("that was the lecture\n"),
        "{stdout}"
    );
    // Three verdicts, the first one from the run before.
    let verdicts = stdout.lines().rfind(|line| line.starts_with("verdicts  ")).unwrap();
    let count: u32 = verdicts.split_whitespace().filter_map(|word| word.parse::<u32>().ok()).sum();
    assert_eq!(count, 3, "{verdicts}");

    // A record without the first experiment: the score counts only what was played.
    let other = folder.path().join("an other record");
    let other = other.to_str().unwrap();
    let from_2 = || with_programs("lecture.sh", &["07/2,3", "09/1", "--from", "2", "--record", other]);
    let listed = run(from_2().arg("--list"));
    let lines: Vec<&str> = listed.stdout.lines().collect();
    assert!(listed.code() == 0 && lines.len() == 3 && lines[0].starts_with("2 of 3 experiments, "), "{listed:?}");
    assert!(lines[1].starts_with("  2  lab07") && lines[1].ends_with("begins after   0"), "{listed:?}");
    let alone = typed(&mut from_2(), "\n\n\nq\n");
    let stdout = text(&alone.stdout);
    assert!(stdout.contains("so far    1 of 3 experiments, "), "{stdout}");
    assert!(stdout.contains("verdicts  1 ANSWERED, 1 not played here\n"), "{stdout}");
    // What goes on is a shell's command, and plays what was left.
    let again = stdout.lines().last().unwrap().strip_prefix("go on:    ").unwrap();
    assert!(again.contains(" --bin ") && again.ends_with(&format!(" --from 3 --record '{other}'")), "{again}");
    let went_on = typed(Command::new("bash").args(["-c", again]).current_dir(root()), "\n\n\n");
    let stdout = text(&went_on.stdout);
    assert!(went_on.status.success() && stdout.contains("so far    2 of 3 experiments, "), "{stdout}");

    // An experiment that is played again counts once, and the next one follows.
    let twice = typed(&mut with_programs("lecture.sh", &["09/1,2"]), "\n\nr\n\n\n\n\n");
    let twice = String::from_utf8(twice.stdout).unwrap();
    assert_eq!(twice.matches("\n1 * half-close\n").count(), 2, "{twice}");
    assert!(twice.contains("\n2 * shut-rd\n") && twice.contains("so far    2 of 2 experiments, "), "{twice}");
    let at_its_end = typed(&mut lecture(&[]), "\n");
    assert_eq!(at_its_end.status.code(), Some(2), "no input for a pause: {}", text(&at_its_end.stdout));
    assert!(text(&at_its_end.stdout).contains("go on:    "), "{}", text(&at_its_end.stdout));
}

#[test]
fn lecture_that_is_left_after_an_unexpected_verdict_exits_with_1() {
    let folder = TempDir::new();
    let lab = folder.path().join("lab06-listen");
    let fake = r#"
case "$*" in *--list*) printf '1 * one  5 min\n2 * two  5 min\n'; exit ;; esac
while [ "$1" != --record ]; do shift; done
echo '{"lab": "lab06-listen", "experiment": "one", "given": null, "seen": 1, "verdict": "UNEXPECTED", "kernel": ""}' >>"$2"
exit 1"#;
    let written = folder.path().join("written");
    fs::write(&written, format!("#!/bin/sh{fake}\n")).unwrap();
    // A copy by another process: a child of another test may still have the file written here open (ETXTBSY).
    assert!(Command::new("install").args(["-m", "755"]).arg(&written).arg(&lab).status().unwrap().success());
    let mut lecture = script("lecture.sh");
    lecture.args(["06", "--bin"]).arg(folder.path()).arg("--record").arg(folder.path().join("record"));
    let left = typed(&mut lecture, "\nq\n");
    let stdout = text(&left.stdout);
    assert_eq!(left.status.code(), Some(1), "{stdout}{}", text(&left.stderr));
    assert!(stdout.contains("verdicts  1 UNEXPECTED\n") && stdout.contains("go on:    "), "{stdout}");
}

const VOTES: &str = "lab,experiment,question,letter,answer,round,votes,right\n\
    lab09-shutdown,half-close,\"What, now?\",a,all of it,1,30,yes\n\
    lab09-shutdown,half-close,\"What, now?\",b,\"one \"\"buffer\"\", full\",1,10,no\n\
    lab09-shutdown,half-close,\"What, now?\",a,all of it,2,38,yes\n\
    lab09-shutdown,half-close,\"What, now?\",b,\"one \"\"buffer\"\", full\",2,2,no\n\
    lab09-shutdown,shut-rd,What?,a,nothing,1,9,\n";
const RECORD: &str = r#"{"lab": "lab03-datagram", "experiment": "rest-is-gone", "given": "the \\ and \"rest\"", "seen": "the next", "verdict": "CORRECTED", "kernel": "6.18", "time": 1}
{"lab": "lab03-datagram", "experiment": "rest-is-gone", "given": "the next", "seen": "the next", "verdict": "CORRECTED", "kernel": "6.18", "time": 2}
{"lab": "lab03-datagram", "experiment": "largest", "given": null, "seen": null, "verdict": "not played", "kernel": "6.18", "time": 3}
{"lab": "lab09-shutdown", "experiment": "half-close", "given": "one \"buffer\", full", "seen": "all of it", "verdict": "CONFIRMED", "kernel": "6.18", "time": 4}
"#;

#[test]
fn votes_shows_what_was_believed_most_wrong_first_over_classes_and_students() {
    let folder = TempDir::new();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let (class, student) = (file("a=b.csv", VOTES), file("student.json", RECORD));
    let told = run(script("votes.sh").args([&class, &student]));
    let expected = [
        "wrong  after  answers  experiment",
        "100 %      -        1  lab03-datagram rest-is-gone",
        "                    1         the \\ and \"rest\"",
        "                right         the next",
        " 27 %    5 %       41  lab09-shutdown half-close",
        "                   11 > 2     one \"buffer\", full",
        "                right         all of it",
    ];
    assert_eq!(told.stdout.lines().collect::<Vec<_>>(), expected, "{told:?}");
    assert_eq!((told.code(), told.stderr.as_str()), (0, ""));

    // Handed in by strangers: control characters, half lines, lines of something else.
    let odd = [
        "\u{1b}]0;x\u{7}\n{\"lab\": 5}\nlab09-shutdown,half-close,What?,a,x,1,-5,yes\n\"\n\"a,b\n",
        "{\"lab\": \"lab09-shutdown\", \"experiment\": \"x\", \"given\": \"\u{1b}[2J\", \"seen\": \"y\", \"verdict\": \"ANSWERED\"}\r\n",
    ];
    let odd = run(script("votes.sh").arg(file("odd", &odd.concat())));
    assert_eq!((odd.code(), odd.stderr.as_str()), (1, "5 lines are neither votes nor predictions\n"));
    assert!(odd.stdout.contains("1         ?[2J\n") && !odd.stdout.contains('\u{1b}'), "{odd:?}");
    assert_eq!(run(script("votes.sh").arg(file("none", ""))).stdout.lines().count(), 1);
    assert_eq!(run(script("votes.sh").arg("/no/such")).code(), 1);
    assert_eq!(run(&mut script("votes.sh")).code(), 2);
}

#[test]
fn votes_reads_what_every_lab_records() {
    let (programs, folder) = (built(), TempDir::new());
    let record = |lab: &String| {
        let path = folder.path().join(lab);
        let mut demo = Command::new(programs.join(lab));
        let mut screen = Terminal::start(demo.args(["demo", "1", "--predict", "--record"]).arg(&path), 80, 40);
        let missing =
            || run(Command::new(programs.join(lab)).args(["demo", "1", "--list"])).stdout.contains("missing here");
        if skip_without(missing(), &format!("what {lab} 1 needs"), "scripts/check.sh") {
            return None;
        }
        screen.wait_for("then Enter (s skip, q quit)");
        screen.type_text("a\n");
        // What is too long for the screen waits once more before the verdict.
        while !screen.wait_for("? keys) ").contains("r again") {
            screen.type_text("\n");
        }
        screen.type_text("\n");
        screen.end();
        Some(path)
    };
    let labs = labs();
    let records: Vec<PathBuf> = thread::scope(|scope| {
        let halves: Vec<_> = labs.chunks(labs.len().div_ceil(2)).collect();
        let halves: Vec<_> = halves
            .into_iter()
            .map(|half| scope.spawn(move || half.iter().filter_map(record).collect::<Vec<_>>()))
            .collect();
        halves.into_iter().flat_map(|half| half.join().unwrap()).collect()
    });
    let told = run(script("votes.sh").arg("--all").args(&records));
    let questions = told.stdout.lines().filter(|line| line.contains("        1  lab")).count();
    assert_eq!((told.code(), questions), (0, records.len()), "{told:?}");
}

/// A tmux server of its own, which ends with its owner.
struct Classroom {
    folder: TempDir,
}

impl Classroom {
    fn new() -> Classroom {
        Classroom { folder: TempDir::new() }
    }

    fn script(&self, args: &[&str]) -> testkit::Finished {
        let mut command = script("classroom.sh");
        command.env("TMUX_TMPDIR", self.folder.path()).env("TMPDIR", self.folder.path()); // for what lab20 fetches
        run(command.args(args))
    }

    fn tmux(&self, args: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.env_remove("TMUX").env("TMUX_TMPDIR", self.folder.path()).args(["-L", "labkit"]).args(args);
        run(&mut command).stdout
    }

    /// The number, the width and the title of each pane.
    fn panes(&self) -> Vec<(String, usize, String)> {
        let listed = self.tmux(&["list-panes", "-s", "-F", "#{pane_id} #{pane_width} #{pane_title}"]);
        let fields = listed.lines().map(|line| line.splitn(3, ' ').collect::<Vec<_>>());
        fields.map(|fields| (fields[0].into(), fields[1].parse().unwrap(), fields[2].into())).collect()
    }

    fn shown(&self, pane: &str) -> String {
        self.tmux(&["capture-pane", "-p", "-t", pane])
    }

    /// Waits until one pane shows this.
    fn wait_for(&self, wanted: &str) {
        let seen = wait_until(wanted, LIMIT, || {
            Ok(self.panes().iter().any(|(pane, ..)| self.shown(pane).contains(wanted)).then_some(()))
        });
        let all = || self.panes().iter().map(|(pane, ..)| self.shown(pane)).collect::<Vec<_>>().join("----\n");
        assert!(seen.is_ok(), "no '{wanted}' in\n{}", all());
    }

    fn assert_nothing_is_wrapped(&self, what: &str) {
        for (pane, width, title) in self.panes() {
            // -J joins the parts of a wrapped line again.
            for line in self.tmux(&["capture-pane", "-p", "-J", "-t", &pane]).lines().map(str::trim_end) {
                assert!(line.chars().count() <= width, "{what}, {title}: wrapped at {width}: {line}");
            }
        }
    }
}

impl Drop for Classroom {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

/// A port with four digits, as the classrooms have, that neither TCP nor UDP uses, nor the one after it.
fn free_port(from: u16) -> u16 {
    let free =
        |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok() && UdpSocket::bind(("127.0.0.1", port)).is_ok();
    (from..from + 200).find(|port| free(*port) && free(*port + 1)).unwrap()
}

#[test]
fn classroom_sets_out_every_lab_without_a_wrapped_line() {
    if skip_without(!have("tmux"), "tmux", "apt-get install tmux") {
        return;
    }
    let bin = built();
    let request = "1:".len() as u64 + fs::metadata(root().join("README.md")).unwrap().len();
    let published = format!("whole: {request} bytes");
    // What a pane of each lab shows once all programs run.
    let rooms = [
        ("00", "ESTABLISHED"),
        ("01", "in no table"),
        ("02", "127.0.0.2:"),
        ("03", "Received message from"),
        ("04", "Total length"),
        ("05", "239.1.1.1"),
        ("06", "SYN-SENT"),
        ("07", "ESTAB"),
        ("08", "Total length"),
        ("09", "CLOSE-WAIT"),
        ("10", "TIME-WAIT"),
        ("11", "CLOSING"),
        ("12", "ESTAB"),
        ("13", "ESTAB"),
        ("14", "ESTAB"),
        ("15", "  Hello\n"),
        ("16", published.as_str()),
        ("17", "TIME-WAIT"),
        ("18", "User-3"),
        ("19", "SYN-SENT"),
        ("20", "Terminating, total time"), // its progress bars are as wide as the pane
        ("21", " first"),
        ("22", "as bob; new messages"),
        ("23", "ESTAB"),
        ("24", "slow: waits for Enter"),
        ("25", "ESTAB"),
        ("26", "239.26.26.26"),
        ("27", "ESTAB"),
    ];
    thread::scope(|scope| {
        for (worker, rooms) in rooms.chunks(4).enumerate() {
            let bin = bin.to_str().unwrap();
            scope.spawn(move || {
                let classroom = Classroom::new();
                for (number, wanted) in rooms {
                    if *number == "18" && skip_without(!have("watch"), "watch", "apt-get install procps") {
                        continue;
                    }
                    if *number == "00" && skip_without(!have("nc"), "nc", "apt-get install netcat-openbsd") {
                        continue;
                    }
                    let port = free_port(5000 + 200 * u16::try_from(worker).unwrap()).to_string();
                    let set_out = classroom.script(&[number, "--detach", "--port", &port, "--bin", bin]);
                    assert_eq!(set_out.code(), 0, "{number}: {set_out:?}");
                    classroom.wait_for(wanted);
                    classroom.assert_nothing_is_wrapped(number);
                    let ended = classroom.script(&[number, "--end"]);
                    assert!(ended.code() == 0 && ended.stdout.starts_with("ended lab"), "{number}: {ended:?}");
                }
            });
        }
    });
    let has_a_room = |lab: &String| rooms.iter().any(|(number, _)| lab[3..].starts_with(number));
    assert!(labs().iter().filter(|lab| lab.as_str() < "lab24").all(has_a_room));
    let script = fs::read_to_string(root().join("scripts/classroom.sh")).unwrap();
    let set_out = script.lines().filter(|line| line.starts_with("lab") && line.contains('|'));
    let unseen: Vec<_> = set_out.map(String::from).filter(|line| !has_a_room(line)).collect();
    assert!(unseen.is_empty(), "this test does not look at {unseen:?}");
}

#[test]
fn classroom_shows_the_sockets_of_the_demo_beside_it_and_of_the_next_experiment() {
    if skip_without(!have("tmux"), "tmux", "apt-get install tmux") {
        return;
    }
    let classroom = Classroom::new();
    let set_out = classroom.script(&["09", "--detach", "--demo", "--bin", built().to_str().unwrap()]);
    assert_eq!(set_out.code(), 0, "{set_out:?}");
    let (demo, watcher) = (classroom.panes()[0].0.clone(), classroom.panes()[1].0.clone());
    for experiment in ["half-close", "shut-rd"] {
        classroom.wait_for(experiment);
        // The last port in the line `look` is the connection's; the watcher shows the same one.
        let port = wait_until("the ports of the demo beside it", LIMIT, || {
            let shown = classroom.shown(&demo);
            let look = shown.lines().rfind(|line| line.starts_with("look "));
            let port =
                look.and_then(|line| line.rsplit(':').next()).map(|port| port.trim_matches(['\'', ' ']).to_string());
            Ok(port
                .filter(|port| shown.contains(experiment) && classroom.shown(&watcher).contains(&format!(":{port}"))))
        });
        assert!(port.is_ok(), "{}{}", classroom.shown(&demo), classroom.shown(&watcher));
        classroom.wait_for("[Enter] let the kernel decide");
        classroom.assert_nothing_is_wrapped("09 --demo");
        classroom.tmux(&["send-keys", "-t", &demo, "g"]); // a program's Enter: no double press
        // What is too long for the pane waits once more before the verdict.
        let waits = wait_until("the end of the experiment", LIMIT, || {
            let shown = classroom.shown(&demo);
            let over = shown.contains("r again, q quit").then_some(false);
            Ok(over.or(shown.contains("the verdict   (? keys)").then_some(true)))
        });
        if waits.unwrap() {
            classroom.tmux(&["send-keys", "-t", &demo, "g"]);
            classroom.wait_for("r again, q quit");
        }
        classroom.tmux(&["send-keys", "-t", &demo, "g"]);
    }
}

#[test]
fn classroom_with_scope_gives_the_lower_half_to_the_live_board() {
    if skip_without(!have("tmux"), "tmux", "apt-get install tmux") {
        return;
    }
    let classroom = Classroom::new();
    let bin = built();
    let rooms = [("03", "UDP 2"), ("07", "[ESTABLISHED      6]"), ("10", " ends in "), ("17", " ends in ")];
    for (number, wanted) in rooms {
        let port = free_port(5920).to_string();
        let scope = [number, "--scope", "--detach", "--port", &port, "--bin", bin.to_str().unwrap()];
        let set_out = classroom.script(&scope);
        assert_eq!(set_out.code(), 0, "{number}: {set_out:?}");
        classroom.wait_for(wanted);
        classroom.assert_nothing_is_wrapped(number);
        assert_eq!(classroom.script(&[number, "--end"]).code(), 0, "{number}");
    }
    for (wrong, code) in [(&["01", "--scope"][..], 1), (&["09", "--scope", "--demo"], 2)] {
        let refused = classroom.script(wrong);
        assert!(refused.code() == code && !refused.stderr.is_empty(), "{refused:?}");
    }
}

#[test]
fn classroom_with_step_types_the_commands_and_starts_nothing() {
    if skip_without(!have("tmux"), "tmux", "apt-get install tmux") {
        return;
    }
    let classroom = Classroom::new();
    let port = free_port(5900).to_string();
    let bin = built();
    let set_out = classroom.script(&["07", "--step", "--detach", "--port", &port, "--bin", bin.to_str().unwrap()]);
    assert_eq!(set_out.code(), 0, "{set_out:?}");
    classroom.wait_for(&format!("no table has a socket with port {port}"));
    let server = classroom.panes()[0].0.clone();
    assert!(classroom.shown(&server).contains(&format!("$ lab07-multiclient server {port}\n")));
    classroom.tmux(&["send-keys", "-t", &server, "Enter"]);
    classroom.wait_for("> Server bound to");
    classroom.wait_for("LISTEN");
    assert!(!classroom.panes().iter().any(|(pane, ..)| classroom.shown(pane).contains("> Connected")));
    assert!(classroom.tmux(&["show-options", "-v", "status-right"]).contains("end: scripts/classroom.sh 07 --end"));
}

#[test]
fn classroom_with_step_asks_before_a_second_enter_ends_a_program() {
    if skip_without(!have("tmux"), "tmux", "apt-get install tmux") {
        return;
    }
    let classroom = Classroom::new();
    let port = free_port(5950).to_string();
    let bin = built();
    let set_out = classroom.script(&["06", "--step", "--detach", "--port", &port, "--bin", bin.to_str().unwrap()]);
    assert_eq!(set_out.code(), 0, "{set_out:?}");
    let mut attach = Command::new("tmux");
    attach.env_remove("TMUX").env("TMUX_TMPDIR", classroom.folder.path()).args(["-L", "labkit", "attach-session"]);
    let mut screen = Terminal::start(&mut attach, 100, 30);
    screen.wait_for("$ lab06-listen listen");
    screen.type_text("\r");
    classroom.wait_for("Press Enter to terminate ...");
    screen.type_text("\r");
    screen.wait_for("send it? (y/n)");
    screen.type_text("\r"); // no y
    screen.wait_for("end: scripts/classroom.sh");
    classroom.wait_for("LISTEN");
    screen.type_text("\r");
    screen.wait_for("send it? (y/n)");
    screen.type_text("y");
    classroom.wait_for("Terminating ...");
}

#[test]
fn classroom_says_what_a_terminal_lacks() {
    if skip_without(!have("tmux"), "tmux", "apt-get install tmux") {
        return;
    }
    // A terminal of 80x24: a tmux of its own.
    let outer = Classroom::new();
    let command = format!(
        "env -u TMUX TMUX_TMPDIR={} {} 07 --bin {}; cat",
        outer.folder.path().display(),
        root().join("scripts/classroom.sh").display(),
        built().display()
    );
    outer.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", &command]);
    outer.wait_for("needs 100x30");
}

/// A checkout with the files of this one, at a place that stays, so that cargo need not build its dependencies each time.
fn copy_of_the_kit() -> (Flock<fs::File>, PathBuf) {
    let kit = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("kit");
    fs::create_dir_all(&kit).unwrap();
    let lock = fs::File::create(kit.with_extension("lock")).unwrap();
    let lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno).unwrap();
    for folder in ["labs", "scripts", "shared", ".cargo"] {
        let _ = fs::remove_dir_all(kit.join(folder)); // it is not there yet
    }
    let names =
        ["Cargo.toml", "Cargo.lock", "README.md", "NOTES.md", ".rustfmt.toml", "labs", "scripts", "shared", ".cargo"];
    let copied = run(Command::new("cp").arg("-rp").args(names.map(|name| root().join(name))).arg(&kit));
    assert_eq!(copied.code(), 0, "{copied:?}");
    // Another version, so that cargo does not take this checkout's crates for the copy's.
    let manifest = kit.join("Cargo.toml");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(manifest, text.replacen("version = \"0.1.0\"", "version = \"0.1.1\"", 1)).unwrap();
    (lock, kit)
}

#[test]
fn new_lab_makes_a_lab_that_plays_and_passes_at_once() {
    let (_lock, kit) = copy_of_the_kit();
    let new_lab = |args: &[&str]| run(Command::new(kit.join("scripts/new-lab.sh")).args(args));
    let made = new_lab(&["98", "trial"]);
    assert_eq!(made.code(), 0, "{made:?}");
    for (args, code) in [(&["98", "again"][..], 1), (&["7", "mine"], 1), (&["x", "mine"], 2), (&["97", "A B"], 2)] {
        assert_eq!(new_lab(args).code(), code, "{args:?}");
    }
    let order = |file: &str, prefix: &str| {
        let text = fs::read_to_string(kit.join(file)).unwrap();
        let rows: Vec<_> = text.lines().filter(|line| line.starts_with(prefix)).map(String::from).collect();
        assert!(rows.is_sorted() && rows.iter().any(|row| row.contains("lab98-trial")), "{file}: {rows:?}");
    };
    order("README.md", "| [lab");
    order("NOTES.md", "- [lab");
    order(".cargo/config.toml", "lab");

    let target = built().parent().unwrap().to_path_buf();
    let cargo = |args: &[&str]| {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        let output = command.current_dir(&kit).env("CARGO_TARGET_DIR", &target).args(args).output().unwrap();
        assert!(output.status.success(), "cargo {args:?}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    };
    let played = cargo(&["lab98"]);
    assert!(played.contains("verdict   CORRECTED") && played.contains(" 0 UNEXPECTED"), "{played}");
    cargo(&["test", "--quiet", "--package", "lab98-trial"]);
    cargo(&["test", "--quiet", "--package", "testkit", "--test", "kit"]);
    if !skip_without(!have("rustfmt"), "rustfmt", "rustup component add rustfmt") {
        cargo(&["fmt", "--package", "lab98-trial", "--check"]);
    }
}

#[test]
fn check_says_once_that_nothing_is_built_and_what_the_lecture_needs() {
    let folder = TempDir::new();
    let checked = run(script("check.sh").arg("--bin").arg(folder.path()));
    assert_eq!(checked.stdout.matches("built").count(), 1, "{}", checked.stdout);
    for wanted in ["loopback       ok", "ports ", "terminal ", "net.ipv4.tcp_rmem "] {
        assert!(checked.stdout.contains(wanted), "no {wanted}:\n{}", checked.stdout);
    }
    assert!(checked.stdout.lines().all(|line| line.len() < 100), "{}", checked.stdout);
}

#[test]
fn check_says_what_a_machine_with_other_settings_skips() {
    let alone = run(Command::new("unshare").args(["-Urn", "true"]));
    if skip_without(alone.code() != 0, "private networks", "scripts/check.sh says what forbids them") {
        return;
    }
    let check = root().join("scripts/check.sh");
    let checked = |setting: &str| {
        let command = format!("{setting}; exec '{}' 7 --bin '{}'", check.display(), built().display());
        run(Command::new("unshare").args(["-Urn", "bash", "-c", &command]))
    };
    let down = checked(":");
    assert_eq!(down.code(), 1, "{}", down.stdout);
    assert!(down.stdout.contains("loopback       missing"), "{}", down.stdout);
    let no_ports = checked("ip link set lo up; echo 1-65535 >/proc/sys/net/ipv4/ip_local_reserved_ports");
    if !skip_without(!have("ip"), "ip", "apt-get install iproute2") {
        assert_eq!(no_ports.code(), 0, "{no_ports:?}");
        assert!(no_ports.stdout.contains("ip_local_reserved_ports=''"), "{}", no_ports.stdout);
    }
}

#[test]
fn verify_lecture_plays_one_lab_by_any_of_its_names() {
    for name in ["7", "07", "lab07", "lab07-multiclient"] {
        let verified = run(&mut with_programs("verify-lecture.sh", &[name]));
        assert_eq!(verified.code(), 0, "{name}: {verified:?}");
        let rows: Vec<&str> = verified.stdout.lines().filter(|line| line.starts_with("lab")).collect();
        assert!(rows.len() == 2 && rows[1].starts_with("lab07-multiclient "), "{name}: {}", verified.stdout);
    }
}

#[test]
fn states_and_fds_follow_a_program_by_its_process_id() {
    let mut shell =
        Role::spawn(Command::new("bash").args(["-c", "env -u LAB_PARENT timeout 60 \"$@\"; :", "bash"]).args([
            built().join("lab09-shutdown").to_str().unwrap(),
            "server",
            "127.0.0.1:0",
        ]))
        .unwrap();
    let line = shell.line_with(" is in listening state").unwrap();
    let addr = line.split_whitespace().nth(1).unwrap().to_string();
    let pid = shell.pid().to_string();
    let client = TcpStream::connect(&addr).unwrap();
    shell.wait_for("New client connected").unwrap();
    let shown = run(script("states.sh").args(["--below", &pid]));
    assert_eq!(shown.code(), 0, "{shown:?}");
    assert!(shown.stdout.starts_with("lab09-shutdown/"), "{}", shown.stdout);
    for wanted in [format!("{addr} "), client.local_addr().unwrap().to_string()] {
        assert!(shown.stdout.contains(&wanted), "no {wanted}:\n{}", shown.stdout);
    }
    let shown = run(script("fds.sh").args(["--below", &pid]));
    assert!(shown.code() == 0 && shown.stdout.contains("\nlab09-shutdown, process "), "{shown:?}");
    assert!(shown.stdout.contains(&addr), "{}", shown.stdout);
    for script_name in ["states.sh", "fds.sh"] {
        assert_eq!(run(script(script_name).args(["--below", "x"])).code(), 2);
    }
    let nobody = run(script("states.sh").args(["--below", "4194305"])); // above the highest process id
    assert!(nobody.code() == 0 && nobody.stdout.starts_with("no process has a socket\n"), "{nobody:?}");
    // The server ends first; the shell follows.
    let server = shown.stdout.split("lab09-shutdown, process ").nth(1).unwrap().split_whitespace().next().unwrap();
    run(Command::new("kill").args(["-INT", server]));
    shell.wait_for_end().unwrap();
}

#[test]
fn backlog_counts_from_the_start_of_the_watch_and_timewait_explains_itself() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let mut watching = Role::spawn(script("backlog.sh").args([&port, "--watch"])).unwrap();
    let counters = watching.line_with("overflows ").unwrap();
    assert!(counters.contains(" (+") && counters.contains("drops "), "{counters}");
    watching.wait_for("added since this began").unwrap();
    interrupt(&mut watching);
    let once = run(script("backlog.sh").arg(&port));
    assert!(once.stdout.contains("overflows ") && !once.stdout.contains("(+"), "{}", once.stdout);
    testkit::one_processor();
    drop(TcpStream::connect(listener.local_addr().unwrap()).unwrap()); // closes first
    drop(listener.accept().unwrap());
    let timewait = wait_until("a TIME-WAIT", LIMIT, || {
        let shown = run(script("timewait.sh").arg(&port));
        Ok(shown.stdout.contains("elsewhere  left").then_some(shown))
    });
    let timewait = timewait.unwrap();
    for wanted in ["left:", "holds:", "elsewhere:"] {
        assert!(timewait.stdout.contains(&format!("\n{wanted}")), "{}", timewait.stdout);
    }
    assert!(timewait.stdout.lines().all(|line| line.len() < 80), "{}", timewait.stdout);
}

#[test]
fn of_many_rows_of_one_state_twenty_are_shown_and_the_others_are_counted() {
    const MANY: usize = 27;
    testkit::one_processor();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    for _ in 0..MANY {
        drop(TcpStream::connect(listener.local_addr().unwrap()).unwrap()); // closes first
        drop(listener.accept().unwrap());
    }
    let here = [TcpStream::connect(listener.local_addr().unwrap()).unwrap()];
    for tools in [&["ss"][..], &["netstat"], &[]] {
        if skip_without(!tools.iter().all(|tool| have(tool)), "ss and netstat", "apt-get install iproute2 net-tools") {
            continue;
        }
        let folder = TempDir::new();
        let path = path_with(&folder, tools);
        let shown = |name: &str, args: &[&str]| {
            let shown = run(script(name).env("PATH", &path).arg(&port).args(args));
            assert_eq!(shown.code(), 0, "{name} {args:?} {tools:?}: {shown:?}");
            let count = shown.stdout.lines().filter(|line| line.starts_with("TIME-WAIT ")).count();
            (count, shown.stdout)
        };
        // Connections of others may have had the same port number.
        let more = |text: &str| {
            let line = text.lines().find(|line| line.starts_with("... and "));
            line.map_or(0, |line| line.split_whitespace().nth(2).unwrap().parse().unwrap())
        };
        let (rows, text) = shown("states.sh", &[]);
        assert!(rows == 20 && more(&text) >= MANY - 20 && text.contains("more in TIME-WAIT\n"), "{tools:?}:\n{text}");
        assert!(text.contains("\nLISTEN ") && text.matches("\nESTABLISHED ").count() >= 2, "{tools:?}:\n{text}");
        assert!(text.contains(&format!("{} ", here[0].local_addr().unwrap())) && text.contains("--all"), "{text}");
        let (rows, text) = shown("timewait.sh", &[]);
        assert!(rows == 20 && more(&text) >= MANY - 20, "{tools:?}:\n{text}");
        for name in ["states.sh", "timewait.sh"] {
            let (rows, text) = shown(name, &["--all"]);
            assert!(rows >= MANY && more(&text) == 0, "{name} --all {tools:?}:\n{text}");
        }
    }
}

#[test]
fn lifetimes_counts_connections_their_time_and_their_ends_with_any_source() {
    testkit::one_processor();
    for tools in [&["ss"][..], &["netstat"], &[]] {
        if skip_without(!tools.iter().all(|tool| have(tool)), "ss and netstat", "apt-get install iproute2 net-tools") {
            continue;
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let port = addr.port();
        let pair = || {
            let client = TcpStream::connect(addr).unwrap();
            (client, listener.accept().unwrap().0)
        };
        let (before, before_conn) = pair();
        let folder = TempDir::new();
        let mut watching = script("lifetimes.sh");
        watching.arg(port.to_string()).env("PATH", path_with(&folder, tools));
        let mut watching = Role::spawn(&mut watching).unwrap();
        watching.wait_for("every 0.2 s, until Ctrl-C\n").unwrap();
        let name = |client: &TcpStream| format!("{} > {addr}", client.local_addr().unwrap());
        watching.wait_for(&format!("before  {}\n", name(&before))).unwrap();
        // The client closes first, the server does, and nobody does: a reset.
        for how in ["other first".to_string(), format!("{port} first"), "no TIME-WAIT".into()] {
            let (client, conn) = pair();
            let client_name = name(&client);
            watching.wait_for(&format!("opened  {client_name}\n")).unwrap();
            let (first, second) = if how == "other first" { (client, conn) } else { (conn, client) };
            let first_end = Pair { local: first.local_addr().unwrap(), peer: first.peer_addr().unwrap() };
            if how == "no TIME-WAIT" {
                setsockopt(&first, Linger, &linger { l_onoff: 1, l_linger: 0 }).unwrap();
                drop(first);
            } else {
                drop(first);
                wait_for_state(first_end, Some(State::FinWait2), LIMIT).unwrap();
            }
            drop(second);
            let closed = watching.line_with(&format!("closed  {client_name}  after ")).unwrap();
            assert!(closed.trim_end().ends_with(&format!(" s  {how}")), "{tools:?}: {closed}");
        }
        drop((before, before_conn));
        watching.wait_for("after some time  ").unwrap();
        interrupt(&mut watching);
        let summary = watching.printed();
        assert!(summary.contains("opened   3 connections, 0 of them still open; before: 1\n"), "{tools:?}: {summary}");
        assert!(summary.lines().all(|line| line.len() < 80), "{summary}");
    }
    assert_eq!(run(script("lifetimes.sh").args(["8080", "--seconds", "x"])).code(), 2);
}

#[test]
fn every_watch_ends_with_a_signal() {
    let pid = std::process::id().to_string();
    for (name, args) in [("states.sh", ["--below", &pid, "--watch"]), ("fds.sh", ["--below", &pid, "--watch"])] {
        let mut watching = Role::spawn(script(name).args(args)).unwrap();
        watching.wait_for("\n\n").unwrap();
        signal(&watching, nix::sys::signal::Signal::SIGTERM);
        assert_eq!(watching.wait_for_end().unwrap().code(), Some(0), "{name}");
    }
}
