//! Runs the real binary: the demo, the programs against each other, over a bad link, against a client in Python 3, and
//! what goes wrong.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::{Command, Stdio},
    sync::LazyLock,
    time::Duration,
};

use nix::sys::signal::Signal;
use testkit::{Demo, Role, TempDir, ends_well, failed, have, interrupt, run, signal, skip_without, step, wait_until};

const LAB: &str = env!("CARGO_BIN_EXE_lab16-mboard-sessions");
const LIMIT: Duration = Duration::from_secs(10);
static DEMO: LazyLock<Demo> = LazyLock::new(|| Demo::play(LAB));

/// A client of the wire in Python 3: one request, its blocks one by one, one answer.
const PYTHON_CLIENT: &str = "
import random, socket, sys
port, request = int(sys.argv[1]), sys.stdin.buffer.read()
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.connect(('127.0.0.1', port))
sock.settimeout(1)
def ask(datagram, expected):
    for attempt in range(8):
        sock.send(datagram)
        try:
            while True:
                answer = sock.recv(65536)
                if answer.startswith(expected):
                    return answer
        except socket.timeout:
            pass
    raise SystemExit('no answer')
token = random.randrange(1 << 32)
session = int(ask(b'O:%d:1' % token, b'S:%d:' % token).split(b':')[2])
blocks = [request[at:at + 1000] for at in range(0, len(request), 1000)] or [b'']
for number, block in enumerate(blocks, 1):
    kind = b'L' if number == len(blocks) else b'B'
    ask(b'%s:%d:%d:%s' % (kind, session, number, block), b'C:%d:%d:' % (session, number))
parts, number, last = [], 1, False
while not last:
    kind, _, came, block = sock.recv(65536).split(b':', 3)
    if kind not in b'BL':
        continue
    sock.send(b'C:%d:%d:%d' % (session, int(came), number + 1))
    if int(came) == number:
        parts.append(block)
        number, last = number + 1, kind == b'L'
ask(b'E:%d' % session, b'E:%d' % session)
sys.stdout.buffer.write(b''.join(parts))
";

/// The server on a port of the kernel's choice.
fn server(options: &[&str]) -> (Role, SocketAddr) {
    let mut server = Role::spawn(Command::new(LAB).args(["server", "0"]).args(options)).unwrap();
    let line = server.line_with("Socket is bound to ").unwrap();
    server.wait_for("Waiting for requests ...\n").unwrap();
    (server, line.rsplit(' ').next().unwrap().parse().unwrap())
}

/// The relay on a port of the kernel's choice.
fn relay(to: SocketAddr, options: &[&str]) -> (Role, SocketAddr) {
    let mut relay = Role::spawn(Command::new(LAB).args(["relay", "0", "--to", &to.to_string()]).args(options)).unwrap();
    let line = relay.line_with("Relay is bound to ").unwrap();
    (relay, line.split([' ', ',']).nth(4).unwrap().parse().unwrap())
}

fn client(addr: SocketAddr) -> Command {
    let mut client = Command::new(LAB);
    client.args(["client", &addr.to_string()]);
    client
}

fn publish(addr: SocketAddr, text: &str) {
    let published = run(client(addr).args(["--publish", text]));
    assert_eq!(published.code(), 0, "{published:?}");
    assert!(published.stdout.ends_with("Message Published\n"), "{published:?}");
}

/// What the board shows, without ids and times.
fn board(addr: SocketAddr) -> Vec<String> {
    let read = run(&mut client(addr));
    assert_eq!(read.code(), 0, "{read:?}");
    read.stdout.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap().to_string()).collect()
}

/// A foreign socket whose only peer is the server.
fn foreign(addr: SocketAddr) -> UdpSocket {
    let sock = UdpSocket::bind("127.0.0.1:0").unwrap();
    sock.connect(addr).unwrap();
    sock.set_read_timeout(Some(LIMIT)).unwrap();
    sock
}

fn ask(sock: &UdpSocket, datagram: &[u8]) -> String {
    sock.send(datagram).unwrap();
    hear(sock)
}

fn hear(sock: &UdpSocket) -> String {
    let mut buffer = [0; 2048];
    let bytes_read = sock.recv(&mut buffer).unwrap();
    String::from_utf8(buffer[..bytes_read].to_vec()).unwrap()
}

fn open(sock: &UdpSocket, token: u32) -> u32 {
    let answer = ask(sock, format!("O:{token}:1").as_bytes());
    answer.strip_prefix(&format!("S:{token}:")).unwrap().parse().unwrap()
}

/// Bytes that are no text, and different everywhere.
fn any_bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7919 + at / 256) as u8).collect()
}

#[test]
fn the_demo_decides_every_claim_as_recorded() {
    DEMO.assert_verdicts(&[
        ("interleaved", "CONFIRMED"),
        ("lost-confirmation", "ANSWERED"),
        ("round-trips", "ANSWERED"),
        ("third-party", "CONFIRMED"),
        ("new-address", "ANSWERED"),
        ("restart", "ANSWERED"),
        ("dead-clients", "ANSWERED"),
        ("parts", "ANSWERED"),
    ]);
}

#[test]
fn the_printed_calls_are_those_strace_saw() {
    testkit::assert_printed_calls_are_real(LAB);
}

#[test]
fn a_new_build_while_the_demo_runs_changes_no_verdict() {
    testkit::assert_a_new_build_changes_no_verdict(&DEMO);
}

#[test]
fn the_command_line_keeps_the_rules_of_all_labs() {
    testkit::assert_common_rules(LAB, &["server", "0"], "Waiting for requests");
}

#[test]
fn the_sheet_quotes_a_real_run() {
    testkit::assert_sheet_quotes_a_run("lab16-mboard-sessions", &DEMO);
}

#[test]
fn an_ordinary_account_can_do_everything_but_a_privileged_port() {
    testkit::assert_demo_needs_no_privileges(LAB);
    testkit::assert_privileged_port_is_refused(LAB, &["server", "1"], "127.0.0.1:1");
}

#[test]
fn messages_are_published_and_read_in_order_whatever_is_in_them() {
    let (mut server, addr) = server(&[]);
    assert_eq!(board(addr), [""; 0]);
    for text in ["Hello world!", "", "a:b:c", "-x", "t\u{e4}\u{20ac}\u{1b}[2J"] {
        publish(addr, text);
    }
    let shown = ["Hello world!", "", "a:b:c", "-x", "t\u{e4}\u{20ac}\\u{1b}[2J"]; // no raw escapes
    assert_eq!(board(addr), shown);
    let last = run(client(addr).args(["--last", "2"]));
    assert_eq!(last.stdout.lines().count(), 2, "{last:?}");
    interrupt(&mut server);
}

#[test]
fn a_big_message_of_any_bytes_arrives_whole_in_many_blocks() {
    let (mut server, addr) = server(&[]);
    let folder = TempDir::new();
    let [file, copy] = ["sent", "copy"].map(|name| folder.path().join(name));
    let message = any_bytes(1_000_000);
    fs::write(&file, &message).unwrap();
    let sent = client(addr)
        .args(["--publish", "-", "--window", "16"])
        .stdin(Stdio::from(fs::File::open(&file).unwrap()))
        .output()
        .unwrap();
    assert!(sent.status.success(), "{sent:?}");
    assert!(String::from_utf8_lossy(&sent.stdout).contains("1000002 bytes, blocks: 977, "), "{sent:?}");
    server.wait_for("whole: 1000002 bytes; ").unwrap();
    let read = run(client(addr).args(["--window", "16", "--out", copy.to_str().unwrap()]));
    assert_eq!(read.code(), 0, "{read:?}");
    assert!(read.stdout.ends_with("... and 999800 bytes more\n"), "{read:?}");
    assert!(fs::read(&copy).unwrap() == message);
}

#[test]
fn over_a_bad_link_each_message_is_published_once_and_whole() {
    let (_server, addr) = server(&[]);
    let bad = ["--drop", "15", "--duplicate", "15", "--reorder", "15", "--delay-ms", "2", "--seed", "7"];
    let (_relay, relay_addr) = relay(addr, &bad);
    let text = "x".repeat(20_000);
    for window in ["1", "8"] {
        let options = ["--publish", &text, "--window", window, "--timeout", "50", "--attempts", "20"];
        let sent = run(client(relay_addr).args(options));
        assert_eq!(sent.code(), 0, "{sent:?}");
    }
    let shown = format!("{} ... and 19800 bytes more", &text[..200]);
    assert_eq!(board(addr), [shown.clone(), shown]);
}

#[test]
fn a_client_in_python_speaks_the_same_wire() {
    if skip_without(!have("python3"), "python3", "apt-get install python3") {
        return;
    }
    let (_server, addr) = server(&[]);
    let ask = |request: &[u8]| {
        let mut python = Command::new("python3")
            .args(["-c", PYTHON_CLIENT, &addr.port().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        python.stdin.take().unwrap().write_all(request).unwrap();
        let answer = python.wait_with_output().unwrap();
        assert!(answer.status.success(), "{answer:?}");
        answer.stdout
    };
    let message = [b"1:", any_bytes(5000).as_slice()].concat();
    assert_eq!(ask(&message), b"0:");
    let ids = String::from_utf8(ask(b"2:0")).unwrap();
    let id = ids.strip_prefix("0:").unwrap();
    assert!(ask(format!("3:{id}").as_bytes()).ends_with(&message[2..]));
    assert_eq!(ask(b"3:1"), b"2:");
    assert_eq!(ask(b"hello"), b"1:");
    assert_eq!(ask(b""), b"1:");
}

#[test]
fn any_program_that_sends_the_characters_gets_a_session() {
    for tool in ["nc", "socat"] {
        if skip_without(!have(tool), tool, "apt-get install netcat-openbsd socat") {
            continue;
        }
        let (_server, addr) = server(&[]);
        let mut peer = match tool {
            "nc" => Role::spawn(Command::new("nc").args(["-u", "127.0.0.1", &addr.port().to_string()])),
            _ => Role::spawn(Command::new("socat").args(["-", &format!("UDP4:{addr}")])),
        }
        .unwrap();
        peer.input.as_mut().unwrap().write_all(b"O:9973:1").unwrap();
        peer.wait_for("S:9973:").unwrap();
    }
}

#[test]
fn a_repeated_opening_gets_the_same_session_and_a_repeated_block_the_same_confirmation() {
    let (mut server, addr) = server(&[]);
    let sock = foreign(addr);
    let session = open(&sock, 7);
    assert_eq!(open(&sock, 7), session);
    assert_ne!(open(&sock, 8), session);
    for _ in 0..2 {
        assert_eq!(ask(&sock, format!("B:{session}:1:1:one ").as_bytes()), format!("C:{session}:1:2"));
    }
    assert_eq!(ask(&sock, format!("L:{session}:3:three").as_bytes()), format!("C:{session}:3:2"));
    assert_eq!(ask(&sock, format!("B:{session}:2:two ").as_bytes()), format!("C:{session}:2:4"));
    server.wait_for("whole: 15 bytes; blocks that came again: 1\n").unwrap();
    assert_eq!(hear(&sock), format!("L:{session}:1:0:"));
    assert_eq!(hear(&sock), format!("L:{session}:1:0:"), "an answer that is not confirmed comes again");
    for _ in 0..2 {
        sock.send(format!("E:{session}").as_bytes()).unwrap();
        wait_until("the end", LIMIT, || Ok((hear(&sock) == format!("E:{session}")).then_some(()))).unwrap();
    }
    assert_eq!(ask(&sock, format!("B:{session}:1:x").as_bytes()), format!("X:{session}:unknown"));
    assert_eq!(board(addr), ["one two three"]);
}

#[test]
fn what_is_no_datagram_of_a_session_is_ignored() {
    let (_server, addr) = server(&[]);
    let sock = foreign(addr);
    let long = vec![b'B'; 60_000];
    for noise in [&b""[..], b"Hello world!", b"\xff\0", b"O:1:0", b"S:1:2", b"X:1:full", b"C:1:2:3", b"B:1:0:x", &long]
    {
        sock.send(noise).unwrap();
    }
    open(&sock, 5); // the first answer is the one to this
    publish(addr, "still here");
}

#[test]
fn limits_are_refused_in_words_and_room_is_free_again() {
    let (mut small, addr) = server(&["--max-message", "1500", "--max-sessions", "1", "--idle", "500"]);
    let long = run(client(addr).args(["--publish", &"x".repeat(3000)]));
    assert_eq!(long.code(), 1, "{long:?}");
    assert!(long.stderr.contains("the message is longer than the server takes; the request was not carried out"));
    let dead = foreign(addr);
    let session = open(&dead, 1);
    assert_eq!(ask(&dead, format!("B:{session}:1:1:half").as_bytes()), format!("C:{session}:1:2"));
    let full = run(client(addr).args(["--publish", "hello"]));
    assert!(full.code() == 0 || full.stderr.contains("the server has no room for it"), "{full:?}");
    small
        .wait_for(&format!("[{session}] forgotten with 6 bytes: its client is silent; left 0 sessions, 0 bytes\n"))
        .unwrap();
    publish(addr, "hello");
    let (_little, addr) = server(&["--max-memory", "2000"]);
    let full = run(client(addr).args(["--publish", &"x".repeat(3000)]));
    assert!(full.code() == 1 && full.stderr.contains("the server has no room for it"), "{full:?}");
    publish(addr, "short");
}

#[test]
fn a_journal_keeps_what_was_confirmed_over_a_kill() {
    let folder = TempDir::new();
    let journal = folder.path().join("board");
    let options = ["--journal", journal.to_str().unwrap()];
    for number in 1..=30 {
        let (mut server, addr) = server(&options);
        publish(addr, &format!("message {number}"));
        signal(&server, Signal::SIGKILL);
        server.wait_for_end().unwrap();
    }
    let (_server, addr) = server(&options);
    assert_eq!(board(addr), (1..=30).map(|number| format!("message {number}")).collect::<Vec<_>>());
}

#[test]
fn a_server_that_restarts_or_falls_silent_is_told_apart() {
    // A server of the test's own, so that the moment is exact.
    let play = |second: Option<&str>| {
        let sock = UdpSocket::bind("127.0.0.1:0").unwrap();
        sock.set_read_timeout(Some(LIMIT)).unwrap();
        let options = ["--publish", &"x".repeat(3000), "--timeout", "20", "--attempts", "3"];
        let mut client = Command::new(LAB);
        client.args(["client", &sock.local_addr().unwrap().to_string()]).args(options);
        let child = client.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut buffer = [0; 2048];
        let mut next = || {
            let (bytes_read, from) = sock.recv_from(&mut buffer).unwrap();
            (String::from_utf8(buffer[..bytes_read].to_vec()).unwrap(), from)
        };
        let (opening, from) = next();
        let token = opening.split(':').nth(1).unwrap();
        sock.send_to(format!("S:{token}:4711").as_bytes(), from).unwrap();
        while !next().0.starts_with("B:4711:1:") {}
        sock.send_to(b"C:4711:1:2", from).unwrap();
        while !next().0.starts_with("B:4711:2:") {}
        if let Some(second) = second {
            sock.send_to(second.as_bytes(), from).unwrap();
        }
        let ended = child.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        String::from_utf8(ended.stderr).unwrap()
    };
    let restarted = play(Some("X:4711:unknown"));
    assert!(
        restarted.contains("does not know this session (any more); the request was not carried out"),
        "{restarted}"
    );
    let silent = play(None);
    assert!(silent.contains("no answer to 3 attempts; the request was not carried out"), "{silent}");
}

#[test]
fn the_relay_carries_tcp_both_ways_and_its_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (mut relay, addr) = relay(listener.local_addr().unwrap(), &["--tcp", "--delay-ms", "5"]);
    let mut far = TcpStream::connect(addr).unwrap();
    let (mut near, _) = listener.accept().unwrap();
    far.set_read_timeout(Some(LIMIT)).unwrap();
    near.set_read_timeout(Some(LIMIT)).unwrap();
    let message = any_bytes(300_000);
    let sent = message.clone();
    let sender = std::thread::spawn(move || {
        far.write_all(&sent).unwrap();
        far.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        far.read_to_string(&mut answer).unwrap();
        answer
    });
    let mut received = Vec::new();
    near.read_to_end(&mut received).unwrap();
    assert!(received == message);
    near.write_all(b"answer").unwrap();
    drop(near);
    assert_eq!(sender.join().unwrap(), "answer");
    interrupt(&mut relay);
}

#[test]
fn the_relay_gives_a_client_another_port_when_asked_to() {
    let (_server, addr) = server(&[]);
    let (mut relay, relay_addr) = relay(addr, &["--rebind", "2"]);
    let moved = run(client(relay_addr).args(["--publish", &"x".repeat(3000)]));
    relay.wait_for("To the server ").unwrap();
    assert!(moved.code() == 1 && moved.stderr.contains("the session belongs to another address"), "{moved:?}");
    assert_eq!(board(addr), [""; 0]);
}

#[test]
fn ctrl_c_ends_each_role_wherever_it_waits() {
    let (mut server, addr) = server(&[]);
    open(&foreign(addr), 3);
    let (mut relay, _) = relay(addr, &[]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut tcp = Role::spawn(
        Command::new(LAB).args(["relay", "0", "--tcp", "--to"]).arg(listener.local_addr().unwrap().to_string()),
    )
    .unwrap();
    tcp.wait_for("Relay is bound to ").unwrap();
    let mut typing = Role::spawn(client(addr).args(["--publish", "-"])).unwrap();
    typing.type_line("half").unwrap();
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    silent.set_read_timeout(Some(LIMIT)).unwrap();
    let mut waiting = Role::spawn(&mut client(silent.local_addr().unwrap())).unwrap();
    silent.recv(&mut [0; 64]).unwrap(); // it has asked for a session
    // Whoever reads from a terminal hears SIGINT only once it has said so: /proc shows its signals as blocked.
    for role in [&mut typing, &mut waiting, &mut relay, &mut tcp, &mut server] {
        testkit::wait_until_it_hears_ctrl_c(role.pid()).unwrap();
        interrupt(role);
    }
}

#[test]
fn pause_waits_before_each_call() {
    let mut server = Role::spawn(Command::new(LAB).args(["server", "0", "--pause"])).unwrap();
    step(&mut server, &["socket(AF_INET, SOCK_DGRAM, 0)", "setsockopt(", "bind("]);
    let line = server.line_with("Socket is bound to ").unwrap();
    let addr = line.rsplit(' ').next().unwrap().parse().unwrap();
    let mut client = Role::spawn(client(addr).args(["--publish", "hello", "--timeout", "60000", "--pause"])).unwrap();
    step(&mut client, &["socket(AF_INET, SOCK_DGRAM, 0)", "connect(", "send("]);
    step(&mut server, &["recvfrom(", "recvfrom(", "sendto("]); // the second finds nothing
    step(&mut client, &["recv(", "send("]);
    for role in [&mut client, &mut server] {
        signal(role, Signal::SIGTERM);
        ends_well(role);
    }
}

#[test]
fn errors_name_the_call_the_address_the_errno_and_a_command_that_helps() {
    let failed = |args: &[&str]| failed(Command::new(LAB).args(args));
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    for role in ["server", "relay"] {
        let (code, stderr) = failed(&[role, &addr]);
        assert!(code == 1 && stderr.starts_with(&format!("lab16: bind {addr}: EADDRINUSE (98)")), "{stderr}");
    }
    // A connected socket keeps the port and takes nothing from strangers: nobody else can get it meanwhile.
    taken.connect("127.0.0.1:9").unwrap();
    let (code, stderr) = failed(&["client", &addr]);
    assert!(
        code == 1 && stderr.contains(": ECONNREFUSED (111) Connection refused\n  hint: start the server"),
        "{stderr}"
    );
    let (code, stderr) = failed(&["server", "192.0.2.1:7777"]);
    assert!(code == 1 && stderr.starts_with("lab16: bind 192.0.2.1:7777: EADDRNOTAVAIL (99)"), "{stderr}");
    for usage in [
        &["server", "77777"][..],
        &["client", "a b"],
        &["client", "--window", "0"],
        &["client", "--window", "65"],
        &["client", "--last", "1", "--publish", "x"],
        &["relay", "--drop", "60", "--duplicate", "60"],
        &["relay", "--to", "0"],
        &["relay", "--tcp", "--drop", "1"],
        &["server", "1", "2", "3"],
    ] {
        assert_eq!(failed(usage).0, 2, "{usage:?}");
    }
    assert_eq!(failed(&["client", "7777", "7778"]).0, 1);
    let folder = TempDir::new();
    let file = folder.path().join("text");
    fs::write(&file, "no journal").unwrap();
    assert_eq!(failed(&["server", "0", "--journal", file.to_str().unwrap()]).0, 1);
}
