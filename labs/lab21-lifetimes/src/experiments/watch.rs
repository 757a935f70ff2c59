//! The lecture's command that watches connections, word by word.

use std::{
    env,
    io::Write,
    os::fd::AsRawFd,
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result};
use kernel::{Need, wait_until};
use shared::{Predicts, Stage, Verdict};

use super::{LIMIT, accepted, connected, listening};

/// The program it is about, and grep.
pub const NETSTAT: Need = Need {
    what: "netstat, grep",
    provided_by: "apt-get install net-tools grep",
    met: || {
        let folders: Vec<_> = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
        ["netstat", "grep"].iter().all(|tool| folders.iter().any(|folder| folder.join(tool).is_file()))
    },
};

pub fn watch_command(stage: &mut Stage) -> Result<Verdict> {
    let (listen_sock, server_addr) = listening()?;
    let client_sock = connected(server_addr)?;
    let conn_sock = accepted(&listen_sock)?;
    let port = server_addr.port();
    stage.client(format_args!(
        "connect({}, {server_addr}) = 0  {port} stands for port 22 here",
        client_sock.as_raw_fd()
    ));
    let pattern = format!(" :{port} |:80 ");
    stage.say("watch", format_args!("netstat -tbn | grep -E '{pattern}'"));

    let question = stage.ask(
        "Both ends are on this machine, so the command should show two rows. Which of its words keep it from that?",
        [
            ("no word: it shows the two rows", (false, false)),
            ("only -b", (true, false)),
            ("only the blank in front of the port", (false, true)),
            ("-b, and the blank in front of the port", (true, true)),
        ],
        Predicts { source: Some((false, false)), kit: (true, true) },
    )?;
    let as_told = netstat("-tbn")?;
    let said = String::from_utf8_lossy(&as_told.stderr);
    let option_fails = !as_told.status.success();
    stage.say("netstat", format_args!("-tbn: {}", said.lines().next().unwrap_or("no complaint")));

    // /proc/net, which netstat reads, can miss a row while sockets come and go.
    let right = format!(":{port} |:80 ");
    let listed = wait_until("netstat -tn with both ends", LIMIT, || {
        let listed = netstat("-tn")?.stdout;
        let rows = grep(&format!(":{port} "), &listed)?;
        Ok((rows.len() >= 2).then_some(listed))
    })?;
    let [as_told, right_rows] = [&pattern, &right].map(|pattern| grep(pattern, &listed));
    let (as_told, right_rows) = (as_told?, right_rows?);
    let ours = |rows: &[String]| rows.iter().filter(|row| row.contains(&format!(":{port} "))).count();
    stage.say("netstat", format_args!("-tn | grep -E '{pattern}': {} rows of ours", ours(&as_told)));
    stage.say("netstat", format_args!("-tn | grep -E '{right}': {} rows of ours", ours(&right_rows)));
    for row in right_rows.iter().filter(|row| row.contains(&format!(":{port} "))).take(2) {
        stage.say("", row.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    let blank_fails = ours(&as_told) < 2;
    drop((client_sock, conn_sock));
    stage.verdict(
        question,
        (option_fails, blank_fails),
        "-b is no option of netstat here; no blank stands between address and port",
    )
}

fn netstat(options: &str) -> Result<Output> {
    let mut command = Command::new("netstat");
    command.arg(options).env("LC_ALL", "C").stdin(Stdio::null());
    command.output().context("cannot start netstat")
}

/// The lines of `text` that match.
fn grep(pattern: &str, text: &[u8]) -> Result<Vec<String>> {
    let mut command = Command::new("grep");
    command.args(["-E", pattern]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot start grep")?;
    let mut input = child.stdin.take().context("no standard input")?;
    let text = text.to_vec();
    let writer = std::thread::spawn(move || input.write_all(&text)); // both pipes may fill up
    let output = child.wait_with_output().context("cannot wait for grep")?;
    let _ = writer.join(); // EPIPE: grep had enough
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(String::from).collect())
}
