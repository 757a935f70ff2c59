//! Runs the real binary: the demo, the programs against each other and against foreign peers, and what goes wrong.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::Command,
    sync::LazyLock,
    thread,
    time::Duration,
};

use kernel::{State, tcp_sockets};
use nix::sys::signal::Signal;
use proptest::{collection::vec, prelude::*, test_runner::TestRunner};
use socket2::{Domain, SockRef, Socket, Type};
use testkit::{
    Demo, Role, TCP_TOOLS, TempDir, Terminal, addr_behind, descriptors, ends_well, failed, have, interrupt, run,
    serving, signal, skip_without, step, tcp_tool, texts, wait_until,
};

const LAB: &str = env!("CARGO_BIN_EXE_lab22-mboard-live");
const LIMIT: Duration = Duration::from_secs(10);
const BANNER: &str = " messages; clients connect to ";
static DEMO: LazyLock<Demo> = LazyLock::new(|| Demo::play(LAB));

/// A client in another language: everything on the wire.
const PYTHON_CLIENT: &str = "
import socket, sys
class Client:
    def __init__(self, name, mark=0):
        self.s = socket.create_connection(('127.0.0.1', int(sys.argv[1])), 10)
        self.f = self.s.makefile('rb')
        self.say(b'6:%d:%s' % (mark, name))
        self.new = int(self.hear()[2:])
    def say(self, body):
        self.s.sendall(b'%d:' % len(body) + body)
    def hear(self):
        digits = b''
        while not digits.endswith(b':'):
            digits += self.f.read(1).strip(b'\\n')
        return self.f.read(int(digits[:-1]))
    def told(self):
        six, m_id, time, host, port, text = self.hear().split(b':', 5)
        assert six == b'6' and host == b'127.0.0.1' and float(time) > 0
        return int(m_id), text
ann, bob = Client(b'ann'), Client(b'bob')
assert (ann.new, bob.new) == (0, 0)
texts = [b'Hello world!', 't\\u00f5de: 12:30\\n'.encode('utf-8'), b'', bytes(range(256)) * 1000]
for text in texts:
    bob.say(b'1:' + text)
    assert bob.hear() == b'0:'
    m_id, heard = ann.told()
    assert heard == text
    ann.say(b'3:%d' % m_id)
    assert ann.hear().split(b':', 4)[4] == text
ann.say(b'7:%d' % (m_id - 1))
ann.say(b'9:')
assert ann.hear() == b'3:'
ann.s.close()
again = Client(b'ann')
assert again.new == 1 and again.told() == (m_id, texts[-1])
third = Client(b'ann')
assert again.hear() == b'8:' and again.f.read() == b'\\n'
assert third.new == 1 and Client(b'dan', m_id).new == 0 and Client(b'eve', 12).new == 4
bob.say(b'5:9973:once'); bob.say(b'5:9973:once'); bob.say(b'2:0')
assert bob.hear() == b'0:' and bob.hear() == b'0:' and len(bob.hear().split(b':')) == 6
print('the same wire')
";

/// The server on a port of the kernel's choice.
fn server(options: &[&str]) -> (Role, SocketAddr) {
    server_by(Command::new(LAB).args(["server", "0"]).args(options))
}

fn server_by(command: &mut Command) -> (Role, SocketAddr) {
    serving(command, BANNER)
}

fn client(addr: SocketAddr, options: &[&str]) -> Command {
    let mut command = Command::new(LAB);
    command.args(["client", &addr.to_string()]).args(options);
    command
}

/// The real client, greeted by the server.
fn named(addr: SocketAddr, name: &str) -> Role {
    let mut client = Role::spawn(&mut client(addr, &["--name", name])).unwrap();
    client.wait_for("Connected to ").unwrap();
    client.line_with("; new messages: ").unwrap();
    client
}

/// All that a new client is told.
fn all_texts(addr: SocketAddr) -> Vec<String> {
    let finished = run(&mut client(addr, &[]));
    assert_eq!(finished.code(), 0, "{finished:?}");
    texts(&finished.stdout)
}

/// A foreign client: a socket of the standard library.
struct Foreign(TcpStream);

impl Foreign {
    fn connect(addr: SocketAddr) -> Foreign {
        let stream = testkit::foreign(addr);
        stream.set_nodelay(true).unwrap();
        Foreign(stream)
    }

    fn named(addr: SocketAddr, name: &str) -> Foreign {
        let mut foreign = Foreign::connect(addr);
        assert!(foreign.ask(format!("6:0:{name}").as_bytes()).starts_with(b"0:"));
        foreign
    }

    fn say(&mut self, body: &[u8]) {
        self.0.write_all(&[format!("{}:", body.len()).as_bytes(), body].concat()).unwrap();
    }

    fn hear(&mut self) -> Vec<u8> {
        let (mut digits, mut byte) = (String::new(), [0]);
        loop {
            self.0.read_exact(&mut byte).unwrap();
            match byte[0] {
                b':' => break,
                b'\n' => {}
                digit => digits.push(digit.into()),
            }
        }
        let mut body = vec![0; digits.parse().unwrap()];
        self.0.read_exact(&mut body).unwrap();
        body
    }

    fn ask(&mut self, body: &[u8]) -> Vec<u8> {
        self.say(body);
        self.hear()
    }

    /// The text of the next message, which is confirmed.
    fn told(&mut self) -> Vec<u8> {
        let body = self.hear();
        let fields: Vec<_> = body.splitn(6, |byte| *byte == b':').collect();
        assert_eq!(fields[0], b"6", "{}", body.escape_ascii());
        self.say(&[b"7:", fields[1]].concat());
        fields[5].into()
    }

    fn rest_of_the_stream(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).unwrap();
        rest
    }
}

#[test]
fn the_demo_decides_every_claim_as_recorded() {
    DEMO.assert_verdicts(&[
        ("told-once", "CONFIRMED"),
        ("missed", "ANSWERED"),
        ("cut-cable", "ANSWERED"),
        ("no-reader", "ANSWERED"),
        ("idle-cost", "ANSWERED"),
        ("server-back", "ANSWERED"),
        ("asking", "ANSWERED"),
    ]);
}

#[test]
fn the_printed_calls_are_those_strace_saw() {
    testkit::assert_printed_calls_are_real(LAB);
}

#[test]
fn stops_change_no_verdict() {
    testkit::assert_stops_change_no_verdict(LAB);
}

#[test]
fn the_command_line_keeps_the_rules_of_all_labs() {
    testkit::assert_common_rules(LAB, &["server", "0"], BANNER);
}

#[test]
fn the_sheet_quotes_a_real_run() {
    testkit::assert_sheet_quotes_a_run("lab22-mboard-live", &DEMO);
}

#[test]
fn an_ordinary_account_can_do_everything_but_a_privileged_port() {
    testkit::assert_demo_needs_no_privileges(LAB);
    testkit::assert_privileged_port_is_refused(LAB, &["server", "1"], "127.0.0.1:1");
}

#[test]
fn what_one_types_the_others_are_shown_at_once_and_nobody_twice() {
    let (mut server, addr) = server(&[]);
    let idle = descriptors(server.pid());
    let (mut ann, mut bob) = (named(addr, "ann"), named(addr, "bob"));
    for (from, to) in [(true, "Hello world!"), (false, "t\u{f5}de: 12:30"), (true, ""), (false, "\u{1b}[2J")] {
        let (speaks, hears) = if from { (&mut ann, &mut bob) } else { (&mut bob, &mut ann) };
        speaks.type_line(to).unwrap();
        speaks.wait_for("Message Published\n").unwrap();
        hears.wait_for(&format!("  {}\n", to.replace('\u{1b}', "\\u{1b}"))).unwrap(); // no raw escapes
    }
    for role in [&mut ann, &mut bob] {
        role.input = None;
        role.wait_for("Closed: end of stream\n").unwrap();
        ends_well(role);
    }
    assert_eq!(texts(&ann.printed()), ["t\u{f5}de: 12:30", "\\u{1b}[2J"]);
    assert_eq!(texts(&bob.printed()), ["Hello world!", ""]);
    wait_until("all descriptors back", LIMIT, || Ok((descriptors(server.pid()) == idle).then_some(()))).unwrap();
    interrupt(&mut server);
    assert!(server.printed().contains("The board had 4 messages\n"), "{}", server.printed());
}

#[test]
fn a_half_typed_line_survives_what_others_publish() {
    let (_server, addr) = server(&[]);
    let mut bob = Foreign::named(addr, "bob");
    let mut ann = Terminal::start(&mut client(addr, &["--name", "ann"]), 80, 24);
    ann.wait_for("new messages: 0");
    ann.wait_for("> ");
    ann.type_text("half a li");
    ann.wait_for("half a li");
    assert_eq!(bob.ask(b"1:in between"), b"0:");
    ann.wait_for("  in between");
    ann.type_text("ne\n");
    ann.wait_for("Message Published");
    assert_eq!(bob.told(), b"half a line");
    ann.type_text("\x04"); // Ctrl-D
    assert_eq!(ann.end().code(), Some(0));
}

#[test]
fn publish_and_the_end_of_input_end_a_client_that_has_seen_everything() {
    let (_server, addr) = server(&[]);
    let finished = run(&mut client(addr, &["--publish", "one"]));
    assert!(finished.code() == 0 && finished.stdout.contains("Message Published\n"), "{finished:?}");
    let typed = "printf 'two\\n\\377three' | \"$0\" client \"$1\" --name ann";
    let finished = run(Command::new("bash").args(["-c", typed, LAB, &addr.to_string()]));
    assert_eq!(finished.code(), 0, "{finished:?}");
    assert_eq!(finished.stdout.matches("Message Published\n").count(), 2, "{finished:?}");
    assert_eq!(texts(&finished.stdout), ["one"]);
    assert_eq!(all_texts(addr), ["one", "two", "\\xffthree"]);
    let long = "head -c 65537 /dev/zero | tr '\\0' x | \"$0\" client \"$1\"";
    let finished = run(Command::new("bash").args(["-c", long, LAB, &addr.to_string()]));
    assert!(finished.stdout.contains("not published: longer than 65536 bytes\n"), "{finished:?}");
    assert_eq!(all_texts(addr).len(), 3);
}

#[test]
fn many_who_publish_at_once_are_all_told_everything_once_in_one_order() {
    let (_server, addr) = server(&[]);
    let mut witness = Foreign::named(addr, "witness");
    let clients: Vec<_> = (0..10)
        .map(|number| {
            let mut client = Foreign::named(addr, &number.to_string());
            thread::spawn(move || {
                let mut heard = Vec::new();
                let mut answers = 0;
                for turn in 0..20 {
                    client.say(format!("1:{number} {turn}").as_bytes());
                }
                while answers < 20 || heard.len() < 180 {
                    match client.hear().as_slice() {
                        b"0:" => answers += 1,
                        told => heard.push(told.splitn(6, |byte| *byte == b':').nth(5).unwrap().to_vec()),
                    }
                }
                (number, heard)
            })
        })
        .collect();
    let order: Vec<Vec<u8>> = (0..200).map(|_| witness.told()).collect();
    for client in clients {
        let (number, heard) = client.join().unwrap();
        let others: Vec<_> =
            order.iter().filter(|text| !text.starts_with(format!("{number} ").as_bytes())).cloned().collect();
        assert_eq!(heard, others, "client {number}");
    }
}

#[test]
fn a_long_history_is_told_whole_and_in_order_as_fast_as_the_client_reads() {
    let (_server, addr) = server(&[]);
    let mut bob = Foreign::connect(addr);
    let text = |number: usize| [format!("{number} ").as_bytes(), &[b'x'; 20_000]].concat();
    for number in 0..300 {
        assert_eq!(bob.ask(&[b"1:", &text(number)[..]].concat()), b"0:");
    }
    let mut late = Foreign::named(addr, "late");
    assert_eq!(bob.ask(b"3:1"), b"2:"); // nobody waits for the one who does not read yet
    (0..300).for_each(|number| assert!(late.told() == text(number), "message {number}"));
    assert_eq!(all_texts(addr).len(), 300);
}

#[test]
fn who_asks_and_never_reads_is_not_read_from_and_then_dropped() {
    let (mut server, addr) = server(&["--patience", "1"]);
    let mut bob = Foreign::named(addr, "bob");
    assert_eq!(bob.ask(&[b"1:", &[b'x'; 500_000][..]].concat()), b"0:");
    let deaf = Foreign::connect(addr);
    deaf.0.set_nonblocking(true).unwrap();
    let requests = b"3:4:1".repeat(10_000);
    let asked = wait_until("the server to stop reading", LIMIT, || match (&deaf.0).write(&requests) {
        Err(error) => Ok(Some(error)),
        Ok(_) => Ok(None),
    });
    asked.unwrap();
    assert_eq!(bob.ask(b"3:1"), b"2:");
    server.wait_for("] is gone: has read nothing for 1s\n").unwrap();
    assert!(peak_kb(&server) < 100_000, "the server has used {} kB", peak_kb(&server));
    assert_eq!(bob.ask(b"1:still here"), b"0:");
}

#[test]
fn who_asks_without_an_end_has_turns_and_the_others_have_theirs() {
    let (server, addr) = server(&[]);
    let mut bob = Foreign::named(addr, "bob");
    let mut floods = Foreign::connect(addr);
    let reader = Foreign(floods.0.try_clone().unwrap());
    let requests = b"2:9:".repeat(40_000);
    let flood = thread::spawn(move || floods.0.write_all(&requests).map(|()| floods));
    let hears = thread::spawn(move || (&reader.0).take(5 * 40_000).read_to_end(&mut Vec::new()).unwrap());
    for _ in 0..20 {
        assert_eq!(bob.ask(b"3:1"), b"2:");
    }
    assert_eq!(hears.join().unwrap(), 5 * 40_000);
    flood.join().unwrap().unwrap();
    assert!(peak_kb(&server) < 50_000, "the server has used {} kB", peak_kb(&server));
}

/// The most memory that this process has used.
fn peak_kb(role: &Role) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", role.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_request_may_come_in_single_bytes() {
    let (_server, addr) = server(&[]);
    let mut foreign = Foreign::connect(addr);
    for byte in *b"14:1:byte by byte\n" {
        foreign.0.write_all(&[byte]).unwrap();
    }
    assert_eq!(foreign.hear(), b"0:");
    assert_eq!(all_texts(addr), ["byte by byte"]);
}

#[test]
fn what_is_no_request_gets_its_code_and_what_is_no_frame_ends_the_connection() {
    let (mut server, addr) = server(&[]);
    let mut foreign = Foreign::connect(addr);
    for (request, answer) in [
        (&b""[..], &b"1:"[..]),
        (b"hello", b"1:"),
        (b"2:ten", b"1:"),
        (b"3:1", b"2:"),
        (b"9:", b"3:"),
        (b"8:", b"3:"),
        (b"6:0:", b"1:"),
        (b"6:0:a\nb", b"1:"),
        (b"7:x", b"1:"),
        (b"4:0", b"0:0:"),
        (b"7:99", b"2:"), // no answer to this one, and without a name no mark
    ] {
        if request == b"7:99" {
            foreign.say(request);
            assert_eq!(foreign.ask(b"3:1"), answer);
            continue;
        }
        assert_eq!(foreign.ask(request), answer, "{}", request.escape_ascii());
    }
    for (bytes, why) in [(&b"GET / HTTP/1.1\r\n\r\n"[..], "Length"), (b"1048577:1:", "TooLong"), (b"-3:", "Length")] {
        let mut foreign = Foreign::connect(addr);
        foreign.0.write_all(bytes).unwrap();
        assert_eq!(foreign.rest_of_the_stream(), b"2:1:\n");
        server.wait_for(&format!("is gone: what came is no frame: {why}\n")).unwrap();
    }
    let mut longest = Foreign::connect(addr);
    assert_eq!(longest.ask(&[b"1:", &vec![0; (1 << 20) - 2][..]].concat()), b"0:");
    assert_eq!(longest.ask(b"4:0"), b"1:"); // its answer would be longer than a frame
}

#[test]
fn half_a_request_is_never_published() {
    let (mut server, addr) = server(&[]);
    let mut cut = Foreign::connect(addr);
    cut.0.write_all(b"30:1:Give 100 euros").unwrap();
    cut.0.shutdown(Shutdown::Write).unwrap();
    assert_eq!(cut.rest_of_the_stream(), b"");
    server.wait_for("is gone: end of stream, 19 bytes of a request before it: thrown away\n").unwrap();
    let resets = Foreign::connect(addr);
    (&resets.0).write_all(b"9:1:Gi").unwrap();
    SockRef::from(&resets.0).set_linger(Some(Duration::ZERO)).unwrap();
    drop(resets); // RST
    server.wait_for("is gone: recv: ECONNRESET (Connection reset by peer)\n").unwrap();
    assert!(all_texts(addr).is_empty());
}

#[test]
fn five_thousand_random_byte_strings_leave_the_server_as_it_was() {
    let (server, addr) = server(&[]);
    let before = descriptors(server.pid());
    let mut witness = Foreign::named(addr, "witness");
    let config = ProptestConfig { cases: 5000, failure_persistence: None, ..ProptestConfig::default() };
    let bytes = vec(prop::sample::select(b"0123456789::::.\n\xff a".to_vec()), 0..60);
    TestRunner::new(config)
        .run(&(bytes, any::<bool>()), |(bytes, in_good_order)| {
            let mut foreign = Foreign::connect(addr);
            foreign.0.write_all(&bytes)?;
            if in_good_order {
                let _ = foreign.0.shutdown(Shutdown::Write); // ENOTCONN: refused already
                let heard = foreign.rest_of_the_stream();
                prop_assert!(heard.is_empty() || heard.ends_with(b"\n"), "{}", heard.escape_ascii());
            }
            Ok(())
        })
        .unwrap();
    assert_eq!(Foreign::connect(addr).ask(b"1:last"), b"0:");
    while witness.told() != b"last" {}
    drop(witness);
    wait_until("all descriptors closed", LIMIT, || Ok((descriptors(server.pid()) == before).then_some(()))).unwrap();
}

#[test]
fn a_newer_connection_takes_the_name_over() {
    let (mut server, addr) = server(&[]);
    let mut old = named(addr, "ann");
    let mut new = named(addr, "ann");
    old.wait_for("Closed: a newer connection has this name\n").unwrap();
    assert_eq!(old.wait_for_end().unwrap().code(), Some(1));
    server.wait_for("is gone: a newer connection has this name\n").unwrap();
    assert_eq!(Foreign::connect(addr).ask(b"1:hello"), b"0:");
    new.wait_for("  hello\n").unwrap();
}

#[test]
fn without_a_free_descriptor_whoever_connects_waits_and_gets_in_later() {
    // bash's own ulimit, then the server in its place: 0, 1, 2, signalfd, listener, and room for five clients.
    let (mut server, addr) = server_by(Command::new("bash").args(["-c", "ulimit -n 10; exec \"$0\" server 0", LAB]));
    let mut inside: Vec<_> = (0..5).map(|number| Foreign::named(addr, &number.to_string())).collect();
    let mut waiting = Foreign::connect(addr);
    waiting.say(b"6:0:waiting");
    server.wait_for("accept: EMFILE (24) Too many open files; whoever connects now waits\n").unwrap();
    assert_eq!(inside[0].ask(b"1:all well"), b"0:");
    assert_eq!(inside[1].told(), b"all well");
    drop(inside.pop());
    assert_eq!(waiting.hear(), b"0:1");
}

#[test]
fn a_server_that_comes_back_is_found_again_and_what_was_typed_meanwhile_is_published_once() {
    let keeper = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap(); // keeps the port between the runs
    keeper.set_reuse_address(true).unwrap();
    keeper.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let addr = keeper.local_addr().unwrap().as_socket().unwrap();
    let folder = TempDir::new();
    let file = folder.path().join("board.redb");
    let again =
        || server_by(Command::new(LAB).args(["server", &addr.to_string(), "--journal", file.to_str().unwrap()]));
    let (first, _) = again();
    let (mut ann, mut bob) = (named(addr, "ann"), named(addr, "bob"));
    ann.type_line("before").unwrap();
    bob.wait_for("  before\n").unwrap();
    drop(first); // kill -9
    ann.wait_for("no server: ").unwrap();
    ann.type_line("while away").unwrap();
    ann.wait_for("again in ").unwrap();
    let (_second, _) = again();
    ann.wait_for("Connected to ").unwrap();
    ann.wait_for("Message Published\n").unwrap();
    bob.wait_for("  while away\n").unwrap();
    assert_eq!(all_texts(addr), ["before", "while away"]);
    for role in [&mut ann, &mut bob] {
        role.input = None;
        ends_well(role);
    }
    assert_eq!(texts(&bob.printed()), ["before", "while away"]);
}

#[test]
fn a_line_whose_answer_was_lost_is_asked_again_with_the_same_request_id() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut ann = Role::spawn(&mut client(listener.local_addr().unwrap(), &["--publish", "hello"])).unwrap();
    let mut asked = Vec::new();
    for answer in [false, true] {
        let mut conn = Foreign(listener.accept().unwrap().0);
        assert!(conn.hear().starts_with(b"6:0:client-"));
        asked.push(conn.hear());
        if answer {
            conn.say(b"0:0");
            conn.say(b"0:");
            ann.wait_for("Message Published\n").unwrap();
            conn.rest_of_the_stream();
        }
    }
    assert!(asked[0] == asked[1] && asked[0].starts_with(b"5:") && asked[0].ends_with(b":hello"), "{asked:?}");
    ends_well(&mut ann);
}

#[test]
fn an_answer_of_no_live_board_ends_the_client() {
    for (answer, expected) in [
        (&b"HTTP/1.1 400 Bad Request\r\n"[..], "what came is no frame: Length\n"),
        (b"2:3:", "the server answers 3 unknown request\n"),
        (b"2:0:", "this is no live message board\n"),
        (b"3:0:x", "this is no live message board\n"),
        (b"3:0:06:6:7:a:", "this is no answer of a message board: "),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let asked = thread::spawn(move || run(&mut client(addr, &["--publish", "hello"])));
        let mut conn = Foreign(listener.accept().unwrap().0);
        conn.hear();
        conn.0.write_all(answer).unwrap();
        let finished = asked.join().unwrap();
        assert!(finished.code() == 1 && finished.stdout.contains(&format!("Closed: {expected}")), "{finished:?}");
        assert!(finished.stdout.ends_with("lines not confirmed: 1\n"), "{finished:?}");
    }
}

#[test]
fn thirty_kills_in_a_row_lose_nothing_that_was_confirmed() {
    let folder = TempDir::new();
    let file = folder.path().join("board.redb");
    let journal = ["--journal", file.to_str().unwrap()];
    let mut confirmed = Vec::new();
    for round in 0..30 {
        let (server, addr) = server(&journal);
        let mut foreign = Foreign::connect(addr);
        for turn in 0..3 {
            let text = format!("{round} {turn}");
            assert_eq!(foreign.ask(format!("1:{text}").as_bytes()), b"0:");
            confirmed.push(text);
        }
        foreign.say(b"1:perhaps"); // on its way when the server dies
        drop(server); // kill -9
    }
    let (_server, addr) = server(&journal);
    let mut kept = all_texts(addr);
    kept.retain(|text| text != "perhaps");
    assert_eq!(kept, confirmed);
    let (code, stderr) = failed(Command::new(LAB).args(["server", "0"]).args(journal));
    assert!(code == 1 && stderr.starts_with("lab22: open the journal "), "{stderr}"); // in use
}

#[test]
fn a_client_in_another_language_speaks_the_same_wire() {
    if skip_without(!have("python3"), "python3", "apt-get install python3") {
        return;
    }
    let (_server, addr) = server(&[]);
    let theirs = run(Command::new("python3").args(["-c", PYTHON_CLIENT, &addr.port().to_string()]));
    assert_eq!(theirs.stdout, "the same wire\n", "{theirs:?}");
}

#[test]
fn any_program_can_publish_and_be_told() {
    for tool in TCP_TOOLS {
        let (mut server, addr) = server(&[]);
        let Some(mut peer) = tcp_tool(tool, addr) else { continue };
        peer.type_line("10:6:0:nobody").unwrap(); // the newline stands between two frames, so it is nothing
        peer.wait_for("3:0:0\n").unwrap();
        peer.type_line("7:1:hello").unwrap();
        peer.wait_for("2:0:\n").unwrap();
        server.wait_for("nobody [").unwrap();
        assert_eq!(Foreign::connect(addr).ask(b"1:unasked"), b"0:");
        peer.wait_for(":unasked\n").unwrap();
        peer.input = None;
        assert_eq!(all_texts(addr), ["hello", "unasked"]);
    }
}

#[test]
fn ipv6_works_as_ipv4_does() {
    if testkit::without_ipv6() {
        return;
    }
    let (_server, addr) = server_by(Command::new(LAB).args(["server", "[::1]:0"]));
    assert_eq!(run(&mut client(addr, &["--publish", "a:b"])).code(), 0);
    let shown = run(&mut client(addr, &[])).stdout;
    assert!(shown.contains("  [::1]:") && shown.contains("  a:b\n"), "{shown}");
}

#[test]
fn ctrl_c_ends_each_role_wherever_it_waits() {
    let (mut server, addr) = server(&[]);
    let (mut ann, mut bob, mut carol) = (named(addr, "ann"), named(addr, "bob"), named(addr, "carol"));
    interrupt(&mut ann);
    let silent = Foreign::named(addr, "silent"); // keeps its end open: the server waits for two seconds at most
    signal(&server, Signal::SIGINT);
    server.wait_for("silent [").unwrap();
    ends_well(&mut server);
    drop(silent);
    bob.wait_for("again in ").unwrap();
    interrupt(&mut bob); // while it looks for the server
    carol.wait_for("again in ").unwrap();
    carol.input = None; // nothing is left to be said or shown
    ends_well(&mut carol);

    // While it waits for an answer to its SYN: a full accept queue gives none.
    let listen_sock = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listen_sock.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listen_sock.listen(0).unwrap();
    let addr = listen_sock.local_addr().unwrap().as_socket().unwrap();
    let _first = TcpStream::connect(addr).unwrap();
    let mut waiting = Role::spawn(&mut client(addr, &[])).unwrap();
    wait_until("a SYN without an answer", LIMIT, || {
        let rows = tcp_sockets(0)?;
        Ok(rows.iter().any(|row| row.pair.peer == addr && row.state == State::SynSent).then_some(()))
    })
    .unwrap();
    interrupt(&mut waiting);
}

#[test]
fn pause_waits_before_each_call() {
    let options = ["setsockopt("; 6];
    let mut server = Role::spawn(Command::new(LAB).args(["server", "0", "--pause"])).unwrap();
    step(&mut server, &["socket(AF_INET, SOCK_STREAM, 0)", "setsockopt(", "bind(", "listen("]);
    let addr = addr_behind(&mut server, BANNER);
    let mut client = Role::spawn(&mut client(addr, &["--publish", "hello", "--pause"])).unwrap();
    step(&mut client, &["socket(AF_INET, SOCK_STREAM, 0)"]);
    step(&mut client, &options);
    step(&mut client, &["connect(", "send("]);
    step(&mut server, &["accept("]);
    step(&mut server, &options);
    step(&mut server, &["recv("]);
    step(&mut client, &["recv("]);
    server.wait_for(" publishes ").unwrap();
    interrupt(&mut server);
    drop(client);
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
        &["server", "--patience", "0"],
        &["server", "--keepalive", "1,1"],
        &["client", "--name", ""],
        &["client", "--name", "a\nb"],
        &["client", "1", "2", "3"],
    ] {
        assert_eq!(failed(usage).0, 2, "{usage:?}");
    }
    assert_eq!(failed(&["client", "5050", "5051"]).0, 1);
}
