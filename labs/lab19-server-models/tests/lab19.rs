//! Runs the real binary: the demo, each model under its simulator and under foreign clients, and what goes wrong.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::Command,
    sync::LazyLock,
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use socket2::SockRef;
use testkit::{
    Demo, Finished, Role, TempDir, ends_well, failed, have, interrupt, nobody, run, signal, skip_without, wait_until,
};

const LAB: &str = env!("CARGO_BIN_EXE_lab19-server-models");
const LIMIT: Duration = Duration::from_secs(10);
static DEMO: LazyLock<Demo> = LazyLock::new(|| Demo::play(LAB));
/// All but one-client, which serves one only.
const MODELS: [&str; 10] = [
    "many-clients", "heavy-request", "thread-per-socket", "pool", "pipeline", "delegation", "processes", "prefork",
    "reuseport", "poll-loop",
];
/// They take the steps of a request apart.
const ONLY_REQUESTS: [&str; 4] = ["heavy-request", "pipeline", "delegation", "processes"];
/// A client of the lecture's simulator, for Python 3.
const PYTHON_CLIENT: &str = "
import sys
from socket import socket, AF_INET, SOCK_STREAM, SHUT_WR
s = socket(AF_INET, SOCK_STREAM)
s.settimeout(10)
s.connect(('127.0.0.1', int(sys.argv[1])))
print(s.recv(1))
s.shutdown(SHUT_WR)
print(s.recv(1))
s.close()
";

/// A server on a port of the kernel's choice, with room for all clients in its queue.
fn server(model: &str, options: &[&str]) -> (Role, SocketAddr) {
    listening(Role::spawn(Command::new(LAB).args(["server", model, "0", "--backlog", "64"]).args(options)).unwrap())
}

fn listening(mut server: Role) -> (Role, SocketAddr) {
    let line = server.line_with(" is in listening state").unwrap();
    let addr = line.split_whitespace().find_map(|word| word.parse().ok()).unwrap();
    (server, addr)
}

fn connected(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

fn simulated(role: &str, addr: SocketAddr, options: &[&str]) -> Finished {
    let finished = run(Command::new(LAB).args([role, &addr.to_string()]).args(options));
    assert_eq!(finished.code(), 0, "{finished:?}");
    finished
}

fn alive(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// The ids of a server's processes.
fn children(server: &mut Role, count: usize) -> Vec<String> {
    let ids = |log: String| -> Vec<String> {
        let lines = log.lines().filter_map(|line| line.split_once(" is process ")).map(|(_, pid)| pid.to_string());
        lines.collect()
    };
    wait_until("all processes", LIMIT, || Ok(Some(ids(server.printed())).filter(|ids| ids.len() == count))).unwrap()
}

#[test]
fn the_demo_decides_every_claim_as_recorded() {
    DEMO.assert_verdicts(&[
        ("figure-4-6", "CORRECTED"),
        ("second-client", "CORRECTED"),
        ("wait-5-stay-30", "ANSWERED"),
        ("four-threads", "ANSWERED"),
        ("immediately", "CORRECTED"),
        ("no-descriptor", "ANSWERED"),
        ("one-dies", "ANSWERED"),
        ("last-address", "ANSWERED"),
    ]);
}

/// Three demos at once: each waits most of the time.
#[test]
fn stopped_or_traced_or_without_privileges_the_demo_says_the_same() {
    thread::scope(|scope| {
        scope.spawn(|| testkit::assert_stops_change_no_verdict(LAB));
        scope.spawn(|| testkit::assert_printed_calls_are_real(LAB));
        scope.spawn(|| testkit::assert_demo_needs_no_privileges(LAB));
    });
}

#[test]
fn a_new_build_while_the_demo_runs_changes_no_verdict() {
    testkit::assert_a_new_build_changes_no_verdict(&DEMO);
}

#[test]
fn the_command_line_keeps_the_rules_of_all_labs() {
    testkit::assert_common_rules(LAB, &["server", "many-clients", "0"], "is in listening state");
}

#[test]
fn the_sheet_quotes_a_real_run() {
    testkit::assert_sheet_quotes_a_run("lab19-server-models", &DEMO);
}

#[test]
fn an_ordinary_account_cannot_have_a_privileged_port() {
    testkit::assert_privileged_port_is_refused(LAB, &["server", "many-clients", "1"], "127.0.0.1:1");
}

#[test]
fn the_demo_leaves_no_process_behind_even_when_it_is_killed() {
    let mark = format!("LAB19_TEST={}", std::process::id());
    let (name, value) = mark.split_once('=').unwrap();
    let command = |id| {
        let mut command = Command::new(LAB);
        command.arg(id).env(name, value);
        command
    };
    // Whatever the demo started has inherited the mark.
    let left = || {
        let entries = fs::read_dir("/proc").unwrap();
        let environs = entries.filter_map(|entry| fs::read(entry.ok()?.path().join("environ")).ok());
        environs.filter(|environ| String::from_utf8_lossy(environ).contains(&mark)).count()
    };
    let nothing_left = || wait_until("nothing left", LIMIT, || Ok((left() == 0).then_some(()))).unwrap();
    assert_eq!(run(&mut command("one-dies")).code(), 0);
    nothing_left(); // the kernel ends them with their parent, a moment after it
    let mut killed = Role::spawn(&mut command("wait-5-stay-30")).unwrap();
    killed.wait_for("Thread-1  Service available!").unwrap();
    assert_eq!(left(), 2);
    drop(killed); // SIGKILL
    nothing_left();
}

#[test]
fn every_model_serves_the_clients_of_its_simulator() {
    for model in MODELS {
        let (mut server, addr) = server(model, &["--workers", "2", "--speed", "50"]);
        let role = if ONLY_REQUESTS.contains(&model) { "requests" } else { "connections" };
        let simulated = simulated(role, addr, &["--speed", "50", "--timeout", "250"]);
        assert!(simulated.stdout.contains("\n5 served, 0 timed out\n"), "{model}: {simulated:?}");
        interrupt(&mut server);
        assert!(server.printed().ends_with("Terminating ...\n"), "{model}");
    }
}

#[test]
fn every_model_answers_requests_with_what_was_sent() {
    for model in MODELS {
        let (mut server, addr) = server(model, &["--service", "requests", "--workers", "3", "--delay", "0"]);
        let simulated = simulated("requests", addr, &["--clients", "40", "--timeout", "100", "--speed", "10"]);
        assert!(simulated.stdout.contains("\n40 served, 0 timed out\n"), "{model}: {simulated:?}");
        interrupt(&mut server);
    }
}

#[test]
fn one_client_is_served_and_enter_ends_the_server() {
    let (mut server, addr) = server("one-client", &[]);
    let simulated = simulated("connections", addr, &["--clients", "1", "--speed", "50"]);
    assert!(simulated.stdout.contains("1 served"), "{simulated:?}");
    server.wait_for("Press Enter to terminate ...").unwrap();
    server.type_line("").unwrap();
    ends_well(&mut server);
}

#[test]
fn the_timeline_is_text_and_a_picture() {
    let folder = TempDir::new();
    let file = folder.path().join("clients.svg");
    let (_server, addr) = server("many-clients", &[]);
    let options = ["--clients", "3", "--timeout", "100", "--stay", "10", "--speed", "100", "--svg"];
    let simulated = simulated("connections", addr, &[&options[..], &[file.to_str().unwrap()]].concat());
    let bars: Vec<&str> = simulated.stdout.lines().filter(|line| line.starts_with("Thread-")).collect();
    assert_eq!(bars.len(), 3, "{simulated:?}");
    assert!(bars[0].contains("===") && bars[2].contains("---") && bars[2].ends_with("=|"), "{bars:?}");
    assert!(simulated.stdout.lines().all(|line| line.len() < 80), "{simulated:?}");
    let svg = fs::read_to_string(&file).unwrap();
    assert!(svg.starts_with("<svg ") && svg.contains(">Thread-3<") && svg.ends_with("</svg>\n"), "{svg}");
    let (code, stderr) =
        failed(Command::new(LAB).args(["connections", &addr.to_string(), "--speed", "100", "--svg", "/nowhere/x.svg"]));
    assert!(code == 1 && stderr.contains("write /nowhere/x.svg: ENOENT"), "{stderr}");
}

#[test]
fn a_python_client_is_served_by_every_model_for_connections() {
    if skip_without(!have("python3"), "python3", "apt-get install python3") {
        return;
    }
    for model in MODELS.iter().filter(|model| !ONLY_REQUESTS.contains(model)) {
        let (mut server, addr) = server(model, &["--service", "connections", "--workers", "2"]);
        let client = run(Command::new("python3").args(["-c", PYTHON_CLIENT, &addr.port().to_string()]));
        assert_eq!(client.stdout, "b'1'\nb''\n", "{model}: {client:?}");
        server.wait_for("finished using service").unwrap();
        interrupt(&mut server);
    }
}

#[test]
fn with_clients_in_every_place_ctrl_c_ends_every_model_and_its_processes() {
    for model in MODELS {
        let (mut server, addr) = server(model, &["--service", "requests", "--workers", "2"]);
        let pids = if ["processes", "prefork"].contains(&model) { children(&mut server, 2) } else { Vec::new() };
        // A whole request that is worked on for 5 s, half a one, and silent ones: more than there are workers.
        let mut clients: Vec<TcpStream> = (0..5).map(|_| connected(addr)).collect();
        clients[0].write_all(&[b'x'; 36]).unwrap();
        clients[1].write_all(&[b'x'; 10]).unwrap();
        server.wait_for("New client connected").unwrap();
        signal(&server, Signal::SIGTERM); // to the parent alone
        ends_well(&mut server);
        for client in &mut clients {
            let end = client.read(&mut [0; 36]);
            let reset = end.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset); // unread bytes
            assert!(reset || end.as_ref().is_ok_and(|bytes| *bytes == 0), "{model}: {end:?}");
        }
        assert!(pids.iter().all(|pid| !alive(pid)), "{model}: {pids:?}");
        assert!(TcpStream::connect(addr).is_err(), "{model} still listens");
    }
}

#[test]
fn processes_die_with_a_parent_that_is_killed() {
    for model in ["prefork", "processes"] {
        let (mut server, addr) = server(model, &["--workers", "3"]);
        let pids = children(&mut server, 3);
        assert!(pids.iter().all(|pid| alive(pid)));
        signal(&server, Signal::SIGKILL);
        server.wait_for_end().unwrap();
        wait_until("the end of all processes", LIMIT, || Ok(pids.iter().all(|pid| !alive(pid)).then_some(()))).unwrap();
        assert!(TcpStream::connect(addr).is_err(), "{model} still listens");
    }
}

#[test]
fn a_process_that_is_killed_is_replaced_and_its_successor_works() {
    for model in ["prefork", "processes"] {
        let (mut server, addr) = server(model, &["--service", "requests", "--workers", "1", "--delay", "0"]);
        let pid = children(&mut server, 1).remove(0);
        assert!(run(Command::new("/bin/sh").args(["-c", &format!("kill -9 {pid}")])).code() == 0);
        server.wait_for("Process-1 ended: signal: 9 (SIGKILL)").unwrap();
        let simulated = simulated("requests", addr, &[]);
        assert!(simulated.stdout.contains("5 served"), "{model}: {simulated:?}");
        interrupt(&mut server);
    }
}

#[test]
fn rude_clients_cost_nobody_else_anything() {
    for model in MODELS {
        let (mut server, addr) = server(model, &["--service", "requests", "--workers", "2", "--delay", "0"]);
        for _ in 0..3 {
            let mut reset = connected(addr);
            reset.write_all(b"half").unwrap();
            SockRef::from(&reset).set_linger(Some(Duration::ZERO)).unwrap();
            drop(reset); // ECONNRESET in the middle of a request
            let mut short = connected(addr);
            short.write_all(b"half").unwrap();
            short.shutdown(Shutdown::Write).unwrap(); // end of stream in the middle of a request
            assert_eq!(short.read(&mut [0; 36]).unwrap_or(0), 0);
            let mut deaf = connected(addr);
            deaf.write_all(&[0xff; 36]).unwrap(); // no text at all, and nobody reads the response
            drop(deaf);
        }
        let mut client = connected(addr);
        client.write_all(&[b'x'; 20]).unwrap();
        client.write_all(&[b'y'; 40]).unwrap(); // more than a request: the rest is not read
        let mut response = Vec::new();
        let _ = client.read_to_end(&mut response); // a reset may follow: bytes were left unread
        assert_eq!(response, [[b'x'; 20].as_slice(), &[b'y'; 16]].concat(), "{model}");
        wait_until("three clients that left", LIMIT, || {
            Ok((server.printed().matches(" left before ").count() >= 6).then_some(()))
        })
        .unwrap();
        assert!(server.printed().is_ascii());
        interrupt(&mut server);
    }
}

#[test]
fn an_integer_is_factored_and_what_is_none_is_refused() {
    for model in ["heavy-request", "processes", "poll-loop"] {
        let (_server, addr) = server(model, &["--service", "requests", "--factor", "--workers", "2"]);
        let simulated = simulated("requests", addr, &["--factor", "1000036000099", "--timeout", "100"]);
        assert_eq!(simulated.stdout.matches("Received response: 1000003 1000033\n").count(), 5, "{simulated:?}");
        let mut client = connected(addr);
        client.write_all(format!("{:<36}", "12x").as_bytes()).unwrap();
        let mut response = [0; 36];
        client.read_exact(&mut response).unwrap();
        assert_eq!(response, format!("{:<36}", "not an integer").as_bytes());
    }
}

#[test]
fn a_long_factorization_hears_ctrl_c() {
    for model in ["heavy-request", "processes", "poll-loop"] {
        let (mut server, addr) = server(model, &["--service", "requests", "--factor", "--workers", "2"]);
        let mut client = connected(addr);
        client.write_all(format!("{:<36}", 18446744073709551557u64).as_bytes()).unwrap(); // a prime
        server.wait_for("New client connected").unwrap();
        interrupt(&mut server);
    }
}

#[test]
fn without_a_free_descriptor_clients_wait_and_the_server_rests() {
    for model in ["thread-per-socket", "pool", "poll-loop"] {
        let script = "exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-; ulimit -n 8; exec \"$0\" server \"$@\"";
        let mut shell = Command::new("/bin/sh");
        let (mut server, addr) =
            listening(Role::spawn(shell.args(["-c", script, LAB, model, "0", "--backlog", "64"])).unwrap());
        let mut clients: Vec<TcpStream> = (0..3).map(|_| connected(addr)).collect();
        clients.iter_mut().for_each(|client| client.read_exact(&mut [0; 1]).unwrap());
        let mut fourth = connected(addr);
        server.wait_for("accept: EMFILE (Too many open files): clients wait\n").unwrap();
        assert_eq!(server.printed().matches("EMFILE").count(), 1, "{model}");
        drop(clients.remove(0));
        fourth.read_exact(&mut [0; 1]).unwrap();
        interrupt(&mut server);
    }
}

#[test]
fn ctrl_c_ends_a_simulator_with_its_timeline() {
    for (model, role, gap, line) in [
        ("many-clients", "connections", "0", "Service available!"),
        ("many-clients", "connections", "60", "Service available!"),
        ("heavy-request", "requests", "0", "Connected, sending"),
    ] {
        let (_server, addr) = server(model, &[]);
        let mut simulator = Role::spawn(Command::new(LAB).args([role, &addr.to_string(), "--gap", gap])).unwrap();
        simulator.wait_for(line).unwrap();
        signal(&simulator, Signal::SIGINT);
        simulator.wait_for("timeline  _ absent").unwrap();
        simulator.wait_for(" interrupted\n").unwrap();
        ends_well(&mut simulator);
    }
}

#[test]
fn pause_waits_before_each_call_of_the_main_thread_and_before_each_client() {
    let mut server =
        Role::spawn(Command::new(LAB).args(["server", "reuseport", "0", "--workers", "1", "--pause"])).unwrap();
    for call in ["socket(", "SO_REUSEADDR", "SO_REUSEPORT", "bind(", "listen(", "accept("] {
        server.wait_for(call).unwrap();
        server.wait_for("[Enter]").unwrap();
        server.type_line("").unwrap();
    }
    let line = server.printed();
    let addr = line.lines().find(|line| line.ends_with("is in listening state")).unwrap();
    let addr = addr.split_whitespace().find(|word| word.starts_with("127.")).unwrap().to_string();
    let mut clients =
        Role::spawn(Command::new(LAB).args(["connections", &addr, "--clients", "2", "--speed", "50", "--pause"]))
            .unwrap();
    for number in 1..=2 {
        clients.wait_for(&format!("Thread-{number}: connect(")).unwrap();
        clients.wait_for("[Enter]").unwrap();
        clients.type_line("").unwrap();
    }
    clients.wait_for("2 served").unwrap();
    ends_well(&mut clients);
    interrupt(&mut server);
}

#[test]
fn errors_name_the_call_the_address_the_errno_and_a_command_that_helps() {
    let failed = |args: &[&str]| failed(Command::new(LAB).args(args));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    for model in MODELS {
        let (code, stderr) = failed(&["server", model, &addr]);
        let expected = format!("lab19: bind {addr}: EADDRINUSE (98) Address already in use\n  hint: ");
        assert!(code == 1 && stderr.starts_with(&expected), "{stderr}");
    }
    let (code, stderr) = failed(&["server", "pool", "192.0.2.1:7777"]);
    assert!(code == 1 && stderr.contains("bind 192.0.2.1:7777: EADDRNOTAVAIL (99)"), "{stderr}");
    let (_nobody, addr) = nobody();
    let addr = addr.to_string();
    for role in ["connections", "requests"] {
        let (code, stderr) = failed(&[role, &addr]);
        let expected = format!("lab19: connect {addr}: ECONNREFUSED (111) Connection refused\n  hint: ");
        assert!(code == 1 && stderr.starts_with(&expected), "{stderr}");
    }
    for usage in [
        &["server"][..],
        &["server", "no-such-model"],
        &["server", "pool", "77777"],
        &["server", "pool", "--workers", "0"],
        &["server", "pool", "--workers", "1025"],
        &["server", "pool", "--speed", "0"],
        &["server", "pool", "--delay", "-1"],
        &["server", "pipeline", "--service", "connections"],
        &["server", "prefork", "--panic-on", "x"],
        &["connections", "127.0.0.1:0"],
        &["connections", "127.0.0.1:65536"],
        &["connections", "--clients", "0"],
        &["connections", "--stay", "x"],
        &["requests", "--factor", "-1"],
    ] {
        assert_eq!(failed(usage).0, 2, "{usage:?}");
    }
}
