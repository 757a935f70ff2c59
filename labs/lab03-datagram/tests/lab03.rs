//! Runs the real binary: the demo, the two programs against each other and against foreign peers, and what goes wrong.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    process::Command,
    sync::LazyLock,
    time::Duration,
};

use kernel::{Row, State, udp_sockets};
use nix::sys::signal::Signal;
use testkit::{
    Demo, Finished, Role, TempDir, as_ordinary_account, ends_well, failed, have, interrupt, root, run, signal,
    skip_without, stop_and_go_on, wait_until,
};

const LAB: &str = env!("CARGO_BIN_EXE_lab03-datagram");
const LIMIT: Duration = Duration::from_secs(10);
const PEERS: &str = "apt-get install netcat-openbsd ncat socat python3";

static DEMO: LazyLock<Demo> = LazyLock::new(|| Demo::play(LAB));

/// The receiver, waiting, on a port of the kernel's choice.
fn receive_on(address: &str, options: &[&str]) -> (Role, SocketAddr) {
    let mut receive = Role::spawn(Command::new(LAB).args(["receive", address]).args(options)).unwrap();
    let bound = receive.line_with("Socket is bound to ").unwrap();
    receive.wait_for("Waiting for message ...\n").unwrap();
    (receive, bound.rsplit(' ').next().unwrap().parse().unwrap())
}

fn receive(options: &[&str]) -> (Role, SocketAddr) {
    receive_on("127.0.0.1:0", options)
}

/// The sender, run to its end; its port is of the kernel's choice unless the options say otherwise.
fn send(addr: SocketAddr, options: &[&str]) -> Finished {
    let bind = if options.contains(&"--unbound") { &[][..] } else { &["--bind", "127.0.0.1:0"] };
    run(Command::new(LAB).args(["send", &addr.to_string()]).args(bind).args(options))
}

/// A UDP socket of the standard library.
fn foreign() -> (UdpSocket, SocketAddr) {
    let sock = UdpSocket::bind("127.0.0.1:0").unwrap();
    sock.set_read_timeout(Some(LIMIT)).unwrap();
    let addr = sock.local_addr().unwrap();
    (sock, addr)
}

/// The row of a role's UDP socket: its inode is that of a descriptor of the role.
fn udp_row(role: &Role, port: u16) -> Option<Row> {
    let fds = fs::read_dir(format!("/proc/{}/fd", role.pid())).ok()?;
    let targets: Vec<_> = fds.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok()).collect();
    let has = |row: &Row| targets.iter().any(|target| target.to_str() == Some(&format!("socket:[{}]", row.inode)));
    udp_sockets(port).unwrap().into_iter().find(has)
}

#[test]
fn the_demo_decides_every_claim_as_recorded() {
    DEMO.assert_verdicts(&[
        ("rest-is-gone", "CORRECTED"),
        ("largest", "CORRECTED"),
        ("connect", "CORRECTED"),
        ("broadcast", "ANSWERED"),
        ("to-any-address", "ANSWERED"),
        ("empty", "ANSWERED"),
        ("text", "CORRECTED"),
        ("header", "CORRECTED"),
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
    testkit::assert_common_rules(LAB, &["receive", "127.0.0.1:0"], "Waiting for message ...");
}

#[test]
fn the_sheet_quotes_a_real_run() {
    testkit::assert_sheet_quotes_a_run("lab03-datagram", &DEMO);
}

#[test]
fn sender_and_receiver_print_what_the_lecture_prints() {
    let (mut receive, addr) = receive(&[]);
    let mut send = Role::spawn(Command::new(LAB).args(["send", &addr.to_string(), "--bind", "127.0.0.1:0"])).unwrap();
    let bound = send.line_with("Socket is bound to ").unwrap();
    let local_addr = bound.rsplit(' ').next().unwrap();
    for (role, text) in [(&mut receive, "Received message from"), (&mut send, "Sent message to")] {
        role.wait_for(text).unwrap();
        role.wait_for("Press Enter to terminate ...\n").unwrap();
        role.type_line("").unwrap();
        ends_well(role);
        role.wait_for("Terminating ...\n").unwrap();
    }
    let ends = "Payload length 12 bytes: [Hello world!]\nPress Enter to terminate ...\nClosing the UDP socket ...\nTerminating ...\n";
    assert_eq!(
        send.printed(),
        format!("Application started\nSocket is bound to {local_addr}\nSent message to {addr}\n{ends}")
    );
    assert_eq!(
        receive.printed(),
        format!(
            "Application started\nSocket is bound to {addr}\nWaiting for message ...\nReceived message from {local_addr}\n{ends}"
        )
    );
}

#[test]
fn an_unbound_sender_is_bound_by_its_first_datagram_to_all_addresses_and_a_free_port() {
    let (mut receive, addr) = receive(&[]);
    let sent = send(addr, &["--unbound"]);
    assert_eq!((sent.code(), sent.stderr.as_str()), (0, ""));
    let bound = sent.stdout.lines().find_map(|line| line.strip_prefix("Socket was automatically bound to ")).unwrap();
    let port = bound.strip_prefix("0.0.0.0:").unwrap();
    assert!(!sent.stdout.contains("Socket is bound to"), "{}", sent.stdout);
    receive.wait_for(&format!("Received message from 127.0.0.1:{port}\n")).unwrap();
}

#[test]
fn a_short_buffer_loses_the_rest_and_the_next_datagram_is_whole() {
    let (mut receive, addr) = receive(&["--buffer", "5", "--count", "2"]);
    assert_eq!(send(addr, &[]).code(), 0);
    receive.wait_for("Payload length 5 bytes: [Hello]\nMSG_TRUNC: the datagram was longer than the buffer").unwrap();
    assert_eq!(send(addr, &["--message", "again"]).code(), 0);
    receive.wait_for("Payload length 5 bytes: [again]\nPress Enter").unwrap();
}

#[test]
fn empty_and_utf8_messages_arrive_as_the_bytes_they_are() {
    let (mut receive, addr) = receive(&["--count", "0"]);
    for (message, expected) in
        [("", "0 bytes: []"), ("t\u{f5}de", "5 bytes: [t\u{f5}de]"), ("a\tb", "3 bytes: [a\\tb]")]
    {
        let sent = send(addr, &["--message", message]);
        assert!(sent.stdout.contains(&format!("Payload length {expected}\n")), "{}", sent.stdout);
        receive.wait_for(&format!("Payload length {expected}\nWaiting for message ...\n")).unwrap();
    }
    let (sock, _) = foreign();
    sock.send_to(b"\x1b[2J\xff", addr).unwrap();
    receive.wait_for("Payload length 5 bytes: [\\u{1b}[2J\\xff]\n").unwrap();
    interrupt(&mut receive);
    receive.wait_for("Closing the UDP socket ...\nTerminating ...\n").unwrap();
}

#[test]
fn count_sends_and_receives_that_many() {
    let (mut receive, addr) = receive(&["--count", "3"]);
    let sent = send(addr, &["--count", "3"]);
    assert_eq!(sent.stdout.matches("Sent message to").count(), 3);
    receive.wait_for("Press Enter to terminate ...\n").unwrap();
    assert_eq!(receive.printed().matches("Payload length 12 bytes").count(), 3);
    let none = send(addr, &["--count", "0"]);
    assert_eq!((none.code(), none.stdout.contains("Sent message")), (0, false));
}

#[test]
fn the_largest_datagram_arrives_and_one_byte_more_is_refused() {
    let (mut receive, addr) = receive(&["--buffer", "65536"]);
    let sent = send(addr, &["--message", &"x".repeat(65_507)]);
    assert_eq!(sent.code(), 0, "{}", sent.stderr);
    receive.wait_for(&format!("Payload length 65507 bytes: [{}]\n", "x".repeat(65_507))).unwrap();
    let refused = send(addr, &["--message", &"x".repeat(65_508)]);
    assert_eq!(refused.code(), 1);
    let expected = format!(
        "lab03: sendto {addr}: EMSGSIZE (90) Message too long\n  hint: see how much fits: cargo lab03 demo largest\n"
    );
    assert_eq!(refused.stderr, expected);
}

#[test]
fn only_a_connected_sender_hears_that_nobody_is_there() {
    let (sock, addr) = foreign();
    sock.connect("127.0.0.1:9").unwrap(); // it keeps the port and takes nothing from strangers
    assert_eq!(send(addr, &["--count", "3"]).code(), 0);
    let refused = send(addr, &["--connect", "--count", "2"]);
    assert_eq!((refused.code(), refused.stdout.matches("Sent message to").count()), (1, 1), "{refused:?}");
    let expected = format!(
        "lab03: send {addr}: ECONNREFUSED (111) Connection refused\n  hint: nobody has that port; start the receiver: cargo lab03 receive {addr}\n"
    );
    assert_eq!(refused.stderr, expected);
    let (mut receive, addr) = receive(&[]);
    assert_eq!(send(addr, &["--connect"]).code(), 0);
    receive.wait_for("Payload length 12 bytes: [Hello world!]\n").unwrap();
}

#[test]
fn the_kernel_table_ss_and_the_script_show_a_bound_and_a_connected_socket() {
    let (receive, addr) = receive(&[]);
    let mut send =
        Role::spawn(Command::new(LAB).args(["send", &addr.to_string(), "--bind", "127.0.0.1:0", "--connect"])).unwrap();
    let bound = send.line_with("Socket is bound to ").unwrap();
    let local_addr: SocketAddr = bound.rsplit(' ').next().unwrap().parse().unwrap();
    send.wait_for("Press Enter to terminate ...\n").unwrap();
    assert_eq!(udp_row(&receive, addr.port()).unwrap().state, State::Closed);
    let connected = udp_row(&send, local_addr.port()).unwrap();
    assert_eq!((connected.state, connected.pair.local, connected.pair.peer), (State::Established, local_addr, addr));

    let words = |text: &str| text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let shown = run(Command::new(root().join("scripts/states.sh")).arg(addr.port().to_string()));
    let rows: Vec<String> = words(&shown.stdout);
    let has = |rows: &[String], state: &str, pair: &str| {
        assert!(rows.iter().any(|row| row.starts_with(state) && row.contains(pair)), "no {state} {pair} in {rows:?}");
    };
    has(&rows, "udp:UNCONN", &format!("{addr} "));
    has(&rows, "udp:ESTABLISHED", &format!("{local_addr} {addr}"));
    if skip_without(!have("ss"), "ss", "apt-get install iproute2") {
        return;
    }
    let shown = run(Command::new("ss").args(["-Huan"]));
    let rows: Vec<String> = words(&shown.stdout);
    has(&rows, "UNCONN", &format!("{addr} 0.0.0.0:*"));
    has(&rows, "ESTAB", &format!("{local_addr} {addr}"));
}

#[test]
fn a_foreign_sender_is_received() {
    let python = "import socket,sys\nsocket.socket(socket.AF_INET,socket.SOCK_DGRAM).sendto(sys.stdin.readline().encode(),('127.0.0.1',int(sys.argv[1])))";
    for (tool, args) in [
        ("nc", vec!["-u", "127.0.0.1"]),
        ("ncat", vec!["-u", "127.0.0.1"]),
        ("socat", vec!["-"]),
        ("python3", vec!["-c", python]),
    ] {
        if skip_without(!have(tool), tool, PEERS) {
            continue;
        }
        let (mut receive, addr) = receive(&[]);
        let last = if tool == "socat" { format!("UDP4-SENDTO:{addr}") } else { addr.port().to_string() };
        let mut peer = Role::spawn(Command::new(tool).args(args).arg(last)).unwrap();
        peer.type_line("Hello world!").unwrap();
        receive.wait_for("Received message from 127.0.0.1:").unwrap();
        receive.wait_for("Payload length 13 bytes: [Hello world!\\n]\n").unwrap();
    }
}

#[test]
fn a_foreign_receiver_is_reached() {
    let python = "import socket,sys\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\ns.bind(('127.0.0.1',int(sys.argv[1])))\nprint(s.recvfrom(1024)[0].decode())";
    for tool in ["nc", "ncat", "socat", "python3"] {
        if skip_without(!have(tool), tool, PEERS) {
            continue;
        }
        let (mut peer, port) = foreign_receiver(tool, |port| match tool {
            "socat" => vec!["-u".into(), format!("UDP4-RECV:{port},bind=127.0.0.1"), "-".into()],
            "python3" => vec!["-c".into(), python.into(), port.to_string()],
            _ => vec!["-u".into(), "-l".into(), "127.0.0.1".into(), port.to_string()],
        });
        let sent = send(SocketAddr::from(([127, 0, 0, 1], port)), &[]);
        assert_eq!(sent.code(), 0, "{}", sent.stderr);
        peer.wait_for("Hello world!").unwrap();
    }
}

/// A receiver that wants to be told its port: a free one is taken, and another if somebody else was faster.
fn foreign_receiver(tool: &str, args: impl Fn(u16) -> Vec<String>) -> (Role, u16) {
    for _ in 0..10 {
        let (sock, addr) = foreign();
        drop(sock);
        let mut peer = Role::spawn(Command::new(tool).args(args(addr.port()))).unwrap();
        let bound = wait_until("the foreign receiver", LIMIT, || {
            let ended = !fs::read_link(format!("/proc/{}/exe", peer.pid())).is_ok_and(|exe| exe.is_file());
            Ok(if udp_row(&peer, addr.port()).is_some() { Some(true) } else { ended.then_some(false) })
        });
        if bound.unwrap() {
            return (peer, addr.port());
        }
        peer.wait_for_end().unwrap();
    }
    panic!("{tool} found no free port in ten");
}

#[test]
fn ipv6_works_as_ipv4_does() {
    if skip_without(
        UdpSocket::bind("[::1]:0").is_err(),
        "IPv6 on loopback",
        "sysctl -w net.ipv6.conf.lo.disable_ipv6=0",
    ) {
        return;
    }
    let (mut receive, addr) = receive_on("[::1]:0", &[]);
    let sent = send(addr, &["--unbound"]);
    assert!(sent.stdout.contains("Socket was automatically bound to [::]:"), "{sent:?}");
    receive.wait_for("Received message from [::1]:").unwrap();
    let mixed = run(Command::new(LAB).args(["send", &addr.to_string(), "--bind", "127.0.0.1:0"]));
    assert_eq!(mixed.code(), 1);
    assert!(mixed.stderr.starts_with("lab03: bind 127.0.0.1:0: "), "{mixed:?}");
}

#[test]
fn a_broadcast_has_to_be_meant_and_then_reaches_whoever_is_bound_to_all_addresses() {
    let (mut receive, addr) = receive_on("0.0.0.0:0", &[]);
    let everybody = SocketAddr::from(([127, 255, 255, 255], addr.port()));
    let refused = send(everybody, &[]);
    assert_eq!(refused.code(), 1);
    let expected =
        format!("lab03: sendto {everybody}: EACCES (13) Permission denied\n  hint: if all are meant, say so: ");
    assert!(refused.stderr.starts_with(&expected), "{refused:?}");
    assert_eq!(send(everybody, &["--broadcast"]).code(), 0);
    receive.wait_for("Payload length 12 bytes: [Hello world!]\n").unwrap();
}

#[test]
fn a_broadcast_is_copied_to_each_receiver_that_shares_the_port() {
    let (mut first, addr) = receive_on("0.0.0.0:0", &["--reuse-addr"]);
    let (mut second, second_addr) = receive_on(&addr.to_string(), &["--reuse-addr"]);
    assert_eq!(addr, second_addr);
    assert_eq!(send(SocketAddr::from(([127, 255, 255, 255], addr.port())), &["--broadcast"]).code(), 0);
    for receive in [&mut first, &mut second] {
        receive.wait_for("Payload length 12 bytes: [Hello world!]\n").unwrap();
    }
}

#[test]
fn an_address_may_be_a_port_a_name_or_both() {
    let (mut receive, addr) = receive_on("0", &[]);
    assert!(addr.ip().is_loopback() && addr.port() != 0, "{addr}");
    let sent = run(Command::new(LAB).args(["send", &addr.port().to_string(), "--bind", "0"]));
    assert_eq!((sent.code(), sent.stderr.as_str()), (0, ""));
    receive.wait_for("Received message from 127.0.0.1:").unwrap();
    assert_eq!(failed(Command::new(LAB).args(["send", "no such name"])).0, 2);
}

#[test]
fn a_demo_that_was_stopped_goes_on_where_it_was() {
    // They are in poll, or in a recv with SO_RCVTIMEO: that fails with EINTR after SIGCONT, see signal(7).
    for (experiment, line, verdict) in
        [("connect", "= 5  \"hello\"\n", "CORRECTED"), ("empty", "recv(3, 1024) = 0\n", "ANSWERED")]
    {
        // They wait 200 ms: on a busy machine the demo may have ended before it is stopped.
        let stopped = (0..10).any(|_| {
            let mut demo = Role::spawn(Command::new(LAB).args(["demo", experiment])).unwrap();
            demo.wait_for(line).unwrap();
            let stopped = stop_and_go_on(&demo);
            demo.wait_for(&format!("verdict   {verdict}")).unwrap();
            ends_well(&mut demo);
            assert_eq!(demo.printed().matches("-1 EAGAIN").count(), 1, "{}", demo.printed());
            stopped
        });
        assert!(stopped, "{experiment} ended ten times before it was stopped");
    }
}

#[test]
fn a_receiver_with_a_deadline_gives_up_and_one_without_waits_for_ctrl_c() {
    let late = run(Command::new(LAB).args(["receive", "127.0.0.1:0", "--timeout", "0.05"]));
    assert_eq!(late.code(), 1);
    assert!(late.stdout.ends_with("Waiting for message ...\n"), "{late:?}");
    assert!(late.stderr.starts_with("lab03: recvmsg 127.0.0.1:"), "{late:?}");
    assert!(
        late.stderr
            .contains(": EAGAIN (11) Resource temporarily unavailable\n  hint: nothing came in time; send something: "),
        "{late:?}"
    );

    let (mut patient, _) = receive(&[]);
    patient.wait_for_within("never printed", Duration::from_millis(300)).unwrap_err();
    interrupt(&mut patient);
    patient.wait_for("Terminating ...\n").unwrap();
}

#[test]
fn ctrl_c_and_the_end_of_input_end_a_sender_that_waits_for_enter() {
    let (_receive, addr) = receive(&[]);
    for by_signal in [true, false] {
        let mut send = Role::spawn(Command::new(LAB).args(["send", &addr.to_string(), "--unbound"])).unwrap();
        send.wait_for("Press Enter to terminate ...\n").unwrap();
        if by_signal {
            signal(&send, Signal::SIGINT);
        } else {
            send.input = None;
        }
        ends_well(&mut send);
        send.wait_for("Closing the UDP socket ...\nTerminating ...\n").unwrap();
    }
}

#[test]
fn pause_waits_before_each_call() {
    let mut receive = Role::spawn(Command::new(LAB).args(["receive", "127.0.0.1:0", "--pause"])).unwrap();
    for call in ["socket(AF_INET, SOCK_DGRAM, 0)", "bind(", "recvmsg("] {
        receive.wait_for(&format!("next: {call}")).unwrap();
        receive.type_line("").unwrap();
    }
    let printed = receive.printed();
    let addr = printed.lines().find_map(|line| line.strip_prefix("Socket is bound to ")).unwrap();
    let calls = ["socket(AF_INET, SOCK_DGRAM, 0)", "bind(", "connect(", "send("];
    let arguments = ["send", addr, "--bind", "127.0.0.1:0", "--connect", "--pause"];
    let mut send = Role::spawn(Command::new(LAB).args(arguments)).unwrap();
    for call in calls {
        send.wait_for(&format!("next: {call}")).unwrap();
        assert!(!send.printed().contains("Sent message"), "it did not wait before {call}");
        send.type_line("").unwrap();
    }
    send.wait_for("Sent message to").unwrap();
    receive.wait_for("Payload length 12 bytes: [Hello world!]\n").unwrap();

    // Ctrl-C instead of Enter: nothing is sent any more.
    let mut ended = Role::spawn(Command::new(LAB).args(arguments)).unwrap();
    ended.wait_for("next: ").unwrap();
    interrupt(&mut ended);
    ended.wait_for("Terminating ...\n").unwrap();
    assert!(!ended.printed().contains("Sent message"));
}

#[test]
fn errors_name_the_call_the_address_the_errno_and_a_command_that_helps() {
    let failed = |args: &[&str]| failed(Command::new(LAB).args(args));
    let (_taken, addr) = foreign();
    let (text, port) = (addr.to_string(), addr.port());
    let expected = format!(
        "lab03: bind {addr}: EADDRINUSE (98) Address already in use\n  hint: see what has the port, TIME-WAIT too: scripts/states.sh {port}\n"
    );
    assert_eq!(failed(&["receive", &text]), (1, expected.clone()));
    assert_eq!(failed(&["send", "--bind", &text]), (1, expected));
    let (code, stderr) = failed(&["receive", "192.0.2.1:7778"]);
    assert_eq!(code, 1);
    assert!(stderr.starts_with("lab03: bind 192.0.2.1:7778: EADDRNOTAVAIL (99) "), "{stderr}");
    assert!(stderr.contains("\n  hint: see the addresses of this machine: ip addr\n"), "{stderr}");
    for way in [&["sendto"][..], &["connect", "--connect"]] {
        let (call, options) = way.split_first().unwrap();
        let arguments = [&["send", "192.0.2.1:7778", "--bind", "127.0.0.1:0"], options].concat();
        let (code, stderr) = failed(&arguments);
        assert_eq!(code, 1);
        // No route at all is found out first.
        let expected =
            ["EINVAL (22) ", "ENETUNREACH (101) "].map(|errno| format!("lab03: {call} 192.0.2.1:7778: {errno}"));
        assert!(
            expected.iter().any(|expected| stderr.starts_with(expected)) && stderr.contains("  hint: "),
            "{stderr}"
        );
    }
    for usage in [
        &["send", "127.0.0.1:0"][..],
        &["send", "0"],
        &["send", "127.0.0.1:"],
        &["send", "127.0.0.1:65536"],
        &["send", "--bind", "127.0.0.1:0", "--unbound"],
        &["send", "--count", "-1"],
        &["receive", "--buffer", "65537"],
        &["receive", "--timeout", "0"],
        &["receive", "--timeout", "nan"],
        &["receive", "--timeout", "1e300"],
        &["listen"],
    ] {
        assert_eq!(failed(usage).0, 2, "{usage:?}");
    }
}

#[test]
fn a_privileged_port_is_refused_to_an_ordinary_account() {
    testkit::assert_privileged_port_is_refused(LAB, &["receive", "127.0.0.1:1"], "127.0.0.1:1");
}

#[test]
fn the_demo_needs_no_privileges() {
    testkit::assert_demo_needs_no_privileges(LAB);
}

#[test]
fn without_a_way_to_capture_the_header_experiment_says_what_it_needs() {
    let folder = TempDir::new();
    // No unshare in PATH, and an ordinary account may open no packet socket.
    let played = run(as_ordinary_account(LAB, &folder).args(["demo", "header"]).env("PATH", folder.path()));
    assert_eq!(played.code(), 0, "{played:?}");
    assert!(played.stdout.contains("verdict   SKIPPED    needs a private user and network namespace"), "{played:?}");
    assert!(played.stdout.contains("apt-get install util-linux"), "{played:?}");
    let list = run(as_ordinary_account(LAB, &folder).args(["demo", "header", "--list"]).env("PATH", folder.path()));
    assert!(list.stdout.contains("; missing here, so it is skipped: "), "{list:?}");
}

#[test]
fn with_the_capability_it_captures_without_a_namespace() {
    let may_capture = socket2::Socket::new(nix::libc::AF_PACKET.into(), socket2::Type::DGRAM, None).is_ok();
    let played = run(Command::new(LAB).args(["demo", "header"]).env("PATH", ""));
    assert_eq!(played.code(), 0, "{played:?}");
    let verdict = if may_capture { "CORRECTED" } else { "SKIPPED" };
    assert!(played.stdout.contains(&format!("verdict   {verdict}")), "{played:?}");
}
