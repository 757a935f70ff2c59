//! Runs the real binary: the demo, the programs against each other and against foreign peers, and what goes wrong.
#![allow(clippy::unwrap_used)]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::LazyLock,
    time::Duration,
};

use kernel::{Pair, State, tcp_socket, wait_for_state, wait_until};
use nix::sys::signal::Signal;
use testkit::{Demo, Role, ends_well, failed, have, interrupt, root, run, signal, skip_without, step};

const LAB: &str = env!("CARGO_BIN_EXE_lab12-broken-pipe");
const LIMIT: Duration = Duration::from_secs(10);
static DEMO: LazyLock<Demo> = LazyLock::new(|| Demo::play(LAB));

/// The server on a port of the kernel's choice.
fn server() -> (Role, SocketAddr) {
    let mut server = Role::spawn(Command::new(LAB).args(["server", "127.0.0.1:0"])).unwrap();
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

/// A line each way, so that both kernels have measured the way: their timers may start from what the machine remembers
/// of an earlier connection (ip tcp_metrics), and a test that cut its cable may have left a slow one.
fn measured(client: &mut Role, server: &mut Role) {
    types(client, "measure", "Sent 8 bytes\n");
    server.wait_for("Received 8 bytes").unwrap();
    types(server, "measure", "Sent 8 bytes\n");
    client.wait_for("Received 8 bytes").unwrap();
}

/// Types a line and waits until the program has done what it asks for.
fn types(role: &mut Role, line: &str, answer: &str) {
    role.type_line(line).unwrap();
    role.wait_for(answer).unwrap();
}

fn is_in(end: Pair, state: Option<State>) {
    wait_for_state(end, state, LIMIT).unwrap();
}

fn send_queue(end: Pair) -> u32 {
    tcp_socket(end).unwrap().unwrap().send_queue
}

#[test]
fn the_demo_decides_every_claim_as_recorded() {
    DEMO.assert_verdicts(&[
        ("cut", "CORRECTED"),
        ("killed", "CORRECTED"),
        ("one-lost", "CONFIRMED"),
        ("who-learns", "CORRECTED"),
        ("new-connect", "ANSWERED"),
        ("link-down", "CORRECTED"),
        ("moved", "CONFIRMED"),
        ("gone", "ANSWERED"),
    ]);
}

#[test]
fn the_printed_calls_are_those_strace_saw() {
    testkit::assert_printed_calls_are_real_with(LAB, "on-hosts");
}

#[test]
fn a_new_build_while_the_demo_runs_changes_no_verdict() {
    testkit::assert_a_new_build_changes_no_verdict(&DEMO);
}

#[test]
fn the_command_line_keeps_the_rules_of_all_labs() {
    testkit::assert_common_rules(LAB, &["server", "127.0.0.1:0"], " is in listening state");
}

#[test]
fn the_sheet_quotes_a_real_run() {
    testkit::assert_sheet_quotes_a_run("lab12-broken-pipe", &DEMO);
}

#[test]
fn lines_go_both_ways_and_the_end_of_input_ends_the_client_not_the_server() {
    let (mut server, addr) = server();
    let (mut client, end) = client(addr, &[]);
    server.wait_for(&format!("New client connected from {}\n", end.local)).unwrap();
    types(&mut client, "to the server", "Sent 14 bytes\n");
    server.wait_for("Received 14 bytes: \"to the server\\n\"\n").unwrap();
    types(&mut server, "to the client", "Sent 14 bytes\n");
    client.wait_for("Received 14 bytes: \"to the client\\n\"\n").unwrap();
    client.input.as_mut().unwrap().write_all(b"no newline").unwrap();
    client.input = None;
    server.wait_for("Received 10 bytes: \"no newline\"\nEnd of stream\nClosed the client's socket\n").unwrap();
    client.wait_for("End of stream\nClosed the socket\nTerminating ...\n").unwrap();
    ends_well(&mut client);

    server.input = None; // the end of its input says nothing to its clients
    let (mut next, end) = self::client(addr, &[]);
    server.wait_for(&format!("New client connected from {}\n", end.local)).unwrap();
    types(&mut next, "still here", "Sent 11 bytes\n");
    server.wait_for("Received 11 bytes").unwrap();
    is_in(end, Some(State::Established));
}

#[test]
fn a_line_waits_while_the_cable_is_out_and_arrives_once_it_is_in() {
    let (mut server, addr) = server();
    let (mut client, end) = client(addr, &[]);
    measured(&mut client, &mut server);
    types(&mut server, "/unplug", "Unplugged: what arrives here is dropped\n");
    types(&mut client, "/unplug", "Unplugged: what arrives here is dropped\n");
    types(&mut client, "one", "Sent 4 bytes\n");
    types(&mut server, "two", "Sent 4 bytes\n");
    for role in [&mut client, &mut server] {
        role.wait_for("  ESTABLISHED, Send-Q 4, sent again ").unwrap();
        role.wait_for(", timer ").unwrap();
    }
    assert_eq!((send_queue(end), send_queue(end.other_end())), (4, 4));
    assert!(!server.printed().contains("one") && !client.printed().contains("two"));
    types(&mut server, "/plug", "Plugged in\n");
    types(&mut client, "/plug", "Plugged in\n");
    server.wait_for("Received 4 bytes: \"one\\n\"\n").unwrap();
    server.wait_for("  ESTABLISHED, Send-Q 0: all is acknowledged\n").unwrap();
    client.wait_for("all is acknowledged\n").unwrap();
    assert!(client.printed().contains("Received 4 bytes: \"two\\n\"\n"));
}

#[test]
fn a_cable_cut_at_one_end_stops_what_arrives_there_and_nothing_else() {
    let (mut server, addr) = server();
    let (mut client, end) = client(addr, &[]);
    measured(&mut client, &mut server);
    types(&mut client, "/unplug", "Unplugged");
    types(&mut client, "out", "Sent 4 bytes\n");
    server.wait_for("Received 4 bytes: \"out\\n\"\n").unwrap();
    client.wait_for("  ESTABLISHED, Send-Q 4, sent again ").unwrap(); // the acknowledgement was dropped
    types(&mut server, "in", "Sent 3 bytes\n");
    server.wait_for("Send-Q 3, sent again").unwrap();
    assert!(!client.printed().contains("\"in"), "{}", client.printed());
    is_in(end, Some(State::Established));
}

#[test]
fn what_was_typed_before_the_command_is_sent_before_it() {
    let (mut server, addr) = server();
    let (mut client, _) = client(addr, &[]);
    types(&mut server, "/unplug\nheard\n/plug\n/unplug", "Unplugged"); // one write, four lines
    server.wait_for("Sent 6 bytes\nPlugged in\nUnplugged").unwrap();
    client.wait_for("Received 6 bytes: \"heard\\n\"\n").unwrap();
}

#[test]
fn keepalive_ends_an_idle_connection_and_its_server_is_not_told() {
    let (mut server, addr) = server();
    let (mut client, end) = client(addr, &["--keepalive", "1,1,1"]);
    types(&mut server, "/unplug", "Unplugged");
    types(&mut client, "/unplug", "Unplugged");
    client.wait_for("recv: ETIMEDOUT (Connection timed out)\nClosed the socket\nTerminating ...\n").unwrap();
    ends_well(&mut client);
    is_in(end, None);
    is_in(end.other_end(), Some(State::Established));
}

#[test]
fn the_user_timeout_ends_a_connection_whose_bytes_are_not_acknowledged() {
    let (mut server, addr) = server();
    let (mut client, end) = client(addr, &["--user-timeout", "1"]);
    measured(&mut client, &mut server);
    types(&mut server, "/unplug", "Unplugged");
    types(&mut client, "/unplug", "Unplugged");
    types(&mut client, "nobody hears", "Sent 13 bytes\n");
    client.wait_for("recv: ETIMEDOUT (Connection timed out)\n").unwrap();
    ends_well(&mut client);
    is_in(end, None);
    is_in(end.other_end(), Some(State::Established));
}

#[test]
fn the_server_drops_a_client_that_resets_and_goes_on_with_the_next() {
    let (mut server, addr) = server();
    let sock = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    sock.connect(&addr.into()).unwrap();
    server.wait_for("New client connected").unwrap();
    sock.set_linger(Some(Duration::ZERO)).unwrap();
    drop(sock);
    server.wait_for("recv: ECONNRESET (Connection reset by peer)\nClosed the client's socket\n").unwrap();
    let (_client, end) = client(addr, &[]);
    server.wait_for(&format!("New client connected from {}\n", end.local)).unwrap();
}

#[test]
fn more_than_the_kernel_takes_waits_and_arrives_whole() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (mut client, _) = client(listener.local_addr().unwrap(), &[]);
    let mut conn = listener.accept().unwrap().0;
    conn.set_read_timeout(Some(LIMIT)).unwrap();
    let line = "x".repeat(10_000_000);
    let mut input = client.input.take().unwrap();
    let typing = std::thread::spawn(move || input.write_all(line.as_bytes()));
    let mut heard = 0;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match conn.read(&mut buffer).unwrap() {
            0 => break,
            bytes_read => heard += bytes_read,
        }
    }
    typing.join().unwrap().unwrap();
    assert_eq!(heard, 10_000_000);
    drop(conn);
    ends_well(&mut client);
}

#[test]
fn foreign_clients_are_heard() {
    let (mut server, addr) = server();
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.write_all(b"esc\x1b[2J\n").unwrap();
    server.wait_for("Received 8 bytes: \"esc\\u{1b}[2J\\n\"\n").unwrap(); // no raw escapes
    drop(stream);
    let port = addr.port().to_string();
    let socat = format!("TCP4:{addr}");
    for (tool, args) in
        [("nc", vec!["-N", "127.0.0.1", &port]), ("ncat", vec!["127.0.0.1", &port]), ("socat", vec!["-", &socat])]
    {
        if skip_without(!have(tool), tool, "apt-get install netcat-openbsd ncat socat") {
            continue;
        }
        let mut peer = Role::spawn(Command::new(tool).args(args)).unwrap();
        server.wait_for("New client connected").unwrap();
        types(&mut server, "hello", "Sent 6 bytes\n");
        peer.wait_for("hello\n").unwrap();
        peer.type_line("eleven byte").unwrap();
        server.wait_for("Received 12 bytes: \"eleven byte\\n\"\n").unwrap();
        peer.input = None;
        server.wait_for("Closed the client's socket\n").unwrap();
    }
}

#[test]
fn a_client_talks_to_a_foreign_server_also_over_ipv6() {
    for any_port in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(listener) = TcpListener::bind(any_port) else { continue }; // no IPv6 here
        let (mut client, _) = client(listener.local_addr().unwrap(), &[]);
        let mut conn = listener.accept().unwrap().0;
        conn.set_read_timeout(Some(LIMIT)).unwrap();
        types(&mut client, "measure", "Sent 8 bytes\n");
        conn.read_exact(&mut [0; 8]).unwrap();
        conn.write_all(b"measure\n").unwrap();
        client.wait_for("Received 8 bytes").unwrap();
        types(&mut client, "/unplug", "Unplugged");
        conn.write_all(b"late\n").unwrap();
        types(&mut client, "hello", "Sent 6 bytes\n");
        let mut heard = [0; 6];
        conn.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello\n");
        client.wait_for("sent again ").unwrap();
        assert!(!client.printed().contains("late"), "{}", client.printed());
        types(&mut client, "/plug", "Plugged in\n");
        client.wait_for("Received 5 bytes: \"late\\n\"\n").unwrap();
        drop(conn);
        client.wait_for("End of stream\n").unwrap();
        ends_well(&mut client);
    }
}

#[test]
fn ctrl_c_ends_each_role_wherever_it_waits() {
    let (mut server, addr) = server();
    let (mut client, _) = client(addr, &[]);
    measured(&mut client, &mut server);
    types(&mut server, "/unplug", "Unplugged");
    types(&mut client, "not acknowledged", "sent again");
    interrupt(&mut client);
    interrupt(&mut server);

    // A connect whose SYN finds a full queue waits; so does an accept.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let full = listener.local_addr().unwrap();
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
    let _first = TcpStream::connect(full).unwrap();
    let mut connecting = Role::spawn(Command::new(LAB).args(["client", &full.to_string()])).unwrap();
    connecting.wait_for("TCP Socket created\n").unwrap();
    interrupt(&mut connecting);
}

#[test]
fn pause_waits_before_each_call() {
    let start = |args: &[&str]| Role::spawn(Command::new(LAB).args(args).arg("--pause")).unwrap();
    let mut server = start(&["server", "127.0.0.1:0"]);
    step(&mut server, &["socket(AF_INET, SOCK_STREAM, 0)", "setsockopt(", "bind("]);
    let line = server.line_with("Socket is bound to ").unwrap();
    let addr = line.trim().rsplit(' ').next().unwrap().to_string();
    step(&mut server, &["listen(", "accept("]);
    let mut client = start(&["client", &addr, "--keepalive", "9,8,7", "--user-timeout", "3"]);
    let options =
        ["SO_KEEPALIVE, 1", "TCP_KEEPIDLE, 9", "TCP_KEEPINTVL, 8", "TCP_KEEPCNT, 7", "TCP_USER_TIMEOUT, 3000"];
    step(&mut client, &["socket("]);
    for option in options {
        client.wait_for("next: setsockopt(").unwrap();
        client.wait_for(option).unwrap();
        client.type_line("").unwrap();
    }
    step(&mut client, &["connect("]);
    client.wait_for("Local end-point").unwrap();
    client.type_line("hello").unwrap();
    step(&mut client, &["send("]);
    step(&mut server, &["recv("]);
    server.wait_for("Received 6 bytes").unwrap();
    client.type_line("/unplug").unwrap();
    client.wait_for("next: setsockopt(").unwrap();
    client.wait_for("SOL_IP, IP_MINTTL, 255)").unwrap();
    client.type_line("").unwrap();
    client.wait_for("Unplugged").unwrap();
    signal(&server, Signal::SIGTERM);
    ends_well(&mut server);
    interrupt(&mut client);
}

#[test]
fn errors_name_the_call_the_address_the_errno_and_a_command_that_helps() {
    testkit::assert_addresses_are_refused(LAB, "server", "client");
    let failed = |args: &[&str]| failed(Command::new(LAB).args(args));
    for usage in [
        &["server", "77777"][..],
        &["client", "127.0.0.1:0"],
        &["client", "--keepalive", "1,1"],
        &["client", "--keepalive", "0,1,1"],
        &["client", "--keepalive", "1,1,128"],
        &["client", "--user-timeout", "0"],
        &["on-hosts", "moved"],
    ] {
        assert_eq!(failed(usage).0, 2, "{usage:?}");
    }
}

#[test]
fn the_hidden_role_changes_no_network_but_one_of_its_own() {
    let here = kernel::namespace::own().unwrap();
    let (code, stderr) = failed(Command::new(LAB).args(["on-hosts", "moved", &here]));
    assert_eq!(code, 1);
    assert!(stderr.contains("start it in unshare -Urn"), "{stderr}");
}

#[test]
fn a_closed_pipe_ends_a_role_quietly() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut server = Command::new(LAB);
    server.args(["server", "127.0.0.1:0"]).stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped());
    let finished = server.spawn().unwrap().wait_with_output().unwrap();
    assert_eq!((finished.status.code(), finished.stderr), (Some(141), Vec::new()));
}

#[test]
fn an_ordinary_account_can_do_everything_but_a_privileged_port() {
    testkit::assert_demo_needs_no_privileges(LAB);
    testkit::assert_privileged_port_is_refused(LAB, &["server", "127.0.0.1:1"], "127.0.0.1:1");
}

#[test]
fn a_demo_that_is_killed_leaves_no_namespace_and_no_process() {
    let mut demo = Role::spawn(Command::new(LAB).args(["demo", "moved", "--pause"])).unwrap();
    let answered = demo.wait_for("nsenter --preserve-credentials -U -n -t ");
    if skip_without(answered.is_err(), "two hosts", "scripts/check.sh says what is missing") {
        return;
    }
    let pid = demo.wait_for(" ").unwrap();
    let alive = format!("/proc/{pid}");
    assert!(std::fs::exists(&alive).unwrap());
    signal(&demo, Signal::SIGKILL);
    // Its network namespace goes with the last process that is in it.
    wait_until("the end of the hidden role", LIMIT, || Ok((!std::fs::exists(&alive)?).then_some(()))).unwrap();
}

#[test]
fn ss_and_states_sh_show_the_unacknowledged_bytes_and_the_timer() {
    let (mut server, addr) = server();
    let (mut client, end) = client(addr, &[]);
    measured(&mut client, &mut server);
    types(&mut server, "/unplug", "Unplugged");
    types(&mut client, "hello", "sent again ");
    let shown = run(Command::new(root().join("scripts/states.sh")).arg(addr.port().to_string()));
    assert!(shown.stdout.contains("ESTABLISHED"), "{}", shown.stdout);
    if skip_without(!have("ss"), "ss", "apt-get install iproute2") {
        return;
    }
    let filter = format!("sport = :{} and dport = :{}", end.local.port(), end.peer.port());
    let shown = run(Command::new("ss").args(["-Htano", &filter]));
    let words: Vec<&str> = shown.stdout.split_whitespace().collect();
    assert_eq!(words[..3], ["ESTAB", "0", "6"], "{}", shown.stdout);
    assert!(shown.stdout.contains("timer:(on,"), "{}", shown.stdout);
}
