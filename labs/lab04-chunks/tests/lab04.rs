//! Runs the real binary: the demo, the programs against each other and against foreign peers, and what goes wrong.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use nix::sys::signal::Signal;
use proptest::{collection::vec, prelude::*, test_runner::TestRunner};
use testkit::{
    Demo, Finished, Role, TempDir, ends_well, failed, have, interrupt, run, signal, skip_without, wait_until,
};

const LAB: &str = env!("CARGO_BIN_EXE_lab04-chunks");
const LIMIT: Duration = Duration::from_secs(10);
/// An interpreter has to be read from the disk before it runs; how long that takes on a busy machine is no claim here.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Long enough for a program that still has something to say; used only where silence is the claim.
const SILENCE: Duration = Duration::from_millis(400);

static DEMO: LazyLock<Demo> = LazyLock::new(|| Demo::play(LAB));

fn lecture_message() -> Vec<u8> {
    [b"Hello world!".repeat(7000), b"\n".to_vec()].concat()
}

/// The receiver on a port of the kernel's choice, ready.
fn receiver(options: &[&str]) -> (Role, SocketAddr) {
    let mut receiver = Role::spawn(Command::new(LAB).args(["receive", "0"]).args(options)).unwrap();
    let banner = receiver.line_with("Socket is bound to ").unwrap();
    receiver.wait_for("Waiting for message ...\n").unwrap();
    (receiver, banner.rsplit(' ').next().unwrap().parse().unwrap())
}

/// The relay on a port of the kernel's choice.
fn relay(to: SocketAddr, options: &[&str]) -> (Role, SocketAddr) {
    let mut relay = Role::spawn(Command::new(LAB).args(["relay", "0", "--to", &to.to_string()]).args(options)).unwrap();
    let banner = relay.line_with("Relay is bound to ").unwrap();
    (relay, banner.split([' ', ',']).nth(4).unwrap().parse().unwrap())
}

fn send(to: SocketAddr, args: &[&str]) -> Finished {
    let sent = run(Command::new(LAB).args(["send", "--port", "0", "--to", &to.to_string()]).args(args));
    assert_eq!(sent.code(), 0, "{sent:?}");
    sent
}

/// A foreign socket, bound; reading it has a deadline.
fn foreign() -> (UdpSocket, SocketAddr) {
    let sock = UdpSocket::bind("127.0.0.1:0").unwrap();
    sock.set_read_timeout(Some(LIMIT)).unwrap();
    let addr = sock.local_addr().unwrap();
    (sock, addr)
}

fn next(sock: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 2048];
    let bytes_read = sock.recv(&mut buffer).unwrap();
    buffer[..bytes_read].to_vec()
}

/// Sends blocks by hand, as any program may.
fn say(to: SocketAddr, blocks: &[&[u8]]) {
    let (sock, _) = foreign();
    blocks.iter().for_each(|block| assert_eq!(sock.send_to(block, to).unwrap(), block.len()));
}

#[test]
fn the_demo_decides_every_claim_as_recorded() {
    DEMO.assert_verdicts(&[
        ("two-senders", "ANSWERED"),
        ("one-lost", "CORRECTED"),
        ("small-buffer", "ANSWERED"),
        ("whole", "CONFIRMED"),
        ("early-newline", "CORRECTED"),
        ("three-ways", "ANSWERED"),
        ("mended", "CONFIRMED"),
        ("kernel-splits", "CORRECTED"),
    ]);
}

#[test]
fn what_the_kernel_drops_is_counted_for_the_socket_and_for_the_machine() {
    let printed = &DEMO.finished.stdout;
    let number = |before: &str, after: &str| -> u32 {
        let rest = printed.split(before).nth(1).unwrap_or_else(|| panic!("no {before}:\n{printed}"));
        rest.split(after).next().unwrap().parse().unwrap()
    };
    let dropped = number("/proc/net/udp, last column: ", " drops\n");
    assert!(dropped > 0 && number("counted   UdpRcvbufErrors +", "  (all") >= dropped, "{printed}");
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
    testkit::assert_common_rules(LAB, &["receive", "0"], "Waiting for message");
}

#[test]
fn the_sheet_quotes_a_real_run() {
    testkit::assert_sheet_quotes_a_run("lab04-chunks", &DEMO);
}

#[test]
fn the_lectures_message_goes_out_in_83_parts_and_arrives_whole() {
    let folder = TempDir::new();
    let out = folder.path().join("out");
    let (mut receiver, addr) = receiver(&["--out", out.to_str().unwrap()]);
    let sent = send(addr, &[]);
    let bound: SocketAddr =
        sent.stdout.lines().next().unwrap().strip_prefix("Socket is bound to ").unwrap().parse().unwrap();
    let shown = "[Hello world!Hello world! ... ello world!Hello world!\\n]\n";
    let lines = format!(
        "Sent 1024 bytes of 84001 ...\nSent 2048 bytes of 84001 ...\n...\nSent 84001 bytes of 84001 ...\n\
         Sent message to {addr} in 83 parts\nPayload length 84001 bytes: {shown}"
    );
    assert!(sent.stdout.ends_with(&lines), "{}", sent.stdout);
    // However many lines the equal blocks were folded into, they are 82 and one more.
    let blocks = receiver.wait_for(&format!("Total length 84001 bytes: {shown}")).unwrap();
    let last = format!("Received block of 33 from {bound}\n");
    assert!(
        blocks.ends_with(&last) && count(&blocks, &format!("Received block of 1024 from {bound}")) == 82,
        "{blocks}"
    );
    ends_well(&mut receiver);
    assert!(fs::read(&out).unwrap() == lecture_message());
}

/// How many lines like this one a role printed, folded ones counted as many times as they say.
fn count(printed: &str, line: &str) -> usize {
    let rest = printed.lines().filter_map(|printed| printed.strip_prefix(line));
    rest.map(|rest| rest.strip_prefix(" x").map_or(1, |times| times.parse().unwrap())).sum()
}

#[test]
fn each_part_is_a_datagram_of_its_own_with_exactly_these_bytes() {
    let (sock, addr) = foreign();
    send(addr, &[]);
    for block in lecture_message().chunks(1024) {
        assert!(next(&sock) == block);
    }
}

#[test]
fn files_and_standard_input_are_sent_and_get_a_newline_if_they_have_none() {
    let folder = TempDir::new();
    let file = folder.path().join("message");
    let (sock, addr) = foreign();
    for (text, expected) in [("racecar", "racecar\n"), ("racecar\n", "racecar\n"), ("", "\n"), ("a\nb", "a\nb\n")] {
        fs::write(&file, text).unwrap();
        send(addr, &[file.to_str().unwrap()]);
        assert_eq!(String::from_utf8(next(&sock)).unwrap(), expected);

        let piped = Command::new(LAB)
            .args(["send", "-", "--port", "0", "--to", &addr.to_string()])
            .stdin(fs::File::open(&file).unwrap())
            .output()
            .unwrap();
        assert!(piped.status.success(), "{piped:?}");
        assert_eq!(String::from_utf8(next(&sock)).unwrap(), expected);
    }
    // Typed lines: sent at the end of standard input, not before.
    let mut typed =
        Role::spawn(Command::new(LAB).args(["send", "-", "--port", "0", "--to", &addr.to_string()])).unwrap();
    typed.type_line("taco").unwrap();
    typed.type_line("cat").unwrap();
    typed.input = None;
    ends_well(&mut typed);
    assert_eq!(next(&sock), b"taco\ncat\n");
}

#[test]
fn a_relay_that_loses_a_middle_block_leaves_a_shorter_message_and_one_that_loses_the_last_leaves_it_waiting() {
    let folder = TempDir::new();
    let out = folder.path().join("out");
    for (lost, left) in [(1, 82_977), (41, 82_977), (83, 83_968)] {
        let (mut receiver, addr) = receiver(&["--out", out.to_str().unwrap()]);
        let (mut relay, relay_addr) = relay(addr, &["--lose", &lost.to_string()]);
        send(relay_addr, &[]);
        relay.wait_for(&format!("Datagram {lost}: lost\n")).unwrap();
        relay.wait_for("So far 83 datagrams came and 82 were sent on\n").unwrap();
        if lost == 83 {
            receiver.wait_for_within("Total length", SILENCE).unwrap_err();
            signal(&receiver, Signal::SIGINT);
            receiver.wait_for(&format!("Interrupted after {left} bytes: no newline at their end\n")).unwrap();
        } else {
            receiver.wait_for(&format!("Total length {left} bytes: ")).unwrap();
        }
        ends_well(&mut receiver);
        // Kept in the file, interrupted or not.
        let mut blocks: Vec<_> = lecture_message().chunks(1024).map(<[u8]>::to_vec).collect();
        blocks.remove(lost - 1);
        assert!(fs::read(&out).unwrap() == blocks.concat());
    }
}

#[test]
fn two_senders_mix_without_numbers_and_do_not_with_them() {
    let (mut plain, addr) = receiver(&["--messages", "2"]);
    let (a_sock, b_sock) = (foreign().0, foreign().0);
    for (sock, block) in [(&a_sock, "aaa"), (&b_sock, "bbb"), (&a_sock, "a\n"), (&b_sock, "b\n")] {
        sock.send_to(block.as_bytes(), addr).unwrap();
    }
    plain.wait_for("Total length 8 bytes: [aaabbba\\n]\n").unwrap();
    plain.wait_for("Total length 2 bytes: [b\\n]\n").unwrap();
    ends_well(&mut plain);

    let folder = TempDir::new();
    let out = folder.path().join("out");
    let (mut numbered, addr) = receiver(&["--numbered", "--messages", "2", "--out", out.to_str().unwrap()]);
    let file = |letter: &str| {
        let file = folder.path().join(letter);
        fs::write(&file, letter.repeat(5000)).unwrap();
        file.to_str().unwrap().to_string()
    };
    let mut senders = ["a", "b"].map(|letter| {
        let args = ["send", &file(letter), "--numbered", "--gap", "3", "--port", "0", "--to", &addr.to_string()];
        Role::spawn(Command::new(LAB).args(args)).unwrap()
    });
    senders.iter_mut().for_each(ends_well);
    ends_well(&mut numbered);
    let received = fs::read_to_string(&out).unwrap();
    assert!(["a", "b"].iter().all(|letter| received.contains(&letter.repeat(5000))), "{received}");
}

#[test]
fn numbered_blocks_survive_a_bad_relay_once_they_are_sent_often_enough() {
    let folder = TempDir::new();
    let (out, file) = (folder.path().join("out"), folder.path().join("file"));
    // Any bytes: a numbered message needs no newline.
    let message: Vec<u8> = (0..50_000u32).flat_map(|number| number.to_le_bytes()).take(70_001).collect();
    fs::write(&file, &message).unwrap();
    let (mut receiver, addr) = receiver(&["--numbered", "--out", out.to_str().unwrap()]);
    let (mut relay, relay_addr) =
        relay(addr, &["--seed", "3", "--drop", "10", "--duplicate", "10", "--reorder", "10", "--delay", "5"]);
    let args = [file.to_str().unwrap(), "--numbered", "--copies", "4", "--gap", "1"];
    let sent = send(relay_addr, &args);
    assert_eq!(sent.stdout.matches(" in 70 parts\n").count(), 4, "{}", sent.stdout);
    receiver.wait_for("Total length 70001 bytes: ").unwrap();
    ends_well(&mut receiver);
    assert!(fs::read(&out).unwrap() == message);
    for fate in ["lost", "sent on twice", "held back", "delayed"] {
        relay.wait_for(fate).unwrap();
    }
}

#[test]
fn the_same_seed_gives_the_same_losses_and_another_seed_others() {
    let fates = |seed: &str| {
        let (_sink, addr) = foreign();
        let rates = ["--drop", "20", "--duplicate", "20", "--reorder", "20", "--seed", seed];
        let (mut relay, relay_addr) = relay(addr, &rates);
        send(relay_addr, &[]);
        relay.wait_for("So far 83 datagrams came and ").unwrap()
    };
    assert_eq!(fates("7"), fates("7"));
    assert_ne!(fates("7"), fates("8"));
}

#[test]
fn the_relay_passes_holds_doubles_and_releases_the_last_one_after_a_silence() {
    let (sock, addr) = foreign();
    let (_passes, relay_addr) = relay(addr, &[]);
    say(relay_addr, &[b"one", b"", &[b'x'; 60_000]]);
    let mut buffer = vec![0; 65_536];
    for length in [3, 0, 60_000] {
        assert_eq!(sock.recv(&mut buffer).unwrap(), length);
    }
    let (_holds, relay_addr) = relay(addr, &["--reorder", "100"]);
    say(relay_addr, &[b"one", b"two", b"three"]);
    assert_eq!([next(&sock), next(&sock), next(&sock)], [&b"two"[..], b"one", b"three"]);
    let (_doubles, relay_addr) = relay(addr, &["--duplicate", "100"]);
    say(relay_addr, &[b"one", b"two"]);
    assert_eq!([next(&sock), next(&sock), next(&sock), next(&sock)], [b"one", b"one", b"two", b"two"]);
    let (_delays, relay_addr) = relay(addr, &["--delay", "100", "--delay-ms", "5"]);
    say(relay_addr, &[b"one", b"two"]);
    assert_eq!([next(&sock), next(&sock)], [b"one", b"two"]);
}

#[test]
fn a_small_receive_buffer_loses_silently_and_the_receiver_tells_the_kernels_number() {
    // It pauses before its first recvfrom, so that the datagrams must wait.
    let args = ["receive", "0", "--rcvbuf", "20000", "--pause"];
    let mut receiver = Role::spawn(Command::new(LAB).args(args)).unwrap();
    for _ in 0..3 {
        receiver.wait_for("[Enter]").unwrap();
        receiver.type_line("").unwrap();
    }
    let banner = receiver.line_with("Socket is bound to ").unwrap();
    let addr: SocketAddr = banner.rsplit(' ').next().unwrap().parse().unwrap();
    receiver.wait_for("next: recvfrom(").unwrap();
    let sent = send(addr, &[]);
    assert!(sent.stdout.contains(" in 83 parts\n"), "the sender learns nothing: {}", sent.stdout);
    let drops = if have("ss") { drops_by_ss(addr.port()) } else { None };

    receiver.input = None; // no further pauses
    wait_until("all that fitted was read", LIMIT, || {
        let unread = kernel::udp_sockets(addr.port())?.iter().map(|row| row.recv_queue).sum::<u32>();
        Ok((unread == 0).then_some(()))
    })
    .unwrap();
    interrupt(&mut receiver);
    let line = receiver.line_with("The kernel dropped ").unwrap();
    let told: usize = line.split(' ').nth(3).unwrap().parse().unwrap();
    let printed = receiver.printed();
    let blocks = printed.lines().filter(|line| line.starts_with("Received block of "));
    let times = |line: &str| line.rsplit_once(" x").map_or(1, |(_, times)| times.parse().unwrap());
    let read: usize = blocks.map(times).sum();
    assert!(told > 0 && told + read == 83, "{told} dropped, {read} read");
    if !skip_without(drops.is_none(), "ss with -m", "apt-get install iproute2") {
        assert_eq!(drops, Some(told), "ss and /proc/net/udp");
    }
}

fn asleep(role: &Role) -> bool {
    fs::read_to_string(format!("/proc/{}/stat", role.pid())).unwrap().contains(") S ")
}

/// The d of `skmem:(r0,rb40000,...,d63)`.
fn drops_by_ss(port: u16) -> Option<usize> {
    let shown = run(Command::new("ss").args(["-uamn", &format!("sport = :{port}")]));
    let memory = shown.stdout.split("skmem:(").nth(1)?.split(')').next()?.to_string();
    memory.rsplit(",d").next()?.parse().ok()
}

#[test]
fn the_sender_says_the_same_whether_or_not_anybody_listens() {
    let (sock, addr) = foreign();
    let heard = send(addr, &[]).stdout;
    drop(sock);
    let unheard = send(addr, &[]).stdout;
    let from = |text: &str| text.split_once('\n').unwrap().1.to_string(); // but for its own port
    assert_eq!(from(&heard), from(&unheard));
}

#[test]
fn numbered_names_what_is_missing_ignores_what_is_no_block_and_still_gets_the_rest() {
    let (mut receiver, addr) = receiver(&["--numbered"]);
    let (sock, tap) = foreign();
    let folder = TempDir::new();
    let file = folder.path().join("file");
    fs::write(&file, "x".repeat(4000)).unwrap();
    send(tap, &["--numbered", file.to_str().unwrap()]);
    let blocks: Vec<Vec<u8>> = (0..4).map(|_| next(&sock)).collect();
    say(addr, &[b"hello", &blocks[3], &blocks[0], &blocks[0], &blocks[0][..1000]]);
    receiver.wait_for("Ignored 5 bytes from ").unwrap();
    receiver.wait_for(": no numbered block\n").unwrap();
    receiver.wait_for(": its length does not fit its place in the message\n").unwrap();
    sock.send_to(&blocks[3], addr).unwrap(); // from another source: another message
    receiver.wait_for(": missing 2 of 4\n  blocks 2-3\n").unwrap();
    receiver.wait_for(": missing 3 of 4\n  blocks 1-3\n").unwrap();
    for at in [0, 2, 1] {
        sock.send_to(&blocks[at], addr).unwrap();
    }
    receiver.wait_for("Total length 4000 bytes: [xxxx").unwrap();
    receiver.wait_for("Of 4 blocks 3 came late, 0 more than once\n").unwrap();
    ends_well(&mut receiver);
}

#[test]
fn a_block_that_comes_many_times_counts_once() {
    let (mut receiver, addr) = receiver(&["--numbered"]);
    let (sock, tap) = foreign();
    let folder = TempDir::new();
    let file = folder.path().join("file");
    fs::write(&file, "x".repeat(3000)).unwrap();
    send(tap, &["--numbered", file.to_str().unwrap()]);
    let blocks: Vec<Vec<u8>> = (0..3).map(|_| next(&sock)).collect();
    say(addr, &[&blocks[0], &blocks[0], &blocks[0], &blocks[1], &blocks[0], &blocks[1], &blocks[2]]);
    receiver.wait_for("Of 3 blocks 0 came late, 2 more than once\n").unwrap();
    ends_well(&mut receiver);
}

#[test]
fn random_datagrams_leave_both_receivers_as_they_were() {
    for options in [&["--numbered"][..], &[]] {
        let (mut receiver, addr) = receiver(options);
        let (sock, _) = foreign();
        let config = ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() };
        let magic = any::<bool>();
        let outcome = TestRunner::new(config).run(&(magic, vec(any::<u8>(), 0..1500)), |(magic, mut bytes)| {
            if magic && bytes.len() >= 16 {
                bytes[..4].copy_from_slice(b"NBLK");
                bytes[8..14].copy_from_slice(&[0, 0, 0, 1, 0, 0]); // the first block of a short message: some fit
            }
            if options.is_empty() && bytes.len().min(1024) > 0 {
                let last = bytes.len().min(1024) - 1;
                bytes[last] = b'x'; // no newline: it goes on
            }
            sock.send_to(&bytes, addr)?;
            Ok(())
        });
        outcome.unwrap();
        wait_until("all of it read", LIMIT, || {
            Ok((kernel::udp_sockets(addr.port())?.iter().all(|row| row.recv_queue == 0)).then_some(()))
        })
        .unwrap();
        signal(&receiver, Signal::SIGTERM);
        ends_well(&mut receiver);
        assert!(receiver.printed().contains("Received block of "), "{}", receiver.printed());
    }
}

#[test]
fn foreign_senders_are_heard() {
    let python = "import socket,sys\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\nm=b'Hello world!'*7000+b'\\n'\nprint('up',flush=True)\nfor i in range(0,len(m),1024): s.sendto(m[i:i+1024],('127.0.0.1',int(sys.argv[1])))";
    for (tool, args) in
        [("nc", vec!["-u", "-w1", "127.0.0.1"]), ("socat", vec!["-u", "-"]), ("python3", vec!["-c", python])]
    {
        if skip_without(!have(tool), tool, "apt-get install netcat-openbsd socat python3") {
            continue;
        }
        let (mut receiver, addr) = receiver(&[]);
        let mut command = Command::new(tool);
        command.args(args);
        if tool == "socat" {
            command.arg(format!("UDP4-SENDTO:{addr}"));
        } else {
            command.arg(addr.port().to_string());
        }
        let mut peer = Role::spawn(&mut command).unwrap();
        if tool == "python3" {
            peer.wait_for_within("up\n", START_LIMIT).unwrap();
            receiver.wait_for("Total length 84001 bytes: [Hello world!").unwrap();
        } else {
            peer.type_line("racecar").unwrap();
            receiver.wait_for("Total length 8 bytes: [racecar\\n]\n").unwrap();
        }
        ends_well(&mut receiver);
        peer.input = None;
        peer.wait_for_end().unwrap();
    }
}

#[test]
fn foreign_receivers_hear() {
    // The lecture's receiver in today's Python.
    let python = "import socket\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\ns.bind(('127.0.0.1',0))\nprint(s.getsockname()[1],flush=True)\nm=b''\nn=0\nwhile not m.endswith(b'\\n'):\n  m+=s.recvfrom(1024)[0]; n+=1\nassert m==b'Hello world!'*7000+b'\\n'\nprint('Total length %d bytes in %d' % (len(m),n))";
    if !skip_without(!have("python3"), "python3", "apt-get install python3") {
        let mut peer = Role::spawn(Command::new("python3").args(["-c", python])).unwrap();
        let port: u16 = peer.wait_for_within("\n", START_LIMIT).unwrap().parse().unwrap();
        send(SocketAddr::from(([127, 0, 0, 1], port)), &[]);
        peer.wait_for("Total length 84001 bytes in 83\n").unwrap();
        ends_well(&mut peer);
    }
    for tool in ["nc", "socat"] {
        if skip_without(!have(tool), tool, "apt-get install netcat-openbsd socat") {
            continue;
        }
        // Neither says which port the kernel chose: take one that is free, and another if it was taken meanwhile.
        let mut tries = 0;
        let (mut peer, addr) = loop {
            let addr = foreign().1;
            let port = addr.port().to_string();
            let mut peer = match tool {
                "nc" => Role::spawn(Command::new("nc").args(["-u", "-l", "127.0.0.1", &port]).stderr(Stdio::null())),
                _ => Role::spawn(
                    Command::new("socat")
                        .args(["-u", &format!("UDP4-RECV:{port},bind=127.0.0.1"), "-"])
                        .stderr(Stdio::null()),
                ),
            }
            .unwrap();
            let bound = wait_until("the foreign receiver bound", Duration::from_secs(2), || {
                Ok((!kernel::udp_sockets(addr.port())?.is_empty()).then_some(()))
            });
            tries += 1;
            match bound {
                Ok(()) => break (peer, addr),
                Err(error) => assert!(tries < 5, "{tool}: {error} {}", peer.printed()),
            }
        };
        let folder = TempDir::new();
        let file = folder.path().join("file");
        fs::write(&file, "racecar\ntaco cat").unwrap();
        send(addr, &[file.to_str().unwrap()]);
        peer.wait_for("racecar\ntaco cat\n").unwrap();
    }
}

#[test]
fn ipv6_works_the_same() {
    let (mut receiver, addr) = receiver(&["--bind", "::1"]);
    send(addr, &["--bind", "::1"]);
    receiver.wait_for("Received block of 1024 from [::1]:").unwrap();
    receiver.wait_for("Total length 84001 bytes: ").unwrap();
    ends_well(&mut receiver);
}

#[test]
fn ctrl_c_ends_each_role_in_good_order() {
    let (_sink, addr) = foreign();
    let to = addr.to_string();
    let folder = TempDir::new();
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let pipe = pipe.to_str().unwrap();
    for (args, ready, last) in [
        (&["receive", "0", "--numbered"][..], "Waiting for message", ""),
        (&["relay", "0", "--to", &to], "Relay is bound to ", ""),
        (
            &["send", "--port", "0", "--gap", "60000", "--to", &to],
            "Sent 1024 bytes of 84001",
            "Interrupted after 1024 bytes of 84001\n",
        ),
        (&["send", "--pause", "--to", &to], "next: socket(AF_INET, SOCK_DGRAM, 0)", ""),
        (&["receive", "0", "--pause"], "next: socket(AF_INET, SOCK_DGRAM, 0)", ""),
    ] {
        let mut role = Role::spawn(Command::new(LAB).args(args)).unwrap();
        role.wait_for(ready).unwrap();
        signal(&role, Signal::SIGINT);
        if !last.is_empty() {
            role.wait_for(last).unwrap();
        }
        ends_well(&mut role);
    }
    // While it waits for what to send: standard input, and a named pipe nobody writes to.
    for file in ["-", pipe] {
        let mut role = Role::spawn(Command::new(LAB).args(["send", file, "--port", "0", "--to", &to])).unwrap();
        wait_until("the sender waits for input", LIMIT, || Ok((asleep(&role) && signals_blocked(&role)).then_some(())))
            .unwrap();
        interrupt(&mut role);
        assert_eq!(role.printed(), "", "nothing was sent");
    }
}

/// Whether the role has come so far that it takes SIGINT from a descriptor: bit 1 of SigBlk in proc_pid_status(5).
fn signals_blocked(role: &Role) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", role.pid())).unwrap();
    let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap().trim();
    u64::from_str_radix(blocked, 16).unwrap() & 2 != 0
}

#[test]
fn pause_waits_before_each_call() {
    let (sock, addr) = foreign();
    let args = ["send", "--pause", "--port", "0", "--to", &addr.to_string()];
    let mut sender = Role::spawn(Command::new(LAB).args(args)).unwrap();
    for call in ["socket(AF_INET, SOCK_DGRAM, 0)", "bind("] {
        sender.wait_for(&format!("next: {call}")).unwrap();
        assert!(!sender.printed().contains("is bound"), "it did not wait before {call}");
        sender.type_line("").unwrap();
    }
    for sent in [1024, 2048, 3072] {
        sender.wait_for("next: sendto(").unwrap();
        assert!(!sender.printed().contains(&format!("Sent {sent} bytes")), "it did not wait before sendto");
        sender.type_line("").unwrap();
        assert_eq!(next(&sock).len(), 1024);
        sender.wait_for(&format!("Sent {sent} bytes of 84001 ...\n")).unwrap();
    }
    sender.input = None;
    ends_well(&mut sender);

    let mut receiver = Role::spawn(Command::new(LAB).args(["receive", "0", "--pause"])).unwrap();
    for call in ["socket(AF_INET, SOCK_DGRAM, 0)", "bind(", "recvfrom("] {
        receiver.wait_for(&format!("next: {call}")).unwrap();
        receiver.type_line("").unwrap();
    }
    let printed = receiver.printed();
    let addr = printed.lines().find_map(|line| line.strip_prefix("Socket is bound to ")).unwrap().parse().unwrap();
    say(addr, &[b"one", b"two\n"]);
    receiver.wait_for("Received block of 3 ").unwrap();
    receiver.wait_for("next: recvfrom(").unwrap();
    receiver.type_line("").unwrap();
    receiver.wait_for("Total length 7 bytes: [onetwo\\n]\n").unwrap();
    ends_well(&mut receiver);
}

#[test]
fn a_closed_pipe_ends_a_role_quietly() {
    let (_sink, addr) = foreign();
    let command = format!("\"$0\" send --port 0 --to {addr} 2>&1 | head -1; echo \"${{PIPESTATUS[0]}}\"");
    let closed = run(Command::new("bash").args(["-c", &command, LAB]));
    let lines: Vec<_> = closed.stdout.lines().collect();
    // It may have written all before the reader went.
    assert!(lines.len() == 2 && ["0", "141"].contains(&lines[1]), "{closed:?}");
}

#[test]
fn errors_name_the_call_the_address_the_errno_and_a_command_that_helps() {
    let failed = |args: &[&str]| failed(Command::new(LAB).args(args));
    let (_taken, addr) = foreign();
    let port = addr.port().to_string();
    let expected = format!(
        "lab04: bind {addr}: EADDRINUSE (98) Address already in use\n  hint: see what has the port, TIME-WAIT too: scripts/states.sh {port}\n"
    );
    for args in
        [&["receive", &port][..], &["receive", &port, "--numbered"], &["relay", &port], &["send", "--port", &port]]
    {
        assert_eq!(failed(args), (1, expected.clone()), "{args:?}");
    }
    let (code, stderr) = failed(&["receive", "--bind", "192.0.2.1"]);
    assert_eq!(code, 1);
    assert!(stderr.starts_with("lab04: bind 192.0.2.1:7778: EADDRNOTAVAIL (99) "), "{stderr}");
    let (code, stderr) = failed(&["send", "no-such-file"]);
    assert_eq!((code, stderr.as_str()), (1, "lab04: open no-such-file: ENOENT (2) No such file or directory\n"));
    let (code, stderr) = failed(&["send", "/dev/zero"]);
    assert_eq!((code, stderr.as_str()), (1, "lab04: /dev/zero: longer than 16777215 bytes\n"));
    let (code, stderr) = failed(&["send", "/"]);
    assert_eq!((code, stderr.as_str()), (1, "lab04: read /: EISDIR (21) Is a directory\n"));
    let (_, stderr) = failed(&["send", "--to", "[::1]:7778", "--bind", "127.0.0.1"]);
    assert!(stderr.starts_with("error: this address and --to: one is IPv4, the other IPv6\n"), "{stderr}");
    for usage in [
        &["receive", "65536"][..],
        &["send", "--to", "here"],
        &["send", "--to", "127.0.0.1:0"],
        &["send", "--to", "::1", "--bind", "127.0.0.1"],
        &["send", "--port", "1", "--bind", "127.0.0.1:2"],
        &["relay", "127.0.0.1", "--to", "::1"],
        &["relay", "--to", "0"],
        &["receive", "--bind", "here"],
        &["relay", "--drop", "101"],
        &["relay", "--drop", "60", "--delay", "41"],
        &["relay", "--lose", "x"],
        &["post"],
    ] {
        assert_eq!(failed(usage).0, 2, "{usage:?}");
    }
}

#[test]
fn a_relay_to_itself_is_refused_by_whatever_name() {
    for (bind, to) in [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "0.0.0.0"),
        ("0.0.0.0", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.2"),
        ("[::1]", "[::]"),
        ("[::]", "[::ffff:127.0.0.1]"),
    ] {
        if skip_without(bind.contains(':') && !have_ipv6(), "IPv6", "sysctl -w net.ipv6.conf.all.disable_ipv6=0") {
            continue;
        }
        // The port may be taken by somebody else between the two lines; then bind says so.
        let port = foreign().1.port();
        let refused =
            run(Command::new(LAB).args(["relay", &format!("{bind}:{port}"), "--to", &format!("{to}:{port}")]));
        assert_eq!(refused.code(), 1, "{refused:?}");
        let said = ["that is the relay itself", "EADDRINUSE"].iter().any(|text| refused.stderr.contains(text));
        assert!(said, "{bind} {to}: {refused:?}");
    }
}

#[test]
fn two_relays_that_send_on_to_each_other_do_not_spin() {
    let (sock, addr) = foreign();
    let (mut first, first_addr) = relay(addr, &[]);
    drop(sock); // its port is free for the second relay
    let args = ["relay", &addr.to_string(), "--to", &first_addr.to_string()];
    let mut second = Role::spawn(Command::new(LAB).args(args)).unwrap();
    second.wait_for("Relay is bound to ").unwrap();
    say(first_addr, &[b"hello"]);
    second.wait_for(&format!("Ignored 5 bytes from {first_addr}: the relay works in one direction\n")).unwrap();
    first.wait_for("So far 1 datagrams came and 1 were sent on\n").unwrap();
    interrupt(&mut first);
    interrupt(&mut second);
    assert!(!second.printed().contains("So far"), "{}", second.printed());
}

#[test]
fn the_relay_cuts_nothing_over_ipv6_either() {
    if skip_without(!have_ipv6(), "IPv6", "sysctl -w net.ipv6.conf.all.disable_ipv6=0") {
        return;
    }
    let sock = UdpSocket::bind("[::1]:0").unwrap();
    sock.set_read_timeout(Some(LIMIT)).unwrap();
    let (_relay, relay_addr) = relay(sock.local_addr().unwrap(), &[]); // bound to ::1, as its destination
    let longest = vec![b'x'; 65_527];
    UdpSocket::bind("[::1]:0").unwrap().send_to(&longest, relay_addr).unwrap();
    let mut buffer = vec![0; 65_536];
    assert_eq!(sock.recv(&mut buffer).unwrap(), longest.len());
}

fn have_ipv6() -> bool {
    UdpSocket::bind("[::1]:0").is_ok()
}

#[test]
fn an_address_may_be_a_port_a_host_or_both_and_bind_stays_beside_it() {
    for (args, bound) in [
        (&["receive", "127.0.0.2:0"][..], "127.0.0.2:"),
        (&["receive", "0", "--bind", "127.0.0.2"], "127.0.0.2:"),
        (&["receive", "--bind", "127.0.0.2:0"], "127.0.0.2:"),
        (&["relay", "127.0.0.2:0"], "127.0.0.2:"),
        (&["relay", "0", "--bind", "127.0.0.2", "--to", "127.0.0.2"], "127.0.0.2:"),
        (&["relay", "0", "--to", "7778"], "127.0.0.1:"),
    ] {
        let mut role = Role::spawn(Command::new(LAB).args(args)).unwrap();
        let banner = role.line_with("bound to ").unwrap();
        assert!(banner.contains(&format!("bound to {bound}")), "{args:?}: {banner}");
        interrupt(&mut role);
    }
}

#[test]
fn eight_stray_messages_end_a_long_one_and_the_receiver_says_so() {
    let (mut receiver, addr) = receiver(&["--numbered"]);
    let (sock, tap) = foreign();
    let from = sock.local_addr().unwrap();
    send(tap, &["--numbered"]);
    let blocks: Vec<Vec<u8>> = (0..84).map(|_| next(&sock)).collect();
    blocks[..30].iter().for_each(|block| assert_eq!(sock.send_to(block, addr).unwrap(), block.len()));
    let number = u32::from_be_bytes(blocks[0][4..8].try_into().unwrap());
    for stray in 1..=8 {
        let mut block = blocks[0].clone();
        block[4..8].copy_from_slice(&number.wrapping_add(stray).to_be_bytes());
        sock.send_to(&block, addr).unwrap();
    }
    receiver.wait_for(&format!("Given up: message {number} of {from}, with 30 of 84 blocks\n")).unwrap();
    interrupt(&mut receiver);
}

#[test]
fn a_block_of_another_total_length_is_ignored_aloud() {
    let (mut receiver, addr) = receiver(&["--numbered"]);
    let (sock, tap) = foreign();
    send(tap, &["--numbered"]);
    let blocks: Vec<Vec<u8>> = (0..84).map(|_| next(&sock)).collect();
    let mut other = blocks[1].clone();
    other[15] += 1;
    for block in [&blocks[0], &other] {
        sock.send_to(block, addr).unwrap();
    }
    receiver.wait_for("Ignored it: other blocks of message ").unwrap();
    receiver.wait_for(" give another length\n").unwrap();
    receiver.wait_for(": missing 83 of 84\n  blocks 2-84\n").unwrap();
    interrupt(&mut receiver);
}

#[test]
fn out_may_be_a_named_pipe_and_ctrl_c_is_heard_while_nobody_reads_it() {
    let folder = TempDir::new();
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let path = pipe.to_str().unwrap();
    for options in [&["--numbered"][..], &[]] {
        let args = [&["receive", "0", "--out", path], options].concat();
        let mut role = Role::spawn(Command::new(LAB).args(&args)).unwrap();
        wait_until("the receiver waits for a reader", LIMIT, || {
            Ok((asleep(&role) && signals_blocked(&role)).then_some(()))
        })
        .unwrap();
        interrupt(&mut role);
        assert_eq!(role.printed(), "", "nothing was bound");
    }
    // With a reader it holds what was received.
    let reader = Role::spawn(Command::new("cat").arg(&pipe));
    let (mut receiver, addr) = receiver(&["--out", path]);
    say(addr, &[b"racecar\n"]);
    ends_well(&mut receiver);
    reader.unwrap().wait_for("racecar\n").unwrap();
}

#[test]
fn a_message_that_never_ends_is_given_up_at_its_limit() {
    let folder = TempDir::new();
    let out = folder.path().join("out");
    let mut child = Command::new(LAB)
        .args(["receive", "0", "--out", out.to_str().unwrap()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let banner = lines.next().unwrap().unwrap();
    let addr: SocketAddr = banner.rsplit(' ').next().unwrap().parse().unwrap();
    let received = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&received);
    let reader = std::thread::spawn(move || {
        for _ in lines {
            counted.fetch_add(1, Relaxed);
        }
    });
    let (sock, _) = foreign();
    // Some of these are lost, so more are sent than 16 MiB need. Whoever still receives is not stuck, only slow.
    let (mut blocks, mut ended) = (0, Ok(None));
    while matches!(ended, Ok(None)) && blocks <= 2 * 16 * 1024 {
        ended = wait_until("the receiver gives up, or one block more", LIMIT, || {
            for _ in 0..64 {
                sock.send_to(&[b'x'; 1024], addr)?;
            }
            let before = std::mem::replace(&mut blocks, received.load(Relaxed));
            let ended = child.try_wait()?;
            Ok((ended.is_some() || blocks > before).then_some(ended))
        });
    }
    if !matches!(ended, Ok(Some(_))) {
        child.kill().unwrap();
    }
    let output = child.wait_with_output().unwrap();
    reader.join().unwrap();
    assert_eq!(ended.unwrap().and_then(|status| status.code()), Some(1), "after {blocks} blocks");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr, "lab04: no newline at the end of a block in 16777216 bytes: given up\n");
    assert_eq!(fs::metadata(&out).unwrap().len(), 16_777_216 + 1024, "what was received is kept");
}

#[test]
fn a_privileged_port_is_refused_to_an_ordinary_account() {
    for role in [&["receive", "1"][..], &["send", "--port", "1"], &["relay", "1"]] {
        testkit::assert_privileged_port_is_refused(LAB, role, "127.0.0.1:1");
    }
}

#[test]
fn the_demo_needs_no_privileges() {
    testkit::assert_demo_needs_no_privileges(LAB);
}

#[test]
fn the_header_is_documented_as_it_is_on_the_wire() {
    let (sock, addr) = foreign();
    send(addr, &["--numbered"]);
    let first = next(&sock);
    assert_eq!(
        (first.len(), &first[..4], &first[8..12], &first[12..16]),
        (1024, &b"NBLK"[..], &[0, 0, 0, 1][..], &[0, 1, 0x48, 0x21][..])
    );
    assert_eq!(&first[16..28], b"Hello world!");
    let main = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/numbered.rs")).unwrap();
    assert!(main.contains("//!  0- 3   \"NBLK\""));
}
