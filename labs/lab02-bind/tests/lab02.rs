//! Runs the real binary: the demo, `hold` against itself and against foreign programs, and what goes wrong.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::Write,
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::unix::fs::PermissionsExt,
    process::Command,
    sync::LazyLock,
    time::Duration,
};

use kernel::{Row, udp_sockets};
use nix::{sys::signal::Signal, unistd::geteuid};
use testkit::{
    Demo, Finished, Role, TempDir, as_ordinary_account, copy_program, ends_well, failed, have, interrupt, root, run,
    signal, skip_without, wait_until,
};

const LAB: &str = env!("CARGO_BIN_EXE_lab02-bind");
const LIMIT: Duration = Duration::from_secs(10);
static DEMO: LazyLock<Demo> = LazyLock::new(|| Demo::play(LAB));

/// `hold` on a port of the kernel's choice, and where it says it is bound.
fn hold(options: &[&str]) -> (Role, SocketAddr) {
    hold_at("127.0.0.1:0", options)
}

fn hold_at(address: &str, options: &[&str]) -> (Role, SocketAddr) {
    let mut hold = Role::spawn(Command::new(LAB).args(["hold", address]).args(options)).unwrap();
    let bound = hold.line_with("Socket is bound to ").unwrap();
    (hold, bound.rsplit(' ').next().unwrap().parse().unwrap())
}

/// A free address whose port the kernel does not choose for others: it stays free between two users. `from` keeps the
/// tests of this file apart, the process id keeps their runs apart.
fn free_again(from: u16) -> String {
    let first = from + u16::try_from(std::process::id() % 3000).unwrap();
    let free =
        |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok() && UdpSocket::bind(("127.0.0.1", *port)).is_ok();
    format!("127.0.0.1:{}", (first..first + 1000).find(free).unwrap())
}

/// Runs `hold` where it should fail: exit status and standard error.
fn in_use(addr: SocketAddr) -> (i32, String) {
    let port = addr.port();
    let error = format!(
        "lab02: bind {addr}: EADDRINUSE (98) Address already in use\n  hint: see what has the port, TIME-WAIT too: scripts/states.sh {port}\n"
    );
    (1, error)
}

/// True, and says so, where the tests run as an ordinary account: nothing that could be installed would change that.
fn only_for_root() -> bool {
    if !geteuid().is_root() {
        let _ = writeln!(std::io::stderr(), "SKIP: needs two accounts: run the tests as root");
    }
    !geteuid().is_root()
}

/// The kernel's row of a UDP socket.
fn udp_row(addr: SocketAddr) -> Option<Row> {
    udp_sockets(addr.port()).unwrap().into_iter().find(|row| row.pair.local == addr)
}

#[test]
fn the_demo_decides_every_claim_as_recorded() {
    DEMO.assert_verdicts(&[
        ("in-the-table", "CORRECTED"),
        ("any-address", "ANSWERED"),
        ("implicit-bind", "CORRECTED"),
        ("port-zero", "CORRECTED"),
        ("below-1024", "ANSWERED"),
        ("taken-port", "ANSWERED"),
        ("foreign-address", "ANSWERED"),
        ("octal", "CORRECTED"),
    ]);
}

#[test]
fn a_demo_on_a_machine_set_up_otherwise_names_the_setting() {
    if skip_without(!(kernel::namespace::NAMESPACE.met)(), "a private network", "scripts/check.sh says what is missing")
    {
        return;
    }
    for (setup, names) in [
        ("ip link set lo down", "ip link set lo up"),
        ("sysctl -qw net.ipv4.ip_local_port_range='32768 32799'", "net.ipv4.ip_local_port_range="),
        ("sysctl -qw net.ipv4.ip_local_reserved_ports=1-65535", "net.ipv4.ip_local_reserved_ports="),
        ("ip addr del 127.0.0.1/8 dev lo; ip addr add 127.0.0.1/32 dev lo", "needs all of 127.0.0.0/8"),
        ("sysctl -qw net.ipv4.ip_nonlocal_bind=1", "net.ipv4.ip_nonlocal_bind=0"),
        ("sysctl -qw net.ipv4.ip_unprivileged_port_start=0", "net.ipv4.ip_unprivileged_port_start=1024"),
        ("ulimit -n 20", "ulimit -n 1024"),
    ] {
        let script = format!("ip link set lo up; {setup}; exec \"$0\" demo");
        let played = run(Command::new("unshare").args(["-Urn", "sh", "-c", &script, LAB]));
        assert_eq!(played.code(), 0, "{setup}: {played:?}");
        assert!(
            played.stdout.contains(names) && played.stdout.contains(", 0 UNEXPECTED"),
            "{setup}: {}",
            played.stdout
        );
    }
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
    testkit::assert_common_rules(LAB, &["hold", "127.0.0.1:0"], "Socket is bound to");
}

#[test]
fn the_sheet_quotes_a_real_run() {
    testkit::assert_sheet_quotes_a_run("lab02-bind", &DEMO);
}

#[test]
fn hold_prints_what_the_lecture_prints_and_ends_with_enter() {
    for (option, protocol) in [("--type=dgram", "UDP"), ("--type=stream", "TCP")] {
        let (mut hold, addr) = hold(&[option]);
        hold.wait_for("Press Enter to terminate ...").unwrap();
        hold.type_line("").unwrap();
        hold.wait_for("Terminating ...\n").unwrap();
        ends_well(&mut hold);
        let expected = format!(
            "Application started\nOS assigned process id: {}\n{protocol} Socket created\n\
             File descriptor assigned by OS: N\nSocket is bound to {addr}\nPress Enter to terminate ...",
            hold.pid()
        );
        let mut printed: Vec<String> = hold.printed().lines().map(String::from).collect();
        let number = printed[3].rsplit(' ').next().unwrap().to_string();
        assert!(number.parse::<u32>().is_ok(), "{printed:?}");
        printed[3] = printed[3].replace(&number, "N");
        assert_eq!(printed[..6].join("\n"), expected);
        assert!(printed.last().unwrap().ends_with("Terminating ..."), "{printed:?}");
    }
}

#[test]
fn hold_ends_with_its_input_and_only_a_whole_line_is_enter() {
    let (mut hold, _) = hold(&[]);
    hold.input = None;
    ends_well(&mut hold);
    let ended = run(Command::new("bash").args(["-c", "printf 'no newline' | \"$0\" hold 127.0.0.1:0", LAB]));
    assert_eq!(ended.code(), 0);
    assert!(ended.stdout.ends_with("Terminating ...\n"), "{ended:?}");
}

#[test]
fn a_bound_udp_socket_is_in_every_table_and_a_bound_tcp_socket_in_no_state_of_tcp() {
    let (udp, udp_addr) = hold(&["--type=dgram"]);
    // A port that the kernel chooses may still be the peer's port in somebody's TIME-WAIT.
    let (tcp, tcp_addr) = hold_at(&free_again(24_000), &["--type=stream"]);
    // From iproute2 6.8 and Linux 6.8 on `ss -a` also asks for sockets that are bound and nothing more.
    let new_ss = have("ss") && run(Command::new("ss").arg("--help")).stdout.contains("--bound-inactive");
    for (tool, args) in [("ss", "-tuan"), ("netstat", "-tuan")] {
        if skip_without(!have(tool), tool, "apt-get install iproute2 net-tools") {
            continue;
        }
        let shown = run(Command::new(tool).arg(args));
        assert!(shown.stdout.contains(&udp_addr.to_string()), "{tool}: no {udp_addr} in {}", shown.stdout);
        let absent = !shown.stdout.contains(&tcp_addr.to_string());
        assert!(absent || tool == "ss" && new_ss, "{tool}: {tcp_addr} in {}", shown.stdout);
    }
    let states = |addr: SocketAddr| run(Command::new(root().join("scripts/states.sh")).arg(addr.port().to_string()));
    assert!(states(udp_addr).stdout.contains(&format!("lab02-bind/{}", udp.pid())), "{:?}", states(udp_addr));
    assert!(new_ss || states(tcp_addr).stdout.contains("no table has a socket with port"), "{:?}", states(tcp_addr));
    // And yet both ports are taken, each for its protocol.
    let fds = run(Command::new(root().join("scripts/fds.sh")).arg(tcp.pid().to_string()));
    assert!(fds.stdout.contains("socket:[") && (new_ss || fds.stdout.contains("in no table")), "{fds:?}");
    assert_eq!(failed(Command::new(LAB).args(["hold", &tcp_addr.to_string(), "--type=stream"])), in_use(tcp_addr));
    assert_eq!(failed(Command::new(LAB).args(["hold", &udp_addr.to_string(), "--type=dgram"])), in_use(udp_addr));
}

#[test]
fn the_same_port_serves_udp_and_tcp_at_once() {
    // A stranger may have the number for the other protocol: then the next one is tried.
    let both = (0..20).any(|_| {
        let (_udp, addr) = hold(&["--type=dgram"]);
        let Finished { stdout, .. } = run(Command::new(LAB).args(["hold", &addr.to_string(), "--type=stream"]));
        stdout.contains(&format!("Socket is bound to {addr}\n"))
    });
    assert!(both);
}

#[test]
fn an_option_shares_the_address_only_if_both_have_set_it() {
    for option in ["--reuse-addr", "--reuse-port"] {
        for protocol in ["--type=dgram", "--type=stream"] {
            let (_first, addr) = hold(&[protocol, option]);
            let (_second, second_addr) = hold_at(&addr.to_string(), &[protocol, option]);
            assert_eq!(second_addr, addr);
            let third = failed(Command::new(LAB).args(["hold", &addr.to_string(), protocol]));
            assert_eq!(third, in_use(addr), "{protocol} without {option}");
        }
    }
}

#[test]
fn reuse_port_is_not_shared_with_another_account() {
    if only_for_root() {
        return;
    }
    let folder = TempDir::new();
    let (_first, addr) = hold(&["--reuse-port"]);
    let mut other = as_ordinary_account(LAB, &folder);
    assert_eq!(failed(other.args(["hold", &addr.to_string(), "--reuse-port"])), in_use(addr));
}

#[test]
fn reuse_addr_does_not_ask_whose_socket_it_is() {
    if only_for_root() {
        return;
    }
    let folder = TempDir::new();
    for kind in ["--type=dgram", "--type=stream"] {
        let (_first, addr) = hold(&[kind, "--reuse-addr"]);
        let mut other = as_ordinary_account(LAB, &folder);
        let mut second = Role::spawn(other.args(["hold", &addr.to_string(), kind, "--reuse-addr"])).unwrap();
        second.wait_for(&format!("Socket is bound to {addr}\n")).unwrap();
    }
}

#[test]
fn groups_and_broadcast_can_be_bound_and_a_foreign_address_cannot() {
    for kind in ["--type=dgram", "--type=stream"] {
        for addr in ["239.1.1.1", "224.0.0.1", "255.255.255.255"] {
            assert_eq!(hold_at(&format!("{addr}:0"), &[kind]).1.ip().to_string(), addr);
        }
    }
}

/// The sheet says so of the source address. 233.252.0.9 is a group; the private network has two routes.
#[test]
fn the_source_address_of_an_unbound_socket_comes_from_the_route_and_not_from_the_default_gateway() {
    let missing = !(kernel::namespace::NAMESPACE.met)() || !have("python3");
    if skip_without(missing, "a private network, and python3", "scripts/check.sh says what is missing") {
        return;
    }
    let routes = "ip addr add 192.0.2.10/32 dev lo; ip addr add 198.51.100.10/32 dev lo
        ip route add default dev lo src 192.0.2.10; ip route add 203.0.113.0/24 dev lo src 198.51.100.10";
    let python = "import socket
for peer in ('233.252.0.9', '8.8.8.8', '203.0.113.9', '127.0.0.1'):
    s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.connect((peer,9)); print(s.getsockname()[0])";
    let script = format!("ip link set lo up; {routes}; exec python3 -c \"$0\"");
    let ran = run(Command::new("unshare").args(["-Urn", "sh", "-c", &script, python]));
    assert_eq!(ran.stdout, "192.0.2.10\n192.0.2.10\n198.51.100.10\n127.0.0.1\n", "{ran:?}");
}

/// The sheet says so of TCP; the first port of the range tells which half is whose.
#[test]
fn tcp_gives_one_half_of_the_range_to_bind_and_the_other_half_to_connect() {
    let first = kernel::setting("net/ipv4/ip_local_port_range")[0] % 2;
    for _ in 0..20 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let half = |addr: SocketAddr| u64::from(addr.port() % 2) == first;
        assert!(!half(listener.local_addr().unwrap()) && half(client.local_addr().unwrap()), "{listener:?} {client:?}");
    }
}

#[test]
fn ipv6_only_leaves_the_port_to_ipv4() {
    let no_ipv6 = !fs::exists("/proc/net/if_inet6").unwrap() || !have("python3");
    if skip_without(no_ipv6, "IPv6, and python3", "sysctl net.ipv6.conf.all.disable_ipv6=0") {
        return;
    }
    // Not a port of the kernel's choice: an IPv4 socket of another test may have it.
    let addr: SocketAddr = free_again(16_000).replace("127.0.0.1", "0.0.0.0").parse().unwrap();
    let python = "import socket,sys
s=socket.socket(socket.AF_INET6); s.setsockopt(socket.IPPROTO_IPV6,socket.IPV6_V6ONLY,int(sys.argv[1]))
s.bind(('::',int(sys.argv[2]))); print('bound', flush=True); sys.stdin.readline()";
    for (only, taken) in [("0", true), ("1", false)] {
        let mut peer =
            Role::spawn(Command::new("python3").args(["-c", python, only, &addr.port().to_string()])).unwrap();
        peer.wait_for("bound\n").unwrap();
        let held = run(Command::new(LAB).args(["hold", &addr.to_string(), "--type=tcp"]));
        assert_eq!(held.stderr.contains("EADDRINUSE"), taken, "IPV6_V6ONLY {only}: {held:?}");
    }
}

#[test]
fn loopback_addresses_do_not_collide_with_each_other_but_with_the_wildcard() {
    let (_first, addr) = hold(&[]);
    let port = addr.port();
    let (_second, second_addr) = hold_at(&format!("127.0.0.2:{port}"), &[]);
    assert_eq!(second_addr.port(), port);
    let wildcard: SocketAddr = format!("0.0.0.0:{port}").parse().unwrap();
    assert_eq!(failed(Command::new(LAB).args(["hold", &wildcard.to_string()])), in_use(wildcard));
}

#[test]
fn the_wildcard_of_ipv6_takes_ipv4_datagrams_too() {
    let v6only = fs::read_to_string("/proc/sys/net/ipv6/bindv6only").unwrap_or("1".into());
    if skip_without(v6only.trim() != "0", "IPv6 without bindv6only", "sysctl net.ipv6.bindv6only=0") {
        return;
    }
    let (_hold, addr) = hold_at("[::]:0", &[]);
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.send_to(b"hello", ("127.0.0.1", addr.port())).unwrap();
    arrived(addr, "a socket of 127.0.0.1");
}

/// Waits until datagrams wait at the socket that `hold` never reads.
fn arrived(addr: SocketAddr, from: &str) {
    let what = format!("bytes from {from} in the Recv-Q of {addr}");
    wait_until(&what, LIMIT, || Ok(udp_row(addr).filter(|row| row.recv_queue > 0))).unwrap();
}

#[test]
fn what_foreign_senders_send_waits_in_the_bound_socket() {
    let python = "import socket,sys\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\ns.sendto(b'Hello world!',('127.0.0.1',int(sys.argv[1])))\nprint(s.getsockname()[0])";
    for (tool, args) in [
        ("nc", vec!["-u", "-w", "1", "127.0.0.1", "PORT"]),
        ("ncat", vec!["-u", "127.0.0.1", "PORT"]),
        ("socat", vec!["-", "UDP4:127.0.0.1:PORT"]),
        ("python3", vec!["-c", python, "PORT"]),
    ] {
        if skip_without(!have(tool), tool, "apt-get install netcat-openbsd ncat socat python3") {
            continue;
        }
        let (_hold, addr) = hold(&["--type=dgram"]);
        assert_eq!(udp_row(addr).unwrap().recv_queue, 0);
        let port = addr.port().to_string();
        let args = args.iter().map(|arg| arg.replace("PORT", &port));
        let mut peer = Role::spawn(Command::new(tool).args(args)).unwrap();
        if tool == "python3" {
            peer.wait_for("0.0.0.0\n").unwrap(); // what the lecture saw after its sendto
        } else {
            peer.type_line("Hello world!").unwrap();
        }
        arrived(addr, tool);
        // ss shows the same number.
        if !skip_without(!have("ss"), "ss", "apt-get install iproute2") {
            let shown = run(Command::new("ss").args(["-Huan", &format!("sport = :{port}")]));
            let recv_queue = shown.stdout.split_whitespace().nth(1).map(str::to_string);
            assert_eq!(recv_queue, Some(udp_row(addr).unwrap().recv_queue.to_string()), "{tool}: {}", shown.stdout);
        }
    }
}

#[test]
fn a_bound_tcp_socket_refuses_foreign_clients() {
    let python = "import socket,sys\ns=socket.socket()\nprint('errno',s.connect_ex(('127.0.0.1',int(sys.argv[1]))))";
    let (_hold, addr) = hold(&["--type=stream"]);
    let port = addr.port().to_string();
    for (tool, args, says) in [
        ("nc", vec!["-v", "127.0.0.1", &port], "refused"),
        ("ncat", vec!["127.0.0.1", &port], "refused"),
        ("socat", vec!["-", &format!("TCP4:{addr}")], "refused"),
        ("python3", vec!["-c", python, &port], "errno 111"),
    ] {
        if skip_without(!have(tool), tool, "apt-get install netcat-openbsd ncat socat python3") {
            continue;
        }
        let Finished { stdout, stderr, .. } = run(Command::new(tool).args(args));
        assert!(format!("{stdout}{stderr}").contains(says), "{tool}: {stdout}{stderr}");
    }
}

#[test]
fn a_foreign_receiver_and_hold_keep_each_other_out() {
    let python = "import socket,sys\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\ns.bind(('127.0.0.1',int(sys.argv[1])))\nprint(s.recv(100).decode(),flush=True)";
    for (tool, args) in [
        ("nc", vec!["-u", "-l", "127.0.0.1", "PORT"]),
        ("socat", vec!["-u", "UDP4-RECV:PORT,bind=127.0.0.1", "-"]),
        ("python3", vec!["-c", python, "PORT"]),
    ] {
        if skip_without(!have(tool), tool, "apt-get install netcat-openbsd socat python3") {
            continue;
        }
        // hold has the port: the other program cannot bind it.
        let (mut hold, addr) = hold_at(&free_again(20_000), &["--type=dgram"]);
        let port = addr.port().to_string();
        let args: Vec<_> = args.iter().map(|arg| arg.replace("PORT", &port)).collect();
        let refused = run(Command::new(tool).args(&args));
        assert_ne!(refused.code(), 0, "{tool} has bound {addr} too: {refused:?}");
        assert!(refused.stderr.contains("Address already in use"), "{tool}: {refused:?}");
        // It lets go of it: the other one binds it and receives, and hold cannot have it back.
        hold.type_line("").unwrap();
        hold.wait_for_end().unwrap();
        let mut receiver = Role::spawn(Command::new(tool).args(&args)).unwrap();
        wait_until(&format!("{tool} on {addr}"), LIMIT, || Ok(udp_row(addr))).unwrap();
        assert_eq!(failed(Command::new(LAB).args(["hold", &addr.to_string()])), in_use(addr), "{tool}");
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.send_to(b"Hello world!\n", addr).unwrap();
        receiver.wait_for("Hello world!").unwrap();
    }
}

#[test]
fn another_programs_c_library_reads_the_addresses_as_the_demo_does() {
    if skip_without(!have("python3"), "python3", "apt-get install python3") {
        return;
    }
    for text in ["10.10.10.06", "010.010.010.06", "127.0.0.010"] {
        let python = format!("import socket; print(socket.inet_ntoa(socket.inet_aton('{text}')))");
        let read = run(Command::new("python3").args(["-c", &python])).stdout;
        let line =
            DEMO.finished.stdout.lines().find(|line| line.starts_with(&format!("C library getaddrinfo(\"{text}\")")));
        assert_eq!(line.unwrap().split_whitespace().last(), Some(read.trim()));
    }
}

#[test]
fn pause_waits_before_each_call() {
    let mut hold =
        Role::spawn(Command::new(LAB).args(["hold", "127.0.0.1:0", "--reuse-addr", "--reuse-port", "--pause"]))
            .unwrap();
    let calls = ["socket(AF_INET, SOCK_DGRAM, 0)", "setsockopt(", "setsockopt(", "bind(", "getsockname("];
    for call in calls {
        hold.wait_for(&format!("next: {call}")).unwrap();
        assert!(!hold.printed().contains("Socket is bound"), "it did not wait before {call}");
        hold.type_line("").unwrap();
    }
    hold.wait_for("Socket is bound to").unwrap();
    hold.wait_for("Press Enter").unwrap();
    hold.type_line("").unwrap();
    hold.wait_for("next: close(").unwrap();
    assert!(!hold.printed().contains("Terminating"));
    hold.type_line("").unwrap();
    hold.wait_for("Terminating ...\n").unwrap();
    ends_well(&mut hold);
}

#[test]
fn ctrl_c_ends_a_pause_too_and_the_port_is_free_again() {
    let mut paused = Role::spawn(Command::new(LAB).args(["hold", "127.0.0.1:0", "--type=stream", "--pause"])).unwrap();
    paused.wait_for("next: socket(AF_INET, SOCK_STREAM, 0)").unwrap();
    interrupt(&mut paused);

    let (mut hold, addr) = hold_at(&free_again(28_000), &["--type=stream"]);
    signal(&hold, Signal::SIGTERM);
    hold.wait_for("Terminating ...\n").unwrap();
    ends_well(&mut hold);
    hold_at(&addr.to_string(), &["--type=stream"]);
}

#[test]
fn errors_name_the_call_the_address_the_errno_and_a_command_that_helps() {
    let failed = |args: &[&str]| failed(Command::new(LAB).arg("hold").args(args));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    // std has set SO_REUSEADDR, but a listening socket shares with nobody.
    assert_eq!(failed(&[&addr.to_string(), "--type=stream", "--reuse-addr"]), in_use(addr));
    let expected = "lab02: bind 192.0.2.1:7777: EADDRNOTAVAIL (99) Cannot assign requested address\n  \
                    hint: see the addresses of this machine: ip addr\n";
    assert_eq!(failed(&["192.0.2.1:7777"]), (1, expected.into()));
    for wrong in ["65536", "127.0.0.1:", "127.0.0.1:65536", ":7777", "a b", ""] {
        let (code, stderr) = failed(&[wrong]);
        assert_eq!(code, 2, "{wrong}");
        assert!(stderr.contains("such as 7777, 127.0.0.1:7777 or [::1]:7777"), "{wrong}: {stderr}");
    }
    let (code, stderr) = failed(&["--type=raw"]);
    assert!(code == 2 && stderr.contains("[possible values: stream, dgram]"), "{stderr}");
}

#[test]
fn a_port_alone_is_enough_and_a_type_has_two_names() {
    let port = free_again(12_000).rsplit(':').next().unwrap().to_string();
    assert_eq!(hold_at(&port, &[]).1.to_string(), format!("127.0.0.1:{port}"));
    assert_eq!(hold_at(&format!("127.0.0.2:{port}"), &["--type=tcp"]).1.to_string(), format!("127.0.0.2:{port}"));
    assert!(hold_at("0", &[]).1.ip().is_loopback());
}

#[test]
fn a_privileged_port_is_refused_to_an_ordinary_account_and_root_may_have_it() {
    for (option, addr) in
        [("--type=dgram", "127.0.0.1:1"), ("--type=stream", "127.0.0.1:1"), ("--type=stream", "0.0.0.0:1")]
    {
        testkit::assert_privileged_port_is_refused(LAB, &["hold", addr, option], addr);
    }
    if only_for_root() {
        return;
    }
    let start = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    let start: u16 = start.trim().parse().unwrap();
    if start == 0 {
        return; // no port is privileged: the skip above has said so
    }
    // Not every one may be free.
    let may = (1..start).rev().take(50).any(|port| {
        let Finished { stdout, stderr, .. } = run(Command::new(LAB).args(["hold", &format!("127.0.0.1:{port}")]));
        assert!(!stderr.contains("EACCES"), "{stderr}");
        stdout.contains("Socket is bound to")
    });
    assert!(may);
}

#[test]
fn the_demo_needs_no_privileges() {
    testkit::assert_demo_needs_no_privileges(LAB);
}

#[test]
fn a_folder_that_only_root_may_enter_does_not_keep_the_ordinary_account_from_playing() {
    let folder = TempDir::new();
    let copy = copy_program(LAB, &folder);
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let played = run(Command::new(copy).args(["demo", "below-1024"]));
    assert_eq!(played.code(), 0, "{}{}", played.stdout, played.stderr);
    assert!(played.stdout.contains("verdict   ANSWERED"), "{}", played.stdout);
    if geteuid().is_root() {
        assert!(played.stdout.contains("account   uid 65534 runs "), "{}", played.stdout);
    }
}
