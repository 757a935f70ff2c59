//! Runs the real binary: the demo, the two programs against each other and against foreign peers, and what goes wrong.
#![allow(clippy::unwrap_used)]

use std::{
    cell::Cell,
    fs,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use kernel::{Pair, namespace::NAMESPACE, tcp_socket};
use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    signal::Signal,
};
use proptest::{collection::vec, prelude::*, test_runner::TestRunner};
use shared::SplitMix64;
use socket2::{Domain, Socket, Type};
use testkit::{
    Demo, Finished, NOBODY, Role, TempDir, descriptors, ends_well, failed, have, nobody, run, signal, skip_without,
    wait_until,
};

const LAB: &str = env!("CARGO_BIN_EXE_lab07-multiclient");
const LIMIT: Duration = Duration::from_secs(10);
static DEMO: LazyLock<Demo> = LazyLock::new(|| Demo::play(LAB));

thread_local! {
    /// Which of the two servers this test is about; the harness runs each test in a thread of its own.
    static ROLE: Cell<&'static str> = const { Cell::new("server") };
}

/// The same test, with the server that waits with epoll.
fn with_epoll(test: fn()) {
    ROLE.set("server-epoll");
    test();
}

/// The server on a port of the kernel's choice.
fn server(options: &[&str]) -> (Role, SocketAddr) {
    let role = ROLE.get();
    let four = if role == "server" || options.contains(&"--max-clients") { &[][..] } else { &["--max-clients", "4"] };
    server_by(Command::new(LAB).args([role, "0"]).args(four).args(options))
}

fn server_by(command: &mut Command) -> (Role, SocketAddr) {
    let mut server = Role::spawn(command).unwrap();
    let banner = server.line_with("> Server bound to IP : ").unwrap();
    let port = banner.rsplit(' ').next().unwrap().parse().unwrap();
    (server, SocketAddr::from(([127, 0, 0, 1], port)))
}

fn client(addr: SocketAddr) -> Role {
    let mut client = Role::spawn(Command::new(LAB).args(["client", &addr.port().to_string()])).unwrap();
    client.wait_for("> Enter string : ").unwrap();
    client
}

/// A foreign client: a socket of the standard library, let in by the server.
fn let_in(server: &mut Role, addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    server.wait_for(&format!("> New connection [{}]\n", stream.local_addr().unwrap())).unwrap();
    stream
}

/// Reads to the end of the stream; an error instead of it fails the test.
fn to_the_end(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn read_exactly(stream: &mut TcpStream, expected: &str) {
    let mut bytes = vec![0; expected.len()];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(String::from_utf8_lossy(&bytes), expected);
}

#[test]
fn the_demo_decides_every_claim_as_recorded() {
    DEMO.assert_verdicts(&[
        ("swapped-ports", "CORRECTED"),
        ("who-may-bind", "CORRECTED"),
        ("fifth", "ANSWERED"),
        ("other-ways", "ANSWERED"),
        ("slot-freed", "ANSWERED"),
        ("one-line", "ANSWERED"),
        ("no-reader", "ANSWERED"),
        ("while-typing", "ANSWERED"),
        ("idle-cost", "ANSWERED"),
        ("storm", "ANSWERED"),
    ]);
}

#[test]
fn the_printed_calls_are_those_strace_saw() {
    testkit::assert_printed_calls_are_real(LAB);
}

#[test]
fn the_command_line_keeps_the_rules_of_all_labs() {
    testkit::assert_common_rules(LAB, &["server", "0"], "> Server bound to");
}

#[test]
fn the_sheet_quotes_a_real_run() {
    testkit::assert_sheet_quotes_a_run("lab07-multiclient", &DEMO);
}

#[test]
fn the_seven_steps_of_the_handout_work() {
    // 1 and 2: bind, three clients.
    let (mut server, addr) = server(&[]);
    let mut clients = [client(addr), client(addr), client(addr)];
    for _ in &clients {
        server.wait_for("> New connection [127.0.0.1:").unwrap();
    }
    // 3: each sends a line; the prompt comes after the last of them, not before.
    let lines =
        [("Line 1 sending to server", "revres ot gnidnes 1 eniL"), ("racecar", "racecar"), ("taco cat", "tac ocat")];
    for (client, (typed, shown)) in clients.iter_mut().zip(lines) {
        assert!(!server.printed().contains("Enter message"));
        client.type_line(typed).unwrap();
        server.wait_for(&format!("] Client message = {shown}\n")).unwrap();
    }
    server.wait_for("> Enter message to send to all clients : ").unwrap();
    // 4 and 5: one line to all, shown reversed, ready again.
    server.type_line("I have 3 clients").unwrap();
    for client in &mut clients {
        client.wait_for("> Server response : stneilc 3 evah I\n> Enter string : ").unwrap();
    }
    // 6: exit.
    clients[2].type_line("exit").unwrap();
    clients[2].wait_for("> Closing client...\n").unwrap();
    ends_well(&mut clients[2]);
    server.wait_for("> Closing connection for client [127.0.0.1:").unwrap();
    // 7: room for two more, not for three.
    let more = [client(addr), client(addr)];
    let fifth = run(Command::new(LAB).args(["client", &addr.port().to_string()]));
    assert_eq!(fifth.code(), 1);
    assert!(fifth.stdout.contains("\n! Server rejected due to too many clients\n> Closing client...\n"), "{fifth:?}");
    drop(more);
    for mut client in clients.into_iter().take(2) {
        client.type_line("still here").unwrap();
        server.wait_for("] Client message = ereh llits\n").unwrap();
    }
}

#[test]
fn the_handouts_own_arguments_and_ipv6_and_a_name_reach_the_server() {
    for (bind, host) in [("0.0.0.0", "0.0.0.0"), ("127.0.0.1", "localhost"), ("::1", "::1"), ("::1", "[::1]")] {
        let (mut server, addr) = server(&["--bind", bind]);
        let mut client = Role::spawn(Command::new(LAB).args(["client", &addr.port().to_string(), host])).unwrap();
        client.wait_for("> Enter string : ").unwrap();
        client.type_line("racecar").unwrap();
        server.wait_for("] Client message = racecar\n").unwrap();
    }
}

#[test]
fn the_operator_may_speak_before_anybody_else_and_an_exclamation_mark_is_kept_for_notices() {
    let (mut server, addr) = server(&[]);
    server.type_line("anybody?").unwrap();
    server.wait_for("> not sent: no client is connected\n").unwrap();
    let mut stream = let_in(&mut server, addr);
    server.type_line("! Server rejected due to too many clients").unwrap();
    server.wait_for("> not sent: a line that starts with !").unwrap();
    server.type_line("hello").unwrap();
    read_exactly(&mut stream, "hello\n");
}

#[test]
fn what_a_client_sent_before_it_left_still_arrives() {
    let (mut server, addr) = server(&[]);
    for (typed, way) in
        [("last words\nexit\nnot this\n", "exit"), ("last words\n", "end of input"), ("last words", "no newline")]
    {
        let mut client = Command::new(LAB)
            .args(["client", &addr.port().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        client.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
        let output = client.wait_with_output().unwrap();
        assert!(output.status.success(), "{way}: {output:?}");
        server.wait_for("] Client message = sdrow tsal\n").unwrap();
        server.wait_for("> Closing connection for client [").unwrap();
    }
    assert!(!server.printed().contains("siht ton"));
}

#[test]
fn a_fifth_is_told_why_and_closed_without_a_reset_even_if_it_talks() {
    let (mut server, addr) = server(&[]);
    let mut inside: Vec<_> = (0..4).map(|_| let_in(&mut server, addr)).collect();
    for _ in 0..20 {
        let mut fifth = TcpStream::connect(addr).unwrap();
        fifth.set_read_timeout(Some(LIMIT)).unwrap();
        fifth.write_all(&[b'x'; 100_000]).unwrap();
        assert_eq!(to_the_end(&mut fifth), "! Server rejected due to too many clients\n");
    }
    // The four noticed nothing, and once one leaves the next gets in.
    inside.pop().unwrap().shutdown(Shutdown::Both).unwrap();
    server.wait_for("> Closing connection for client [").unwrap();
    inside.push(let_in(&mut server, addr));
    server.type_line("to four").unwrap();
    for stream in &mut inside {
        read_exactly(stream, "to four\n");
    }
}

#[test]
fn max_clients_moves_the_limit() {
    let (mut server, addr) = server(&["--max-clients", "1"]);
    let _first = let_in(&mut server, addr);
    let mut second = TcpStream::connect(addr).unwrap();
    assert_eq!(to_the_end(&mut second), "! Server rejected due to too many clients\n");
}

#[test]
fn a_client_that_never_reads_delays_nobody_and_is_dropped_with_a_reset() {
    let (mut server, addr) = server(&[]);
    let (mut reader, mut silent) = (let_in(&mut server, addr), let_in(&mut server, addr));
    let line = "x".repeat(60_000);
    let mut lines = 0;
    while !server.printed().contains("> Dropped client [") {
        assert!(lines < 1000, "60 MB and it is still in");
        server.type_line(&line).unwrap();
        read_exactly(&mut reader, &format!("{line}\n"));
        lines += 1;
    }
    let dropped = server.line_with("> Dropped client [").unwrap();
    assert!(dropped.contains(&silent.local_addr().unwrap().to_string()), "{dropped}");
    let error = silent.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::ECONNRESET));
}

#[test]
fn an_overlong_line_invalid_utf8_and_a_cut_line_each_have_their_outcome() {
    let (mut server, addr) = server(&[]);
    let mut stream = let_in(&mut server, addr);
    stream.write_all(format!("{}\n{}\nab\u{e4}", "y".repeat(65_536), "x".repeat(65_537)).as_bytes()).unwrap();
    server.wait_for(&format!("] Client message = {}\n", "y".repeat(65_536))).unwrap();
    server.wait_for("] Client message thrown away: longer than 65536 bytes\n").unwrap();
    read_exactly(&mut stream, "! your line was thrown away: longer than 65536 bytes\n");
    stream.write_all(b"\xff\ntab\there\n").unwrap();
    server.wait_for("] Client message thrown away: not UTF-8 from byte 4 on\n").unwrap();
    read_exactly(&mut stream, "! your line was thrown away: not UTF-8 from byte 4 on\n");
    server.wait_for("] Client message = ereh\\tbat\n").unwrap();
    stream.write_all(b"half a li").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    server.wait_for("] Client message (cut by the disconnect) = il a flah\n").unwrap();
    assert_eq!(to_the_end(&mut stream), "");
}

#[test]
fn a_client_that_resets_is_named_and_the_server_stays() {
    let (mut server, addr) = server(&[]);
    let stream = let_in(&mut server, addr);
    reset(stream);
    server.wait_for("> Lost client [").unwrap();
    server.wait_for("]: ECONNRESET (104) Connection reset by peer\n").unwrap();
    let_in(&mut server, addr).write_all(b"racecar\n").unwrap();
    server.wait_for("] Client message = racecar\n").unwrap();
}

#[test]
fn without_a_free_descriptor_whoever_connects_waits_and_gets_in_later() {
    // bash's own ulimit, then the server in its place: 0, 1, 2, signalfd, listener, and room for five clients, or for epoll
    // and four.
    let role = ROLE.get();
    let start = format!("ulimit -n 10; exec \"$0\" {role} 0 --max-clients 100");
    let (mut server, addr) = server_by(Command::new("bash").args(["-c", &start, LAB]));
    let room = if role == "server" { 5 } else { 4 };
    let mut inside: Vec<_> = (0..room).map(|_| let_in(&mut server, addr)).collect();
    let waiting = TcpStream::connect(addr).unwrap();
    server.wait_for("> accept: EMFILE (24) Too many open files; whoever connects now waits\n").unwrap();
    server.type_line("all well").unwrap();
    for stream in &mut inside {
        read_exactly(stream, "all well\n");
    }
    // Not a busy loop: waiting costs next to nothing.
    let before = cpu_ticks(&server);
    server.wait_for_within("never printed", Duration::from_millis(1500)).unwrap_err();
    assert!(cpu_ticks(&server) - before < 20, "the server spins while it waits");
    drop(inside.pop());
    server.wait_for(&format!("> New connection [{}]\n", waiting.local_addr().unwrap())).unwrap();
}

/// User and system time of a process so far, in hundredths of a second.
fn cpu_ticks(role: &Role) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", role.pid())).unwrap();
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn five_thousand_random_byte_strings_leave_the_server_as_it_was() {
    let (mut server, addr) = server(&[]);
    let before = descriptors(server.pid());
    let mut witness = let_in(&mut server, addr);
    let config = ProptestConfig { cases: 5000, failure_persistence: None, ..ProptestConfig::default() };
    let bytes = vec(any::<u8>().prop_map(|byte| if byte % 16 == 0 { b'\n' } else { byte }), 0..200);
    let outcome = TestRunner::new(config).run(&(bytes, any::<bool>()), |(bytes, in_good_order)| {
        let mut stream = TcpStream::connect(addr)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.write_all(&bytes)?;
        if in_good_order {
            stream.shutdown(Shutdown::Write)?;
            let mut heard = String::new();
            stream.read_to_string(&mut heard)?;
            // While earlier ones are still leaving, this one may have been one too many.
            prop_assert!(heard.lines().all(|line| line.starts_with("! ")), "{heard}");
        }
        Ok(())
    });
    outcome.unwrap();
    witness.write_all(b"racecar\n").unwrap();
    server.wait_for("] Client message = racecar\n").unwrap();
    server.type_line("well").unwrap();
    read_exactly(&mut witness, "well\n");
    drop(witness);
    wait_until("all descriptors closed", LIMIT, || Ok((descriptors(server.pid()) == before).then_some(()))).unwrap();
}

#[test]
fn foreign_clients_talk_and_listen() {
    let python = "import socket,sys\ns=socket.create_connection(('127.0.0.1',int(sys.argv[1])))\ns.sendall(b'racecar\\n')\nprint(s.makefile().readline(),end='')";
    for (tool, args) in [
        ("nc", vec!["-N", "127.0.0.1"]),
        ("ncat", vec!["127.0.0.1"]),
        ("socat", vec!["-"]),
        ("python3", vec!["-c", python]),
    ] {
        if skip_without(!have(tool), tool, "apt-get install netcat-openbsd ncat socat python3") {
            continue;
        }
        let (mut server, addr) = server(&[]);
        let mut command = Command::new(tool);
        command.args(args);
        if tool == "socat" {
            command.arg(format!("TCP4:{addr}"));
        } else {
            command.arg(addr.port().to_string());
        }
        let mut peer = Role::spawn(&mut command).unwrap();
        server.wait_for("> New connection [127.0.0.1:").unwrap();
        if tool != "python3" {
            peer.type_line("racecar").unwrap();
        }
        server.wait_for("] Client message = racecar\n").unwrap();
        server.type_line("as typed").unwrap();
        peer.wait_for("as typed\n").unwrap();
        peer.input = None;
        server.wait_for("> Closing connection for client [").unwrap();
        peer.wait_for_end().unwrap();
    }
}

#[test]
fn a_foreign_server_is_served_too() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = client(listener.local_addr().unwrap());
    let (mut stream, _) = listener.accept().unwrap();
    client.type_line("taco cat").unwrap();
    read_exactly(&mut stream, "taco cat\n");
    stream.write_all(b"! a notice\r\nI have 3 cl").unwrap();
    client.wait_for("\n! a notice\n").unwrap();
    stream.write_all(b"ients\n\xff\n").unwrap();
    client.wait_for("> Server response : stneilc 3 evah I\n").unwrap();
    client.wait_for("> Server response thrown away: not UTF-8 from byte 0 on\n").unwrap();
    drop(stream);
    client.wait_for("> The server has closed the connection\n> Closing client...\n").unwrap();
    ends_well(&mut client);
}

#[test]
fn a_server_that_never_reads_slows_the_typing_client_not_its_memory_and_ctrl_c_still_works() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = client(listener.local_addr().unwrap());
    let (_unread, _) = listener.accept().unwrap();
    let (pid, written) = (client.pid(), Arc::new(AtomicUsize::new(0)));
    let counter = written.clone();
    let writer = std::thread::spawn(move || {
        let mut client = client;
        let line = "x".repeat(60_000);
        // 60 MB: more than the buffers on the way hold; the pipe fills up and the writing stops.
        let write = |_| client.type_line(&line).inspect(|()| _ = counter.fetch_add(1, Ordering::Relaxed)).is_err();
        let refused = (0..1000).any(write);
        (client, refused)
    });
    let mut last = (0, Instant::now());
    wait_until("the client held back by flow control", LIMIT, || {
        if written.load(Ordering::Relaxed) != last.0 {
            last = (written.load(Ordering::Relaxed), Instant::now());
        }
        Ok((last.0 > 0 && last.1.elapsed() > Duration::from_millis(200)).then_some(()))
    })
    .unwrap();
    nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
    let (mut client, refused) = writer.join().unwrap();
    assert!(refused, "the client took 60 MB that nobody read");
    ends_well(&mut client);
}

#[test]
fn ctrl_c_ends_the_server_in_good_order_and_the_next_run_may_bind_at_once() {
    testkit::one_processor();
    let (mut first, addr) = server(&[]);
    let mut stream = let_in(&mut first, addr);
    stream.write_all(b"racecar\n").unwrap();
    signal(&first, Signal::SIGINT);
    assert_eq!(to_the_end(&mut stream), "");
    drop(stream);
    ends_well(&mut first);
    assert!(first.printed().contains("] Client message = racecar\n"), "what had arrived is shown");
    let again = [ROLE.get(), &addr.port().to_string()];
    Role::spawn(Command::new(LAB).args(again)).unwrap().wait_for("> Server bound to").unwrap();
    // Without SO_REUSEADDR on the new run the TIME-WAIT of the old one is in the way.
    let Finished { stderr, .. } = run(Command::new(LAB).args(again).arg("--no-reuse-addr"));
    assert!(stderr.starts_with(&format!("lab07: bind {addr}: EADDRINUSE (98) Address already in use\n")), "{stderr}");
}

#[test]
fn a_port_an_address_or_both_say_where_the_server_listens_and_two_ports_are_one_too_many() {
    for (args, ip) in [
        (&["0"][..], "127.0.0.1"),
        (&["127.0.0.2:0"], "127.0.0.2"),
        (&["0", "--bind", "127.0.0.3"], "127.0.0.3"),
        (&["localhost:0"], "127.0.0.1"),
    ] {
        let mut server = Role::spawn(Command::new(LAB).arg("server").args(args)).unwrap();
        let banner = server.line_with("> Server bound to IP : ").unwrap();
        assert!(banner.contains(&format!(" {ip} and PORT : ")), "{args:?}: {banner}");
        let port = banner.rsplit(' ').next().unwrap().to_string();
        let both = format!("{ip}:{port}");
        for place in [&[port.as_str(), ip][..], &[ip, &port], &[&both]] {
            let mut client = Role::spawn(Command::new(LAB).arg("client").args(place)).unwrap();
            client.wait_for(&format!("> Connected to server IP = {ip} and PORT = {port}\n")).unwrap();
        }
    }
    for usage in [&["client", "4444", "4445"][..], &["client", "0"], &["server", "127.0.0.1:1", "--bind", "127.0.0.2"]]
    {
        assert_eq!(failed(Command::new(LAB).args(usage)).0, 2, "{usage:?}");
    }
}

#[test]
fn a_new_build_while_the_demo_runs_changes_no_verdict() {
    testkit::assert_a_new_build_changes_no_verdict(&DEMO);
}

#[test]
fn without_a_thread_to_be_had_the_error_names_the_limit() {
    let folder = TempDir::new();
    let program = testkit::copy_program(LAB, &folder);
    let mut limited = Command::new("bash");
    limited.args(["-c", "ulimit -u 0 && exec \"$0\" demo"]).arg(program);
    if nix::unistd::geteuid().is_root() {
        limited.uid(NOBODY).gid(NOBODY); // the limit is not for root
    }
    let (code, stderr) = failed(&mut limited);
    assert!(code == 1 && stderr.contains("ulimit -u"), "{code} {stderr}");
}

#[test]
fn being_stopped_and_continued_changes_no_verdict() {
    testkit::assert_stops_change_no_verdict(LAB);
}

#[test]
fn settings_of_other_machines_skip_an_experiment_or_change_nothing() {
    if skip_without(!(NAMESPACE.met)(), NAMESPACE.what, NAMESPACE.provided_by) {
        return;
    }
    for (setting, skipped) in [
        ("net.ipv4.tcp_max_tw_buckets=0", &["who-may-bind", "other-ways", "slot-freed"][..]),
        ("net.core.somaxconn=0", &["storm"]),
        ("net.ipv4.tcp_wmem='4096 4096 4096' net.ipv4.tcp_rmem='4096 4096 4096'", &[]),
    ] {
        let set = format!("ip link set lo up && sysctl -qw {setting} && exec \"$0\"");
        let demo = run(Command::new("unshare").args(["-Urn", "sh", "-c", &set, LAB]));
        assert_eq!(demo.code(), 0, "{setting}: {demo:?}");
        let skips = format!(" {} SKIPPED, 0 UNEXPECTED", skipped.len());
        assert!(demo.stdout.contains(&skips), "{setting}: {}", demo.stdout);
        for name in skipped {
            let skip = demo.stdout.lines().any(|line| line.contains(name) && line.contains(" SKIPPED "));
            assert!(skip, "{setting}: {name}\n{}", demo.stdout);
        }
    }
}

#[test]
fn pause_waits_before_each_call() {
    let mut server = Role::spawn(Command::new(LAB).args([ROLE.get(), "0", "--pause"])).unwrap();
    let calls = ["socket(AF_INET, SOCK_STREAM, 0)", "setsockopt(", "bind(", "listen("];
    for call in calls {
        server.wait_for(&format!("next: {call}")).unwrap();
        assert!(!server.printed().contains("Server bound"), "it did not wait before {call}");
        server.type_line("").unwrap();
    }
    server.wait_for("> Server bound to").unwrap();
}

#[test]
fn errors_name_the_call_the_address_the_errno_and_a_command_that_helps() {
    let failed = |args: &[&str]| failed(Command::new(LAB).args(args));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let expected = format!(
        "lab07: bind 127.0.0.1:{port}: EADDRINUSE (98) Address already in use\n  hint: see what has the port, TIME-WAIT too: scripts/states.sh {port}\n"
    );
    assert_eq!(failed(&["server", &port]), (1, expected));
    let (_nobody, addr) = nobody();
    let port = addr.port().to_string();
    let expected = format!(
        "lab07: connect 127.0.0.1:{port}: ECONNREFUSED (111) Connection refused\n  hint: start the server; see who listens: scripts/states.sh {port}\n"
    );
    assert_eq!(failed(&["client", &port]), (1, expected));
    let (code, stderr) = failed(&["server", "--bind", "192.0.2.1"]);
    assert_eq!(code, 1);
    assert!(stderr.starts_with("lab07: bind 192.0.2.1:4444: EADDRNOTAVAIL (99) "), "{stderr}");
    let (code, stderr) = failed(&["client", "4444", "no-such-host.invalid"]);
    assert_eq!(code, 1);
    assert!(stderr.starts_with("lab07: getaddrinfo no-such-host.invalid: "), "{stderr}");
    assert!(stderr.contains("hint: see what the resolver says: getent hosts no-such-host.invalid"), "{stderr}");
    for usage in [&["server", "65536"][..], &["client", "a port"], &["server", "--bind", "here"], &["serve"]] {
        assert_eq!(failed(usage).0, 2, "{usage:?}");
    }
    for role in ["server", "server-epoll"] {
        let (code, stderr) = failed(&[role, "--max-clients", "0"]);
        assert!(code == 2 && stderr.contains(": a whole number, at least 1\n"), "{stderr}");
    }
}

#[test]
fn a_privileged_port_is_refused_to_an_ordinary_account() {
    testkit::assert_privileged_port_is_refused(LAB, &["server", "1"], "127.0.0.1:1");
}

#[test]
fn the_demo_needs_no_privileges() {
    testkit::assert_demo_needs_no_privileges(LAB);
}

#[test]
fn a_demo_that_is_killed_leaves_no_server_behind() {
    let mut demo = Role::spawn(Command::new(LAB).args(["demo", "fifth", "--pause"])).unwrap();
    demo.wait_for("[Enter]").unwrap();
    let parent = demo.pid().to_string();
    let is_child = |pid: &String| {
        // proc_pid_stat(5): the parent is the second field behind the name
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)) == Some(parent.as_str())
    };
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let pid = processes.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).find(is_child).unwrap();
    let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(command.contains("lab07-multiclient\0server\x000"), "{command:?}");
    signal(&demo, Signal::SIGKILL);
    demo.wait_for_end().unwrap();
    wait_until("the server to be gone", LIMIT, || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        Ok((stat.is_empty() || stat.contains(") Z ")).then_some(())) // a zombie waits for init, not for us
    })
    .unwrap();
}

#[test]
fn with_epoll_all_of_this_is_the_same() {
    let tests: &[fn()] = &[
        the_seven_steps_of_the_handout_work,
        the_operator_may_speak_before_anybody_else_and_an_exclamation_mark_is_kept_for_notices,
        what_a_client_sent_before_it_left_still_arrives,
        a_fifth_is_told_why_and_closed_without_a_reset_even_if_it_talks,
        max_clients_moves_the_limit,
        a_client_that_never_reads_delays_nobody_and_is_dropped_with_a_reset,
        an_overlong_line_invalid_utf8_and_a_cut_line_each_have_their_outcome,
        a_client_that_resets_is_named_and_the_server_stays,
        without_a_free_descriptor_whoever_connects_waits_and_gets_in_later,
        foreign_clients_talk_and_listen,
        ctrl_c_ends_the_server_in_good_order_and_the_next_run_may_bind_at_once,
        pause_waits_before_each_call,
        five_thousand_random_byte_strings_leave_the_server_as_it_was,
    ];
    let run = |test: &fn()| {
        let test = *test;
        thread::spawn(move || with_epoll(test))
    };
    let running: Vec<_> = tests.iter().map(run).collect();
    for test in running {
        test.join().unwrap();
    }
}

#[test]
fn both_servers_print_the_same_and_quiet_leaves_out_who_comes_and_goes() {
    let mut printed = [&["server"][..], &["server-epoll"], &["server-epoll", "--quiet"]].map(|role| {
        let most = ["--max-clients", "2"];
        let (mut server, addr) = server_by(Command::new(LAB).args(role).arg("0").args(most));
        let before = descriptors(server.pid());
        let mut inside: Vec<_> = (0..2).map(|_| TcpStream::connect(addr).unwrap()).collect();
        wait_until("two clients in", LIMIT, || Ok((descriptors(server.pid()) == before + 2).then_some(()))).unwrap();
        for (stream, line) in inside.iter_mut().zip(["taco cat\n", "\u{e4}\n"]) {
            stream.write_all(line.as_bytes()).unwrap();
            server.wait_for("] Client message").unwrap();
        }
        server.type_line("hello").unwrap();
        inside.iter_mut().for_each(|stream| read_exactly(stream, "hello\n"));
        assert_eq!(to_the_end(&mut TcpStream::connect(addr).unwrap()), "! Server rejected due to too many clients\n");
        signal(&server, Signal::SIGTERM);
        inside.iter_mut().for_each(|stream| assert_eq!(to_the_end(stream), ""));
        drop(inside);
        ends_well(&mut server);
        let digits = |character: char| if character.is_ascii_digit() { '#' } else { character };
        let printed = server.printed();
        let plain = printed.lines().filter(|line| !line.contains("Backlog")).map(|line| {
            let plain: String = line.chars().map(digits).collect();
            plain.split('#').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("#")
        });
        plain.collect::<Vec<_>>()
    });
    assert_eq!(printed[0], printed[1]);
    for word in ["New connection", "Rejected", "Closing connection"] {
        assert!(printed[0].iter().any(|line| line.contains(word)), "{word}: {printed:?}");
        printed[0].retain(|line| !line.contains(word));
    }
    assert_eq!(printed[2], printed[0]);
}

#[test]
fn what_epoll_cannot_watch_is_read_all_the_same() {
    let folder = TempDir::new();
    fs::write(folder.path().join("lines"), "one\ntwo").unwrap();
    for (input, lines) in [(folder.path().join("lines"), 2), ("/dev/null".into(), 0)] {
        let mut command = Command::new(LAB);
        command.args(["server-epoll", "0"]);
        let file = fs::File::open(input).unwrap();
        let mut server = Role::spawn_on(&mut command, file.into()).unwrap();
        let port: u16 = server.line_with("PORT : ").unwrap().rsplit(' ').next().unwrap().parse().unwrap();
        for _ in 0..lines {
            server.wait_for("> not sent: no client is connected\n").unwrap();
        }
        let_in(&mut server, SocketAddr::from(([127, 0, 0, 1], port))).write_all(b"racecar\n").unwrap();
        server.wait_for("] Client message = racecar\n").unwrap();
        let before = cpu_ticks(&server);
        server.wait_for_within("never printed", Duration::from_millis(500)).unwrap_err();
        assert!(cpu_ticks(&server) - before < 10, "the server spins at the end of its input");
    }
}

/// Strings of random bytes in the test below; 100000 takes about a minute: `STRINGS=100000 cargo test -p lab07-multiclient`.
fn strings() -> usize {
    std::env::var("STRINGS").ok().and_then(|strings| strings.parse().ok()).unwrap_or(5000)
}

/// A thousand clients of server-epoll, who all read.
struct Crowd {
    server: Role,
    addr: SocketAddr,
    /// The server's descriptors before they came.
    before: usize,
    clients: Vec<TcpStream>,
}

const CLIENTS: usize = 1000;

impl Crowd {
    /// `None` where a process may not have so many descriptors.
    fn new() -> Option<Crowd> {
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        if skip_without(most < 2200, "2200 descriptors", "ulimit -Hn 4096") {
            return None;
        }
        setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
        let (server, addr) = server_by(Command::new(LAB).args(["server-epoll", "0", "--quiet"]));
        let before = descriptors(server.pid());
        let clients: Vec<_> = (0..CLIENTS).map(|_| TcpStream::connect(addr).unwrap()).collect();
        clients.iter().for_each(|stream| stream.set_read_timeout(Some(LIMIT)).unwrap());
        let crowd = Crowd { server, addr, before, clients };
        crowd.wait_until_inside(CLIENTS);
        Some(crowd)
    }

    /// Waits until the server has so many connections.
    fn wait_until_inside(&self, count: usize) {
        let inside = || Ok((descriptors(self.server.pid()) == self.before + count).then_some(()));
        wait_until(&format!("{count} connections"), LIMIT, inside).unwrap();
    }

    /// The operator types a line, and all get it; how long that took.
    fn all_get(&mut self, line: &str) -> Duration {
        let started = Instant::now();
        self.server.type_line(line).unwrap();
        self.clients.iter_mut().for_each(|stream| read_exactly(stream, &format!("{line}\n")));
        started.elapsed()
    }

    /// They leave without TIME-WAIT.
    fn leave(self) {
        let Crowd { server, before, clients, .. } = self;
        clients.into_iter().for_each(reset);
        wait_until("all gone", LIMIT, || Ok((descriptors(server.pid()) == before).then_some(()))).unwrap();
    }
}

fn reset(stream: TcpStream) {
    Socket::from(stream).set_linger(Some(Duration::ZERO)).unwrap(); // and close
}

#[test]
fn a_slow_reader_among_a_thousand_delays_nobody_and_loses_no_line() {
    const LINES: usize = 60;
    let Some(mut crowd) = Crowd::new() else { return };
    // Little room on both sides: for small segments the server's kernel begins with a small send buffer, too.
    let slow = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    slow.set_recv_buffer_size(4096).unwrap();
    slow.set_tcp_mss(536).unwrap();
    slow.connect(&crowd.addr.into()).unwrap();
    let pair = Pair::of(&slow).unwrap();
    let mut slow = TcpStream::from(slow);
    slow.set_read_timeout(Some(LIMIT)).unwrap();
    crowd.wait_until_inside(CLIENTS + 1);

    let lines: Vec<String> = (0..LINES).map(|number| format!("{number} {}", "x".repeat(4000))).collect();
    let slowest = lines.iter().map(|line| crowd.all_get(line)).max().unwrap(); // a server that waited would wait for ever
    let row = |pair| tcp_socket(pair).unwrap().unwrap();
    let (unread, unsent) = (row(pair).recv_queue, row(pair.other_end()).send_queue);
    let all = lines.join("\n") + "\n";
    assert!(
        unread > 0 && unsent > 0 && ((unread + unsent) as usize) < all.len(),
        "{unread} + {unsent}: it was not slow"
    );
    let _ = writeln!(
        std::io::stderr(),
        "{} bytes not read by one: {unread} in its kernel, {unsent} in the server's; the slowest of {LINES} lines to \
         {CLIENTS} clients took {slowest:.0?}",
        all.len()
    );
    read_exactly(&mut slow, &all);
    crowd.all_get("the last line");
    read_exactly(&mut slow, "the last line\n");
    reset(slow);
    crowd.leave();
}

#[test]
fn random_bytes_half_lines_resets_and_storms_cost_a_thousand_clients_no_line() {
    const LINES: usize = 20;
    let Some(mut crowd) = Crowd::new() else { return };
    let addr = crowd.addr;
    let done = Arc::new(AtomicUsize::new(0));
    let others = done.clone();
    let bad = thread::spawn(move || {
        let mut random = SplitMix64::new(18);
        let strings = strings();
        let mut stream = TcpStream::connect(addr).unwrap();
        for number in 0..strings {
            let mut bytes: Vec<u8> = (0..random.draw() % 200).map(|_| random.draw() as u8).collect();
            bytes.iter_mut().filter(|byte| **byte % 16 == 0).for_each(|byte| *byte = b'\n');
            let _ = stream.write_all(&bytes); // EPIPE, ECONNRESET: this one was dropped
            if number % 10 == 9 {
                reset(std::mem::replace(&mut stream, TcpStream::connect(addr).unwrap()));
            }
            if number % 1000 == 999 {
                let storm: Vec<_> = (0..200).map(|_| TcpStream::connect(addr).unwrap()).collect();
                storm.into_iter().for_each(reset);
            }
            others.store(number + 1, Ordering::Relaxed);
        }
        reset(stream);
    });
    let mut slowest = Duration::ZERO;
    for number in 0..LINES {
        // Spread over the time of the bad ones.
        let reached = || Ok((done.load(Ordering::Relaxed) * LINES >= number * strings()).then_some(()));
        wait_until("the bad ones to go on", LIMIT * 6, reached).unwrap();
        slowest = slowest.max(crowd.all_get(&format!("line {number}")));
    }
    bad.join().unwrap();
    assert!(slowest < LIMIT, "a line took {slowest:?}");
    crowd.wait_until_inside(CLIENTS);
    let _ = writeln!(
        std::io::stderr(),
        "{} random strings: the slowest of {LINES} lines to {CLIENTS} clients took {slowest:.0?}",
        strings()
    );
    crowd.leave();
}
