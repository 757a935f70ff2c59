//! Runs the real binary: the demo, the lecture's demos, the lecture's own listings in Python 3, and what goes wrong.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    process::Command,
    sync::LazyLock,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use testkit::{
    Demo, Role, TempDir, as_ordinary_account, ends_well, failed, have, interrupt, run, signal, skip_without, wait_until,
};

const LAB: &str = env!("CARGO_BIN_EXE_lab18-threads");
const LIMIT: Duration = Duration::from_secs(10);
static DEMO: LazyLock<Demo> = LazyLock::new(|| Demo::play(LAB));

/// The lecture's daemon listing, for Python 3; User1 works for a minute.
const DAEMON: &str = "
import logging, sys, threading, time
logging.basicConfig(level=logging.DEBUG, format='[%(levelname)s] (%(threadName)-10s) %(message)s', stream=sys.stdout)
def User1():
    logging.debug('Arrived')
    time.sleep(60)
    logging.debug('Leaving')
    open(sys.argv[1], 'w').close()
def User2():
    logging.debug('Arrived')
    logging.debug('Leaving')
d = threading.Thread(name='User1', target=User1, daemon=True)
t = threading.Thread(name='User2', target=User2)
d.start()
t.start()
";
/// The lecture's queue, with two consumers that wait and one element; what the consumers got, sorted.
const CONDITION: &str = "
import threading
q, cv, waiting, got = [], threading.Condition(), [], []
def get():
    with cv:
        if len(q) <= 0:
            waiting.append(1)
            cv.wait()
        try:
            got.append(q.pop())
        except IndexError as error:
            got.append('IndexError: ' + str(error))
threads = [threading.Thread(target=get) for _ in range(2)]
for thread in threads: thread.start()
while True:
    with cv:
        if len(waiting) == 2:
            q.append('only')
            cv.notify_all()
            break
for thread in threads: thread.join()
print(sorted(got))
";
/// What Rust's lock is: its guard cannot go to another thread.
const FOREIGN_RELEASE: &str = "
use std::{sync::Mutex, thread};
pub fn release() {
    let lock = Mutex::new(0);
    let guard = lock.lock().unwrap();
    thread::scope(|scope| { scope.spawn(move || drop(guard)); });
}
";
/// The same in one thread, which is allowed.
const OWN_RELEASE: &str = "
use std::sync::Mutex;
pub fn release() {
    let lock = Mutex::new(0);
    let guard = lock.lock().unwrap();
    drop(guard);
}
";

fn role(args: &[&str]) -> Role {
    Role::spawn(Command::new(LAB).args(args)).unwrap()
}

fn lines(args: &[&str]) -> Vec<String> {
    let finished = run(Command::new(LAB).args(args));
    assert_eq!(finished.code(), 0, "{finished:?}");
    finished.stdout.lines().map(String::from).collect()
}

/// The rows that ps prints.
fn ps(args: &[&str]) -> Vec<String> {
    run(Command::new("ps").args(args)).stdout.lines().map(|row| row.trim().into()).collect()
}

#[test]
fn the_demo_decides_every_claim_as_recorded() {
    DEMO.assert_verdicts(&[
        ("no-matter-what", "CORRECTED"),
        ("one-os-thread", "CORRECTED"),
        ("lost-updates", "CONFIRMED"),
        ("four-waits", "CORRECTED"),
        ("one-row", "CONFIRMED"),
        ("run-or-sleep", "CORRECTED"),
        ("if-for-while", "CORRECTED"),
        ("foreign-release", "CONFIRMED"),
    ]);
}

#[test]
fn the_command_line_keeps_the_rules_of_all_labs() {
    testkit::assert_common_rules(LAB, &["hello"], "Click Enter");
}

#[test]
fn the_sheet_quotes_a_real_run() {
    testkit::assert_sheet_quotes_a_run("lab18-threads", &DEMO);
}

#[test]
fn the_demo_needs_no_privileges() {
    testkit::assert_demo_needs_no_privileges(LAB);
}

#[test]
fn the_demo_leaves_no_process_and_no_file_behind() {
    let folder = TempDir::new();
    let finished = run(Command::new(LAB).arg("demo").env("TMPDIR", folder.path()));
    assert_eq!(finished.code(), 0, "{}", finished.stdout);
    for id in ["no-matter-what", "run-or-sleep"] {
        let mut asking = Role::spawn(Command::new(LAB).args([id, "--pause"]).env("TMPDIR", folder.path())).unwrap();
        asking.wait_for("[Enter]").unwrap();
        signal(&asking, Signal::SIGINT);
        asking.wait_for_end().unwrap();
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    // Whatever the demo started has inherited this folder's name.
    let marked = format!("TMPDIR={}", folder.path().display());
    let left = fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read(entry.ok()?.path().join("environ")).ok());
    assert_eq!(left.filter(|environ| String::from_utf8_lossy(environ).contains(&marked)).count(), 0);
}

#[test]
fn without_python_what_is_about_python_is_skipped_and_named() {
    let folder = TempDir::new();
    let finished = run(Command::new(LAB).args(["one-os-thread", "foreign-release"]).env("PATH", folder.path()));
    assert_eq!(finished.code(), 0, "{finished:?}");
    assert_eq!(finished.stdout.matches("SKIPPED    needs python3, 3.8 or newer").count(), 2, "{}", finished.stdout);
}

#[test]
fn on_one_processor_the_claim_about_two_is_skipped_and_the_others_hold() {
    if skip_without(!have("taskset"), "taskset", "apt-get install util-linux") {
        return;
    }
    let all = "one-os-thread lost-updates four-waits run-or-sleep if-for-while";
    let finished = run(Command::new("taskset").args(["-c", "0", LAB]).args(all.split(' ')));
    assert_eq!(finished.code(), 0, "{}", finished.stdout);
    assert!(finished.stdout.contains("needs two processors that this program may use"), "{}", finished.stdout);
    assert!(finished.stdout.contains(" 1 SKIPPED, 0 UNEXPECTED"), "{}", finished.stdout);
}

#[test]
fn a_folder_that_takes_no_file_is_named() {
    let list = run(Command::new(LAB).arg("--list").env("TMPDIR", "/nonexistent"));
    assert_eq!(list.stdout.matches("needs a folder for temporary files; missing here").count(), 2, "{}", list.stdout);
}

#[test]
fn hello_starts_threads_with_arguments_and_names_and_ps_agrees() {
    let mut hello = role(&["hello", "3", "--stay"]);
    hello.wait_for("Click Enter to Terminate ...\n").unwrap();
    let pid = hello.pid().to_string();
    wait_until("all names", LIMIT, || {
        let printed = hello.printed();
        Ok((0..3).all(|number| printed.contains(&format!("Hello I am User number: {number}\n"))).then_some(()))
    })
    .unwrap();
    if !skip_without(!have("ps"), "ps", "apt-get install procps") {
        assert_eq!(ps(&["-o", "pid=", "-p", &pid]).len(), 1);
        let mut names = ps(&["-L", "-o", "comm=", "-p", &pid]);
        names.sort();
        assert_eq!(names, ["User-0", "User-1", "User-2", "lab18-threads"]);
    }
    hello.type_line("").unwrap();
    ends_well(&mut hello);
}

#[test]
fn names_stand_in_each_line_of_the_log() {
    let log = lines(&["hello", "--named", "--speed", "20"]);
    let expected = [
        "(User      ) Arrived", "(User      ) Leaving", "(Thread-1  ) Arrived", "(Thread-1  ) Leaving",
        "(session   ) Starting", "(session   ) Exiting",
    ];
    assert_eq!(log.len(), expected.len(), "{log:?}");
    for line in expected {
        assert_eq!(log.iter().filter(|logged| **logged == format!("[DEBUG] {line}")).count(), 1, "{line}: {log:?}");
    }
}

#[test]
fn a_thread_that_nobody_joins_leaves_no_file_and_a_joined_one_does() {
    let folder = TempDir::new();
    let file = folder.path().join("work");
    let path = file.to_str().unwrap();
    let log = lines(&["detached", "--seconds", "60", "--file", path]);
    assert_eq!(log.iter().filter(|line| line.ends_with(" Leaving")).count(), 1, "{log:?}");
    assert!(!file.exists());
    let log = lines(&["detached", "--join", "--seconds", "0.05", "--file", path]);
    for user in ["User1", "User2"] {
        assert!(log.contains(&format!("[DEBUG] ({user:<10}) Leaving")), "{log:?}"); // which is first: whoever runs first
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "the work of User1 is done\n");
}

#[test]
fn the_lectures_daemon_listing_in_python_ends_in_the_same_way() {
    if skip_without(!have("python3"), "python3", "apt-get install python3") {
        return;
    }
    let folder = TempDir::new();
    let file = folder.path().join("work");
    let mut listing = Role::spawn(Command::new("python3").args(["-c", DAEMON]).arg(&file)).unwrap();
    listing.wait_for("(User2     ) Leaving\n").unwrap();
    ends_well(&mut listing);
    assert!(!file.exists());
    let printed = listing.printed();
    let mut listed: Vec<&str> = printed.lines().collect();
    let mut ours = lines(&["detached", "--seconds", "60"]);
    listed.sort_unstable();
    ours.sort_unstable();
    assert_eq!(ours, listed);
}

#[test]
fn the_lectures_queue_in_python_pops_from_an_empty_list() {
    if skip_without(!have("python3"), "python3", "apt-get install python3") {
        return;
    }
    let listing = run(Command::new("python3").args(["-c", CONDITION]));
    assert_eq!(listing.stdout, "['IndexError: pop from empty list', 'only']\n", "{listing:?}");
}

#[test]
fn in_rust_a_thread_that_does_not_own_the_lock_cannot_release_it() {
    if skip_without(!have("rustc"), "rustc", "rustup") {
        return;
    }
    let folder = TempDir::new();
    let compiled = |name: &str, source: &str| {
        let file = folder.path().join(name);
        fs::write(&file, source).unwrap();
        let mut rustc = Command::new("rustc");
        rustc.args(["--edition", "2024", "--crate-type", "lib", "--emit", "metadata", "--out-dir"]);
        failed(rustc.arg(folder.path()).arg(&file))
    };
    assert_eq!(compiled("own.rs", OWN_RELEASE).0, 0);
    let (code, stderr) = compiled("foreign.rs", FOREIGN_RELEASE);
    assert_eq!(code, 1);
    assert!(stderr.contains("E0277") && stderr.contains("cannot be sent between threads safely"), "{stderr}");
}

#[test]
fn the_counter_ends_with_zero_and_every_step_is_said_under_the_lock() {
    let log = lines(&["lock", "--speed", "100"]);
    assert_eq!(log.last().map(String::as_str), Some("(MainThread) Counter final value: 0"));
    assert_eq!(log.iter().filter(|line| line.ends_with(" Done")).count(), 20);
    let mut owner = None;
    for line in &log {
        let (name, step) = line.split_once(") ").unwrap();
        match step {
            "Acquired a lock" => assert_eq!(owner.replace(name), None, "{log:?}"),
            "Releasing the lock" => assert_eq!(owner.take(), Some(name), "{log:?}"),
            _ if step.starts_with("Value ") => assert_eq!(owner, Some(name), "{log:?}"),
            _ => {}
        }
    }
}

#[test]
fn the_consumer_gets_each_element_once_and_in_order() {
    let log = lines(&["condition", "--speed", "50"]);
    let retrieved: Vec<&str> =
        log.iter().filter_map(|line| line.split_once("(Consumer) Retrieved: ")).map(|(_, rest)| &rest[..1]).collect();
    assert_eq!(retrieved, ["0", "1", "2", "3", "4"]);
    assert!(log.last().unwrap().starts_with("(MainThread) Terminating ..."), "{log:?}");
}

#[test]
fn both_threads_hear_the_event_and_only_after_it_is_set() {
    let log = lines(&["event", "--speed", "20"]);
    let at = |text: &str| log.iter().position(|line| line.contains(text)).unwrap_or_else(|| panic!("{text}: {log:?}"));
    let set = at("Setting the event");
    assert!(at("(blocking    ) event is set") > set);
    assert!(at("(non-blocking) event is set: processing event") > set);
}

#[test]
fn ctrl_c_ends_each_role_wherever_it_waits_and_all_its_threads() {
    for (args, ready) in [
        (&["hello", "2", "--stay"][..], "Click Enter"),
        (&["hello", "--named", "--speed", "0.01"], "Starting"),
        (&["detached", "--join", "--seconds", "3600"], "(User2     ) Leaving"),
        (&["lock", "--speed", "0.01"], "Waiting for worker threads"),
        (&["condition", "--speed", "0.01"], "Added: 0"),
        (&["event", "--speed", "0.01"], "Waiting before setting"),
        (&["lock", "--pause"], "next: start Thread-1   [Enter]"),
    ] {
        let mut role = role(args);
        role.wait_for(ready).unwrap();
        interrupt(&mut role);
    }
}

#[test]
fn pause_waits_before_each_thread_starts_and_before_each_join() {
    let mut role = role(&["detached", "--pause", "--seconds", "60"]);
    for call in ["start User1", "start User2", "join User2", "drop the handle of User1, and end main"] {
        role.wait_for(&format!("next: {call}   [Enter]\n")).unwrap();
        role.type_line("").unwrap();
    }
    ends_well(&mut role);
}

#[test]
fn a_stop_in_the_middle_changes_no_verdict() {
    let experiments = ["demo", "four-waits", "one-os-thread", "if-for-while"];
    let mut demo = Role::spawn(Command::new(LAB).args(experiments)).unwrap();
    for moment in ["only, for all of these threads\n", "\nverdict ", "python    processor time"] {
        if demo.wait_for(moment).is_err() {
            break; // SKIPPED: no python3, or one processor
        }
        signal(&demo, Signal::SIGSTOP);
        let begin = Instant::now();
        wait_until("a while", LIMIT, || Ok((begin.elapsed() > Duration::from_millis(700)).then_some(()))).unwrap();
        signal(&demo, Signal::SIGCONT);
    }
    ends_well(&mut demo);
    assert!(demo.printed().contains(" 0 UNEXPECTED"), "{}", demo.printed());
}

#[test]
fn what_cannot_be_is_refused_and_says_why() {
    for usage in [
        &["hello", "0"][..],
        &["hello", "many"],
        &["hello", "4", "--named"],
        &["lock", "--speed", "0"],
        &["lock", "--speed", "nan"],
        &["detached", "--seconds", "-1"],
    ] {
        assert_eq!(failed(Command::new(LAB).args(usage)).0, 2, "{usage:?}");
    }
    let (code, stderr) =
        failed(Command::new(LAB).args(["detached", "--join", "--seconds", "0", "--file", "/nonexistent/f"]));
    assert!(code == 1 && stderr.starts_with("lab18: write /nonexistent/f: ENOENT (2)"), "{stderr}");
}

#[test]
fn where_no_more_threads_are_allowed_the_limit_is_named() {
    if skip_without(!have("prlimit"), "prlimit", "apt-get install util-linux") {
        return;
    }
    let folder = TempDir::new();
    let limited = as_ordinary_account(LAB, &folder);
    let mut command = Command::new("setpriv");
    let nobody = ["--reuid=65531", "--regid=65531", "--clear-groups", "prlimit", "--nproc=20"];
    if !nix::unistd::geteuid().is_root() {
        command = Command::new("prlimit");
        command.arg("--nproc=1");
    } else {
        command.args(nobody); // an account of its own: the limit counts all of an account's tasks
    }
    let (code, stderr) = failed(command.arg(limited.get_program()).args(["hello", "100", "--stay"]));
    assert!(code == 1 && stderr.contains("cannot start a thread; see the limit: ulimit -u"), "{code} {stderr}");
}
