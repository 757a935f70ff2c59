//! Runs the real binary: the demo, sender and receiver against each other and against foreign peers, and what goes wrong.
//! Everything stays on 127.0.0.1, in groups that no other run has.
#![allow(clippy::unwrap_used)]

use std::{
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    process::{Command, Stdio},
    sync::LazyLock,
    time::Duration,
};

use nix::sys::signal::Signal;
use socket2::Socket;
use testkit::{Demo, Role, TempDir, ends_well, failed, have, interrupt, run, signal, skip_without, wait_until};

const LAB: &str = env!("CARGO_BIN_EXE_lab05-multicast");
const LIMIT: Duration = Duration::from_secs(10);
const LO: Ipv4Addr = Ipv4Addr::LOCALHOST;
const FAST: [&str; 2] = ["--interval", "0.05"];

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
    OwnGroup { addr: SocketAddrV4::new(Ipv4Addr::new(239, 254, high, low), port), _port_sock: port_sock }
}

fn receiver(group: &OwnGroup) -> Role {
    let mut receiver = Role::spawn(Command::new(LAB).args(["receive", &group.addr.to_string()])).unwrap();
    receiver.wait_for(&format!("DEBUG Joined {} on 127.0.0.1 ...\n", group.addr.ip())).unwrap();
    receiver
}

fn sender(group: &OwnGroup) -> Role {
    Role::spawn(Command::new(LAB).args(["send", &group.addr.to_string()]).args(FAST)).unwrap()
}

/// A socket of the standard library that sends on lo.
fn foreign_sender() -> UdpSocket {
    let sock = Socket::from(UdpSocket::bind("127.0.0.1:0").unwrap());
    sock.set_multicast_if_v4(&LO).unwrap();
    sock.into()
}

/// `12:34:56 DEBUG text` without the time.
fn without_time(line: &str) -> &str {
    let (time, text) = line.split_at(8);
    assert!(
        time.bytes().enumerate().all(|(at, byte)| if at % 3 == 2 { byte == b':' } else { byte.is_ascii_digit() }),
        "no time in front: {line}"
    );
    text.trim_start()
}

#[test]
fn the_demo_decides_every_claim_as_recorded() {
    let cable = if without_private_network() { "SKIPPED" } else { "CORRECTED" };
    DEMO.assert_verdicts(&[
        ("ttl-option", "CORRECTED"),
        ("never-joined", "CORRECTED"),
        ("second-receiver", "ANSWERED"),
        ("no-member", "ANSWERED"),
        ("how-many", "CONFIRMED"),
        ("bound-to", "ANSWERED"),
        ("tcp-group", "CONFIRMED"),
        ("loop-back", cable),
    ]);
}

fn without_private_network() -> bool {
    let cable = "ip link set lo up && ip link add near type veth peer name far && ip addr add fe80::1/64 dev near";
    let laid = have("unshare") && run(Command::new("unshare").args(["-Urn", "sh", "-c", cable])).code() == 0;
    skip_without(!laid, "a private network with a veth pair and IPv6", "scripts/check.sh")
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
    testkit::assert_common_rules(LAB, &["receive", &group.addr.to_string()], "Joined");
    testkit::assert_common_rules(LAB, &["send", &group.addr.to_string()], "[1] Multi-cast sent");
}

#[test]
fn the_sheet_quotes_a_real_run() {
    if without_private_network() {
        return; // it quotes loop-back
    }
    testkit::assert_sheet_quotes_a_run("lab05-multicast", &DEMO);
}

#[test]
fn two_receivers_get_what_one_sender_sends_and_all_three_write_the_lectures_log() {
    let group = own_group();
    let mut receivers = [receiver(&group), receiver(&group)];
    let mut sender = sender(&group);
    sender.wait_for("DEBUG [1] Multi-cast sent ...\n").unwrap();
    sender.wait_for("DEBUG [2] Multi-cast sent ...\n").unwrap();
    let heard: Vec<_> = receivers.iter_mut().map(|receiver| receiver.line_with("Received From: ").unwrap()).collect();
    assert_eq!(without_time(&heard[0]), without_time(&heard[1]));
    assert!(without_time(&heard[0]).starts_with("DEBUG Received From: 127.0.0.1:"), "{heard:?}");
    assert!(heard[0].ends_with(" [Hello world!]"), "{heard:?}");

    signal(&sender, Signal::SIGINT);
    sender.wait_for("Server terminated ...\n").unwrap();
    ends_well(&mut sender);
    let printed = sender.printed();
    let lines: Vec<_> = printed.lines().map(without_time).collect();
    let start = [
        "DEBUG UDP socket declared ...",
        "DEBUG UDP socket reuse set ...",
        "DEBUG Set multicast interface [127.0.0.1] ...",
        "DEBUG Enabled loop-back multi-casts ...",
        "DEBUG Set multicast time-to-live [4] hops ...",
        "DEBUG [1] Multi-cast sent ...",
        "DEBUG [2] Multi-cast sent ...",
    ];
    assert_eq!(lines[..start.len()], start);
    let end = ["INFO Terminating server ...", "DEBUG Socket closed ...", "INFO Server terminated ..."];
    assert_eq!(lines[lines.len() - 3..], end);

    for mut receiver in receivers {
        signal(&receiver, Signal::SIGINT);
        receiver.wait_for("Client terminated ...\n").unwrap();
        ends_well(&mut receiver);
        let printed = receiver.printed();
        let lines: Vec<_> = printed.lines().map(without_time).collect();
        assert_eq!(lines[2], format!("DEBUG Socket bound to {}", group.addr));
        let end = ["INFO Terminating client ...", "DEBUG Socket closed ...", "INFO Client terminated ..."];
        assert_eq!(lines[lines.len() - 3..], end);
    }
}

#[test]
fn a_sender_needs_no_listener_and_no_input_and_keeps_its_interval() {
    let group = own_group();
    let mut alone = Command::new(LAB);
    alone.args(["send", &group.addr.to_string(), "--interval", "0.01"]);
    let mut alone = Role::spawn_on(&mut alone, Stdio::null()).unwrap();
    alone.wait_for("[5] Multi-cast sent ...\n").unwrap();

    let mut slow = Role::spawn(Command::new(LAB).args(["send", &group.addr.to_string()])).unwrap();
    slow.wait_for("[1] Multi-cast sent ...\n").unwrap();
    slow.wait_for_within("[2]", Duration::from_millis(500)).unwrap_err(); // 5 s, as in the lecture
    signal(&slow, Signal::SIGTERM);
    ends_well(&mut slow);
}

#[test]
fn the_defaults_are_the_lectures() {
    let help = |role| {
        let help = run(Command::new(LAB).args([role, "--help"])).stdout;
        help.split_whitespace().collect::<Vec<_>>().join(" ") // wherever a line is broken
    };
    for wanted in ["[default: 239.1.1.1:53124]", "[default: 4]", "[default: 5]", "[default: 127.0.0.1]"] {
        assert!(help("send").contains(wanted), "{}", help("send"));
    }
    assert!(help("receive").contains("[default: 239.1.1.1:53124]"));
}

#[test]
fn the_ttl_asked_for_is_the_ttl_received() {
    if skip_without(!have("python3"), "python3", "apt-get install python3") {
        return;
    }
    let group = own_group();
    for ttl in ["0", "1", "4", "255"] {
        let mut peer = python_receiver(&group);
        let mut sender = Command::new(LAB);
        sender.args(["send", &group.addr.to_string(), "--ttl", ttl]).args(FAST);
        let mut sender = Role::spawn(&mut sender).unwrap();
        sender.wait_for(&format!("Set multicast time-to-live [{ttl}] hops")).unwrap();
        peer.wait_for(&format!("heard Hello world! ttl {ttl} tos 0\n")).unwrap();
    }
}

/// Joins with Python's socket module and prints what it hears, with the header's TTL and TOS.
fn python_receiver(group: &OwnGroup) -> Role {
    let program = "import socket as s, struct, sys
r = s.socket(s.AF_INET, s.SOCK_DGRAM)
r.setsockopt(s.SOL_SOCKET, s.SO_REUSEADDR, 1)
r.setsockopt(s.IPPROTO_IP, s.IP_RECVTOS, 1)
r.setsockopt(s.IPPROTO_IP, 12, 1) # IP_RECVTTL
r.bind((sys.argv[1], int(sys.argv[2])))
r.setsockopt(s.IPPROTO_IP, s.IP_ADD_MEMBERSHIP, s.inet_aton(sys.argv[1]) + s.inet_aton('127.0.0.1'))
print('joined', flush=True)
while True:
    data, control, _, _ = r.recvmsg(1024, 256)
    values = {kind: int.from_bytes(value, sys.byteorder) for _, kind, value in control}
    print('heard', data.decode(), 'ttl', values[s.IP_TTL], 'tos', values[s.IP_TOS], flush=True)
";
    let (ip, port) = (group.addr.ip().to_string(), group.addr.port().to_string());
    let mut receiver = Role::spawn(Command::new("python3").args(["-c", program, &ip, &port])).unwrap();
    receiver.wait_for("joined\n").unwrap();
    receiver
}

#[test]
fn foreign_receivers_hear_our_sender() {
    let group = own_group();
    let (ip, port) = (group.addr.ip(), group.addr.port());
    let _sender = sender(&group);
    if !skip_without(!have("socat"), "socat", "apt-get install socat") {
        let address = format!("UDP4-RECV:{port},bind={ip},reuseaddr,ip-add-membership={ip}:127.0.0.1");
        let mut socat = Role::spawn(Command::new("socat").args(["-u", &address, "-"])).unwrap();
        socat.wait_for("Hello world!Hello world!").unwrap();
    }
    if !skip_without(!have("python3"), "python3", "apt-get install python3") {
        python_receiver(&group).wait_for("heard Hello world! ttl 4 tos 0\n").unwrap();
    }
}

#[test]
fn our_receiver_hears_foreign_senders() {
    let group = own_group();
    let mut receiver = receiver(&group);
    if !skip_without(!have("socat"), "socat", "apt-get install socat") {
        let address = format!("UDP4-DATAGRAM:{},ip-multicast-if=127.0.0.1", group.addr);
        let mut socat = Role::spawn(Command::new("socat").args(["-u", "-", &address])).unwrap();
        socat.type_line("from socat").unwrap();
        receiver.wait_for(" [from socat\\n]\n").unwrap();
    }
    if !skip_without(!have("python3"), "python3", "apt-get install python3") {
        let program = "import socket as s, sys
t = s.socket(s.AF_INET, s.SOCK_DGRAM)
t.setsockopt(s.IPPROTO_IP, s.IP_MULTICAST_IF, s.inet_aton('127.0.0.1'))
t.sendto(b'from python', (sys.argv[1], int(sys.argv[2])))
";
        let (ip, port) = (group.addr.ip().to_string(), group.addr.port().to_string());
        assert_eq!(run(Command::new("python3").args(["-c", program, &ip, &port])).code(), 0);
        receiver.wait_for(" [from python]\n").unwrap();
    }
}

#[test]
fn nc_cannot_join_and_hears_the_group_as_soon_as_somebody_on_this_host_has_joined() {
    if skip_without(!have("nc"), "nc", "apt-get install netcat-openbsd") {
        return;
    }
    let group = own_group();
    let port = group.addr.port().to_string();
    let mut nc = Role::spawn(Command::new("nc").args(["-u", "-l", "0.0.0.0", &port])).unwrap();
    let bound = || kernel::udp_sockets(group.addr.port()).unwrap().into_iter();
    wait_until("nc bound", LIMIT, || Ok(bound().find(|row| row.pair.local.ip().is_unspecified()))).unwrap();

    let send_sock = foreign_sender();
    send_sock.send_to(b"nobody has joined;", group.addr).unwrap();
    let member = format!("{}:0", group.addr.ip()); // another port: nc's is its own
    let mut member = Role::spawn(Command::new(LAB).args(["receive", &member])).unwrap();
    member.wait_for("Joined").unwrap();
    send_sock.send_to(b"somebody has", group.addr).unwrap();
    assert_eq!(nc.wait_for("somebody has").unwrap(), "");
}

#[test]
fn every_datagram_is_one_line_that_cannot_act_on_the_terminal() {
    let group = own_group();
    let mut receiver = receiver(&group);
    let send_sock = foreign_sender();
    let from = send_sock.local_addr().unwrap();
    let long = "x".repeat(65_507);
    let cases: [(&[u8], &str); 5] = [
        (b"", ""),
        (b"two\nlines\x1b[2J", "two\\nlines\\u{1b}[2J"),
        ("h\u{e4}nde".as_bytes(), "h\u{e4}nde"),
        (b"\xff", "\\xff"),
        (long.as_bytes(), &long),
    ];
    for (message, shown) in cases {
        send_sock.send_to(message, group.addr).unwrap();
        assert_eq!(
            without_time(&receiver.line_with("Received From: ").unwrap()),
            format!("DEBUG Received From: {from} [{shown}]")
        );
    }
}

#[test]
fn a_receiver_hears_its_own_group_and_no_other() {
    let (group, other) = (own_group(), own_group());
    let mut ours = receiver(&group);
    let _theirs = receiver(&other);
    let send_sock = foreign_sender();
    send_sock.send_to(b"not for you", SocketAddrV4::new(*other.addr.ip(), group.addr.port())).unwrap();
    send_sock.send_to(b"for you", group.addr).unwrap();
    ours.wait_for("[for you]\n").unwrap();
    assert!(!ours.printed().contains("not for you"));
}

#[test]
fn pause_waits_before_each_call() {
    let group = own_group();
    let (ip, addr) = (group.addr.ip(), group.addr.to_string());
    let joins = format!("IP_ADD_MEMBERSHIP, {ip} on 127.0.0.1)");
    let receive = ["socket(AF_INET, SOCK_DGRAM, 0)", "SO_REUSEADDR, 1)", &format!("bind(4, {addr})"), &joins];
    let sends = format!("\"Hello world!\", 12, {addr})");
    let send = [
        "socket(AF_INET, SOCK_DGRAM, 0)",
        "SO_REUSEADDR, 1)",
        "IP_MULTICAST_IF, 127.0.0.1)",
        "IP_MULTICAST_LOOP, 1)",
        "IP_MULTICAST_TTL, 4)",
        &sends,
    ];
    for (role, calls, ready) in [("receive", &receive[..], "Joined"), ("send", &send, "Multi-cast sent")] {
        let mut paused = Role::spawn(Command::new(LAB).args([role, &addr, "--pause"])).unwrap();
        for call in calls {
            let before = paused.line_with("next: ").unwrap();
            assert!(before.contains(call), "{before} instead of {call}");
            assert!(!paused.printed().contains(ready), "it did not wait before {call}");
            paused.type_line("").unwrap();
        }
        paused.wait_for(ready).unwrap();
        interrupt(&mut paused);
    }
}

#[test]
fn programs_end_quietly_when_their_reader_goes() {
    let group = own_group();
    let script = "\"$0\" send $1 --interval 0.01 2>&1 | head -3; echo \"${PIPESTATUS[0]}\"";
    let closed = run(Command::new("bash").args(["-c", script, LAB, &group.addr.to_string()]));
    assert_eq!(closed.stdout.lines().count(), 4, "{closed:?}");
    assert_eq!(closed.stdout.lines().last(), Some("141"), "{closed:?}");
}

#[test]
fn errors_name_the_call_the_address_the_errno_and_a_command_that_helps() {
    let failed = |args: &[&str]| failed(Command::new(LAB).args(args));
    let group = own_group();
    let (addr, port) = (group.addr.to_string(), group.addr.port());
    let _first = receiver(&group);
    let taken = format!(
        "lab05: bind {addr}: EADDRINUSE (98) Address already in use\n  hint: see what has the port, TIME-WAIT too: scripts/states.sh {port}\n"
    );
    assert_eq!(failed(&["receive", &addr, "--no-reuse-addr"]), (1, taken));
    let foreign = |text| (1, format!("lab05: setsockopt {text}\n  hint: see the addresses of this machine: ip addr\n"));
    let no_device = foreign("IP_ADD_MEMBERSHIP 198.51.100.1: ENODEV (19) No such device");
    assert_eq!(failed(&["receive", &addr, "--interface", "198.51.100.1"]), no_device);
    let not_ours = foreign("IP_MULTICAST_IF 198.51.100.1: EADDRNOTAVAIL (99) Cannot assign requested address");
    assert_eq!(failed(&["send", &addr, "--interface", "198.51.100.1"]), not_ours);
    for usage in [
        &["send", "127.0.0.1:53124"][..],
        &["receive", "240.0.0.1"],
        &["receive", "239.1.1.1:65536"],
        &["receive", "ff02::1"],
        &["send", "239.1.1.1:0"],
        &["send", "--ttl", "256"],
        &["send", "--interval", "0"],
        &["send", "--interval", "nan"],
        &["send", "--interface", "eth0"],
        &["sent"],
    ] {
        let (code, stderr) = failed(usage);
        assert_eq!(code, 2, "{usage:?}: {stderr}");
    }
    let (_, stderr) = failed(&["receive", "10.0.0.1:53124"]);
    assert!(stderr.contains("no group: IPv4 groups go from 224.0.0.0 to 239.255.255.255"), "{stderr}");
}

#[test]
fn a_privileged_port_is_refused_to_an_ordinary_account() {
    testkit::assert_privileged_port_is_refused(LAB, &["receive", "239.255.0.1:1"], "239.255.0.1:1");
}

#[test]
fn the_demo_needs_no_privileges() {
    testkit::assert_demo_needs_no_privileges(LAB);
}

#[test]
fn without_unshare_and_ip_one_experiment_is_skipped_and_says_what_it_needs() {
    let folder = TempDir::new();
    let played = run(Command::new(LAB).arg("demo").env("PATH", folder.path()));
    assert_eq!(played.code(), 0, "{}{}", played.stdout, played.stderr);
    assert!(played.stdout.contains("verdict   SKIPPED"), "{}", played.stdout);
    assert!(
        played.stdout.contains("SKIPPED    needs a private network with a veth pair and IPv6"),
        "{}",
        played.stdout
    );
    let list = run(Command::new(LAB).args(["demo", "--list"]).env("PATH", folder.path()));
    let missing = "needs a private network with a veth pair and IPv6; missing here, so it is skipped:";
    assert!(list.stdout.replace("\n    ", " ").contains(missing), "{}", list.stdout);
}

#[test]
fn the_cable_is_laid_in_a_new_network_only() {
    let here = std::fs::read_link("/proc/self/ns/net").unwrap();
    let refused = run(Command::new(LAB).arg("wire").arg(here));
    assert_eq!(refused.code(), 1);
    assert!(refused.stderr.starts_with("lab05: this would change the network for everybody"), "{refused:?}");
}

#[test]
fn a_group_is_a_port_an_address_or_both() {
    let port_sock = UdpSocket::bind("239.254.0.1:0").unwrap();
    let port = port_sock.local_addr().unwrap().port().to_string();
    drop(port_sock);
    for (text, bound) in
        [(port.as_str(), format!("239.1.1.1:{port}")), (&format!("239.254.0.1:{port}"), format!("239.254.0.1:{port}"))]
    {
        let mut role = Role::spawn(Command::new(LAB).args(["receive", text])).unwrap();
        role.wait_for(&format!("Socket bound to {bound}\n")).unwrap();
        interrupt(&mut role);
    }
    let mut alone = Role::spawn(Command::new(LAB).args(["send", "239.254.0.1"])).unwrap();
    alone.wait_for("[1] Multi-cast sent ...\n").unwrap();
    interrupt(&mut alone);
}

/// Plays the demo in a private network with these settings of sysctl(8).
fn played_with(settings: &str) -> Option<String> {
    let script = format!("ip link set lo up && sysctl -qw {settings} && exec \"$0\"");
    let played = run(Command::new("unshare").args(["-Urn", "sh", "-c", &script, LAB]));
    let possible = !played.stdout.is_empty();
    let skipped = skip_without(!possible, "a private network with settings of its own", "scripts/check.sh");
    (!skipped).then_some(played.stdout)
}

#[test]
fn settings_that_forbid_memberships_skip_the_demo_and_are_named() {
    for (setting, named) in [
        ("net.ipv4.igmp_max_memberships=0", "net.ipv4.igmp_max_memberships=20"),
        ("net.ipv4.igmp_max_memberships=1", "net.ipv4.igmp_max_memberships=20"),
    ] {
        let Some(printed) = played_with(setting) else { return };
        assert!(printed.contains(&format!("-w {named}\n")), "{setting}:\n{printed}");
        assert!(printed.contains("8 SKIPPED, 0 UNEXPECTED"), "{setting}:\n{printed}");
    }
}
