//! Runs the real binary: the demo, the programs against each other and against Python 3, and what goes wrong.
#![allow(clippy::unwrap_used)]

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::Command,
    sync::LazyLock,
    thread,
    time::Duration,
};

use kernel::{Pair, State, wait_for_state};
use socket2::{Domain, SockRef, Socket, Type};
use testkit::{
    Demo, Role, TCP_TOOLS, TempDir, addr_behind, descriptors, ends_well, failed, foreign, have, interrupt, run,
    serving, skip_without, step, tcp_tool, wait_until,
};

const LAB: &str = env!("CARGO_BIN_EXE_lab17-mboard-tcp");
const LIMIT: Duration = Duration::from_secs(10);
const BANNER: &str = " messages; requests to ";
static DEMO: LazyLock<Demo> = LazyLock::new(|| Demo::play(LAB));

/// The lecture's client: connect, send, shut the writing side down, receive to the end, close.
const LECTURE_CLIENT: &str = "
import socket, sys
def ask(request):
    s = socket.create_connection(('127.0.0.1', int(sys.argv[1])), 10)
    s.sendall(request)
    s.shutdown(socket.SHUT_WR)
    answer = b''
    while True:
        part = s.recv(1024)
        if not part:
            return answer
        answer += part
texts = [b'Hello world!', 't\\u00f5de: 12:30\\n'.encode('utf-8'), b'', bytes(range(256)) * 1000]
for text in texts:
    assert ask(b'1:' + text) == b'0:'
answer = ask(b'4:0')
assert answer.startswith(b'0:4:')
rest = answer[4:]
for text in texts:
    m_id, time, host, port, length, rest = rest.split(b':', 5)
    assert host == b'127.0.0.1' and float(time) > 0
    assert rest[:int(length)] == text
    assert ask(b'3:' + m_id).split(b':', 4)[4] == text
    rest = rest[int(length):]
assert rest == b''
assert len(ask(b'2:0').split(b':')) == 5
assert ask(b'3:1') == b'2:' and ask(b'9:') == b'3:' and ask(b'hello') == b'1:' and ask(b'') == b'1:'
print('as in the lecture')
";
/// The lecture's server, as short as it can be.
const LECTURE_SERVER: &str = "
import socket, time
l = socket.socket()
l.bind(('127.0.0.1', 0))
l.listen(1)
print('port', l.getsockname()[1], flush=True)
board = []
while True:
    s, source = l.accept()
    request = b''
    while True:
        part = s.recv(1024)
        if not part:
            break
        request += part
    code, payload = request.split(b':', 1)
    if code == b'1':
        board.append(b'%d:%f:%s:%d:%d:%s' % (len(board), time.time(), source[0].encode(), source[1], len(payload), payload))
        answer = b'0:'
    else:
        last = board[-int(payload):]
        answer = b'0:%d:' % len(last) + b''.join(last)
    s.sendall(answer)
    s.close()
";

/// The server on a port of the kernel's choice.
fn server(options: &[&str]) -> (Role, SocketAddr) {
    serving(Command::new(LAB).args(["server", "0"]).args(options), BANNER)
}

fn client(addr: SocketAddr, options: &[&str]) -> Command {
    let mut command = Command::new(LAB);
    command.args(["client", &addr.to_string()]).args(options);
    command
}

fn publish(addr: SocketAddr, text: &str) {
    let finished = run(&mut client(addr, &["--publish", text]));
    assert!(finished.code() == 0 && finished.stdout == "Message Published\n", "{finished:?}");
}

/// The texts that the client shows, each the last of four columns.
fn texts(addr: SocketAddr, options: &[&str]) -> Vec<String> {
    let finished = run(&mut client(addr, options));
    assert_eq!(finished.code(), 0, "{finished:?}");
    testkit::texts(&finished.stdout)
}

/// A foreign client's request and the answer to it.
fn ask(addr: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut stream = foreign(addr);
    stream.write_all(request).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

#[test]
fn the_demo_decides_every_claim_as_recorded() {
    DEMO.assert_verdicts(&[
        ("killed-halfway", "CORRECTED"),
        ("nobody-else", "ANSWERED"),
        ("whose-time-wait", "ANSWERED"),
        ("one-answer", "CONFIRMED"),
        ("command-line", "ANSWERED"),
        ("any-byte", "CONFIRMED"),
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
    testkit::assert_sheet_quotes_a_run("lab17-mboard-tcp", &DEMO);
}

#[test]
fn an_ordinary_account_can_do_everything_but_a_privileged_port() {
    testkit::assert_demo_needs_no_privileges(LAB);
    testkit::assert_privileged_port_is_refused(LAB, &["server", "1"], "127.0.0.1:1");
}

#[test]
fn what_is_published_is_read_back_in_order() {
    let (mut server, addr) = server(&[]);
    let idle = descriptors(server.pid());
    assert!(texts(addr, &[]).is_empty());
    for text in ["Hello world!", "t\u{f5}de: 12:30", "", "\u{1b}[2J"] {
        publish(addr, text);
    }
    assert_eq!(texts(addr, &[]), ["Hello world!", "t\u{f5}de: 12:30", "", "\\u{1b}[2J"]); // no raw escapes
    assert_eq!(texts(addr, &["--last", "2"]), ["", "\\u{1b}[2J"]);
    server.wait_for("asks     1:Hello world!\n").unwrap();
    server.wait_for("closed: answered\n").unwrap();
    wait_until("all descriptors back", LIMIT, || Ok((descriptors(server.pid()) == idle).then_some(()))).unwrap();
    interrupt(&mut server);
    assert!(server.printed().contains("The board had 4 messages\n"), "{}", server.printed());
}

#[test]
fn a_message_of_any_bytes_and_of_any_size_comes_from_standard_input() {
    let (_server, addr) = server(&[]);
    let many = "head -c 3000000 /dev/zero | \"$0\" client \"$1\" --publish -";
    let finished = run(Command::new("bash").args(["-c", many, LAB, &addr.to_string()]));
    assert_eq!(finished.stdout, "Message Published\n", "{finished:?}");
    assert_eq!(ask(addr, b"4:0").iter().filter(|byte| **byte == 0).count(), 3_000_000);
    let mut typing = Role::spawn(&mut client(addr, &["--publish", "-"])).unwrap();
    typing.type_line("two").unwrap();
    typing.type_line("lines \u{20ac}").unwrap();
    typing.input = None;
    typing.wait_for("Message Published\n").unwrap();
    ends_well(&mut typing);
    assert_eq!(texts(addr, &["--last", "1"]), ["two\\nlines \u{20ac}\\n"]);
}

#[test]
fn kills_in_a_row_lose_nothing_that_was_confirmed() {
    let folder = TempDir::new();
    let file = folder.path().join("board.redb");
    let journal = ["--journal", file.to_str().unwrap()];
    let mut confirmed = Vec::new();
    for round in 0..30 {
        let (server, addr) = server(&journal);
        let text = format!("round {round}");
        assert_eq!(ask(addr, format!("1:{text}").as_bytes()), b"0:");
        confirmed.push(text);
        let mut half = foreign(addr);
        half.write_all(b"1:perhaps").unwrap(); // on its way when the server dies
        drop(server); // kill -9
    }
    let (_server, addr) = server(&journal);
    assert_eq!(texts(addr, &[]), confirmed);
    let (code, stderr) = failed(Command::new(LAB).args(["server", "0", "--journal"]).arg(&file)); // in use
    assert!(code == 1 && stderr.starts_with("lab17: open the journal "), "{stderr}");
}

#[test]
fn a_request_may_come_in_single_bytes() {
    let (_server, addr) = server(&[]);
    let mut stream = foreign(addr);
    stream.set_nodelay(true).unwrap();
    for byte in b"1:byte by byte" {
        stream.write_all(&[*byte]).unwrap();
    }
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "0:");
    assert_eq!(texts(addr, &[]), ["byte by byte"]);
}

#[test]
fn what_is_no_request_gets_its_code_and_the_server_goes_on() {
    let (_server, addr) = server(&[]);
    for (request, answer) in [
        (&b""[..], &b"1:"[..]),
        (b"hello", b"1:"),
        (b"2:ten", b"1:"),
        (b"4:99999999999999999999", b"1:"),
        (b"3:1", b"2:"),
        (b"9:", b"3:"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"1:"),
        (b"4:0", b"0:0:"),
    ] {
        assert_eq!(ask(addr, request), answer, "{}", request.escape_ascii());
    }
}

#[test]
fn a_request_that_is_too_long_is_refused_without_a_reset() {
    let (mut server, addr) = server(&["--max-request", "100000"]);
    assert_eq!(ask(addr, &[b"1:", &vec![b'x'; 99_998][..]].concat()), b"0:");
    assert_eq!(ask(addr, &[b"1:", &vec![b'x'; 1_000_000][..]].concat()), b"1:");
    server.wait_for("closed: the request is too long\n").unwrap();
    let refused = "head -c 1000000 /dev/zero | \"$0\" client \"$1\" --publish -";
    let (code, stderr) = failed(Command::new("bash").args(["-c", refused, LAB, &addr.to_string()]));
    assert!(code == 1 && stderr.starts_with("lab17: the server answers 1 bad format"), "{stderr}");
    publish(addr, "short");
}

#[test]
fn one_who_stays_silent_resets_or_never_reads_is_dropped_and_the_next_one_served() {
    let (mut server, addr) = server(&["--deadline", "2"]);
    let idle = descriptors(server.pid());
    let mut silent = foreign(addr);
    silent.write_all(b"1:half").unwrap();
    let resets = foreign(addr);
    SockRef::from(&resets).set_linger(Some(Duration::ZERO)).unwrap();
    server.wait_for("no end of stream in time; 6 bytes had come\n").unwrap();
    drop(resets); // RST; it was accepted by now, or is still in the queue
    let long = [b"1:", &vec![b'x'; 6_000_000][..]].concat(); // more than both buffers hold
    assert_eq!(ask(addr, &long), b"0:");
    let deaf = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    deaf.set_recv_buffer_size(1).unwrap(); // the least the kernel grants
    deaf.connect(&addr.into()).unwrap();
    let mut deaf = TcpStream::from(deaf);
    deaf.write_all(b"4:0").unwrap();
    deaf.shutdown(Shutdown::Write).unwrap();
    server.wait_for("did not take its answer in time\n").unwrap();
    publish(addr, "after all of them");
    wait_until("all descriptors back", LIMIT, || Ok((descriptors(server.pid()) == idle).then_some(()))).unwrap();
}

#[test]
fn clients_wait_their_turn_and_all_are_served() {
    let (_server, addr) = server(&[]);
    let clients: Vec<_> = (0..20)
        .map(|number| {
            thread::spawn(move || {
                (0..5).for_each(|turn| assert_eq!(ask(addr, format!("1:{number} {turn}").as_bytes()), b"0:"));
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    let mut seen = texts(addr, &[]);
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 100);
}

#[test]
fn without_a_deadline_a_silent_client_stops_everybody_until_it_goes() {
    let (mut server, addr) = server(&["--deadline", "0"]);
    let silent = foreign(addr);
    server.wait_for(" connected\n").unwrap();
    let mut waiting = Role::spawn(&mut client(addr, &["--publish", "hello"])).unwrap();
    // Its FIN is there: the kernel has taken connection, request and end, and the program none of them.
    let peer = wait_until("the second client's request", LIMIT, || {
        let rows = kernel::tcp_sockets(addr.port())?;
        Ok(rows.iter().find(|row| row.state == State::CloseWait).map(|row| row.pair.peer))
    })
    .unwrap();
    wait_for_state(Pair { local: peer, peer: addr }, Some(State::FinWait2), LIMIT).unwrap();
    assert_eq!(waiting.printed(), "");
    drop(silent); // an empty request: "1:"
    waiting.wait_for("Message Published\n").unwrap();
    ends_well(&mut waiting);
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
    publish(addr, "Hello world!");
    publish(addr, "t\u{f5}de: 12:30");
    assert_eq!(texts(addr, &[]), ["Hello world!", "t\u{f5}de: 12:30"]);
    assert_eq!(texts(addr, &["--last", "1"]), ["t\u{f5}de: 12:30"]);
}

#[test]
fn any_program_that_shuts_its_side_down_is_a_client() {
    for tool in TCP_TOOLS {
        let (_server, addr) = server(&[]);
        let Some(mut peer) = tcp_tool(tool, addr) else { continue };
        peer.type_line("1:hello").unwrap(); // the newline is part of the message
        peer.input = None;
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
    publish(addr, "a:b");
    let shown = run(&mut client(addr, &[])).stdout;
    assert!(shown.contains("  [::1]:") && shown.ends_with("  a:b\n"), "{shown}");
}

#[test]
fn an_answer_that_is_none_is_reported_and_the_client_fails() {
    for (answer, expected) in [
        (&b"3:"[..], "the server answers 3 unknown request"),
        (b"", "this is no answer of a message board"),
        (b"HTTP/1.1 400 Bad Request\r\n", "this is no answer of a message board"),
        (b"0:2:7:1.5:127.0.0.1:80:5:Hello", "an id is no number"),
        (b"0:1:7:1.5:127.0.0.1:80:9:Hello", "it ends before its last message does"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let asked = thread::spawn(move || failed(&mut client(addr, &[])));
        let (mut conn, _) = listener.accept().unwrap();
        conn.read_to_end(&mut Vec::new()).unwrap();
        conn.write_all(answer).unwrap();
        drop(conn);
        let (code, stderr) = asked.join().unwrap();
        assert!(code == 1 && stderr.starts_with("lab17: ") && stderr.contains(expected), "{stderr}");
    }
    // A reset in the middle of the answer.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let asked = thread::spawn(move || failed(&mut client(addr, &[])));
    let (mut conn, _) = listener.accept().unwrap();
    conn.read_to_end(&mut Vec::new()).unwrap();
    conn.write_all(b"0:").unwrap();
    SockRef::from(&conn).set_linger(Some(Duration::ZERO)).unwrap();
    drop(conn); // RST
    let (code, stderr) = asked.join().unwrap();
    assert!(code == 1 && stderr.starts_with(&format!("lab17: recv {addr}: ECONNRESET (104)")), "{stderr}");
}

#[test]
fn ctrl_c_ends_each_role_wherever_it_waits() {
    let (mut server, addr) = server(&["--deadline", "0"]);
    let _in_the_middle = foreign(addr);
    server.wait_for(" connected\n").unwrap();
    let mut typing = Role::spawn(&mut client(addr, &["--publish", "-"])).unwrap();
    let mut waiting = Role::spawn(&mut client(addr, &["--publish", "hello"])).unwrap();
    wait_until("two more connections", LIMIT, || {
        let rows = kernel::tcp_sockets(addr.port())?;
        let alive = rows.iter().filter(|row| matches!(row.state, State::Established | State::CloseWait)).count();
        Ok((alive == 3 && rows.iter().any(|row| row.state == State::CloseWait)).then_some(()))
    })
    .unwrap();
    for role in [&mut typing, &mut waiting, &mut server] {
        interrupt(role);
    }
}

#[test]
fn pause_waits_before_each_call() {
    let mut server = Role::spawn(Command::new(LAB).args(["server", "0", "--pause"])).unwrap();
    step(&mut server, &["socket(AF_INET, SOCK_STREAM, 0)", "setsockopt(", "bind(", "listen("]);
    let addr = addr_behind(&mut server, BANNER);
    step(&mut server, &["accept("]);
    let mut client = Role::spawn(&mut client(addr, &["--publish", "hello", "--pause"])).unwrap();
    step(&mut client, &["socket(AF_INET, SOCK_STREAM, 0)", "connect(", "send(", "shutdown("]);
    step(&mut server, &["recv(", "recv(", "send(", "close("]);
    step(&mut client, &["recv(", "recv(", "close("]);
    client.wait_for("Message Published\n").unwrap();
    ends_well(&mut client);
    interrupt(&mut server);
}

#[test]
fn errors_name_the_call_the_address_the_errno_and_a_command_that_helps() {
    testkit::assert_addresses_are_refused(LAB, "server", "client");
    let failed = |args: &[&str]| failed(Command::new(LAB).args(args));
    let (code, stderr) = failed(&["client", "0"]);
    assert!(code == 1 && stderr.contains("nobody is at port 0"), "{stderr}");
    for usage in [
        &["server", "77777"][..],
        &["client", "a b"],
        &["server", "--max-request", "0"],
        &["client", "--last", "-1"],
        &["client", "--publish", "x", "--last", "1"],
        &["client", "1", "2", "3"],
    ] {
        assert_eq!(failed(usage).0, 2, "{usage:?}");
    }
    assert_eq!(failed(&["client", "5050", "5051"]).0, 1);
}
