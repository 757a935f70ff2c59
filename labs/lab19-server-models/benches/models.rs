//! All models but one-client under the same load, in one run: 1, 8, 64 and 512 clients, a connection for each request of
//! 36 bytes, and no work.
//!
//! `cargo bench -p lab19-server-models` takes about a minute; `-- --svg FILE` draws the rates, too. Threads and memory are
//! those of the server and its processes, halfway; the context switches are the whole machine's, load included. No test
//! asserts these numbers: they are this machine's, at this moment. The bars and the picture are our own few shapes: a
//! plotting library would cost more to build than all of this lab.

use std::{
    env, fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Command, Stdio, exit},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use kernel::namespace::{self, NAMESPACE};
use shared::{Role, Screen};

const LAB: &str = env!("CARGO_BIN_EXE_lab19-server-models");
const CLIENTS: [usize; 4] = [1, 8, 64, 512];
const MODELS: [&str; 10] = [
    "many-clients", "heavy-request", "thread-per-socket", "pool", "pipeline", "delegation", "processes", "prefork",
    "reuseport", "poll-loop",
];
const SECONDS: Duration = Duration::from_millis(1000);
/// Who gets no response for so long has none.
const LIMIT: Duration = Duration::from_secs(5);
const BAR: f64 = 18.0;
/// Set for the bench in its private network.
const PRIVATE: &str = "SERVER_MODELS_BENCH";

/// What one model did under one load.
struct Measured {
    model: &'static str,
    requests_per_second: f64,
    median_ms: f64,
    percentile_99_ms: f64,
    failed: usize,
    threads: u64,
    memory_mib: f64,
    switches_per_request: f64,
}

fn main() -> Result<()> {
    // A network of its own: so many short connections use up the machine's room for TIME-WAIT, which others need.
    if env::var_os(PRIVATE).is_none() && (NAMESPACE.met)() {
        let mut private = namespace::command(env::current_exe()?);
        let status = private.args(env::args_os().skip(1)).env(PRIVATE, "1").stderr(Stdio::inherit()).status()?;
        exit(status.code().unwrap_or(1));
    }
    let mut screen = Screen::new();
    let mut all = Vec::new();
    for clients in CLIENTS {
        screen.line(format_args!("\n{clients} clients, a connection for each request, {} s", SECONDS.as_secs_f64()));
        screen.line("model              req/s  median    99 %  threads   MiB  switches");
        screen.line("                          ms      ms                     /request");
        let rows = MODELS.iter().map(|model| measure(model, clients)).collect::<Result<Vec<_>>>()?;
        let most = rows.iter().map(|row| row.requests_per_second).fold(1.0, f64::max);
        for row in &rows {
            let bar = "#".repeat((row.requests_per_second / most * BAR).round() as usize);
            let failed = if row.failed > 0 { format!(" {} failed", row.failed) } else { String::new() };
            screen.line(format_args!(
                "{:<17} {:>6.0} {:>7.2} {:>7.2} {:>8} {:>5.1} {:>9.1} {bar}{failed}",
                row.model,
                row.requests_per_second,
                row.median_ms,
                row.percentile_99_ms,
                row.threads,
                row.memory_mib,
                row.switches_per_request,
            ));
        }
        all.push((clients, rows));
    }
    if let Some(path) = env::args().skip_while(|argument| argument != "--svg").nth(1) {
        fs::write(&path, svg(&all)).with_context(|| format!("write {path}"))?;
        screen.line(format_args!("wrote {path}"));
    }
    Ok(())
}

fn measure(model: &'static str, clients: usize) -> Result<Measured> {
    let mut command = Command::new(LAB);
    command.args(["server", model, "0", "--service", "requests", "--delay", "0", "--backlog", "1024", "--quiet"]);
    let mut server = Role::spawn(&mut command)?;
    let line = server.line_with(" is in listening state")?;
    let addr: SocketAddr = line.split_whitespace().find_map(|word| word.parse().ok()).context("no address")?;
    one_request(addr).context("the first request")?; // all its threads and processes are there
    let (latencies, failed, over) = (Mutex::new(Vec::new()), AtomicUsize::new(0), AtomicBool::new(false));
    let (mut threads, mut memory_mib) = (0, 0.0);
    let switches_before = context_switches()?;
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..clients {
            let client = || {
                let mut own = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    let asked = Instant::now();
                    match one_request(addr) {
                        Ok(()) => own.push(asked.elapsed()),
                        Err(_) => drop(failed.fetch_add(1, Ordering::Relaxed)),
                    }
                }
                latencies.lock().map(|mut all| all.extend(own)).unwrap_or_default();
            };
            thread::Builder::new().spawn_scoped(scope, client)?;
        }
        thread::sleep(SECONDS / 2);
        (threads, memory_mib) = threads_and_memory(server.pid().as_raw())?;
        thread::sleep(SECONDS / 2);
        over.store(true, Ordering::Relaxed);
        anyhow::Ok(())
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let switches = context_switches()? - switches_before;
    let mut latencies = latencies.into_inner().unwrap_or_default();
    ensure!(!latencies.is_empty(), "{model}: no response at all");
    latencies.sort_unstable();
    let at = |share: f64| latencies[((latencies.len() as f64 * share) as usize).min(latencies.len() - 1)];
    Ok(Measured {
        model,
        requests_per_second: latencies.len() as f64 / seconds,
        median_ms: at(0.5).as_secs_f64() * 1e3,
        percentile_99_ms: at(0.99).as_secs_f64() * 1e3,
        failed: failed.into_inner(),
        threads,
        memory_mib,
        switches_per_request: switches as f64 / latencies.len() as f64,
    })
}

/// A connection, a request, its response.
fn one_request(addr: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&addr, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let (request, mut response) = ([b'x'; 36], [0; 36]);
    stream.write_all(&request)?;
    stream.read_exact(&mut response)?;
    ensure!(request == response, "another response");
    Ok(())
}

/// Of a process and its children.
fn threads_and_memory(pid: i32) -> Result<(u64, f64)> {
    let mut pids = vec![pid.to_string()];
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let children = fs::read_to_string(task?.path().join("children")).unwrap_or_default(); // a thread that has ended
        pids.extend(children.split_whitespace().map(String::from));
    }
    let (mut threads, mut kib) = (0, 0);
    for pid in pids {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let number = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.split_whitespace().find_map(|word| word.parse().ok()).unwrap_or_default()
        };
        threads += number("Threads:");
        kib += number("VmRSS:");
    }
    Ok((threads, kib as f64 / 1024.0))
}

/// Of the whole machine, since it runs: /proc/stat.
fn context_switches() -> Result<u64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().find_map(|line| line.strip_prefix("ctxt ")).context("no ctxt in /proc/stat")?;
    Ok(line.trim().parse()?)
}

/// A block of bars for each number of clients.
fn svg(all: &[(usize, Vec<Measured>)]) -> String {
    let height = all.iter().map(|(_, rows)| 40 + 20 * rows.len()).sum::<usize>() + 20;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let mut y = 24;
    for (clients, rows) in all {
        svg += &format!("<text x=\"10\" y=\"{y}\" font-size=\"15\">{clients} clients: requests per second</text>\n");
        let most = rows.iter().map(|row| row.requests_per_second).fold(1.0, f64::max);
        for Measured { model, requests_per_second, .. } in rows {
            y += 20;
            let width = requests_per_second / most * 480.0;
            svg += &format!("<text x=\"10\" y=\"{y}\">{model}</text>\n");
            svg += &format!("<rect x=\"150\" y=\"{}\" width=\"{width:.1}\" height=\"14\" fill=\"#5a9e5a\"/>\n", y - 11);
            svg += &format!("<text x=\"{:.1}\" y=\"{y}\">{requests_per_second:.0}</text>\n", 158.0 + width);
        }
        y += 40;
    }
    svg + "</svg>\n"
}
