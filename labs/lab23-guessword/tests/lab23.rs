//! Runs the real binary: the demo, game and white-board with several clients, foreign peers, and what goes wrong.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::Command,
    sync::LazyLock,
    thread,
    time::Duration,
};

use kernel::namespace::NAMESPACE;
use nix::{
    pty::openpty,
    sys::{
        signal::Signal,
        termios::{LocalFlags, tcgetattr},
    },
};
use proptest::{collection::vec, prelude::*, test_runner::TestRunner};
use testkit::{
    Demo, Pty, Role, TempDir, descriptors, ends_well, failed, have, interrupt, nobody, run, signal, skip_without, step,
    wait_until,
};

const LAB: &str = env!("CARGO_BIN_EXE_lab23-guessword");
const LIMIT: Duration = Duration::from_secs(10);
static DEMO: LazyLock<Demo> = LazyLock::new(|| Demo::play(LAB));

/// One of the servers on a port of the kernel's choice.
fn server(which: &str, options: &[&str]) -> (Role, SocketAddr) {
    let mut server = Role::spawn(Command::new(LAB).args([which, "0"]).args(options)).unwrap();
    let banner = server.line_with("> Server bound to IP : ").unwrap();
    let port = banner.rsplit(' ').next().unwrap().parse().unwrap();
    (server, SocketAddr::from(([127, 0, 0, 1], port)))
}

/// The server of the game with words of its own.
fn game(words: &str) -> (Role, SocketAddr, TempDir) {
    let folder = TempDir::new();
    let file = folder.path().join("words");
    fs::write(&file, words).unwrap();
    let (server, addr) = server("server", &["--words", file.to_str().unwrap()]);
    (server, addr, folder)
}

fn client(name: &str, addr: SocketAddr) -> Role {
    let mut client = Role::spawn(Command::new(LAB).args(["client", name, &addr.to_string()])).unwrap();
    client.wait_for("  you are in").unwrap();
    client
}

/// A foreign client: a socket of the standard library that has said its name.
struct Foreign {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Foreign {
    fn join(name: &str, addr: SocketAddr) -> Foreign {
        let mut foreign = Foreign::connect(addr);
        foreign.say(name);
        assert!(foreign.hear().starts_with("now "), "{name}");
        foreign
    }

    fn connect(addr: SocketAddr) -> Foreign {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Foreign { reader: BufReader::new(stream.try_clone().unwrap()), stream }
    }

    fn say(&mut self, line: &str) {
        self.stream.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        line.trim_end_matches('\n').into()
    }

    fn hears(&mut self, expected: &str) {
        assert_eq!(self.hear(), expected);
    }

    fn all_the_rest(mut self) -> String {
        let mut text = String::new();
        self.reader.read_to_string(&mut text).unwrap();
        text
    }
}

#[test]
fn the_demo_decides_every_claim_as_recorded() {
    DEMO.assert_verdicts(&[
        ("same-letter", "CORRECTED"),
        ("lost-score", "ANSWERED"),
        ("same-cell", "ANSWERED"),
        ("joins-late", "ANSWERED"),
        ("leaves-halfway", "ANSWERED"),
        ("never-reads", "ANSWERED"),
        ("ten-thousand", "ANSWERED"),
    ]);
}

#[test]
fn the_printed_calls_are_those_strace_saw() {
    testkit::assert_printed_calls_are_real(LAB);
}

#[test]
fn the_command_line_keeps_the_rules_of_all_labs() {
    testkit::assert_common_rules(LAB, &["server", "0"], "> Server bound to");
}

#[test]
fn the_sheet_quotes_a_real_run() {
    testkit::assert_sheet_quotes_a_run("lab23-guessword", &DEMO);
}

#[test]
fn an_ordinary_account_can_do_everything_but_a_privileged_port() {
    testkit::assert_demo_needs_no_privileges(LAB);
    testkit::assert_privileged_port_is_refused(LAB, &["server", "1"], "127.0.0.1:1");
}

#[test]
fn being_stopped_and_continued_changes_no_verdict() {
    testkit::assert_stops_change_no_verdict(LAB);
}

#[test]
fn a_game_is_played_from_the_first_word_to_the_next() {
    let (mut server, addr, _words) = game("tea\n");
    let mut ann = client("ann", addr);
    ann.wait_for("___").unwrap();
    ann.wait_for("> letter : ").unwrap();
    ann.type_line("e").unwrap();
    ann.wait_for("ann: e scores 1    _e_        ann 1\n").unwrap();
    let mut bob = client("bob", addr); // in the middle of the game
    bob.wait_for("_e_        ann 1, bob 0\n").unwrap();
    ann.wait_for("bob joins").unwrap();
    for (player, letter, heard) in [(0, "x", "ann: no x"), (1, "T", "bob: t scores 1"), (1, "a", "bob: a scores 1")] {
        [&mut ann, &mut bob][player].type_line(letter).unwrap();
        ann.wait_for(heard).unwrap();
        bob.wait_for(heard).unwrap();
    }
    for player in [&mut ann, &mut bob] {
        player.wait_for("the word was tea").unwrap();
        player.wait_for("> propose a word : ").unwrap();
    }
    bob.type_line("no word!").unwrap();
    bob.wait_for("> a word has 1 to 32 letters and nothing else\n").unwrap();
    bob.type_line("T\u{f5}de").unwrap();
    for player in [&mut ann, &mut bob] {
        player.wait_for("bob has a new word ____       bob 2, ann 1\n").unwrap();
    }
    ann.type_line("other").unwrap();
    ann.wait_for("> a word is being guessed: propose one letter\n").unwrap();
    ann.type_line("\u{d5}").unwrap();
    bob.wait_for("ann: \u{f5} scores 1    _\u{f5}__").unwrap();
    bob.type_line("\u{f5}").unwrap();
    bob.wait_for("> too late: ann proposed \u{f5} before you\n").unwrap();
    bob.input = None; // Ctrl-D
    ends_well(&mut bob);
    ann.wait_for("bob leaves").unwrap();
    interrupt(&mut ann);
    server.wait_for("left ann\n").unwrap();
    interrupt(&mut server);
}

#[test]
fn the_events_have_numbers_without_a_gap_and_all_hear_the_same() {
    let (_server, addr, _words) = game("abcdefghijklmnopqrstuvwxyz\n");
    let mut players: Vec<Foreign> = ["ann", "bob", "carl"].map(|name| Foreign::join(name, addr)).into();
    let sayers: Vec<_> = players
        .iter()
        .map(|player| {
            let mut stream = player.stream.try_clone().unwrap();
            thread::spawn(move || ('a'..='z').for_each(|letter| writeln!(stream, "{letter}").unwrap()))
        })
        .collect();
    sayers.into_iter().for_each(|sayer| sayer.join().unwrap());
    let heard: Vec<Vec<String>> = players
        .iter_mut()
        .map(|player| {
            let mut events = Vec::new();
            while !events.last().is_some_and(|line: &String| line.contains(" over ")) {
                events.extend(Some(player.hear()).filter(|line| !line.starts_with("! ")));
            }
            events
        })
        .collect();
    let letters = |events: &[String]| events.iter().filter(|line| line.contains(" letter ")).count();
    assert_eq!(heard.iter().map(|events| letters(events)).collect::<Vec<_>>(), [26; 3]);
    let scored: BTreeSet<_> = heard[0].iter().filter_map(|line| line.split(' ').nth(3)).collect();
    assert_eq!(scored.len(), 26, "each letter once");
    let number = |line: &String| line.split(' ').next().unwrap().parse::<u64>().unwrap();
    assert!(heard[0].windows(2).all(|pair| number(&pair[0]) + 1 == number(&pair[1])), "{:?}", heard[0]);
    for events in &heard[1..] {
        assert!(heard[0].ends_with(events), "ann heard\n{:?}\nanother\n{events:?}", heard[0]);
    }
}

#[test]
fn what_is_half_typed_survives_a_line_that_arrives() {
    let (_server, addr) = server("server", &[]);
    let terminal = openpty(None, None).unwrap();
    let mut keyboard = fs::File::from(terminal.master);
    let mut command = Command::new(LAB);
    command.args(["client", "ann", &addr.to_string()]);
    let mut ann = Role::spawn_on(&mut command, terminal.slave.into()).unwrap();
    ann.wait_for("> propose a word : ").unwrap();
    keyboard.write_all(b"rac").unwrap();
    let mut bob = Foreign::join("bob", addr);
    ann.wait_for("bob joins").unwrap();
    ann.wait_for("> propose a word : ").unwrap(); // asked again, below what arrived
    keyboard.write_all(b"ecar\n").unwrap();
    bob.hears("3 word ann _______");
    bob.say("c");
    bob.hears("4 letter bob c 2 __c_c__");
}

#[test]
fn a_name_is_checked_and_free_again_once_its_player_has_gone() {
    let (mut server, addr) = server("server", &[]);
    let mut first = Foreign::join("ann", addr);
    let mut second = Foreign::connect(addr);
    for (name, why) in [
        ("ann", "! there is a player ann already: another name"),
        ("", "! a name has 1 to 16 letters or digits"),
        ("two words", "! a name has 1 to 16 letters or digits"),
        ("-", "! a name has 1 to 16 letters or digits"),
    ] {
        second.say(name);
        second.hears(why);
    }
    let (code, stderr) = failed(Command::new(LAB).args(["client", "ann", &addr.to_string()]));
    let expected = "lab23: the server does not let us in: there is a player ann already: another name\n";
    assert_eq!((code, stderr.as_str()), (1, expected));
    first.say("word");
    first.hears("2 word ann ____");
    first.stream.shutdown(Shutdown::Both).unwrap();
    server.wait_for("3 left ann\n").unwrap();
    second.say("ann");
    second.hears("now 4 ____ - ann=0");
    assert_eq!(failed(Command::new(LAB).args(["client", "a,b"])).0, 2);
}

#[test]
fn more_clients_than_are_let_in_are_told_why_without_a_reset() {
    let (mut server, addr) = server("server", &["--max-clients", "2"]);
    let first = Foreign::join("ann", addr);
    let nameless = Foreign::connect(addr); // counts, too
    server.wait_for("> New connection").unwrap();
    server.wait_for("> New connection").unwrap();
    for _ in 0..20 {
        let mut third = Foreign::connect(addr);
        third.stream.write_all(&[b'x'; 50_000]).unwrap();
        assert_eq!(third.all_the_rest(), "! Server rejected due to too many clients\n");
    }
    let (code, stderr) = failed(Command::new(LAB).args(["client", "carl", &addr.to_string()]));
    let expected = "lab23: the server does not let us in: Server rejected due to too many clients\n";
    assert_eq!((code, stderr.as_str()), (1, expected));
    drop((first, nameless));
    server.wait_for("left ann").unwrap();
    wait_until("both places free", LIMIT, || {
        let mut next = Foreign::connect(addr);
        next.say("next");
        Ok(next.hear().starts_with("now ").then_some(()))
    })
    .unwrap();
}

#[test]
fn an_overlong_line_invalid_utf8_and_a_cut_line_change_nothing() {
    let (mut server, addr, _words) = game("tea\n");
    let mut witness = Foreign::join("witness", addr);
    let mut bob = Foreign::join("bob", addr);
    witness.hears("3 joined bob");
    bob.stream.write_all(&[&[b'x'; 4097][..], b"\nt\xff\n"].concat()).unwrap();
    bob.hears("! your line was thrown away: longer than 4096 bytes");
    bob.hears("! your line was thrown away: not UTF-8 from byte 1 on");
    for nonsense in ["", "tea", "1", "\u{1b}[2J", "e\u{301}"] {
        bob.say(nonsense);
        bob.hears("! a word is being guessed: propose one letter");
    }
    bob.stream.write_all(b"t").unwrap();
    bob.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(bob.all_the_rest(), "");
    witness.hears("4 left bob");
    server.wait_for(" (its last line has no end, and does not count)...\n").unwrap();
    witness.say("t");
    witness.hears("5 letter witness t 1 t__");
}

#[test]
fn one_who_resets_or_never_reads_is_dropped_and_the_others_hear_of_it() {
    let (mut server, addr) = server("whiteboard", &[]);
    let idle = descriptors(server.pid());
    let mut ann = Foreign::join("ann", addr);
    let resets = Foreign::join("resets", addr);
    ann.hears("2 joined resets");
    let sock = socket2::Socket::from(resets.stream.try_clone().unwrap());
    sock.set_linger(Some(Duration::ZERO)).unwrap();
    drop((sock, resets));
    ann.hears("3 left resets");
    server.wait_for("]: ECONNRESET (104) Connection reset by peer\n").unwrap();
    let silent = Foreign::join("silent", addr);
    ann.hears("4 joined silent");
    let strokes = "59 19 #\n".repeat(2000);
    let mut heard = 4;
    let mut gone = false;
    while !gone {
        assert!(heard < 1_500_000, "more than 35 MB, and it is still in");
        ann.stream.write_all(strokes.as_bytes()).unwrap();
        let until = heard + 2000;
        while heard < until {
            heard += 1;
            let line = ann.hear();
            let left = line == format!("{heard} left silent");
            assert!(left || line == format!("{heard} stroke ann 59 19 #"), "{line}");
            gone |= left;
        }
    }
    server.wait_for(": it does not read; 256 KiB wait\n").unwrap();
    drop((silent, ann));
    wait_until("all descriptors back", LIMIT, || Ok((descriptors(server.pid()) == idle).then_some(()))).unwrap();
}

#[test]
fn a_client_without_a_newline_or_a_name_delays_nobody() {
    let (_server, addr, _words) = game("tea\n");
    let mut silent = Foreign::connect(addr);
    silent.stream.write_all(b"no newline").unwrap();
    let mut ann = Foreign::join("ann", addr);
    ann.say("t");
    ann.hears("3 letter ann t 1 t__");
    silent.say(""); // the newline, and a name with a blank in it
    silent.hears("! a name has 1 to 16 letters or digits");
}

#[test]
fn strokes_in_a_pipe_come_back_numbered_and_the_picture_at_the_end() {
    let (_server, addr) = server("whiteboard", &[]);
    let folder = TempDir::new();
    let draw = |name: &str, strokes: &str| {
        let file = folder.path().join(name);
        fs::write(&file, strokes).unwrap();
        let into = "exec \"$0\" draw \"$1\" \"$2\" < \"$3\"";
        let finished = run(Command::new("bash").args(["-c", into, LAB, name, &addr.to_string()]).arg(file));
        assert_eq!(finished.code(), 0, "{}", finished.stderr);
        finished.stdout
    };
    let shown = draw("ann", "0 0 A\n59 19 z\n60 0 x\nnonsense\n1 0 \n2 0 B");
    assert!(shown.contains("2 stroke ann 0 0 A\n") && shown.contains("3 stroke ann 59 19 z\n"), "{shown}");
    assert!(shown.contains("> outside of the picture: X is 0 to 59, Y is 0 to 19\n"), "{shown}");
    assert_eq!(shown.matches("> a stroke is X Y CHARACTER, such as 3 4 #\n").count(), 2, "{shown}");
    let picture: Vec<&str> = shown.lines().filter(|line| line.starts_with('|')).collect();
    assert_eq!((picture.len(), picture[0]), (20, format!("|A B{}|", " ".repeat(57)).as_str())); // the last line counts
    assert!(picture[19].ends_with("z|"));
    // Many at once: nobody is dropped by the answers to its own lines.
    let many: String = (0..60_000).map(|at| format!("{} {} {}\n", at % 60, at / 60 % 20, at % 10)).collect();
    let shown = draw("bob", &many);
    assert!(shown.ends_with("|\n> Closing client...\n"), "{}", &shown[shown.len() - 200..]);
    assert_eq!(shown.matches(" stroke bob ").count(), 60_000);
}

/// `draw` on a terminal of its own: what it shows there, escape sequences and all.
struct Board {
    child: std::process::Child,
    pty: Pty,
    shown: String,
}

impl Board {
    fn draw(name: &str, addr: SocketAddr, columns: u16) -> Board {
        let pty = Pty::open(columns, 24);
        let child = pty.spawn(Command::new(LAB).args(["draw", name, &addr.to_string()]));
        Board { child, pty, shown: String::new() }
    }

    fn wait_for(&mut self, text: &str) {
        let seen = wait_until(text, LIMIT, || {
            self.shown += &self
                .pty
                .output
                .try_iter()
                .map(|chunk| String::from_utf8_lossy(&chunk).into_owned())
                .collect::<String>();
            Ok(self.shown.contains(text).then_some(()))
        });
        seen.unwrap_or_else(|error| panic!("{error:#}; shown: {:?}", self.shown));
    }

    fn type_text(&mut self, text: &str) {
        self.pty.keyboard.write_all(text.as_bytes()).unwrap();
    }

    /// The terminal shows each key by itself, and gives lines away.
    fn is_usual(&self) -> bool {
        let flags = tcgetattr(&self.pty.side).unwrap().local_flags;
        flags.contains(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG)
    }

    /// Its exit status; the terminal is as it was.
    fn end(&mut self, last: &str) -> Option<i32> {
        let status = wait_until("the end", LIMIT, || Ok(self.child.try_wait()?)).unwrap();
        self.wait_for(last);
        for restored in ["\x1b[?1006l", "\x1b[?1049l", "\x1b[?25h"] {
            self.wait_for(restored); // no mouse, the usual screen, a cursor
        }
        assert!(self.is_usual(), "the terminal is left raw");
        status.code()
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        let _ = self.child.kill(); // ESRCH: it has ended
        let _ = self.child.wait();
    }
}

/// A row of the picture with this text in its middle.
fn row(text: &str) -> String {
    format!("|{}{text}{}|", " ".repeat(30), " ".repeat(30 - text.len()))
}

#[test]
fn two_screens_show_the_same_picture_by_keys_and_mouse() {
    let (_server, addr) = server("whiteboard", &[]);
    let (mut ann, mut bob) = (Board::draw("ann", addr, 80), Board::draw("bob", addr, 80));
    for screen in [&mut ann, &mut bob] {
        screen.wait_for("Ctrl-C leaves");
        assert!(!screen.is_usual());
    }
    ann.type_text("X");
    [&mut ann, &mut bob].into_iter().for_each(|screen| screen.wait_for(&row("X")));
    bob.type_text("\x1b[<0;33;12M"); // the mouse, one cell to the right
    [&mut ann, &mut bob].into_iter().for_each(|screen| screen.wait_for(&row("X#")));
    ann.type_text("\x1b[C\x1b[C\x1b[CZ\x1b[D\x1b[D\x1b[D\x7f");
    [&mut ann, &mut bob].into_iter().for_each(|screen| screen.wait_for(&row(" # Z")));
    ann.type_text("\x03"); // Ctrl-C is a key here
    assert_eq!(ann.end("> Closing client..."), Some(0));
    bob.wait_for("left ann");
    bob.type_text("\x04");
    assert_eq!(bob.end("> Closing client..."), Some(0));
}

#[test]
fn whatever_ends_a_drawing_the_terminal_is_as_it_was() {
    let (mut server, addr) = server("whiteboard", &[]);
    let mut killed = Board::draw("killed", addr, 80);
    killed.wait_for("Ctrl-C leaves");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(killed.child.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(killed.end("> Closing client..."), Some(0));
    let mut small = Board::draw("small", addr, 40);
    small.wait_for("the white-board needs 62 x 23");
    server.wait_for("joined small").unwrap();
    let mut twin = Board::draw("small", addr, 80);
    assert_eq!(twin.end("lab23: the server does not let us in: there is a player small already"), Some(1));
    interrupt(&mut server);
    assert_eq!(small.end("> The server has closed the connection"), Some(0));
    for (says, why) in
        [("HTTP/1.1 400 Bad Request\n", "this line has no number"), ("", "closed the connection at once")]
    {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut lost = Board::draw("lost", listener.local_addr().unwrap(), 80);
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(says.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(lost.end(why), Some(1));
    }
    let (game, addr) = self::server("server", &[]);
    let mut wrong = Board::draw("wrong", addr, 80);
    assert_eq!(wrong.end("this is no picture of 60 x 20 cells"), Some(1));
    drop(game);
}

#[test]
fn a_server_that_is_none_is_reported_and_the_client_fails() {
    for (says, why) in [
        ("HTTP/1.1 400 Bad Request\n", "lab23: this is no server of this lab: this line has no number"),
        ("now 1 - -\n", "lab23: this is no server of this lab: this is no state of the game"),
        ("now 1 - - ann=0\n3 left bob\n", "lab23: this is no server of this lab: event 2 is missing"),
        ("\u{1b}[2J\n", "lab23: this is no server of this lab: this line has no number: \"\\u{1b}[2J\""),
        ("", "lab23: the server has closed the connection at once"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let asked = thread::spawn(move || failed(Command::new(LAB).args(["client", "ann", &addr])));
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(says.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let (code, stderr) = asked.join().unwrap();
        assert!(code == 1 && stderr.starts_with(why), "{says:?}: {code} {stderr}");
    }
}

#[test]
fn any_program_that_sends_lines_is_a_player() {
    let python = "import socket,sys\ns=socket.create_connection(('127.0.0.1',int(sys.argv[1])))\nf=s.makefile('rw')\n\
                  for line in sys.stdin:\n f.write(line)\n f.flush()\n print(f.readline(),end='',flush=True)";
    for (tool, args) in [
        ("nc", vec!["-N", "127.0.0.1"]),
        ("ncat", vec!["127.0.0.1"]),
        ("socat", vec!["-"]),
        ("python3", vec!["-c", python]),
    ] {
        if skip_without(!have(tool), tool, "apt-get install netcat-openbsd ncat socat python3") {
            continue;
        }
        let (mut server, addr, _words) = game("tea\n");
        let mut command = Command::new(tool);
        command.args(args);
        if tool == "socat" {
            command.arg(format!("TCP4:{addr}"));
        } else {
            command.arg(addr.port().to_string());
        }
        let mut peer = Role::spawn(&mut command).unwrap();
        peer.type_line("ann").unwrap();
        peer.wait_for("now 2 ___ - ann=0\n").unwrap();
        peer.type_line("a").unwrap();
        peer.wait_for("3 letter ann a 1 __a\n").unwrap();
        peer.input = None;
        server.wait_for("left ann\n").unwrap();
        peer.wait_for_end().unwrap();
    }
}

#[test]
fn two_thousand_random_byte_strings_leave_the_servers_as_they_were() {
    for which in ["server", "whiteboard"] {
        let (mut server, addr) = server(which, &["--max-clients", "10000"]);
        let before = descriptors(server.pid());
        let config = ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() };
        let bytes = vec(any::<u8>().prop_map(|byte| if byte % 8 == 0 { b'\n' } else { byte % 128 }), 0..100);
        let outcome = TestRunner::new(config).run(&(bytes, any::<bool>()), |(bytes, in_good_order)| {
            let mut stream = TcpStream::connect(addr)?;
            stream.set_read_timeout(Some(LIMIT))?;
            stream.write_all(&bytes)?;
            if in_good_order {
                stream.shutdown(Shutdown::Write)?;
                stream.read_to_end(&mut Vec::new())?;
            }
            Ok(())
        });
        outcome.unwrap();
        drop(Foreign::join("witness", addr));
        wait_until("all descriptors closed", LIMIT, || Ok((descriptors(server.pid()) == before).then_some(())))
            .unwrap();
        interrupt(&mut server);
    }
}

#[test]
fn without_a_free_descriptor_whoever_connects_waits_and_gets_in_later() {
    // bash's own ulimit, then the server in its place: 0, 1, 2, signalfd, listener, and room for three clients.
    let mut limited = Command::new("bash");
    limited.args(["-c", "ulimit -n 8; exec \"$0\" server 0", LAB]);
    let mut server = Role::spawn(&mut limited).unwrap();
    let banner = server.line_with("> Server bound to IP : ").unwrap();
    let addr = SocketAddr::from(([127, 0, 0, 1], banner.rsplit(' ').next().unwrap().parse().unwrap()));
    let mut inside: Vec<_> = ["ann", "bob", "carl"].map(|name| Foreign::join(name, addr)).into();
    let mut waiting = Foreign::connect(addr);
    waiting.say("dora");
    server.wait_for("> accept: EMFILE (24) Too many open files; whoever connects now waits\n").unwrap();
    inside.pop();
    assert!(waiting.hear().starts_with("now "));
}

#[test]
fn ctrl_c_ends_each_role_wherever_it_waits() {
    testkit::one_processor();
    let (mut server, addr) = server("server", &[]);
    let mut ann = client("ann", addr);
    interrupt(&mut ann);
    ann.wait_for("> Closing client...\n").unwrap();
    let mut silent = TcpListener::bind("127.0.0.1:0").unwrap();
    for role in ["client", "draw"] {
        let to = silent.local_addr().unwrap().to_string();
        let mut waiting = Role::spawn(Command::new(LAB).args([role, "ann", &to])).unwrap();
        let (stream, _) = silent.accept().unwrap();
        signal(&waiting, Signal::SIGTERM); // before it was let in
        let mut name = String::new();
        (&stream).read_to_string(&mut name).unwrap(); // its FIN
        assert!(name == "ann\n" || name.is_empty(), "{name:?}");
        drop(stream);
        ends_well(&mut waiting);
        silent = TcpListener::bind("127.0.0.1:0").unwrap();
    }
    let mut player = Foreign::join("bob", addr);
    signal(&server, Signal::SIGINT);
    assert_eq!(player.hear(), "");
    drop(player);
    ends_well(&mut server);
    // Its port is free for the next run, TIME-WAIT or not.
    let mut again = Role::spawn(Command::new(LAB).args(["server", &addr.to_string()])).unwrap();
    again.wait_for("> Server bound to").unwrap();
}

#[test]
fn pause_waits_before_each_call() {
    for (role, calls) in [
        (&["server", "0"][..], &["socket(AF_INET, SOCK_STREAM, 0)", "setsockopt(", "bind(", "listen("][..]),
        (&["whiteboard", "0"], &["socket(AF_INET, SOCK_STREAM, 0)", "setsockopt(", "bind(", "listen("]),
    ] {
        let mut server = Role::spawn(Command::new(LAB).args(role).arg("--pause")).unwrap();
        step(&mut server, calls);
        server.wait_for("> Server bound to").unwrap();
    }
    let (_server, addr) = server("server", &[]);
    let mut client = Role::spawn(Command::new(LAB).args(["client", "ann", &addr.to_string(), "--pause"])).unwrap();
    step(&mut client, &["socket(", "connect(", "send(", "recv("]);
    client.wait_for("you are in").unwrap();
}

#[test]
fn bad_arguments_and_addresses_are_refused_with_what_helps() {
    let refused = |args: &[&str]| failed(Command::new(LAB).args(args));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    for which in ["server", "whiteboard"] {
        let (code, stderr) = refused(&[which, &addr]);
        let expected = format!("lab23: bind {addr}: EADDRINUSE (98) Address already in use\n  hint: ");
        assert!(code == 1 && stderr.starts_with(&expected), "{stderr}");
        let (code, stderr) = refused(&[which, "192.0.2.1"]);
        assert!(code == 1 && stderr.contains(": EADDRNOTAVAIL (99) "), "{stderr}");
        assert_eq!(refused(&[which, "77777"]).0, 2);
        assert_eq!(refused(&[which, "--max-clients", "0"]).0, 2);
    }
    let (_nobody, addr) = nobody();
    let addr = addr.to_string();
    for role in ["client", "draw"] {
        let (code, stderr) = refused(&[role, "ann", &addr]);
        let expected = format!("lab23: connect {addr}: ECONNREFUSED (111) Connection refused\n  hint: ");
        assert!(code == 1 && stderr.starts_with(&expected), "{stderr}");
        let (code, stderr) = refused(&[role, "ann", "no-such-host.invalid"]);
        assert!(code == 1 && stderr.starts_with("lab23: getaddrinfo no-such-host.invalid: "), "{stderr}");
        for usage in [&[role][..], &[role, "a b"], &[role, "ann", "0"], &[role, "ann", "127.0.0.1:65536"]] {
            assert_eq!(refused(usage).0, 2, "{usage:?}");
        }
    }
    let folder = TempDir::new();
    let file = folder.path().join("words");
    fs::write(&file, "good\nnot good\n").unwrap();
    let path = file.to_str().unwrap();
    let (code, stderr) = refused(&["server", "0", "--words", path]);
    assert_eq!(
        (code, stderr),
        (1, format!("lab23: {path}: \"not good\": a word has 1 to 32 letters and nothing else\n"))
    );
    let (code, stderr) = refused(&["server", "0", "--words", "/no/such/file"]);
    assert!(
        code == 1 && stderr.starts_with("lab23: read /no/such/file: ENOENT (2) No such file or directory"),
        "{stderr}"
    );
}

#[test]
fn ipv6_and_a_name_reach_the_server() {
    if testkit::without_ipv6() {
        return;
    }
    for (bind, host) in [("[::1]:0", "[::1]"), ("0", "localhost")] {
        let mut server = Role::spawn(Command::new(LAB).args(["server", bind])).unwrap();
        let banner = server.line_with("> Server bound to IP : ").unwrap();
        let place = format!("{host}:{}", banner.rsplit(' ').next().unwrap());
        let mut ann = Role::spawn(Command::new(LAB).args(["client", "ann", &place])).unwrap();
        ann.wait_for("you are in").unwrap();
    }
}

#[test]
fn settings_of_other_machines_change_no_verdict() {
    if skip_without(!(NAMESPACE.met)(), NAMESPACE.what, NAMESPACE.provided_by) {
        return;
    }
    for setting in [
        "net.ipv4.tcp_wmem='4096 4096 4096' net.ipv4.tcp_rmem='4096 4096 4096'",
        "net.ipv4.tcp_wmem='65536 65536 65536' net.ipv4.tcp_rmem='65536 65536 65536' net.core.somaxconn=1",
    ] {
        let set = format!("ip link set lo up && sysctl -qw {setting} && exec \"$0\"");
        let demo = run(Command::new("unshare").args(["-Urn", "sh", "-c", &set, LAB]));
        assert!(demo.code() == 0 && demo.stdout.contains(" 0 SKIPPED, 0 UNEXPECTED"), "{setting}: {demo:?}");
    }
}
