//! `vote`: the class votes on a demo's questions; real programs, real sockets, and a real browser where there is one.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use testkit::{Role, TempDir, Terminal, built, failed, have, root, run, wait_until};

const LAB: &str = env!("CARGO_BIN_EXE_lab00-scope");
const LIMIT: Duration = Duration::from_secs(20);

/// The program of a quick lab.
fn played() -> PathBuf {
    let beside = Path::new(LAB).with_file_name("lab09-shutdown");
    if beside.is_file() { beside } else { built().join("lab09-shutdown") }
}

fn vote(save: &Path, more: &[&str], names: &[&str]) -> Command {
    let mut command = Command::new(LAB);
    command.args(["vote", "--listen", "127.0.0.1:0", "--save"]).arg(save).args(more);
    command.arg("--").arg(played()).arg("demo").args(names);
    command
}

/// A lecture on a terminal, and where its page is.
struct Lecture {
    screen: Terminal,
    addr: SocketAddr,
    save: PathBuf,
    _folder: TempDir,
}

impl Lecture {
    fn begin(more: &[&str], names: &[&str], (columns, rows): (u16, u16)) -> Lecture {
        let folder = TempDir::new();
        let save = folder.path().join("votes.csv");
        let mut screen = Terminal::start(&mut vote(&save, more, names), columns, rows);
        screen.wait_for("go to     http://");
        let addr = screen.wait_for("\n").parse().unwrap();
        screen.wait_for("0 here   [Enter] begin");
        Lecture { screen, addr, save, _folder: folder }
    }

    /// Presses a key and waits for this.
    fn press(&mut self, key: &str, expected: &str) -> String {
        self.screen.type_text(key);
        self.screen.wait_for(expected)
    }

    fn saved(&self) -> String {
        fs::read_to_string(&self.save).unwrap()
    }
}

/// One request on a connection of its own: status, head and body.
fn exchange(addr: SocketAddr, request: &str) -> (u16, String, String) {
    let mut sock = TcpStream::connect(addr).unwrap();
    sock.set_read_timeout(Some(LIMIT)).unwrap();
    sock.write_all(request.as_bytes()).unwrap();
    answer(&mut sock)
}

fn answer(sock: &mut TcpStream) -> (u16, String, String) {
    let mut bytes = Vec::new();
    sock.read_to_end(&mut bytes).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    (head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0), head.into(), body.into())
}

fn get(addr: SocketAddr, path: &str, voter: u128) -> String {
    exchange(addr, &format!("GET {path} HTTP/1.0\r\nHost: {addr}\r\nCookie: voter={voter:032x}\r\n\r\n")).2
}

fn vote_request(addr: SocketAddr, voter: u128, question: usize, round: usize, answer: char) -> String {
    let form = format!("question={question}&round={round}&answer={answer}");
    let head =
        format!("POST /part HTTP/1.0\r\nHost: {addr}\r\nOrigin: http://{addr}\r\nContent-Length: {}", form.len());
    format!("{head}\r\nCookie: voter={voter:032x}\r\n\r\n{form}")
}

/// The number of the question that stands.
fn question(addr: SocketAddr) -> usize {
    let page = get(addr, "/part", 0);
    let (_, rest) = page.split_once("name=\"question\" value=\"").unwrap();
    rest.split('"').next().unwrap().parse().unwrap()
}

fn votes(addr: SocketAddr, voter: u128, question: usize, round: usize, answer: char) -> u16 {
    exchange(addr, &vote_request(addr, voter, question, round, answer)).0
}

/// The first lines of the answers, each without its letter and its text: they must not differ.
fn shape_of_answers(page: &str) -> Vec<String> {
    let answers =
        page.lines().filter(|line| line.starts_with("<button") || line.starts_with("<li>") || line.starts_with("<li "));
    let shape = |line: &str| {
        let (head, rest) = line.split_once("<b>").unwrap();
        format!("{}{}", head.replace(|c: char| "abcdef".contains(c), ""), &rest[rest.find("</span>").unwrap()..])
    };
    answers.map(shape).collect()
}

#[test]
fn a_whole_demo_is_voted_on_and_both_histograms_stand_below_each_verdict() {
    let mut lecture = Lecture::begin(&[], &["1", "2"], (80, 36));
    let addr = lecture.addr;
    assert!(get(addr, "/", 1).contains("No question stands now."));
    lecture.press("\n", "0 voted, 1 here   [Enter] close vote 1");

    let q = question(addr);
    let hidden = |page: String| {
        let shapes = shape_of_answers(&page);
        assert!(shapes.len() > 1 && shapes.iter().all(|shape| *shape == shapes[0]), "{page}");
        let told = ["right", "CONFIRMED", "CORRECTED", "ANSWERED", "verdict"].iter().find(|word| page.contains(**word));
        assert_eq!(told, None, "{page}");
    };
    let everything = || ["/", "/part"].iter().for_each(|path| hidden(get(addr, path, 99)));
    assert!(get(addr, "/", 1).contains("Vote 1 of 2 is open. Tap your answer."));
    everything();
    assert_eq!(
        [(1, 'a'), (2, 'b'), (2, 'c'), (3, 'b')].map(|(voter, answer)| votes(addr, voter, q, 1, answer)),
        [200; 4]
    );
    assert_eq!([votes(addr, 1, q, 1, 'f'), votes(addr, 1, q + 1, 1, 'a'), votes(addr, 1, q, 2, 'a')], [400, 409, 409]);
    lecture.screen.wait_for("3 voted, ");
    let hidden_at_first = lecture.press("\n", "[Enter] vote again");
    assert!(hidden_at_first.contains("votes        3 voted   (h shows"), "{hidden_at_first}");
    assert!(!hidden_at_first.contains('%'), "nobody follows the majority: {hidden_at_first}");
    let histogram = lecture.press("h", "[Enter] vote again");
    assert!(histogram.contains("votes        3 voted") && histogram.contains("  1  33 %"), "{histogram}");
    assert!(!lecture.press("h", "[Enter] vote again").contains('%'));
    everything();
    let late = exchange(addr, &vote_request(addr, 1, q, 1, 'b'));
    assert!(late.0 == 409 && late.2.starts_with("Too late: that vote is closed."), "{late:?}");
    assert!(get(addr, "/part", 2).contains("<i>your vote 1</i>"));
    lecture.press("\n", "0 voted, ");
    everything();
    assert_eq!([1, 2].map(|voter| votes(addr, voter, q, 2, 'a')), [200; 2]);
    lecture.screen.wait_for("2 voted, ");
    let both = lecture.press("\n", "[Enter] let the kernel decide");
    assert!(both.contains("vote 1: 3 voted") && both.contains("vote 2: 2 voted"), "{both}");
    assert_eq!(lecture.saved().lines().count(), 1, "nothing is kept before the verdict");
    let decided = lecture.press("\n", "[Enter] go on   (r again");
    let below = decided.split_once("\nverdict   CONFIRMED  a) ").unwrap().1;
    assert!(below.contains("votes        vote 1: 3 voted") && below.contains("vote 2: 2 voted"), "{decided}");
    assert!(below.contains("\nright     a  "), "{decided}");
    let revealed = get(addr, "/part", 2);
    assert!(revealed.starts_with("The kernel has decided: a.\n\n") && revealed.contains("<li class=\"right\"><b>a)"));

    // Played again, the class knows the answer: no vote. Skipped at the next question: its votes are kept unjudged.
    lecture.press("r", "[Enter] let the kernel decide");
    lecture.press("\n", "[Enter] go on   (r again");
    lecture.press("\n", "0 voted, ");
    assert!(get(addr, "/part", 2).starts_with("Vote 1 of 2 is open."), "a phone that slept sees the present question");
    assert_eq!([votes(addr, 1, q, 2, 'a'), votes(addr, 1, q + 1, 1, 'b')], [409, 200]);
    lecture.press("r", "0 voted, "); // begun again: a new vote
    assert_eq!([votes(addr, 1, q + 1, 1, 'b'), votes(addr, 1, q + 2, 1, 'b')], [409, 200]);
    lecture.screen.wait_for("1 voted, ");
    lecture.press("?", "k: the kernel decides now");
    lecture.screen.wait_for("[Enter] back");
    let again = lecture.press("\n", "1 voted, ");
    assert!(again.contains("vote at   http://"), "the address and its code come back: {again}");
    lecture.press("c", "[Enter] back");
    lecture.press("\n", "1 voted, ");
    lecture.press("s", "by round");
    lecture.screen.wait_for("[Enter] end");
    assert!(get(addr, "/", 1).contains("That was the last question."));
    lecture.screen.type_text("\n");
    assert_eq!(lecture.screen.end().code(), Some(0));
    let saved = lecture.saved();
    let rows: Vec<&str> = saved.lines().collect();
    assert_eq!(rows[0], "lab,experiment,question,letter,answer,round,votes,right");
    let of = |experiment: &str| rows.iter().filter(|row| row.contains(experiment)).copied().collect::<Vec<_>>();
    let (first, second) = (of(",half-close,"), of(",shut-rd,"));
    assert!(first.len() == 6 && first.iter().filter(|row| row.ends_with(",yes")).count() == 2, "{saved}");
    assert!(
        first[0].contains(",a,all of it") && first[0].ends_with(",1,1,yes") && first[3].ends_with(",2,2,yes"),
        "{saved}"
    );
    assert!(rows.len() == 7 + second.len() && second.iter().all(|row| row.ends_with(',')), "{saved}");
}

#[test]
fn the_kernel_may_decide_without_a_second_vote_and_a_demo_may_be_left_at_any_prompt() {
    let mut lecture = Lecture::begin(&["--rounds", "1"], &["1", "2"], (80, 36));
    lecture.press("\n", "[Enter] close vote   ");
    assert_eq!(votes(lecture.addr, 1, question(lecture.addr), 1, 'b'), 200);
    let decided = lecture.press("k", "[Enter] go on   (r again");
    assert!(decided.contains("votes        1 voted"), "{decided}");
    lecture.press("q", "[Enter] end");
    lecture.screen.type_text("q");
    assert_eq!(lecture.screen.end().code(), Some(0));
    assert_eq!(lecture.saved().lines().count(), 4);
}

#[test]
fn question_and_answers_are_the_same_on_every_width() {
    let shown = [60, 80, 100, 140].map(|columns| {
        let mut lecture = Lecture::begin(&[], &["1"], (columns, 40));
        lecture.press("\n", "0 voted");
        let page = get(lecture.addr, "/part", 1).replace(&question(lecture.addr).to_string(), "");
        lecture.press("q", "[Enter] end");
        page
    });
    assert!(shown[0].contains("<legend>The server reads to the end and answers with 10 MB. How much of it does the"));
    assert!(shown.iter().all(|page| *page == shown[0]), "{shown:#?}");
}

/// The processes whose parent this is.
fn children(parent: i32) -> Vec<String> {
    let listed = run(Command::new("ps").args(["-o", "pid=", "--ppid", &parent.to_string()])).stdout;
    listed.lines().map(|line| line.trim().to_string()).collect()
}

#[test]
fn ctrl_c_keeps_the_votes_and_leaves_nothing_running() {
    let folder = TempDir::new();
    let save = folder.path().join("votes.csv");
    let mut role = Role::spawn(&mut vote(&save, &[], &["1"])).unwrap();
    role.wait_for("http://").unwrap();
    let addr = role.wait_for("\n").unwrap().parse().unwrap();
    role.wait_for("begin").unwrap();
    role.type_line("").unwrap();
    role.wait_for("close vote 1").unwrap();
    let demos = children(role.pid().as_raw());
    assert_eq!(demos.len(), 1);
    assert_eq!(votes(addr, 1, question(addr), 1, 'b'), 200);
    testkit::signal(&role, nix::sys::signal::Signal::SIGINT);
    assert_eq!(role.wait_for_end().unwrap().signal(), Some(2), "130 to a shell");
    let printed = role.printed();
    assert!(printed.contains("by round") && printed.is_ascii(), "{printed}");
    assert!(
        fs::read_to_string(&save)
            .unwrap()
            .lines()
            .any(|row| row.ends_with(",b,one buffer full: its kernel acknowledges no more,1,1,"))
    );
    let gone = || Ok((!Path::new(&format!("/proc/{}", demos[0])).exists()).then_some(()));
    wait_until("the demo's end", LIMIT, gone).unwrap();
}

#[test]
fn the_end_of_the_input_ends_the_lecture_and_none_at_all_is_a_mistake() {
    let folder = TempDir::new();
    let save = folder.path().join("votes.csv");
    let mut role = Role::spawn(&mut vote(&save, &[], &["1", "2"])).unwrap();
    role.wait_for("begin").unwrap();
    role.type_line("").unwrap();
    role.wait_for("close vote 1").unwrap();
    role.input = None;
    assert_eq!(role.wait_for_end().unwrap().code(), Some(0), "{}", role.printed());

    let (code, stderr) = failed(&mut vote(&save, &[], &["1"]));
    assert_eq!((code, stderr.as_str()), (2, "lab00: vote waits for Enter, and standard input has ended\n"));
}

#[test]
fn a_killed_vote_takes_its_demo_with_it() {
    let folder = TempDir::new();
    let mut role = Role::spawn(&mut vote(&folder.path().join("votes.csv"), &[], &["1"])).unwrap();
    role.wait_for("begin").unwrap();
    role.type_line("").unwrap();
    role.wait_for("close vote 1").unwrap();
    let demos = children(role.pid().as_raw());
    // What it starts itself must not take this program for its parent: lab17's clients would end at once.
    let environment = fs::read(format!("/proc/{}/environ", demos[0])).unwrap();
    assert!(!String::from_utf8_lossy(&environment).contains("LAB_PARENT="));
    drop(role); // SIGKILL
    let gone = || Ok((!Path::new(&format!("/proc/{}", demos[0])).exists()).then_some(()));
    wait_until("the demo's end", LIMIT, gone).unwrap();
}

#[test]
fn five_hundred_vote_at_once() {
    let mut lecture = Lecture::begin(&[], &["1"], (80, 36));
    lecture.press("\n", "0 voted");
    let addr = lecture.addr;
    let q = question(addr);
    let mut socks: Vec<TcpStream> = (0..500).map(|_| TcpStream::connect(addr).unwrap()).collect();
    for (voter, sock) in socks.iter_mut().enumerate() {
        let answer = if voter % 5 == 0 { 'a' } else { 'b' };
        sock.set_read_timeout(Some(LIMIT)).unwrap();
        sock.write_all(vote_request(addr, voter as u128, q, 1, answer).as_bytes()).unwrap();
    }
    assert!(socks.iter_mut().all(|sock| answer(sock).0 == 200));
    lecture.screen.wait_for("500 voted, 500 here");
    lecture.press("\n", "[Enter] vote again");
    let histogram = lecture.press("h", "[Enter] vote again");
    assert!(histogram.contains("100  20 %") && histogram.contains("400  80 %"), "{histogram}");
}

#[test]
fn hostile_peers_are_refused_and_delay_nobody() {
    let mut lecture = Lecture::begin(&[], &["1"], (80, 36));
    lecture.press("\n", "0 voted");
    let addr = lecture.addr;
    let q = question(addr);
    // Some say nothing, some only half a request; all of them stay.
    let mut slow: Vec<TcpStream> = (0..300).map(|_| TcpStream::connect(addr).unwrap()).collect();
    for sock in slow.iter_mut().take(200) {
        sock.write_all(b"POST /part HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 28\r\n\r\nquest").unwrap();
    }
    // One browser floods, one peer sends what is no request.
    let flood = thread::spawn(move || {
        let statuses = (0..2000).map(|_| votes(addr, 7, q, 1, 'a')).collect::<Vec<_>>();
        statuses.into_iter().filter(|status| *status == 429).count()
    });
    let noise = thread::spawn(move || {
        let mut random = shared::SplitMix64::new(19);
        for _ in 0..2000 {
            let bytes: Vec<u8> = (0..random.draw() % 3000).map(|_| random.draw() as u8).collect();
            let mut sock = TcpStream::connect(addr).unwrap();
            let _ = sock.write_all(&bytes).and_then(|()| sock.write_all(b"\r\n\r\n")); // EPIPE: refused already
        }
    });
    for voter in 100..200 {
        assert_eq!(votes(addr, voter, q, 1, 'b'), 200);
    }
    assert!(flood.join().unwrap() > 1000, "the flood was refused");
    noise.join().unwrap();
    // Meanwhile the slow ones were there, and each is told in the end.
    let mut answered = 0;
    for sock in &mut slow {
        sock.set_read_timeout(Some(LIMIT)).unwrap();
        answered += usize::from(answer(sock).0 == 408);
    }
    assert_eq!(answered, 200, "half a request is told that it took too long; a silent peer is only ended");

    for (request, status) in [
        ("GET /secret HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n".to_string(), 404),
        ("GET / HTTP/1.0\r\nHost: evil.example\r\n\r\n".into(), 421),
        (format!("POST /vote HTTP/1.0\r\nHost: {addr}\r\nContent-Length: 5000\r\n\r\n"), 413),
        (
            vote_request(addr, 8, q, 1, 'b').replace(&format!("Origin: http://{addr}"), "Origin: http://evil.example"),
            403,
        ),
        (vote_request(addr, 8, q, 1, 'b').replace("Cookie", "No-Cookie"), 403),
        (vote_request(addr, 8, q, 1, 'b').replace("question=", "question=x"), 400),
    ] {
        assert_eq!(exchange(addr, &request).0, status, "{request}");
    }
    lecture.screen.wait_for("101 voted, ");
}

#[test]
fn a_kept_connection_serves_one_request_after_the_other() {
    let mut lecture = Lecture::begin(&[], &["1"], (80, 36));
    lecture.press("\n", "0 voted");
    let q = question(lecture.addr);
    let request = vote_request(lecture.addr, 5, q, 1, 'a').replace("HTTP/1.0", "HTTP/1.1");
    let last = vote_request(lecture.addr, 5, q, 1, 'b');
    let mut sock = TcpStream::connect(lecture.addr).unwrap();
    sock.write_all([request.repeat(5), last].concat().as_bytes()).unwrap();
    let (status, _, rest) = answer(&mut sock);
    assert_eq!((status, rest.matches("HTTP/1.1 200 OK").count()), (200, 5));
    assert!(rest.contains("your answer b is counted"), "{rest}");
}

#[test]
fn what_cannot_be_played_or_served_is_said() {
    let vote =
        |listen: &str, args: &[&str]| failed(Command::new(LAB).args(["vote", "--listen", listen, "--"]).args(args));
    let (code, stderr) = vote("0", &["lab97", "demo"]);
    assert!(code == 2 && stderr.starts_with("lab00: there is no lab97 in "), "{stderr}");
    let (code, stderr) = vote("0", &["chat", "demo"]);
    assert_eq!((code, stderr.as_str()), (2, "lab00: 'chat' is no lab: say lab07, or a path\n"));
    let lab = played();
    let lab = lab.to_str().unwrap();
    let (code, stderr) = vote("0", &[lab, "demo", "no-such"]);
    assert!(code == 2 && stderr.starts_with("lab09: no experiment 'no-such'; there are 1 to "), "{stderr}");
    let (code, stderr) = vote("0", &[lab, "demo", "--predict"]);
    assert!(code == 2 && stderr.contains("--predict is nothing to vote on"), "{stderr}");

    // Beside a program of its own that lacks the lab: the command that builds it.
    let folder = TempDir::new();
    let copy = folder.path().join("lab00-scope");
    assert!(Command::new("install").args(["-m", "755", LAB]).arg(&copy).status().unwrap().success());
    let (code, stderr) = failed(Command::new(&copy).args(["vote", "--", "lab07", "demo"]));
    assert!(code == 2 && stderr.ends_with("  hint: cargo build --bin lab07-multiclient\n"), "{stderr}");

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let (code, stderr) = vote(&addr, &[lab, "demo"]);
    let expected = format!("lab00: bind {addr}: EADDRINUSE (98) Address already in use\n  hint: ");
    assert!(code == 1 && stderr.starts_with(&expected), "{stderr}");
    let unwritable = Command::new(LAB)
        .args(["vote", "--listen", "0", "--save", "/no/such", "--", lab])
        .stdin(Stdio::null())
        .output();
    let stderr = String::from_utf8(unwritable.unwrap().stderr).unwrap();
    assert_eq!(stderr, "lab00: open /no/such: ENOENT (2) No such file or directory\n");
}

#[test]
fn two_browsers_vote_one_of_them_without_javascript() {
    if !have("chromedriver") || !have("chromium") || !have("python3") {
        // Not skip_without: chromium is large, and .ci/run does not install it.
        let _ = writeln!(
            std::io::stderr(),
            "SKIP a browser votes: chromedriver is missing (apt-get install chromium-driver)"
        );
        return;
    }
    let mut lecture = Lecture::begin(&[], &["1", "2"], (80, 36));
    let script = root().join("labs/lab00-scope/tests/browser.py");
    let mut browsers = Browsers(Role::spawn(Command::new("python3").arg(script)).unwrap());
    let mut ask = |command: &str| {
        browsers.0.type_line(command).unwrap();
        browsers.0.wait_for_within("= ", Duration::from_secs(60)).unwrap();
        browsers.0.wait_for("\n").unwrap()
    };
    let until = |ask: &mut dyn FnMut(&str) -> String, command: &str, expected: &str| {
        let seen = wait_until(expected, LIMIT, || Ok(ask(command).contains(expected).then_some(())));
        assert!(seen.is_ok(), "{command}: {} instead of {expected}", ask(command));
    };
    assert_eq!(ask(&format!("open one http://{}/", lecture.addr)), "open");
    assert_eq!(ask(&format!("open two http://{}/ noscript", lecture.addr)), "open");
    lecture.press("\n", "close vote 1");
    until(&mut ask, "said one", "Vote 1 of 2 is open. Tap your answer.");
    until(&mut ask, "said two", "Vote 1 of 2 is open. Tap your answer.");
    assert_eq!(ask("fits one"), "fits, 3 buttons");
    let listed = ask("list one");
    assert!(listed.starts_with("button [a) all of it: it can still receive] pressed=false; button [b) "), "{listed}");
    assert_eq!(ask("tap one b"), "tapped");
    until(&mut ask, "said one", "your answer b is counted");
    assert!(ask("list one").contains("pressed=true; button [c) "), "{listed}");
    assert_eq!(ask("keys two 1"), "pressed"); // Tab to the first answer, Enter
    until(&mut ask, "said two", "your answer a is counted");
    lecture.screen.wait_for("2 voted, 2 here");
    assert!(!ask("source one").contains("right"));
    lecture.press("\n", "[Enter] vote again");
    until(&mut ask, "said one", "Vote 1 of 2 is closed.");
    lecture.press("\n", "close vote 2");
    until(&mut ask, "said one", "Vote 2 of 2 is open.");
    assert_eq!(ask("tap one a"), "tapped");
    lecture.screen.wait_for("1 voted, ");
    lecture.press("\n", "let the kernel decide");
    lecture.press("\n", "[Enter] go on   (r again");
    until(&mut ask, "said one", "The kernel has decided: a.");
    ask("offline one"); // out of reach, as a phone that sleeps
    until(&mut ask, "said one", "does not answer. Trying again.");
    lecture.press("\n", "close vote 1");
    ask("online one");
    until(&mut ask, "said one", "Vote 1 of 2 is open.");
}

/// What drives the browsers; it ends them when its input ends.
struct Browsers(Role);

impl Drop for Browsers {
    fn drop(&mut self) {
        self.0.input = None;
        let _ = self.0.wait_for_end(); // else it is killed
    }
}
