//! `run`: what it says of programs in other languages, of those that end badly, and of its own end.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use testkit::{Finished, RUN_LIMIT, Role, TempDir, as_ordinary_account, have, run, signal, skip_without, wait_until};

const LAB: &str = env!("CARGO_BIN_EXE_lab00-scope");
/// A server for one client, and its client.
const SERVER: &str = r#"
import socket
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("127.0.0.1", 4444)); s.listen(5); print("listening")
c, _ = s.accept()
c.recv(1024); c.send(b"and hello to you"); c.recv(1024); c.close(); s.close()
"#;
const CLIENT: &str = r#"
import socket
c = socket.socket(); c.connect(("127.0.0.1", 4444)); c.send(b"hello"); c.recv(1024)
c.shutdown(socket.SHUT_WR); c.recv(1); c.close()
"#;

/// A run, line by line, without times.
struct Seen {
    lines: Vec<String>,
    code: i32,
    all: String,
}

impl Seen {
    fn of(finished: Finished) -> Seen {
        let code = finished.code();
        let lines = finished.stdout.lines().map(|line| line.get(9..).unwrap_or_default().to_string()).collect();
        Seen { lines, code, all: format!("exit status {code}\n{}{}", finished.stdout, finished.stderr) }
    }

    /// The lines that begin with this.
    fn that_begin(&self, word: &str) -> Vec<&str> {
        self.lines.iter().filter(|line| line.starts_with(word)).map(String::as_str).collect()
    }

    /// Each of these stands behind the one before.
    fn assert_order(&self, texts: &[&str]) {
        let mut lines = self.lines.iter();
        for text in texts {
            assert!(lines.any(|line| line.contains(text)), "{text:?} is missing, or not in this order:\n{}", self.all);
        }
    }

    fn assert_has(&self, text: &str) {
        self.assert_order(&[text]);
    }

    /// What a call has sent, each segment as flags and length.
    fn sent_by(&self, call: &str) -> Vec<String> {
        let begins = |line: &&String| line.contains(call) && !line.contains("unfinished");
        let line = self.lines.iter().find(begins).unwrap_or_else(|| panic!("no {call}:\n{}", self.all));
        let number = line.split(" #").nth(1).unwrap().split(' ').next().unwrap();
        let cause = format!("(#{number})");
        let segments = self.that_begin("segment").into_iter().filter(|line| line.ends_with(&cause));
        segments
            .map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                let length = words.iter().find_map(|word| word.strip_prefix("len=")).unwrap();
                format!("{} {length}", words[4])
            })
            .collect()
    }
}

/// A python3 that is no script of a version manager, which every account may run.
fn python() -> Option<&'static str> {
    let missing = !Path::new("/usr/bin/python3").is_file();
    (!skip_without(missing, "python3", "apt-get install python3")).then_some("/usr/bin/python3")
}

fn scope(args: &[&str]) -> Seen {
    Seen::of(run(Command::new(LAB).args(["run", "--plain"]).args(args)))
}

/// No process with this word on its command line is left.
fn assert_nothing_left(word: &str) {
    let left = || {
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
        lines.filter(|line| String::from_utf8_lossy(line).contains(word)).count()
    };
    wait_until(&format!("the end of all {word}"), Duration::from_secs(10), || Ok((left() == 0).then_some(()))).unwrap();
}

fn assert_handshake_data_and_close(seen: &Seen) {
    assert_eq!(seen.code, 0, "{}", seen.all);
    seen.assert_order(&[
        "listen(3, 5) = 0",
        "-> LISTEN",
        "listening",
        "waits     ",
        "connect(3, ",
        "SYN seq=0 ack=0 ",
        "SYN+ACK seq=0 ack=1 ",
        "ACK seq=1 ack=1 ",
        "-> ESTABLISHED",
        "returned  ",
        "sendto(3, \"hello\"",
        "ACK seq=1 ack=1 win=65536 len=5",
        "ACK seq=1 ack=6 win=65536 len=0",
        "recvfrom(4, \"hello\"",
        "shutdown(3, SHUT_WR) = 0",
        "FIN+ACK seq=6 ack=17 ",
        "ESTABLISHED -> FIN-WAIT",
        "close(4) = 0",
        "FIN+ACK seq=17 ack=7 ",
        "ACK seq=7 ack=18 ",
        "CLOSE-WAIT -> CLOSED",
        "-> TIME-WAIT",
        "the kernel still keeps: TIME-WAIT ",
    ]);
    assert_eq!(seen.sent_by("connect(3, "), ["SYN 0", "SYN+ACK 0", "ACK 0"], "{}", seen.all);
    assert_eq!(seen.sent_by("sendto(3, \"hello\""), ["ACK 5", "ACK 0"], "{}", seen.all);
    assert_eq!(seen.sent_by("sendto(4, \"and hello"), ["ACK 16", "ACK 0"], "{}", seen.all);
    assert_eq!(seen.sent_by("shutdown(3, "), ["FIN+ACK 0"], "{}", seen.all);
    assert_eq!(seen.sent_by("close(4)"), ["FIN+ACK 0", "ACK 0"], "{}", seen.all);
}

#[test]
fn segments_and_states_come_with_the_call_that_caused_them() {
    let Some(python) = python() else { return };
    let commands = ["--settle", "--", python, "-c", SERVER, "--and", python, "-c", CLIENT];
    let seen = scope(&commands);
    assert_handshake_data_and_close(&seen);
    // The FIN's acknowledgement is delayed, as no data go the other way; --settle lets it come.
    seen.assert_order(&["shutdown(3, SHUT_WR)", "ACK seq=17 ack=7 win=65536 len=0  (a timer)", "-> FIN-WAIT-2"]);
}

#[test]
fn an_ordinary_account_sees_the_same_and_stays_ordinary() {
    let Some(python) = python() else { return };
    let folder = TempDir::new();
    let mut command = as_ordinary_account(LAB, &folder);
    let client = format!("import os; print('uid', os.getuid() > 0){CLIENT}");
    let seen =
        Seen::of(run(command.args(["run", "--plain", "--", python, "-c", SERVER, "--and", python, "-c", &client])));
    assert_handshake_data_and_close(&seen);
    seen.assert_has("private network");
    seen.assert_has("uid True");
}

/// Ports, pointers, process numbers and what depends on time, made equal.
fn normal(text: &str) -> String {
    if let Some((before, behind)) = text.split_once("nl_pid=").filter(|(_, behind)| !behind.starts_with('0')) {
        return format!("{before}nl_pid=N{}", behind.trim_start_matches(|digit: char| digit.is_ascii_digit()));
    }
    let mut normal = String::new();
    let mut digits = String::new();
    for character in text.chars().chain(['\0']) {
        if character.is_ascii_hexdigit() || !digits.is_empty() && character == 'x' {
            digits.push(character);
            continue;
        }
        let long = digits.len() > 4 || digits.starts_with("0x7");
        normal.push_str(if long && digits.starts_with(|digit: char| digit.is_ascii_digit()) { "N" } else { &digits });
        digits.clear();
        normal.push(character);
    }
    normal.trim_end_matches('\0').split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn calls_are_written_as_strace_writes_them() {
    let Some(python) = python() else { return };
    if skip_without(!have("strace"), "strace", "apt-get install strace") {
        return;
    }
    let program = include_str!("calls.py");
    let folder = TempDir::new();
    let log = folder.path().join("strace");
    let traced = run(Command::new("strace").arg("-o").arg(&log).args([python, "-c", program]));
    assert_eq!(traced.code(), 0, "{}", traced.stderr);
    let strace: Vec<String> = fs::read_to_string(&log).unwrap().lines().map(normal).collect();
    let seen = scope(&["--all", "--", python, "-c", program]);
    assert_eq!(seen.code, 0, "{}", seen.all);

    let calls = seen.lines.iter().filter(|line| line.starts_with("call ") || line.starts_with("returned "));
    let calls: Vec<String> =
        calls.map(|line| normal(line.split_once(" #").unwrap().1.split_once(' ').unwrap().1)).collect();
    assert!(calls.len() > 90, "only {} calls:\n{}", calls.len(), seen.all);
    let mut rest = strace.iter();
    for call in &calls {
        // How much time is left differs from run to run.
        let stem = call.split(", left {").next().unwrap();
        let same = |line: &&String| line.split(", left {").next() == Some(stem);
        let near: Vec<&String> =
            strace.iter().filter(|line| line.starts_with(call.split('(').next().unwrap())).collect();
        assert!(rest.any(|line| same(&line)), "strace has no {call}, or not in this order; it has {near:#?}");
    }
    for name in ["socket(", "connect(", "sendto(", "recvmsg(", "setsockopt(", "getsockname(", "poll(", "epoll_ctl("] {
        let count = |lines: &[String]| lines.iter().filter(|line| line.starts_with(name)).count();
        assert_eq!(count(&calls), count(&strace), "{name}");
    }
}

#[test]
fn only_the_named_calls_are_shown_and_their_segments() {
    let Some(python) = python() else { return };
    let seen = scope(&["--only", "connect,accept", "--", python, "-c", SERVER, "--and", python, "-c", CLIENT]);
    let calls = seen.lines.iter().filter(|line| line.contains(" #"));
    assert!(calls.clone().all(|line| line.contains("connect(") || line.contains("accept4(")), "{}", seen.all);
    assert_eq!(calls.count(), 3, "{}", seen.all); // accept waits, and returns
    seen.assert_order(&["SYN seq=0", "FIN+ACK"]);
}

#[test]
fn a_command_starts_when_the_one_before_has_printed_the_text() {
    let Some(python) = python() else { return };
    let late = SERVER.replace("print(\"listening\")", "import time; time.sleep(0.3); print('now', 'it is', 'time')");
    let seen = scope(&["--", python, "-c", &late, "--and", "--after", "now it is", python, "-c", CLIENT]);
    assert_eq!(seen.code, 0, "{}", seen.all);
    seen.assert_order(&["now it is time", "connect(3"]);
    let seen = scope(&["--after", "never said", "--", python, "-c", "print(1)", "--and", python, "-c", CLIENT]);
    assert_eq!(seen.code, 1, "{}", seen.all);
    seen.assert_has("has ended and never printed \"never said\"");
}

#[test]
fn a_program_in_c_prints_line_by_line() {
    if skip_without(!have("cc"), "cc", "apt-get install gcc") {
        return;
    }
    let folder = TempDir::new();
    let (source, program) = (folder.path().join("server.c"), folder.path().join("server"));
    fs::write(&source, include_str!("server.c")).unwrap();
    let built = run(Command::new("cc").arg("-o").arg(&program).arg(&source));
    assert_eq!(built.code(), 0, "{}", built.stderr);
    let Some(python) = python() else { return };
    let seen = scope(&["--", program.to_str().unwrap(), "--and", python, "-c", CLIENT]);
    assert_handshake_data_and_close(&seen);
}

#[test]
fn nc_talks_to_socat() {
    if skip_without(!have("nc") || !have("socat"), "nc and socat", "apt-get install netcat-openbsd socat") {
        return;
    }
    let client = "echo from nc | nc -N 127.0.0.1 5555";
    let seen = scope(&["--", "socat", "-u", "TCP-LISTEN:5555,bind=127.0.0.1", "STDOUT", "--and", "sh", "-c", client]);
    assert_eq!(seen.code, 0, "{}", seen.all);
    seen.assert_order(&["-> LISTEN", "SYN seq=0", "write(3, \"from nc\\n\", 8) = 8", "len=8", "FIN+ACK", "from nc"]);
}

#[test]
fn a_server_that_never_ends_is_ended_after_the_last_command() {
    let Some(python) = python() else { return };
    if skip_without(!have("curl"), "curl", "apt-get install curl") {
        return;
    }
    let folder = TempDir::new();
    fs::write(folder.path().join("file"), "its content\n").unwrap();
    let place = folder.path().to_str().unwrap();
    let server = ["--", python, "-m", "http.server", "--bind", "127.0.0.1", "-d", place, "8000"];
    let seen = scope(&[&server[..], &["--and", "curl", "-s", "http://127.0.0.1:8000/file"]].concat());
    assert_eq!(seen.code, 0, "{}", seen.all);
    seen.assert_order(&["GET /file HTTP/1.1", "its content", "the others only wait: they get SIGINT"]);
    assert_nothing_left(place);
}

#[test]
fn threads_and_children_are_followed() {
    let Some(python) = python() else { return };
    let threads = r#"
import socket, threading
s = socket.socket(); s.bind(("127.0.0.1", 4444)); s.listen(20)
def ask(n):
    c = socket.socket(); c.connect(("127.0.0.1", 4444)); c.send(b"%d" % n); c.recv(9); c.close()
def answer():
    c, _ = s.accept(); c.recv(9); c.send(b"ok"); c.recv(9); c.close()
all = [threading.Thread(target=answer) for n in range(10)] + [threading.Thread(target=ask, args=(n,)) for n in range(10)]
for t in all: t.start()
for t in all: t.join()
"#;
    let seen = scope(&["--", python, "-c", threads]);
    assert_eq!(seen.code, 0, "{}", seen.all);
    let syns = seen.that_begin("segment").iter().filter(|line| line.contains(" SYN seq=0")).count();
    assert_eq!(syns, 10, "{}", seen.all);
    assert_eq!(
        seen.that_begin("state").iter().filter(|line| line.contains("-> TIME-WAIT")).count(),
        10,
        "{}",
        seen.all
    );

    let forking = r#"
import os, socket
s = socket.socket(); s.bind(("127.0.0.1", 4444)); s.listen(5)
for n in range(2):
    c, _ = s.accept()
    if os.fork() == 0:
        s.close(); c.send(b"child"); c.close(); os._exit(0)
    c.close()
for n in range(2): os.wait()
"#;
    let client = "import socket\nfor n in range(2): c = socket.create_connection(('127.0.0.1', 4444)); c.recv(9); c.recv(9); c.close()";
    let seen = scope(&["--", python, "-c", forking, "--and", python, "-c", client]);
    assert_eq!(seen.code, 0, "{}", seen.all);
    assert_eq!(seen.that_begin("started").iter().filter(|line| line.contains(", by ")).count(), 2, "{}", seen.all);
    // The parent's close closes a descriptor; the child's closes the connection.
    seen.assert_order(&["sendto(4, \"child\"", "close(4) = 0", "FIN+ACK"]);
}

#[test]
fn a_killed_program_closes_its_connections() {
    let Some(python) = python() else { return };
    let killed = SERVER.replace("c.send(", "import os, signal; os.kill(os.getpid(), signal.SIGKILL); c.send(");
    let seen = scope(&["--", python, "-c", &killed, "--and", python, "-c", CLIENT]);
    assert_eq!(seen.code, 1, "{}", seen.all);
    seen.assert_order(&["killed by SIGKILL", "(end of ", "ended with exit status 137"]);
}

#[test]
fn a_stopped_program_goes_on_when_it_is_continued() {
    let Some(python) = python() else { return };
    let stops = r#"
import os, signal, socket, time
s = socket.socket(); s.bind(("127.0.0.1", 4444)); s.listen(5)
me = os.getpid()
if os.fork() == 0:
    time.sleep(0.2); os.kill(me, signal.SIGCONT); os._exit(0)
os.kill(me, signal.SIGSTOP)
s.close(); os.wait()
"#;
    let seen = scope(&["--", python, "-c", stops]);
    assert_eq!(seen.code, 0, "{}", seen.all);
    seen.assert_order(&["-> LISTEN", "stopped by SIGSTOP", "goes on", "LISTEN -> CLOSED"]);

    let alone = "import os, signal; print('before'); os.kill(os.getpid(), signal.SIGSTOP); print('behind')";
    let seen = scope(&["--", python, "-c", alone]);
    assert_eq!(seen.code, 0, "{}", seen.all);
    seen.assert_order(&["before", "stopped by SIGSTOP", "nobody continues it: it gets SIGCONT", "behind"]);
}

#[test]
fn a_real_time_signal_is_named_and_lost() {
    let Some(python) = python() else { return };
    let program = r#"
import os, signal
signal.signal(signal.SIGRTMIN, lambda *_: print("handled"))
signal.signal(signal.SIGUSR1, lambda *_: print("handled the usual one"))
os.kill(os.getpid(), signal.SIGRTMIN); os.kill(os.getpid(), signal.SIGUSR1); print("goes on")
"#;
    let seen = scope(&["--", python, "-c", program]);
    assert_eq!(seen.code, 0, "{}", seen.all);
    seen.assert_order(&["handled the usual one", "goes on"]);
    seen.assert_has("real-time signal 34 is lost: run cannot pass it on");
    assert!(!seen.lines.iter().any(|line| line.ends_with("handled")), "{}", seen.all);
}

#[test]
fn an_error_that_is_none_has_a_word() {
    let Some(python) = python() else { return };
    let program = r#"
import socket
def fails(call, *args):
    try: call(*args)
    except OSError: pass
s = socket.socket(); s.bind(("127.0.0.1", 4444)); s.listen(1); s.setblocking(False); fails(s.accept)
c = socket.socket(); c.setblocking(False); fails(c.connect, ("127.0.0.1", 4444))
c.setblocking(True); fails(c.recv, 1, socket.MSG_DONTWAIT)
c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, bytes([0] * 8 + [1] + [0] * 7)); fails(c.recv, 2)
"#;
    let seen = Seen::of(run(Command::new(LAB).args(["run", "--", python, "-c", program])));
    let has = |text: &str| assert!(seen.all.contains(text), "no {text:?} in\n{}", seen.all);
    has("accept(3) = -1 EAGAIN (would wait)");
    has("connect(4, 127.0.0.1:4444) = -1 EINPROGRESS (non-blocking: goes on)");
    has("recv(4, 1, MSG_DONTWAIT) = -1 EAGAIN (would wait)");
    has("recv(4, 2) = -1 EAGAIN ");
    assert!(!seen.all.contains("recv(4, 2) = -1 EAGAIN ("), "it has waited:\n{}", seen.all);
}

#[test]
fn a_daemon_is_named_and_ended() {
    let Some(python) = python() else { return };
    let mark = format!("daemon-mark-{}", std::process::id());
    let daemon = format!(
        "import os, socket, time  # {mark}
s = socket.socket(); s.bind(('127.0.0.1', 4444)); s.listen(5)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0: time.sleep(600)
    os._exit(0)
os.wait()
"
    );
    let seen = scope(&["--", python, "-c", &daemon]);
    assert_eq!(seen.code, 0, "{}", seen.all);
    seen.assert_order(&["ended ", "left behind, and ended now: ", "killed by SIGTERM"]);
    assert_nothing_left(&mark);
}

#[test]
fn the_exit_status_is_that_of_the_commands() {
    let seen = scope(&["--", "/no/such/program"]);
    assert_eq!(seen.code, 127, "{}", seen.all);
    seen.assert_has("/no/such/program: command not found");
    let seen = scope(&["--", "sh", "-c", "exit 3"]);
    assert_eq!(seen.code, 1, "{}", seen.all);
    seen.assert_has("sh ended with exit status 3");
    assert_eq!(scope(&["--", "true", "--and", "true"]).code, 0);
    assert_eq!(scope(&["--", "true", "--and"]).code, 1);
    assert_eq!(scope(&["--stdin", "2", "--", "true"]).code, 1);
}

#[test]
fn ctrl_c_ends_all_of_it() {
    let Some(python) = python() else { return };
    let mark = format!("ctrl-c-mark-{}", std::process::id());
    for (program, what) in [
        (format!("{SERVER} # {mark}"), "KeyboardInterrupt"),
        (format!("import signal; signal.signal(2, 1); signal.signal(15, 1)\n{SERVER} # {mark}"), "SIGKILL to what"),
    ] {
        let mut role = Role::spawn(Command::new(LAB).args(["run", "--plain", "--", python, "-c", &program])).unwrap();
        role.wait_for("accept4(3,  <unfinished ...>").unwrap();
        signal(&role, Signal::SIGINT);
        // A whole run, no answer: whoever ignores SIGINT and SIGTERM has two times two seconds in which nobody starves.
        role.wait_for_within("; the run took ", RUN_LIMIT).unwrap();
        let status = role.wait_for_end().unwrap();
        assert_eq!(status.code(), Some(130), "{}", role.printed());
        assert!(role.printed().contains(what), "{}", role.printed());
        assert_nothing_left(&mark);
    }
}

#[test]
fn nothing_outlives_a_killed_run() {
    let Some(python) = python() else { return };
    let mark = format!("killed-run-mark-{}", std::process::id());
    let program = format!("{SERVER} # {mark}");
    let mut role = Role::spawn(Command::new(LAB).args(["run", "--plain", "--", python, "-c", &program])).unwrap();
    role.wait_for("accept4(3,  <unfinished ...>").unwrap();
    signal(&role, Signal::SIGKILL);
    drop(role);
    assert_nothing_left(&mark);
}

/// Another lab's program, built beside this one.
fn other_lab(name: &str) -> Option<String> {
    let program = Path::new(LAB).with_file_name(name);
    let missing = !program.is_file();
    (!skip_without(missing, name, &format!("cargo build -p {name}"))).then(|| program.to_str().unwrap().into())
}

#[test]
fn a_labs_server_and_client_meet() {
    let Some(lab06) = other_lab("lab06-listen") else { return };
    let seen = scope(&["--settle", "--", &lab06, "server", "--and", &lab06, "client"]);
    assert_eq!(seen.code, 0, "{}", seen.all);
    seen.assert_order(&["-> LISTEN", "SYN seq=0", "SYN+ACK", "ESTABLISHED", "New client connected", "get SIGINT"]);
    seen.assert_order(&["FIN+ACK", "-> TIME-WAIT", "exited with 0"]);
}

#[test]
fn a_labs_demo_is_drawn_with_its_own_words() {
    let Some(lab09) = other_lab("lab09-shutdown") else { return };
    let seen = scope(&["--settle", "--", &lab09, "demo", "linger-0"]);
    assert_eq!(seen.code, 0, "{}", seen.all);
    seen.assert_order(&["7   linger-0", "close(", "RST+ACK", "ESTABLISHED -> CLOSED", "verdict"]);
    assert!(seen.lines.iter().any(|line| line.contains("RST+ACK") && line.contains("(#")), "{}", seen.all);
    assert!(!seen.all.contains("AF_NETLINK, nl_pid") && !seen.all.contains("F_GETFD"), "{}", seen.all);
    let Some(lab10) = other_lab("lab10-timewait") else { return };
    let seen = scope(&["--settle", "--", &lab10, "demo", "closes-first"]);
    assert_eq!(seen.code, 0, "{}", seen.all);
    assert_eq!(
        seen.that_begin("state").iter().filter(|line| line.ends_with("-> TIME-WAIT")).count(),
        2,
        "{}",
        seen.all
    );
}

#[test]
fn two_hosts_and_their_cable_are_seen() {
    let Some(lab12) = other_lab("lab12-broken-pipe") else { return };
    let seen = scope(&["--", &lab12, "demo", "link-down"]);
    assert_eq!(seen.code, 0, "{}", seen.all);
    if !seen.all.contains("SKIPPED") {
        seen.assert_order(&[
            "10.0.0.1:7777", "SYN seq=0", "SYN+ACK", "ip link set eth0 down", "sendto(6, \"line\"", "len=4",
        ]);
    }
}

#[test]
fn the_same_run_is_told_in_the_same_order() {
    let Some(python) = python() else { return };
    let told = || {
        let seen = scope(&["--settle", "--", python, "-c", SERVER, "--and", python, "-c", CLIENT]);
        // What it is, and the call's number and name or the segment's flags; processes and ports have other numbers.
        let word = |line: &String| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let name = |at: usize| words.get(at).map_or("", |word| word.split('(').next().unwrap_or_default());
            format!("{} {} {} {}", name(0), name(2), name(3), name(4)).replace(|digit: char| digit.is_ascii_digit(), "")
        };
        // A state that lasts 40 ms, as FIN-WAIT-1 here, is missed where the tracer gets no processor for so long.
        let told = |line: &&String| !line.contains("traced: ") && !line.starts_with("state");
        let lines: Vec<String> = seen.lines.iter().filter(told).map(word).collect();
        (lines, seen.all)
    };
    let (first, all) = told();
    for _ in 0..2 {
        let (next, all_next) = told();
        let same = next.iter().zip(&first).take_while(|(next, first)| next == first).count();
        assert!(next == first, "they differ from line {} on\n{all}\n{all_next}", same + 1);
    }
}

#[test]
fn an_unknown_call_is_refused_by_name() {
    let seen = scope(&["--only", "conect", "--", "true"]);
    assert_eq!(seen.code, 1, "{}", seen.all);
    assert!(seen.all.contains("--only conect: no such call; there are accept, accept4, bind"), "{}", seen.all);
}

#[test]
fn a_slow_run_waits_after_each_step() {
    let Some(python) = python() else { return };
    let program = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 4444)); s.listen(1)";
    let lasts = |seen: &Seen| -> f64 {
        let line = seen.lines.iter().find(|line| line.contains("traced: ")).unwrap();
        line.split("took ").nth(1).unwrap().trim_end_matches(" s").parse().unwrap()
    };
    let seen = scope(&["--slow", "300", "--", python, "-c", program]);
    assert!(lasts(&seen) > 0.9, "{}", seen.all); // three calls at least
}
