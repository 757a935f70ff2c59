//! Runs the real binary: the demo, the programs against each other and against Python 3, and what goes wrong.
#![allow(clippy::unwrap_used)]

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::{Command, Stdio},
    sync::LazyLock,
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use socket2::{Domain, SockRef, Socket, Type};
use testkit::{
    Demo, Role, Terminal, descriptors, ends_well, failed, have, interrupt, nobody, run, signal, skip_without, step,
    wait_until,
};

const LAB: &str = env!("CARGO_BIN_EXE_lab25-chat-objects");
const LIMIT: Duration = Duration::from_secs(10);
const PROMPT: &str = "Message to send: ";
static DEMO: LazyLock<Demo> = LazyLock::new(|| Demo::play(LAB));

/// Asks the group once, prints all answers of a second.
const PYTHON_ASKS: &str = "
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton('127.0.0.1'))
s.settimeout(10)
s.sendto(b'who serves chat?', ('239.1.1.1', int(sys.argv[1])))
print(s.recvfrom(100)[0].decode())
";

/// A group that no other test is in.
fn free_group() -> String {
    let port = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    format!("239.1.1.1:{port}")
}

/// The server on a port of the kernel's choice.
fn server_in(group: &str, options: &[&str]) -> (Role, SocketAddr) {
    let mut server = Role::spawn(Command::new(LAB).args(["server", "0", "--group", group]).args(options)).unwrap();
    let line = server.line_with("The chat URI is: chat://").unwrap();
    let addr = line.rsplit("//").next().unwrap().trim().parse().unwrap();
    (server, addr)
}

fn server(options: &[&str]) -> (Role, SocketAddr) {
    server_in(&free_group(), options)
}

fn command(addr: SocketAddr, name: &str) -> Command {
    let mut command = Command::new(LAB);
    command.args(["client", "--name", name, "--uri", &format!("chat://{addr}")]);
    command
}

/// A client that is in.
fn client(addr: SocketAddr, name: &str) -> Role {
    let mut client = Role::spawn(&mut command(addr, name)).unwrap();
    client.wait_for(&format!("{name} is in at chat://{addr}\nthe window lives in process {}\n", client.pid())).unwrap();
    client
}

/// What a client was shown.
fn shown(client: &mut Role) -> Vec<String> {
    client.printed().lines().filter(|line| line.starts_with("From ")).map(String::from).collect()
}

/// The server's list of users, as a client sees it.
fn users(client: &mut Role) -> String {
    client.type_line("/users").unwrap();
    client.line_with("in: ").unwrap().trim_start_matches(PROMPT).trim().into()
}

#[test]
fn the_demo_decides_every_claim_as_recorded() {
    DEMO.assert_verdicts(&[
        ("whose-process", "ANSWERED"),
        ("killed-client", "CORRECTED"),
        ("lost-panic", "ANSWERED"),
        ("many-at-once", "ANSWERED"),
        ("third-process", "ANSWERED"),
        ("name-taken", "ANSWERED"),
        ("restarted", "ANSWERED"),
        ("asked-group", "ANSWERED"),
    ]);
}

#[test]
fn the_printed_calls_are_those_strace_saw() {
    testkit::assert_printed_calls_are_real(LAB);
}

#[test]
fn the_command_line_keeps_the_rules_of_all_labs() {
    testkit::assert_common_rules(LAB, &["server", "0", "--group", &free_group()], "The chat URI is: ");
}

#[test]
fn stops_change_no_verdict() {
    testkit::assert_stops_change_no_verdict(LAB);
}

#[test]
fn the_sheet_quotes_a_real_run() {
    testkit::assert_sheet_quotes_a_run("lab25-chat-objects", &DEMO);
}

#[test]
fn an_ordinary_account_can_do_everything_but_a_privileged_port() {
    testkit::assert_demo_needs_no_privileges(LAB);
    testkit::assert_privileged_port_is_refused(LAB, &["server", "1", "--group", &free_group()], "127.0.0.1:1");
}

#[test]
fn the_server_calls_the_windows_of_its_clients_and_says_where_each_call_ran() {
    let (mut server, addr) = server(&[]);
    let mut ann = client(addr, "ann");
    let mut bob = client(addr, "bob");
    assert_eq!(users(&mut ann), "in: ann, bob");
    ann.type_line("hello").unwrap();
    for who in [&mut ann, &mut bob] {
        who.wait_for("From ann : hello\n").unwrap();
    }
    for (name, pid) in [("ann", ann.pid()), ("bob", bob.pid())] {
        let line = format!("show ran in process {pid}, for {name}: From ann : hello\n");
        wait_until(&line, LIMIT, || Ok(server.printed().contains(&line).then_some(()))).unwrap();
    }
    bob.type_line("/private ann a secret").unwrap();
    ann.wait_for("From bob to you : a secret\n").unwrap();
    bob.type_line("/private carol x").unwrap();
    bob.wait_for("not done: no user carol is in\n").unwrap();
    bob.type_line("/help").unwrap();
    bob.wait_for("commands: /users").unwrap();
    // Who comes later is shown what was said to all.
    let mut carol = client(addr, "carol");
    carol.wait_for("From ann : hello\n").unwrap();
    bob.type_line("t\u{f5}de \u{1b}[2J").unwrap();
    carol.wait_for("From bob : t\u{f5}de \\u{1b}[2J\n").unwrap(); // no raw escapes
    assert_eq!(shown(&mut carol), ["From ann : hello", "From bob : t\u{f5}de \\u{1b}[2J"]);
    ann.type_line("/quit").unwrap();
    ends_well(&mut ann);
    server.wait_for("ann leaves: its references are gone\n").unwrap();
    assert_eq!(users(&mut bob), "in: bob, carol");
    interrupt(&mut server);
    assert!(server.printed().ends_with("The chat had 3 messages\n"), "{}", server.printed());
    bob.wait_for("The server is gone").unwrap();
    assert_eq!(bob.wait_for_end().unwrap().code(), Some(1));
}

#[test]
fn each_message_is_shown_once_and_to_all_in_the_same_order() {
    const CLIENTS: usize = 4;
    const LINES: usize = 10;
    let (_server, addr) = server(&[]);
    let mut clients: Vec<_> = (0..CLIENTS).map(|number| client(addr, &format!("user{number}"))).collect();
    for line in 0..LINES {
        clients.iter_mut().for_each(|client| client.type_line(&format!("line {line}")).unwrap());
    }
    let all = |client: &mut Role| {
        let mut seen = Vec::new();
        wait_until("all messages", LIMIT, || {
            seen = shown(client);
            Ok((seen.len() >= CLIENTS * LINES).then_some(()))
        })
        .unwrap();
        seen
    };
    let seen: Vec<_> = clients.iter_mut().map(all).collect();
    assert!(seen.iter().all(|of_one| *of_one == seen[0]), "not all were shown the same in the same order");
    let mut each = seen[0].clone();
    each.sort();
    each.dedup();
    assert_eq!((each.len(), seen[0].len()), (CLIENTS * LINES, CLIENTS * LINES));
    let of_one: Vec<_> = seen[0].iter().filter(|line| line.starts_with("From user0 ")).cloned().collect();
    assert_eq!(of_one, (0..LINES).map(|line| format!("From user0 : line {line}")).collect::<Vec<_>>());
}

#[test]
fn typed_text_survives_what_arrives() {
    let (_server, addr) = server(&[]);
    let mut ann = Terminal::start(&mut command(addr, "ann"), 80, 24);
    ann.wait_for(PROMPT);
    ann.type_text("half a li");
    ann.wait_for("half a li"); // the terminal's echo
    let mut bob = client(addr, "bob");
    bob.type_line("in between").unwrap();
    ann.wait_for("From bob : in between\n");
    ann.type_text("ne\n");
    bob.wait_for("From ann : half a line\n").unwrap();
}

#[test]
fn a_client_without_a_window_asks_as_in_the_lecture() {
    let (_server, addr) = server(&[]);
    let mut ann = client(addr, "ann");
    ann.type_line("before").unwrap();
    ann.wait_for("From ann : before\n").unwrap();
    let mut bob = Role::spawn(command(addr, "bob").arg("--poll")).unwrap();
    bob.wait_for("My messages:\nFrom ann : before\n").unwrap();
    ann.type_line("later").unwrap();
    ann.wait_for("From ann : later\n").unwrap();
    ann.type_line("/private bob psst").unwrap();
    ann.type_line("/users").unwrap();
    ann.wait_for("in: ann, bob\n").unwrap(); // so the private one is done, too
    bob.type_line("").unwrap();
    bob.wait_for("My messages:\nFrom ann : later\nFrom ann to you : psst\n").unwrap();
    bob.type_line("mine").unwrap();
    bob.wait_for("My messages:\nFrom bob : mine\n").unwrap();
    bob.input = None;
    ends_well(&mut bob);
    assert_eq!(shown(&mut bob).len(), 4);
}

#[test]
fn a_server_is_found_by_asking_the_group() {
    let group = free_group();
    let (code, stderr) = failed(Command::new(LAB).args(["client", "--name", "ann", "--group", &group]));
    let expected = format!("lab25: nobody in {group} serves a chat, asked for 2s");
    assert!(code == 1 && stderr.starts_with(&expected), "{stderr}");

    let (mut server, addr) = server_in(&group, &[]);
    let (_second, _) = server_in(&group, &[]); // several may be in the group
    let mut ann = Role::spawn(Command::new(LAB).args(["client", "--name", "ann", "--group", &group])).unwrap();
    ann.wait_for("ann is in at chat://127.0.0.1:").unwrap();
    server.wait_for(" asked the group, and got the URI\n").unwrap();
    let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    SockRef::from(&stranger).set_multicast_if_v4(&Ipv4Addr::LOCALHOST).unwrap();
    stranger.send_to(b"who serves what?", &group).unwrap(); // nobody answers
    if skip_without(!have("python3"), "python3", "apt-get install python3") {
        return;
    }
    drop(_second);
    let port = group.rsplit(':').next().unwrap();
    let asked = run(Command::new("python3").args(["-c", PYTHON_ASKS, port]));
    assert_eq!(asked.stdout, format!("chat://{addr}\n"), "{asked:?}");
}

#[test]
fn an_answer_of_a_stranger_that_is_no_uri_is_thrown_away() {
    let group = free_group();
    let port: u16 = group.rsplit(':').next().unwrap().parse().unwrap();
    let stranger = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    stranger.set_reuse_address(true).unwrap();
    stranger.bind(&SocketAddr::from((Ipv4Addr::new(239, 1, 1, 1), port)).into()).unwrap();
    stranger.join_multicast_v4(&Ipv4Addr::new(239, 1, 1, 1), &Ipv4Addr::LOCALHOST).unwrap();
    let stranger = UdpSocket::from(stranger);
    stranger.set_read_timeout(Some(LIMIT)).unwrap();
    let mut ann = Role::spawn(Command::new(LAB).args(["client", "--name", "ann", "--group", &group])).unwrap();
    let mut question = [0; 100];
    let (bytes_read, asker) = stranger.recv_from(&mut question).unwrap();
    assert_eq!(&question[..bytes_read], b"who serves chat?");
    stranger.send_to(b"chat://\x1b[2J", asker).unwrap();
    ann.wait_for("no URI, thrown away: chat://\\u{1b}[2J\n").unwrap();
    let (_server, addr) = server(&[]);
    stranger.send_to(format!("chat://{addr}").as_bytes(), asker).unwrap();
    ann.wait_for(&format!("ann is in at chat://{addr}\n")).unwrap();
}

#[test]
fn a_killed_client_leaves_the_list_and_its_name_is_free() {
    let (mut server, addr) = server(&[]);
    let idle = descriptors(server.pid());
    let mut bob = client(addr, "bob");
    let ann = client(addr, "ann");
    assert_eq!(users(&mut bob), "in: ann, bob");
    let (code, stderr) = failed(&mut command(addr, "ann"));
    assert_eq!((code, stderr.as_str()), (1, "lab25: the name ann is taken; 2 users are in\n"));
    signal(&ann, Signal::SIGKILL);
    server.wait_for("ann leaves: ").unwrap();
    assert_eq!(users(&mut bob), "in: bob");
    bob.type_line("/private ann hello").unwrap();
    bob.wait_for("not done: no user ann is in\n").unwrap();
    let mut again = client(addr, "ann");
    for who in [&mut again, &mut bob] {
        interrupt(who);
    }
    wait_until("all descriptors back", LIMIT, || Ok((descriptors(server.pid()) == idle).then_some(()))).unwrap();
    interrupt(&mut server);
}

#[test]
fn with_overwrite_the_second_user_of_a_name_gets_its_messages() {
    let (_server, addr) = server(&["--overwrite"]);
    let mut first = client(addr, "ann");
    let mut second = client(addr, "ann");
    let mut bob = client(addr, "bob");
    assert_eq!(users(&mut bob), "in: ann, bob");
    bob.type_line("/private ann secret").unwrap();
    second.wait_for("From bob to you : secret\n").unwrap();
    assert!(shown(&mut first).is_empty());
    interrupt(&mut first); // the name stays the second one's
    assert_eq!(users(&mut bob), "in: ann, bob");
}

#[test]
fn a_client_that_stands_still_is_put_out_and_nobody_waits_for_it() {
    let (mut server, addr) = server(&["--timeout", "2"]);
    let ann = client(addr, "ann");
    let mut bob = client(addr, "bob");
    signal(&ann, Signal::SIGSTOP);
    bob.type_line("hello").unwrap();
    bob.wait_for("From bob : hello\n").unwrap();
    server.wait_for("ann leaves: ").unwrap();
    assert_eq!(users(&mut bob), "in: bob");
    signal(&ann, Signal::SIGCONT);
}

#[test]
fn what_waits_for_a_client_has_a_limit() {
    let (mut server, addr) = server(&[]);
    let mut ann = client(addr, "ann");
    signal(&ann, Signal::SIGSTOP);
    let lines = "x\n".repeat(310);
    let mut bob = Command::new(LAB);
    let bob = bob.args(["client", "--name", "bob", "--poll", "--uri", &addr.to_string()]);
    let mut bob = bob.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    bob.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    server.wait_for_within("ann leaves: it takes no messages\n", 3 * LIMIT).unwrap();
    assert_eq!(bob.wait().unwrap().code(), Some(0));
    signal(&ann, Signal::SIGCONT);
    ann.wait_for("The server is gone").unwrap();
}

#[test]
fn all_that_was_typed_before_the_end_of_input_is_said() {
    let (mut server, addr) = server(&[]);
    let mut ann = client(addr, "ann");
    let mut bob = command(addr, "bob").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let longest = "y".repeat(65536);
    let mut input = b"one\n\xff\xfe\n".to_vec();
    input.extend(format!("{longest}\n{longest}z\n").as_bytes());
    input.extend(b"last, without newline");
    bob.stdin.take().unwrap().write_all(&input).unwrap();
    assert_eq!(bob.wait().unwrap().code(), Some(0));
    ann.wait_for("From bob : last, without newline\n").unwrap();
    assert_eq!(shown(&mut ann).iter().map(String::len).collect::<Vec<_>>(), [14, 11 + 65536, 11 + 21]);
    interrupt(&mut server);
    assert!(server.printed().ends_with("The chat had 3 messages\n"));
}

#[test]
fn strangers_are_told_apart_and_the_chat_goes_on() {
    let (mut server, addr) = server(&[]);
    let mut ann = client(addr, "ann");
    let idle = descriptors(server.pid());
    let silent = TcpStream::connect(addr).unwrap();
    for bytes in [&b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..], b"", &[0xff; 5000], b"\x01\x00\x00\x00x"] {
        let mut stranger = TcpStream::connect(addr).unwrap();
        stranger.set_read_timeout(Some(LIMIT)).unwrap();
        stranger.write_all(bytes).unwrap();
        stranger.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = stranger.read_to_end(&mut Vec::new()); // ECONNRESET where it had not read all
        server.wait_for(&format!("{} is no client: ", stranger.local_addr().unwrap())).unwrap();
    }
    let resets = TcpStream::connect(addr).unwrap();
    let reset_addr = resets.local_addr().unwrap();
    SockRef::from(&resets).set_linger(Some(Duration::ZERO)).unwrap();
    drop(resets); // RST
    server.wait_for(&format!("{reset_addr} is no client: ")).unwrap();
    ann.type_line("still here").unwrap();
    ann.wait_for("From ann : still here\n").unwrap();
    drop(silent);
    wait_until("all descriptors back", LIMIT, || Ok((descriptors(server.pid()) == idle).then_some(()))).unwrap();
}

#[test]
fn a_server_without_descriptors_takes_the_next_client_when_one_has_left() {
    let limited = "ulimit -n 24; exec \"$0\" server 0 --group \"$1\"";
    let mut server = Role::spawn(Command::new("bash").args(["-c", limited, LAB, &free_group()])).unwrap();
    let line = server.line_with("The chat URI is: chat://").unwrap();
    let addr: SocketAddr = line.rsplit("//").next().unwrap().trim().parse().unwrap();
    let crowd: Vec<_> = (0..20).map(|_| TcpStream::connect(addr).unwrap()).collect();
    server.wait_for("accept: EMFILE").unwrap();
    drop(crowd);
    let mut ann = client(addr, "ann");
    ann.type_line("hello").unwrap();
    ann.wait_for("From ann : hello\n").unwrap();
}

#[test]
fn a_server_of_another_kind_is_reported_and_the_client_fails() {
    for answer in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b""] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let asked = thread::spawn(move || failed(&mut command(addr, "ann")));
        let (mut conn, _) = listener.accept().unwrap();
        conn.write_all(answer).unwrap();
        drop(conn);
        let (code, stderr) = asked.join().unwrap();
        let expected = "lab25: the server does not speak our protocol, or is gone: ";
        assert!(code == 1 && stderr.starts_with(expected), "{stderr}");
    }
}

#[test]
fn ctrl_c_ends_each_role_wherever_it_waits() {
    let (mut server, addr) = server(&[]);
    let mut at_prompt = client(addr, "ann");
    interrupt(&mut at_prompt);

    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut greeting = Role::spawn(&mut command(silent.local_addr().unwrap(), "ann")).unwrap();
    let _conn = silent.accept().unwrap();
    signal(&greeting, Signal::SIGINT);
    ends_well(&mut greeting);

    let mut in_call = client(addr, "bob");
    signal(&server, Signal::SIGSTOP);
    in_call.type_line("nobody hears this now").unwrap();
    signal(&in_call, Signal::SIGINT);
    ends_well(&mut in_call);
    signal(&server, Signal::SIGCONT);

    let group = free_group();
    let mut asking = Role::spawn(Command::new(LAB).args(["client", "--name", "ann", "--group", &group])).unwrap();
    testkit::wait_until_it_hears_ctrl_c(asking.pid()).unwrap();
    interrupt(&mut asking);
    interrupt(&mut server);
}

/// Presses Enter once for each call that waits for it, until the role has printed `text`.
fn press_until(role: &mut Role, text: &str) {
    let mut pressed = role.printed().matches("[Enter]").count() - 1; // the last one still waits
    wait_until(text, LIMIT, || {
        let printed = role.printed();
        if printed.contains(text) {
            return Ok(Some(()));
        }
        if printed.matches("[Enter]").count() > pressed {
            pressed += 1;
            role.type_line("")?;
        }
        Ok(None)
    })
    .unwrap();
}

#[test]
fn pause_waits_before_each_call() {
    let group = free_group();
    let mut server = Role::spawn(Command::new(LAB).args(["server", "0", "--group", &group, "--pause"])).unwrap();
    step(&mut server, &["socket(AF_INET, SOCK_STREAM, 0)", "setsockopt(", "bind(", "listen("]);
    step(&mut server, &["socket(AF_INET, SOCK_DGRAM, 0)", "setsockopt(", "bind(", "setsockopt("]);
    let line = server.line_with("The chat URI is: chat://").unwrap();
    let addr: SocketAddr = line.rsplit("//").next().unwrap().trim().parse().unwrap();
    let mut ann =
        Role::spawn(Command::new(LAB).args(["client", "--name", "ann", "--group", &group, "--pause"])).unwrap();
    step(&mut ann, &["socket(AF_INET, SOCK_DGRAM, 0)", "setsockopt(", "sendto("]);
    step(&mut server, &["recvfrom("]);
    // It asks again while nobody answers: more questions may have come before the connection.
    press_until(&mut ann, "next: connect(");
    ann.type_line("").unwrap();
    press_until(&mut server, " connected\n");
    ann.wait_for(&format!("ann is in at chat://{addr}\n")).unwrap();
    ann.type_line("hello").unwrap();
    ann.wait_for("From ann : hello\n").unwrap();
    interrupt(&mut ann);
    interrupt(&mut server);
}

#[test]
fn ipv6_works_as_ipv4_does() {
    if testkit::without_ipv6() {
        return;
    }
    let mut server = Role::spawn(Command::new(LAB).args(["server", "[::1]:0", "--group", &free_group()])).unwrap();
    let line = server.line_with("The chat URI is: chat://").unwrap();
    let mut ann = client(line.rsplit("//").next().unwrap().trim().parse().unwrap(), "ann");
    ann.type_line("hello").unwrap();
    ann.wait_for("From ann : hello\n").unwrap();
}

#[test]
fn a_group_that_cannot_be_joined_is_told_and_the_server_goes_on() {
    let taken = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap(); // without SO_REUSEADDR
    let group = format!("239.1.1.1:{}", taken.local_addr().unwrap().port());
    let mut server = Role::spawn(Command::new(LAB).args(["server", "0", "--group", &group])).unwrap();
    server.wait_for(&format!("Nobody finds this server by asking {group}: bind {group}: EADDRINUSE (98)")).unwrap();
    let line = server.line_with("The chat URI is: chat://").unwrap();
    client(line.rsplit("//").next().unwrap().trim().parse().unwrap(), "ann");
}

#[test]
fn errors_name_the_call_the_address_the_errno_and_a_command_that_helps() {
    let failed = |args: &[&str]| failed(Command::new(LAB).args(args));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let (code, stderr) = failed(&["server", &addr]);
    assert!(code == 1 && stderr.starts_with(&format!("lab25: bind {addr}: EADDRINUSE (98)")), "{stderr}");
    let (_nobody, addr) = nobody();
    let addr = addr.to_string();
    let (code, stderr) = failed(&["client", "--name", "ann", "--uri", &addr]);
    assert!(code == 1 && stderr.starts_with(&format!("lab25: connect {addr}: ECONNREFUSED (111)")), "{stderr}");
    assert!(stderr.contains("hint: start the server"), "{stderr}");
    let (code, stderr) = failed(&["server", "192.0.2.1:7777"]);
    assert!(code == 1 && stderr.starts_with("lab25: bind 192.0.2.1:7777: EADDRNOTAVAIL (99)"), "{stderr}");
    for usage in [
        &["server", "77777"][..],
        &["server", "--group", "10.0.0.1:7000"],
        &["server", "--group", "239.1.1.1:0"],
        &["server", "--timeout", "-1"],
        &["client"],
        &["client", "--name", ""],
        &["client", "--name", "two words"],
        &["client", "--name", "a\u{1b}[2J"],
        &["client", "--name", &"x".repeat(33)],
        &["client", "--name", "ann", "--uri", "chat://127.0.0.1:0"],
        &["client", "--name", "ann", "--uri", "http://127.0.0.1:7777"],
    ] {
        assert_eq!(failed(usage).0, 2, "{usage:?}");
    }
}
