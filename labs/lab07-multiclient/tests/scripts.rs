//! The scripts, with lab07 as what they look at: with ss, with netstat, and with neither.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    time::Duration,
};

use testkit::{Role, TempDir, ends_well, have, path_with, root, run, signal, skip_without, wait_until};

const LAB: &str = env!("CARGO_BIN_EXE_lab07-multiclient");
const LIMIT: Duration = Duration::from_secs(10);
fn script(name: &str) -> Command {
    Command::new(root().join("scripts").join(name))
}

fn server() -> (Role, u16) {
    let mut server = Role::spawn(Command::new(LAB).args(["server", "0"])).unwrap();
    let banner = server.line_with("PORT : ").unwrap();
    (server, banner.rsplit(' ').next().unwrap().parse().unwrap())
}

/// A checkout with the scripts, this lab and perhaps a made-up one.
fn kit_of_one(folder: &TempDir) -> std::path::PathBuf {
    for file in fs::read_dir(root().join("scripts")).unwrap().map(|entry| entry.unwrap().path()) {
        fs::create_dir_all(folder.path().join("scripts")).unwrap();
        fs::copy(&file, folder.path().join("scripts").join(file.file_name().unwrap())).unwrap();
    }
    fs::create_dir_all(folder.path().join("labs/lab07-multiclient")).unwrap();
    folder.path().join("scripts/verify-lecture.sh")
}

#[test]
fn states_shows_the_same_sockets_with_ss_with_netstat_and_with_neither() {
    testkit::one_processor();
    let (mut server, port) = server();
    let stays = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let leaves = TcpStream::connect(("127.0.0.1", port)).unwrap();
    for _ in 0..2 {
        server.wait_for("> New connection [").unwrap();
    }
    let (stays_at, leaves_at) = (stays.local_addr().unwrap(), leaves.local_addr().unwrap());
    leaves.shutdown(Shutdown::Both).unwrap();
    server.wait_for("> Closing connection").unwrap();
    drop(leaves);
    let expected = [
        format!("LISTEN 127.0.0.1:{port}"),
        format!("ESTABLISHED 127.0.0.1:{port} {stays_at}"),
        format!("ESTABLISHED {stays_at} 127.0.0.1:{port}"),
        format!("TIME-WAIT {leaves_at} 127.0.0.1:{port}"),
    ];
    for tools in [&["ss"][..], &["netstat"], &["ss", "netstat"], &[]] {
        if skip_without(!tools.iter().all(|tool| have(tool)), "ss and netstat", "apt-get install iproute2 net-tools") {
            continue;
        }
        let folder = TempDir::new();
        let path = path_with(&folder, tools);
        let shown = run(script("states.sh").env("PATH", path).arg(port.to_string()));
        assert_eq!(shown.code(), 0, "{shown:?}");
        assert!(shown.stdout.starts_with("+ "), "the command comes first: {}", shown.stdout);
        // Connections of others may have had the same port number, and still be in TIME-WAIT.
        let ours = |row: &String| {
            row.starts_with("LISTEN") || [stays_at, leaves_at].iter().any(|addr| row.contains(&addr.to_string()))
        };
        let (rows, others): (Vec<_>, Vec<_>) = rows(&shown.stdout).into_iter().partition(ours);
        let ends = |row: &String| row.split(' ').skip(1).any(|end| end.ends_with(&format!(":{port}")));
        assert!(rows.iter().chain(&others).all(ends), "a row without port {port}:\n{}", shown.stdout);
        for row in &expected {
            assert!(
                rows.iter().any(|shown| shown.starts_with(row.as_str())),
                "no {row} with {tools:?}:\n{}",
                shown.stdout
            );
        }
        assert_eq!(rows.len(), expected.len(), "{tools:?}:\n{}", shown.stdout);
    }
}

/// `STATE LOCAL PEER` of each socket in the table.
fn rows(output: &str) -> Vec<String> {
    let table = output.lines().skip_while(|line| !line.starts_with("State")).skip(1);
    let table = table.take_while(|line| !line.is_empty());
    let fields = table.map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields.map(|fields| [fields[0], fields[3], fields[4]].join(" ")).collect()
}

#[test]
fn states_watches_until_ctrl_c_and_refuses_what_is_no_port() {
    let (_server, port) = server();
    let mut watching = Role::spawn(script("states.sh").args([&port.to_string(), "--watch"])).unwrap();
    for _ in 0..2 {
        watching.wait_for("LISTEN").unwrap();
        watching.wait_for("\n\n").unwrap();
    }
    signal(&watching, nix::sys::signal::Signal::SIGINT);
    ends_well(&mut watching);
    for port in ["0", "65536", "http", "-1"] {
        assert_eq!(run(script("states.sh").arg(port)).code(), 2, "{port}");
    }
}

#[test]
fn fds_joins_descriptors_with_sockets_from_each_source() {
    let (server, port) = server();
    for tools in [&["ss"][..], &["netstat"], &[]] {
        if skip_without(!tools.iter().all(|tool| have(tool)), "ss and netstat", "apt-get install iproute2 net-tools") {
            continue;
        }
        let folder = TempDir::new();
        let path = path_with(&folder, tools);
        let shown = run(script("fds.sh").env("PATH", path).arg(server.pid().to_string()));
        assert_eq!(shown.code(), 0, "{shown:?}");
        let row = shown.stdout.lines().find(|line| line.contains("LISTEN")).unwrap_or_else(|| panic!("{shown:?}"));
        assert!(row.contains("socket:[") && row.contains(&format!("127.0.0.1:{port}")), "{row}");
    }
    assert_eq!(run(script("fds.sh").arg("4194305")).code(), 1); // above the highest process id
}

#[test]
fn classroom_sets_out_the_lab_without_a_wrapped_line_and_ends_it() {
    if skip_without(!have("tmux"), "tmux", "apt-get install tmux") {
        return;
    }
    let folder = TempDir::new();
    // Four digits, as the lecture's; below the range from which the kernel chooses for others.
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let first = 5000 + u16::try_from(std::process::id() % 2000).unwrap();
    let port = (first..first + 1000).find(free).unwrap().to_string();
    let bin = Path::new(LAB).parent().unwrap();
    let classroom = |args: &[&str]| {
        run(script("classroom.sh").env_remove("TMUX").env("TMUX_TMPDIR", folder.path()).arg("07").args(args))
    };
    let tmux = |args: &[&str]| {
        run(Command::new("tmux").env_remove("TMUX").env("TMUX_TMPDIR", folder.path()).args(["-L", "labkit"]).args(args))
    };
    for run in ["first", "reset"] {
        let set_out = classroom(&["--detach", "--port", &port, "--bin", bin.to_str().unwrap()]);
        assert_eq!(set_out.code(), 0, "{run}: {set_out:?}");
    }
    let ids = tmux(&["list-panes", "-s", "-F", "#{pane_id} #{pane_width}"]).stdout;
    let panes: Vec<(&str, usize)> =
        ids.lines().map(|line| line.split_once(' ').unwrap()).map(|(id, width)| (id, width.parse().unwrap())).collect();
    assert_eq!(panes.len(), 5);
    for wanted in ["> Server bound to", "> Connected to server", "LISTEN", "ESTAB"] {
        wait_until(wanted, LIMIT, || {
            let seen = |(id, _): &(&str, usize)| tmux(&["capture-pane", "-p", "-t", id]).stdout.contains(wanted);
            Ok(panes.iter().any(seen).then_some(()))
        })
        .unwrap();
    }
    // The longest line of the handout: what the first client says, as the server shows it.
    let titled = tmux(&["list-panes", "-s", "-F", "#{pane_id} #{pane_title}"]).stdout;
    let pane =
        |title: &str| titled.lines().find(|line| line.ends_with(title)).unwrap().split(' ').next().unwrap().to_string();
    tmux(&["send-keys", "-t", &pane("client 1"), "Line 1 sending to server", "Enter"]);
    wait_until("the line reversed", LIMIT, || {
        let shown = tmux(&["capture-pane", "-p", "-t", &pane("server")]).stdout;
        Ok(shown.contains("] Client message = revres ot gnidnes 1 eniL\n").then_some(()))
    })
    .unwrap();
    for (id, width) in &panes {
        // -J joins the parts of a wrapped line again.
        let text = tmux(&["capture-pane", "-p", "-J", "-t", id]).stdout;
        for line in text.lines().map(str::trim_end) {
            assert!(line.chars().count() <= *width, "wrapped at {width}: {line}");
        }
    }
    let ended = classroom(&["--end"]);
    assert_eq!(ended.code(), 0, "{ended:?}");
    assert_ne!(tmux(&["has-session"]).code(), 0);
    let free = run(script("states.sh").arg(&port));
    assert!(!rows(&free.stdout).iter().any(|row| row.starts_with("LISTEN")), "{}", free.stdout);
}

#[test]
fn verify_lecture_counts_the_verdicts_and_fails_for_an_unexpected_one() {
    let folder = TempDir::new();
    let verify = kit_of_one(&folder);
    let bin = folder.path().join("bin");
    fs::create_dir(&bin).unwrap();
    assert_eq!(run(Command::new("cp").arg(LAB).arg(&bin)).code(), 0); // not fs::copy: ETXTBSY, see testkit
    let verified = run(Command::new(&verify).arg("--bin").arg(&bin));
    assert_eq!(verified.code(), 0, "{verified:?}");
    let total = verified.stdout.lines().find(|line| line.starts_with("total")).unwrap();
    assert_eq!(total.split_whitespace().collect::<Vec<_>>()[1..6], ["0", "2", "8", "0", "0"], "{}", verified.stdout);

    fs::create_dir(folder.path().join("labs/lab99-broken")).unwrap();
    let broken = bin.join("lab99-broken");
    fs::write(&broken, "#!/bin/sh\nprintf '\\n1 * wrong\\nverdict   UNEXPECTED\\nobserved  this\\n'; exit 1\n")
        .unwrap();
    fs::set_permissions(&broken, fs::Permissions::from_mode(0o755)).unwrap();
    let verified = run(Command::new(&verify).arg("--bin").arg(&bin));
    assert_eq!(verified.code(), 1, "{verified:?}");
    assert!(verified.stdout.contains("observed  this"), "{}", verified.stdout);
}

#[test]
fn check_says_what_is_here_and_what_would_be_skipped() {
    let checked = run(script("check.sh").arg("07").arg("--bin").arg(Path::new(LAB).parent().unwrap()));
    assert_eq!(checked.code(), 0, "{checked:?}");
    assert!(checked.stdout.contains("lab07-multiclient: no experiment is skipped here"), "{}", checked.stdout);
}

#[test]
fn scripts_end_quietly_when_their_reader_goes() {
    let (server, port) = server();
    for (name, arg) in
        [("states.sh", port.to_string()), ("fds.sh", server.pid().to_string()), ("check.sh", "07".into())]
    {
        let file = root().join("scripts").join(name);
        let command = format!("'{}' {arg} 2>&1 | head -1", file.display());
        let shown = run(Command::new("bash").args(["-c", &command]));
        assert_eq!((shown.stdout.lines().count(), shown.stderr.as_str()), (1, ""), "{name}: {shown:?}");
    }
}
