//! Runs the real binary: the demo, the programs against each other and against foreign peers, and what goes wrong.
#![allow(clippy::unwrap_used)]

use std::{
    io::{ErrorKind, Read},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::Command,
    sync::LazyLock,
    time::Duration,
};

use kernel::{Pair, State, namespace::NAMESPACE, wait_for_state};
use nix::sys::signal::Signal;
use socket2::{Domain, Socket, Type};
use testkit::{
    Demo, Role, TempDir, ends_well, have, interrupt, one_processor, path_with, root, run, signal, skip_without, step,
};

const LAB: &str = env!("CARGO_BIN_EXE_lab10-timewait");
const LIMIT: Duration = Duration::from_secs(10);
static DEMO: LazyLock<Demo> = LazyLock::new(|| Demo::play(LAB));

/// The server on a port of the kernel's choice.
fn server(options: &[&str]) -> (Role, SocketAddr) {
    let mut server = Role::spawn(Command::new(LAB).args(["server", "127.0.0.1:0"]).args(options)).unwrap();
    let line = server.line_with(" is in listening state").unwrap();
    let addr = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    (server, addr)
}

/// The client, connected; and its end of the connection.
fn client(addr: SocketAddr, options: &[&str]) -> (Role, Pair) {
    let mut client = Role::spawn(Command::new(LAB).args(["client", &addr.to_string()]).args(options)).unwrap();
    let line = client.line_with("Local end-point is bound to ").unwrap();
    let local = line.trim().rsplit(' ').next().unwrap().parse().unwrap();
    (client, Pair { local, peer: addr })
}

/// A connection whose server's end is left in TIME-WAIT; returns that end. The server runs on.
fn left_at_the_server(options: &[&str]) -> (Role, Pair) {
    one_processor();
    let (mut server, addr) = server(&[&["--close-first"], options].concat());
    let (mut client, end) = client(addr, &[]);
    client.wait_for("End of stream: the server closed first\nClosed the socket\n").unwrap();
    ends_well(&mut client);
    server.wait_for("Closed the client's socket\n").unwrap();
    is_in(end.other_end(), Some(State::TimeWait));
    is_in(end, None);
    (server, end.other_end())
}

fn is_in(end: Pair, state: Option<State>) {
    wait_for_state(end, state, LIMIT).unwrap();
}

fn failed(args: &[&str]) -> (i32, String) {
    testkit::failed(Command::new(LAB).args(args))
}

#[test]
fn the_demo_decides_every_claim_as_recorded() {
    DEMO.assert_verdicts(&[
        ("closes-first", "ANSWERED"),
        ("still-connected", "CORRECTED"),
        ("pairs", "CORRECTED"),
        ("both-at-once", "ANSWERED"),
        ("how-long", "ANSWERED"),
        ("fin-timeout", "ANSWERED"),
        ("at-the-server", "ANSWERED"),
        ("tw-reuse", "ANSWERED"),
    ]);
}

#[test]
fn the_printed_calls_are_those_strace_saw() {
    testkit::assert_printed_calls_are_real(LAB);
}

#[test]
fn the_command_line_keeps_the_rules_of_all_labs() {
    testkit::assert_common_rules(LAB, &["server", "127.0.0.1:0"], " is in listening state");
}

#[test]
fn the_sheet_quotes_a_real_run() {
    testkit::assert_sheet_quotes_a_run("lab10-timewait", &DEMO);
}

#[test]
fn a_server_that_closes_first_is_left_in_time_wait_and_may_bind_again_with_so_reuseaddr() {
    let (mut server, end) = left_at_the_server(&[]);
    interrupt(&mut server);
    let addr = end.local.to_string();
    let (code, stderr) = failed(&["server", &addr, "--no-reuse-addr"]);
    assert_eq!(code, 1);
    assert!(stderr.starts_with(&format!("lab10: bind {addr}: EADDRINUSE (98) Address already in use\n  hint: ")));
    is_in(end, Some(State::TimeWait));
    let mut again = Role::spawn(Command::new(LAB).args(["server", &addr])).unwrap();
    again.wait_for(" is in listening state").unwrap();
}

#[test]
fn a_server_without_so_reuseaddr_keeps_the_next_one_out_even_if_that_has_it() {
    let (mut server, end) = left_at_the_server(&["--no-reuse-addr"]);
    let addr = end.local;
    interrupt(&mut server);
    let (code, stderr) = failed(&["server", &addr.to_string()]);
    assert_eq!(code, 1);
    assert!(stderr.starts_with(&format!("lab10: bind {addr}: EADDRINUSE (98) ")), "{stderr}");
}

#[test]
fn a_client_that_closes_first_is_left_in_time_wait() {
    one_processor();
    let (mut server, addr) = server(&["--no-reuse-addr"]);
    let (mut client, end) = client(addr, &["--close-first"]);
    client.wait_for("Closed the socket\nTerminating ...\n").unwrap();
    ends_well(&mut client);
    server.wait_for("End of stream: the client closed first\nClosed the client's socket\n").unwrap();
    is_in(end, Some(State::TimeWait));
    is_in(end.other_end(), None);
}

#[test]
fn ctrl_c_is_closing_first() {
    one_processor();
    let (mut first, addr) = server(&[]);
    let (mut second, end) = client(addr, &[]);
    first.wait_for("New client connected from").unwrap();
    interrupt(&mut first);
    second.wait_for("End of stream: the server closed first\n").unwrap();
    ends_well(&mut second);
    is_in(end.other_end(), Some(State::TimeWait));

    let (mut second, addr) = server(&[]);
    let (mut first, end) = client(addr, &[]);
    second.wait_for("New client connected from").unwrap();
    interrupt(&mut first);
    second.wait_for("End of stream: the client closed first\n").unwrap();
    is_in(end, Some(State::TimeWait));
    interrupt(&mut second);
}

#[test]
fn foreign_peers_close_first_or_last() {
    one_processor();
    let (mut server, addr) = server(&[]);
    let mut stream = TcpStream::connect(addr).unwrap();
    let end = Pair { local: stream.local_addr().unwrap(), peer: addr };
    stream.shutdown(Shutdown::Write).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
    is_in(end, Some(State::TimeWait));
    server.wait_for("the client closed first").unwrap();
    let port = addr.port().to_string();
    let socat = format!("TCP4:{addr}");
    for (tool, args) in [("nc", vec!["-N", "127.0.0.1", &port]), ("socat", vec!["-", &socat])] {
        if skip_without(!have(tool), tool, "apt-get install netcat-openbsd socat") {
            continue;
        }
        let mut peer = Role::spawn(Command::new(tool).args(args)).unwrap();
        peer.type_line("hello").unwrap();
        peer.input = None;
        server.wait_for("Received 6 bytes\nEnd of stream: the client closed first\n").unwrap();
        peer.wait_for_end().unwrap();
    }

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (mut client, end) = client(listener.local_addr().unwrap(), &[]);
    drop(listener.accept().unwrap());
    client.wait_for("End of stream: the server closed first\n").unwrap();
    ends_well(&mut client);
    is_in(end.other_end(), Some(State::TimeWait));
}

#[test]
fn a_reset_ends_time_wait() {
    one_processor();
    let (mut server, addr) = server(&["--close-first"]);
    let connect = |local: SocketAddr| {
        let sock = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        sock.bind(&local.into()).unwrap();
        sock.connect(&addr.into()).map(|()| TcpStream::from(sock))
    };
    let mut stream = connect("127.0.10.1:0".parse().unwrap()).unwrap(); // an address no stranger has
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
    let end = Pair { local: addr, peer: stream.local_addr().unwrap() };
    drop(stream);
    is_in(end, Some(State::TimeWait));
    interrupt(&mut server);
    is_in(end, Some(State::TimeWait));
    // TIME-WAIT answers the SYN as if it were an old segment; whoever sent it resets what it does not know.
    assert_eq!(connect(end.peer).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    let spared = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_rfc1337").unwrap();
    is_in(end, if spared.trim() == "1" { Some(State::TimeWait) } else { None });
}

#[test]
fn the_countdown_shows_what_is_left_as_bars_until_ctrl_c() {
    let (mut server, end) = left_at_the_server(&[]);
    let port = end.local.port().to_string();
    let mut countdown = Role::spawn(Command::new(LAB).args(["countdown", &port])).unwrap();
    countdown.wait_for(&format!("port {port}: 1 left behind (a mark is 3 s, Ctrl-C ends)\n")).unwrap();
    let mut left = Vec::new();
    for _ in 0..2 {
        let line = countdown.line_with(&format!("{} > {}", end.local, end.peer)).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        let seconds: f64 = words[4].parse().unwrap();
        assert_eq!((words[3], words[5], words[6].len()), ("TIME-WAIT", "s", 20), "{line}");
        assert_eq!(words[6].matches('#').count(), (seconds / 3.0).ceil() as usize, "{line}");
        left.push(seconds);
    }
    assert!(left[1] < left[0], "{left:?}");
    interrupt(&mut countdown);
    interrupt(&mut server);
}

#[test]
fn a_countdown_waits_for_the_first_time_wait() {
    one_processor();
    let (mut server, addr) = server(&["--close-first"]);
    let port = addr.port();
    let mut countdown = Role::spawn(Command::new(LAB).args(["countdown", &addr.to_string()])).unwrap();
    let waits = "sockets in other states: 1 (waiting for the first, Ctrl-C ends)\n";
    countdown.wait_for(&format!("no TIME-WAIT on port {port}, {waits}")).unwrap();
    let (mut client, end) = client(addr, &[]);
    ends_well(&mut client);
    is_in(end.other_end(), Some(State::TimeWait));
    countdown.wait_for(&format!("port {port}: 1 left behind (a mark is 3 s, Ctrl-C ends)\n")).unwrap();
    interrupt(&mut countdown);
    interrupt(&mut server);

    let mut countdown = Role::spawn(Command::new(LAB).args(["countdown", "9"])).unwrap();
    countdown.wait_for("(waiting for the first, Ctrl-C ends)\n").unwrap();
    interrupt(&mut countdown);
}

#[test]
fn timewait_sh_says_what_holds_the_port_and_what_does_not_from_each_source() {
    let (mut server, end) = left_at_the_server(&[]);
    let addr = end.local;
    interrupt(&mut server);
    let mut server = Role::spawn(Command::new(LAB).args(["server", &addr.to_string()])).unwrap();
    server.wait_for(" is in listening state").unwrap();
    let (mut client, other) = client(addr, &["--close-first"]);
    ends_well(&mut client);
    server.wait_for("Closed the client's socket\n").unwrap();
    is_in(other, Some(State::TimeWait));
    let script = root().join("scripts/timewait.sh");
    let port = addr.port().to_string();
    for tools in [&["ss"][..], &["netstat"], &[]] {
        if skip_without(!tools.iter().all(|tool| have(tool)), "ss and netstat", "apt-get install iproute2 net-tools") {
            continue;
        }
        let folder = TempDir::new();
        let path = path_with(&folder, tools);
        let shown = run(Command::new(&script).env("PATH", path).arg(&port));
        assert_eq!(shown.code(), 0, "{shown:?}");
        for (place, pair) in [("holds", end), ("elsewhere", other)] {
            let row = format!("  {} > {}", pair.local, pair.peer);
            let line = shown.stdout.lines().find(|line| line.ends_with(&row)).expect(&shown.stdout);
            let words: Vec<&str> = line.split_whitespace().collect();
            assert_eq!((words[0], words[1], words[2]), ("TIME-WAIT", place, "left"), "{line}");
            let seconds: f64 = words[3].strip_suffix('s').unwrap().parse().unwrap();
            assert!((5.0..=61.0).contains(&seconds), "{line}");
        }
    }
    let mut watch = Role::spawn(Command::new(&script).args([&port, "--watch"])).unwrap();
    watch.wait_for("holds").unwrap();
    watch.wait_for("holds").unwrap();
    drop(watch);
    for usage in [&[][..], &["0"], &["7777", "7778"], &["--wait"]] {
        assert_eq!(run(Command::new(&script).args(usage)).code(), 2, "{usage:?}");
    }
}

#[test]
fn timewait_sh_says_so_where_there_is_none_and_ends_well_when_told_to() {
    // Not a port of the kernel's choice: strangers' TIME-WAIT may have had it as their peer.
    let none = run(Command::new(root().join("scripts/timewait.sh")).arg("9"));
    assert_eq!((none.code(), none.stdout.lines().last()), (0, Some("no TIME-WAIT has port 9")));
    // A terminal sends Ctrl-C to the sleep in the script too. bash alone may miss SIGINT while it waits for that one.
    let mut watch = Role::spawn(Command::new(root().join("scripts/timewait.sh")).args(["9", "--watch"])).unwrap();
    watch.wait_for("no TIME-WAIT has port 9").unwrap();
    signal(&watch, Signal::SIGTERM);
    ends_well(&mut watch);
}

#[test]
fn pause_waits_before_each_call() {
    let start = |args: &[&str]| Role::spawn(Command::new(LAB).args(args).arg("--pause")).unwrap();
    let mut server = start(&["server", "127.0.0.1:0"]);
    step(&mut server, &["socket(AF_INET, SOCK_STREAM, 0)", "setsockopt(", "bind("]);
    let line = server.line_with("Socket is bound to ").unwrap();
    let addr = line.trim().rsplit(' ').next().unwrap().to_string();
    step(&mut server, &["listen(", "accept("]);
    let mut client = start(&["client", &addr, "--close-first"]);
    step(&mut client, &["socket(", "connect(", "close("]);
    ends_well(&mut client);
    step(&mut server, &["recv(", "close("]);
    interrupt(&mut server);
}

#[test]
fn errors_name_the_call_the_address_the_errno_and_a_command_that_helps() {
    testkit::assert_addresses_are_refused(LAB, "server", "client");
    for usage in [&["server", "77777"][..], &["client", "127.0.0.1:65536"], &["client", "0"], &["countdown", "0"]] {
        assert_eq!(failed(usage).0, 2, "{usage:?}");
    }
}

#[test]
fn the_setting_of_everybody_is_not_touched() {
    let setting = || std::fs::read_to_string("/proc/sys/net/ipv4/tcp_fin_timeout").unwrap();
    let before = setting();
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    let (code, stderr) = failed(&["with-fin-timeout", "1", own.to_str().unwrap()]);
    assert_eq!(code, 1);
    assert!(stderr.contains("start it in unshare -Urn"), "{stderr}");
    assert_eq!(DEMO.finished.code(), 0);
    assert_eq!(setting(), before);
}

#[test]
fn the_setting_of_a_private_network_in_use_is_not_touched_either() {
    if skip_without(!(NAMESPACE.met)(), NAMESPACE.what, NAMESPACE.provided_by) {
        return;
    }
    // A listener of somebody's in that network.
    let script = "\"$0\" server 127.0.0.1:0 & until grep -q 0100007F: /proc/net/tcp; do sleep 0.05; done
                  \"$0\" with-fin-timeout 1 outside; cat /proc/sys/net/ipv4/tcp_fin_timeout; kill $!; wait";
    let finished = run(kernel::namespace::command("bash").args(["-c", script, LAB]));
    assert!(finished.stderr.contains("this network is in use"), "{finished:?}");
    assert!(finished.stdout.contains("\n60\n"), "{finished:?}");
}

#[test]
fn being_stopped_and_continued_changes_no_verdict() {
    testkit::assert_stops_change_no_verdict(LAB);
}

#[test]
fn a_new_build_while_the_demo_runs_changes_no_verdict() {
    testkit::assert_a_new_build_changes_no_verdict(&DEMO);
}

#[test]
fn an_ordinary_account_can_do_everything_but_a_privileged_port() {
    testkit::assert_demo_needs_no_privileges(LAB);
    testkit::assert_privileged_port_is_refused(LAB, &["server", "127.0.0.1:1"], "127.0.0.1:1");
}
