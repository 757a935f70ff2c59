#!/usr/bin/env bash
# new-lab.sh - how does a lab of one's own begin?
#
# Usage:    scripts/new-lab.sh NUMBER WORD
#           scripts/new-lab.sh 28 mine        makes labs/lab28-mine
#
# Makes all that the kit's tests ask for: the folder with its sheet, one
# experiment, one program and its tests; the row in README.md, the line in
# NOTES.md and the alias in .cargo/config.toml. The lab plays and passes at
# once. Then replace its claim by yours.
#
# Needs:    bash and coreutils; cargo for what it proposes at its end. No root.
#
# How to read it
#   Each line says what was made or changed. Nothing is overwritten: a number
#   that is taken is refused. To take everything back, delete the folder and
#   the three lines.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

for arg; do
    case $arg in
    -h | --help) help ;;
    -*) usage "there is no option $arg" ;;
    esac
done
[[ $# -eq 2 ]] || usage 'a number and a word, such as 28 mine'
[[ $1 =~ ^[0-9]{1,2}$ ]] || usage "'$1' is no number from 0 to 99"
printf -v short 'lab%02d' "$((10#$1))"
[[ $2 =~ ^[a-z][a-z0-9-]{1,19}$ ]] ||
    usage "'$2' is no word: a to z, digits and -, at most 20 of them"
lab=$short-$2
for folder in "$kit_root/labs/$short"-*/; do
    if [[ -d $folder ]]; then
        fail "$short is taken: $(basename -- "$folder")" "ls $kit_root/labs"
    fi
done
cd -- "$kit_root"

# insert FILE PREFIX LINE: puts LINE where it belongs among the lines that begin
# with PREFIX and a digit.
insert() {
    local file=$1 text
    text=$(
        PREFIX=$2 LINE=$3 awk '
            BEGIN { prefix = ENVIRON["PREFIX"]; line = ENVIRON["LINE"] }
            {
                digit = substr($0, length(prefix) + 1, 1)
                one = index($0, prefix) == 1 && digit ~ /[0-9]/
                if (!put && (one && $0 > line || seen && !one)) {
                    print line
                    put = 1
                }
                seen = seen || one
                print
            }
            END { if (!put) print line; exit !seen }
        ' "$file"
    ) || fail "$file has no line that begins with '$2'" "git diff $file"
    printf '%s\n' "$text" >"$file"
    say "changed  $file: $3"
}

make() { # FILE: from standard input, LABNN-WORD and LABNN replaced
    local text file=labs/$lab/$1
    mkdir -p -- "$(dirname -- "$file")"
    text=$(cat)
    text=${text//LABNN-WORD/"$lab"}
    printf '%s\n' "${text//LABNN/"$short"}" >"$file"
    say "made     $file"
}

make Cargo.toml <<'END'
[package]
name = "LABNN-WORD"
description = "One recv, one datagram"
version.workspace = true
edition.workspace = true
rust-version.workspace = true
license.workspace = true
publish.workspace = true

[lints]
workspace = true

[dependencies]
anyhow.workspace = true
clap.workspace = true
kernel.workspace = true
nix.workspace = true
shared.workspace = true
socket2.workspace = true

[dev-dependencies]
testkit.workspace = true
END

make src/main.rs <<'END'
//! What does one recv return where two datagrams wait?
//!
//! Terminal 1:   cargo LABNN receive
//! Terminal 2:   nc -u 127.0.0.1 7778
//! Watch:        scripts/states.sh 7778 --watch
//! Experiments:  cargo LABNN
//!
//! Compare with lab03-datagram.
//! Source: ours.
//! Read: recv(2), udp(7).

mod experiments;
mod receive;

use std::{net::SocketAddr, process::ExitCode};

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use shared::{DemoArgs, SheetArgs, address};

const LAB: &str = env!("CARGO_PKG_NAME");
const EXAMPLES: &str = "\
Examples:
  cargo LABNN                play all experiments
  cargo LABNN demo --pause   for the projector
  cargo LABNN receive        terminal 1: 127.0.0.1:7778";

#[derive(Parser)]
#[command(version, about = "One recv, one datagram", after_help = EXAMPLES)]
#[command(args_conflicts_with_subcommands = true)] // an experiment's name plays it, as after demo
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    demo: DemoArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Play the experiments (also without any argument)
    Demo(DemoArgs),
    /// Print the sheet of this lab
    Sheet(SheetArgs),
    /// Terminal 1: receive datagrams until Ctrl-C
    Receive(ReceiveArgs),
}

#[derive(Args)]
struct ReceiveArgs {
    /// Address to receive on; port 0 lets the kernel choose
    #[arg(default_value = "127.0.0.1:7778", value_parser = address("127.0.0.1:7778"))]
    address: SocketAddr,
    /// Wait for Enter before each socket call
    #[arg(long)]
    pause: bool,
}

fn main() -> ExitCode {
    let cli: Cli = shared::parse(&experiments::LESSON);
    shared::run(LAB, || dispatch(&cli))
}

fn dispatch(cli: &Cli) -> Result<ExitCode> {
    match &cli.command {
        None => return shared::play(&experiments::LESSON, &cli.demo),
        Some(Command::Demo(args)) => return shared::play(&experiments::LESSON, args),
        Some(Command::Sheet(args)) => return shared::sheet(include_str!("../README.md"), args),
        Some(Command::Receive(args)) => receive::run(args)?,
    }
    Ok(ExitCode::SUCCESS)
}
END

make src/receive.rs <<'END'
//! Terminal 1: shows each datagram, until Ctrl-C.

use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv},
};
use shared::{At, Pause, Screen, Stop, escaped};
use socket2::{Domain, Socket, Type};

use crate::ReceiveArgs;

/// One datagram after the other.
pub fn run(args: &ReceiveArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();
    let addr = args.address;

    let family = if addr.is_ipv6() { "AF_INET6" } else { "AF_INET" };
    pause.before(&mut screen, format_args!("socket({family}, SOCK_DGRAM, 0)"));
    let sock = Socket::new(Domain::for_address(addr), Type::DGRAM, None).at("socket", addr)?;
    let fd = sock.as_raw_fd();

    pause.before(&mut screen, format_args!("bind({fd}, {addr})"));
    sock.bind(&addr.into()).at("bind", addr)?;
    let local_addr = sock.local_addr().at("getsockname", addr)?.as_socket().context("not an IP socket")?;
    screen.line(format_args!("Socket is bound to {local_addr}"));

    let mut buffer = [0; 1024];
    loop {
        pause.before(&mut screen, format_args!("recv({fd}, {})", buffer.len()));
        let mut fds = [stop.as_fd(), sock.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let _ = poll(&mut fds, PollTimeout::NONE); // after EINTR recv says what is there
        if stop.requested() {
            break;
        }
        match recv(fd, &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(bytes_read) => {
                screen.line(format_args!("Received {bytes_read} bytes: [{}]", escaped(&buffer[..bytes_read])));
            }
            Err(Errno::EINTR | Errno::EAGAIN) => {} // its checksum was wrong: udp(7)
            Err(errno) => return Ok(Err(errno).at("recv", local_addr)?),
        }
    }
    drop(sock); // close(2)
    screen.line("Terminating ...");
    Ok(())
}
END

make src/experiments/mod.rs <<'END'
//! The claims, decided by the kernel.

mod first;

use kernel::need::{LOOPBACK, PORTS};
use shared::{Experiment, Lesson};

pub const LESSON: Lesson = Lesson {
    lab: crate::LAB,
    setting: "both ends run in this one process",
    needs: &[LOOPBACK, PORTS],
    experiments: &[Experiment {
        id: "two-waiting",
        starred: true,
        minutes: 5,
        claim: "recv returns all the bytes that have arrived.",
        source: "ours: say here who says so, and where",
        needs: &[],
        play: first::two_waiting,
    }],
    next: &[
        ("by hand", "cargo LABNN receive"),
        ("watch", "scripts/states.sh 7778 --watch"),
        ("sheet", "cargo LABNN sheet"),
    ],
};
END

make src/experiments/first.rs <<'END'
//! One claim: the calls that lead to it, the question, the deciding call, the verdict.

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::Result;
use nix::sys::socket::{MsgFlags, recv, send};
use shared::{At, Predicts, Stage, Verdict};
use socket2::{Domain, Socket, Type};

/// How long a datagram may take; far more than loopback needs.
const LIMIT: Duration = Duration::from_secs(5);
const FIRST: &str = "one";
const SECOND: &str = "three";

pub fn two_waiting(stage: &mut Stage) -> Result<Verdict> {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let receive_sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", any_port)?;
    receive_sock.bind(&any_port.into()).at("bind", any_port)?;
    receive_sock.set_read_timeout(Some(LIMIT)).at("setsockopt", any_port)?;
    let receive_addr = receive_sock.local_addr().at("getsockname", any_port)?;
    let send_sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", any_port)?;
    send_sock.connect(&receive_addr).at("connect", any_port)?;

    let (send_fd, receive_fd) = (send_sock.as_raw_fd(), receive_sock.as_raw_fd());
    for text in [FIRST, SECOND] {
        let bytes_sent = send(send_fd, text.as_bytes(), MsgFlags::empty()).at("send", any_port)?;
        stage.client(format_args!("send({send_fd}, {text:?}, {}) = {bytes_sent}", text.len()));
    }

    let question = stage.ask(
        "Both datagrams have arrived. What does recv(1024) return?",
        [("3, the first one", 3), ("5, the last one", 5), ("8, both of them", 8)],
        Predicts { source: Some(8), kit: 3 },
    )?;
    let mut buffer = [0; 1024];
    let bytes_read = recv(receive_fd, &mut buffer, MsgFlags::empty()).at("recv", any_port)?;
    stage.server(format_args!("recv({receive_fd}, 1024) = {bytes_read}"));
    let rest = recv(receive_fd, &mut buffer, MsgFlags::empty()).at("recv", any_port)?;
    stage.server(format_args!("recv({receive_fd}, 1024) = {rest}"));
    drop(receive_sock); // close(2)
    stage.server(format_args!("close({receive_fd}) = 0"));
    stage.verdict(question, bytes_read, "one recv, one datagram; the next recv gets the other")
}
END

make tests/"$short".rs <<'END'
//! Runs the real binary: the demo, the program against a foreign peer, and what goes wrong.
#![allow(clippy::unwrap_used)]

use std::{net::UdpSocket, process::Command, sync::LazyLock};

use testkit::{Demo, Role, failed, interrupt};

const LAB: &str = env!("CARGO_BIN_EXE_LABNN-WORD");
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
    testkit::assert_sheet_quotes_a_run("LABNN-WORD", &DEMO);
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
END

make README.md <<'END'
# LABNN-WORD

20 minutes. Before it: a datagram (lab03).

**Question.** What does one recv return where two datagrams wait?

**Predict.**
1. Two datagrams have arrived. How many bytes does one recv return?
2. Its buffer is too short for the first one. Who gets the rest?

**Run.**

    cargo LABNN                      all experiments
    cargo LABNN demo --pause         for the projector: each question waits

or in terminals of your own:

    terminal 1      cargo LABNN receive
    terminal 2      nc -u 127.0.0.1 7778           type two lines
    terminal 3      scripts/states.sh 7778 --watch

Stop terminal 1 with Ctrl-Z and type two more lines: they wait in Recv-Q.
`fg` lets it read them. Ctrl-C ends each of the three.

<details>
<summary>See (Linux)</summary>

```text
1 * two-waiting
claim     recv returns all the bytes that have arrived.
          ours: say here who says so, and where
client    send(4, "one", 3) = 3
client    send(4, "three", 5) = 5
ask       Both datagrams have arrived. What does recv(1024) return?
          a) 5, the last one   b) 8, both of them   c) 3, the first one
server    recv(3, 1024) = 3
server    recv(3, 1024) = 5
server    close(3) = 0
verdict   CORRECTED  c) one recv, one datagram; the next recv gets the other
```

</details>

<details>
<summary>Why</summary>

- **two-waiting.** UDP keeps datagrams apart: recv(2) takes one from the
  queue, never two, and what does not fit into the buffer is thrown away.

</details>

**Break it.** In `src/experiments/first.rs` change `FIRST` from "one" to "four".
Play `demo two-waiting`: UNEXPECTED, observed 4.
`git checkout labs/LABNN-WORD/src/experiments/first.rs` takes it back.

**Change it.** Give `receive` an option `--buffer BYTES`, and say when a datagram
was cut. Check it with `nc -u 127.0.0.1 7778`.

**Lecture check.**

| the source says | |
|---|---|
| recv returns all the bytes that have arrived | CORRECTED: one datagram |

**Check questions.**

<details>
<summary>1. A datagram of 5 bytes waits, and recv is called with a buffer of 3. What comes?</summary>

3 bytes; the other two are lost.
</details>

<details>
<summary>2. Two datagrams wait. How many calls of recv get both?</summary>

Two.
</details>

<details>
<summary>3. The same over TCP?</summary>

One recv may return the bytes of both sends: a stream has no messages.
</details>

**Next.** lab08-stream does the same with TCP.
END

insert README.md '| [lab' "| [$lab](labs/$lab/README.md) | what does one recv return? | 20 |"
insert NOTES.md '- [lab' "- [$lab](labs/$lab/README.md)"
insert .cargo/config.toml lab "$short = \"run --quiet --bin $lab --\""

if have cargo; then
    lock='cargo update --quiet --offline --workspace'
    say "+ $lock    writes the lab into Cargo.lock"
    eval "$lock" >/dev/null 2>&1 ||
        say 'that failed: build once with the network, then go on'
fi
next() { # COMMAND MEANING
    printf -v line '    %-44s %s' "$@"
    say "$line"
}
say ''
say 'next:'
next "cargo $short" 'play it'
next "UPDATE_SHEET=1 cargo test -p $lab" 'put its run into the sheet; test'
next 'cargo test -p testkit --test kit' 'does the kit know it?'
say 'Then make it yours: src/experiments is the claim, README.md the sheet.'
