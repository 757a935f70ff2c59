//! scripts/two-hosts.sh: two hosts on this machine, with other labs on them.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    process::Command,
    sync::{LazyLock, Mutex, MutexGuard},
    time::Duration,
};

use nix::sys::signal::Signal;
use testkit::{
    Finished, Role, TempDir, copy_program, failed, have, interrupt, root, run, signal, skip_without, wait_until,
};

const LAB: &str = env!("CARGO_BIN_EXE_lab12-broken-pipe");
const LIMIT: Duration = Duration::from_secs(20);

/// One copy of the kit has one pair of hosts: the tests take turns.
static TURN: LazyLock<Mutex<()>> = LazyLock::new(Mutex::default);

/// A copy of the scripts, and its two hosts while it lives.
struct TwoHosts {
    folder: TempDir,
    up: Role,
    _turn: MutexGuard<'static, ()>,
}

impl TwoHosts {
    /// `None`: not possible here, and said so.
    fn up() -> Option<TwoHosts> {
        let turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let folder = TempDir::new();
        let kit = folder.path().join("kit");
        fs::create_dir(&kit).unwrap();
        let copied = Command::new("cp").arg("-r").arg(root().join("scripts")).arg(&kit).status().unwrap();
        assert!(copied.success());
        copy_program(LAB, &folder);
        let mut up = Role::spawn(Command::new(kit.join("scripts/two-hosts.sh")).arg("up")).unwrap();
        if up.wait_for_within("Ctrl-C ends both hosts", LIMIT).is_err() {
            let possible = run(Command::new("unshare").args(["-Urn", "ip", "link", "add", "type", "veth"]));
            assert_ne!(possible.code(), 0, "{}", up.printed());
            skip_without(true, "two hosts", "scripts/two-hosts.sh up says what is missing");
            return None;
        }
        Some(TwoHosts { folder, up, _turn: turn })
    }

    fn script(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.folder.path().join("kit/scripts/two-hosts.sh"));
        command.args(args).current_dir(self.folder.path());
        command
    }

    fn told(&self, args: &[&str]) -> Finished {
        run(&mut self.script(args))
    }

    /// A program on one of the hosts.
    fn start(&self, host: &str, args: &[&str]) -> Role {
        // A lab's program ends with its parent, which on the hosts is no longer this test.
        Role::spawn(self.script(&["run", host, "env", "-u", "LAB_PARENT"]).args(args)).unwrap()
    }
}

/// The processes, as seen from here, that hold a network namespace whose hosts belong to the kit in `folder`.
fn left_over(folder: &TempDir) -> Vec<String> {
    let name = folder.path().to_str().unwrap();
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let path = entry.unwrap().path();
        let command = fs::read_to_string(path.join("cmdline")).ok()?;
        (command.contains("two-hosts") && command.contains(name) || command.contains("lab12-broken-pipe server 10."))
            .then_some(command)
    });
    processes.collect()
}

#[test]
fn a_lab_talks_from_host_to_host_while_the_cable_is_pulled_and_put_back() {
    let Some(hosts) = TwoHosts::up() else { return };
    let program = "./lab12-broken-pipe";
    let mut server = hosts.start("A", &[program, "server", "10.0.0.1"]);
    server.wait_for("10.0.0.1:7777 is in listening state").unwrap();
    let mut client = hosts.start("B", &[program, "client", "10.0.0.1"]);
    client.wait_for("Local end-point is bound to 10.0.0.2:").unwrap();
    client.type_line("one").unwrap();
    server.wait_for("Received 4 bytes: \"one\\n\"\n").unwrap();
    assert_eq!(hosts.told(&["status"]).stdout, "A  10.0.0.1  link up\nB  10.0.0.2  link up\n");

    assert_eq!(hosts.told(&["unplug"]).stdout, "+ A: ip link set eth0 down\n");
    assert_eq!(hosts.told(&["status"]).stdout, "A  10.0.0.1  link down\nB  10.0.0.2  no carrier\n");
    client.type_line("two").unwrap();
    client.wait_for("Sent 4 bytes\n  ESTABLISHED, Send-Q 4, sent again").unwrap();
    assert!(!server.printed().contains("two"));
    assert_eq!(hosts.told(&["plug"]).stdout, "+ A: ip link set eth0 up\n+ B: ip link set eth0 up\n");
    server.wait_for("Received 4 bytes: \"two\\n\"\n").unwrap();

    assert_eq!(hosts.told(&["unplug", "B"]).stdout, "+ B: ip link set eth0 down\n");
    assert_eq!(hosts.told(&["status"]).stdout, "A  10.0.0.1  no carrier\nB  10.0.0.2  link down\n");
    let refused = hosts.told(&["run", "B", program, "client", "10.0.0.1"]);
    assert!(refused.stderr.contains("connect 10.0.0.1:7777: ENETUNREACH (101)"), "{refused:?}");
    hosts.told(&["plug"]);
    let shown = hosts.told(&["run", "A", "kit/scripts/states.sh", "7777"]);
    assert!(shown.stdout.contains("10.0.0.1:7777 10.0.0.2:") || shown.stdout.contains("ESTABLISHED"), "{shown:?}");
    signal(&client, Signal::SIGKILL); // what it started dies with it
    server.wait_for("Closed the client's socket\n").unwrap();
}

#[test]
fn ctrl_c_and_down_and_kill_9_leave_nothing() {
    for end in ["ctrl-c", "down", "kill -9"] {
        let Some(mut hosts) = TwoHosts::up() else { return };
        let mut server = hosts.start("A", &["./lab12-broken-pipe", "server", "10.0.0.1"]);
        server.wait_for("is in listening state").unwrap();
        assert!(!left_over(&hosts.folder).is_empty());
        match end {
            "ctrl-c" => interrupt(&mut hosts.up),
            "down" => assert_eq!(hosts.told(&["down"]).stdout, "both hosts are gone\n"),
            _ => signal(&hosts.up, Signal::SIGKILL),
        }
        server.wait_for_end().unwrap();
        hosts.up.wait_for_end().unwrap();
        let gone =
            wait_until("the end of all processes", LIMIT, || Ok(left_over(&hosts.folder).is_empty().then_some(())));
        assert!(gone.is_ok(), "{end}: {:?}", left_over(&hosts.folder));
        let entries = fs::read_dir(hosts.folder.path()).unwrap().count();
        assert_eq!(entries, 2, "no file is left beside the kit and the program");
        let (code, stderr) = failed(&mut hosts.script(&["status"]));
        assert_eq!(code, 1);
        assert!(stderr.contains("the two hosts are not up\n  hint: "), "{stderr}");
    }
}

#[test]
fn two_kits_do_not_meet_and_one_kit_is_up_once() {
    let Some(hosts) = TwoHosts::up() else { return };
    let (code, stderr) = failed(&mut hosts.script(&["up"]));
    assert_eq!(code, 1);
    assert!(stderr.contains("the two hosts are up already"), "{stderr}");
    let other = TempDir::new();
    let kit = other.path().join("kit");
    fs::create_dir(&kit).unwrap();
    assert!(Command::new("cp").arg("-r").arg(root().join("scripts")).arg(&kit).status().unwrap().success());
    let script = kit.join("scripts/two-hosts.sh");
    let (_, stderr) = failed(Command::new(&script).arg("status"));
    assert!(stderr.contains("are not up"), "{stderr}");
    let mut second = Role::spawn(Command::new(&script).arg("up")).unwrap();
    second.wait_for_within("Ctrl-C ends both hosts", LIMIT).unwrap();
    let network = |finished: Finished| finished.stdout;
    let read = ["run", "A", "readlink", "/proc/self/ns/net"];
    assert_ne!(network(hosts.told(&read)), network(run(Command::new(&script).args(read))));
    interrupt(&mut second);
}

/// The tmux server of a classroom, which ends with its owner, also where a test fails.
struct Tmux<'a>(&'a TempDir);

impl Tmux<'_> {
    fn told(&self, args: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.env_remove("TMUX").env("TMUX_TMPDIR", self.0.path()).args(["-L", "labkit"]).args(args);
        run(&mut command).stdout
    }
}

impl Drop for Tmux<'_> {
    fn drop(&mut self) {
        self.told(&["kill-server"]);
    }
}

#[test]
fn classroom_sets_out_both_hosts_and_the_cable_has_its_own_pane() {
    if skip_without(!have("tmux"), "tmux", "apt-get install tmux") || TwoHosts::up().is_none() {
        return;
    }
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let folder = TempDir::new();
    let kit = folder.path().join("kit");
    fs::create_dir_all(kit.join("labs/lab12-broken-pipe")).unwrap();
    assert!(Command::new("cp").arg("-r").arg(root().join("scripts")).arg(&kit).status().unwrap().success());
    let bin = folder.path().join("bin");
    fs::create_dir(&bin).unwrap();
    assert!(Command::new("cp").arg(LAB).arg(&bin).status().unwrap().success()); // not fs::copy: ETXTBSY, see testkit
    let classroom = |args: &[&str]| {
        let mut command = Command::new(kit.join("scripts/classroom.sh"));
        run(command.env_remove("TMUX").env("TMUX_TMPDIR", folder.path()).args(["12", "--two-hosts"]).args(args))
    };
    let server = Tmux(&folder);
    let tmux = |args: &[&str]| server.told(args);
    let set_out = classroom(&["--detach", "--bin", bin.to_str().unwrap()]);
    assert_eq!(set_out.code(), 0, "{set_out:?}");
    let listed = tmux(&["list-panes", "-s", "-F", "#{pane_id} #{pane_width} #{pane_title}"]);
    let panes: Vec<(&str, usize, &str)> = listed
        .lines()
        .map(|line| line.splitn(3, ' ').collect::<Vec<_>>())
        .map(|fields| (fields[0], fields[1].parse().unwrap(), fields[2]))
        .collect();
    let titles: Vec<&str> = panes.iter().map(|(.., title)| *title).collect();
    assert_eq!(titles, ["cable", "host A: server", "host B: client", "host B: sockets of port 7120"]);
    let shows = |place: usize, wanted: &str| {
        let seen = wait_until(wanted, LIMIT, || {
            Ok(tmux(&["capture-pane", "-p", "-t", panes[place].0]).contains(wanted).then_some(()))
        });
        assert!(seen.is_ok(), "no '{wanted}' in\n{}", tmux(&["capture-pane", "-p", "-t", panes[place].0]));
    };
    let types = |place: usize, text: &str| tmux(&["send-keys", "-t", panes[place].0, text, "Enter"]);
    shows(1, "New client connected from 10.0.0.2:");
    shows(2, "Local end-point is bound to 10.0.0.2:");
    shows(3, "ESTAB       0  0");
    types(0, "unplug");
    shows(0, "+ A: ip link set eth0 down"); // the command stands there before it has run
    types(0, "status");
    shows(0, "A  10.0.0.1  link down");
    types(2, "hello");
    shows(2, "ESTABLISHED, Send-Q 6, sent again");
    shows(3, "ESTAB       0  6");
    types(0, "plug");
    shows(1, "Received 6 bytes: \"hello\\n\"");
    for (pane, width, title) in &panes {
        // -J joins the parts of a wrapped line again.
        for line in tmux(&["capture-pane", "-p", "-J", "-t", pane]).lines().map(str::trim_end) {
            assert!(line.chars().count() <= *width, "{title}: wrapped at {width}: {line}");
        }
    }
    let ended = classroom(&["--end"]);
    assert_eq!(ended.code(), 0, "{ended:?}");
    let gone = wait_until("the end of all processes", LIMIT, || Ok(left_over(&folder).is_empty().then_some(())));
    assert!(gone.is_ok(), "{:?}", left_over(&folder));
}

#[test]
fn wrong_words_are_refused() {
    let script = root().join("scripts/two-hosts.sh");
    for args in [&["sideways"][..], &[], &["run", "C", "true"], &["run"], &["unplug", "C"], &["up", "now"], &["shell"]]
    {
        let (code, stderr) = failed(Command::new(&script).args(args));
        assert_eq!(code, 2, "{args:?}: {stderr}");
    }
}
