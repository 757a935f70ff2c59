//! Runs the real binary: the demo on both brokers, the programs against each other and against foreign ones, and what goes
//! wrong.
#![allow(clippy::unwrap_used)]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    sync::LazyLock,
    time::Duration,
};

use nix::sys::signal::Signal;
use testkit::{
    Demo, Role, descriptors, ends_well, failed, have, interrupt, nobody, root, run, signal, skip_without, step,
    wait_until,
};

const LAB: &str = env!("CARGO_BIN_EXE_lab27-pubsub");
const LIMIT: Duration = Duration::from_secs(10);
static DEMO: LazyLock<Demo> = LazyLock::new(|| Demo::play(LAB));
const VERDICTS: [(&str, &str); 8] = [
    ("off-line", "CORRECTED"),
    ("pending", "CONFIRMED"),
    ("worker-killed", "ANSWERED"),
    ("cut", "ANSWERED"),
    ("broker-killed", "CORRECTED"),
    ("dial-out", "CONFIRMED"),
    ("slow-subscriber", "ANSWERED"),
    ("dead-sender", "CORRECTED"),
];

/// MQTT 3.1.1 by hand: a client of 20 lines that knows nothing of rumqttc.
const PYTHON_CLIENT: &str = "
import socket, sys
s = socket.create_connection(('127.0.0.1', int(sys.argv[1])), 10)
def text(value):
    return len(value).to_bytes(2, 'big') + value
def packet(first, rest):
    assert len(rest) < 128
    s.sendall(bytes([first, len(rest)]) + rest)
def answer():
    head = s.recv(2, socket.MSG_WAITALL)
    return head[0], s.recv(head[1], socket.MSG_WAITALL) if head[1] else b''
packet(0x10, text(b'MQTT') + b'\\x04\\x02\\x00\\x3c' + text(b'python'))
assert answer() == (0x20, b'\\x00\\x00')
packet(0x82, b'\\x00\\x01' + text(b'letters') + b'\\x00')
assert answer() == (0x90, b'\\x00\\x01\\x00')
packet(0x32, text(b'letters') + b'\\x00\\x02' + b'from python')
seen = sorted([answer(), answer()])
assert seen == [(0x30, text(b'letters') + b'from python'), (0x40, b'\\x00\\x02')], seen
print('MQTT', flush=True)
print(answer(), flush=True)
";

/// A broker on a port of the kernel's choice.
fn broker() -> (Role, SocketAddr) {
    let mut broker = Role::spawn(Command::new(LAB).args(["broker", "0"])).unwrap();
    let line = broker.line_with("is the broker at ").unwrap();
    let addr = line.rsplit(' ').next().unwrap().trim().parse().unwrap();
    (broker, addr)
}

/// One of the programs, at this broker.
fn program(addr: SocketAddr, args: &[&str]) -> Command {
    let mut command = Command::new(LAB);
    command.args(args).args(["--broker", &addr.to_string()]);
    command
}

fn started(addr: SocketAddr, args: &[&str], ready: &str) -> Role {
    let mut role = Role::spawn(&mut program(addr, args)).unwrap();
    role.wait_for(ready).unwrap();
    role
}

fn publish(addr: SocketAddr, args: &[&str]) {
    let finished = run(&mut program(addr, &[&["publish"], args].concat()));
    assert!(finished.code() == 0 && finished.stderr.is_empty(), "{finished:?}");
}

#[test]
fn the_demo_decides_every_claim_as_recorded() {
    DEMO.assert_verdicts(&VERDICTS);
}

#[test]
fn mosquitto_decides_every_claim_as_the_embedded_broker_does() {
    if skip_without(!Path::new("/usr/sbin/mosquitto").exists(), "mosquitto", "apt-get install mosquitto") {
        return;
    }
    let finished = run(Command::new(LAB).env("LAB27_BROKER", "mosquitto"));
    assert_eq!(finished.code(), 0, "{finished:?}");
    let board: Vec<&str> = finished.stdout.lines().skip_while(|line| *line != "scoreboard").collect();
    for (id, verdict) in VERDICTS {
        let seen =
            |line: &&str| line.contains(&format!(" {id} ")) && line.contains(verdict) || line.contains("SKIPPED");
        assert!(board.iter().any(seen), "{id}: {}", finished.stdout);
    }
    assert_eq!(finished.stdout.matches("mosquitto, process ").count(), 6, "{}", finished.stdout);
}

#[test]
fn the_printed_calls_are_those_strace_saw() {
    testkit::assert_printed_calls_are_real_with(LAB, "on-hosts");
}

#[test]
fn ctrl_z_and_fg_change_no_verdict() {
    testkit::assert_stops_change_no_verdict(LAB);
}

#[test]
fn the_command_line_keeps_the_rules_of_all_labs() {
    testkit::assert_common_rules(LAB, &["broker", "0"], "is the broker at ");
}

#[test]
fn the_sheet_quotes_a_real_run() {
    testkit::assert_sheet_quotes_a_run("lab27-pubsub", &DEMO);
}

#[test]
fn an_ordinary_account_can_do_everything_but_a_privileged_port() {
    testkit::assert_demo_needs_no_privileges(LAB);
    testkit::assert_privileged_port_is_refused(LAB, &["broker", "1"], "127.0.0.1:1");
}

#[test]
fn addresses_are_refused_with_the_call_and_a_hint() {
    testkit::assert_addresses_are_refused(LAB, "broker", "board");
}

#[test]
fn patterns_choose_the_topics_and_control_characters_are_escaped() {
    let (mut broker, addr) = broker();
    let mut some = started(addr, &["subscribe", "home/+/light", "board/#"], "Ctrl-C ends\n");
    for qos in ["0", "1", "2"] {
        publish(addr, &["home/kitchen/light", "on", "--qos", qos]);
        assert_eq!(some.line_with("home/").unwrap(), "home/kitchen/light  on");
    }
    publish(addr, &["home/kitchen/heat", "21"]);
    publish(addr, &["board/a/b", "t\u{f5}de\u{1b}[2J"]);
    assert_eq!(some.wait_for("\n").unwrap(), "board/a/b  t\u{f5}de\\u{1b}[2J");
    interrupt(&mut some);
    interrupt(&mut broker);
}

#[test]
fn each_line_of_standard_input_is_a_message() {
    let (_broker, addr) = broker();
    let mut all = started(addr, &["subscribe", "#"], "Ctrl-C ends\n");
    let mut typing = Role::spawn(&mut program(addr, &["publish", "letters", "-"])).unwrap();
    typing.type_line("one").unwrap();
    all.wait_for("letters  one\n").unwrap();
    typing.type_line("two\nthree").unwrap();
    all.wait_for("letters  two\nletters  three\n").unwrap();
    typing.input = None; // Ctrl-D
    ends_well(&mut typing);
    let long = "head -c 900000 /dev/zero | tr '\\0' x | \"$0\" publish letters - --broker \"$1\"";
    let finished = run(Command::new("bash").args(["-c", long, LAB, &addr.to_string()]));
    assert_eq!(finished.stdout, "letters: PUBACK\n", "{finished:?}");
    all.wait_for_within(&format!("letters  {}\n", "x".repeat(900_000)), LIMIT).unwrap();
    let longer = long.replace("900000", "1100000");
    let (code, stderr) = failed(Command::new("bash").args(["-c", &longer, LAB, &addr.to_string()]));
    assert!(code == 1 && stderr.contains("more than 1000000 bytes"), "{stderr}");
    publish(addr, &["letters", "still here"]);
    all.wait_for("still here\n").unwrap();
}

#[test]
fn a_session_collects_while_its_owner_is_off_line_and_a_guest_gets_only_what_is_retained() {
    let (_broker, addr) = broker();
    let mut ann = started(addr, &["subscribe", "letters", "--session", "ann"], "Ctrl-C ends\n");
    interrupt(&mut ann);
    for number in 1..=150 {
        publish(addr, &["letters", &number.to_string(), "--qos", "1"]); // more than rumqttd has in flight
    }
    publish(addr, &["state", "on", "--retain"]);
    publish(addr, &["state", "off", "--retain"]);
    let mut ann = started(addr, &["subscribe", "letters", "--session", "ann"], "The broker remembers ann\n");
    for number in 1..=150 {
        ann.wait_for(&format!("letters  {number}\n")).unwrap();
    }
    let mut guest = started(addr, &["subscribe", "letters", "state"], "Ctrl-C ends\n");
    guest.wait_for("state  off  (retained)\n").unwrap();
    publish(addr, &["letters", "last"]);
    guest.wait_for("letters  last\n").unwrap();
    assert!(!guest.printed().contains("state  on") && !guest.printed().contains("letters  1"), "{}", guest.printed());
}

#[test]
fn a_killed_workers_task_comes_again_and_a_confirmed_one_does_not() {
    let (_broker, addr) = broker();
    let mut first = started(addr, &["worker"], "Ctrl-C ends\n");
    assert_eq!(run(&mut program(addr, &["task", "a", "b", "c"])).stdout, "PUBACK   a\nPUBACK   b\nPUBACK   c\n");
    first.wait_for("takes    a\n").unwrap();
    first.type_line("").unwrap();
    first.wait_for("confirms a\ntakes    b\n").unwrap();
    drop(first); // kill -9
    let mut second = started(addr, &["worker"], "Ctrl-C ends\n");
    for task in ["b", "c"] {
        second.wait_for(&format!("takes    {task}\n")).unwrap();
        second.type_line("").unwrap();
        second.wait_for(&format!("confirms {task}\n")).unwrap();
    }
    interrupt(&mut second);
    assert!(!second.printed().contains("takes    a"), "{}", second.printed());
    let mut third = started(addr, &["worker"], "Ctrl-C ends\n");
    run(&mut program(addr, &["task", "d"]));
    assert_eq!(third.wait_for("takes    ").unwrap(), "");
    assert_eq!(third.wait_for("\n").unwrap(), "d");
    third.input = None; // the end of input: the task stays
    ends_well(&mut third);
    let mut fourth = started(addr, &["worker"], "takes    d\n");
    let mut fifth = started(addr, &["worker"], "takes    d\n"); // it takes the queue over
    fourth.type_line("").unwrap(); // too late
    assert_eq!(fourth.wait_for_end().unwrap().code(), Some(1));
    assert!(!fourth.printed().contains("confirms d"), "{}", fourth.printed());
    interrupt(&mut fifth);
}

#[test]
fn the_board_is_there_for_whoever_comes_later() {
    let (_broker, addr) = broker();
    let at = addr.to_string();
    for text in ["Hello world!", "t\u{f5}de: 12:30"] {
        let finished = run(Command::new(LAB).args(["board", &at, "--publish", text]));
        assert_eq!(finished.stdout, "Message Published\n", "{finished:?}");
    }
    let mut reader = Role::spawn(Command::new(LAB).args(["board", &at])).unwrap();
    reader.wait_for("  Hello world!\n").unwrap();
    run(Command::new(LAB).args(["board", &at, "--publish", "a new one"]));
    reader.wait_for("  a new one\n").unwrap();
    assert!(reader.printed().contains("  t\u{f5}de: 12:30\n"), "{}", reader.printed());
    interrupt(&mut reader);
    let (code, stderr) = failed(Command::new(LAB).args(["board", &at, "--publish", ""]));
    assert!(code == 1 && stderr.contains("an empty text"), "{stderr}");
}

#[test]
fn a_client_of_python_and_the_clients_of_mosquitto_are_served() {
    let (_broker, addr) = broker();
    let port = addr.port().to_string();
    let mut ours = started(addr, &["subscribe", "letters", "--qos", "0"], "Ctrl-C ends\n");
    if !skip_without(!have("python3"), "python3", "apt-get install python3") {
        let mut theirs = Role::spawn(Command::new("python3").args(["-c", PYTHON_CLIENT, &port])).unwrap();
        ours.wait_for("letters  from python\n").unwrap();
        theirs.wait_for("MQTT\n").unwrap();
        publish(addr, &["letters", "to python"]);
        theirs.wait_for("to python").unwrap();
    }
    if !skip_without(!have("mosquitto_pub"), "mosquitto_pub", "apt-get install mosquitto-clients") {
        let message = ["-p", &port, "-t", "letters", "-m", "from mosquitto", "-q", "2"];
        assert_eq!(run(Command::new("mosquitto_pub").args(message)).code(), 0);
        ours.wait_for("letters  from mosquitto\n").unwrap();
        nobody_leaves(addr); // it has closed before the broker: the next one waits, or might be thrown out for it
        let mut theirs = Command::new("mosquitto_sub");
        let mut theirs = Role::spawn(theirs.args(["-p", &port, "-t", "state", "-C", "1", "-W", "10"])).unwrap();
        publish(addr, &["state", "to mosquitto", "--retain"]); // it comes early enough, however late they subscribe
        theirs.wait_for("to mosquitto").unwrap();
        ends_well(&mut theirs);
    }
}

/// rumqttd 0.20 may end a connection that comes while another one leaves: see `mqtt::Mqtt`.
fn nobody_leaves(addr: SocketAddr) {
    let leaves = |row: &kernel::Row| row.pair.local.port() == addr.port() && row.state == kernel::State::CloseWait;
    wait_until("no connection that ends", LIMIT, || {
        Ok(kernel::tcp_sockets(addr.port())?.iter().all(|row| !leaves(row)).then_some(()))
    })
    .unwrap();
}

#[test]
fn a_client_waits_until_its_broker_has_closed_the_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client =
        Role::spawn(&mut program(listener.local_addr().unwrap(), &["publish", "letters", "hello"])).unwrap();
    let (mut conn, _) = listener.accept().unwrap();
    conn.set_read_timeout(Some(LIMIT)).unwrap();
    let mut answered = |answer: &[u8]| {
        let (mut head, mut rest) = ([0; 2], [0; 127]);
        conn.read_exact(&mut head).unwrap();
        conn.read_exact(&mut rest[..usize::from(head[1])]).unwrap();
        conn.write_all(answer).unwrap();
        head[0]
    };
    assert_eq!(answered(&[0x20, 2, 0, 0]), 0x10); // CONNECT: CONNACK
    assert_eq!(answered(&[0x40, 2, 0, 1]), 0x32); // PUBLISH, QoS 1: PUBACK
    assert_eq!(answered(&[]), 0xe0); // DISCONNECT
    conn.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let error = conn.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "it has closed first");
    drop(conn);
    ends_well(&mut client);
}

/// A port for a broker that is started by name, and `apart` from it a second one: below those that the kernel gives to
/// others.
fn low_port(from: u16, apart: u16) -> u16 {
    let first = from + (std::process::id() % 1000) as u16;
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok(); // closed again at once
    (first..first + 100).find(|port| free(*port) && free(port + apart)).unwrap()
}

/// RabbitMQ of this test's own; stopped when dropped.
struct Rabbit {
    folder: testkit::TempDir,
    mqtt: SocketAddr,
    amqp: SocketAddr,
}

impl Rabbit {
    /// `None` where it is not installed.
    fn start() -> Option<Rabbit> {
        let missing = !Path::new("/usr/lib/rabbitmq/bin/rabbitmq-server").exists();
        if skip_without(missing, "rabbitmq-server", "apt-get install rabbitmq-server") {
            return None;
        }
        let port = low_port(15_000, 3789); // the experiments take theirs from 10000 on
        let [mqtt, amqp] = [port, port + 3789].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let rabbit = Rabbit { folder: testkit::TempDir::new(), mqtt, amqp };
        let up = rabbit.script(&["start", &mqtt.port().to_string()]);
        assert!(up.contains("rabbitmq is up: process "), "{up}");
        assert!(up.contains(&format!("AMQP 0-9-1 is at {amqp}\n")), "{up}");
        Some(rabbit)
    }

    /// The script takes longer than other programs.
    fn script(&self, args: &[&str]) -> String {
        let mut command = Command::new(root().join("scripts/broker.sh"));
        let output = command.arg("rabbitmq").args(args).env("TMPDIR", self.folder.path()).output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }
}

impl Drop for Rabbit {
    fn drop(&mut self) {
        self.script(&["stop"]);
    }
}

#[test]
fn a_durable_queue_in_rabbitmq_hands_out_again_what_was_not_acknowledged() {
    let Some(rabbit) = Rabbit::start() else { return };
    let amqp = |args: &[&str]| {
        let mut command = Command::new(LAB);
        command.arg("queue").args(args).args(["--broker", &rabbit.amqp.to_string()]);
        command
    };
    assert_eq!(
        run(&mut amqp(&["put", "a", "b", "t\u{f5}de\u{1b}"])).stdout,
        "ack      a\nack      b\nack      t\u{f5}de\\u{1b}\n"
    );
    let mut first = Role::spawn(&mut amqp(&["take"])).unwrap();
    first.wait_for("takes    a\n").unwrap();
    let mut second = Role::spawn(&mut amqp(&["take"])).unwrap(); // they share the queue
    second.wait_for("takes    b\n").unwrap();
    first.type_line("").unwrap();
    first.wait_for("acks     a\ntakes    t\u{f5}de").unwrap();
    drop(first); // kill -9
    second.type_line("").unwrap();
    second.wait_for("acks     b\ntakes    t\u{f5}de\\u{1b}  (redelivered)\n").unwrap();
    interrupt(&mut second);
    let mut third = Role::spawn(&mut amqp(&["take"])).unwrap();
    third.wait_for("(redelivered)\n").unwrap();
    third.input = None; // the end of input: the task stays
    ends_well(&mut third);
    let mut paused = Role::spawn(&mut amqp(&["take", "--queue", "other", "--pause"])).unwrap();
    step(&mut paused, &["connect to ", "queue.declare other, durable", "basic.qos(1)", "basic.consume other"]);
    paused.wait_for("Ctrl-C ends\n").unwrap();
    interrupt(&mut paused);

    let (code, stderr) = failed(Command::new(LAB).args(["queue", "take", "--broker", &rabbit.mqtt.to_string()]));
    assert!(code == 1 && stderr.contains("is it a broker of AMQP 0-9-1?"), "{stderr}");
    let mut ann = started(rabbit.mqtt, &["subscribe", "letters", "--session", "ann"], "Ctrl-C ends\n");
    interrupt(&mut ann);
    publish(rabbit.mqtt, &["letters", "hello"]);
    let mut ann = started(rabbit.mqtt, &["subscribe", "letters", "--session", "ann"], "letters  hello\n");
    interrupt(&mut ann);
    let (code, stderr) = failed(&mut program(rabbit.mqtt, &["publish", "letters", "hello", "--qos", "2"]));
    assert!(code == 1 && stderr.contains("has no QoS 2"), "{stderr}");

    let mut left = Role::spawn(&mut amqp(&["take", "--queue", "other"])).unwrap();
    left.wait_for("Ctrl-C ends\n").unwrap();
    let stopped = rabbit.script(&["stop"]);
    assert!(stopped.contains("has ended"), "{stopped}");
    assert_eq!(left.wait_for_end().unwrap().code(), Some(1));
    assert_eq!(rabbit.folder.path().read_dir().unwrap().count(), 0);
}

#[test]
fn rabbitmq_decides_what_its_queue_is_asked() {
    let missing = !Path::new("/usr/lib/rabbitmq/bin/rabbitmq-server").exists();
    if skip_without(missing, "rabbitmq-server", "apt-get install rabbitmq-server") {
        return;
    }
    let asked = [
        ("worker-killed", ["verdict   ANSWERED   ", "(redelivered)\""]),
        ("broker-killed", ["verdict   CONFIRMED  ", "10 of 10 letters"]),
    ];
    std::thread::scope(|scope| {
        for (id, told) in asked {
            scope.spawn(move || {
                let mut demo = Command::new(LAB); // it takes longer than other programs: no limit of a run here
                let output = demo.arg(id).env("LAB27_BROKER", "rabbitmq").output().unwrap();
                let stdout = String::from_utf8_lossy(&output.stdout);
                assert!(output.status.success() && told.iter().all(|told| stdout.contains(told)), "{stdout}");
            });
        }
    });
}

#[test]
fn without_rabbitmq_its_experiments_are_skipped_by_name_and_a_queue_says_who_is_missing() {
    let asked = run(Command::new(LAB).args(["off-line"]).env("LAB27_BROKER", "rabbitmq"));
    assert!(asked.code() == 0 && asked.stdout.contains("SKIPPED    needs a broker of MQTT"), "{asked:?}");
    let (_held, nobody) = nobody();
    for args in [&["queue", "put", "a"][..], &["queue", "take"]] {
        let (code, stderr) = failed(&mut program(nobody, args));
        assert!(code == 1 && stderr.starts_with(&format!("lab27: connect {nobody}: ECONNREFUSED (111)")), "{stderr}");
    }
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut deaf = Role::spawn(&mut program(silent.local_addr().unwrap(), &["queue", "take"])).unwrap();
    let _held = silent.accept().unwrap(); // it has connected, and nobody answers
    interrupt(&mut deaf);
}

#[test]
fn a_peer_that_never_answers_is_given_up_after_a_stated_time() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap(); // the kernel takes connections; nobody accepts or writes
    let addr = silent.local_addr().unwrap();
    let asked = [
        (&["queue", "put", "a"][..], "no answer within 10s; is it a broker of AMQP 0-9-1?"),
        (&["queue", "take"], "no answer within 10s; is it a broker of AMQP 0-9-1?"),
        (&["publish", "letters", "hello"], "no answer in time; is it an MQTT broker?"),
        (&["publish", "letters", "hello", "--mqtt5"], "no answer in time; is it an MQTT broker?"),
        (&["subscribe", "letters", "--mqtt5"], "no answer in time; is it an MQTT broker?"),
    ];
    std::thread::scope(|scope| {
        for (args, told) in asked {
            scope.spawn(move || {
                let (code, stderr) = failed(&mut program(addr, args));
                assert!(code == 1 && stderr == format!("lab27: connect {addr}: {told}\n"), "{args:?}: {stderr}");
            });
        }
    });
}

/// mosquitto of this test's own, in memory.
fn mosquitto() -> Option<(Role, SocketAddr)> {
    if skip_without(!Path::new("/usr/sbin/mosquitto").exists(), "mosquitto", "apt-get install mosquitto") {
        return None;
    }
    let addr = SocketAddr::from(([127, 0, 0, 1], low_port(9_000, 0)));
    let mut broker = Role::spawn(Command::new("/usr/sbin/mosquitto").args(["-c", "/dev/stdin"])).unwrap();
    broker
        .type_line(&format!("listener {} 127.0.0.1\nallow_anonymous true\nlog_type none\nuser root", addr.port()))
        .unwrap();
    broker.input = None; // the end of the settings
    wait_until("mosquitto listening", LIMIT, || {
        let rows = kernel::tcp_sockets(addr.port())?;
        Ok(rows.iter().any(|row| row.state == kernel::State::Listen).then_some(()))
    })
    .unwrap();
    Some((broker, addr))
}

#[test]
fn in_mqtt_5_a_publisher_is_told_that_nobody_was_there_and_a_session_has_an_end() {
    let Some((mut broker, addr)) = mosquitto() else { return };
    let told = |args: &[&str]| {
        let finished = run(&mut program(addr, &[&["publish", "letters"], args].concat()));
        assert!(finished.code() == 0 && finished.stderr.is_empty(), "{finished:?}");
        finished.stdout
    };
    assert_eq!(told(&["a"]), "letters: PUBACK\n");
    assert_eq!(told(&["a", "--mqtt5"]), "letters: PUBACK, reason 0x10: no matching subscribers\n");
    assert_eq!(told(&["a", "--mqtt5", "--qos", "0"]), "letters: sent; at QoS 0 nobody answers\n");
    let twice = told(&["a", "--mqtt5", "--qos", "2"]);
    assert!(twice.starts_with("letters: PUBREC, reason 0x"), "{twice}"); // mosquitto 2.0: success, in each case

    let ann = ["subscribe", "letters", "--session", "ann", "--mqtt5"];
    let mut here = started(addr, &ann, "Ctrl-C ends\n");
    assert_eq!(told(&["b", "--mqtt5"]), "letters: PUBACK, reason 0x00: success\n");
    here.wait_for("letters  b\n").unwrap();
    interrupt(&mut here);
    assert_eq!(
        told(&["c\u{1b}", "--mqtt5", "--retain", "--qos", "2"]),
        "letters: PUBREC, reason 0x00: success; PUBCOMP\n"
    );
    let mut here = started(addr, &ann, "The broker remembers ann\n");
    here.wait_for("letters  c\\u{1b}\n").unwrap();
    here.wait_for("letters  c\\u{1b}  (retained)\n").unwrap();
    interrupt(&mut here);
    let ends = [&ann[..], &["--expires", "1"]].concat();
    let mut here = started(addr, &ends, "The broker remembers ann\n");
    interrupt(&mut here);
    // Nobody else has subscribed: the answer changes once the broker has forgotten her.
    wait_until("the end of ann's session", LIMIT, || Ok(told(&["d", "--mqtt5"]).contains("reason 0x10").then_some(())))
        .unwrap();
    let mut here = started(addr, &ends, "Ctrl-C ends\n");
    assert!(!here.printed().contains("remembers"), "{}", here.printed());
    signal(&broker, Signal::SIGTERM);
    broker.wait_for_end().unwrap();
    assert_eq!(here.wait_for_end().unwrap().code(), Some(1)); // and it does not connect again
}

#[test]
fn what_does_not_speak_mqtt_5_is_said_not_to() {
    let (mut broker, addr) = broker();
    for args in [&["publish", "letters", "hello", "--mqtt5"][..], &["subscribe", "letters", "--mqtt5"]] {
        let (code, stderr) = failed(&mut program(addr, args));
        let told = format!("lab27: the broker {addr} has closed the connection; does it speak MQTT 5?\n");
        assert!(code == 1 && stderr == told, "{stderr}");
    }
    interrupt(&mut broker);
    let (_held, nobody) = nobody();
    let (code, stderr) = failed(&mut program(nobody, &["publish", "letters", "hello", "--mqtt5"]));
    assert!(code == 1 && stderr.starts_with(&format!("lab27: connect {nobody}: ECONNREFUSED (111)")), "{stderr}");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut deaf = Role::spawn(&mut program(silent.local_addr().unwrap(), &["subscribe", "a", "--mqtt5"])).unwrap();
    let _held = silent.accept().unwrap(); // it has connected
    interrupt(&mut deaf);
    for usage in [&["--expires", "9"][..], &["--expires", "9", "--mqtt5"], &["--expires", "9", "--session", "ann"]] {
        assert_eq!(failed(Command::new(LAB).args(["subscribe", "a"]).args(usage)).0, 2, "{usage:?}");
    }
}

#[test]
fn broker_sh_runs_mosquitto_and_leaves_nothing() {
    let script = || Command::new(root().join("scripts/broker.sh"));
    assert_eq!(run(script().args(["activemq", "start"])).code(), 2);
    assert_eq!(run(script().args(["mosquitto", "start", "0"])).code(), 2);
    if skip_without(!Path::new("/usr/sbin/mosquitto").exists(), "mosquitto", "apt-get install mosquitto") {
        return;
    }
    let folder = testkit::TempDir::new(); // a broker of this test's own
    let own = |args: &[&str]| run(script().args(args).env("TMPDIR", folder.path()));
    let addr = SocketAddr::from(([127, 0, 0, 1], low_port(8_000, 0)));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = own(&["mosquitto", "start", &taken.local_addr().unwrap().port().to_string()]);
    assert!(refused.code() == 1 && refused.stderr.contains("is taken"), "{refused:?}");
    assert_eq!(own(&["mosquitto", "status"]).code(), 1);
    let up = own(&["mosquitto", "start", &addr.port().to_string()]);
    assert!(up.code() == 0 && up.stdout.contains("mosquitto is up: process "), "{up:?}");
    assert_eq!(own(&["mosquitto", "start"]).code(), 1);
    let mut ann = started(addr, &["subscribe", "letters", "--session", "ann"], "Ctrl-C ends\n");
    interrupt(&mut ann);
    publish(addr, &["letters", "hello"]);
    let mut ann = started(addr, &["subscribe", "letters", "--session", "ann"], "letters  hello\n");
    interrupt(&mut ann);
    let stopped = own(&["mosquitto", "stop"]);
    assert!(stopped.code() == 0 && stopped.stdout.contains("has ended"), "{stopped:?}");
    assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    assert!(kernel::tcp_sockets(addr.port()).unwrap().iter().all(|row| row.state != kernel::State::Listen));
}

#[test]
fn strangers_and_half_packets_do_not_harm_the_broker() {
    let (broker, addr) = broker();
    publish(addr, &["letters", "before"]);
    let idle = descriptors(broker.pid());
    let foreign = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.write_all(bytes).unwrap();
        stream
    };
    let half = foreign(&[0x10, 40, 0, 4]); // of a CONNECT
    let silent = foreign(b"");
    for bytes in [&b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..], &[0xff; 2000], &[0x30, 0xff, 0xff, 0xff, 0xff, 1]]
    {
        let mut stream = foreign(bytes);
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let _ = stream.read(&mut [0; 100]); // the broker closes, perhaps with a reset
    }
    publish(addr, &["letters", "after"]);
    drop((half, silent));
    wait_until("all descriptors back", LIMIT, || Ok((descriptors(broker.pid()) <= idle).then_some(()))).unwrap();
}

#[test]
fn what_is_no_broker_is_said_to_be_none() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    for answer in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b""] {
        let asked = std::thread::spawn(move || failed(&mut program(addr, &["publish", "letters", "hello"])));
        let (mut conn, _) = listener.accept().unwrap();
        let _ = conn.read(&mut [0; 100]).unwrap();
        conn.write_all(answer).unwrap();
        drop(conn);
        let (code, stderr) = asked.join().unwrap();
        assert!(code == 1 && stderr.starts_with("lab27: ") && stderr.contains(&addr.to_string()), "{stderr}");
    }
    for usage in [
        &["publish", "home/+", "x"][..],
        &["publish", "", "x"],
        &["subscribe", "a/#/b"],
        &["subscribe"],
        &["subscribe", "a", "--qos", "3"],
        &["subscribe", "a", "--session", "a b"],
        &["publish", "a", "b", "--broker", "0"],
    ] {
        assert_eq!(failed(Command::new(LAB).args(usage)).0, 2, "{usage:?}");
    }
    let odd = run(Command::new(LAB).arg("cut").env("LAB27_BROKER", "kafka"));
    assert!(odd.code() == 1 && odd.stdout.contains("LAB27_BROKER is kafka"), "{odd:?}");
}

#[test]
fn ctrl_c_ends_each_role_wherever_it_waits_and_the_broker_tells_its_clients_by_closing() {
    let (mut broker, addr) = broker();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap(); // accepts nobody: CONNACK never comes
    let mut waiting = [
        started(addr, &["subscribe", "a"], "Ctrl-C ends\n"),
        started(addr, &["worker"], "Ctrl-C ends\n"),
        started(addr, &["publish", "a", "b", "--pause"], "[Enter]"),
    ];
    let mut deaf = Role::spawn(&mut program(silent.local_addr().unwrap(), &["subscribe", "a"])).unwrap();
    let _held = silent.accept().unwrap(); // it has connected
    let mut again = Role::spawn(Command::new(LAB).args(["tell", "127.0.0.1:1", "x", "--again"])).unwrap();
    again.wait_for("and again").unwrap();
    for role in waiting.iter_mut().chain([&mut deaf, &mut again]) {
        signal(role, Signal::SIGINT);
        assert_eq!(role.wait_for_end().unwrap().code(), Some(0), "{}", role.printed());
    }
    let mut left = started(addr, &["subscribe", "a"], "Ctrl-C ends\n");
    interrupt(&mut broker);
    assert_eq!(left.wait_for_end().unwrap().code(), Some(1));
}

#[test]
fn tell_reaches_whoever_listens_and_nobody_else() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let finished = run(Command::new(LAB).args(["tell", &addr.to_string(), "hello"]));
    assert!(finished.code() == 0 && finished.stdout.starts_with("5 bytes sent"), "{finished:?}");
    let mut text = String::new();
    listener.accept().unwrap().0.read_to_string(&mut text).unwrap(); // the sender has ended
    assert_eq!(text, "hello");
    let (_held, nobody) = nobody();
    let (code, stderr) = failed(Command::new(LAB).args(["tell", &nobody.to_string(), "hello"]));
    assert!(code == 1 && stderr.starts_with(&format!("lab27: connect {nobody}: ECONNREFUSED (111)")), "{stderr}");
}

#[test]
fn pause_waits_before_each_step() {
    let mut broker = Role::spawn(Command::new(LAB).args(["broker", "0", "--pause"])).unwrap();
    step(&mut broker, &["socket(AF_INET, SOCK_STREAM, 0)", "setsockopt(", "bind(", "rumqttd binds"]);
    let line = broker.line_with("is the broker at ").unwrap();
    let addr: SocketAddr = line.rsplit(' ').next().unwrap().trim().parse().unwrap();
    let mut subscriber = Role::spawn(&mut program(addr, &["subscribe", "a", "--pause"])).unwrap();
    step(&mut subscriber, &["CONNECT to ", "SUBSCRIBE to a"]);
    subscriber.wait_for("Ctrl-C ends\n").unwrap();
    let mut publisher = Role::spawn(&mut program(addr, &["publish", "a", "b", "--pause"])).unwrap();
    step(&mut publisher, &["CONNECT to ", "PUBLISH to a, 1 bytes", "DISCONNECT"]);
    ends_well(&mut publisher);
    subscriber.wait_for("a  b\n").unwrap();
    interrupt(&mut broker);
}
