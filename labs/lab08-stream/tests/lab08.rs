//! Runs the real binary: the demo, the programs against each other and against foreign peers, and what goes wrong.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::Command,
    sync::LazyLock,
    time::Duration,
};

use nix::sys::signal::Signal;
use testkit::{
    Demo, Finished, Role, TempDir, as_ordinary_account, ends_well, failed, have, interrupt, run, signal, skip_without,
    stop_and_go_on, wait_until,
};

const LAB: &str = env!("CARGO_BIN_EXE_lab08-stream");
const LIMIT: Duration = Duration::from_secs(10);
/// The lecture's big message.
const BIG: usize = 84_001;

static DEMO: LazyLock<Demo> = LazyLock::new(|| Demo::play(LAB));

/// Whether the experiment `header` could be played.
fn captures() -> bool {
    !DEMO.finished.stdout.contains("SKIPPED    needs a private user and network namespace")
}

fn big_message() -> String {
    "Hello world!".repeat(7000) + "\n"
}

/// `receive` on a port of the kernel's choice.
fn receiver(options: &[&str]) -> (Role, SocketAddr) {
    let mut receiver = Role::spawn(Command::new(LAB).args(["receive", "127.0.0.1:0"]).args(options)).unwrap();
    let line = receiver.line_with("Socket is listening on ").unwrap();
    (receiver, line.split_whitespace().last().unwrap().parse().unwrap())
}

fn sender(addr: SocketAddr, options: &[&str]) -> Role {
    Role::spawn(Command::new(LAB).args(["send", &addr.to_string()]).args(options)).unwrap()
}

/// A listener of the test's own, with a deadline on what it accepts.
fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

fn accepted(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    stream
}

/// The bytes of all blocks a receiver has shown.
fn bytes_in_blocks(printed: &str) -> usize {
    let block = |line: &str| {
        let words: Vec<&str> = line.strip_prefix("Received block of ")?.split_whitespace().collect();
        let times = words.get(3).map_or(1, |times| times.trim_start_matches('x').parse().unwrap());
        Some(words[0].parse::<usize>().unwrap() * times)
    };
    printed.lines().filter_map(block).sum()
}

/// Ends a role with Enter and returns all it printed.
fn ended(role: &mut Role) -> String {
    role.wait_for("Press Enter to terminate ...\n").unwrap();
    role.type_line("").unwrap();
    role.wait_for("Terminating ...\n").unwrap();
    ends_well(role);
    role.printed()
}

#[test]
fn the_demo_decides_every_claim_as_recorded() {
    if skip_without(DEMO.finished.stdout.contains("needs a private user"), "user namespaces", "see scripts/check.sh") {
        return;
    }
    DEMO.assert_verdicts(&[
        ("messages", "CORRECTED"),
        ("delivered", "CORRECTED"),
        ("no-terminator", "ANSWERED"),
        ("no-reader", "CONFIRMED"),
        ("framing", "CORRECTED"),
        ("in-order", "CONFIRMED"),
        ("nagle", "CORRECTED"),
        ("header", "CORRECTED"),
    ]);
}

#[test]
fn being_stopped_and_continued_changes_no_verdict() {
    testkit::assert_stops_change_no_verdict(LAB);
}

#[test]
fn a_new_build_while_the_demo_runs_changes_no_verdict() {
    testkit::assert_a_new_build_changes_no_verdict(&DEMO);
}

#[test]
fn the_printed_calls_are_those_strace_saw() {
    testkit::assert_printed_calls_are_real(LAB);
}

#[test]
fn the_command_line_keeps_the_rules_of_all_labs() {
    testkit::assert_common_rules(LAB, &["receive", "127.0.0.1:0"], "Socket is listening on ");
}

#[test]
fn the_sheet_quotes_a_real_run() {
    if skip_without(!captures(), "user namespaces", "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0") {
        return;
    }
    testkit::assert_sheet_quotes_a_run("lab08-stream", &DEMO);
}

#[test]
fn the_big_message_arrives_whole_and_both_name_the_same_addresses() {
    let (mut receiver, addr) = receiver(&[]);
    let mut sender = sender(addr, &[]);
    sender.wait_for(&format!("Connected to the server {addr}\n")).unwrap();
    let local = sender.line_with("Local end-point bound on ").unwrap();
    let client_addr = local.split_whitespace().last().unwrap();
    sender.wait_for("Pay-load length 84001 bytes: [Hello world!...ld!\\n]\n").unwrap();
    receiver.wait_for(&format!("Client connected from {client_addr}\nWaiting for message ...\n")).unwrap();
    receiver.wait_for("Total length 84001 bytes: [Hello world!...ld!\\n]\n").unwrap();
    let printed = ended(&mut receiver);
    assert_eq!(bytes_in_blocks(&printed), BIG, "{printed}");
    assert!(printed.contains(&format!("Received block of 1024 from {client_addr}")), "{printed}");
    assert!(
        printed.contains("Closed client socket...\nClosed the listener socket ...\nTerminating ...\n"),
        "{printed}"
    );
    assert!(ended(&mut sender).contains("Closing the TCP socket ...\nTerminating ...\n"));
}

#[test]
fn the_sender_sends_exactly_the_lectures_bytes_in_blocks_of_any_length() {
    for options in [&[][..], &["--block", "1000"], &["--block", "1048576"]] {
        let (listener, addr) = listener();
        let mut sender = sender(addr, options);
        let mut stream = accepted(&listener);
        let mut received = vec![0; BIG];
        stream.read_exact(&mut received).unwrap();
        assert!(received == big_message().as_bytes(), "{options:?}: other bytes");
        ended(&mut sender);
        assert_eq!(stream.read(&mut received).unwrap(), 0, "and nothing after them");
    }
}

#[test]
fn once_is_one_recv_and_cuts_what_does_not_fit() {
    let (mut receiver, addr) = receiver(&["--once", "--buffer", "5"]);
    let _sender = sender(addr, &["--message", "Hello World!"]);
    receiver.wait_for("Received block of 5 from ").unwrap();
    receiver.wait_for("Total length 5 bytes: [Hello]\n").unwrap();
    ended(&mut receiver);
}

#[test]
fn the_end_of_the_stream_without_terminator_ends_the_receiver_with_a_clear_line() {
    let (mut receiver, addr) = receiver(&[]);
    let mut sender = sender(addr, &["--message", "Hello world!", "--no-terminator"]);
    receiver.wait_for("Received block of 12 from ").unwrap(); // shown while the rest is waited for
    assert!(!receiver.printed().contains("Total length"), "it did not wait for the terminator");
    ended(&mut sender);
    receiver.wait_for("End of stream, and no terminator: the message may be cut\n").unwrap();
    receiver.wait_for("Total length 12 bytes: [Hello world!]\n").unwrap();
    ended(&mut receiver);
}

#[test]
fn until_end_goes_on_behind_a_terminator() {
    let (mut receiver, addr) = receiver(&["--until-end"]);
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.write_all(b"one\n").unwrap();
    receiver.wait_for("Received block of 4 from ").unwrap();
    stream.write_all(b"two\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    receiver.wait_for("End of stream\nTotal length 8 bytes: [one\\ntwo\\n]\n").unwrap();
    ended(&mut receiver);
}

#[test]
fn a_reset_is_an_error_and_what_came_before_it_is_shown() {
    let folder = TempDir::new();
    let errors = folder.path().join("errors");
    let mut command = Command::new(LAB);
    command.args(["receive", "127.0.0.1:0"]).stderr(fs::File::create(&errors).unwrap());
    let mut receiver = Role::spawn(&mut command).unwrap();
    let line = receiver.line_with("Socket is listening on ").unwrap();
    let mut stream = TcpStream::connect(line.split_whitespace().last().unwrap()).unwrap();
    let peer = stream.local_addr().unwrap();
    stream.write_all(b"half a mess").unwrap();
    receiver.wait_for("Received block of 11 from ").unwrap();
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream); // close(2) with SO_LINGER 0: a reset
    assert_eq!(receiver.wait_for_end().unwrap().code(), Some(1));
    let told = fs::read_to_string(&errors).unwrap();
    assert_eq!(told, format!("lab08: recv {peer}: ECONNRESET (104) Connection reset by peer\n"));
}

#[test]
fn a_message_without_end_is_given_up_at_64_mib() {
    let (mut receiver, addr) = receiver(&["--buffer", "1048576"]);
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    let block = vec![b'x'; 1 << 20];
    let end = (0..1000).find_map(|_| stream.write_all(&block).err());
    assert!(end.is_some(), "it took 1000 MiB");
    assert_eq!(receiver.wait_for_end().unwrap().code(), Some(1));
    assert!(bytes_in_blocks(&receiver.printed()) <= (65 << 20));
}

#[test]
fn a_sender_whose_peer_reads_a_part_and_resets_learns_no_number() {
    let (listener, addr) = listener();
    let sending = std::thread::spawn(move || {
        run(Command::new(LAB).args(["send", &addr.to_string(), "--times", "1000000", "--no-terminator"]))
    });
    let mut stream = accepted(&listener);
    stream.read_exact(&mut [0; 1024]).unwrap();
    drop(stream); // close(2) with bytes unread: a reset
    let Finished { status, stderr, .. } = sending.join().unwrap();
    assert_eq!(status.code(), Some(1));
    let call = format!("lab08: send {addr}: ");
    assert!(stderr.starts_with(&call) && stderr.contains("hint: how much had arrived is unknown"), "{stderr}");
    assert!(
        ["ECONNRESET (104) ", "EPIPE (32) "].iter().any(|errno| stderr[call.len()..].starts_with(errno)),
        "{stderr}"
    );
}

#[test]
fn a_message_that_is_too_long_or_has_no_memory_is_refused_in_words() {
    let text = "x".repeat(100_000);
    let (code, stderr) = failed(Command::new(LAB).args(["send", "--message", &text, "--times", "1000000"]));
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.starts_with("error: a message of more than 268435456 bytes: "), "{stderr}");
    let mut command = Command::new("bash");
    command.args(["-c", "ulimit -v 150000; exec \"$@\"", "bash", LAB, "send", "--message", &text, "--times", "2000"]);
    let (code, stderr) = failed(&mut command);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.starts_with("lab08: no memory for the message"), "{stderr}");
}

#[test]
fn a_demo_that_was_stopped_goes_on_where_it_was() {
    // It waits 250 ms in poll, for room in the send buffer. On a busy machine it may have ended before it is stopped.
    let stopped = (0..10).any(|_| {
        let mut demo = Role::spawn(Command::new(LAB).args(["demo", "no-reader"])).unwrap();
        demo.wait_for("EAGAIN (Resource temporarily unavailable)\n").unwrap();
        let stopped = stop_and_go_on(&demo);
        demo.wait_for("verdict   CONFIRMED").unwrap();
        ends_well(&mut demo);
        stopped
    });
    assert!(stopped, "it ended ten times before it was stopped");
}

#[test]
fn foreign_senders_reach_the_receiver() {
    for (tool, args) in [("nc", vec!["-N"]), ("ncat", vec![]), ("socat", vec!["-"])] {
        if skip_without(!have(tool), tool, "apt-get install netcat-openbsd ncat socat") {
            continue;
        }
        let (mut receiver, addr) = receiver(&[]);
        let mut command = Command::new(tool);
        command.args(args);
        match tool {
            "socat" => command.arg(format!("TCP4:{addr}")),
            _ => command.args(["127.0.0.1", &addr.port().to_string()]),
        };
        let mut peer = Role::spawn(&mut command).unwrap();
        peer.type_line("Hello world!").unwrap();
        receiver.wait_for("Total length 13 bytes: [Hello world!\\n]\n").unwrap();
        ended(&mut receiver);
    }
}

#[test]
fn foreign_receivers_get_the_big_message() {
    if skip_without(!have("python3"), "python3", "apt-get install python3") {
        return;
    }
    let python = "import socket\ns=socket.socket()\ns.bind(('127.0.0.1',0))\ns.listen(0)\nprint(s.getsockname()[1],flush=True)\nc,a=s.accept()\nm=b''\nwhile not m.endswith(b'\\n'):\n m+=c.recv(1024)\nprint(len(m),m==b'Hello world!'*7000+b'\\n',flush=True)";
    let mut foreign = Role::spawn(Command::new("python3").args(["-c", python])).unwrap();
    let port: u16 = foreign.wait_for("\n").unwrap().parse().unwrap();
    let mut sender = sender(SocketAddr::from(([127, 0, 0, 1], port)), &[]);
    foreign.wait_for("84001 True\n").unwrap();
    ended(&mut sender);
    if skip_without(!have("nc"), "nc", "apt-get install netcat-openbsd") {
        return;
    }
    // nc does not tell the port the kernel chose. One that was given back a moment ago is most likely free; if not, again.
    let folder = TempDir::new();
    let file = folder.path().join("received");
    wait_until("nc to get a port and the message", LIMIT, || {
        let (listener, addr) = listener();
        drop(listener);
        let out = fs::File::create(&file)?;
        let port = addr.port().to_string();
        let mut nc = Command::new("nc").args(["-l", "127.0.0.1", &port]).stdout(out).spawn()?;
        let sent = wait_until("nc to listen", Duration::from_secs(2), || {
            let held = kernel::tcp_sockets(addr.port())?;
            Ok(held.iter().any(|row| row.state == kernel::State::Listen).then_some(()))
        });
        if sent.is_ok() {
            let Finished { status, .. } = run(Command::new(LAB).args(["send", &addr.to_string()]));
            if status.success() {
                nc.wait()?;
                return Ok(Some(()));
            }
        }
        nc.kill()?;
        nc.wait()?;
        Ok(None)
    })
    .unwrap();
    assert!(fs::read(&file).unwrap() == big_message().as_bytes(), "nc got other bytes");
}

#[test]
fn a_sender_that_nobody_reads_waits_says_so_and_hears_ctrl_c() {
    let (listener, addr) = listener();
    // 120 MB: more than the kernel keeps for one connection.
    let mut sender = sender(addr, &["--message", &"x".repeat(120), "--times", "1000000"]);
    let stream = accepted(&listener);
    sender.wait_for("send took ").unwrap();
    signal(&sender, Signal::SIGINT);
    sender.wait_for("Interrupted: ").unwrap();
    let line = sender.wait_for(" bytes sent\n").unwrap();
    let (sent, all) = line.split_once(" of ").unwrap();
    assert!(sent.parse::<u64>().unwrap() < all.parse().unwrap(), "{line}");
    ends_well(&mut sender);
    drop(stream);
}

#[test]
fn ctrl_c_ends_the_receiver_in_accept_and_in_recv_and_keeps_what_came() {
    let (mut in_accept, _) = receiver(&[]);
    interrupt(&mut in_accept);
    let (mut in_recv, addr) = receiver(&[]);
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.write_all(b"half").unwrap();
    in_recv.wait_for("Received block of 4 from ").unwrap();
    signal(&in_recv, Signal::SIGTERM);
    in_recv.wait_for("Interrupted\nTotal length 4 bytes: [half]\n").unwrap();
    ends_well(&mut in_recv);
}

#[test]
fn pause_waits_before_each_call() {
    let mut receiver = Role::spawn(Command::new(LAB).args(["receive", "127.0.0.1:0", "--pause"])).unwrap();
    for call in ["socket(AF_INET, SOCK_STREAM, 0)", "setsockopt(", "bind(", "listen("] {
        receiver.wait_for(&format!("next: {call}")).unwrap();
        receiver.type_line("").unwrap();
    }
    let line = receiver.line_with("Socket is listening on ").unwrap();
    let addr: SocketAddr = line.split_whitespace().last().unwrap().parse().unwrap();
    let mut sender = sender(addr, &["--block", "60000", "--pause"]);
    for call in ["socket(AF_INET, SOCK_STREAM, 0)", "connect(", "send("] {
        sender.wait_for(&format!("next: {call}")).unwrap();
        sender.type_line("").unwrap();
    }
    sender.wait_for(", 24001)   [Enter]").unwrap();
    receiver.wait_for("next: accept(").unwrap();
    receiver.type_line("").unwrap();
    for _ in 0..3 {
        receiver.wait_for("next: recv(").unwrap();
        receiver.type_line("").unwrap();
    }
    assert!(!receiver.printed().contains("Total length"));
}

#[test]
fn errors_name_the_call_the_address_the_errno_and_a_command_that_helps() {
    testkit::assert_addresses_are_refused(LAB, "receive", "send");
    let failed = |args: &[&str]| failed(Command::new(LAB).args(args));
    for usage in [
        &["receive", "77777"][..],
        &["send", "127.0.0.1:65536"],
        &["send", "--block", "0"],
        &["receive", "--buffer", "0"],
        &["receive", "--once", "--until-end"],
    ] {
        assert_eq!(failed(usage).0, 2, "{usage:?}");
    }
}

#[test]
fn an_ordinary_account_can_do_everything_but_a_privileged_port() {
    testkit::assert_demo_needs_no_privileges(LAB);
    testkit::assert_privileged_port_is_refused(LAB, &["receive", "127.0.0.1:1"], "127.0.0.1:1");
}

#[test]
fn without_a_way_to_capture_the_header_experiment_says_what_it_needs() {
    let folder = TempDir::new();
    // No unshare in PATH, and an ordinary account may open no packet socket.
    let played = run(as_ordinary_account(LAB, &folder).args(["demo", "header"]).env("PATH", folder.path()));
    assert_eq!(played.code(), 0, "{played:?}");
    assert!(played.stdout.contains("verdict   SKIPPED    needs a private user and network namespace"), "{played:?}");
}

#[test]
fn the_queues_the_demo_prints_are_those_of_ss() {
    if skip_without(!have("ss"), "ss", "apt-get install iproute2") {
        return;
    }
    // As in the experiment delivered: the bytes are sent, and this test reads none of them.
    let (listener, addr) = listener();
    let mut sender = sender(addr, &[]);
    let stream = accepted(&listener);
    sender.wait_for("Sent message to ").unwrap();
    let port = addr.port();
    wait_until("ss and the kernel's table to agree", LIMIT, || {
        let shown = run(Command::new("ss").args(["-Htn", &format!("sport = :{port}")])).stdout;
        let row = kernel::tcp_sockets(port)?.into_iter().find(|row| row.pair.local == addr && row.recv_queue > 0);
        let fields: Vec<&str> = shown.split_whitespace().collect();
        Ok(row.filter(|row| fields.get(1) == Some(&row.recv_queue.to_string().as_str())).map(|_| ()))
    })
    .unwrap();
    drop(stream);
}
