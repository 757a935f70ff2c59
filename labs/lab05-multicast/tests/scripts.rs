//! scripts/groups.sh, with lab05 as what it looks at: with ip, with netstat, and with neither.
#![allow(clippy::unwrap_used)]

use std::{
    net::{Ipv4Addr, Ipv6Addr, UdpSocket},
    os::unix::fs::symlink,
    process::Command,
    time::Duration,
};

use testkit::{Finished, Role, TempDir, have, root, run, skip_without, wait_until};

const LAB: &str = env!("CARGO_BIN_EXE_lab05-multicast");
const LIMIT: Duration = Duration::from_secs(10);
/// What the script uses besides ip, ss and netstat.
const TOOLS: &str = "awk basename bash cat cut dirname env grep head ls readlink rm sed sort tail tr wc";

fn groups(path: &str, args: &[&str]) -> Finished {
    let shown = run(Command::new(root().join("scripts/groups.sh")).env("PATH", path).args(args));
    assert_eq!(shown.code(), 0, "{shown:?}");
    assert!(shown.stdout.starts_with("+ "), "the command comes first: {}", shown.stdout);
    assert!(shown.stdout.lines().all(|line| line.len() < 80), "{}", shown.stdout);
    shown
}

/// A PATH with the usual tools and the named ones.
fn path_with(folder: &TempDir, extra: &[&str]) -> String {
    let folders: Vec<_> = std::env::split_paths(&std::env::var_os("PATH").unwrap()).collect();
    for tool in TOOLS.split_whitespace().chain(extra.iter().copied()) {
        let found = folders.iter().map(|folder| folder.join(tool)).find(|file| file.is_file());
        let found = found.unwrap_or_else(|| panic!("{tool} is not in PATH"));
        symlink(found, folder.path().join(tool)).unwrap();
    }
    folder.path().to_str().unwrap().into()
}

/// `INTERFACE USERS GROUP` of each row of the first table.
fn rows(output: &str) -> Vec<String> {
    let table = output.lines().skip_while(|line| !line.starts_with("Interface")).skip(1);
    let rows = table.take_while(|line| !line.is_empty());
    rows.map(|line| line.split_whitespace().take(3).collect::<Vec<_>>().join(" ")).collect()
}

/// Each set of tools there is, with the file the source is read from at last.
fn each_source(mut look: impl FnMut(&[&str], &str)) {
    for tools in [&["ip", "ss"][..], &["ip", "netstat"], &["netstat"], &[]] {
        if skip_without(!tools.iter().all(|tool| have(tool)), "ip, ss, netstat", "apt-get install iproute2 net-tools") {
            continue;
        }
        let folder = TempDir::new();
        look(tools, &path_with(&folder, tools));
    }
}

/// Two receivers in a group of their own, on a port that the kernel gives nobody else. The group's address has a 6 in it,
/// which must not be taken for that of tcp6 and udp6.
fn two_members() -> (UdpSocket, String, u16, [Role; 2]) {
    let port_sock = UdpSocket::bind("127.0.0.2:0").unwrap();
    let port = port_sock.local_addr().unwrap().port();
    let [high, low] = port.to_be_bytes();
    let group = format!("239.236.{high}.{low}");
    let member = || {
        let mut member = Role::spawn(Command::new(LAB).args(["receive", &format!("{group}:{port}")])).unwrap();
        member.wait_for("Joined").unwrap();
        member
    };
    (port_sock, group.clone(), port, [member(), member()])
}

/// What the script shows once it shows all of `wanted`. netstat and /proc hand a table out in pieces: while other sockets
/// come and go a line may be missed, so a second look is fair.
fn shown_with(tools: &[&str], path: &str, args: &[&str], wanted: impl Fn(&str) -> bool) -> String {
    let mut last = String::new();
    let seen = wait_until("the wanted lines", LIMIT, || {
        last = groups(path, args).stdout;
        Ok(wanted(&last).then_some(()))
    });
    assert!(seen.is_ok(), "with {tools:?}:\n{last}");
    last
}

#[test]
fn a_group_has_the_same_users_from_each_source_and_none_once_its_members_have_ended() {
    let (_port_sock, group, port, members) = two_members();
    let users = |shown: &str, users: u32| rows(shown) == [format!("lo {users} {group}")];
    let bound = |shown: &str| -> Vec<String> {
        let at_the_group = |line: &&str| line.starts_with(&format!("{group}:{port} "));
        shown.lines().filter(at_the_group).map(String::from).collect()
    };
    each_source(|tools, path| {
        let shown = shown_with(tools, path, &[&group], |shown| users(shown, 2) && bound(shown).len() == 2);
        for member in &members {
            let pid = format!("/{}", member.pid());
            let named = bound(&shown).iter().any(|line| line.ends_with(&pid));
            assert_eq!(named, !tools.is_empty(), "{tools:?}:\n{shown}");
        }
    });
    let [mut first, second] = members;
    nix::sys::signal::kill(first.pid(), nix::sys::signal::Signal::SIGKILL).unwrap();
    first.wait_for_end().unwrap();
    each_source(|tools, path| {
        shown_with(tools, path, &[&group], |shown| users(shown, 1) && bound(shown).len() == 1);
    });
    drop(second);
    each_source(|tools, path| {
        let shown = groups(path, &[&group]).stdout;
        assert!(shown.contains(&format!("nobody on this machine is in {group}")), "{tools:?}:\n{shown}");
        assert!(shown.contains(&format!("no socket is bound to {group}")), "{tools:?}:\n{shown}");
    });
}

#[test]
fn an_ipv6_group_is_written_the_same_way_by_each_source() {
    if skip_without(!std::path::Path::new("/proc/net/igmp6").exists(), "IPv6", "boot without ipv6.disable=1") {
        return;
    }
    let sock = socket2::Socket::from(UdpSocket::bind("[::]:0").unwrap());
    let port = sock.local_addr().unwrap().as_socket().unwrap().port();
    let group = Ipv6Addr::new(0xff11, 0, 0, 0, 0, 0, 1, port); // of this host only
    sock.join_multicast_v6(&group, 1).unwrap(); // lo is the first interface
    let row = format!("lo 1 {group}");
    each_source(|tools, path| {
        shown_with(tools, path, &[&group.to_string()], |shown| rows(shown) == [row.as_str()]);
        let well_known = ["lo 1 224.0.0.1", "lo 1 ff02::1", &row];
        shown_with(tools, path, &[], |shown| {
            let rows = rows(shown);
            well_known.iter().all(|wanted| rows.iter().any(|row| row == wanted))
        });
    });
}

#[test]
fn a_group_that_mdns_joins_keeps_its_row_in_80_columns() {
    let sock = socket2::Socket::from(UdpSocket::bind("127.0.0.1:0").unwrap());
    sock.join_multicast_v4(&Ipv4Addr::new(224, 0, 0, 251), &Ipv4Addr::LOCALHOST).unwrap();
    each_source(|tools, path| {
        shown_with(tools, path, &[], |shown| {
            rows(shown).iter().any(|row| row.starts_with("lo ") && row.ends_with(" 224.0.0.251"))
        });
    });
}

#[test]
fn what_is_no_group_is_refused() {
    let script = root().join("scripts/groups.sh");
    for args in [&["10.1.1.1"][..], &["239.1.1"], &["239.1.1.256"], &["fe80::1"], &["lo"], &["239.1.1.1", "239.1.1.2"]]
    {
        let refused = run(Command::new(&script).args(args));
        assert_eq!((refused.code(), refused.stdout.as_str()), (2, ""), "{args:?}: {refused:?}");
    }
}

#[test]
fn it_ends_quietly_when_its_reader_goes() {
    let command = format!("'{}' 2>&1 | head -1", root().join("scripts/groups.sh").display());
    let shown = run(Command::new("bash").args(["-c", &command]));
    assert_eq!((shown.stdout.lines().count(), shown.stderr.as_str()), (1, ""), "{shown:?}");
}
