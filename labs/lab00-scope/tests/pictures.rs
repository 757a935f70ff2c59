//! What `run` shows and saves: the ladder on a terminal and in a pipe, the page for slides, the JSON lines, the capture
//! file, and the ladders in the sheets of other labs.
#![allow(clippy::unwrap_used)]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use kernel::namespace::NAMESPACE;
use serde_json::Value;
use testkit::{Finished, TempDir, Terminal, failed, have, root, run, skip_without};

const LAB: &str = env!("CARGO_BIN_EXE_lab00-scope");
/// Both ends of a connection in one process: a handshake, seven bytes, a half-close, a close.
const TCP: &str = "
import socket
listener = socket.create_server(('127.0.0.1', 7777))
client = socket.create_connection(('127.0.0.1', 7777))
server, _ = listener.accept()
client.sendall(b'request')
print('the server has', server.recv(100).decode())
client.shutdown(socket.SHUT_WR)
server.recv(100)
server.close()
client.recv(100)
client.close()
";
/// Ten clients, all connected before the first one says a word.
const TEN: &str = "
import socket
listener = socket.create_server(('127.0.0.1', 7777))
pairs = []
for number in range(10):
    client = socket.create_connection(('127.0.0.1', 7777))
    pairs.append((client, listener.accept()[0]))
for number, (client, server) in enumerate(pairs):
    client.sendall(b'from %d' % number)
    server.recv(100)
";
/// A datagram, its answer, and one to a port that nobody has.
const UDP: &str = "
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(('127.0.0.1', 5000))
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.sendto(b'question', ('127.0.0.1', 5000))
_, sender = server.recvfrom(100)
server.sendto(b'answer', sender)
client.recvfrom(100)
client.connect(('127.0.0.1', 5001))
client.send(b'nobody')
try:
    client.recv(100)
except ConnectionRefusedError:
    print('refused')
";

/// True where there is no private network or no python3: says so.
fn cannot_run() -> bool {
    skip_without(!(NAMESPACE.met)(), NAMESPACE.what, NAMESPACE.provided_by)
        || skip_without(!have("python3"), "python3", "apt-get install python3")
}

/// `lab00-scope run OPTIONS -- python3 -c PROGRAM`, which must end well.
fn scope(options: &[&str], program: &str) -> Finished {
    let finished = run(Command::new(LAB).arg("run").args(options).args(["--", "python3", "-c", program]));
    assert_eq!(finished.code(), 0, "{finished:?}");
    finished
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn json(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn count(events: &[Value], kind: &str) -> usize {
    events.iter().filter(|event| event["event"] == kind).count()
}

/// The lines of the ladder that are arrows.
fn arrows(ladder: &str) -> Vec<&str> {
    ladder.lines().filter(|line| line.contains("|--") || line.contains("|<-") || line.contains("| X ")).collect()
}

#[test]
fn the_ladder_of_a_connection_reads_as_the_rfc_has_it() {
    if cannot_run() {
        return;
    }
    let ladder = scope(&[], TCP).stdout;
    // RFC 9293 3.5 and 3.6: each SYN and each FIN takes one sequence number.
    let expected = [
        "|-- SYN seq 0 win ",
        "|<- SYN+ACK seq 0 ack 1 win ",
        "|-- ACK seq 1 ack 1 win ",
        "|-- PSH+ACK seq 1 ack 1 len 7 win ",
        "|<- ACK seq 1 ack 8 win ",
        "|-- FIN+ACK seq 8 ack 1 win ",
        "|<- FIN+ACK seq 1 ack 9 win ",
        "|-- ACK seq 9 ack 2 win ",
    ];
    // The first FIN's acknowledgement is delayed: the second FIN carries it, unless this took longer than the delay.
    let delayed = |line: &&str| !line.starts_with("|<- ACK seq 1 ack 9 win ");
    let arrows: Vec<&str> = arrows(&ladder).into_iter().filter(delayed).collect();
    assert_eq!(arrows.len(), expected.len(), "{ladder}");
    assert!(arrows.iter().zip(expected).all(|(line, start)| line.starts_with(start)), "{ladder}");
    for line in [
        "connect(4, 127.0.0.1:7777) = 0",
        "| ESTABLISHED",
        " CLOSE-WAIT |",
        "| TIME-WAIT",
        " CLOSED |",
        "> the server has request",
    ] {
        assert!(ladder.contains(line), "{line}: {ladder}");
    }
}

#[test]
fn the_ladder_keeps_to_the_width_of_a_pipe_and_of_a_terminal_in_plain_ascii() {
    if cannot_run() {
        return;
    }
    for (columns, lanes) in [(60, 2), (100, 3)] {
        let mut terminal = Terminal::start(Command::new(LAB).args(["run", "--", "python3", "-c", TEN]), columns, 30);
        assert_eq!(terminal.end().code(), Some(0));
        let shown = terminal.wait_for("-- traced: ");
        let three = shown.lines().any(|line| line.contains("  |-- SYN seq 0 "));
        assert_eq!(three, lanes == 3, "{columns} columns: {shown}");
        for line in shown.lines() {
            assert!(line.len() < usize::from(columns), "{} columns of {columns}: {line}", line.len());
        }
    }
    let piped = scope(&[], TEN).stdout;
    for line in piped.lines() {
        assert!(line.len() < 80, "{} columns: {line}", line.len());
        assert!(line.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "not plain ASCII: {line:?}");
    }
}

#[test]
fn ten_clients_at_once_are_told_apart_by_their_addresses() {
    if cannot_run() {
        return;
    }
    let ladder = scope(&[], TEN).stdout;
    assert_eq!(ladder.matches(" TCP ").count(), 10, "ten headings: {ladder}");
    for number in 0..10 {
        // Each client's word stands below its own two addresses.
        let (above, _) = ladder.split_once(&format!("\"from {number}\"")).unwrap();
        let turn = above.lines().rev().find(|line| line.contains(" ....")).unwrap_or_default();
        assert!(turn.starts_with("127.0.0.1:") && turn.ends_with(" 127.0.0.1:7777"), "{number}: {ladder}");
    }
}

#[test]
fn datagrams_stand_at_the_end_that_sent_or_got_them() {
    if cannot_run() {
        return;
    }
    let ladder = scope(&[], UDP).stdout;
    let expected = ["|-- datagram len 8 ", "|<- datagram len 6 ", "|-- datagram len 6 ", "|<- ICMP "];
    let arrows = arrows(&ladder);
    assert_eq!(arrows.len(), expected.len(), "{ladder}");
    assert!(arrows.iter().zip(expected).all(|(line, start)| line.starts_with(start)), "{ladder}");
    assert_eq!(ladder.matches(" UDP ").count(), 2, "{ladder}");
    let refused = ladder.lines().find(|line| line.contains("ECONNREFUSED")).unwrap();
    assert!(refused.starts_with("| recv"), "{ladder}");
}

#[test]
fn other_programs_read_as_many_segments_from_the_capture_file_as_were_drawn() {
    if cannot_run() {
        return;
    }
    for program in [TCP, TEN, UDP] {
        let folder = TempDir::new();
        let [pcap, lines] = ["run.pcap", "run.json"].map(|name| folder.path().join(name));
        let ladder = scope(&["--whole", "--pcap", text(&pcap), "--json", text(&lines)], program).stdout;
        let drawn = arrows(&ladder).len();
        assert_eq!(count(&json(&lines), "segment"), drawn, "{ladder}");
        for (tool, args) in [("tcpdump", ["-n", "-r"]), ("tshark", ["-n", "-r"])] {
            if skip_without(!have(tool), tool, "apt-get install tcpdump tshark") {
                continue;
            }
            let read = run(Command::new(tool).args(args).arg(&pcap));
            assert_eq!((read.code(), read.stdout.lines().count()), (0, drawn), "{tool}: {read:?}\n{ladder}");
            let nonsense = ["Malformed", "truncated", "bad-", "invalid"].map(|word| read.stdout.contains(word));
            assert_eq!(nonsense, [false; 4], "{tool}: {read:?}");
        }
    }
}

#[test]
fn tcpdump_sees_the_same_flags_and_numbers() {
    if cannot_run() || skip_without(!have("tcpdump"), "tcpdump", "apt-get install tcpdump") {
        return;
    }
    let folder = TempDir::new();
    let [pcap, lines] = ["run.pcap", "run.json"].map(|name| folder.path().join(name));
    scope(&["--pcap", text(&pcap), "--json", text(&lines)], TCP);
    let dump = run(Command::new("tcpdump").args(["-n", "-r"]).arg(&pcap)).stdout;
    let segments: Vec<Value> = json(&lines).into_iter().filter(|event| event["event"] == "segment").collect();
    for (line, segment) in dump.lines().zip(&segments) {
        let letters = [("SYN", "S"), ("FIN", "F"), ("RST", "R"), ("PSH", "P"), ("ACK", ".")];
        let flags: String = letters
            .iter()
            .filter(|(name, _)| segment["flags"].as_str().unwrap().contains(name))
            .map(|(_, letter)| *letter)
            .collect();
        assert!(line.contains(&format!("Flags [{flags}]")), "{line}\n{segment}");
        assert!(line.ends_with(&format!("length {}", segment["length"])), "{line}\n{segment}");
        if !flags.contains('S') {
            // tcpdump's numbers are relative behind the SYNs, too.
            assert!(line.contains(&format!(" ack {},", segment["ack"])), "{line}\n{segment}");
            if segment["length"] != 0 || flags.contains('F') {
                assert!(line.contains(&format!(" seq {}", segment["seq"])), "{line}\n{segment}");
            }
        }
    }
}

#[test]
fn the_page_for_slides_is_xml_with_an_arrow_for_each_segment() {
    if cannot_run() {
        return;
    }
    let folder = TempDir::new();
    let [svg, lines] = ["run.svg", "run.json"].map(|name| folder.path().join(name));
    scope(&["--svg", text(&svg), "--json", text(&lines)], TCP);
    let page = fs::read_to_string(&svg).unwrap();
    assert_eq!(page.matches("<path class=\"").count(), count(&json(&lines), "segment"), "{page}");
    assert!(page.contains("prefers-color-scheme: dark") && page.contains(">TIME-WAIT</text>"), "{page}");
    let parse = "import sys, xml.dom.minidom\nprint(xml.dom.minidom.parse(sys.argv[1]).documentElement.tagName)";
    let parsed = run(Command::new("python3").args(["-c", parse]).arg(&svg));
    assert_eq!(parsed.stdout, "svg\n", "{parsed:?}");
}

#[test]
fn a_file_that_cannot_be_written_is_named() {
    for option in ["--svg", "--json", "--pcap"] {
        let (code, stderr) = failed(Command::new(LAB).args(["run", option, "/no/such/folder/file", "--", "true"]));
        let error = "lab00: open /no/such/folder/file: ENOENT (2) No such file or directory\n";
        assert!(code == 1 && stderr.starts_with(error), "{option}: {code} {stderr}");
    }
}

/// The binary of another lab, if it was built: this test builds nothing.
fn other(lab: &str) -> Option<PathBuf> {
    let binary = Path::new(LAB).with_file_name(lab);
    let missing = skip_without(!binary.is_file(), lab, &format!("cargo build -p {lab}"));
    (!missing).then_some(binary)
}

#[test]
fn a_lab_without_the_scope_beside_it_says_how_to_build_it() {
    let Some(lab) = other("lab09-shutdown") else { return };
    let folder = TempDir::new();
    let alone = testkit::copy_program(text(&lab), &folder);
    let (code, stderr) = failed(Command::new(alone).args(["demo", "half-close", "--wire"]));
    let told = "lab09: --wire is drawn by lab00-scope; build it first: cargo build --bin lab00-scope\n";
    assert!(code == 2 && stderr.starts_with(told), "{code} {stderr}");
    let (code, stderr) = failed(Command::new(lab).args(["demo", "--wire"]));
    assert!(code == 2 && stderr.contains("<NAME|NUMBER>"), "{code} {stderr}");
    let (code, stderr) = failed(Command::new(LAB).args(["demo", "1", "--wire"]));
    assert!(code == 2 && stderr.contains("the other labs have it"), "{code} {stderr}");
}

#[test]
fn a_drawn_demo_with_pause_stops_at_its_question_and_below_its_verdict() {
    let Some(lab) = other("lab09-shutdown") else { return };
    let mut screen = Terminal::start(Command::new(lab).args(["demo", "shut-rd", "--wire", "--pause"]), 80, 24);
    let asked = screen.wait_for("[Enter] let the kernel decide");
    assert!(asked.contains("| shutdown(3, SHUT_RD) = 0") && !asked.contains("1b}"), "{asked}");
    assert!(!asked.contains("\nlook "), "the next terminal does not see a private network: {asked}");
    screen.type_text("\n");
    let decided = screen.wait_for("r again, q quit");
    assert!(decided.contains("recv(3, 1024) = 3") && decided.contains("\nverdict   CORRECTED"), "{decided}");
    screen.type_text("\n");
    screen.wait_for(" exited with 0");
    assert_eq!(screen.end().code(), Some(0));
}

/// The sheets' ladders: of which lab's sheet, of which of its starred experiments.
const LADDERS: [(&str, &str); 7] = [
    ("lab06-listen", "before-accept"),
    ("lab07-multiclient", "swapped-ports"),
    ("lab08-stream", "messages"),
    ("lab09-shutdown", "half-close"),
    ("lab10-timewait", "closes-first"),
    ("lab11-states", "closing"),
    ("lab12-broken-pipe", "cut"),
];
/// In a sheet, what stands before and behind its ladder.
const FENCES: [&str; 2] = ["```wire\n", "```\n"];
/// The last lines of a run, which a sheet does not need.
const LAST: &str = "-- traced: ";
/// What depends on how fast a run is: the pieces of a transfer, what a timer sent, a call that found no room, and the
/// states of the end, as two ends may close one after the other or at the same time.
const ANY_RUN: [&str; 7] = [" and so on: ", " * ", " EAGAIN ", "FIN-WAIT-", "CLOSE-WAIT", "TIME-WAIT", "CLOSED"];
/// An experiment with timers is played again where the tracer slowed it too much.
const TRIES: usize = 3;

/// A line without what differs from run to run: numbers, pauses, how wide a column is.
fn masked(line: &str) -> String {
    let is_stamp = |word: &str| word.starts_with('+') && word.ends_with('s') && word.contains('.');
    let line = line.replace(", process ", " "); // left out where the number is long
    let words = line.split_whitespace().filter(|word| !is_stamp(word));
    let mut masked = String::new();
    for character in words.collect::<Vec<_>>().join(" ").chars() {
        let shown = if character.is_ascii_digit() { '#' } else { character };
        if !("#-.".contains(shown) && masked.ends_with(shown)) {
            masked.push(shown);
        }
    }
    masked
}

/// The ladder that a sheet would quote of this run: pauses only where a timer ran, as a busy machine pauses anywhere.
fn quotable(ladder: &str) -> String {
    let plain = |line: &str| {
        let stamp = line.find("  +").filter(|_| !line.contains(" * "));
        let (text, stamp) = line.split_at(stamp.unwrap_or(line.len()));
        match text.strip_prefix("| ").filter(|_| stamp.ends_with('|')) {
            Some(text) if text.starts_with(' ') => format!("| {:>75} |", text.trim()), // the right end's
            Some(text) => format!("| {text:<75} |"),
            None => text.trim_end().into(),
        }
    };
    let lines = ladder.lines().take_while(|line| !line.starts_with(LAST));
    lines.map(plain).filter(|line| !line.trim_start().starts_with('+')).map(|line| line + "\n").collect()
}

/// The masked lines of a ladder; of a line of states each state by itself, as two ends may change in one step or two.
fn comparable(ladder: &str) -> Vec<String> {
    let states = |line: &str| {
        let line = line.trim_matches(['|', ' ']);
        !line.is_empty() && line.chars().all(|scalar| scalar.is_ascii_uppercase() || "- 12".contains(scalar))
    };
    let split = |line: &str| -> Vec<String> {
        if states(line) { line.split_whitespace().map(String::from).collect() } else { vec![masked(line)] }
    };
    // What the scope counts or says may go on in further lines, whose words depend on the length of numbers.
    let goes_on = |line: &&str| !line.starts_with("  ") || line.starts_with(&" ".repeat(10));
    ladder.lines().filter(goes_on).flat_map(split).collect()
}

#[test]
fn the_ladders_in_the_sheets_are_those_of_a_run() {
    if skip_without(!(NAMESPACE.met)(), NAMESPACE.what, NAMESPACE.provided_by) {
        return;
    }
    for (lab, experiment) in LADDERS {
        let Some(binary) = other(lab) else { continue };
        let play = || run(Command::new(&binary).args(["demo", experiment, "--wire"]));
        let drawn = (0..TRIES).map(|_| play()).find(|drawn| drawn.code() == 0).unwrap_or_else(play);
        assert_eq!((drawn.code(), drawn.stderr.as_str()), (0, ""), "{lab}: {drawn:?}");
        let path = root().join("labs").join(lab).join("README.md");
        let sheet = fs::read_to_string(&path).unwrap();
        let (before, rest) = sheet.split_once(FENCES[0]).unwrap_or_else(|| panic!("no ladder in {path:?}"));
        let (quoted, after) = rest.split_once(FENCES[1]).unwrap();
        if env::var_os("UPDATE_SHEET").is_some() {
            fs::write(&path, [before, FENCES[0], &quotable(&drawn.stdout), FENCES[1], after].concat()).unwrap();
            continue;
        }
        let printed = comparable(&drawn.stdout);
        for line in comparable(quoted).iter().filter(|line| !ANY_RUN.iter().any(|any| line.contains(any))) {
            let found = line.is_empty() || printed.contains(line);
            assert!(found, "{lab}: a line that no run draws (UPDATE_SHEET=1 mends it): {line}\n{}", drawn.stdout);
        }
        assert!(arrows(quoted).len() >= 3, "{lab} quotes no ladder: {quoted}");
    }
}
