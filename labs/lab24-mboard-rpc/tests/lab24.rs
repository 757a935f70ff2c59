//! Runs the real binary: the demo, the programs against each other and against Python's xmlrpc, and what goes wrong.
#![allow(clippy::unwrap_used)]

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::Command,
    sync::LazyLock,
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use socket2::{Domain, SockRef, Socket, Type};
use testkit::{
    Demo, Finished, Role, TempDir, addr_behind, descriptors, ends_well, failed, foreign, have, interrupt, run, signal,
    skip_without, step, wait_until,
};

const LAB: &str = env!("CARGO_BIN_EXE_lab24-mboard-rpc");
const LIMIT: Duration = Duration::from_secs(10);
const BANNER: &str = "; calls to http://";
static DEMO: LazyLock<Demo> = LazyLock::new(|| Demo::play(LAB));

/// The lecture's client, in Python 3, and what else it can ask.
const PYTHON_CLIENT: &str = r#"
import sys, xmlrpc.client
proxy = xmlrpc.client.ServerProxy('http://127.0.0.1:' + sys.argv[1])
methods = [name for name in proxy.system.listMethods() if 'system.' not in name]
assert methods == ['publish', 'last', 'get'], methods
assert proxy.system.methodHelp('get').startswith('the message with this id')
assert proxy.system.methodSignature('last') == [['array'], ['array', 'int']]
texts = ['Hello world!', 't\u00f5de: <12:30> & "more"', '', ' two\nlines ', '\u20ac' * 5000]
ids = [proxy.publish(text) for text in texts]
assert ids == list(range(len(texts))), ids
assert proxy.last() == proxy.last(0) == ids and proxy.last(2) == ids[-2:]
for m_id, text in zip(ids, texts):
    time, ip, port, msg = proxy.get(m_id)
    assert (ip, port, msg) == (' ', -1, text) and time > 1e9, (ip, port, msg)
m_id = proxy.publish(xmlrpc.client.Binary(bytes(range(256))), ('10.9.8.7', 80))
time, ip, port, msg = proxy.get(m_id)
assert (ip, port, msg.data) == ('10.9.8.7', 80, bytes(range(256)))
for call, code in [(lambda: proxy.get(99), 2), (lambda: proxy.get('x'), -32602), (lambda: proxy.last(-2), -32602),
                   (lambda: proxy._MessageBoard__get_uuid(), -32601), (lambda: proxy.get(1, 2, 3), -32602),
                   (lambda: proxy.publish(None), -32602)]:
    try:
        call()
        raise SystemExit('no fault')
    except xmlrpc.client.Fault as fault:
        assert fault.faultCode == code, fault
    except TypeError as e: # Python's own: None cannot be marshalled
        assert 'None' in str(e)
print('as in the lecture')
"#;
/// Figure 5.4 in Python 3.
const PYTHON_SERVER: &str = "
from time import time
from xmlrpc.server import SimpleXMLRPCServer
class MessageBoard:
    def __init__(self):
        self._m_board = {}
        self._m_uuid = 0
    def __get_uuid(self):
        uuid = self._m_uuid
        self._m_uuid += 1
        return uuid
    def publish(self, msg, source=(' ', -1)):
        ip, port = source
        uuid = self.__get_uuid()
        self._m_board[uuid] = (uuid, time(), ip, port, msg)
        return uuid
    def last(self, n=0):
        ids = sorted((x[:2] for x in self._m_board.values()), key=lambda x: x[1])
        return [x[0] for x in ids[n*-1:]]
    def get(self, m_id):
        return self._m_board[m_id][1:]
server = SimpleXMLRPCServer(('127.0.0.1', 0), logRequests=False)
server.register_introspection_functions()
server.register_instance(MessageBoard())
print('port', server.server_address[1], flush=True)
server.serve_forever()
";

/// A role that serves, on a port of the kernel's choice.
fn serving(args: &[&str]) -> (Role, SocketAddr) {
    testkit::serving(Command::new(LAB).args(args), BANNER)
}

fn server(options: &[&str]) -> (Role, SocketAddr) {
    serving(&[&["server", "0"], options].concat())
}

fn client(addr: SocketAddr, options: &[&str]) -> Command {
    let mut command = Command::new(LAB);
    command.args(["client", &addr.to_string()]).args(options);
    command
}

fn publish(addr: SocketAddr, text: &str) {
    let finished = run(&mut client(addr, &["--publish", text]));
    assert!(finished.code() == 0 && finished.stdout.starts_with("Message published: id "), "{finished:?}");
}

/// The texts that the client shows, each the last of four columns.
fn texts(addr: SocketAddr, options: &[&str]) -> Vec<String> {
    let finished = run(&mut client(addr, options));
    assert_eq!(finished.code(), 0, "{finished:?}");
    testkit::texts(&finished.stdout)
}

/// Sends bytes and returns all that comes up to end of stream.
fn ask(addr: SocketAddr, request: &[u8]) -> String {
    let mut stream = foreign(addr);
    stream.write_all(request).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn post(version: &str, xml: &str) -> Vec<u8> {
    format!("POST /RPC2 HTTP/{version}\r\nHost: here\r\nContent-Length: {}\r\n\r\n{xml}", xml.len()).into()
}

fn call(method: &str, params: &str) -> String {
    format!("<?xml version='1.0'?><methodCall><methodName>{method}</methodName>{params}</methodCall>")
}

#[test]
fn the_demo_decides_every_claim_as_recorded() {
    DEMO.assert_verdicts(&[
        ("connected", "CORRECTED"),
        ("killed-in-call", "ANSWERED"),
        ("behind-the-slow", "ANSWERED"),
        ("asked-twice", "ANSWERED"),
        ("connections", "ANSWERED"),
        ("large-id", "ANSWERED"),
        ("who-asked", "ANSWERED"),
        ("private-names", "CORRECTED"),
    ]);
}

#[test]
fn the_printed_calls_are_those_strace_saw() {
    testkit::assert_printed_calls_are_real(LAB);
}

#[test]
fn the_command_line_keeps_the_rules_of_all_labs() {
    testkit::assert_common_rules(LAB, &["server", "0"], " messages; calls to ");
}

#[test]
fn ctrl_z_and_fg_change_no_verdict() {
    testkit::assert_stops_change_no_verdict(LAB);
}

#[test]
fn the_sheet_quotes_a_real_run() {
    testkit::assert_sheet_quotes_a_run("lab24-mboard-rpc", &DEMO);
}

#[test]
fn an_ordinary_account_can_do_everything_but_a_privileged_port() {
    testkit::assert_demo_needs_no_privileges(LAB);
    testkit::assert_privileged_port_is_refused(LAB, &["server", "1"], "127.0.0.1:1");
    testkit::assert_privileged_port_is_refused(LAB, &["names", "1"], "127.0.0.1:1");
}

#[test]
fn addresses_that_do_not_work_are_named() {
    testkit::assert_addresses_are_refused(LAB, "server", "client");
    testkit::assert_addresses_are_refused(LAB, "names", "client");
}

#[test]
fn what_is_published_is_read_back_in_order_and_any_bytes_are() {
    for options in [&[][..], &["--threaded"], &["--threaded", "--keep"], &["--ids", "string"], &["--ids", "i8"]] {
        let (mut server, addr) = server(options);
        assert!(texts(addr, &[]).is_empty());
        for text in ["Hello world!", "t\u{f5}de: <12:30> & \"more\"", "", "\u{1b}[2J"] {
            publish(addr, text);
        }
        let all = ["Hello world!", "t\u{f5}de: <12:30> & \"more\"", "", "\\u{1b}[2J"]; // no raw escapes
        assert_eq!(texts(addr, &[]), all, "{options:?}");
        assert_eq!(texts(addr, &["-l", "2"]), all[2..]);
        let both = run(&mut client(addr, &["-p", "and", "-l", "1"])).stdout;
        assert!(both.starts_with("Message published: id 4\n") && both.ends_with("  (' ', -1)  and\n"), "{both}");
        interrupt(&mut server);
        assert!(server.printed().contains("The board had 5 messages\n"), "{}", server.printed());
    }
    let (_server, addr) = server(&[]);
    let bytes = "head -c 300000 /dev/urandom | \"$0\" client \"$1\" --publish -";
    let finished = run(Command::new("bash").args(["-c", bytes, LAB, &addr.to_string()]));
    assert_eq!(finished.stdout, "Message published: id 0\n", "{finished:?}");
    let mut typing = Role::spawn(&mut client(addr, &["--publish", "-"])).unwrap();
    typing.type_line("two").unwrap();
    typing.type_line("lines \u{20ac}\r").unwrap();
    typing.input = None;
    typing.wait_for("Message published: id 1\n").unwrap();
    ends_well(&mut typing);
    assert_eq!(texts(addr, &["--last", "1"]), ["two\\nlines \u{20ac}\\r\\n"]);
}

#[test]
fn the_methods_can_be_asked_for() {
    let (_server, addr) = server(&["--slow"]);
    let told = run(&mut client(addr, &["--methods"])).stdout;
    let names: Vec<_> = told.lines().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(names[..4], ["publish", "last", "get", "slow"], "{told}");
    assert!(told.contains("get: the message with this id: time, address, port, text\n"), "{told}");
}

#[test]
fn pythons_client_calls_our_server() {
    if skip_without(!have("python3"), "python3", "apt-get install python3") {
        return;
    }
    for options in [&[][..], &["--threaded"], &["--threaded", "--keep"]] {
        let (_server, addr) = server(options);
        let mut python = Command::new("python3");
        python.args(["-c", PYTHON_CLIENT, &addr.port().to_string()]).env_remove("http_proxy");
        let theirs = run(&mut python);
        assert_eq!(theirs.stdout, "as in the lecture\n", "{options:?} {theirs:?}");
    }
}

#[test]
fn our_client_calls_pythons_server() {
    if skip_without(!have("python3"), "python3", "apt-get install python3") {
        return;
    }
    let (_theirs, addr) = testkit::python_server(PYTHON_SERVER);
    publish(addr, "Hello world!");
    publish(addr, "t\u{f5}de: <12:30> & more");
    let finished =
        run(Command::new("bash").args(["-c", "printf 'a\\0b' | \"$0\" client \"$1\" -p -", LAB, &addr.to_string()]));
    assert_eq!(finished.stdout, "Message published: id 2\n", "{finished:?}");
    assert_eq!(texts(addr, &[]), ["Hello world!", "t\u{f5}de: <12:30> & more", "a\\u{0}b"]);
    assert_eq!(texts(addr, &["--last", "1"]), ["a\\u{0}b"]);
    let told = run(&mut client(addr, &["--methods"])).stdout;
    assert!(told.contains("publish: \n") && told.contains("system.listMethods: "), "{told}");
}

#[test]
fn a_proxy_in_the_environment_is_not_asked() {
    let (_server, addr) = server(&[]);
    let nobody = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap(); // bound, not listening
    nobody.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let proxy = format!("http://{}", nobody.local_addr().unwrap().as_socket().unwrap());
    let mut command = client(addr, &["--publish", "straight"]);
    let finished = run(command.env("http_proxy", &proxy).env("HTTP_PROXY", &proxy).env("ALL_PROXY", &proxy));
    assert_eq!(finished.code(), 0, "{finished:?}");
}

#[test]
fn what_is_no_call_gets_a_status_or_a_fault_and_the_server_goes_on() {
    let (mut server, addr) = server(&["--max-request", "100000"]);
    let idle = descriptors(server.pid());
    let deep = format!("<params><param>{}</param></params>", "<value><array><data>".repeat(4000));
    for (request, expected) in [
        (b"GET /RPC2 HTTP/1.1\r\n\r\n".to_vec(), "HTTP/1.0 405 "),
        (b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n".to_vec(), "HTTP/1.0 404 "),
        (b"POST /RPC2 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(), "HTTP/1.0 411 "),
        (b"POST /RPC2 HTTP/1.1\r\nContent-Length: 100000000\r\n\r\nxxxx".to_vec(), "HTTP/1.0 413 "),
        (b"1:Hello world!\r\n\r\n".to_vec(), "HTTP/1.0 400 "),
        ([b"POST /RPC2 HTTP/1.1\r\nX: ".to_vec(), vec![b'x'; 20_000]].concat(), "HTTP/1.0 431 "),
        (post("1.1", &call("get", &deep)), "elements inside one another"),
        (post("1.1", ""), "<i4>-32700</i4>"),
        (post("1.1", "<methodCall>"), "<i4>-32700</i4>"),
        (post("1.1", "hello"), "<i4>-32700</i4>"),
        (post("1.1", &call("nothing", "")), "<i4>-32601</i4>"),
        (post("1.1", &call("get", "")), "<i4>-32602</i4>"),
        (post("1.0", &call("last", "")), "<array>"),
    ] {
        let answer = ask(addr, &request);
        assert!(answer.contains(expected), "{expected}: {answer}");
    }
    let mut not_utf8 = post("1.1", &call("publish", "<params><param><value>????</value></param></params>"));
    let at = not_utf8.iter().rposition(|byte| *byte == b'?').unwrap();
    not_utf8[at] = 0xff;
    assert!(ask(addr, &not_utf8).contains("it is not UTF-8"));
    let (code, stderr) = failed(&mut client(addr, &["--publish", &"x".repeat(120_000)]));
    assert!(code == 1 && stderr.contains("the server answers HTTP 413"), "{stderr}");
    publish(addr, "after all of them");
    server.wait_for("closed: no call: HTTP status 413\n").unwrap();
    wait_until("all descriptors back", LIMIT, || Ok((descriptors(server.pid()) == idle).then_some(()))).unwrap();
}

#[test]
fn a_call_may_come_in_single_bytes_and_two_on_one_connection() {
    let (_server, addr) = server(&["--threaded", "--keep"]);
    let mut stream = foreign(addr);
    stream.set_nodelay(true).unwrap();
    let param = "<params><param><value>byte by byte</value></param></params>";
    let request = post("1.1", &call("publish", param));
    for byte in &request {
        stream.write_all(&[*byte]).unwrap();
    }
    stream.write_all(&[request.clone(), request].concat()).unwrap(); // two more at once
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 3, "{answers}");
    assert_eq!(texts(addr, &[]), ["byte by byte"; 3]);
}

#[test]
fn one_who_stays_silent_resets_or_never_reads_is_dropped_and_the_next_one_served() {
    let (mut server, addr) = server(&["--deadline", "2"]);
    let idle = descriptors(server.pid());
    let mut silent = foreign(addr);
    silent.write_all(b"POST /RPC2 HTTP/1.1\r\nContent-Le").unwrap();
    let resets = foreign(addr);
    SockRef::from(&resets).set_linger(Some(Duration::ZERO)).unwrap();
    server.wait_for("closed: no whole call came in time\n").unwrap();
    drop(resets); // RST; it was accepted by now, or is still in the queue
    let long = format!("<params><param><value>{}</value></param></params>", "x".repeat(6_000_000));
    assert!(ask(addr, &post("1.0", &call("publish", &long))).contains("<i4>0</i4>")); // more than both buffers hold
    let deaf = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    deaf.set_recv_buffer_size(1).unwrap(); // the least the kernel grants
    deaf.connect(&addr.into()).unwrap();
    let mut deaf = TcpStream::from(deaf);
    let params = "<params><param><value><int>0</int></value></param></params>";
    deaf.write_all(&post("1.0", &call("get", params))).unwrap();
    server.wait_for(" gets [").unwrap(); // it has been marshalled
    server.wait_for("closed: the answer was not taken in time\n").unwrap();
    publish(addr, "after all of them");
    wait_until("all descriptors back", LIMIT, || Ok((descriptors(server.pid()) == idle).then_some(()))).unwrap();
}

#[test]
fn many_clients_at_once_publish_each_message_once() {
    let (_server, addr) = server(&["--threaded"]);
    let clients: Vec<_> = (0..20)
        .map(|number| {
            thread::spawn(move || {
                for turn in 0..5 {
                    let params = format!("<params><param><value>{number} {turn}</value></param></params>");
                    assert!(ask(addr, &post("1.0", &call("publish", &params))).contains("200 OK"));
                }
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
fn a_journal_keeps_what_was_published_over_a_kill() {
    let folder = TempDir::new();
    let file = folder.path().join("board.redb");
    let journal = ["--journal", file.to_str().unwrap()];
    let mut confirmed = Vec::new();
    for round in 0..5 {
        let (server, addr) = server(&journal);
        publish(addr, &format!("round {round}"));
        confirmed.push(format!("round {round}"));
        drop(server); // kill -9
    }
    let (_server, addr) = server(&journal);
    assert_eq!(texts(addr, &[]), confirmed);
    let (code, stderr) = failed(Command::new(LAB).args(["server", "0", "--journal"]).arg(&file)); // in use
    assert!(code == 1 && stderr.starts_with("lab24: open the journal "), "{stderr}");
}

#[test]
fn a_server_that_dies_in_the_call_leaves_the_caller_with_the_same_words() {
    let told: Vec<String> = ["before", "after"]
        .iter()
        .map(|moment| {
            let (mut server, addr) = server(&["--die", moment]);
            let (code, stderr) = failed(&mut client(addr, &["--publish", "Give 100 euros"]));
            assert!(code == 1 && stderr.contains("nobody knows whether the call was done"), "{stderr}");
            assert!(server.wait_for_end().unwrap().code().is_none(), "it was killed");
            stderr.replace(&addr.to_string(), "ADDR")
        })
        .collect();
    assert_eq!(told[0], told[1]);
}

#[test]
fn a_service_is_found_by_its_name_until_it_is_gone() {
    let (mut names, names_addr) = serving(&["names", "0", "--lease", "3"]);
    let at = names_addr.to_string();
    let by_name = |options: &[&str]| -> Finished {
        run(Command::new(LAB).args(["client", "--names", &at, "--name", "board"]).args(options))
    };
    let unknown = by_name(&[]);
    assert!(unknown.code() == 1 && unknown.stderr.contains("fault 2: no service has the name board"), "{unknown:?}");
    let (mut first, addr) = server(&["--names", &at, "--name", "board"]);
    assert!(first.printed().contains(&format!("Registered as board at {at}, for 3 s\n")), "{}", first.printed());
    assert_eq!(by_name(&["--publish", "found"]).stdout, "Message published: id 0\n");
    assert_eq!(texts(addr, &[]), ["found"]);
    let (code, stderr) = failed(Command::new(LAB).args(["server", "0", "--names", &at, "--name", "board"]));
    assert!(code == 1 && stderr.contains(&format!("fault 3: {addr} has the name board")), "{stderr}");
    // It stays found while it registers again ..
    names.wait_for("calls register(").unwrap();
    names.wait_for("calls register(").unwrap();
    names.wait_for("calls register(").unwrap();
    assert_eq!(by_name(&["--publish", "still"]).code(), 0);
    // .. is forgotten at once when it ends in order, and after the lease when it is killed.
    interrupt(&mut first);
    assert_eq!(by_name(&[]).code(), 1);
    let (second, _) = server(&["--names", &at, "--name", "board"]);
    drop(second); // kill -9
    // The name server alone is asked: until it has forgotten, a client would call whoever has the dead one's port by now.
    let lookup = post("1.1", &call("lookup", "<params><param><value>board</value></param></params>"));
    wait_until("the name to be forgotten", LIMIT, || {
        Ok(ask(names_addr, &lookup).contains("no service has the name").then_some(()))
    })
    .unwrap();
    assert_eq!(by_name(&[]).code(), 1);
    names.wait_for("is forgotten: not heard of in time\n").unwrap();
    interrupt(&mut names);
    let (code, stderr) = failed(Command::new(LAB).args(["server", "0", "--names", &at, "--name", "board"]));
    assert!(code == 1 && stderr.contains(&format!("connect {at}: ECONNREFUSED (111)")), "{stderr}");
}

#[test]
fn a_service_registers_again_after_the_name_server_was_away() {
    let (names, names_addr) = serving(&["names", "0", "--lease", "1"]);
    let at = names_addr.to_string();
    let (mut service, _) = server(&["--names", &at, "--name", "board"]);
    drop(names); // kill -9
    service.wait_for("not registered, trying again: ").unwrap();
    let (mut names, _) = serving(&["names", &at, "--lease", "1"]);
    service.wait_for("Registered as board again\n").unwrap();
    names.wait_for("calls register(\"board\"").unwrap();
    interrupt(&mut service);
    names.wait_for("calls unregister(\"board\"").unwrap();
    interrupt(&mut names);
}

#[test]
fn an_answer_that_is_none_is_reported_and_the_client_fails() {
    let answered = |answer: String, expected: &str| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let asked = thread::spawn(move || failed(&mut client(addr, &[])));
        let (mut conn, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"</methodCall>") {
            let mut buffer = [0; 1024];
            let bytes_read = conn.read(&mut buffer).unwrap();
            request.extend(&buffer[..bytes_read]);
        }
        conn.write_all(answer.as_bytes()).unwrap();
        drop(conn);
        let (code, stderr) = asked.join().unwrap();
        assert!(code == 1 && stderr.starts_with("lab24: ") && stderr.contains(expected), "{stderr}");
    };
    let http = |body: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let response =
        |value: &str| http(&format!("<methodResponse><params><param>{value}</param></params></methodResponse>"));
    answered(String::new(), "nobody knows whether the call was done");
    answered("0:\r\n\r\n".into(), "last at 127.0.0.1:");
    answered("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n".into(), "the server answers HTTP 500");
    answered(http("hello"), "the answer is no XML-RPC answer");
    answered(http(&"<value><array><data>".repeat(1000)), "elements inside one another");
    answered(response("<value><int>1</int></value>"), "the answer is no array");
    answered("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n<meth".into(), "nobody knows whether the call was done");
    answered(
        "HTTP/1.1 307 Go\r\nLocation: http://192.0.2.1/\r\nContent-Length: 0\r\n\r\n".into(),
        "the server answers HTTP 307",
    );
}

#[test]
fn ctrl_c_ends_each_role_wherever_it_waits() {
    for options in [&["--slow"][..], &["--slow", "--threaded"]] {
        let (mut server, addr) = server(options);
        let mut slow = foreign(addr);
        slow.write_all(&post("1.0", &call("slow", ""))).unwrap();
        server.wait_for("slow: waits for Enter\n").unwrap();
        let mut half = foreign(addr);
        half.write_all(b"POST /RPC2").unwrap();
        let mut waiting = Role::spawn(Command::new(LAB).args(["client", &addr.to_string(), "--timeout", "0"])).unwrap();
        if options.len() == 1 {
            // Its call is in the kernel's queue: the one thread is at work.
            wait_until("the client's call", LIMIT, || {
                let rows = kernel::tcp_sockets(addr.port())?;
                Ok((rows.iter().filter(|row| row.recv_queue > 100).count() == 1).then_some(()))
            })
            .unwrap();
            signal(&waiting, Signal::SIGINT);
        }
        ends_well(&mut waiting);
        interrupt(&mut server);
    }
    let (mut server, addr) = server(&["--slow"]);
    let mut calling = Role::spawn(&mut client(addr, &["--slow"])).unwrap();
    server.wait_for("slow: waits for Enter\n").unwrap();
    server.type_line("").unwrap();
    calling.wait_for("slow() has returned\n").unwrap();
    let mut typing = Role::spawn(&mut client(addr, &["--publish", "-"])).unwrap();
    typing.type_line("half a message").unwrap();
    testkit::wait_until_it_hears_ctrl_c(typing.pid()).unwrap();
    interrupt(&mut typing);
    assert!(texts(addr, &[]).is_empty());
}

#[test]
fn a_call_that_takes_too_long_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap(); // accepts nothing: the kernel connects the client
    let addr = listener.local_addr().unwrap();
    let (code, stderr) = failed(&mut client(addr, &["--timeout", "1"]));
    assert!(code == 1 && stderr.contains("last(0): no answer in 1s; nobody knows whether it was done"), "{stderr}");
}

#[test]
fn a_server_without_free_descriptors_serves_on_when_it_has_some() {
    let limited = "ulimit -n 16; exec \"$0\" server 0 --threaded";
    let (mut server, addr) = testkit::serving(Command::new("bash").args(["-c", limited, LAB]), BANNER);
    let silent: Vec<TcpStream> = (0..16).map(|_| foreign(addr)).collect();
    server.wait_for("accept: EMFILE").unwrap();
    drop(silent);
    publish(addr, "after them");
    interrupt(&mut server);
}

#[test]
fn pause_waits_before_each_call() {
    let mut server = Role::spawn(Command::new(LAB).args(["server", "0", "--pause"])).unwrap();
    step(&mut server, &["socket(AF_INET, SOCK_STREAM, 0)", "setsockopt(", "bind(", "listen("]);
    let addr = addr_behind(&mut server, BANNER);
    step(&mut server, &["accept("]);
    let mut client = Role::spawn(&mut client(addr, &["--publish", "hello", "--pause"])).unwrap();
    step(&mut client, &["publish(\"hello\"): connect, send and recv are in the stub"]);
    step(&mut server, &["recv("]);
    while !server.printed().contains(" gets 0\n") {
        server.type_line("").unwrap(); // the header and the body may come in two parts
        let _ = server.wait_for_within("next: ", LIMIT);
    }
    server.type_line("").unwrap();
    client.wait_for("Message published: id 0\n").unwrap();
    ends_well(&mut client);
    interrupt(&mut server);
}

#[test]
fn ipv6_works_as_ipv4_does() {
    if testkit::without_ipv6() {
        return;
    }
    let (_names, names_addr) = serving(&["names", "[::1]:0"]);
    let at = names_addr.to_string();
    let (_server, addr) = serving(&["server", "[::1]:0", "--names", &at, "--name", "six"]);
    publish(addr, "a:b");
    let shown = run(Command::new(LAB).args(["client", "--names", &at, "--name", "six"])).stdout;
    assert!(shown.ends_with("  (' ', -1)  a:b\n"), "{shown}");
}

#[test]
fn wrong_usage_is_refused() {
    for usage in [
        &["server", "--keep"][..],
        &["server", "--ids", "float"],
        &["server", "--die", "now"],
        &["server", "--max-request", "0"],
        &["server", "--slow", "--pause"],
        &["server", "--name", "a", "--names", "0"],
        &["client", "--last", "-1"],
        &["client", "a b"],
        &["names", "--lease", "0"],
    ] {
        assert_eq!(failed(Command::new(LAB).args(usage)).0, 2, "{usage:?}");
    }
}
