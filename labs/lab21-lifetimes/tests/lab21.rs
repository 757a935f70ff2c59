//! Runs the real binary: the demo, the programs against each other, against curl and Python 3, and what goes wrong.
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
use socket2::{Domain, SockRef, Socket, Type};
use testkit::{
    Demo, Role, TempDir, descriptors, ends_well, failed, have, interrupt, one_processor, run, signal, skip_without,
    step, wait_until,
};

const LAB: &str = env!("CARGO_BIN_EXE_lab21-lifetimes");
const LIMIT: Duration = Duration::from_secs(10);
static DEMO: LazyLock<Demo> = LazyLock::new(|| Demo::play(LAB));

/// Ten requests over one connection of http.client, then a POST; and what the answers say.
const PYTHON_CLIENT: &str = "
import http.client, sys
c = http.client.HTTPConnection('127.0.0.1', int(sys.argv[1]), timeout=10)
c.connect()
first = c.sock
for number in range(1, 11):
    c.request('GET', '/object/%d' % number)
    r = c.getresponse()
    assert r.status == 200 and r.read() == b'x' * 1000
    assert c.sock is first
c.request('POST', '/guests', body=b'a guest')
r = c.getresponse()
assert (r.status, r.read()) == (200, b'guest 1\\n') and c.sock is first
c.request('HEAD', '/')
r = c.getresponse()
assert r.status == 200 and int(r.getheader('Content-Length')) > 100 and r.read() == b'' and c.sock is first
c.request('GET', '/', headers={'Connection': 'close'})
r = c.getresponse()
assert r.read().count(b'<img') == 10 and r.getheader('Connection') == 'close' and c.sock is None
print('one connection')
";
/// Python's own server over a folder; its first argument is the version of HTTP it speaks.
const PYTHON_SERVER: &str = "
import http.server, sys
class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = sys.argv[1]
    def log_message(self, *args):
        pass
s = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
print('port', s.server_address[1], flush=True)
s.serve_forever()
";

/// A server of this lab on a port of the kernel's choice.
fn server(role: &str, options: &[&str]) -> (Role, SocketAddr) {
    let mut server = Role::spawn(Command::new(LAB).args([role, "0"]).args(options)).unwrap();
    let line = server.line_with(" is at ").unwrap();
    let addr = line.rsplit(' ').next().unwrap().trim().parse().unwrap();
    (server, addr)
}

fn visit(addr: SocketAddr, options: &[&str]) -> Command {
    let mut command = Command::new(LAB);
    command.args(["visit", &addr.to_string()]).args(options);
    command
}

/// A visit that must go well: what it printed.
fn visited(addr: SocketAddr, options: &[&str]) -> String {
    let finished = run(&mut visit(addr, options));
    assert_eq!(finished.code(), 0, "{finished:?}");
    finished.stdout
}

/// A foreign client, connected.
fn foreign(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

/// What a foreign client reads up to the end of the stream.
fn answers(addr: SocketAddr, requests: &[u8]) -> String {
    let mut stream = foreign(addr);
    stream.write_all(requests).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn all_descriptors_come_back(server: &Role, idle: usize) {
    wait_until("all descriptors back", LIMIT, || Ok((descriptors(server.pid()) == idle).then_some(()))).unwrap();
}

#[test]
fn the_demo_decides_every_claim_as_recorded() {
    DEMO.assert_verdicts(&[
        ("ten-objects", "CORRECTED"),
        ("four-addresses", "CORRECTED"),
        ("idle-session", "ANSWERED"),
        ("who-closes", "ANSWERED"),
        ("first-byte", "ANSWERED"),
        ("watch-command", "CORRECTED"),
        ("closed-meanwhile", "ANSWERED"),
        ("thousand-kept", "ANSWERED"),
    ]);
}

#[test]
fn the_printed_calls_are_those_strace_saw() {
    testkit::assert_printed_calls_are_real(LAB);
}

#[test]
fn stops_in_the_middle_change_no_verdict() {
    testkit::assert_stops_change_no_verdict(LAB);
}

#[test]
fn a_new_build_while_the_demo_runs_changes_no_verdict() {
    testkit::assert_a_new_build_changes_no_verdict(&DEMO);
}

#[test]
fn the_command_line_keeps_the_rules_of_all_labs() {
    testkit::assert_common_rules(LAB, &["page", "0"], " is at ");
}

#[test]
fn the_sheet_quotes_a_real_run() {
    testkit::assert_sheet_quotes_a_run("lab21-lifetimes", &DEMO);
}

#[test]
fn an_ordinary_account_can_do_everything_but_a_privileged_port() {
    testkit::assert_demo_needs_no_privileges(LAB);
    testkit::assert_privileged_port_is_refused(LAB, &["page", "80"], "127.0.0.1:80");
}

#[test]
fn errors_name_the_call_the_address_the_errno_and_a_command_that_helps() {
    testkit::assert_addresses_are_refused(LAB, "page", "visit");
    testkit::assert_addresses_are_refused(LAB, "host", "session");
    let failed = |args: &[&str]| failed(Command::new(LAB).args(args));
    for usage in [
        &["visit", "0"][..],
        &["session", "0"],
        &["visit", "--close", "--keep"],
        &["page", "--idle", "-1"],
        &["page", "--size", "10000001"],
        &["visit", "--wait", "x"],
    ] {
        assert_eq!(failed(usage).0, 2, "{usage:?}");
    }
}

#[test]
fn a_visit_takes_one_connection_unasked_and_with_keep_and_eleven_with_close() {
    let (mut server, addr) = server("page", &[]);
    let idle = descriptors(server.pid());
    for (options, connections) in [(&[][..], 1), (&["--keep"], 1), (&["--close"], 11)] {
        let shown = visited(addr, options);
        assert!(shown.contains(&format!("\n11 requests, {connections} connections, ")), "{shown}");
        assert_eq!(shown.matches("  200 OK  ").count(), 11, "{shown}");
        assert_eq!(shown.matches(" opened, ").count(), connections, "{shown}");
        assert_eq!(shown.matches(" closed: ").count(), connections, "{shown}");
    }
    assert!(visited(addr, &["--post"]).contains("POST /guests  200 OK  8 bytes\n"));
    all_descriptors_come_back(&server, idle);
    interrupt(&mut server);
    let printed = server.printed();
    assert!(printed.ends_with("14 connections, 45 requests\n"), "{printed}");
    assert_eq!(printed.matches("this server closed first").count(), 11, "{printed}");
    assert_eq!(printed.matches("the client closed first").count(), 3, "{printed}");
}

#[test]
fn a_page_with_close_ends_each_connection_and_time_wait_is_at_its_end() {
    one_processor();
    let (mut server, addr) = server("page", &["--close"]);
    let shown = visited(addr, &["--keep"]);
    assert!(shown.contains("\n11 requests, 11 connections, "), "{shown}");
    server.wait_for("this server closed first\n").unwrap();
    let waits = wait_until("the TIME-WAITs of the server", LIMIT, || {
        let rows = tcp_sockets(addr.port())?;
        let alive = rows.iter().any(|row| !matches!(row.state, State::Listen | State::TimeWait));
        Ok((!alive).then_some(rows.len() - 1))
    });
    assert!(waits.unwrap() > 5);
}

#[test]
fn a_connection_closed_meanwhile_is_replaced_for_get_and_not_for_post() {
    // A server that answers the first request of each connection, and closes when it likes.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let page = "<img src=\"/one\">";
    let page = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{page}", page.len());
    let serving = thread::spawn(move || {
        for _ in 0..2 {
            let (mut conn, _) = listener.accept().unwrap();
            let mut buffer = [0; 4096];
            let bytes_read = conn.read(&mut buffer).unwrap();
            conn.write_all(page.as_bytes()).unwrap();
            assert!(buffer[..bytes_read].starts_with(b"GET /"));
        } // close
        listener
    });
    let finished = run(&mut visit(addr, &["--wait", "1"]));
    assert_eq!(finished.code(), 0, "{finished:?}");
    assert!(finished.stdout.contains("1  was closed meanwhile: GET /one once more\n"), "{finished:?}");
    assert!(finished.stdout.contains("\n2 requests, 2 connections, "), "{finished:?}");
    let listener = serving.join().unwrap();

    // The POST comes, and no answer to it.
    let asked = thread::spawn(move || run(&mut visit(addr, &["--post"])));
    let (mut conn, _) = listener.accept().unwrap();
    let mut buffer = [0; 4096];
    assert!(conn.read(&mut buffer).unwrap() > 0);
    conn.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
    let bytes_read = conn.read(&mut buffer).unwrap();
    assert!(buffer[..bytes_read].starts_with(b"POST /guests "));
    drop(conn);
    let finished = asked.join().unwrap();
    assert_eq!(finished.code(), 1, "{finished:?}");
    assert!(finished.stderr.contains("not repeated: POST may have been done"), "{finished:?}");
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "it asked once more");
}

#[test]
fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
    let (mut server, addr) = server("page", &["--idle", "1"]);
    let idle = descriptors(server.pid());
    let mut silent = foreign(addr);
    silent.write_all(b"GET / HTTP/1.1\r\nHos").unwrap(); // half a head
    assert_eq!(silent.read(&mut [0; 8]).unwrap(), 0, "end of stream without an answer");
    server.wait_for("0 requests in 1.").unwrap();
    server.wait_for("idle for 1 s: this server closed first\n").unwrap();
    let shown = visited(addr, &[]);
    assert!(shown.contains("\n11 requests, 1 connections, "), "{shown}");
    all_descriptors_come_back(&server, idle);
}

#[test]
fn requests_may_come_in_single_bytes_and_several_at_once() {
    let (_server, addr) = server("page", &["--size", "3"]);
    let mut stream = foreign(addr);
    stream.set_nodelay(true).unwrap();
    for byte in b"GET /object/1 HTTP/1.1\r\nConnection: close\r\n\r\n" {
        stream.write_all(&[*byte]).unwrap();
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nxxx"), "{answer}");
    let both = b"GET /object/1 HTTP/1.1\r\n\r\nGET /object/99 HTTP/1.1\r\n\r\nPOST /guests HTTP/1.1\r\nContent-Length: 1\r\n\r\n!";
    let answer = answers(addr, both);
    let at = |text: &str| answer.find(text).unwrap_or_else(|| panic!("{text}: {answer}"));
    assert!(at("200 OK") < at("404 Not Found") && at("404 Not Found") < at("guest 1\n"), "{answer}");
}

#[test]
fn what_is_no_request_is_refused_and_the_server_goes_on() {
    let (_server, addr) = server("page", &[]);
    for (request, status) in [
        (&b"hello\r\n\r\n"[..], "400"),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"),
        (b"GET /\xff\xfe HTTP/1.1\r\n\r\n", "404"),
        (b"BREW / HTTP/1.1\r\n\r\n", "501"),
        (b"POST /guests HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n", "413"),
    ] {
        let answer = answers(addr, request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{}: {answer}", request.escape_ascii());
    }
    // More than a head may have, and the client goes on sending: refused without a reset.
    let long = [b"GET / HTTP/1.1\r\nx: ", &vec![b'x'; 200_000][..]].concat();
    assert!(answers(addr, &long).starts_with("HTTP/1.1 400 "));
    assert_eq!(answers(addr, b"GET / HTTP/1.1\r\nHos"), "");
    assert!(visited(addr, &[]).contains("\n11 requests, "));
}

#[test]
fn one_who_resets_or_never_reads_is_dropped_and_the_others_are_served() {
    let (mut server, addr) = server("page", &["--size", "10000000", "--idle", "2"]);
    let idle = descriptors(server.pid());
    let mut resets = foreign(addr);
    resets.write_all(b"GET /object/1 HTTP/1.1\r\n\r\n").unwrap();
    server.wait_for("GET /object/1  200 OK\n").unwrap();
    SockRef::from(&resets).set_linger(Some(Duration::ZERO)).unwrap();
    drop(resets); // RST
    server.wait_for("send: ").unwrap();
    let deaf = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    deaf.set_recv_buffer_size(1).unwrap(); // the least the kernel grants
    deaf.connect(&addr.into()).unwrap();
    let mut deaf = TcpStream::from(deaf);
    deaf.write_all(b"GET /object/1 HTTP/1.1\r\n\r\n").unwrap();
    server.wait_for("GET /object/1  200 OK\n").unwrap();
    assert!(answers(addr, b"HEAD / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200 OK\r\n")); // meanwhile
    server.wait_for("idle for 2 s: this server closed first\n").unwrap();
    all_descriptors_come_back(&server, idle);
}

#[test]
fn a_session_is_one_connection_as_long_as_somebody_types() {
    let (mut host, addr) = server("host", &[]);
    let mut session = Role::spawn(Command::new(LAB).args(["session", &addr.to_string()])).unwrap();
    session.wait_for("type lines, Ctrl-D ends the session\n").unwrap();
    for (number, line) in ["ls", "t\u{f5}de \u{1b}[2J", ""].iter().enumerate() {
        session.type_line(line).unwrap();
        let answer = session.line_with(" s: ").unwrap();
        assert!(answer.starts_with(&format!("{} after ", number + 1)) && !answer.contains('\u{1b}'), "{answer}");
    }
    let rows = tcp_sockets(addr.port()).unwrap();
    assert_eq!(rows.iter().filter(|row| row.state == State::Established).count(), 1);
    session.input.as_mut().unwrap().write_all(b"the end").unwrap(); // without its newline
    session.input = None;
    session.wait_for("4 after ").unwrap();
    let last = session.line_with("closed: 4 answers in ").unwrap();
    assert!(last.trim_end().ends_with(" s over 1 connection; ended by you"), "{last}");
    ends_well(&mut session);
    host.wait_for("the client closed first\n").unwrap();

    let mut session = Role::spawn(Command::new(LAB).args(["session", &addr.to_string()])).unwrap();
    session.type_line(&"x".repeat(4097)).unwrap();
    session.wait_for("refused: a line of more than 4096 bytes\n").unwrap();
    session.wait_for("ended by the host\n").unwrap();
    ends_well(&mut session);
    let mut session = Role::spawn(Command::new(LAB).args(["session", &addr.to_string()])).unwrap();
    let opened = session.line_with("type lines").unwrap();
    // Not before the host has accepted it: a connection in the queue of a closed listener is reset.
    let local_addr = opened.strip_prefix("opened, ").unwrap().split(' ').next().unwrap();
    host.wait_for(&format!("{local_addr} connected\n")).unwrap();
    interrupt(&mut host);
    session.wait_for("ended by the host\n").unwrap();
    ends_well(&mut session);
}

#[test]
fn much_input_passes_through_a_session_whole() {
    let (_host, addr) = server("host", &[]);
    let mut lines = Command::new("bash");
    lines.args(["-c", "seq 20000 | \"$0\" session \"$1\"", LAB, &addr.to_string()]);
    let finished = run(&mut lines);
    assert_eq!(finished.code(), 0, "{}", finished.stderr);
    let seen: Vec<&str> = finished.stdout.lines().filter_map(|line| Some(line.split_once(" s: ")?.1)).collect();
    assert!(seen.len() == 20_000 && seen.iter().enumerate().all(|(at, line)| *line == (at + 1).to_string()));
}

#[test]
fn ctrl_c_ends_each_role_wherever_it_waits() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut waiting = Role::spawn(&mut visit(silent.local_addr().unwrap(), &[])).unwrap();
    waiting.wait_for("opened, ").unwrap();
    let (mut page, addr) = server("page", &[]);
    let _half = foreign(addr).write_all(b"GET /");
    let mut between = Role::spawn(&mut visit(addr, &["--wait", "600"])).unwrap();
    between.wait_for("GET /  200 OK").unwrap();
    let (mut host, addr) = server("host", &[]);
    let mut session = Role::spawn(Command::new(LAB).args(["session", &addr.to_string()])).unwrap();
    session.wait_for("type lines").unwrap();
    // Nobody takes this connection: the accept queue is full, so the handshake is not done.
    let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    full.listen(0).unwrap();
    let addr = full.local_addr().unwrap().as_socket().unwrap();
    let _first = foreign(addr);
    let mut connecting = Role::spawn(&mut visit(addr, &[])).unwrap();
    wait_until("SYN-SENT", LIMIT, || {
        let rows = tcp_sockets(0)?;
        Ok(rows.iter().any(|row| row.state == State::SynSent && row.pair.peer == addr).then_some(()))
    })
    .unwrap();
    for role in [&mut waiting, &mut between, &mut page, &mut session, &mut host, &mut connecting] {
        signal(role, Signal::SIGINT);
        ends_well(role);
    }
    assert!(between.printed().contains("1 requests, 1 connections, "), "{}", between.printed());
}

#[test]
fn pause_waits_before_each_call() {
    let mut server = Role::spawn(Command::new(LAB).args(["page", "0", "--close", "--pause"])).unwrap();
    step(&mut server, &["socket(AF_INET, SOCK_STREAM, 0)", "setsockopt(", "bind(", "listen("]);
    let line = server.line_with(" is at ").unwrap();
    let addr: SocketAddr = line.rsplit(' ').next().unwrap().trim().parse().unwrap();
    let mut client = Role::spawn(&mut visit(addr, &["--pause"])).unwrap();
    step(&mut client, &["socket(AF_INET, SOCK_STREAM, 0)", "connect("]);
    step(&mut server, &["accept("]);
    step(&mut client, &["send("]);
    step(&mut server, &["recv(", "send(", "shutdown("]);
    step(&mut client, &["recv(", "recv(", "close("]);
    step(&mut server, &["recv(", "close("]);
    client.wait_for("next: socket(").unwrap();
    interrupt(&mut client);
    interrupt(&mut server);
}

#[test]
fn curl_keeps_its_connection_as_a_visit_does() {
    if skip_without(!have("curl"), "curl", "apt-get install curl") {
        return;
    }
    let (_server, addr) = server("page", &[]);
    let curl = |more: &[&str]| {
        let mut command = Command::new("curl");
        command.args(["--silent", "--fail", "--noproxy", "*", "--max-time", "20", "--write-out", "%{num_connects}\n"]);
        for number in 1..=10 {
            command.args(["--output", "/dev/null", &format!("http://{addr}/object/{number}")]);
        }
        let finished = run(command.args(more));
        assert_eq!(finished.code(), 0, "{finished:?}");
        finished.stdout.lines().map(|line| line.parse::<u32>().unwrap()).sum::<u32>()
    };
    assert_eq!(curl(&[]), 1);
    assert_eq!(curl(&["--header", "Connection: close"]), 10);
    assert_eq!(curl(&["--http1.0"]), 10);
    assert_eq!(curl(&["--http1.0", "--header", "Connection: keep-alive"]), 1);
}

#[test]
fn pythons_client_and_server_speak_the_same_wire() {
    if skip_without(!have("python3"), "python3", "apt-get install python3") {
        return;
    }
    let (_server, addr) = server("page", &[]);
    let theirs = run(Command::new("python3").args(["-c", PYTHON_CLIENT, &addr.port().to_string()]));
    assert_eq!(theirs.stdout, "one connection\n", "{theirs:?}");

    let folder = TempDir::new();
    let page: String = (1..=10).map(|number| format!("<img src=\"/object{number}\">\n")).collect();
    fs::write(folder.path().join("index.html"), page).unwrap();
    (1..=10).for_each(|number| fs::write(folder.path().join(format!("object{number}")), [b'x'; 5000]).unwrap());
    for (version, connections) in [("HTTP/1.0", 11), ("HTTP/1.1", 1)] {
        let mut command = Command::new("python3");
        let mut theirs = Role::spawn(command.args(["-c", PYTHON_SERVER, version]).current_dir(folder.path())).unwrap();
        let port = theirs.line_with("port ").unwrap().trim_start_matches("port ").trim().to_string();
        let addr = format!("127.0.0.1:{port}").parse().unwrap();
        let shown = visited(addr, &[]);
        assert!(shown.contains(&format!("\n11 requests, {connections} connections, ")), "{version}: {shown}");
        assert_eq!(shown.matches("  200 OK  5000 bytes\n").count(), 10, "{version}: {shown}");
        let shown = visited(addr, &["--close"]);
        assert!(shown.contains("\n11 requests, 11 connections, "), "{version}: {shown}");
    }
}

#[test]
fn netcat_is_a_session_and_a_visitor() {
    if skip_without(!have("nc"), "nc", "apt-get install netcat-openbsd") {
        return;
    }
    let (_page, addr) = server("page", &["--size", "4"]);
    let typed = format!("printf 'GET /object/1 HTTP/1.0\\n\\n' | nc 127.0.0.1 {}", addr.port());
    let answer = run(Command::new("bash").args(["-c", &typed])).stdout;
    assert!(answer.ends_with("Connection: close\r\n\r\nxxxx"), "{answer}");
    let (_host, addr) = server("host", &[]);
    let typed = format!("printf 'one\\ntwo\\n' | nc -N 127.0.0.1 {}", addr.port());
    let answer = run(Command::new("bash").args(["-c", &typed])).stdout;
    assert!(answer.contains(" s: one\n") && answer.ends_with(" s: two\n"), "{answer}");
}

#[test]
fn an_answer_that_is_none_is_reported_and_the_visit_fails() {
    for (answer, expected) in [
        (&b"SSH-2.0-host\r\n\r\n"[..], "no answer of HTTP/1.1: its first line is not one of HTTP/1.1"),
        (b"", "closes without an answer"),
        (b"HTTP/1.1 200 \x1b[2J\r\n\r\n", "a control character stands in its head"),
        (b"HTTP/1.1 200 OK\r\n", "closed in the middle of an answer, after 17 bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nxx", "closed in the middle of an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", "the answer is longer than"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "this lab reads Content-Length only"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let asked = thread::spawn(move || failed(&mut visit(addr, &[])));
        let (mut conn, _) = listener.accept().unwrap();
        assert!(conn.read(&mut [0; 4096]).unwrap() > 0);
        conn.write_all(answer).unwrap();
        drop(conn);
        let (code, stderr) = asked.join().unwrap();
        assert!(code == 1 && stderr.starts_with("lab21: ") && stderr.contains(expected), "{stderr}");
    }
    // Without Content-Length the end of the stream is the end of the body.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let asked = thread::spawn(move || visited(addr, &[]));
    let (mut conn, _) = listener.accept().unwrap();
    assert!(conn.read(&mut [0; 4096]).unwrap() > 0);
    conn.write_all(b"HTTP/1.1 200 OK\r\n\r\nto the end").unwrap();
    drop(conn);
    assert!(asked.join().unwrap().contains("GET /  200 OK  10 bytes\n"));
}

#[test]
fn ipv6_works_as_ipv4_does() {
    if testkit::without_ipv6() {
        return;
    }
    let mut server = Role::spawn(Command::new(LAB).args(["page", "[::1]:0"])).unwrap();
    let line = server.line_with(" is at ").unwrap();
    let addr: SocketAddr = line.rsplit(' ').next().unwrap().trim().parse().unwrap();
    assert!(visited(addr, &[]).contains("\n11 requests, 1 connections, "));
}

#[test]
fn without_a_free_descriptor_a_visitor_waits_and_is_served_later() {
    let limited = "ulimit -n 12; exec \"$0\" page 0";
    let mut server = Role::spawn(Command::new("bash").args(["-c", limited, LAB])).unwrap();
    let line = server.line_with(" is at ").unwrap();
    let addr: SocketAddr = line.rsplit(' ').next().unwrap().trim().parse().unwrap();
    let kept: Vec<TcpStream> = (0..20).map(|_| foreign(addr)).collect();
    server.wait_for("accept: EMFILE").unwrap();
    let waiting = thread::spawn(move || visited(addr, &[]));
    drop(kept);
    assert!(waiting.join().unwrap().contains("\n11 requests, 1 connections, "));
}
