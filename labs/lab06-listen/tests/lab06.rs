//! Runs the real binary: the demo, the programs against each other and against foreign peers, and what goes wrong.
#![allow(clippy::unwrap_used)]

use std::{
    net::{SocketAddr, TcpStream},
    process::Command,
    sync::LazyLock,
    time::Duration,
};

use kernel::namespace::NAMESPACE;
use nix::sys::signal::Signal;
use testkit::{
    Demo, Role, TempDir, ends_well, failed, have, interrupt, path_with, root, run, signal, skip_without, wait_until,
};

const LAB: &str = env!("CARGO_BIN_EXE_lab06-listen");
const LIMIT: Duration = Duration::from_secs(10);
static DEMO: LazyLock<Demo> = LazyLock::new(|| Demo::play(LAB));

/// `listen` or `server` on a port of the kernel's choice.
fn listening(role: &str, backlog: &str) -> (Role, SocketAddr) {
    let mut role = Role::spawn(Command::new(LAB).args([role, "127.0.0.1:0", "--backlog", backlog])).unwrap();
    let line = role.line_with(" is in listening state").unwrap();
    let addr = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    (role, addr)
}

/// The client, once it has called connect.
fn client(addr: SocketAddr) -> Role {
    let mut client = Role::spawn(Command::new(LAB).args(["client", &addr.to_string()])).unwrap();
    client.wait_for("TCP Socket created\n").unwrap();
    client
}

#[test]
fn the_demo_decides_every_claim_as_recorded() {
    DEMO.assert_verdicts(&[
        ("before-accept", "CORRECTED"),
        ("backlog", "CORRECTED"),
        ("full-queue", "CORRECTED"),
        ("not-listening", "CORRECTED"),
        ("new-socket", "ANSWERED"),
        ("listener-io", "CONFIRMED"),
        ("close-listener", "ANSWERED"),
        ("no-connect", "CORRECTED"),
    ]);
}

#[test]
fn the_printed_calls_are_those_strace_saw() {
    testkit::assert_printed_calls_are_real(LAB);
}

#[test]
fn the_command_line_keeps_the_rules_of_all_labs() {
    testkit::assert_common_rules(LAB, &["listen", "127.0.0.1:0"], "Press Enter to terminate ...");
}

#[test]
fn the_sheet_quotes_a_real_run() {
    testkit::assert_sheet_quotes_a_run("lab06-listen", &DEMO);
}

#[test]
fn server_and_client_name_the_same_two_addresses() {
    let (mut server, addr) = listening("server", "0");
    let mut client = client(addr);
    client.wait_for(&format!("Socket connected to {addr}\n")).unwrap();
    let local = client.line_with("Local end-point is bound to ").unwrap();
    let client_addr = local.rsplit(' ').next().unwrap();
    server.wait_for(&format!("New client connected from {client_addr}\n")).unwrap();
    server.wait_for(&format!("Local end-point socket bound on: {addr}\n")).unwrap();
    for role in [&mut client, &mut server] {
        role.wait_for("Press Enter to terminate ...\n").unwrap();
        role.type_line("").unwrap();
        role.wait_for("Terminating ...\n").unwrap();
        ends_well(role);
    }
}

#[test]
fn a_port_an_address_and_a_name_are_understood() {
    let (_listener, addr) = listening("listen", "5");
    for place in [format!("{}", addr.port()), format!("localhost:{}", addr.port()), format!("0.0.0.0:{}", addr.port())]
    {
        let mut client = Role::spawn(Command::new(LAB).args(["client", &place])).unwrap();
        client.wait_for("Socket connected to ").unwrap();
        interrupt(&mut client);
    }
    for place in ["0", "127.0.0.2:0"] {
        let mut listener = Role::spawn(Command::new(LAB).args(["listen", place])).unwrap();
        listener.wait_for(" is in listening state").unwrap();
        interrupt(&mut listener);
    }
}

#[test]
fn settings_that_leave_no_room_in_the_queue_are_named_and_nothing_hangs() {
    if skip_without(!(NAMESPACE.met)(), NAMESPACE.what, NAMESPACE.provided_by) {
        return;
    }
    for (setting, skipped) in [
        ("net.core.somaxconn=0", &["backlog", "new-socket", "close-listener"][..]),
        ("net.core.somaxconn=1", &["backlog", "new-socket", "close-listener"]),
        ("net.ipv4.tcp_fastopen=0", &["no-connect"]),
        ("net.ipv4.tcp_max_tw_buckets=0", &[]),
        ("net.ipv4.tcp_abort_on_overflow=1", &[]),
    ] {
        let set = format!("ip link set lo up && sysctl -qw {setting} && exec \"$0\"");
        let demo = run(Command::new("unshare").args(["-Urn", "sh", "-c", &set, LAB]));
        assert_eq!(demo.code(), 0, "{setting}: {demo:?}");
        for name in ["backlog", "new-socket", "close-listener", "no-connect"] {
            let row = demo.stdout.lines().rfind(|line| line.split_whitespace().any(|word| word == name)).unwrap();
            assert_eq!(row.contains(" SKIPPED "), skipped.contains(&name), "{setting}: {row}");
        }
    }
}

#[test]
fn being_stopped_and_continued_changes_no_verdict() {
    testkit::assert_stops_change_no_verdict(LAB);
}

#[test]
fn with_backlog_1_two_clients_get_in_and_the_third_says_that_it_waits() {
    let (mut listener, addr) = listening("listen", "1");
    let mut inside = [client(addr), client(addr)];
    for client in &mut inside {
        client.wait_for("Socket connected to ").unwrap();
    }
    let mut third = client(addr);
    third.wait_for("No answer yet (SYN-SENT)").unwrap();
    interrupt(&mut third);
    // End of input ends the listener too; those who waited are reset, which a socket that never reads does not notice.
    listener.input = None;
    ends_well(&mut listener);
}

#[test]
fn foreign_clients_are_let_in_before_and_by_accept() {
    let (_listener, addr) = listening("listen", "5");
    let foreign = TcpStream::connect(addr).unwrap();
    assert_eq!(foreign.peer_addr().unwrap(), addr);
    for (tool, args) in [("nc", vec!["127.0.0.1"]), ("ncat", vec!["127.0.0.1"]), ("socat", vec!["-"])] {
        if skip_without(!have(tool), tool, "apt-get install netcat-openbsd ncat socat") {
            continue;
        }
        let (mut server, addr) = listening("server", "0");
        let mut command = Command::new(tool);
        command.args(args);
        match tool {
            "socat" => command.arg(format!("TCP4:{addr}")),
            _ => command.arg(addr.port().to_string()),
        };
        let _peer = Role::spawn(&mut command).unwrap();
        server.wait_for("New client connected from 127.0.0.1:").unwrap();
    }
}

#[test]
fn a_foreign_server_is_connected_to() {
    if skip_without(!have("python3"), "python3", "apt-get install python3") {
        return;
    }
    let python = "import socket\ns=socket.socket()\ns.bind(('127.0.0.1',0))\ns.listen(0)\nprint(s.getsockname()[1],flush=True)\nprint('from',s.accept()[1][1],flush=True)\ninput()";
    let mut server = Role::spawn(Command::new("python3").args(["-c", python])).unwrap();
    let port: u16 = server.wait_for("\n").unwrap().parse().unwrap();
    let mut client = client(SocketAddr::from(([127, 0, 0, 1], port)));
    let local = client.line_with("Local end-point is bound to 127.0.0.1:").unwrap();
    server.wait_for(&format!("from {}\n", local.rsplit(':').next().unwrap())).unwrap();
}

#[test]
fn ctrl_c_ends_each_role_while_it_waits() {
    let (mut listener, addr) = listening("listen", "0");
    let (mut server, _) = listening("server", "0"); // in accept
    let mut client = client(addr);
    client.wait_for("Press Enter to terminate ...").unwrap();
    for role in [&mut client, &mut server, &mut listener] {
        signal(role, Signal::SIGINT);
        ends_well(role);
    }
}

#[test]
fn pause_waits_before_each_call() {
    let mut server = Role::spawn(Command::new(LAB).args(["server", "127.0.0.1:0", "--pause"])).unwrap();
    for call in ["socket(AF_INET, SOCK_STREAM, 0)", "setsockopt(", "bind(", "listen(", "accept("] {
        server.wait_for(&format!("next: {call}")).unwrap();
        server.type_line("").unwrap();
    }
    signal(&server, Signal::SIGTERM);
    ends_well(&mut server);
}

#[test]
fn errors_name_the_call_the_address_the_errno_and_a_command_that_helps() {
    testkit::assert_addresses_are_refused(LAB, "listen", "client");
    let failed = |args: &[&str]| failed(Command::new(LAB).args(args));
    let (code, stderr) = failed(&["client", "127.0.0.1:0"]);
    assert!(code == 2 && stderr.contains("nobody is at port 0"), "{code} {stderr}");
    for usage in [&["listen", "77777"][..], &["client", "127.0.0.1:65536"], &["listen", "--backlog", "many"]] {
        assert_eq!(failed(usage).0, 2, "{usage:?}");
    }
}

#[test]
fn an_ordinary_account_can_do_everything_but_a_privileged_port() {
    testkit::assert_demo_needs_no_privileges(LAB);
    testkit::assert_privileged_port_is_refused(LAB, &["listen", "127.0.0.1:1"], "127.0.0.1:1");
}

#[test]
fn backlog_sh_shows_who_waits_and_who_is_not_let_in_from_each_source() {
    let (_listener, addr) = listening("listen", "0");
    let _first = TcpStream::connect(addr).unwrap();
    let mut second = client(addr);
    second.wait_for("No answer yet").unwrap();
    for tools in [&["ss"][..], &["netstat"], &[]] {
        if skip_without(!tools.iter().all(|tool| have(tool)), "ss and netstat", "apt-get install iproute2 net-tools") {
            continue;
        }
        let folder = TempDir::new();
        let path = path_with(&folder, tools);
        let script = root().join("scripts/backlog.sh");
        let shown = run(Command::new(script).env("PATH", path).arg(addr.port().to_string()));
        assert_eq!(shown.code(), 0, "{shown:?}");
        let limit = if tools == ["ss"] { "0" } else { "?" };
        assert!(shown.stdout.contains(&format!("LISTEN    {addr}  waiting 1, limit {limit}\n")), "{}", shown.stdout);
        assert!(shown.stdout.contains("\nSYN-SENT  127.0.0.1:"), "{}", shown.stdout);
        assert!(shown.stdout.contains("\noverflows ") && !shown.stdout.contains("overflows ?"), "{}", shown.stdout);
    }
    wait_until("the watch to draw twice", LIMIT, || {
        let mut watch =
            Role::spawn(Command::new(root().join("scripts/backlog.sh")).args([&addr.port().to_string(), "--watch"]))?;
        watch.wait_for("LISTEN")?;
        watch.wait_for("LISTEN")?;
        signal(&watch, Signal::SIGINT);
        Ok((watch.wait_for_end()?.code() == Some(0)).then_some(()))
    })
    .unwrap();
}
