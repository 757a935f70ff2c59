//! Runs the real binary: the demo, the programs against each other, curl and Python 3, and what goes wrong.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
    thread,
    time::Duration,
};

use kernel::State;
use socket2::{Domain, SockRef, Socket, Type};
use testkit::{
    Demo, Finished, Role, TempDir, Terminal, descriptors, ends_well, failed, have, interrupt, nobody, run,
    skip_without, step, wait_until,
};

const LAB: &str = env!("CARGO_BIN_EXE_lab20-downloads");
const LIMIT: Duration = Duration::from_secs(10);
static DEMO: LazyLock<Demo> = LazyLock::new(|| Demo::play(LAB));

/// The lecture's program of figure 4.2, for Python 3: a thread for each URL.
const LECTURE: &str = "
import sys, urllib.request
from threading import Thread
urllib.request.install_opener(urllib.request.build_opener(urllib.request.ProxyHandler({})))
def download(url):
    path, _ = urllib.request.urlretrieve(url, sys.argv[1] + '/' + url.split('/')[-1])
    print('Finished downloading', url.split('/')[-1], flush=True)
threads = [Thread(target=download, args=(url,)) for url in sys.argv[2:]]
for thread in threads: thread.start()
for thread in threads: thread.join()
";

/// The server on a port of the kernel's choice.
fn files(options: &[&str]) -> (Role, SocketAddr) {
    let mut server = Role::spawn(Command::new(LAB).args(["files", "0"]).args(options)).unwrap();
    let line = server.line_with(" bytes: http://").unwrap();
    let addr = line.split("http://").nth(1).unwrap().split('/').next().unwrap().parse().unwrap();
    (server, addr)
}

fn fetch(folder: &TempDir, options: &[&str]) -> Command {
    let mut command = Command::new(LAB);
    command.args(["fetch", "--to"]).arg(folder.path().join("here")).args(options);
    command
}

fn urls(addr: SocketAddr, count: u16) -> Vec<String> {
    (1..=count).map(|number| format!("http://{addr}/{number}.bin")).collect()
}

/// Fetches the first files of a server.
fn fetched(folder: &TempDir, addr: SocketAddr, count: u16, options: &[&str]) -> Finished {
    run(fetch(folder, options).args(urls(addr, count)))
}

/// What it printed, each blank and each end of a line as one blank.
fn flat(finished: &Finished) -> String {
    finished.stdout.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn here(folder: &TempDir, name: &str) -> PathBuf {
    folder.path().join("here").join(name)
}

fn names(folder: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(folder.path().join("here")).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A foreign client's request and all that comes until the server closes.
fn ask(addr: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// A server of one connection: reads a request, answers with these bytes and closes.
fn answers_once(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut conn, _) = listener.accept().unwrap();
        let (mut request, mut buffer) = (Vec::new(), [0; 1024]);
        while !request.ends_with(b"\r\n\r\n") {
            let bytes_read = conn.read(&mut buffer).unwrap();
            assert_ne!(bytes_read, 0);
            request.extend(&buffer[..bytes_read]);
        }
        conn.write_all(answer).unwrap();
    });
    addr
}

#[test]
fn the_demo_decides_every_claim_as_recorded() {
    DEMO.assert_verdicts(&[
        ("four-files", "CORRECTED"),
        ("one-link", "CORRECTED"),
        ("broken-halfway", "ANSWERED"),
        ("kept-connection", "ANSWERED"),
        ("more-threads", "ANSWERED"),
        ("hashing", "CONFIRMED"),
    ]);
}

#[test]
fn the_printed_calls_are_those_strace_saw() {
    testkit::assert_printed_calls_are_real_with(LAB, "files");
}

#[test]
fn the_command_line_keeps_the_rules_of_all_labs() {
    testkit::assert_common_rules(LAB, &["files", "0"], " bytes: http://");
}

#[test]
fn the_sheet_quotes_a_real_run() {
    testkit::assert_sheet_quotes_a_run("lab20-downloads", &DEMO);
}

#[test]
fn an_ordinary_account_can_do_everything_but_a_privileged_port() {
    testkit::assert_demo_needs_no_privileges(LAB);
    testkit::assert_privileged_port_is_refused(LAB, &["files", "1"], "127.0.0.1:1");
}

#[test]
fn stops_change_no_verdict() {
    testkit::assert_stops_change_no_verdict(LAB);
}

#[test]
fn on_one_processor_only_the_claim_about_two_is_skipped() {
    if skip_without(!have("taskset"), "taskset", "apt-get install util-linux") {
        return;
    }
    let experiments = ["demo", "four-files", "hashing"];
    let finished = run(Command::new("taskset").args(["-c", "0", LAB]).args(experiments));
    assert_eq!(finished.code(), 0, "{}", finished.stdout);
    assert!(finished.stdout.contains("needs two processors that this program may use"), "{}", finished.stdout);
    assert!(finished.stdout.contains(" 1 SKIPPED, 0 UNEXPECTED"), "{}", finished.stdout);
}

#[test]
fn the_demo_leaves_no_process_and_no_file_behind() {
    let folder = TempDir::new();
    let finished = run(Command::new(LAB).args(["broken-halfway", "kept-connection"]).env("TMPDIR", folder.path()));
    assert_eq!(finished.code(), 0, "{}", finished.stdout);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let marked = format!("TMPDIR={}", folder.path().display());
    let left = fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read(entry.ok()?.path().join("environ")).ok());
    assert_eq!(left.filter(|environ| String::from_utf8_lossy(environ).contains(&marked)).count(), 0);
}

#[test]
fn files_come_whole_in_a_row_and_in_threads_and_the_proxy_is_not_asked() {
    let (mut server, addr) = files(&["--seconds", "0", "--size", "100001", "--count", "5"]);
    let idle = descriptors(server.pid());
    let folder = TempDir::new();
    for options in [&["--threads", "1"][..], &["--threads", "3"], &["--threads", "5", "--close"]] {
        let nobody = "http://127.0.0.1:9";
        let finished = run(fetch(&folder, options).args(urls(addr, 5)).env("http_proxy", nobody));
        assert_eq!(finished.code(), 0, "{finished:?}");
        assert_eq!(finished.stdout.matches(": 100001 bytes, the checksum holds\n").count(), 5, "{finished:?}");
        assert!(finished.stdout.contains("\nTerminating, total time spent "), "{finished:?}");
        assert!(finished.stdout.lines().all(|line| line.len() < 80 || line.contains("here")), "{finished:?}");
        assert_eq!(names(&folder), ["1.bin", "2.bin", "3.bin", "4.bin", "5.bin"]);
        assert_eq!(fs::metadata(here(&folder, "5.bin")).unwrap().len(), 100_001);
    }
    wait_until("all descriptors back", LIMIT, || Ok((descriptors(server.pid()) == idle).then_some(()))).unwrap();
    interrupt(&mut server);
}

#[test]
fn one_connection_breaks_halfway_the_others_arrive_and_only_the_rest_is_fetched() {
    let (mut server, addr) = files(&["--seconds", "0.1", "--break", "3"]);
    let folder = TempDir::new();
    let first = fetched(&folder, addr, 4, &["--threads", "4"]);
    assert_eq!(first.code(), 1, "{first:?}");
    assert!(flat(&first).contains("Failed 3.bin: broken after 150000 of 300000 bytes"), "{first:?}");
    assert_eq!(names(&folder), ["1.bin", "2.bin", "3.bin.part", "4.bin"]);
    server.wait_for(" broken halfway, shutdown after 150000 bytes\n").unwrap();
    let again = fetched(&folder, addr, 4, &["--threads", "4", "--resume"]);
    assert_eq!(again.code(), 0, "{again:?}");
    assert!(flat(&again).contains("3.bin: 150000 bytes after 150000, the checksum holds"), "{again:?}");
    assert!(flat(&again).contains("1.bin is there already: 300000 bytes"), "{again:?}");
    server.wait_for("GET /3.bin 206: 150000 bytes from 150000 on\n").unwrap();
    assert_eq!(names(&folder), ["1.bin", "2.bin", "3.bin", "4.bin"]);
}

#[test]
fn a_part_that_is_whole_is_kept_and_one_that_is_wrong_is_not() {
    let (_server, addr) = files(&["--seconds", "0", "--size", "1000"]);
    let folder = TempDir::new();
    assert_eq!(fetched(&folder, addr, 1, &[]).code(), 0);
    let part = here(&folder, "1.bin.part");
    fs::rename(here(&folder, "1.bin"), &part).unwrap();
    let whole = fetched(&folder, addr, 1, &["--resume"]);
    assert!(whole.code() == 0 && flat(&whole).contains(": 0 bytes after 1000, the checksum holds"), "{whole:?}");
    fs::write(&part, b"another file").unwrap();
    fs::remove_file(here(&folder, "1.bin")).unwrap();
    let wrong = fetched(&folder, addr, 1, &["--resume"]);
    assert!(wrong.code() == 1 && flat(&wrong).contains("Failed 1.bin: the checksum is wrong"), "{wrong:?}");
    assert!(names(&folder).is_empty());
    fs::write(&part, vec![b'x'; 2000]).unwrap();
    let long = fetched(&folder, addr, 1, &["--resume"]);
    assert!(long.code() == 1 && flat(&long).contains("the server has less than"), "{long:?}");
    assert_eq!(fetched(&folder, addr, 1, &[]).code(), 0); // without --resume it begins anew
}

#[test]
fn curl_and_the_lectures_program_get_what_fetch_gets() {
    let (_server, addr) = files(&["--seconds", "0", "--size", "70000"]);
    let folder = TempDir::new();
    assert_eq!(fetched(&folder, addr, 4, &["--threads", "4"]).code(), 0);
    let ours = |number: u16| fs::read(here(&folder, &format!("{number}.bin"))).unwrap();
    if !skip_without(!have("curl"), "curl", "apt-get install curl") {
        let theirs = folder.path().join("curl");
        let curl = |options: &[&str]| {
            let mut curl = Command::new("curl");
            run(curl
                .args(["--noproxy", "*", "--max-time", "20", "-sS"])
                .args(options)
                .arg(&urls(addr, 1)[0])
                .arg("-o")
                .arg(&theirs))
        };
        assert_eq!(curl(&[]).code(), 0);
        assert_eq!(fs::read(&theirs).unwrap(), ours(1));
        fs::write(&theirs, &ours(1)[..30_000]).unwrap();
        let resumed = curl(&["-C", "-"]);
        assert_eq!(resumed.code(), 0, "{resumed:?}");
        assert_eq!(fs::read(&theirs).unwrap(), ours(1));
        assert_eq!(curl(&["-r", "-5"]).code(), 0);
        assert_eq!(fs::read(&theirs).unwrap(), ours(1)[69_995..]);
    }
    if !skip_without(!have("python3"), "python3", "apt-get install python3") {
        let theirs = folder.path().join("python");
        fs::create_dir(&theirs).unwrap();
        let lecture = run(Command::new("python3").args(["-c", LECTURE]).arg(&theirs).args(urls(addr, 4)));
        assert_eq!(lecture.stdout.lines().count(), 4, "{lecture:?}");
        for number in 1..=4 {
            assert_eq!(fs::read(theirs.join(format!("{number}.bin"))).unwrap(), ours(number));
        }
    }
}

/// A web server of somebody else's over a folder; its process and its port.
fn python_server(folder: &Path) -> (Role, String) {
    let mut command = Command::new("python3");
    command.args(["-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]).current_dir(folder);
    let mut server = Role::spawn(&mut command).unwrap();
    let line = server.line_with("Serving HTTP on ").unwrap();
    let port = line.split(" port ").nth(1).unwrap().split(' ').next().unwrap().to_string();
    (server, port)
}

#[test]
fn fetch_gets_files_from_pythons_server_which_knows_no_range_and_no_checksum() {
    if skip_without(!have("python3"), "python3", "apt-get install python3") {
        return;
    }
    let folder = TempDir::new();
    let text = "0123456789".repeat(5000);
    fs::write(folder.path().join("digits.txt"), &text).unwrap();
    let (_server, port) = python_server(folder.path());
    let url = format!("http://127.0.0.1:{port}/digits.txt");
    let first = run(fetch(&folder, &[]).arg(&url));
    assert!(first.code() == 0 && flat(&first).contains("50000 bytes, no checksum was told"), "{first:?}");
    fs::remove_file(here(&folder, "digits.txt")).unwrap();
    fs::write(here(&folder, "digits.txt.part"), &text[..20_000]).unwrap();
    let again = run(fetch(&folder, &["--resume"]).arg(&url));
    assert!(again.code() == 0 && flat(&again).contains("digits.txt: "), "{again:?}");
    assert_eq!(fs::read_to_string(here(&folder, "digits.txt")).unwrap(), text); // all of it, or the rest: never both
    let missing = run(fetch(&folder, &[]).arg(format!("http://127.0.0.1:{port}/nothing")));
    assert!(missing.code() == 1 && flat(&missing).contains("the server answers 404"), "{missing:?}");
    assert!(!here(&folder, "nothing.part").exists());
}

#[test]
fn requests_are_answered_by_the_rules_and_what_is_none_is_refused() {
    let (_server, addr) = files(&["--seconds", "0", "--size", "100"]);
    for (request, expected) in [
        ("GET /1.bin HTTP/1.0\r\n\r\n", "HTTP/1.1 200 OK\r\n"),
        ("HEAD /2.bin HTTP/1.0\r\n\r\n", "Content-Length: 100\r\n"),
        ("GET / HTTP/1.0\r\n\r\n", "\r\n\r\n1.bin\n2.bin\n3.bin\n4.bin\n"),
        ("GET /5.bin HTTP/1.0\r\n\r\n", "HTTP/1.1 404 Not Found\r\n"),
        ("GET /1.bin HTTP/1.0\r\nRange: bytes=90-\r\n\r\n", "Content-Range: bytes 90-99/100\r\n"),
        ("GET /1.bin HTTP/1.0\r\nRange: bytes=100-\r\n\r\n", "HTTP/1.1 416 Range Not Satisfiable\r\n"),
        ("POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 405 Method Not Allowed\r\n"),
        ("Hello world!\r\n\r\n", "HTTP/1.1 400 Bad Request\r\n"),
        ("\u{1b}[2J\u{0}\r\n\r\n", "HTTP/1.1 400 Bad Request\r\n"),
    ] {
        let answer = ask(addr, request);
        assert!(answer.contains(expected), "{request:?}: {answer:?}");
    }
    let long = format!("GET /1.bin HTTP/1.1\r\nX: {}", "x".repeat(40_000));
    assert!(ask(addr, &long).starts_with("HTTP/1.1 431 "));
    // Two requests at once, the first kept, the second the last.
    let two = ask(addr, "GET /1.bin HTTP/1.1\r\n\r\nGET /6.bin HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert!(two.contains("HTTP/1.1 200 OK") && two.contains("HTTP/1.1 404 Not Found"), "{two:?}");
    // Byte by byte.
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in b"GET /1.bin HTTP/1.0\r\n\r\n" {
        stream.write_all(&[*byte]).unwrap();
    }
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 OK"));
}

#[test]
fn who_is_silent_resets_or_never_reads_costs_the_others_nothing() {
    let (mut server, addr) = files(&["--seconds", "0", "--size", "20000000"]);
    let idle = descriptors(server.pid());
    let mut half = TcpStream::connect(addr).unwrap();
    half.write_all(b"GET /1.bin HT").unwrap();
    let deaf = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    deaf.set_recv_buffer_size(1).unwrap(); // the least the kernel grants
    deaf.connect(&addr.into()).unwrap();
    let mut deaf = TcpStream::from(deaf);
    deaf.write_all(b"GET /2.bin HTTP/1.1\r\n\r\n").unwrap();
    let mut resets = TcpStream::connect(addr).unwrap();
    resets.write_all(b"GET /3.bin HTTP/1.1\r\n\r\n").unwrap();
    resets.read_exact(&mut [0; 1000]).unwrap();
    SockRef::from(&resets).set_linger(Some(Duration::ZERO)).unwrap();
    drop(resets); // RST
    server.wait_for(" (Connection reset by peer)\n").unwrap();
    let short = ask(addr, "GET / HTTP/1.0\r\n\r\n");
    assert!(short.ends_with("4.bin\n"), "{short}");
    drop((half, deaf));
    wait_until("all descriptors back", LIMIT, || Ok((descriptors(server.pid()) == idle).then_some(()))).unwrap();
    interrupt(&mut server);
}

#[test]
fn an_answer_that_is_none_is_reported_and_fetch_fails() {
    for (answer, expected) in [
        (&b"hello\r\n\r\n"[..], "Failed 1.bin: "),
        (b"", "Failed 1.bin: "),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", "broken after 5 of 10 bytes"),
        (b"HTTP/1.1 500 \x1b[2J\r\nContent-Length: 0\r\n\r\n", "Failed 1.bin: "),
        (b"HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\n\r\nhello", "Content-Range is none"),
        (
            b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 5-9/10\r\nContent-Length: 5\r\n\r\nhello",
            "the server sends bytes from 5 on, and only 0 are here",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nRepr-Digest: sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:\r\n\r\nhello",
            "the checksum is wrong",
        ),
    ] {
        let folder = TempDir::new();
        let finished = fetched(&folder, answers_once(answer), 1, &[]);
        assert!(finished.code() == 1 && flat(&finished).contains(expected), "{expected}: {finished:?}");
        assert!(!finished.stdout.contains('\u{1b}'), "{finished:?}");
        assert!(!here(&folder, "1.bin").exists(), "{expected}");
    }
}

#[test]
fn a_server_that_says_nothing_is_given_up_after_the_deadline() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = TempDir::new();
    let finished = fetched(&folder, silent.local_addr().unwrap(), 2, &["--threads", "2", "--deadline", "0.5"]);
    assert!(finished.code() == 1 && finished.stdout.contains("No byte for 500ms: 0 files in part"), "{finished:?}");
}

#[test]
fn ctrl_c_ends_each_role_wherever_it_waits_and_keeps_what_has_come() {
    let (mut server, addr) = files(&["--seconds", "60", "--workers", "1"]);
    let folder = TempDir::new();
    let mut fetching = Role::spawn(fetch(&folder, &["--threads", "2"]).args(urls(addr, 2))).unwrap();
    let size = |name: &str| fs::metadata(here(&folder, name)).map_or(0, |file| file.len());
    // One of the two comes, the other waits for the server's only place.
    wait_until("some bytes", LIMIT, || Ok((size("1.bin.part") + size("2.bin.part") > 0).then_some(()))).unwrap();
    interrupt(&mut fetching);
    assert!(fetching.printed().contains("Interrupted: "), "{}", fetching.printed());
    assert!(size("1.bin.part") + size("2.bin.part") > 0);
    let _kept = TcpStream::connect(addr).unwrap(); // a connection without a request
    let mut on_the_way = TcpStream::connect(addr).unwrap();
    on_the_way.write_all(b"GET /1.bin HTTP/1.1\r\n\r\n").unwrap();
    wait_until("both connections", LIMIT, || {
        let rows = kernel::tcp_sockets(addr.port())?;
        let accepted = rows.iter().filter(|row| row.state == State::Established && row.inode != 0).count();
        Ok((accepted == 2).then_some(()))
    })
    .unwrap();
    interrupt(&mut server);
    let mut paused = Role::spawn(fetch(&folder, &["--pause"]).args(urls(addr, 1))).unwrap();
    paused.wait_for("next: start Thread-1   [Enter]").unwrap();
    interrupt(&mut paused);
}

#[test]
fn pause_waits_before_each_call() {
    let mut server = Role::spawn(Command::new(LAB).args(["files", "0", "--pause", "--seconds", "0"])).unwrap();
    step(&mut server, &["socket(AF_INET, SOCK_STREAM, 0)", "setsockopt(", "bind(", "listen("]);
    let line = server.line_with(" bytes: http://").unwrap();
    let addr = line.split("http://").nth(1).unwrap().split('/').next().unwrap().parse().unwrap();
    step(&mut server, &["accept("]);
    let folder = TempDir::new();
    let mut fetching = Role::spawn(fetch(&folder, &["--pause"]).args(urls(addr, 1))).unwrap();
    step(&mut fetching, &["start Thread-1"]);
    fetching.wait_for("Terminating, total time spent").unwrap();
    ends_well(&mut fetching);
    interrupt(&mut server);
}

#[test]
fn a_bar_for_each_file_is_drawn_on_a_terminal_and_none_in_a_pipe() {
    let (_server, addr) = files(&["--seconds", "0.5"]);
    let folder = TempDir::new();
    let mut terminal = Terminal::start(fetch(&folder, &["--threads", "2"]).args(urls(addr, 2)), 80, 24);
    let shown = terminal.wait_for("Terminating, total time spent");
    assert!(shown.contains("1.bin         [") && shown.contains("2.bin         ["), "{shown}");
    assert_eq!(terminal.end().code(), Some(0));
    assert!(!fetched(&folder, addr, 2, &["--threads", "2"]).stdout.contains('['));
}

#[test]
fn the_timeline_has_a_row_for_each_file_as_text_and_as_a_picture() {
    let (_server, addr) = files(&["--seconds", "0.2"]);
    let folder = TempDir::new();
    let picture = folder.path().join("timeline.svg");
    let finished = fetched(&folder, addr, 4, &["--svg", picture.to_str().unwrap()]);
    let bar = |name: &str| finished.stdout.lines().find(|line| line.starts_with(&format!("{name}     "))).unwrap();
    let begins = ["1.bin", "2.bin", "3.bin", "4.bin"].map(|name| bar(name)[14..].find(['.', '=']).unwrap_or(60));
    assert!(begins.is_sorted() && begins[0] < begins[3], "{finished:?}");
    assert!(bar("4.bin").ends_with('#'), "{finished:?}");
    let svg = fs::read_to_string(picture).unwrap();
    assert!(svg.starts_with("<svg ") && svg.contains(">4.bin</text>"), "{svg}");
}

#[test]
fn many_connections_at_once_are_all_served() {
    let (_server, addr) = files(&["--seconds", "0", "--size", "1000", "--count", "100", "--workers", "2"]);
    let folder = TempDir::new();
    for _ in 0..3 {
        let finished = fetched(&folder, addr, 100, &["--threads", "50"]);
        assert_eq!(finished.code(), 0, "{finished:?}");
        assert_eq!(finished.stdout.matches("the checksum holds").count(), 100);
    }
}

#[test]
fn ipv6_works_as_ipv4_does() {
    if testkit::without_ipv6() {
        return;
    }
    let mut server = Role::spawn(Command::new(LAB).args(["files", "[::1]:0", "--seconds", "0"])).unwrap();
    let line = server.line_with(" bytes: http://").unwrap();
    let addr: SocketAddr = line.split("http://").nth(1).unwrap().split('/').next().unwrap().parse().unwrap();
    let finished = fetched(&TempDir::new(), addr, 2, &[]);
    assert_eq!(finished.code(), 0, "{finished:?}");
}

#[test]
fn errors_name_the_call_the_address_the_errno_and_a_command_that_helps() {
    let refused = |args: &[&str]| failed(Command::new(LAB).args(args));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let (code, stderr) = refused(&["files", &addr]);
    assert!(code == 1 && stderr.starts_with(&format!("lab20: bind {addr}: EADDRINUSE (98)")), "{stderr}");
    let (_nobody, addr) = nobody();
    let folder = TempDir::new();
    let (code, stderr) = failed(fetch(&folder, &[]).args(urls(addr, 2)));
    assert!(code == 1 && stderr.starts_with(&format!("lab20: connect {addr}: ECONNREFUSED (111)")), "{stderr}");
    assert!(stderr.contains("hint: start the server"), "{stderr}");
    let (code, stderr) = refused(&["files", "192.0.2.1:7777"]);
    assert!(code == 1 && stderr.starts_with("lab20: bind 192.0.2.1:7777: EADDRNOTAVAIL (99)"), "{stderr}");
    let (code, stderr) = failed(fetch(&folder, &["http://h/a/x", "http://h/b/x"]).arg("--resume"));
    assert!(code == 1 && stderr.contains("two URLs end in x"), "{stderr}");
    let (code, stderr) = refused(&["fetch", "--to", "/proc/nothing", "http://127.0.0.1:9/x"]);
    assert!(code == 1 && stderr.starts_with("lab20: mkdir /proc/nothing: ENOENT (2)"), "{stderr}");
    for usage in [
        &["files", "77777"][..],
        &["files", "a b"],
        &["files", "--count", "0"],
        &["files", "--seconds", "-1"],
        &["fetch", "https://example.org/x"],
        &["fetch", "http://127.0.0.1:0/x"],
        &["fetch", "--threads", "0"],
        &["fetch", "--deadline", "nan"],
    ] {
        assert_eq!(refused(usage).0, 2, "{usage:?}");
    }
    let (_, stderr) = refused(&["fetch", "https://example.org/x"]);
    assert!(stderr.contains("without TLS"), "{stderr}");
}

#[test]
fn without_a_free_descriptor_whoever_connects_waits_and_is_served_later() {
    if skip_without(!have("prlimit"), "prlimit", "apt-get install util-linux") {
        return;
    }
    let mut command = Command::new("prlimit");
    command.args(["--nofile=12", LAB, "files", "0", "--seconds", "0", "--size", "1000"]);
    let mut server = Role::spawn(&mut command).unwrap();
    let line = server.line_with(" bytes: http://").unwrap();
    let addr: SocketAddr = line.split("http://").nth(1).unwrap().split('/').next().unwrap().parse().unwrap();
    let held: Vec<_> = (0..12).map(|_| TcpStream::connect(addr).unwrap()).collect();
    server.wait_for("accept: EMFILE (Too many open files): whoever connects waits\n").unwrap();
    held.iter().for_each(|stream| stream.shutdown(Shutdown::Both).unwrap());
    drop(held);
    assert!(ask(addr, "GET / HTTP/1.0\r\n\r\n").ends_with("4.bin\n"));
    interrupt(&mut server);
}
