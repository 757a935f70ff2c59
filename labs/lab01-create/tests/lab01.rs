//! Runs the real binary: the demo, hold as it is seen from outside, next to sockets of foreign programs, and what goes
//! wrong.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    process::Command,
    sync::LazyLock,
    time::{Duration, Instant},
};

use kernel::udp_sockets;
use nix::sys::signal::Signal;
use testkit::{
    Demo, Role, TempDir, as_ordinary_account, descriptors, ends_well, have, root, run, signal, skip_without, wait_until,
};

const LAB: &str = env!("CARGO_BIN_EXE_lab01-create");
const LIMIT: Duration = Duration::from_secs(10);
static DEMO: LazyLock<Demo> = LazyLock::new(|| Demo::play(LAB));

/// hold, its process id and its descriptor, both as it prints them.
fn hold(options: &[&str]) -> (Role, i32, i32) {
    hold_by(Command::new(LAB).arg("hold").args(options))
}

fn hold_by(command: &mut Command) -> (Role, i32, i32) {
    let mut hold = Role::spawn(command).unwrap();
    let pid = number(&hold.line_with("OS assigned process id: ").unwrap());
    let fd = number(&hold.line_with("File descriptor assigned by OS: ").unwrap());
    hold.wait_for("Waiting ").unwrap();
    (hold, pid, fd)
}

fn number(line: &str) -> i32 {
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

fn link(pid: i32, fd: i32) -> String {
    fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap().to_string_lossy().into_owned()
}

fn inode(pid: i32, fd: i32) -> u32 {
    link(pid, fd).strip_prefix("socket:[").unwrap().strip_suffix(']').unwrap().parse().unwrap()
}

/// Every number below this one is in use: it was the lowest free one.
fn is_the_lowest(pid: i32, fd: i32) -> bool {
    (0..fd).all(|below| fs::read_link(format!("/proc/{pid}/fd/{below}")).is_ok())
}

/// What ss lists of this kind, with inodes.
fn ss(options: &str) -> String {
    run(Command::new("ss").arg(options)).stdout
}

fn without_python() -> bool {
    skip_without(!have("python3"), "python3", "apt-get install python3")
}

/// A foreign program that runs this code and keeps what it opened.
fn python(code: &str) -> Role {
    let code = format!("import os,sys,socket,subprocess\n{code}\nsys.stdout.flush()\nsys.stdin.readline()\n");
    Role::spawn(Command::new("python3").args(["-c", &code, LAB])).unwrap()
}

#[test]
fn the_demo_decides_every_claim_as_recorded() {
    DEMO.assert_verdicts(&[
        ("same-number", "CORRECTED"),
        ("kill-9", "CONFIRMED"),
        ("two-numbers", "CORRECTED"),
        ("under-proc", "ANSWERED"),
        ("unbound", "CONFIRMED"),
        ("on-exec", "ANSWERED"),
        ("read-write", "CORRECTED"),
        ("protocol", "CORRECTED"),
    ]);
}

#[test]
fn being_stopped_and_continued_changes_no_verdict() {
    testkit::assert_stops_change_no_verdict(LAB);
}

#[test]
fn the_printed_calls_are_those_strace_saw() {
    testkit::assert_printed_calls_are_real(LAB);
}

#[test]
fn the_command_line_keeps_the_rules_of_all_labs() {
    testkit::assert_common_rules(LAB, &["hold"], "Waiting 300 seconds");
}

#[test]
fn the_sheet_quotes_a_real_run() {
    testkit::assert_sheet_quotes_a_run("lab01-create", &DEMO);
}

#[test]
fn any_experiment_can_be_played_alone_and_in_any_order() {
    let played = run(Command::new(LAB).args(["demo", "7", "3", "2", "same-number", "6", "1"]));
    assert_eq!(played.code(), 0, "{}{}", played.stdout, played.stderr);
    assert!(played.stdout.contains("\n1 CONFIRMED, 4 CORRECTED, 1 ANSWERED, 0 SKIPPED, 0 UNEXPECTED"), "{played:?}");
}

#[test]
fn hold_prints_what_the_lecture_prints_and_closes_its_socket_when_the_time_is_over() {
    let held = run(Command::new(LAB).args(["hold", "--seconds", "0"]));
    assert_eq!((held.code(), held.stderr.as_str()), (0, ""));
    let lines: Vec<_> = held.stdout.lines().collect();
    let pid = number(lines[1]);
    let fd = number(lines[3]);
    let expected = [
        "Application started".into(),
        format!("OS assigned process id: {pid}"),
        "UDP Socket created".into(),
        format!("File descriptor assigned by OS: {fd}"),
        format!("Look: ls -l /proc/{pid}/fd/{fd}"),
        format!("      scripts/fds.sh {pid}"),
        "Waiting 0 seconds before termination ... (Ctrl-C ends it)".into(),
        "Closing the UDP socket ...".into(),
        "Terminating ...".into(),
    ];
    assert_eq!(lines, expected);
}

#[test]
fn hold_waits_as_long_as_it_was_told() {
    let started = Instant::now();
    let (mut hold, _, _) = hold(&["--seconds", "1"]);
    hold.wait_for("Terminating ...\n").unwrap();
    ends_well(&mut hold);
    assert!(started.elapsed() >= Duration::from_secs(1), "after {:?}", started.elapsed());
}

#[test]
fn every_family_and_type_gives_the_lowest_free_number_and_a_link_to_its_inode() {
    for (family, kind, name) in [
        ("inet", "dgram", "UDP"),
        ("inet", "stream", "TCP"),
        ("inet6", "dgram", "UDP over IPv6"),
        ("inet6", "stream", "TCP over IPv6"),
        ("unix", "dgram", "Unix datagram"),
        ("unix", "stream", "Unix stream"),
    ] {
        let no_ipv6 = family == "inet6" && !fs::exists("/proc/net/if_inet6").unwrap();
        if skip_without(no_ipv6, "IPv6", "sysctl net.ipv6.conf.all.disable_ipv6=0") {
            continue;
        }
        let (mut hold, pid, fd) = hold(&["--family", family, "--type", kind]);
        assert_eq!(pid, hold.pid().as_raw());
        assert!(hold.printed().contains(&format!("\n{name} Socket created\n")), "{}", hold.printed());
        assert!(is_the_lowest(pid, fd), "{family} {kind}: {fd} was not the lowest free number");
        assert_ne!(inode(pid, fd), 0);
    }
}

#[test]
fn tcp_and_udp_are_other_words_for_stream_and_dgram() {
    for (kind, name) in [("tcp", "TCP"), ("udp", "UDP")] {
        let (mut hold, _, _) = hold(&["--type", kind]);
        assert!(hold.printed().contains(&format!("\n{name} Socket created\n")), "{}", hold.printed());
    }
}

#[test]
fn a_demo_with_too_few_descriptors_names_the_limit() {
    let played = run(Command::new("bash").args(["-c", "ulimit -n 20; exec \"$0\" demo", LAB]));
    assert_eq!(played.code(), 0, "{played:?}");
    assert!(played.stdout.contains("needs 64 descriptors a process: ulimit -n 1024"), "{}", played.stdout);
    assert!(played.stdout.contains(" 8 SKIPPED, 0 UNEXPECTED"), "{}", played.stdout);
}

/// A foreign program asks for the same protocols.
#[test]
fn python_gets_the_same_protocols_for_the_same_type() {
    if without_python()
        || skip_without(kernel::setting("net/mptcp/enabled") != [1], "MPTCP", "sysctl -w net.mptcp.enabled=1")
    {
        return;
    }
    let mut peer = python(
        "SO_PROTOCOL=38
for number in (0, 262):
    s=socket.socket(socket.AF_INET,socket.SOCK_STREAM,number); print('protocol', s.getsockopt(socket.SOL_SOCKET,SO_PROTOCOL))
try: socket.socket(socket.AF_INET,socket.SOCK_STREAM,17)
except OSError as error: print('errno', error.errno)",
    );
    assert_eq!(number(&peer.line_with("protocol ").unwrap()), 6);
    assert_eq!(number(&peer.line_with("protocol ").unwrap()), 262);
    assert_eq!(number(&peer.line_with("errno ").unwrap()), nix::errno::Errno::EPROTONOSUPPORT as i32);
}

#[test]
fn the_number_depends_on_what_is_open_when_the_program_starts() {
    // The same shell as it is and with one more descriptor: what bash opens by exec, it hands on.
    let start = |more: &str| hold_by(Command::new("bash").args(["-c", &format!("{more} exec \"$0\" hold"), LAB]));
    let (_, _, usual) = start("");
    let (_with_one_more, pid, fd) = start(&format!("exec {usual}</dev/null;"));
    assert_eq!(link(pid, usual), "/dev/null");
    assert!(fd > usual && is_the_lowest(pid, fd), "{fd}, although {usual} was taken");
    assert_eq!(start("").2, usual);
}

#[test]
fn a_foreign_program_gets_the_lowest_free_number_too_and_the_same_in_each_run() {
    if without_python() {
        return;
    }
    let run = || {
        let mut peer = python("s=socket.socket(); print('pid', os.getpid()); print('fd', s.fileno())");
        let (pid, fd) = (number(&peer.line_with("pid ").unwrap()), number(&peer.line_with("fd ").unwrap()));
        assert!(is_the_lowest(pid, fd), "{fd} was not the lowest free number");
        (pid, fd, inode(pid, fd))
    };
    let (first, second) = (run(), run());
    assert_eq!(first.1, second.1);
    assert_ne!((first.0, first.2), (second.0, second.2));
}

#[test]
fn an_unbound_socket_is_in_no_table_and_a_bound_one_of_a_foreign_program_is_in_ours_and_in_ss() {
    if without_python() || skip_without(!have("ss"), "ss", "apt-get install iproute2") {
        return;
    }
    let (_hold, pid, fd) = hold(&[]);
    let unbound = inode(pid, fd);
    let mut peer = python(
        "s=socket.socket(type=socket.SOCK_DGRAM); s.bind(('127.0.0.1',0)); print('pid', os.getpid()); print('fd', s.fileno()); print('port', s.getsockname()[1])",
    );
    let (pid, fd) = (number(&peer.line_with("pid ").unwrap()), number(&peer.line_with("fd ").unwrap()));
    let port = number(&peer.line_with("port ").unwrap());
    let bound = inode(pid, fd);
    let ours = udp_sockets(0).unwrap();
    assert!(ours.iter().all(|row| row.inode != unbound));
    let row = ours.iter().find(|row| row.inode == bound).unwrap();
    assert_eq!(i32::from(row.pair.local.port()), port);
    let theirs = ss("-uaneH");
    assert!(!theirs.contains(&format!("ino:{unbound} ")), "{theirs}");
    let line = theirs.lines().find(|line| line.contains(&format!("ino:{bound} "))).unwrap();
    assert!(line.contains(&format!("127.0.0.1:{port} ")), "{line}");
}

#[test]
fn netcat_waiting_for_datagrams_is_in_the_table_by_the_inode_of_its_descriptor() {
    if skip_without(!have("nc"), "nc", "apt-get install netcat-openbsd") {
        return;
    }
    let peer = Role::spawn(Command::new("nc").args(["-u", "-l", "127.0.0.1", "0"])).unwrap();
    wait_until("the socket of nc in the table", LIMIT, || {
        let sockets: Vec<_> =
            (0..10).filter_map(|fd| fs::read_link(format!("/proc/{}/fd/{fd}", peer.pid())).ok()).collect();
        let rows = udp_sockets(0)?;
        let listed = rows.iter().any(|row| sockets.contains(&format!("socket:[{}]", row.inode).into()));
        Ok(listed.then_some(()))
    })
    .unwrap();
}

#[test]
fn fds_shows_hold_as_in_no_table_and_a_unix_socket_with_its_family() {
    for (options, expected) in [(&["--type", "stream"][..], "in no table"), (&["--family", "unix"], "unix ")] {
        let (_hold, pid, fd) = hold(options);
        let shown = run(Command::new(root().join("scripts/fds.sh")).arg(pid.to_string()));
        assert_eq!(shown.code(), 0, "{shown:?}");
        let socket = format!("{fd} socket:[{}] ", inode(pid, fd));
        let row = shown.stdout.lines().find(|line| line.trim_start().starts_with(&socket));
        assert!(row.is_some_and(|row| row.contains(expected)), "no {socket}with {expected}:\n{}", shown.stdout);
    }
}

/// A foreign parent: python3 keeps one end of a pair and hands the other one to hold, which is no child of ours.
const PARENT: &str = "
near, far = socket.socketpair()
near.settimeout(10)
os.environ.pop('LAB_PARENT')
hold = subprocess.Popen([sys.argv[1], 'hold', '--seconds', '20'], pass_fds=[far.fileno()], stdout=subprocess.PIPE)
far.close()
while b'Waiting' not in hold.stdout.readline(): pass
print('hold', hold.pid, flush=True)
print('heard', near.recv(8), flush=True)
print('status', hold.wait())";

#[test]
fn a_foreign_parent_hears_the_end_of_stream_once_hold_has_ended_however_it_ends() {
    if without_python() {
        return;
    }
    for end in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let mut parent = python(PARENT);
        let pid = number(&parent.line_with("hold ").unwrap());
        assert!(!parent.printed().contains("heard"));
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), end).unwrap();
        parent.wait_for("heard b''\n").unwrap();
        let status = number(&parent.line_with("status ").unwrap());
        assert_eq!(status, if end == Signal::SIGKILL { -9 } else { 0 }, "{end}");
    }
}

#[test]
fn after_kill_9_no_descriptor_and_no_row_is_left() {
    let (mut hold, pid, fd) = hold(&["--family", "unix"]);
    let number = inode(pid, fd).to_string();
    let rows = || fs::read_to_string("/proc/net/unix").unwrap();
    assert!(rows().split_whitespace().any(|field| field == number));
    signal(&hold, Signal::SIGKILL);
    assert_eq!(hold.wait_for_end().unwrap().signal(), Some(9));
    assert!(!rows().split_whitespace().any(|field| field == number));
    assert!(fs::metadata(format!("/proc/{pid}")).is_err());
}

#[test]
fn ctrl_c_closes_the_socket_and_says_so() {
    let (mut hold, _, _) = hold(&["--type", "stream"]);
    signal(&hold, Signal::SIGINT);
    hold.wait_for("Closing the TCP socket ...\nTerminating ...\n").unwrap();
    ends_well(&mut hold);
}

#[test]
fn pause_waits_before_each_call() {
    let mut hold = Role::spawn(Command::new(LAB).args(["hold", "--seconds", "0", "--pause"])).unwrap();
    hold.wait_for("next: socket(AF_INET, SOCK_DGRAM, 0)").unwrap();
    assert!(!hold.printed().contains("Socket created"));
    let before = descriptors(hold.pid());
    hold.type_line("").unwrap();
    hold.wait_for("Socket created\n").unwrap();
    hold.wait_for("next: close(").unwrap();
    assert_eq!(descriptors(hold.pid()), before + 1);
    assert!(!hold.printed().contains("Terminating"));
    hold.type_line("").unwrap();
    hold.wait_for("Terminating ...\n").unwrap();
    // The end of input and Ctrl-C end the pauses, and hold goes on to its end.
    for end in ["input", "signal"] {
        let mut hold = Role::spawn(Command::new(LAB).args(["hold", "--seconds", "0", "--pause"])).unwrap();
        hold.wait_for("next: socket(").unwrap();
        if end == "input" {
            hold.input = None
        } else {
            signal(&hold, Signal::SIGINT)
        }
        hold.wait_for("Terminating ...\n").unwrap();
        assert_eq!(hold.wait_for_end().unwrap().code(), Some(0), "{end}");
    }
}

#[test]
fn hold_needs_no_standard_input_and_ends_quietly_when_its_reader_goes() {
    let held = run(Command::new("bash").args(["-c", "\"$0\" hold --seconds 0 0<&-", LAB]));
    assert_eq!(held.code(), 0, "{held:?}");
    let piped = run(Command::new("bash").args(["-c", "\"$0\" hold 2>&1 | head -1", LAB])); // not after 300 s
    assert_eq!((piped.stdout.as_str(), piped.stderr.as_str()), ("Application started\n", ""));
}

#[test]
fn without_a_free_descriptor_the_error_says_emfile_and_what_helps() {
    // 0, 1, 2 and the one for Ctrl-C: the next number would be the limit. Whatever else was open is closed first.
    let close = "for fd in /proc/self/fd/*; do fd=${fd##*/}; ((fd < 3)) || eval \"exec $fd<&-\" 2>/dev/null; done";
    let refused = run(Command::new("bash").args(["-c", &format!("{close}; ulimit -n 4; exec \"$0\" hold"), LAB]));
    assert_eq!(refused.code(), 1, "{refused:?}");
    let expected = "lab01: socket AF_INET SOCK_DGRAM: EMFILE (24) Too many open files\n  hint: allow more descriptors: ulimit -n 4096\n";
    assert_eq!(refused.stderr, expected);
}

#[test]
fn a_bad_argument_is_named() {
    for (args, named) in [
        (&["hold", "--family", "ipx"][..], "'ipx'"),
        (&["hold", "--type", "raw"], "'raw'"),
        (&["hold", "--seconds", "-1"], "'-1'"),
        (&["hold", "--seconds", "86401"], "86401 is not in 0..=86400"),
        (&["hold", "7777"], "'7777'"),
        (&["create"], "'create'"),
        (&["demo", "9"], "there are 1 to 8"),
    ] {
        let refused = run(Command::new(LAB).args(args));
        assert_eq!(refused.code(), 2, "{args:?}");
        assert!(refused.stderr.contains(named), "{args:?}: {}", refused.stderr);
    }
}

#[test]
fn the_demo_and_hold_need_no_privileges() {
    testkit::assert_demo_needs_no_privileges(LAB);
    let held = run(as_ordinary_account(LAB, &TempDir::new()).args(["hold", "--seconds", "0"]));
    assert_eq!(held.code(), 0, "{held:?}");
}
