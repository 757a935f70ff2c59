//! Runs the real binary: the demo, the programs against each other and against foreign peers, and what goes wrong.
#![allow(clippy::unwrap_used)]

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::LazyLock,
    time::Duration,
};

use kernel::{Pair, State, tcp_socket, wait_for_state, wait_until};
use nix::sys::signal::Signal;
use testkit::{Demo, Role, ends_well, failed, have, root, run, signal, skip_without, step};

const LAB: &str = env!("CARGO_BIN_EXE_lab09-shutdown");
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
fn client(addr: SocketAddr, how: &str) -> (Role, Pair) {
    let mut client = Role::spawn(Command::new(LAB).args(["client", &addr.to_string(), "--how", how])).unwrap();
    let line = client.line_with("Local end-point is bound to ").unwrap();
    let local = line.trim().rsplit(' ').next().unwrap().parse().unwrap();
    (client, Pair { local, peer: addr })
}

/// A foreign listener and its address.
fn foreign_listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

fn accepted(listener: &TcpListener) -> TcpStream {
    let stream = listener.accept().unwrap().0;
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

fn is_in(end: Pair, state: Option<State>) {
    wait_for_state(end, state, LIMIT).unwrap();
}

#[test]
fn the_demo_decides_every_claim_as_recorded() {
    DEMO.assert_verdicts(&[
        ("half-close", "CONFIRMED"),
        ("shut-rd", "CORRECTED"),
        ("unread-input", "ANSWERED"),
        ("send-after", "ANSWERED"),
        ("first-send", "CORRECTED"),
        ("shut-rdwr", "CORRECTED"),
        ("linger-0", "ANSWERED"),
        ("descriptor", "CONFIRMED"),
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
    testkit::assert_common_rules(LAB, &["server", "127.0.0.1:0"], " is in listening state");
}

#[test]
fn the_sheet_quotes_a_real_run() {
    testkit::assert_sheet_quotes_a_run("lab09-shutdown", &DEMO);
}

#[test]
fn shut_wr_ends_the_request_and_the_answer_still_comes() {
    let (mut server, addr) = server();
    let (mut client, end) = client(addr, "wr");
    client.wait_for("Sent 20 bytes\nCalled shutdown(SHUT_WR)\nPress Enter to receive ...").unwrap();
    server.wait_for(&format!("New client connected from {}\n", end.local)).unwrap();
    server.wait_for("End of stream after 20 bytes\nPress Enter to answer ...\n").unwrap();
    is_in(end, Some(State::FinWait2));
    is_in(end.other_end(), Some(State::CloseWait));
    server.type_line("").unwrap();
    server.wait_for("Sent 18 bytes\nClosed the client's socket\n").unwrap();
    is_in(end, Some(State::TimeWait));
    is_in(end.other_end(), None);
    client.type_line("").unwrap(); // what came is still there to be read
    client.wait_for("Received 18 bytes: \"20 bytes received\\n\"\nEnd of stream\nTerminating ...\n").unwrap();
    ends_well(&mut client);
}

#[test]
fn shut_rd_tells_the_server_nothing_and_an_empty_recv_returns_at_once() {
    let (mut server, addr) = server();
    let (mut client, end) = client(addr, "rd");
    client.wait_for("Called shutdown(SHUT_RD)\n").unwrap();
    server.wait_for("Received 20 bytes\n").unwrap();
    is_in(end, Some(State::Established));
    is_in(end.other_end(), Some(State::Established));
    client.type_line("").unwrap();
    client.wait_for("recv returned 0\nTerminating ...\n").unwrap();
    ends_well(&mut client);
    server.wait_for("End of stream after 20 bytes\n").unwrap();
}

#[test]
fn after_shut_rd_what_a_foreign_server_sends_is_received() {
    let (listener, addr) = foreign_listener();
    let (mut client, end) = client(addr, "rd");
    client.wait_for("Press Enter to receive ...\n").unwrap();
    let mut conn = accepted(&listener);
    conn.write_all(b"abc").unwrap();
    conn.shutdown(Shutdown::Write).unwrap();
    is_in(end, Some(State::CloseWait));
    client.type_line("").unwrap();
    client.wait_for("Received 3 bytes: \"abc\"\nrecv returned 0\n").unwrap();
    ends_well(&mut client);
}

#[test]
fn after_shut_rdwr_what_a_foreign_server_sends_draws_a_reset() {
    let (listener, addr) = foreign_listener();
    let (mut client, end) = client(addr, "rdwr");
    client.wait_for("Press Enter to receive ...\n").unwrap();
    let mut conn = accepted(&listener);
    is_in(end, Some(State::FinWait2));
    conn.write_all(b"abc").unwrap();
    is_in(end, None);
    is_in(end.other_end(), None);
    assert_eq!(conn.write(b"more").unwrap_err().kind(), ErrorKind::BrokenPipe);
    client.type_line("").unwrap();
    client.wait_for("recv: ECONNRESET (Connection reset by peer)\nTerminating ...\n").unwrap();
    ends_well(&mut client);
}

#[test]
fn what_came_before_shut_rdwr_is_still_received() {
    let (listener, addr) = foreign_listener();
    let mut client =
        Role::spawn(Command::new(LAB).args(["client", &addr.to_string(), "--how", "rdwr", "--pause"])).unwrap();
    for call in ["socket(", "connect(", "send("] {
        client.wait_for(&format!("next: {call}")).unwrap();
        client.type_line("").unwrap();
    }
    client.wait_for("next: shutdown(").unwrap();
    let mut conn = accepted(&listener);
    conn.write_all(b"abc").unwrap();
    let end = Pair { local: conn.peer_addr().unwrap(), peer: addr };
    wait_until("the bytes", LIMIT, || Ok(tcp_socket(end)?.filter(|row| row.recv_queue == 3))).unwrap();
    client.input = None; // no further pauses
    client.wait_for("Received 3 bytes: \"abc\"\nrecv returned 0\n").unwrap();
    ends_well(&mut client);
}

#[test]
fn close_ends_the_request_and_the_answer_meets_a_reset() {
    let (mut server, addr) = server();
    let (mut client, end) = client(addr, "close");
    client.wait_for("Closed the socket\nTerminating ...\n").unwrap();
    ends_well(&mut client);
    server.wait_for("End of stream after 20 bytes\n").unwrap();
    is_in(end, Some(State::FinWait2));
    server.type_line("").unwrap();
    server.wait_for("Sent 18 bytes\n").unwrap(); // the first send always succeeds
    is_in(end, None);
    is_in(end.other_end(), None);
}

#[test]
fn reset_tells_the_server_of_no_end_and_leaves_nothing_behind() {
    let (mut server, addr) = server();
    let (mut client, end) = client(addr, "reset");
    ends_well(&mut client);
    server.wait_for("recv: ECONNRESET (Connection reset by peer)\n").unwrap();
    is_in(end, None);
    is_in(end.other_end(), None);
    // The server goes on with the next client.
    let (_client, end) = self::client(addr, "wr");
    server.wait_for(&format!("New client connected from {}\n", end.local)).unwrap();
}

#[test]
fn without_standard_input_both_go_through_without_waiting() {
    let (mut server, addr) = server();
    server.input = None;
    let client = run(Command::new(LAB).args(["client", &addr.to_string(), "--message", "hello"]));
    assert_eq!(client.code(), 0, "{client:?}");
    assert!(client.stdout.ends_with("Received 17 bytes: \"5 bytes received\\n\"\nEnd of stream\nTerminating ...\n"));
    let empty = run(Command::new(LAB).args(["client", &addr.to_string(), "--message", ""]));
    assert!(empty.stdout.contains("Received 17 bytes: \"0 bytes received\\n\"\n"), "{empty:?}");
    let long = "x".repeat(100_000);
    let long = run(Command::new(LAB).args(["client", &addr.to_string(), "--message", &long]));
    assert!(long.stdout.contains("100000 bytes received"), "{long:?}");
}

#[test]
fn foreign_clients_that_half_close_get_their_answer() {
    let (mut server, addr) = server();
    server.input = None;
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(b"hello").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "5 bytes received\n");
    testkit::assert_foreign_clients_get(addr, "eleven byte", "12 bytes received\n");
}

#[test]
fn a_foreign_server_gets_the_whole_request_and_its_answer_is_shown() {
    if skip_without(!have("python3"), "python3", "apt-get install python3") {
        return;
    }
    let python = "import socket\nl=socket.socket()\nl.bind(('127.0.0.1',0))\nl.listen(1)\nprint(l.getsockname()[1],flush=True)\nc,_=l.accept()\nd=b''\nwhile True:\n b=c.recv(7)\n if not b: break\n d+=b\nc.sendall(d[::-1])\nc.close()";
    let mut server = Role::spawn(Command::new("python3").args(["-c", python])).unwrap();
    let port: u16 = server.wait_for("\n").unwrap().parse().unwrap();
    let shown =
        run(Command::new(LAB).args(["client", &format!("127.0.0.1:{port}"), "--message", "stressed\u{1b}desserts"]));
    assert_eq!(shown.code(), 0, "{shown:?}");
    assert!(shown.stdout.contains("Received 17 bytes: \"stressed\\u{1b}desserts\"\n"), "{shown:?}"); // no raw escapes
}

#[test]
fn a_server_that_resets_is_an_event_not_a_failure() {
    let (listener, addr) = foreign_listener();
    let (mut client, end) = client(addr, "wr");
    client.wait_for("Press Enter to receive ...\n").unwrap();
    is_in(end, Some(State::FinWait2));
    drop(accepted(&listener)); // with the request unread: a reset
    is_in(end, None);
    client.type_line("").unwrap();
    client.wait_for("recv: ECONNRESET (Connection reset by peer)\nTerminating ...\n").unwrap();
    ends_well(&mut client);
}

#[test]
fn ctrl_c_ends_each_role_wherever_it_waits() {
    let (mut receiving, addr) = server();
    let _silent = TcpStream::connect(addr).unwrap();
    receiving.wait_for("New client connected").unwrap();
    let (mut answering, addr) = server();
    let (mut waiting, _) = client(addr, "wr");
    answering.wait_for("Press Enter to answer ...").unwrap();
    waiting.wait_for("Press Enter to receive ...").unwrap();
    let (listener, addr) = foreign_listener();
    let (mut in_recv, _) = client(addr, "wr");
    in_recv.wait_for("Press Enter to receive ...\n").unwrap();
    in_recv.type_line("").unwrap();
    for role in [&mut receiving, &mut waiting, &mut answering, &mut in_recv] {
        signal(role, Signal::SIGINT);
        ends_well(role);
    }
    drop(listener);
}

#[test]
fn pause_waits_before_each_call() {
    let start = |args: &[&str]| Role::spawn(Command::new(LAB).args(args).arg("--pause")).unwrap();
    let mut server = start(&["server", "127.0.0.1:0"]);
    step(&mut server, &["socket(AF_INET, SOCK_STREAM, 0)", "setsockopt(", "bind("]);
    let line = server.line_with("Socket is bound to ").unwrap();
    let addr = line.trim().rsplit(' ').next().unwrap().to_string();
    step(&mut server, &["listen(", "accept("]);
    let mut client = start(&["client", &addr]);
    step(&mut client, &["socket(", "connect(", "send(", "shutdown("]);
    step(&mut server, &["recv(", "recv("]);
    server.wait_for("Press Enter to answer ...").unwrap();
    server.type_line("").unwrap();
    step(&mut server, &["send(", "close("]);
    client.wait_for("Press Enter to receive ...").unwrap();
    client.type_line("").unwrap();
    step(&mut client, &["recv(", "recv(", "close("]);
    ends_well(&mut client);
    let mut reset = start(&["client", &addr, "--how", "reset"]);
    step(&mut reset, &["socket(", "connect(", "send(", "setsockopt(", "close("]);
    ends_well(&mut reset);
    signal(&server, Signal::SIGTERM);
    ends_well(&mut server);
}

#[test]
fn errors_name_the_call_the_address_the_errno_and_a_command_that_helps() {
    testkit::assert_addresses_are_refused(LAB, "server", "client");
    let failed = |args: &[&str]| failed(Command::new(LAB).args(args));
    for usage in [&["server", "77777"][..], &["client", "127.0.0.1:65536"], &["client", "--how", "abort"]] {
        assert_eq!(failed(usage).0, 2, "{usage:?}");
    }
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
fn the_verdicts_hold_whatever_sigpipe_is_when_the_demo_starts() {
    for action in ["trap '' PIPE", "trap - PIPE"] {
        let play = format!("{action}; exec \"$0\" demo send-after");
        let played = run(Command::new("bash").args(["-c", &play, LAB]).stdin(Stdio::null()));
        assert_eq!(played.code(), 0, "{action}: {}", played.stdout);
    }
}

#[test]
fn ss_and_states_sh_show_the_half_close_as_the_lab_says() {
    let (mut server, addr) = server();
    let (_client, end) = client(addr, "wr");
    server.wait_for("Press Enter to answer ...").unwrap();
    is_in(end, Some(State::FinWait2));
    let shown = run(Command::new(root().join("scripts/states.sh")).arg(addr.port().to_string()));
    assert!(shown.stdout.contains("FIN-WAIT-2") && shown.stdout.contains("CLOSE-WAIT"), "{}", shown.stdout);
    if skip_without(!have("ss"), "ss", "apt-get install iproute2") {
        return;
    }
    for (end, state) in [(end, "FIN-WAIT-2"), (end.other_end(), "CLOSE-WAIT")] {
        let filter = format!("sport = :{} and dport = :{}", end.local.port(), end.peer.port());
        let shown = run(Command::new("ss").args(["-Htan", &filter]));
        assert!(shown.stdout.starts_with(state), "{}", shown.stdout);
    }
}
