//! Runs the real binary: the demo, members and clients against each other and against a foreign peer, and what goes wrong.
//! Everything stays on 127.0.0.1, in groups that no other run has.
#![allow(clippy::unwrap_used)]

use std::{
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    process::Command,
    sync::LazyLock,
    time::Duration,
};

use nix::sys::signal::Signal;
use socket2::Socket;
use testkit::{Demo, Role, ends_well, failed, have, interrupt, run, signal, skip_without, wait_until};

const LAB: &str = env!("CARGO_BIN_EXE_lab26-group");
const LIMIT: Duration = Duration::from_secs(20);

static DEMO: LazyLock<Demo> = LazyLock::new(|| Demo::play(LAB));

/// A group made of a port that the kernel gives nobody else while this is open.
struct OwnGroup {
    addr: SocketAddrV4,
    _port_sock: Socket,
}

fn own_group() -> OwnGroup {
    let port_sock = Socket::from(UdpSocket::bind("127.0.0.2:0").unwrap());
    port_sock.set_reuse_address(true).unwrap();
    let port = port_sock.local_addr().unwrap().as_socket().unwrap().port();
    let [high, low] = port.to_be_bytes();
    OwnGroup { addr: SocketAddrV4::new(Ipv4Addr::new(239, 251, high, low), port), _port_sock: port_sock }
}

/// Members that all know each other.
fn members(group: &OwnGroup, names: &[&str], options: &[&str]) -> Vec<Role> {
    let addr = group.addr.to_string();
    let start = |name: &&str| {
        let args = ["member", name, &addr, "--heartbeat", "200"];
        Role::spawn(Command::new(LAB).args(args).args(options)).unwrap()
    };
    let mut members: Vec<Role> = names.iter().map(start).collect();
    for (name, member) in names.iter().zip(&mut members) {
        wait_until("everybody", LIMIT, || {
            let printed = member.printed();
            let here = names.iter().filter(|other| printed.contains(&format!("* {other} is here\n"))).count();
            Ok((here == names.len() - 1 && printed.contains(&format!("* {name} is in the group\n"))).then_some(()))
        })
        .unwrap();
    }
    members
}

fn simulate(args: &[&str]) -> (i32, String) {
    let finished = run(Command::new(LAB).arg("simulate").args(args));
    (finished.code(), finished.stdout)
}

#[test]
fn the_demo_decides_every_claim_as_recorded() {
    let private = run(Command::new("unshare").args(["-Urn", "true"])).code() == 0;
    DEMO.assert_verdicts(&[
        ("one-in-ten", "ANSWERED"),
        ("two-at-once", "ANSWERED"),
        ("sequencer-dies", "ANSWERED"),
        ("kill-9", "ANSWERED"),
        ("stopped", "ANSWERED"),
        ("overtaken", "ANSWERED"),
        ("one-packet", if private { "CONFIRMED" } else { "SKIPPED" }),
        ("discovery", "CONFIRMED"),
    ]);
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
fn the_printed_calls_are_those_strace_saw() {
    testkit::assert_printed_calls_are_real(LAB);
}

#[test]
fn the_command_line_keeps_the_rules_of_all_labs() {
    let group = own_group();
    testkit::assert_common_rules(LAB, &["member", "ann", &group.addr.to_string()], "Joined");
}

#[test]
fn the_sheet_quotes_a_real_run() {
    testkit::assert_sheet_quotes_a_run("lab26-group", &DEMO);
}

#[test]
fn an_ordinary_account_can_do_everything() {
    testkit::assert_demo_needs_no_privileges(LAB);
}

#[test]
fn what_a_member_types_each_member_shows_and_goodbye_is_heard() {
    let group = own_group();
    let mut members = members(&group, &["ann", "bob"], &[]);
    members[0].type_line("hello \u{1b}[2J").unwrap();
    for member in &mut members {
        member.wait_for("ann: hello \\u{1b}[2J\n").unwrap();
    }
    members[1].input.take(); // Ctrl-D
    ends_well(&mut members[1]);
    members[0].wait_for("* bob has left\n").unwrap();
    interrupt(&mut members[0]);
}

#[test]
fn what_was_typed_before_the_end_of_input_is_still_said() {
    let group = own_group();
    let mut members = members(&group, &["ann"], &[]);
    let mut bob = Role::spawn(Command::new(LAB).args(["member", "bob", &group.addr.to_string()])).unwrap();
    bob.type_line("early").unwrap();
    bob.input.take();
    ends_well(&mut bob);
    members[0].wait_for("bob: early\n").unwrap();
}

#[test]
fn who_joins_later_has_nothing_that_was_said_before_and_all_that_follows() {
    for order in ["fifo", "causal", "total"] {
        let group = own_group();
        let addr = group.addr.to_string();
        let mut ann = members(&group, &["ann"], &["--order", order]).remove(0);
        ann.type_line("before").unwrap();
        ann.wait_for("ann: before\n").unwrap();
        let args = ["member", "bob", &addr, "--order", order, "--heartbeat", "200"];
        let mut bob = Role::spawn(Command::new(LAB).args(args)).unwrap();
        bob.wait_for("* bob is in the group\n").unwrap();
        ann.type_line("after").unwrap();
        bob.wait_for("ann: after\n").unwrap();
        assert!(!bob.printed().contains("before"), "{order}: {}", bob.printed());
    }
}

#[test]
fn members_that_lose_datagrams_show_the_same_in_the_same_order() {
    let group = own_group();
    let names = ["ann", "bob", "cid"];
    let mut members = members(&group, &names, &["--order", "fifo", "--loss", "15"]);
    for number in 0..30 {
        members[0].type_line(&number.to_string()).unwrap();
    }
    let expected: Vec<String> = (0..30).map(|number| format!("ann: {number}")).collect();
    for member in &mut members {
        member.wait_for("ann: 29\n").unwrap();
        let printed = member.printed();
        let texts: Vec<&str> = printed.lines().filter(|line| line.starts_with("ann: ")).collect();
        assert_eq!(texts, expected);
    }
}

#[test]
fn a_line_too_long_or_not_utf8_is_refused_and_the_next_one_is_said() {
    use std::io::Write;
    let group = own_group();
    let mut members = members(&group, &["ann"], &[]);
    let input = members[0].input.as_mut().unwrap();
    input.write_all(format!("{}\nab\u{7f}\n", "x".repeat(1001)).as_bytes()).unwrap();
    input.write_all(b"a\xff\nnext\n").unwrap();
    members[0].wait_for("* not said: more than 1000 bytes\n").unwrap();
    members[0].wait_for("* not said: not UTF-8 from byte 1 on\n").unwrap();
    members[0].wait_for("ann: next\n").unwrap();
}

#[test]
fn noise_from_strangers_hurts_no_member() {
    let group = own_group();
    let mut members = members(&group, &["ann", "bob"], &[]);
    let sock = Socket::from(UdpSocket::bind("127.0.0.1:0").unwrap());
    sock.set_multicast_if_v4(&Ipv4Addr::LOCALHOST).unwrap();
    let sock: UdpSocket = sock.into();
    for noise in [
        &b""[..],
        b"G26 ",
        b"G26 item 7 4294967295 - x",
        b"G26 item 7 0 - x",
        b"G26 ask 7 7 1:1",
        b"G26 alive 9 eve 2 0.0 0.0 0 - - -",
        b"G26 order 1.1 4294967295 1:1,1:2",
        b"\xff\xfe",
        &[b'x'; 60_000],
    ] {
        sock.send_to(noise, group.addr).unwrap();
    }
    members[0].type_line("still here").unwrap();
    members[1].wait_for("ann: still here\n").unwrap();
    members.iter_mut().for_each(interrupt);
}

#[test]
fn a_foreign_peer_hears_heartbeats_that_leave_no_machine_and_is_heard() {
    if skip_without(!have("python3"), "python3", "apt-get install python3") {
        return;
    }
    let group = own_group();
    let program = "import socket as s, sys
r = s.socket(s.AF_INET, s.SOCK_DGRAM)
r.setsockopt(s.SOL_SOCKET, s.SO_REUSEADDR, 1)
r.setsockopt(s.IPPROTO_IP, 12, 1) # IP_RECVTTL
r.bind((sys.argv[1], int(sys.argv[2])))
r.setsockopt(s.IPPROTO_IP, s.IP_ADD_MEMBERSHIP, s.inet_aton(sys.argv[1]) + s.inet_aton('127.0.0.1'))
r.setsockopt(s.IPPROTO_IP, s.IP_MULTICAST_IF, s.inet_aton('127.0.0.1'))
data, control, _, peer = r.recvmsg(2048, 256)
print(data.decode().split()[:2], 'ttl', int.from_bytes(control[0][2], sys.byteorder), peer[0], flush=True)
r.sendto(b'G26 item 77 1 - from python', (sys.argv[1], int(sys.argv[2])))
";
    let mut members = members(&group, &["ann"], &[]);
    let (ip, port) = (group.addr.ip().to_string(), group.addr.port().to_string());
    let mut peer = Role::spawn(Command::new("python3").args(["-c", program, &ip, &port])).unwrap();
    peer.wait_for("['G26', 'alive'] ttl 1 127.0.0.1\n").unwrap();
    members[0].wait_for("#77: from python\n").unwrap();
}

#[test]
fn a_client_without_a_group_says_so_and_one_that_waits_ends_at_ctrl_c() {
    let group = own_group();
    let (code, stderr) = failed(Command::new(LAB).args(["find", &group.addr.to_string()]));
    assert!(code == 1 && stderr.contains("nobody in 239.251."), "{code} {stderr}");
    let _members = members(&group, &["ann"], &[]);
    let mut client = Role::spawn(Command::new(LAB).args(["find", &group.addr.to_string()])).unwrap();
    client.wait_for("taken: it is the first\n").unwrap();
    client.type_line("through ann").unwrap();
    client.wait_for("* ann has said it\n").unwrap();
    interrupt(&mut client);
}

#[test]
fn a_member_pauses_before_each_of_its_first_calls() {
    let group = own_group();
    let addr = group.addr.to_string();
    let mut member = Role::spawn(Command::new(LAB).args(["member", "ann", &addr, "--pause"])).unwrap();
    member.wait_for("next: socket(AF_INET, SOCK_DGRAM, 0)   [Enter]\n").unwrap();
    member.type_line("").unwrap();
    member.wait_for("SO_REUSEADDR").unwrap();
    signal(&member, Signal::SIGINT);
    ends_well(&mut member);
}

#[test]
fn names_groups_and_numbers_that_make_no_sense_are_refused() {
    for (args, told) in [
        (&["member", "two words"][..], "1 to 20 letters"),
        (&["member", "ann", "127.0.0.1:5000"], "239.0.0.0 to 239.255.255.255"),
        (&["member", "ann", "224.0.0.1:5000"], "239.0.0.0 to 239.255.255.255"),
        (&["member", "ann", "239.1.1.1:0"], "nobody is at port 0"),
        (&["member", "ann", "--loss", "101"], "0..=100"),
        (&["simulate", "--members", "0"], "1..=200"),
    ] {
        let (code, stderr) = failed(Command::new(LAB).args(args));
        assert!(code == 2 && stderr.contains(told), "{args:?}: {code} {stderr}");
    }
}

#[test]
fn a_taken_port_and_a_privileged_one_are_refused() {
    // Without SO_REUSEADDR: nobody may share it.
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let sock = UdpSocket::bind(("239.251.0.1", port)).unwrap();
    let addr = sock.local_addr().unwrap().to_string();
    let (code, stderr) = failed(Command::new(LAB).args(["member", "ann", &addr]));
    assert!(code == 1 && stderr.contains(&format!("bind {addr}: EADDRINUSE (98)")), "{code} {stderr}");
    testkit::assert_privileged_port_is_refused(LAB, &["member", "ann", "239.251.0.1:80"], "239.251.0.1:80");
}

#[test]
fn the_same_seed_plays_the_same_run() {
    let runs = [simulate(&["--seed", "7"]), simulate(&["--seed", "7"])];
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], simulate(&["--seed", "8"]));
}

#[test]
fn broken_protocols_are_found_by_the_program_and_the_whole_one_is_not() {
    for (args, status) in [
        (&["--runs", "50"][..], 0),
        (&["--runs", "100", "--order", "causal", "--broken", "clock"], 1),
        (&["--runs", "20", "--order", "fifo", "--broken", "repair"], 1),
        (&["--runs", "75", "--order", "total", "--broken", "flush"], 1),
        (&["--seed", "300", "--order", "total", "--broken", "clock"], 1),
        (&["--seed", "300", "--order", "total"], 0),
    ] {
        let (code, stdout) = simulate(args);
        assert_eq!(code, status, "{args:?}: {stdout}");
    }
}
