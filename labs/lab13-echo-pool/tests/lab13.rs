//! Runs the real binary: the demo, both servers against our clients and foreign ones, a load, and what goes wrong.
#![allow(clippy::unwrap_used)]

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::Command,
    sync::LazyLock,
    time::Duration,
};

use kernel::{State, tcp_sockets};
use nix::sys::signal::Signal;
use socket2::SockRef;
use testkit::{Demo, Role, descriptors, ends_well, failed, have, run, signal, skip_without, step, wait_until};

const LAB: &str = env!("CARGO_BIN_EXE_lab13-echo-pool");
const LIMIT: Duration = Duration::from_secs(10);
static DEMO: LazyLock<Demo> = LazyLock::new(|| Demo::play(LAB));
const SINGLE: &[&str] = &["server-single", "0"];

/// A server on a port of the kernel's choice.
fn server(arguments: &[&str]) -> (Role, SocketAddr) {
    testkit::serving(Command::new(LAB).args(arguments), "Listening on ")
}

fn connected(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

fn echoed(stream: &mut TcpStream, text: &[u8]) {
    stream.write_all(text).unwrap();
    let mut echo = vec![0; text.len()];
    stream.read_exact(&mut echo).unwrap();
    assert_eq!(echo, text);
}

/// Nothing of the server's connections is left but TIME-WAIT.
fn nothing_is_left(addr: SocketAddr) {
    let left = || tcp_sockets(addr.port()).unwrap().into_iter().filter(|row| row.state == State::CloseWait).count();
    wait_until("no CLOSE-WAIT", LIMIT, || Ok((left() == 0).then_some(()))).unwrap();
}

#[test]
fn the_demo_decides_every_claim_as_recorded() {
    DEMO.assert_verdicts(&[
        ("one-at-a-time", "CORRECTED"),
        ("three-queues", "ANSWERED"),
        ("silent-clients", "ANSWERED"),
        ("completed", "CORRECTED"),
        ("left-early", "ANSWERED"),
        ("stop", "ANSWERED"),
        ("host-name", "ANSWERED"),
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
    testkit::assert_common_rules(LAB, &["server-multi", "0"], "Listening on ");
}

#[test]
fn the_sheet_quotes_a_real_run() {
    testkit::assert_sheet_quotes_a_run("lab13-echo-pool", &DEMO);
}

#[test]
fn an_ordinary_account_can_do_everything_but_a_privileged_port() {
    testkit::assert_demo_needs_no_privileges(LAB);
    for role in ["server-single", "server-multi"] {
        testkit::assert_privileged_port_is_refused(LAB, &[role, "1"], "127.0.0.1:1");
    }
}

#[test]
fn the_client_asks_for_a_string_and_shows_its_echo() {
    for arguments in [SINGLE, &["server-multi", "0", "2", "2"]] {
        let (mut server, addr) = server(arguments);
        // The manual's order, and the other one.
        let port = addr.port().to_string();
        for place in [["localhost", &port], [&port, "127.0.0.1"]] {
            let mut client = Role::spawn(Command::new(LAB).arg("client").args(place)).unwrap();
            client.wait_for(&format!("Socket created and connected to port {port} of ")).unwrap();
            client.wait_for("Give me a string to send to the server: ").unwrap();
            client.type_line("Hello TCP \u{20ac}\u{1b}[2J").unwrap();
            client.wait_for("from the server: Hello TCP \u{20ac}\\u{1b}[2J\n").unwrap(); // no raw escapes
            ends_well(&mut client);
            server.wait_for("echoed 17 bytes, end of stream\n").unwrap();
        }
    }
}

#[test]
fn the_single_server_serves_one_after_the_other() {
    let (mut server, addr) = server(SINGLE);
    let mut first = connected(addr);
    echoed(&mut first, b"first");
    let mut second = connected(addr);
    second.write_all(b"second").unwrap();
    assert!(!server.printed().contains(&second.local_addr().unwrap().to_string()));
    drop(first);
    let mut echo = [0; 6];
    second.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"second");
    server.wait_for(&format!("accepted from {}\n", second.local_addr().unwrap())).unwrap();
}

#[test]
fn the_pool_serves_as_many_as_it_has_threads() {
    let (_server, addr) = server(&["server-multi", "0", "3", "1"]);
    let mut streams = [(); 3].map(|()| connected(addr));
    for round in 0..3 {
        streams.iter_mut().for_each(|stream| echoed(stream, format!("round {round}").as_bytes()));
    }
    // A stream of more than both buffers hold goes through while it is read.
    let (mut out, mut back) = (streams[0].try_clone().unwrap(), Vec::new());
    let sent: Vec<u8> = (0..5_000_000).map(|at: u32| at as u8).collect();
    let sending = sent.clone();
    let sender = std::thread::spawn(move || {
        out.write_all(&sending).unwrap();
        out.shutdown(Shutdown::Write).unwrap();
    });
    streams[0].read_to_end(&mut back).unwrap();
    sender.join().unwrap();
    assert!(back == sent, "{} bytes of {}", back.len(), sent.len());
}

#[test]
fn a_load_loses_no_echo_while_one_client_of_ten_resets() {
    let (mut server, addr) = server(&["server-multi", "0", "8", "4", "--quiet"]);
    let idle = descriptors(server.pid());
    let addr_text = addr.to_string();
    for kept in [&[][..], &["--kept"]] {
        let load = ["load", &addr_text, "--clients", "20", "--requests", "20", "--resets"];
        let load = run(Command::new(LAB).args(load).args(kept));
        assert_eq!(load.code(), 0, "{load:?}");
        assert!(load.stdout.contains("360 echoes in "), "{load:?}");
        assert!(load.stdout.contains("40 connections reset by this program\n0 echoes lost\n"), "{load:?}");
    }
    nothing_is_left(addr);
    wait_until("all descriptors back", LIMIT, || Ok((descriptors(server.pid()) == idle).then_some(()))).unwrap();
    signal(&server, Signal::SIGINT);
    ends_well(&mut server);
}

#[test]
fn a_load_notices_a_server_that_echoes_something_else_or_nothing() {
    for answer in [&b"not what you sent"[..], b""] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let wrong = std::thread::spawn(move || {
            let (mut conn, _) = listener.accept().unwrap();
            conn.read_exact(&mut [0; 1]).unwrap();
            conn.write_all(answer).unwrap();
        });
        let load = run(Command::new(LAB).args(["load", &addr, "--clients", "1", "--requests", "1"]));
        wrong.join().unwrap();
        assert_eq!(load.code(), 1, "{load:?}");
        assert!(load.stdout.contains("1 echoes lost\nlost: client 0, request 1: "), "{load:?}");
    }
}

#[test]
fn silent_clients_hold_the_pool_until_their_deadline() {
    let (mut server, addr) = server(&["server-multi", "0", "1", "1", "--deadline", "1"]);
    let _silent = connected(addr);
    let mut patient = connected(addr);
    echoed(&mut patient, b"served after the silent one");
    server.wait_for("then nothing in time: closed\n").unwrap();
    // One who sends and never reads is silent, too: its echo finds no room.
    let mut deaf = connected(addr);
    drop(patient);
    deaf.set_nonblocking(true).unwrap();
    let block = vec![0; 1 << 20];
    wait_until("the server to give up", LIMIT, || {
        let _ = deaf.write(&block); // EAGAIN once all buffers are full
        Ok((server.printed().matches("nothing in time: closed").count() >= 2).then_some(()))
    })
    .unwrap();
}

#[test]
fn a_client_that_resets_costs_a_line_and_no_thread() {
    let (mut server, addr) = server(&["server-multi", "0", "1", "1"]);
    for _ in 0..3 {
        let mut rude = connected(addr);
        echoed(&mut rude, b"x");
        SockRef::from(&rude).set_linger(Some(Duration::ZERO)).unwrap();
        drop(rude); // RST
        server.wait_for("echoed 1 byte, recv: ECONNRESET (Connection reset by peer)\n").unwrap();
    }
    echoed(&mut connected(addr), b"still there");
}

#[test]
fn ctrl_c_finishes_what_was_accepted_also_where_main_waits_for_room() {
    let (mut server, addr) = server(&["server-multi", "0", "1", "1", "--deadline", "0"]);
    let mut streams = [(); 4].map(|()| connected(addr));
    for stream in &mut streams {
        stream.write_all(b"please").unwrap();
    }
    server.wait_for(&format!("serves {}", streams[0].local_addr().unwrap())).unwrap();
    signal(&server, Signal::SIGINT);
    for stream in &mut streams {
        let mut echo = Vec::new();
        stream.read_to_end(&mut echo).unwrap();
        assert_eq!(echo, b"please");
    }
    ends_well(&mut server);
}

#[test]
fn ctrl_c_ends_each_role_wherever_it_waits() {
    let (mut single, single_addr) = server(SINGLE);
    let _silent = connected(single_addr);
    single.wait_for("One connection accepted").unwrap();
    let (mut multi, multi_addr) = server(&["server-multi", "0"]);
    let mut client = Role::spawn(Command::new(LAB).args(["client", &multi_addr.to_string()])).unwrap();
    client.wait_for("Give me a string").unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut waiting =
        Role::spawn(Command::new(LAB).args(["client", &silent.local_addr().unwrap().to_string()])).unwrap();
    waiting.type_line("no echo").unwrap();
    silent.accept().unwrap().0.read_exact(&mut [0; 7]).unwrap(); // and closed: an end the client reports
    assert_eq!(waiting.wait_for_end().unwrap().code(), Some(1));
    let mut load =
        Role::spawn(Command::new(LAB).args(["load", &multi_addr.to_string(), "--clients", "4", "--seconds", "60"]))
            .unwrap();
    load.wait_for(" echoes\n").unwrap();
    for role in [&mut client, &mut load, &mut single, &mut multi] {
        signal(role, Signal::SIGINT);
        ends_well(role);
    }
}

#[test]
fn foreign_clients_get_their_echo() {
    let (_server, addr) = server(&["server-multi", "0", "2", "2"]);
    testkit::assert_foreign_clients_get(addr, "Hello TCP", "Hello TCP\n");
}

#[test]
fn a_foreign_server_that_cuts_the_echo_is_noticed() {
    if skip_without(!have("python3"), "python3", "apt-get install python3") {
        return;
    }
    let python = "import socket\nl=socket.socket()\nl.bind(('127.0.0.1',0))\nl.listen(1)\nprint(l.getsockname()[1],flush=True)\nfor n in (100,3):\n c,_=l.accept()\n c.sendall(c.recv(100)[:n])\n c.close()";
    let mut server = Role::spawn(Command::new("python3").args(["-c", python])).unwrap();
    let port = server.wait_for("\n").unwrap();
    let mut whole = Role::spawn(Command::new(LAB).args(["client", &port])).unwrap();
    whole.type_line("echo").unwrap();
    whole.wait_for("from the server: echo\n").unwrap();
    ends_well(&mut whole);
    let mut cut = Command::new(LAB);
    let child = cut.args(["client", &port]).stdin(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = child.stdout(std::process::Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"echo\n").unwrap();
    let finished = child.wait_with_output().unwrap();
    assert_eq!(finished.status.code(), Some(1));
    let told = String::from_utf8_lossy(&finished.stderr).into_owned();
    assert!(told.contains("closed the connection after 3 of 4 bytes"), "{told}");
}

#[test]
fn pause_waits_before_each_call() {
    let start = |args: &[&str]| Role::spawn(Command::new(LAB).args(args).arg("--pause")).unwrap();
    for role in ["server-single", "server-multi"] {
        let mut server = start(&[role, "0"]);
        step(&mut server, &["socket(AF_INET, SOCK_STREAM, 0)", "setsockopt(", "bind(", "listen("]);
        let line = server.line_with("Listening on ").unwrap();
        step(&mut server, &["accept("]);
        let mut client = start(&["client", line.rsplit(' ').next().unwrap()]);
        step(&mut client, &["socket(", "connect("]);
        client.wait_for("Give me a string").unwrap();
        client.type_line("hello").unwrap();
        step(&mut client, &["send(", "shutdown("]);
        ends_well(&mut client);
        signal(&server, Signal::SIGTERM);
        ends_well(&mut server);
    }
}

#[test]
fn errors_name_the_call_the_address_the_errno_and_a_command_that_helps() {
    testkit::assert_addresses_are_refused(LAB, "server-single", "load");
    let failed = |args: &[&str]| failed(Command::new(LAB).args(args));
    for usage in [
        &["server-multi", "0", "0"][..],
        &["server-multi", "0", "10", "1025"],
        &["server-single", "77777"],
        &["server-single", "--deadline", "-1"],
        &["load", "127.0.0.1:0"],
        &["load", "--clients", "0"],
        &["client", "a b"],
    ] {
        assert_eq!(failed(usage).0, 2, "{usage:?}");
    }
}
