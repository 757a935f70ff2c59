//! Runs the real binary: the demo, the programs against each other and against the exam's own code in Python 3, and
//! what goes wrong.
#![allow(clippy::unwrap_used)]

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::Command,
    sync::LazyLock,
    time::Duration,
};

use kernel::{Pair, State, wait_for_state};
use nix::sys::signal::Signal;
use socket2::{Domain, SockRef, Socket, Type};
use testkit::{
    Demo, Role, TCP_TOOLS, descriptors, ends_well, failed, have, nobody, run, signal, skip_without, step, tcp_tool,
    wait_until,
};

const LAB: &str = env!("CARGO_BIN_EXE_lab14-length-header");
const LIMIT: Duration = Duration::from_secs(10);
static DEMO: LazyLock<Demo> = LazyLock::new(|| Demo::play(LAB));

/// The exam's server, its faults included, on a port of the kernel's choice; rewritten for Python 3.
const EXAM_SERVER: &str = "
import socket, threading
server = socket.socket()
server.bind(('127.0.0.1', 0))
def handle(conn, addr):
    connected = True
    while connected:
        length = conn.recv(64).decode('utf-8')
        if length:
            text = conn.recv(int(length)).decode('utf-8')
            if text == '!DISCONNECT':
                connected = False
            print(f'[{addr}] {text}', flush=True)
            conn.send('Msg received'.encode('utf-8'))
    conn.close()
server.listen()
print('port', server.getsockname()[1], flush=True)
while True:
    conn, addr = server.accept()
    threading.Thread(target=handle, args=(conn, addr), daemon=True).start()
";
/// The exam's client, second listing.
const EXAM_CLIENT: &str = "
import socket, sys
client = socket.socket()
client.connect(('127.0.0.1', int(sys.argv[1])))
def send(text):
    message = text.encode('utf-8')
    length = str(len(message)).encode('utf-8')
    client.send(length + b' ' * (64 - len(length)))
    client.send(message)
    print(client.recv(2048).decode('utf-8'), flush=True)
send('Hello World!')
send('Hello World Second Message!')
send('Hello World Third Message! \\u00e4\\u20ac')
send('!DISCONNECT')
";

/// The server on a port of the kernel's choice.
fn server(options: &[&str]) -> (Role, SocketAddr) {
    testkit::serving(Command::new(LAB).args(["server", "0"]).args(options), "[LISTENING] Server is listening on ")
}

/// A foreign client that has been let in.
fn let_in(server: &mut Role, addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    server.wait_for(&format!("[NEW CONNECTION] {} connected.\n", stream.local_addr().unwrap())).unwrap();
    stream
}

fn framed(text: &[u8]) -> Vec<u8> {
    [format!("{:<64}", text.len()).as_bytes(), text].concat()
}

fn answered(stream: &mut TcpStream) {
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"Msg received");
}

/// What the server says before its end of stream.
fn last_words(stream: &mut TcpStream) -> String {
    let mut words = String::new();
    stream.read_to_string(&mut words).unwrap();
    words
}

#[test]
fn the_demo_decides_every_claim_as_recorded() {
    DEMO.assert_verdicts(&[
        ("two-pieces", "CORRECTED"),
        ("big-body", "CORRECTED"),
        ("just-leaves", "ANSWERED"),
        ("other-word", "CORRECTED"),
        ("short-body", "ANSWERED"),
        ("mere-claim", "ANSWERED"),
        ("no-number", "ANSWERED"),
        ("two-ports", "CORRECTED"),
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
    testkit::assert_common_rules(LAB, &["server", "0"], "[LISTENING]");
}

#[test]
fn the_sheet_quotes_a_real_run() {
    testkit::assert_sheet_quotes_a_run("lab14-length-header", &DEMO);
}

#[test]
fn an_ordinary_account_can_do_everything_but_a_privileged_port() {
    testkit::assert_demo_needs_no_privileges(LAB);
    testkit::assert_privileged_port_is_refused(LAB, &["server", "1"], "127.0.0.1:1");
}

#[test]
fn each_message_is_printed_and_answered_and_the_last_word_ends() {
    let (mut server, addr) = server(&[]);
    let idle = descriptors(server.pid());
    let mut client = Role::spawn(Command::new(LAB).args(["client", &addr.port().to_string(), "127.0.0.1"])).unwrap();
    server.wait_for("[ACTIVE CONNECTIONS] 1\n").unwrap();
    for line in ["Hello World!", "", "\u{e4}\u{20ac}\u{1b}[2J"] {
        client.wait_for("message> ").unwrap();
        client.type_line(line).unwrap();
        client.wait_for("Msg received\n").unwrap();
    }
    server.wait_for("] Hello World!\n").unwrap();
    server.wait_for("] \n").unwrap();
    server.wait_for("] \u{e4}\u{20ac}\\u{1b}[2J\n").unwrap(); // no raw escapes
    client.input = None;
    client.wait_for("message> !DISCONNECT\nMsg received\n").unwrap();
    ends_well(&mut client);
    server.wait_for(": !DISCONNECT\n[ACTIVE CONNECTIONS] 0\n").unwrap();
    assert_eq!(descriptors(server.pid()), idle, "a connection is left open");
}

#[test]
fn the_exams_three_messages_wait_for_enter() {
    let (mut server, addr) = server(&[]);
    let mut client = Role::spawn(Command::new(LAB).args(["client", &addr.to_string(), "--exam"])).unwrap();
    for text in ["Hello World!", "Hello World Second Message!", "Hello World Third Message!"] {
        client.wait_for(&format!("message> {text}\nMsg received\nPress Enter to go on ...\n")).unwrap();
        server.wait_for(&format!("] {text}\n")).unwrap();
        client.type_line("").unwrap();
    }
    ends_well(&mut client);
    server.wait_for("] !DISCONNECT\n").unwrap();
}

#[test]
fn clients_are_served_at_the_same_time_and_counted() {
    let (mut server, addr) = server(&[]);
    let mut first = let_in(&mut server, addr);
    server.wait_for("[ACTIVE CONNECTIONS] 1\n").unwrap();
    first.write_all(b"6").unwrap(); // half a header holds its own thread, and nobody else's
    let mut second = let_in(&mut server, addr);
    server.wait_for("[ACTIVE CONNECTIONS] 2\n").unwrap();
    second.write_all(&framed(b"second")).unwrap();
    answered(&mut second);
    first.write_all(&framed(b"first!")[1..]).unwrap();
    answered(&mut first);
    drop(first);
    server.wait_for("left without !DISCONNECT\n[ACTIVE CONNECTIONS] 1\n").unwrap();
}

#[test]
fn a_message_arrives_whole_however_it_is_cut() {
    let (mut server, addr) = server(&[]);
    let mut client = let_in(&mut server, addr);
    SockRef::from(&client).set_tcp_nodelay(true).unwrap();
    let text = "a letter of three bytes: \u{20ac}";
    let wire = framed(text.as_bytes());
    for byte in &wire {
        client.write_all(&[*byte]).unwrap();
    }
    answered(&mut client);
    server.wait_for(&format!("] {text}\n")).unwrap();
    // Three messages in one segment, and the beginning of a fourth.
    let four = [framed(b"one"), framed(b"two"), framed(b""), framed(b"four")].concat();
    client.write_all(&four[..four.len() - 2]).unwrap();
    (0..3).for_each(|_| answered(&mut client));
    client.write_all(b"ur").unwrap();
    answered(&mut client);
    server.wait_for("] four\n").unwrap();
    // As large as it may be, and shown in one line.
    client.write_all(&framed(&vec![b'x'; 1_048_576])).unwrap();
    answered(&mut client);
    server.wait_for("... and 1048376 bytes more\n").unwrap();
}

#[test]
fn what_is_no_message_gets_a_clear_answer_and_an_end_without_a_reset() {
    let cases: [(&[u8], &str); 6] = [
        (&[b' '; 64], "Error: the header is no length"),
        (b"-1                                                              ", "Error: the header is no length"),
        (b"12abc                                                           ", "Error: the header is no length"),
        (
            b"1048577                                                         ",
            "Error: the header names more than 1048576",
        ),
        (b"9999999999999999999999999999999999999999999999999999999999999999", "Error: the header names more than"),
        (
            b"3                                                               a\xe2\x82",
            "Error: the message is not UTF-8 from byte 1",
        ),
    ];
    for (bytes, expected) in cases {
        let (mut server, addr) = server(&[]);
        let mut client = let_in(&mut server, addr);
        client.write_all(bytes).unwrap();
        client.write_all(&[b'x'; 100_000]).unwrap(); // unread input would make close(2) a reset
        client.shutdown(Shutdown::Write).unwrap();
        let words = last_words(&mut client);
        assert!(words.starts_with(expected), "{words}");
        server.wait_for("[CLOSED] ").unwrap();
        server.wait_for("[ACTIVE CONNECTIONS] 0\n").unwrap();
    }
}

#[test]
fn half_a_message_and_a_reset_are_told_apart() {
    let (mut server, addr) = server(&[]);
    let idle = descriptors(server.pid());
    let mut client = let_in(&mut server, addr);
    client.write_all(&framed(b"hello")[..67]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(last_words(&mut client), "");
    server.wait_for("left in the middle of a message: 67 bytes of header and text\n").unwrap();
    let client = let_in(&mut server, addr);
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client); // RST
    server.wait_for("recv: ECONNRESET (Connection reset by peer)\n").unwrap();
    wait_until("all descriptors back", LIMIT, || Ok((descriptors(server.pid()) == idle).then_some(()))).unwrap();
}

#[test]
fn a_client_that_is_slow_or_never_reads_is_dropped_at_the_stated_limit() {
    let (mut server, addr) = server(&["--patience", "1"]);
    let mut slow = let_in(&mut server, addr);
    slow.write_all(b"12").unwrap();
    assert_eq!(last_words(&mut slow), "Error: too slow");
    server.wait_for("a message was not whole in time: 2 bytes of header and text\n").unwrap();
    // Between two messages nobody has to hurry; see also the one who never takes an answer.
    let deaf = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    deaf.set_recv_buffer_size(1).unwrap(); // the least the kernel grants: few answers fill it
    deaf.connect(&addr.into()).unwrap();
    let mut deaf = TcpStream::from(deaf);
    deaf.set_nonblocking(true).unwrap();
    let many = framed(b"x").repeat(100);
    wait_until("the server to give up", LIMIT, || {
        let _ = deaf.write(&many); // EAGAIN once both buffers are full
        Ok(server.printed().contains("did not take its answer in time").then_some(()))
    })
    .unwrap();
}

#[test]
fn one_client_too_many_is_told_so_and_a_place_is_free_again() {
    let (mut server, addr) = server(&["--max-clients", "1"]);
    let mut first = let_in(&mut server, addr);
    let second = run(Command::new(LAB).args(["client", &addr.to_string()]));
    assert_eq!(second.code(), 1, "{second:?}");
    assert!(second.stdout.contains("[REFUSED] Error: the server serves as many clients as it may"), "{second:?}");
    first.write_all(&framed(b"!DISCONNECT")).unwrap();
    answered(&mut first);
    server.wait_for("[ACTIVE CONNECTIONS] 0\n").unwrap();
    wait_until("a place", LIMIT, || {
        let third = run(Command::new(LAB).args(["client", &addr.to_string()]));
        Ok((third.code() == 0).then_some(()))
    })
    .unwrap();
}

#[test]
fn the_naive_handler_spins_after_its_client_left_and_ctrl_c_still_ends_it() {
    let (mut server, addr) = server(&["--naive"]);
    let client = let_in(&mut server, addr);
    let pair = Pair { local: client.local_addr().unwrap(), peer: addr };
    drop(client);
    wait_for_state(pair.other_end(), Some(State::CloseWait), LIMIT).unwrap();
    signal(&server, Signal::SIGINT);
    ends_well(&mut server);
    wait_for_state(pair.other_end(), None, LIMIT).unwrap();
}

#[test]
fn the_exams_client_and_server_speak_the_same_wire() {
    if skip_without(!have("python3"), "python3", "apt-get install python3") {
        return;
    }
    let (mut ours, addr) = server(&[]);
    let theirs = run(Command::new("python3").args(["-c", EXAM_CLIENT, &addr.port().to_string()]));
    assert_eq!(theirs.stdout, "Msg received\n".repeat(4), "{theirs:?}");
    ours.wait_for("] Hello World Third Message! \u{e4}\u{20ac}\n").unwrap();
    ours.wait_for(": !DISCONNECT\n[ACTIVE CONNECTIONS] 0\n").unwrap();

    let mut theirs = Role::spawn(Command::new("python3").args(["-c", EXAM_SERVER])).unwrap();
    let port = theirs.line_with("port ").unwrap().trim_start_matches("port ").to_string();
    let exam = run(Command::new(LAB).args(["client", &port, "--exam"]));
    assert_eq!(exam.code(), 0, "{exam:?}");
    assert_eq!(exam.stdout.matches("Msg received\n").count(), 4, "{exam:?}");
    theirs.wait_for("Hello World Third Message!\n").unwrap();
    theirs.wait_for("!DISCONNECT\n").unwrap();
}

#[test]
fn any_program_that_sends_the_bytes_is_a_client() {
    for tool in TCP_TOOLS {
        let (mut server, addr) = server(&[]);
        let Some(mut peer) = tcp_tool(tool, addr) else { continue };
        peer.type_line(&format!("{:<64}hello", 6)).unwrap(); // the newline is the sixth byte
        peer.wait_for("Msg received").unwrap();
        server.wait_for("] hello\\n\n").unwrap();
        peer.input = None;
        server.wait_for("left without !DISCONNECT\n").unwrap();
    }
}

#[test]
fn a_server_that_answers_something_else_is_quoted_and_the_client_fails() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client =
        Role::spawn(Command::new(LAB).args(["client", &listener.local_addr().unwrap().to_string()])).unwrap();
    client.wait_for("message> ").unwrap();
    client.type_line("hello").unwrap();
    let (mut conn, _) = listener.accept().unwrap();
    conn.read_exact(&mut [0; 69]).unwrap();
    conn.write_all(b"no\x1b[2J such thing").unwrap();
    drop(conn);
    client.wait_for("[REFUSED] no\\u{1b}[2J such thing\n").unwrap();
    assert_eq!(client.wait_for_end().unwrap().code(), Some(1));
}

#[test]
fn ctrl_c_ends_each_role_wherever_it_waits() {
    let (mut server, addr) = server(&[]);
    let _in_the_middle = {
        let mut client = let_in(&mut server, addr);
        client.write_all(b"12").unwrap();
        client
    };
    let mut typing = Role::spawn(Command::new(LAB).args(["client", &addr.to_string()])).unwrap();
    typing.wait_for("message> ").unwrap();
    let mut exam = Role::spawn(Command::new(LAB).args(["client", &addr.to_string(), "--exam"])).unwrap();
    exam.wait_for("Press Enter").unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut waiting =
        Role::spawn(Command::new(LAB).args(["client", &silent.local_addr().unwrap().to_string(), "--exam"])).unwrap();
    waiting.wait_for("message> Hello World!").unwrap();
    for role in [&mut typing, &mut exam, &mut waiting, &mut server] {
        signal(role, Signal::SIGINT);
        ends_well(role);
    }
}

#[test]
fn pause_waits_before_each_call() {
    let start = |args: &[&str]| Role::spawn(Command::new(LAB).args(args).arg("--pause")).unwrap();
    let mut server = start(&["server", "0"]);
    step(&mut server, &["socket(AF_INET, SOCK_STREAM, 0)", "setsockopt(", "bind(", "listen("]);
    let line = server.line_with("[LISTENING] Server is listening on ").unwrap();
    let addr = line.rsplit(' ').next().unwrap().to_string();
    step(&mut server, &["accept("]);
    let mut client = start(&["client", &addr]);
    step(&mut client, &["socket(", "connect("]);
    client.wait_for("message> ").unwrap();
    client.type_line("hello").unwrap();
    step(&mut client, &["send(", "send(", "recv("]);
    client.wait_for("Msg received\n").unwrap();
    signal(&client, Signal::SIGTERM);
    ends_well(&mut client);
    signal(&server, Signal::SIGTERM);
    ends_well(&mut server);
}

#[test]
fn errors_name_the_call_the_address_the_errno_and_a_command_that_helps() {
    let failed = |args: &[&str]| failed(Command::new(LAB).args(args));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let (code, stderr) = failed(&["server", &addr]);
    assert!(code == 1 && stderr.starts_with(&format!("lab14: bind {addr}: EADDRINUSE (98)")), "{stderr}");
    let (_nobody, addr) = nobody();
    let addr = addr.to_string();
    let (code, stderr) = failed(&["client", &addr]);
    assert!(code == 1 && stderr.starts_with(&format!("lab14: connect {addr}: ECONNREFUSED (111)")), "{stderr}");
    assert!(stderr.contains("hint: start the server"), "{stderr}");
    for usage in
        [&["server", "77777"][..], &["client", "a b"], &["server", "--max-message", "0"], &["client", "1", "2", "3"]]
    {
        assert_eq!(failed(usage).0, 2, "{usage:?}");
    }
    assert_eq!(failed(&["client", "5050", "5051"]).0, 1);
}

#[test]
fn a_line_longer_than_the_server_takes_is_refused_before_it_is_sent() {
    let (_server, addr) = server(&[]);
    let mut client = Role::spawn(Command::new(LAB).args(["client", &addr.to_string()])).unwrap();
    client.wait_for("message> ").unwrap();
    // The client may end before it has read all of it.
    let _ = client.type_line(&"x".repeat(1_200_000));
    assert_eq!(client.wait_for_end().unwrap().code(), Some(1));
}
