//! Machines that are set up otherwise: the demos under settings of the network, each in a private namespace.
//!
//! A demo must decide its claims there, or say SKIPPED and name the setting: never UNEXPECTED, and it must not hang.
//! By default each setting is tried with the labs it concerns. More:
//!     LABS=lab06,lab07 cargo test -p testkit --test settings     these labs under every setting
//!     SETTINGS=all cargo test -p testkit --test settings         every lab under every setting (minutes)
//!     SETTINGS=tcp_rmem cargo test -p testkit --test settings    every lab under the settings with this in their text
//! The labs must be built: cargo build --workspace.
//!
//! Left out, because one namespace cannot have them for itself: net.core.rmem_max, wmem_max, rmem_default and
//! wmem_default. A setting that the running kernel does not let a namespace change is left out as well, and named.
#![allow(clippy::unwrap_used)]

use std::{
    collections::HashMap,
    env, fs,
    io::Write,
    panic,
    path::{Path, PathBuf},
    sync::Mutex,
    thread,
    time::SystemTime,
};

use kernel::namespace::{self, NAMESPACE};
use testkit::{Finished, root, run, skip_without};

/// How many demos run at the same time.
const AT_ONCE: usize = 2;
/// The exit status of the shell that could not make a setting.
const NOT_SET: i32 = 99;

/// A machine that is set up otherwise.
struct Setting {
    /// Settings of sysctl, such as `net.ipv4.tcp_sack=0`, or a command of the shell.
    set: &'static str,
    /// What a demo that is SKIPPED for it must name.
    named: &'static str,
    /// The labs it concerns, by number; the others are tried only on request.
    labs: &'static [u8],
}

const fn setting(set: &'static str, named: &'static str, labs: &'static [u8]) -> Setting {
    Setting { set, named, labs }
}

const SETTINGS: &[Setting] = &[
    setting(NOTHING, "nothing is changed, so nothing may be named", ALL),
    setting("ip link set lo down", "ip link set lo up", ALL),
    setting(
        "ip addr del 127.0.0.1/8 dev lo; ip addr add 127.0.0.1/32 dev lo",
        "ip addr add 127.0.0.1/8",
        &[1, 2, 3, 5, 7, 8, 9],
    ),
    setting("ip link set lo mtu 576", "ip link set lo mtu", &[3, 4, 5, 8, 9]),
    setting("ip link set lo mtu 1500", "ip link set lo mtu", &[3, 4, 5, 8]),
    setting("net.ipv4.ip_local_port_range='40000 40003'", "ip_local_port_range", ALL),
    setting("net.ipv4.ip_local_port_range='40000 40031'", "ip_local_port_range", ALL),
    setting("net.ipv4.ip_local_reserved_ports='1-65535'", "ip_local_reserved_ports", ALL),
    setting("net.ipv4.tcp_rmem='4096 4096 4096'", "tcp_rmem", &[8, 9]),
    setting("net.ipv4.tcp_rmem='16384 16384 16384'", "tcp_rmem", &[8, 9]),
    setting("net.ipv4.tcp_rmem='65536 65536 65536'", "tcp_rmem", &[8, 9]),
    setting("net.ipv4.tcp_wmem='4096 4096 4096'", "tcp_wmem", &[8, 9]),
    setting("net.ipv4.tcp_wmem='16384 16384 16384'", "tcp_wmem", &[8, 9]),
    setting("net.ipv4.tcp_wmem='65536 65536 65536'", "tcp_wmem", &[8, 9]),
    setting(
        "net.ipv4.tcp_rmem='4096 4096 4096' net.ipv4.tcp_wmem='4096 4096 4096'",
        "tcp_rmem",
        &[7, 8, 9, 11, 20, 22, 23],
    ),
    setting("net.ipv4.tcp_rmem='16384 16384 16384' net.ipv4.tcp_wmem='16384 16384 16384'", "tcp_rmem", &[7, 8, 9]),
    setting("net.ipv4.tcp_rmem='65536 65536 65536' net.ipv4.tcp_wmem='65536 65536 65536'", "tcp_rmem", &[7, 8, 9]),
    setting("net.ipv4.tcp_syncookies=0", "tcp_syncookies", &[6, 11]),
    setting("net.ipv4.tcp_syncookies=2", "tcp_syncookies", &[6, 11, 19]),
    setting("net.ipv4.tcp_max_tw_buckets=0", "tcp_max_tw_buckets", &[6, 7, 9, 10, 11, 13, 17, 20, 21]),
    setting("net.ipv4.tcp_max_tw_buckets=1", "tcp_max_tw_buckets", &[6, 7, 9, 10, 11]),
    setting("net.ipv4.igmp_max_memberships=0", "igmp_max_memberships", &[5]),
    setting("net.ipv4.igmp_max_memberships=1", "igmp_max_memberships", &[5]),
    setting("net.core.optmem_max=1", "optmem_max", &[5]),
    setting("net.core.somaxconn=0", "somaxconn", &[6, 7, 9, 10]),
    setting("net.core.somaxconn=1", "somaxconn", &[6, 7, 10, 19, 20]),
    setting("net.core.somaxconn=4", "somaxconn", &[6]),
    setting("net.ipv4.tcp_tw_reuse=0", "tcp_tw_reuse", &[10]),
    setting("net.ipv4.tcp_tw_reuse=1", "tcp_tw_reuse", &[10]),
    setting("net.ipv4.tcp_timestamps=0", "tcp_timestamps", &[8, 9, 10, 21]),
    setting("net.ipv4.tcp_sack=0", "tcp_sack", &[8, 9]),
    setting("net.ipv4.tcp_abort_on_overflow=1", "tcp_abort_on_overflow", &[6, 7]),
    setting("net.ipv4.tcp_fin_timeout=1", "tcp_fin_timeout", &[9, 10, 11]),
    setting("net.ipv4.tcp_no_metrics_save=1", "tcp_no_metrics_save", &[8]),
    setting("net.ipv4.tcp_moderate_rcvbuf=0", "tcp_moderate_rcvbuf", &[8, 9]),
    setting("net.ipv4.tcp_window_scaling=0", "tcp_window_scaling", &[8, 9]),
    setting("net.ipv4.tcp_rfc1337=1", "tcp_rfc1337", &[7, 9, 10]),
    setting("net.ipv4.tcp_fastopen=0", "tcp_fastopen", &[8]),
    setting("net.ipv4.tcp_fastopen=3", "tcp_fastopen", &[6, 8]),
    setting("net.ipv4.ip_nonlocal_bind=1", "ip_nonlocal_bind", &[2, 3, 5]),
    setting("net.ipv4.ip_unprivileged_port_start=0", "ip_unprivileged_port_start", &[2]),
    setting("net.ipv4.ip_default_ttl=255", "ip_default_ttl", &[3, 5, 22]),
    setting("net.ipv4.icmp_ratelimit=100000", "icmp_ratelimit", &[3]),
    setting("net.ipv4.udp_rmem_min=1048576 net.ipv4.udp_wmem_min=1048576", "udp_rmem_min", &[3, 4, 5]),
    setting("net.ipv6.conf.all.disable_ipv6=1", "ipv6", &[1, 2, 3, 8]),
    setting("net.ipv6.bindv6only=1", "bindv6only", &[1, 2]),
    setting("net.ipv4.conf.all.route_localnet=1 net.ipv4.conf.lo.route_localnet=1", "route_localnet", &[2, 3, 9]),
    setting("ulimit -n 8", ANY, &[1, 2, 3, 5, 7, 8, 9]),
    setting("ulimit -n 12", ANY, &[1, 2, 3, 5, 7, 8, 9, 13, 14, 19, 20, 21, 22, 23]),
    setting("ulimit -n 20", ANY, &[1, 2, 7]),
    setting("ulimit -n 30", ANY, &[2]),
    setting("export PATH=/nonexistent", ANY, &[1, 2, 3, 5, 7, 8, 9, 21]),
];

/// The setting that changes nothing: what is SKIPPED there may be SKIPPED everywhere.
const NOTHING: &str = "nothing changed";
/// Whatever an experiment names: programs and descriptors are missing in more than one way.
const ANY: &str = "";
/// For a setting that ends most demos at once, or that every lab must stand.
const ALL: &[u8] = &[];

impl Setting {
    /// The demo of `lab` in a network of its own that is set up in this way.
    fn play(&self, lab: &Path) -> Finished {
        let command = ["ip ", "ulimit ", "export "].iter().any(|word| self.set.starts_with(word));
        let make = if command { self.set.replace("; ", " && ") } else { self.writes() };
        let script = format!("{{ {make}; }} >&2 || exit {NOT_SET}; exec \"$0\" demo");
        run(namespace::command("sh").args(["-c", &script]).arg(lab))
    }

    /// Without sysctl(8), which not every machine has.
    fn writes(&self) -> String {
        let (mut writes, mut rest) = (String::from("true"), self.set);
        while let Some((name, value)) = rest.trim_start().split_once('=') {
            let (value, after) = match value.strip_prefix('\'') {
                Some(quoted) => quoted.split_once('\'').unwrap(),
                None => value.split_once(' ').unwrap_or((value, "")),
            };
            writes += &format!(" && echo '{value}' >/proc/sys/{}", name.replace('.', "/"));
            rest = after;
        }
        writes
    }

    fn is_named_by(&self, reason: &str) -> bool {
        self.set == NOTHING || reason.to_lowercase().contains(self.named)
    }
}

#[test]
fn no_setting_makes_a_demo_unexpected_or_hang() {
    if skip_without(!(NAMESPACE.met)(), NAMESPACE.what, NAMESPACE.provided_by) {
        return;
    }
    let labs = labs();
    let mut runs: Vec<(&Setting, &Path)> = Vec::new();
    for setting in chosen() {
        runs.extend(
            labs.iter().filter(|(number, _)| concerns(setting, *number)).map(|(_, lab)| (setting, lab.as_path())),
        );
    }
    runs.reverse();

    let (waiting, failures, left_out) = (Mutex::new(runs), Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let skipped_anyway = Mutex::new(HashMap::new());
    let work = || {
        while let Some((setting, lab)) = { waiting.lock().unwrap().pop() } {
            let finished = match panic::catch_unwind(|| setting.play(lab)) {
                Ok(finished) if finished.code() == NOT_SET => {
                    left_out.lock().unwrap().push(format!("{} cannot be set in a namespace here", setting.set));
                    continue;
                }
                Ok(finished) => finished,
                Err(hang) => {
                    let told = hang.downcast_ref::<String>().cloned().unwrap_or_default();
                    failures.lock().unwrap().push(format!("{} with {}: {told}", setting.set, name(lab)));
                    continue;
                }
            };
            let mut anyway = Vec::new();
            if skipped(&finished).iter().any(|reason| !setting.is_named_by(reason)) {
                let known = skipped_anyway.lock().unwrap().get(lab).cloned();
                anyway = known.unwrap_or_else(|| skipped(&SETTINGS[0].play(lab)));
                skipped_anyway.lock().unwrap().insert(lab.to_path_buf(), anyway.clone());
            }
            let wrong = wrong(setting, &finished, &anyway);
            if !wrong.is_empty() {
                let again =
                    format!("LABS={} SETTINGS=\"{}\" cargo test -p testkit --test settings", short(lab), setting.set);
                let told = format!("{} with {}    ({again})\n{wrong}", setting.set, name(lab));
                failures.lock().unwrap().push(told);
            }
        }
    };
    thread::scope(|scope| (0..AT_ONCE).for_each(|_| drop(scope.spawn(work))));

    let mut left_out = left_out.into_inner().unwrap();
    left_out.dedup();
    left_out.iter().for_each(|what| drop(writeln!(std::io::stderr(), "left out: {what}"))); // past the capture
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} demos failed:\n\n{}", failures.len(), failures.join("\n"));
}

/// The settings asked for.
fn chosen() -> impl Iterator<Item = &'static Setting> {
    let wanted = env::var("SETTINGS").unwrap_or_default();
    let wanted = if wanted == "all" { String::new() } else { wanted };
    SETTINGS.iter().filter(move |setting| setting.set.contains(&wanted))
}

/// Whether to try this setting with this lab.
fn concerns(setting: &Setting, number: u8) -> bool {
    let asked = ["LABS", "SETTINGS"].iter().any(|name| env::var_os(name).is_some());
    asked || setting.labs == ALL || setting.labs.contains(&number)
}

/// The labs asked for, by number, with their binaries.
fn labs() -> Vec<(u8, PathBuf)> {
    let wanted = env::var("LABS").unwrap_or_default();
    let wanted: Vec<&str> = wanted.split(',').filter(|lab| !lab.is_empty()).collect();
    let mut labs: Vec<String> =
        fs::read_dir(root().join("labs")).unwrap().map(|lab| lab.unwrap().file_name().into_string().unwrap()).collect();
    labs.sort();
    labs.retain(|lab| wanted.is_empty() || wanted.iter().any(|wanted| lab.starts_with(wanted)));
    assert!(!labs.is_empty(), "no lab is named {wanted:?}");
    let test = env::current_exe().unwrap();
    let built = test.ancestors().nth(2).unwrap(); // target/debug/deps/settings-0123 is this test
    let helpers = ["shared/src", "shared/board", "shared/kernel/src", "shared/lines/src", "shared/roles/src"]
        .map(|folder| changed(&root().join(folder)));
    let is_old = |lab: &&String| {
        let sources = changed(&root().join("labs").join(lab).join("src")).max(*helpers.iter().max().unwrap());
        let made = fs::metadata(built.join(lab)).and_then(|binary| binary.modified());
        made.is_ok_and(|made| made < sources) || !built.join(lab).exists()
    };
    let old: Vec<&String> = labs.iter().filter(is_old).collect();
    assert!(old.is_empty(), "missing or old in {}: {old:?}; cargo build --workspace", built.display());
    let number = |lab: &String| lab["lab".len()..].split('-').next().unwrap().parse().unwrap();
    labs.iter().map(|lab| (number(lab), built.join(lab))).collect()
}

/// When a file below this folder was changed last.
fn changed(folder: &Path) -> SystemTime {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let when =
        |path: PathBuf| if path.is_dir() { changed(&path) } else { fs::metadata(path).unwrap().modified().unwrap() };
    entries.map(when).max().unwrap_or(SystemTime::UNIX_EPOCH)
}

fn name(lab: &Path) -> String {
    lab.file_name().unwrap().to_string_lossy().into_owned()
}

fn short(lab: &Path) -> String {
    name(lab).split('-').next().unwrap().into()
}

/// What a demo did that it must not do, a paragraph each.
fn wrong(setting: &Setting, finished: &Finished, skipped_anyway: &[String]) -> String {
    let Finished { stdout, stderr, .. } = finished;
    let mut wrong = String::new();
    for block in stdout.split("\n\n") {
        let title = block.trim_start().lines().next().unwrap_or_default();
        if let Some((_, verdict)) = block.split_once("\nverdict   UNEXPECTED\n") {
            if setting.set.starts_with("ulimit") && (verdict.contains("EMFILE") || verdict.contains("Too many")) {
                continue; // an error that helps
            }
            wrong += &format!("  {title}: UNEXPECTED\n    {}\n", verdict.trim_end().replace('\n', "\n    "));
        }
    }
    for reason in skipped(finished) {
        if !setting.is_named_by(&reason) && !skipped_anyway.contains(&reason) {
            wrong += &format!("  SKIPPED, and '{}' is not named: {reason}\n", setting.named);
        }
    }
    if !stdout.contains("\nscoreboard\n") {
        wrong += &format!("  no scoreboard:\n{stdout}");
    }
    let fails = stdout.contains("\nverdict   UNEXPECTED\n");
    if finished.code() != i32::from(fails) || !stderr.is_empty() {
        wrong += &format!("  exit status {}, standard error: {stderr}\n", finished.code());
    }
    wrong
}

/// The reasons of all that was SKIPPED, each once. A lab that is skipped as a whole says so above the scoreboard.
fn skipped(finished: &Finished) -> Vec<String> {
    let played = finished.stdout.split("\nscoreboard\n").next().unwrap();
    let mut reasons: Vec<String> = Vec::new();
    let mut lines = played.lines().peekable();
    while let Some(line) = lines.next() {
        let whole_lab = line.strip_prefix("missing   ");
        let Some(reason) = whole_lab.or(line.strip_prefix("verdict   SKIPPED    ")) else { continue };
        let mut reason = reason.trim().to_string();
        while let Some(more) = lines.next_if(|line| line.starts_with("          ")) {
            reason += &format!(" {}", more.trim());
        }
        reasons.push(reason);
    }
    reasons.dedup();
    reasons
}
