//! How much goes through one connection over lo, and what the block size has to do with it.
//!
//! `cargo bench -p lab08-stream` runs the lab's own two bulk programs, and one iperf3 stream beside them if iperf3 is
//! installed. About 75 s. No test asserts these numbers: they are this machine's, at this moment.

use std::{
    env,
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use shared::{Role, Screen};

const LAB: &str = env!("CARGO_BIN_EXE_lab08-stream");
/// iperf3's own default for TCP.
const BLOCK: usize = 128 * 1024;
const BLOCKS: [usize; 7] = [64, 1024, 4096, 16 * 1024, 64 * 1024, BLOCK, 1024 * 1024];
const SECONDS: usize = 1;
/// Of each kind, in turns: what else the machine does disturbs all. An odd number has a middle.
const ROUNDS: usize = 21;
const LIMIT: Duration = Duration::from_secs(30);

fn main() -> Result<()> {
    let mut screen = Screen::new();
    screen.line(format_args!("throughput over lo, one connection, {BLOCK} bytes a send, {SECONDS} s, {ROUNDS} rounds"));
    if have("iperf3") {
        let (mut to_once, mut to_whole) = (Vec::new(), Vec::new());
        for round in 1..=ROUNDS {
            let mut rates = [0.0; 3];
            // Each of the three is first, second and last equally often.
            for turn in round..round + rates.len() {
                let kind = turn % rates.len();
                rates[kind] = match kind {
                    0 => bulk(&["sink"], BLOCK, SECONDS)?.0,
                    1 => bulk(&["sink", "--whole"], BLOCK, SECONDS)?.0,
                    _ => iperf3(BLOCK, SECONDS)?,
                };
            }
            let [once, whole, theirs] = rates.map(|rate| rate / 1e6);
            screen.line(format_args!(
                "  round {round:>2}   recv {once:5.0} MB/s   MSG_WAITALL {whole:5.0} MB/s   iperf3 {theirs:5.0} MB/s"
            ));
            to_once.push(once / theirs);
            to_whole.push(whole / theirs);
        }
        screen.line(format_args!("  recv / iperf3         {}   (aim: 1.00 or more)", spread(to_once)));
        screen.line(format_args!("  MSG_WAITALL / iperf3  {}", spread(to_whole)));
    } else {
        screen.line("  no comparison: iperf3 is not installed (apt-get install iperf3)");
        screen.line(format_args!("  MSG_WAITALL {:5.0} MB/s", bulk(&["sink", "--whole"], BLOCK, SECONDS)?.0 / 1e6));
    }
    screen.line("throughput and block size, 1 s each");
    screen.line("    block bytes        MB/s    recv calls    bytes a recv");
    for block in BLOCKS {
        let (rate, (bytes, calls)) = bulk(&["sink"], block, 1)?;
        screen.line(format_args!("  {block:>13} {:11.0} {calls:>13} {:>15.0}", rate / 1e6, bytes / calls));
    }
    Ok(())
}

/// The lab's own programs: bytes a second, and the bytes and calls of the receiver.
fn bulk(sink: &[&str], block: usize, seconds: usize) -> Result<(f64, (f64, f64))> {
    let (block, seconds) = (block.to_string(), seconds.to_string());
    let mut sink = Role::spawn(Command::new(LAB).args(sink).arg(&block))?;
    let port = sink.line_with("port ")?;
    let addr = format!("127.0.0.1:{}", port.trim_start_matches("port ").trim());
    let _source = Role::spawn(Command::new(LAB).args(["source", &addr, &block, &seconds]))?;
    sink.wait_for_within("received ", LIMIT)?;
    let numbers = sink.wait_for("\n")?;
    let numbers: Vec<f64> = numbers.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let [bytes, calls, micros] = numbers[..] else { anyhow::bail!("the sink printed {numbers:?}") };
    Ok((bytes / micros * 1e6, (bytes, calls)))
}

/// One iperf3 stream: bytes a second, as its receiver counts them.
fn iperf3(block: usize, seconds: usize) -> Result<f64> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string(); // free a moment ago
    let server = ["--server", "--one-off", "--forceflush", "--bind", "127.0.0.1", "--port", &port];
    let mut server = Role::spawn(Command::new("iperf3").args(server))?;
    server.wait_for("listening")?;
    let (block, seconds) = (block.to_string(), seconds.to_string());
    let client = ["--client", "127.0.0.1", "--port", &port, "--length", &block, "--time", &seconds, "--json"];
    let mut client = Role::spawn(Command::new("iperf3").args(client).stderr(Stdio::inherit()))?;
    client.wait_for_within("\"sum_received\":", LIMIT)?;
    client.wait_for("\"bits_per_second\":")?;
    let rate: f64 = client.wait_for(",")?.trim().parse().context("iperf3's bits_per_second")?;
    Ok(rate / 8.0)
}

/// The ratios of the rounds: their middle, and the half of them around it.
fn spread(mut ratios: Vec<f64>) -> String {
    ratios.sort_by(f64::total_cmp);
    let at = |part: usize| ratios[ratios.len() * part / 4];
    format!("middle {:.2}, half of the rounds {:.2} to {:.2}", at(2), at(1), at(3))
}

fn have(program: &str) -> bool {
    env::split_paths(&env::var_os("PATH").unwrap_or_default()).any(|folder| Path::new(&folder).join(program).is_file())
}
