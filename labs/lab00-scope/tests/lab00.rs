//! Runs the real binary: the demo, the program against a foreign peer, and what goes wrong.
#![allow(clippy::unwrap_used)]

use std::{net::UdpSocket, process::Command, sync::LazyLock};

use testkit::{Demo, Role, failed, interrupt};

const LAB: &str = env!("CARGO_BIN_EXE_lab00-scope");
static DEMO: LazyLock<Demo> = LazyLock::new(|| Demo::play(LAB));

#[test]
fn the_demo_decides_every_claim_as_recorded() {
    DEMO.assert_verdicts(&[("two-waiting", "CORRECTED")]);
}

#[test]
fn the_printed_calls_are_those_strace_saw() {
    testkit::assert_printed_calls_are_real(LAB);
}

#[test]
fn the_command_line_keeps_the_rules_of_all_labs() {
    testkit::assert_common_rules(LAB, &["receive", "127.0.0.1:0"], "Socket is bound to ");
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
fn each_datagram_of_a_foreign_sender_is_shown_by_itself() {
    let mut receive = Role::spawn(Command::new(LAB).args(["receive", "127.0.0.1:0"])).unwrap();
    let line = receive.line_with("Socket is bound to ").unwrap();
    let sock = UdpSocket::bind("127.0.0.1:0").unwrap();
    for text in ["one", "three"] {
        sock.send_to(text.as_bytes(), line.trim().rsplit(' ').next().unwrap()).unwrap();
    }
    receive.wait_for("Received 3 bytes: [one]\nReceived 5 bytes: [three]\n").unwrap();
    interrupt(&mut receive);
}

#[test]
fn an_address_of_another_machine_is_refused() {
    let (code, stderr) = failed(Command::new(LAB).args(["receive", "192.0.2.1:7778"]));
    assert!(code == 1 && stderr.contains("bind 192.0.2.1:7778: EADDRNOTAVAIL (99)"), "{code} {stderr}");
}
