//! Runs the real binary: the demo, the programs against each other and against Python 3, and what goes wrong.
#![allow(clippy::unwrap_used)]

use std::{
    net::{SocketAddr, UdpSocket},
    process::Command,
    sync::LazyLock,
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use testkit::{
    Demo, Role, TempDir, addr_behind, ends_well, failed, have, interrupt, run, serving, signal, skip_without, step,
};

const LAB: &str = env!("CARGO_BIN_EXE_lab15-mboard-udp");
const LIMIT: Duration = Duration::from_secs(10);
const BANNER: &str = " messages; requests to ";
/// The id of a board's first message: the lecture's example.
const FIRST_ID: u64 = 4_325_204_352;
static DEMO: LazyLock<Demo> = LazyLock::new(|| Demo::play(LAB));

/// The lecture's client: publish, last N, get.
const LECTURE_CLIENT: &str = "
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(10)
server = ('127.0.0.1', int(sys.argv[1]))
def ask(request):
    s.sendto(request, server)
    return s.recvfrom(65536)[0]
for text in ('Hello world!', 't\\u00f5de: 12:30', ''):
    assert ask(b'1:' + text.encode('utf-8')) == b'0:'
code, ids = ask(b'2:10').decode().split(':', 1)
assert code == '0' and len(ids.split(':')) == 3, ids
assert ask(b'2:1').decode() == '0:' + ids.split(':')[-1]
for m_id, expected in zip(ids.split(':'), ('Hello world!', 't\\u00f5de: 12:30', '')):
    code, time, host, port, text = ask(b'3:' + m_id.encode()).decode('utf-8').split(':', 4)
    assert (code, host, int(port), text) == ('0', '127.0.0.1', s.getsockname()[1], expected), text
    float(time)
assert ask(b'3:1') == b'2:' and ask(b'9:') == b'3:' and ask(b'4:0') == b'3:' and ask(b'hello') == b'1:'
print('as in the lecture')
";
/// The lecture's server, as short as it can be.
const LECTURE_SERVER: &str = "
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('127.0.0.1', 0))
print('port', s.getsockname()[1], flush=True)
board = {}
while True:
    request, source = s.recvfrom(65536)
    code, payload = request.decode('utf-8').split(':', 1)
    if code == '1':
        board[4325204352 + 7 * len(board)] = (time.time(), source[0], source[1], payload)
        answer = '0:'
    elif code == '2':
        answer = '0:' + ':'.join(str(m_id) for m_id in list(board)[-int(payload):])
    else:
        answer = '0:' + ':'.join(str(field) for field in board[int(payload)])
    s.sendto(answer.encode('utf-8'), source)
";

/// The server on a port of the kernel's choice.
fn server(options: &[&str]) -> (Role, SocketAddr) {
    serving(Command::new(LAB).args(["server", "0"]).args(options), BANNER)
}

/// A client that waits for its answer however busy this machine is, unless the options say otherwise: one that asks
/// again publishes twice.
fn client(addr: SocketAddr, options: &[&str]) -> Command {
    let mut command = Command::new(LAB);
    command.args(["client", &addr.to_string()]).args(options);
    if !options.contains(&"--timeout") {
        command.args(["--timeout", "30"]);
    }
    command
}

fn publish(addr: SocketAddr, options: &[&str], text: &str) {
    let finished = run(client(addr, options).args(["--publish", text]));
    assert!(finished.code() == 0 && finished.stdout.ends_with("Message Published\n"), "{finished:?}");
}

/// The texts that the client shows, each the last of four columns.
fn texts(addr: SocketAddr, options: &[&str]) -> Vec<String> {
    let finished = run(&mut client(addr, options));
    assert_eq!(finished.code(), 0, "{finished:?}");
    testkit::texts(&finished.stdout)
}

/// A foreign socket.
fn foreign() -> UdpSocket {
    let sock = UdpSocket::bind("127.0.0.1:0").unwrap();
    sock.set_read_timeout(Some(LIMIT)).unwrap();
    sock
}

/// A foreign client's request and the answer to it.
fn ask(sock: &UdpSocket, addr: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; 65_536];
    sock.send_to(request, addr).unwrap();
    let (bytes_read, from) = sock.recv_from(&mut buffer).unwrap();
    assert_eq!(from, addr);
    buffer.truncate(bytes_read);
    buffer
}

#[test]
fn the_demo_decides_every_claim_as_recorded() {
    DEMO.assert_verdicts(&[
        ("lost-reply", "ANSWERED"),
        ("at-the-limit", "CORRECTED"),
        ("stranger", "CORRECTED"),
        ("all-ids", "CORRECTED"),
        ("cut-tail", "ANSWERED"),
        ("ipv6-author", "CORRECTED"),
        ("restart", "ANSWERED"),
        ("no-sessions", "CONFIRMED"),
    ]);
}

#[test]
fn the_printed_calls_are_those_strace_saw() {
    testkit::assert_printed_calls_are_real(LAB);
}

#[test]
fn the_command_line_keeps_the_rules_of_all_labs() {
    testkit::assert_common_rules(LAB, &["server", "0"], BANNER);
}

#[test]
fn the_sheet_quotes_a_real_run() {
    testkit::assert_sheet_quotes_a_run("lab15-mboard-udp", &DEMO);
}

#[test]
fn an_ordinary_account_can_do_everything_but_a_privileged_port() {
    testkit::assert_demo_needs_no_privileges(LAB);
    testkit::assert_privileged_port_is_refused(LAB, &["server", "1"], "127.0.0.1:1");
}

#[test]
fn what_is_published_is_read_back_in_order() {
    let (mut server, addr) = server(&[]);
    assert!(texts(addr, &[]).is_empty());
    publish(addr, &[], "Hello world!");
    publish(addr, &["--once"], "t\u{f5}de: 12:30");
    publish(addr, &[], "");
    publish(addr, &[], "\u{1b}[2J");
    assert_eq!(texts(addr, &[]), ["Hello world!", "t\u{f5}de: 12:30", "", "\\u{1b}[2J"]); // no raw escapes
    assert_eq!(texts(addr, &["--last", "2"]), ["", "\\u{1b}[2J"]);
    server.wait_for("asks     1:Hello world!\n").unwrap();
    server.wait_for("is told  0:\n").unwrap();
    interrupt(&mut server);
    assert!(server.printed().contains("The board had 4 messages\n"), "{}", server.printed());
}

#[test]
fn a_message_comes_from_standard_input_without_its_last_newline() {
    let (_server, addr) = server(&[]);
    for (typed, kept) in [("one", "one"), ("two\nlines\n", "two\\nlines\\n")] {
        let mut client = Role::spawn(&mut client(addr, &["--publish", "-", "--timeout", "9.5"])).unwrap();
        client.type_line(typed).unwrap(); // adds a newline
        client.input = None;
        client.wait_for("Message Published\n").unwrap();
        ends_well(&mut client);
        assert_eq!(texts(addr, &["--last", "1"]), [kept]);
    }
    let latin1 = "printf 't\\365de' | \"$0\" client \"$1\" --publish -";
    let (code, stderr) = failed(Command::new("bash").args(["-c", latin1, LAB, &addr.to_string()]));
    assert!(code == 1 && stderr.starts_with("lab15: the text is not UTF-8 from byte 1 on"), "{stderr}");
}

#[test]
fn a_lost_answer_publishes_twice_and_with_a_request_id_once() {
    let (_server, addr) = server(&["--lose", "1"]);
    let finished = run(&mut client(addr, &["--timeout", "0.5", "--publish", "twice"]));
    assert!(finished.stdout.starts_with("No answer in 500ms; asking again (1)\n"), "{finished:?}");
    assert!(finished.stdout.ends_with("Message Published\n"), "{finished:?}");
    let kept = texts(addr, &[]); // two; more, if a busy machine let an answer come late
    assert!(kept.len() >= 2 && kept.iter().all(|text| text == "twice"), "{kept:?}");
    let (_server, addr) = server_losing_one_publishes("once");
    assert_eq!(texts(addr, &[]), ["once"]);
}

fn server_losing_one_publishes(text: &str) -> (Role, SocketAddr) {
    let (role, addr) = server(&["--lose", "1"]);
    publish(addr, &["--timeout", "0.2", "--once"], text);
    (role, addr)
}

#[test]
fn the_tail_is_cut_where_a_letter_ends_and_what_is_left_can_be_read() {
    let (_server, addr) = server(&[]);
    let long = format!("a{}", "\u{f5}".repeat(50_000));
    publish(addr, &["--once"], &long);
    let kept = texts(addr, &[]).remove(0);
    assert!(long.starts_with(&kept) && (65_430..=65_438).contains(&kept.len()), "{} bytes", kept.len());
    let cut = run(&mut client(addr, &["--publish", "t\u{f5}de", "--limit", "2"]));
    assert_eq!(cut.stdout, "The text is too long: only its first 1 bytes are published\nMessage Published\n");
}

#[test]
fn a_message_that_is_too_long_to_be_read_stops_no_other_client() {
    let (mut server, addr) = server(&[]);
    publish(addr, &["--limit", "65505"], &"x".repeat(65_505));
    let (code, stderr) = failed(&mut client(addr, &["--timeout", "0.1", "--retries", "1"]));
    assert!(
        code == 1 && stderr.contains(&format!("message {FIRST_ID}: no answer from {addr} to 2 requests")),
        "{stderr}"
    );
    server.wait_for("= -1 EMSGSIZE (Message too long)\n").unwrap();
    let (code, stderr) = failed(client(addr, &["--limit", "65506"]).args(["--publish", &"x".repeat(65_506)]));
    assert!(code == 1 && stderr.contains("EMSGSIZE (90)") && stderr.contains("smaller --limit"), "{stderr}");
    publish(addr, &[], "short");
    assert_eq!(texts(addr, &["--last", "1"]), ["short"]);
}

#[test]
fn what_is_no_request_gets_its_code_and_the_server_goes_on() {
    let (_server, addr) = server(&[]);
    let sock = foreign();
    for (request, answer) in [
        (&b""[..], &b"1:"[..]),
        (b"hello", b"1:"),
        (b"2:ten", b"1:"),
        (b"2:99999999999999999999", b"1:"),
        (b"5:no id", b"1:"),
        (b"3:1", b"2:"),
        (b"4:0", b"3:"),
        (b"9:", b"3:"),
        (b"1:\xff\x00\n", b"0:"),
    ] {
        assert_eq!(ask(&sock, addr, request), answer, "{}", request.escape_ascii());
    }
    assert_eq!(texts(addr, &[]), ["\\xff\\u{0}\\n"]);
    let mut state = 9973_u64;
    for _ in 0..2000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let garbage = state.to_be_bytes();
        let _ = sock.send_to(&garbage[..usize::from(garbage[0]) % 8], addr); // what does not fit its buffer is dropped
    }
    assert!(texts(addr, &["--last", "1", "--timeout", "0.5", "--retries", "40"]).len() == 1);
}

#[test]
fn many_clients_at_once_are_all_confirmed() {
    let (_server, addr) = server(&[]);
    let clients: Vec<_> = (0..20)
        .map(|number| {
            thread::spawn(move || {
                let sock = foreign();
                (0..10).for_each(|turn| assert_eq!(ask(&sock, addr, format!("1:{number} {turn}").as_bytes()), b"0:"));
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    let mut seen = texts(addr, &[]);
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 200);
}

#[test]
fn thirty_kills_in_a_row_lose_nothing_that_was_confirmed() {
    let folder = TempDir::new();
    let file = folder.path().join("board.redb");
    let journal = ["--journal", file.to_str().unwrap()];
    let mut confirmed = Vec::new();
    for round in 0..30 {
        let (server, addr) = server(&journal);
        let sock = foreign();
        for turn in 0..3 {
            let text = format!("{round} {turn}");
            assert_eq!(ask(&sock, addr, format!("1:{text}").as_bytes()), b"0:");
            confirmed.push(text);
        }
        sock.send_to(b"1:perhaps", addr).unwrap(); // on its way when the server dies
        drop(server); // kill -9
    }
    let (_server, addr) = server(&journal);
    let mut kept = texts(addr, &[]);
    kept.retain(|text| text != "perhaps");
    assert_eq!(kept, confirmed);
}

#[test]
fn a_journal_is_refused_where_it_is_none_or_in_use() {
    let folder = TempDir::new();
    let (text, used) = (folder.path().join("text"), folder.path().join("board.redb"));
    std::fs::write(&text, "no journal\n").unwrap();
    let journal = |file: &std::path::Path| {
        let (code, stderr) = failed(Command::new(LAB).args(["server", "0", "--journal"]).arg(file));
        assert!(code == 1 && stderr.starts_with("lab15: open the journal "), "{stderr}");
    };
    journal(&text);
    let (_server, _) = server(&["--journal", used.to_str().unwrap()]);
    journal(&used);
    journal(&folder.path().join("no/such/folder"));
}

#[test]
fn the_lectures_client_and_server_speak_the_same_wire() {
    if skip_without(!have("python3"), "python3", "apt-get install python3") {
        return;
    }
    let (_server, addr) = server(&[]);
    let theirs = run(Command::new("python3").args(["-c", LECTURE_CLIENT, &addr.port().to_string()]));
    assert_eq!(theirs.stdout, "as in the lecture\n", "{theirs:?}");

    let (_theirs, addr) = testkit::python_server(LECTURE_SERVER);
    publish(addr, &[], "Hello world!");
    publish(addr, &[], "t\u{f5}de: 12:30");
    assert_eq!(texts(addr, &[]), ["Hello world!", "t\u{f5}de: 12:30"]);
    assert_eq!(texts(addr, &["--last", "1"]), ["t\u{f5}de: 12:30"]);
}

#[test]
fn any_program_that_sends_a_datagram_is_a_client() {
    for tool in ["nc", "ncat", "socat"] {
        if skip_without(!have(tool), tool, "apt-get install netcat-openbsd ncat socat") {
            continue;
        }
        let (_server, addr) = server(&[]);
        let port = addr.port().to_string();
        let mut peer = match tool {
            "socat" => Role::spawn(Command::new(tool).args(["-t10", "-", &format!("UDP4:{addr}")])),
            _ => Role::spawn(Command::new(tool).args(["-u", "127.0.0.1", &port])),
        }
        .unwrap();
        peer.type_line("1:hello").unwrap(); // the newline is part of the datagram
        peer.wait_for("0:").unwrap();
        assert_eq!(texts(addr, &[]), ["hello\\n"]);
    }
}

#[test]
fn ipv6_works_as_ipv4_does() {
    if testkit::without_ipv6() {
        return;
    }
    let (_server, addr) = serving(Command::new(LAB).args(["server", "[::1]:0"]), BANNER);
    publish(addr, &[], "a:b");
    let shown = run(&mut client(addr, &[])).stdout;
    assert!(shown.contains("  [::1]:") && shown.ends_with("  a:b\n"), "{shown}");
}

#[test]
fn a_strangers_answer_is_not_believed() {
    let (server, stranger) = (foreign(), foreign());
    let mut client = Role::spawn(&mut client(server.local_addr().unwrap(), &["--publish", "hello"])).unwrap();
    let mut buffer = [0; 64];
    let (bytes_read, client_addr) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..bytes_read], b"1:hello");
    stranger.connect(client_addr).unwrap();
    stranger.send(b"1:").unwrap();
    assert!(stranger.recv(&mut buffer).is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused));
    server.send_to(b"0:", client_addr).unwrap();
    client.wait_for("Message Published\n").unwrap();
    ends_well(&mut client);
}

#[test]
fn a_refusal_and_an_answer_that_is_none_are_reported() {
    for (answer, expected) in [
        (&b"3:"[..], "the server answers 3 unknown request"),
        (b"1:", "the server answers 1 bad format"),
        (b"HTTP/1.1 400", "this is no answer of a message board"),
        (b"", "this is no answer of a message board"),
        (b"0:1:two", "an id is no number"),
    ] {
        let server = foreign();
        let addr = server.local_addr().unwrap();
        let asked = thread::spawn(move || failed(&mut client(addr, &["--timeout", "10"])));
        let (_, client_addr) = server.recv_from(&mut [0; 64]).unwrap();
        server.send_to(answer, client_addr).unwrap();
        let (code, stderr) = asked.join().unwrap();
        assert!(code == 1 && stderr.starts_with("lab15: ") && stderr.contains(expected), "{stderr}");
    }
}

#[test]
fn ctrl_c_ends_each_role_wherever_it_waits() {
    let silent = foreign();
    let addr = silent.local_addr().unwrap();
    let mut waiting = Role::spawn(client(addr, &["--timeout", "600"]).args(["--publish", "hello"])).unwrap();
    silent.recv_from(&mut [0; 64]).unwrap();
    let (server, _) = server(&[]);
    let mut typing = Role::spawn(client(addr, &["--publish", "-"]).arg("--pause")).unwrap();
    for role in [&mut waiting, &mut typing] {
        // Not before it has blocked the signal: until then it ends as any program does.
        testkit::wait_until_it_hears_ctrl_c(role.pid()).unwrap();
        interrupt(role);
    }
    let mut server = server;
    signal(&server, Signal::SIGTERM);
    ends_well(&mut server);
}

#[test]
fn pause_waits_before_each_call() {
    let mut server = Role::spawn(Command::new(LAB).args(["server", "0", "--pause"])).unwrap();
    step(&mut server, &["socket(AF_INET, SOCK_DGRAM, 0)", "bind("]);
    let addr = addr_behind(&mut server, BANNER);
    step(&mut server, &["recvfrom("]);
    let mut client = Role::spawn(&mut client(addr, &["--publish", "hello", "--pause", "--timeout", "60"])).unwrap();
    step(&mut client, &["socket(AF_INET, SOCK_DGRAM, 0)", "connect(", "send(", "recv("]);
    step(&mut server, &["sendto("]);
    client.wait_for("Message Published\n").unwrap();
    ends_well(&mut client);
    interrupt(&mut server);
}

#[test]
fn errors_name_the_call_the_address_the_errno_and_a_command_that_helps() {
    let failed = |args: &[&str]| failed(Command::new(LAB).args(args));
    let taken = foreign();
    let addr = taken.local_addr().unwrap().to_string();
    let (code, stderr) = failed(&["server", &addr]);
    assert!(code == 1 && stderr.starts_with(&format!("lab15: bind {addr}: EADDRINUSE (98)")), "{stderr}");
    // A connected socket keeps the port and takes nothing from strangers: nobody else can get it meanwhile.
    taken.connect("127.0.0.1:9").unwrap();
    let (code, stderr) = failed(&["client", &addr]);
    assert!(code == 1 && stderr.starts_with(&format!("lab15: recv {addr}: ECONNREFUSED (111)")), "{stderr}");
    assert!(stderr.contains("hint: nobody has that port; start the server"), "{stderr}");
    let (code, stderr) = failed(&["client", "0"]);
    assert!(code == 1 && stderr.contains("nobody is at port 0"), "{stderr}");
    for usage in [
        &["server", "77777"][..],
        &["client", "a b"],
        &["client", "--timeout", "0"],
        &["client", "--timeout", "soon"],
        &["client", "--last", "-1"],
        &["client", "--once"],
        &["client", "--publish", "x", "--last", "1"],
        &["client", "1", "2", "3"],
    ] {
        assert_eq!(failed(usage).0, 2, "{usage:?}");
    }
    assert_eq!(failed(&["client", "5050", "5051"]).0, 1);
}
