//! Runs the real binary: the demo, the tour, each state held still under the eyes of ss and netstat, and what goes wrong.
#![allow(clippy::unwrap_used)]

use std::{
    io::Read,
    net::{TcpListener, TcpStream},
    process::Command,
    sync::LazyLock,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use testkit::{
    Demo, Finished, Role, TempDir, as_ordinary_account, ends_well, failed, have, interrupt, path_with, root, run,
    signal, skip_without, wait_until,
};

const LAB: &str = env!("CARGO_BIN_EXE_lab11-states");
const LIMIT: Duration = Duration::from_secs(10);
/// Each state as its RFC, ss and netstat write it.
const STATES: [[&str; 3]; 10] = [
    ["LISTEN", "LISTEN", "LISTEN"],
    ["SYN-SENT", "SYN-SENT", "SYN_SENT"],
    ["SYN-RECEIVED", "SYN-RECV", "SYN_RECV"],
    ["ESTABLISHED", "ESTAB", "ESTABLISHED"],
    ["FIN-WAIT-1", "FIN-WAIT-1", "FIN_WAIT1"],
    ["FIN-WAIT-2", "FIN-WAIT-2", "FIN_WAIT2"],
    ["CLOSE-WAIT", "CLOSE-WAIT", "CLOSE_WAIT"],
    ["CLOSING", "CLOSING", "CLOSING"],
    ["LAST-ACK", "LAST-ACK", "LAST_ACK"],
    ["TIME-WAIT", "TIME-WAIT", "TIME_WAIT"],
];

static DEMO: LazyLock<Demo> = LazyLock::new(|| Demo::play(LAB));

/// A running `hold`, its port, and its two addresses as ss and netstat print them.
struct Held {
    role: Role,
    port: String,
    local: String,
    peer: String,
    /// Not later than the state began.
    since: Instant,
}

fn hold(state: &str) -> Held {
    let since = Instant::now();
    let mut role = Role::spawn(Command::new(LAB).args(["hold", state, "--seconds", "3600"])).unwrap();
    let port = role.line_with("look      scripts/states.sh ").unwrap().split_whitespace().last().unwrap().to_string();
    let command = role.line_with("ss        ss -tan ").unwrap();
    assert!(command.ends_with(&format!("'sport = :{port} or dport = :{port}'")), "{command}");
    let row = role.line_with(":").unwrap();
    let [_, local, peer] = row.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{row}") };
    let (local, peer) = (local.into(), peer.into());
    role.wait_for("Holding ").unwrap();
    Held { role, port, local, peer, since }
}

/// The state in the row with these two addresses, if there is one.
fn state_of(table: &str, held: &Held) -> Option<String> {
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut rows = rows.filter(|row| row.windows(2).any(|pair| pair == [held.local.as_str(), held.peer.as_str()]));
    rows.next().map(|row| if row[0].starts_with("tcp") { row[5] } else { row[0] }.to_string())
}

fn as_ss_sees(held: &Held) -> Option<String> {
    let filter = format!("sport = :{0} or dport = :{0}", held.port);
    state_of(&run(Command::new("ss").args(["-tanH", &filter])).stdout, held)
}

fn as_netstat_sees(held: &Held) -> Option<String> {
    state_of(&run(Command::new("netstat").arg("-tan")).stdout, held)
}

#[test]
fn the_demo_decides_every_claim_as_recorded() {
    DEMO.assert_verdicts(&[
        ("closed", "ANSWERED"),
        ("deferred", "CORRECTED"),
        ("closing", "ANSWERED"),
        ("fin-wait-1", "ANSWERED"),
        ("fin-wait-2", "CONFIRMED"),
        ("close-wait", "CONFIRMED"),
        ("last-ack", "ANSWERED"),
        ("keepalive", "CORRECTED"),
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
    testkit::assert_common_rules(LAB, &["hold", "established"], "Holding ESTABLISHED");
}

#[test]
fn the_sheet_quotes_a_real_run() {
    testkit::assert_sheet_quotes_a_run("lab11-states", &DEMO);
}

#[test]
fn each_of_the_ten_states_stands_still_for_as_long_as_ss_and_netstat_look() {
    let tools = have("ss") && have("netstat");
    if skip_without(!tools, "ss and netstat", "apt-get install iproute2 net-tools") {
        return;
    }
    let mut held = STATES.map(|[state, ..]| hold(state));
    let start = Instant::now();
    let mut rounds = 0;
    while rounds < 4 || start.elapsed() < Duration::from_secs(3) {
        // The last one first: TIME-WAIT is held by a new pair of addresses after 50 s, however slow the looks are.
        for (held, [state, ss, netstat]) in held.iter().zip(STATES).rev() {
            let seen = (as_ss_sees(held), as_netstat_sees(held));
            if state == "TIME-WAIT" && held.since.elapsed() > Duration::from_secs(45) {
                continue;
            }
            assert_eq!(seen, (Some(ss.into()), Some(netstat.into())), "{state}: {} > {}", held.local, held.peer);
        }
        rounds += 1;
    }
    for (held, [state, ..]) in held.iter_mut().zip(STATES) {
        signal(&held.role, Signal::SIGINT);
        held.role.wait_for(&format!("{state} stood still: ")).unwrap();
        assert_eq!(held.role.wait_for_end().unwrap().code(), Some(0), "{state}: {}", held.role.printed());
    }
}

#[test]
fn states_sh_shows_the_held_state_from_each_source() {
    for state in ["syn-received", "closing"] {
        let held = hold(state);
        for tools in [&["ss"][..], &["netstat"], &[]] {
            if skip_without(
                !tools.iter().all(|tool| have(tool)),
                "ss and netstat",
                "apt-get install iproute2 net-tools",
            ) {
                continue;
            }
            let folder = TempDir::new();
            let path = path_with(&folder, tools);
            let shown = run(Command::new(root().join("scripts/states.sh")).env("PATH", path).arg(&held.port));
            assert_eq!(shown.code(), 0, "{shown:?}");
            let found = shown.stdout.lines().any(|line| {
                line.starts_with(&state.to_uppercase()) && line.contains(&held.local) && line.contains(&held.peer)
            });
            assert!(found, "{tools:?}: {}", shown.stdout);
        }
    }
}

#[test]
fn the_tour_shows_eleven_of_eleven_as_an_ordinary_account() {
    let folder = TempDir::new();
    let Finished { status, stdout, stderr } = run(as_ordinary_account(LAB, &folder).arg("tour"));
    assert_eq!(status.code(), Some(0), "{stdout}{stderr}");
    assert!(stdout.ends_with("\n11 of 11 states seen standing still\n"), "{stdout}");
    for (place, [state, ss, netstat]) in STATES.iter().enumerate() {
        assert!(stdout.contains(&format!("\n{:<10}{state}\n", place + 1)) || place == 0, "{state}: {stdout}");
        assert!(stdout.contains(&format!("[{:>2}] {state}", place + 1)), "{state} in the diagram: {stdout}");
        assert!(stdout.contains(&format!("\nnames     ss {ss}, netstat {netstat}\n")), "{state}: {stdout}");
    }
    assert!(stdout.contains("\nkernel    server SYN-RECEIVED   client ESTABLISHED\n"), "{stdout}");
    assert!(stdout.contains("\nTCP_INFO  client CLOSED\n") && stdout.contains("[11] CLOSED"), "{stdout}");
    assert!(stdout.contains("\n 8        CLOSED > SYN-SENT > ESTABLISHED > FIN-WAIT-1 > CLOSING\n"), "{stdout}");
    assert!(stdout.is_ascii() && stdout.lines().all(|line| line.len() < 80), "{stdout}");
}

#[test]
fn closed_is_held_with_a_descriptor_and_no_row() {
    let mut role = Role::spawn(Command::new(LAB).args(["hold", "closed", "--seconds", "1"])).unwrap();
    role.wait_for("TCP_INFO  client CLOSED\n").unwrap();
    role.wait_for("scripts/fds.sh ").unwrap();
    role.wait_for("CLOSED stood still: ").unwrap();
    ends_well(&mut role);
}

#[test]
fn the_names_of_ss_and_netstat_are_understood() {
    for (name, state) in [("SYN-RECV", "SYN-RECEIVED"), ("FIN_WAIT1", "FIN-WAIT-1"), ("estab", "ESTABLISHED")] {
        let mut role = Role::spawn(Command::new(LAB).args(["hold", name])).unwrap();
        role.wait_for(&format!("Holding {state} for 60 seconds")).unwrap();
    }
}

#[test]
fn ctrl_c_ends_a_hold_in_good_order_in_every_state() {
    for [state, ..] in STATES {
        let mut held = hold(state);
        signal(&held.role, Signal::SIGINT);
        held.role.wait_for("Terminating ...\n").unwrap();
        assert_eq!(held.role.wait_for_end().unwrap().code(), Some(0), "{state}");
    }
}

#[test]
fn a_foreign_client_is_let_in_and_the_listener_listens_on() {
    if skip_without(!have("python3"), "python3", "apt-get install python3") {
        return;
    }
    let mut held = hold("listen");
    let python = "import socket,sys\ns=socket.socket()\ns.connect(('127.0.0.1',int(sys.argv[1])))\nprint('in',flush=True)\ninput()";
    let mut stranger = Role::spawn(Command::new("python3").args(["-c", python, &held.port])).unwrap();
    stranger.wait_for("in\n").unwrap();
    assert_eq!(as_ss_sees(&held).as_deref(), Some("LISTEN"));
    signal(&held.role, Signal::SIGTERM);
    held.role.wait_for("LISTEN stood still: ").unwrap();
    ends_well(&mut held.role);
}

#[test]
fn pause_waits_before_each_call() {
    let mut role = Role::spawn(Command::new(LAB).args(["hold", "closing", "--pause"])).unwrap();
    let calls =
        ["socket(AF_INET, SOCK_STREAM, 0)", "setsockopt(", "setsockopt(", "setsockopt(", "bind(", "listen(", "socket("];
    for call in calls
        .iter()
        .chain(&["setsockopt(", "setsockopt(", "connect(", "accept(", "close(", "send(", "shutdown(", "shutdown("])
    {
        role.wait_for(&format!("next: {call}")).unwrap();
        role.type_line("").unwrap();
    }
    role.wait_for("kernel    client CLOSING   server FIN-WAIT-2\n").unwrap();
}

#[test]
fn the_tour_pauses_once_a_state_and_marks_where_both_ends_are() {
    let mut tour = Role::spawn(Command::new(LAB).args(["tour", "--pause"])).unwrap();
    for (place, [state, ..]) in STATES.iter().enumerate() {
        tour.wait_for(&format!("next: {state}   [Enter]\n")).unwrap();
        tour.type_line("").unwrap();
        let shown = tour.wait_for("now       C the client's end").unwrap();
        assert!(!shown.contains("next: "), "{shown}");
        let marks = match *state {
            "LISTEN" => &["[ S] LISTEN"][..],
            "SYN-SENT" => &["[ C] SYN-SENT"],
            "SYN-RECEIVED" => &["[ S] SYN-RECEIVED", "[ C] ESTABLISHED"],
            "ESTABLISHED" => &["[CS] ESTABLISHED", "[ 1] LISTEN"],
            "FIN-WAIT-1" => &["[ C] FIN-WAIT-1", "[ S] ESTABLISHED"],
            "FIN-WAIT-2" | "CLOSE-WAIT" => &["[ C] FIN-WAIT-2", "[ S] CLOSE-WAIT"],
            "CLOSING" => &["[ C] CLOSING", "[ S] FIN-WAIT-2"],
            "LAST-ACK" => &["[ S] LAST-ACK", "[ C] FIN-WAIT-2"],
            _ => &["[ C] TIME-WAIT"],
        };
        assert!(marks.iter().all(|mark| shown.contains(mark)), "{} {state}: {shown}", place + 1);
    }
    tour.wait_for("next: CLOSED   [Enter]\n").unwrap();
    interrupt(&mut tour);
    assert!(tour.printed().ends_with("\n10 of 11 states seen standing still\n"), "{}", tour.printed());
}

/// A hold that waits before its next call, with its server listening; and the server's address.
fn listening_hold(state: &str) -> (Role, String) {
    let mut role = Role::spawn(Command::new(LAB).args(["hold", state, "--pause"])).unwrap();
    for call in ["socket(", "setsockopt(", "bind(", "listen("] {
        role.wait_for(&format!("next: {call}")).unwrap();
        role.type_line("").unwrap();
    }
    let addr = role.line_with(" = 0  127.0.0.1:").unwrap().trim().rsplit(' ').next().unwrap().to_string();
    (role, addr)
}

#[test]
fn syn_sent_is_held_and_hears_ctrl_c_where_a_stranger_fills_the_queue() {
    let (mut role, addr) = listening_hold("syn-sent");
    let _stranger = TcpStream::connect(&addr).unwrap();
    role.input = None; // no further pauses
    role.wait_for("kernel    client SYN-SENT   server in no table\n").unwrap();
    role.wait_for("Holding SYN-SENT").unwrap();
    signal(&role, Signal::SIGINT);
    role.wait_for("Terminating ...\n").unwrap();
    ends_well(&mut role);
}

#[test]
fn ctrl_c_ends_a_connect_that_strangers_keep_waiting() {
    let (mut role, addr) = listening_hold("established");
    let _strangers = [TcpStream::connect(&addr).unwrap(), TcpStream::connect(&addr).unwrap()];
    role.input = None; // no further pauses
    role.wait_for("not connected yet; strangers may fill the queue; Ctrl-C ends the wait\n").unwrap();
    signal(&role, Signal::SIGINT);
    role.wait_for("Terminating ...\n").unwrap();
    ends_well(&mut role);
}

#[test]
fn a_stranger_is_not_taken_for_the_client_that_is_held() {
    let (mut role, addr) = listening_hold("close-wait");
    let mut stranger = TcpStream::connect(&addr).unwrap();
    role.input = None; // no further pauses
    role.wait_for("that is a stranger's connection, not our client's; it is closed\n").unwrap();
    role.wait_for("kernel    server CLOSE-WAIT   client FIN-WAIT-2\n").unwrap();
    role.wait_for("Holding CLOSE-WAIT").unwrap();
    stranger.set_read_timeout(Some(LIMIT)).unwrap();
    assert_eq!(stranger.read(&mut [0; 8]).unwrap(), 0);
    signal(&role, Signal::SIGTERM);
    role.wait_for("CLOSE-WAIT stood still: ").unwrap();
    ends_well(&mut role);
}

#[test]
fn a_closed_pipe_ends_tour_and_hold_quietly() {
    for role in ["tour", "hold listen"] {
        let line = format!("\"$0\" {role} 2>&1 | head -1; echo \"${{PIPESTATUS[0]}}\"");
        let printed = run(Command::new("bash").args(["-c", &line, LAB])).stdout;
        assert_eq!(printed.lines().count(), 2, "{printed}");
        assert!(["141", "0"].contains(&printed.lines().last().unwrap()), "{printed}");
    }
}

#[test]
fn errors_name_the_call_the_address_the_errno_and_a_command_that_helps() {
    let failed = |args: &[&str]| failed(Command::new(LAB).args(args));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    let (code, stderr) = failed(&["hold", "listen", "--port", &addr.port().to_string()]);
    assert_eq!(code, 1);
    assert!(
        stderr.starts_with(&format!("lab11: bind {addr}: EADDRINUSE (98) Address already in use\n  hint: ")),
        "{stderr}"
    );
    let (code, stderr) = failed(&["hold", "open"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("the states are listen, syn-sent, "), "{stderr}");
    for usage in [&["hold"][..], &["hold", "listen", "--seconds", "0"], &["hold", "listen", "--port", "65536"]] {
        assert_eq!(failed(usage).0, 2, "{usage:?}");
    }
}

#[test]
fn an_ordinary_account_can_do_everything_but_a_privileged_port() {
    testkit::assert_demo_needs_no_privileges(LAB);
    testkit::assert_privileged_port_is_refused(LAB, &["hold", "listen", "--port", "1"], "127.0.0.1:1");
}

#[test]
fn foreign_clients_meet_the_held_states() {
    if skip_without(!have("nc"), "nc", "apt-get install netcat-openbsd") {
        return;
    }
    let held = hold("listen");
    let _nc = Role::spawn(Command::new("nc").args(["127.0.0.1", &held.port])).unwrap();
    wait_until("nc in the accept queue", LIMIT, || {
        let filter = format!("sport = :{}", held.port);
        let shown = run(Command::new("ss").args(["-tanH", &filter])).stdout;
        Ok(shown.contains("ESTAB").then_some(()))
    })
    .unwrap();
    assert_eq!(as_ss_sees(&held).as_deref(), Some("LISTEN"));

    // Who sends to a deferred listener gets in at once; the held client stays where it is.
    let held = hold("syn-received");
    let mut sender = TcpStream::connect(format!("127.0.0.1:{}", held.port)).unwrap();
    std::io::Write::write_all(&mut sender, b"hello").unwrap();
    assert_eq!(as_ss_sees(&held).as_deref(), Some("SYN-RECV"));
    sender.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(sender.read(&mut [0; 8]).is_err(), "nobody answers");
}
