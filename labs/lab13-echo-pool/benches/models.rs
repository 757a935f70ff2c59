//! How many requests per second: one thread, pools of 2, 8 and 64, a thread for each connection, one epoll loop, and
//! the pool of 64 in C, once with the same calls and once without what hears Ctrl-C.
//!
//! `cargo bench -p lab13-echo-pool` runs each server and the load in processes of their own, in one run, for 1, 64 and
//! 1024 clients, with short and with kept connections. About three minutes. No test asserts these numbers: they are this
//! machine's, at this moment. The models that are no role of the lab stand below; lab19 takes them apart.

use std::{
    env, fs,
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::{AsRawFd, RawFd},
    path::{Path, PathBuf},
    process::{Command, Stdio, exit},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use kernel::namespace::{self, NAMESPACE};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use shared::{Role, Screen};

const LAB: &str = env!("CARGO_BIN_EXE_lab13-echo-pool");
const CLIENTS: [&str; 3] = ["1", "64", "1024"];
const SECONDS: &str = "2";
/// Bytes of a request. A long one would measure Nagle's algorithm: over 40 ms each on a kept connection.
const LENGTH: &str = "36";
/// The rows of the C program, and ours that is compared with it.
const IN_C: &str = "pool 64 in C";
const PLAIN_C: &str = "  plain";
const OURS: &str = "pool 64";
/// In turns, for the comparison with C: what else the machine does disturbs both. An odd number has a middle.
const ROUNDS: usize = 7;
const CHUNK: usize = 4096;
/// Set for the bench in its private network.
const PRIVATE: &str = "ECHO_POOL_BENCH";
const LIMIT: Duration = Duration::from_secs(60);

/// What a load of some seconds has measured.
#[derive(Clone, Copy)]
struct Measured {
    requests_per_second: f64,
    median_ms: f64,
    percentile_99_ms: f64,
}

fn main() -> Result<()> {
    match env::args().skip_while(|argument| argument != "--serve").nth(1).as_deref() {
        Some("threads") => return thread_each(),
        Some("epoll") => return epoll_loop(),
        _ => {}
    }
    // A network of its own: so many short connections use up the machine's room for TIME-WAIT, which others need.
    if env::var_os(PRIVATE).is_none() && (NAMESPACE.met)() {
        let status = namespace::command(env::current_exe()?).env(PRIVATE, "1").status()?;
        exit(status.code().unwrap_or(1));
    }
    let mut screen = Screen::new();
    let in_c = compiled();
    if in_c.is_none() {
        screen.line("SKIPPED: the comparison with C needs cc (apt-get install build-essential)");
    }
    for kept in [false, true] {
        let kind = if kept { "kept connections" } else { "a connection for each request" };
        for clients in CLIENTS {
            screen.line(format_args!("\n{clients} clients, {kind}, {SECONDS} s"));
            screen.line("model              requests/s   median ms     99 % ms");
            let mut rows = Vec::new();
            for model in ["single", "pool 2", "pool 8", OURS, IN_C, PLAIN_C, "thread each", "epoll"] {
                if kept && clients != "1" && model == "single" || [IN_C, PLAIN_C].contains(&model) && in_c.is_none() {
                    continue; // one at a time: with kept connections the others wait until it is over
                }
                rows.push((model, measure(model, in_c.as_deref(), clients, kept)?));
            }
            let most = rows.iter().map(|(_, row)| row.requests_per_second).fold(1.0, f64::max);
            for (model, row) in rows {
                let bar = "#".repeat((row.requests_per_second / most * 30.0).round() as usize);
                let Measured { requests_per_second, median_ms, percentile_99_ms } = row;
                screen.line(format_args!(
                    "{model:<15} {requests_per_second:>13.0} {median_ms:>11.3} {percentile_99_ms:>11.3}  {bar}"
                ));
            }
        }
    }
    if in_c.is_some() {
        for kept in [false, true] {
            let kind = if kept { "kept" } else { "short" };
            for theirs in [IN_C, PLAIN_C] {
                let (mut rates, mut tails) = (Vec::new(), Vec::new());
                for _ in 0..ROUNDS {
                    let ours = measure(OURS, in_c.as_deref(), "64", kept)?;
                    let theirs = measure(theirs, in_c.as_deref(), "64", kept)?;
                    rates.push(ours.requests_per_second / theirs.requests_per_second);
                    tails.push(ours.percentile_99_ms / theirs.percentile_99_ms);
                }
                let (rate, tail) = (middle(&mut rates), middle(&mut tails));
                let what = if theirs == IN_C { "the same in C" } else { "plain C" };
                screen.line(format_args!(
                    "pool 64 / {what}, 64 clients, {kind}: requests {rate:.2}, 99 % latency {tail:.2}"
                ));
            }
        }
    }
    Ok(())
}

/// Starts a server of this model, and a load beside it.
fn measure(model: &str, in_c: Option<&Path>, clients: &str, kept: bool) -> Result<Measured> {
    let mut command = match model {
        "thread each" | "epoll" => {
            let mut own = Command::new(env::current_exe()?);
            own.args(["--serve", if model == "epoll" { "epoll" } else { "threads" }]);
            own
        }
        IN_C | PLAIN_C => {
            let mut c = Command::new(in_c.context("no C program")?);
            c.args(["64", "1024"]).args((model == PLAIN_C).then_some("plain"));
            c
        }
        model => {
            let mut lab = Command::new(LAB);
            match model.strip_prefix("pool ") {
                Some(threads) => lab.args(["server-multi", "0", threads, "1024"]),
                None => lab.args(["server-single", "0"]),
            };
            lab.args(["--quiet", "--backlog", "1024"]);
            lab
        }
    };
    let mut server = Role::spawn(&mut command)?;
    let line = server.line_with("Listening on ")?;
    let addr = line.rsplit(' ').next().context("no address")?;
    let mut load = Command::new(LAB);
    load.args(["load", addr, "--clients", clients, "--seconds", SECONDS, "--length", LENGTH])
        .args(kept.then_some("--kept"));
    let mut load = Role::spawn(&mut load)?;
    load.wait_for_within(" s, all as sent: ", LIMIT)?;
    let numbers = load.line_with(" ms, 99 % ")?;
    let numbers: Vec<f64> = numbers.split([' ', '/']).filter_map(|word| word.parse().ok()).collect();
    let [requests_per_second, median_ms, _, percentile_99_ms] = numbers[..] else {
        bail!("the load printed {numbers:?}")
    };
    Ok(Measured { requests_per_second, median_ms, percentile_99_ms })
}

/// The C program beside this file, compiled; `None` without a compiler.
fn compiled() -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/echo_pool.c");
    let program = env::temp_dir().join(format!("echo_pool-{}", std::process::id()));
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-pthread", "-o"]).arg(&program).arg(source).stdin(Stdio::null());
    let compiled = cc.status().is_ok_and(|status| status.success());
    // Linux keeps an open program: it runs from /proc, and nothing is left in the folder.
    let file = compiled.then(|| fs::File::open(&program)).and_then(Result::ok)?;
    fs::remove_file(&program).ok()?;
    let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into();
    std::mem::forget(file); // open until this program ends
    Some(path)
}

fn listening() -> Result<TcpListener> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    Screen::new().line(format_args!("Listening on {}", listener.local_addr()?));
    Ok(listener)
}

/// Model: a thread for each connection.
fn thread_each() -> Result<()> {
    let listener = listening()?;
    loop {
        let Ok((mut conn, _)) = listener.accept() else { continue };
        thread::Builder::new().spawn(move || {
            let mut buffer = [0; CHUNK];
            while let Ok(bytes_read @ 1..) = conn.read(&mut buffer) {
                if conn.write_all(&buffer[..bytes_read]).is_err() {
                    break;
                }
            }
        })?;
    }
}

/// Model: one thread, one epoll loop. What does not go out at once waits in a buffer of the connection.
fn epoll_loop() -> Result<()> {
    let listener = listening()?;
    listener.set_nonblocking(true)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let watch = |fd: RawFd, writable: bool| {
        let events = if writable { EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
        EpollEvent::new(events, fd as u64)
    };
    epoll.add(&listener, watch(listener.as_raw_fd(), false))?;
    let mut conns: std::collections::HashMap<RawFd, (TcpStream, Vec<u8>)> = std::collections::HashMap::new();
    let mut events = [EpollEvent::empty(); 256];
    let mut buffer = [0; CHUNK];
    loop {
        let ready = epoll.wait(&mut events, EpollTimeout::NONE).unwrap_or(0);
        for event in &events[..ready] {
            let fd = event.data() as RawFd;
            if fd == listener.as_raw_fd() {
                while let Ok((conn, _)) = listener.accept() {
                    conn.set_nonblocking(true)?;
                    epoll.add(&conn, watch(conn.as_raw_fd(), false))?;
                    conns.insert(conn.as_raw_fd(), (conn, Vec::new()));
                }
                continue;
            }
            let Some((conn, waiting)) = conns.get_mut(&fd) else { continue };
            if !step(conn, waiting, &mut buffer) {
                conns.remove(&fd); // close(2) takes it out of epoll
            } else {
                epoll.modify(&*conn, &mut watch(fd, !waiting.is_empty()))?;
            }
        }
    }
}

/// Sends what waits, then echoes what is there; false at the connection's end.
fn step(conn: &mut TcpStream, waiting: &mut Vec<u8>, buffer: &mut [u8]) -> bool {
    let mut send = |bytes: &[u8]| match conn.write(bytes) {
        Ok(bytes_sent) => Some(bytes_sent),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Some(0),
        Err(_) => None,
    };
    if !waiting.is_empty() {
        let Some(bytes_sent) = send(waiting) else { return false };
        waiting.drain(..bytes_sent);
    }
    if !waiting.is_empty() {
        return true; // who does not read is not read from
    }
    match conn.read(buffer) {
        Ok(0) => false,
        Ok(bytes_read) => match conn.write(&buffer[..bytes_read]) {
            Ok(bytes_sent) => {
                waiting.extend(&buffer[bytes_sent..bytes_read]);
                true
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                waiting.extend(&buffer[..bytes_read]);
                true
            }
            Err(_) => false,
        },
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

fn middle(ratios: &mut [f64]) -> f64 {
    ratios.sort_by(f64::total_cmp);
    ratios[ratios.len() / 2]
}
