//! Runs the real binary: the demo. Each of the three roles has a file of its own: run.rs, watch.rs, vote.rs.
#![allow(clippy::unwrap_used)]

use std::{process::Command, sync::LazyLock};

use testkit::{Demo, Role, ends_well, failed, run, skip_without};

const LAB: &str = env!("CARGO_BIN_EXE_lab00-scope");
static DEMO: LazyLock<Demo> = LazyLock::new(|| Demo::play(LAB));

/// Whether the experiments could be played: all of them need a private network.
fn captures() -> bool {
    let lacks = DEMO.finished.stdout.contains("needs a private user and network namespace");
    !skip_without(lacks, "user namespaces", "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0")
}

#[test]
fn the_demo_decides_every_claim_as_recorded() {
    let experiments =
        ["close-returns", "one-send", "same-bytes", "sent-again", "not-received", "missed", "group", "reset"];
    DEMO.assert_verdicts(&experiments.map(|id| (id, "ANSWERED")));
}

#[test]
fn being_stopped_and_continued_changes_no_verdict() {
    testkit::assert_stops_change_no_verdict(LAB);
}

#[test]
fn the_printed_calls_are_those_strace_saw() {
    if captures() {
        testkit::assert_printed_calls_are_real_with(LAB, "captured");
    }
}

#[test]
fn the_command_line_keeps_the_rules_of_all_labs() {
    if captures() {
        testkit::assert_common_rules(LAB, &["watch", "--plain", "1"], "no such socket yet");
    }
}

#[test]
fn the_sheet_quotes_a_real_run() {
    testkit::assert_sheet_quotes_a_run("lab00-scope", &DEMO);
}

#[test]
fn an_ordinary_account_can_do_everything() {
    testkit::assert_demo_needs_no_privileges(LAB);
}

#[test]
fn two_demos_at_once_do_not_meet() {
    if !captures() {
        return;
    }
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let demo = run(Command::new(LAB).arg("demo"));
                assert!(demo.code() == 0 && demo.stdout.contains(" 8 ANSWERED, 0 SKIPPED, 0 UNEXPECTED"), "{demo:?}");
            });
        }
    });
}

#[test]
fn a_scene_refuses_the_network_of_everybody() {
    let outside = std::fs::read_link("/proc/self/ns/net").unwrap();
    let (code, stderr) = failed(Command::new(LAB).args(["captured", "missed"]).arg(&outside));
    assert!(code == 1 && stderr.contains("start it in unshare -Urn"), "{code} {stderr}");
}

/// What the sheet says of the tool that students know. In a network of its own tcpdump wants to be root of the machine.
#[test]
fn tcpdump_calls_the_unfinished_checksum_of_lo_bad() {
    let can = testkit::have("tcpdump") && run(Command::new("unshare").args(["-n", "true"])).code() == 0;
    if skip_without(!can, "tcpdump and root", "apt-get install tcpdump") {
        return;
    }
    let script = "ip link set lo up; timeout 20 tcpdump --immediate-mode -l -i lo -c 1 -vv udp 2>&1 & \
                  read; echo hello >/dev/udp/127.0.0.1/9; wait";
    let mut tcpdump = Role::spawn(Command::new("unshare").args(["-n", "bash", "-c", script])).unwrap();
    tcpdump.wait_for("listening on lo").unwrap();
    tcpdump.type_line("").unwrap();
    tcpdump.wait_for("bad udp cksum").unwrap();
    ends_well(&mut tcpdump);
}
