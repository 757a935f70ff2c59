//! One line to 1, 100, 900 and 10,000 clients: both servers of this lab, `ncat --broker`, and a bare loop of send.
//!
//! `cargo bench -p lab07-multiclient` runs each server in a process of its own; this process is the load. All of them are
//! in a private network. About two minutes. No test asserts these numbers: they are this machine's, at this moment.
//! Compare the ratios: what else the machine does disturbs all rows of a table.

use std::{
    env, fs,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    process::{Command, Stdio, exit},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use kernel::{
    Row, State,
    namespace::{self, NAMESPACE},
    tcp_sockets, wait_until,
};
use nix::sys::{
    epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
    resource::{Resource, getrlimit, setrlimit},
};
use shared::{Role, Screen};
use socket2::{Domain, Socket, Type};

const LAB: &str = env!("CARGO_BIN_EXE_lab07-multiclient");
/// Clients, and lines of a burst: less than a server keeps for a client that reads late.
const LOADS: [(usize, usize); 4] = [(1, 3000), (100, 3000), (900, 1000), (10_000, 200)];
/// More than the clients of a load need, for the rest of a program.
const SPARE: usize = 100;
/// Bytes of a line, its newline included.
const LINE: usize = 64;
/// Runs of each server, in turns: what else the machine does disturbs all of them. An odd number has a middle.
const TURNS: usize = 5;
const BURSTS: usize = 5;
const SINGLE_LINES: usize = 15;
/// ncat waits with select(2), which knows descriptors below 1024.
const MOST_OF_NCAT: usize = 900;
/// ncat's backlog is 10, the poll server's 16: of more that connect at once, some wait for seconds. They get theirs so.
const SMALL_GROUP: usize = 8;
/// It is slow: a send for each line and client, and Nagle's algorithm.
const MOST_OF_POLL: usize = 100;
const EPOLL: &str = "server-epoll";
const BARE: &str = "bare loop";
const NCAT: &str = "ncat --broker";
const POLL: &str = "server";
/// Set for the bench in its private network.
const PRIVATE: &str = "CROWD_BENCH";
const LIMIT: Duration = Duration::from_secs(30);

/// A server and all its clients.
struct Crowd {
    server: Role,
    /// Where a line to all goes in, for ncat: a client that says it.
    speaker: Option<TcpStream>,
    clients: Vec<TcpStream>,
    epoll: Epoll,
}

/// What one run of one server has measured.
#[derive(Clone, Copy)]
struct Measured {
    connect_ms: f64,
    lines_per_second: f64,
    /// Processor time of the server for one delivery: what others do on the machine disturbs it least.
    cpu_ns: f64,
    round_ms: f64,
    bytes_a_client: f64,
    /// What the kernel says of its own memory for TCP: all programs, in pages.
    kernel_pages: f64,
}

fn main() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    if env::args().any(|argument| argument == "--serve-bare") {
        return bare();
    }
    // A network of its own: so many connections use up the machine's room for TIME-WAIT, which others need.
    if env::var_os(PRIVATE).is_none() && (NAMESPACE.met)() {
        let status = namespace::command(env::current_exe()?).env(PRIVATE, "1").stderr(Stdio::inherit()).status()?;
        exit(status.code().unwrap_or(1));
    }
    let mut screen = Screen::new();
    let have_ncat = Command::new("ncat").arg("--version").output().is_ok();
    if !have_ncat {
        screen.line("SKIPPED: the comparison with ncat needs ncat (apt-get install ncat)");
    }
    for (clients, lines) in LOADS {
        let needed = clients + SPARE;
        if (most as usize) < needed {
            screen.line(format_args!("\nSKIPPED: {clients} clients need {needed} descriptors: ulimit -Hn {needed}"));
            continue;
        }
        let mut kinds = vec![EPOLL, BARE];
        if clients <= MOST_OF_NCAT {
            kinds.extend(have_ncat.then_some(NCAT));
        }
        kinds.extend((clients <= MOST_OF_POLL).then_some(POLL));
        let mut runs: Vec<Vec<Measured>> = vec![Vec::new(); kinds.len()];
        for turn in 0..TURNS {
            for (kind, runs) in kinds.iter().zip(&mut runs) {
                if *kind == POLL && turn > 0 {
                    continue; // slow
                }
                runs.push(measured(kind, clients, lines).with_context(|| format!("{kind}, {clients} clients"))?);
            }
        }
        report(&mut screen, clients, lines, &kinds, &runs);
    }
    Ok(())
}

fn report(screen: &mut Screen, clients: usize, lines: usize, kinds: &[&str], runs: &[Vec<Measured>]) {
    let all = |runs: &[Measured], of: fn(&Measured) -> f64| middle(runs.iter().map(of).collect());
    screen
        .line(format_args!("\n{clients} clients, bursts of {lines} lines of {LINE} bytes, the middle of {TURNS} runs"));
    screen.line("server         all in ms  deliveries/s   CPU ns each  a line, ms  bytes a client");
    let most = runs.iter().map(|runs| all(runs, |run| run.lines_per_second)).fold(1.0, f64::max);
    for (kind, runs) in kinds.iter().zip(runs) {
        let (connect_ms, rate) = (all(runs, |run| run.connect_ms), all(runs, |run| run.lines_per_second));
        let (round_ms, bytes) = (all(runs, |run| run.round_ms), all(runs, |run| run.bytes_a_client));
        let cpu_ns = all(runs, |run| run.cpu_ns);
        screen.line(format_args!(
            "{kind:<14} {connect_ms:>9.1} {rate:>13.0} {cpu_ns:>13.1} {round_ms:>11.3} {bytes:>15.0}"
        ));
    }
    let pages = all(&runs[0], |run| run.kernel_pages);
    screen.line(format_args!("/proc/net/sockstat while all were idle: TCP mem {pages} pages, of all programs"));
    screen.line("deliveries per second");
    for (kind, runs) in kinds.iter().zip(runs) {
        let rate = all(runs, |run| run.lines_per_second);
        let bar = "#".repeat((rate / most * 50.0).round() as usize);
        screen.line(format_args!("{kind:<14} {bar}"));
    }
    for (kind, theirs) in kinds.iter().zip(runs).skip(1) {
        // Run by run: neighbours in time had the same machine.
        let ratio = |of: fn(&Measured) -> f64| middle(runs[0].iter().zip(theirs).map(|(a, b)| of(a) / of(b)).collect());
        screen.line(format_args!(
            "{EPOLL} / {kind:<14} burst rate {:6.2}   CPU of a delivery {:5.2}   a line {:5.2}",
            ratio(|run| run.lines_per_second),
            ratio(|run| run.cpu_ns),
            ratio(|run| run.round_ms)
        ));
    }
}

/// Starts a server, lets everybody in, and measures.
fn measured(kind: &str, clients: usize, lines: usize) -> Result<Measured> {
    let (mut crowd, connect_ms, bytes_a_client) = Crowd::gather(kind, clients)?;
    let kernel_pages = kernel_pages()?;
    let line = [&[b'x'; LINE - 1][..], b"\n"].concat();
    crowd.tell_all(&line)?; // to warm up: buffers are allocated with the first line
    let burst = line.repeat(lines);
    let bursts = if kind == POLL { 1 } else { BURSTS };
    let before = crowd.cpu_ns()?;
    let seconds = (0..bursts).map(|_| crowd.tell_all(&burst)).collect::<Result<Vec<_>>>()?;
    let cpu_ns = (crowd.cpu_ns()? - before) / (clients * lines * bursts) as f64;
    let lines_per_second = (clients * lines) as f64 / middle(seconds);
    let seconds = (0..SINGLE_LINES).map(|_| crowd.tell_all(&line)).collect::<Result<Vec<_>>>()?;
    Ok(Measured { connect_ms, lines_per_second, cpu_ns, round_ms: middle(seconds) * 1e3, bytes_a_client, kernel_pages })
}

impl Crowd {
    /// All clients connected and accepted; the milliseconds that took, and by how many bytes a client the server grew.
    fn gather(kind: &str, clients: usize) -> Result<(Crowd, f64, f64)> {
        let most = (clients + 1).to_string();
        let (server, addr) = match kind {
            NCAT => {
                let addr = TcpListener::bind("127.0.0.1:0")?.local_addr()?; // free a moment ago
                let port = addr.port().to_string();
                let args = ["--broker", "-l", "127.0.0.1", &port, "--max-conns", &most];
                let server = Role::spawn(Command::new("ncat").args(args))?;
                let listens = |row: &Row| row.state == State::Listen;
                wait_until("ncat to listen", LIMIT, || {
                    Ok(tcp_sockets(addr.port())?.iter().find(|row| listens(row)).map(drop))
                })?;
                (server, addr)
            }
            kind => {
                let mut command = match kind {
                    BARE => {
                        let mut own = Command::new(env::current_exe()?);
                        own.arg("--serve-bare");
                        own
                    }
                    kind => {
                        let mut lab = Command::new(LAB);
                        lab.args([kind, "0", "--max-clients", &most]).args((kind == EPOLL).then_some("--quiet"));
                        lab
                    }
                };
                let mut server = Role::spawn(&mut command)?;
                let banner = server.line_with("PORT : ")?;
                let port: u16 = banner.rsplit(' ').next().context("no port")?.parse()?;
                (server, SocketAddr::from(([127, 0, 0, 1], port)))
            }
        };
        let pid = server.pid();
        let descriptors = || Ok::<_, anyhow::Error>(fs::read_dir(format!("/proc/{pid}/fd"))?.count());
        let mut before = descriptors()?;
        let speaker = if kind == NCAT { Some(TcpStream::connect(addr)?) } else { None };
        if speaker.is_some() {
            before += 1;
            wait_until("the speaker accepted", LIMIT, || Ok((descriptors()? >= before).then_some(())))?;
        }
        let resident = resident(pid.as_raw())?;
        let started = Instant::now();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mut streams = Vec::new();
        for number in 1..=clients {
            streams.push(TcpStream::connect(addr)?);
            if [NCAT, POLL].contains(&kind) && number % SMALL_GROUP == 0 {
                wait_until("a group accepted", LIMIT, || Ok((descriptors()? >= before + number).then_some(())))?;
            }
        }
        wait_until("all clients accepted", LIMIT, || Ok((descriptors()? >= before + clients).then_some(())))?;
        let connect_ms = started.elapsed().as_secs_f64() * 1e3;
        let bytes = (crate::resident(pid.as_raw())? - resident) / clients as f64;
        for (at, stream) in streams.iter().enumerate() {
            stream.set_nonblocking(true)?;
            epoll.add(stream, EpollEvent::new(EpollFlags::EPOLLIN, at as u64))?;
        }
        Ok((Crowd { server, speaker, clients: streams, epoll }, connect_ms, bytes))
    }

    /// The processor time of the server so far: /proc/PID/schedstat.
    fn cpu_ns(&self) -> Result<f64> {
        let schedstat = fs::read_to_string(format!("/proc/{}/schedstat", self.server.pid()))?;
        Ok(schedstat.split(' ').next().context("no time in schedstat")?.parse()?)
    }

    /// One line or several to all; the seconds until the last client has the last byte.
    fn tell_all(&mut self, bytes: &[u8]) -> Result<f64> {
        let Crowd { server, speaker, clients, epoll } = self;
        let mut heard = vec![0; clients.len()];
        let mut left = clients.len();
        let mut events = [EpollEvent::empty(); 1024];
        let mut buffer = vec![0; 256 * 1024];
        let started = Instant::now();
        thread::scope(|scope| {
            // In a thread: a server that waits in send takes no more from its pipe.
            let write = scope.spawn(|| match (speaker, &mut server.input) {
                (Some(speaker), _) => speaker.write_all(bytes),
                (None, Some(input)) => input.write_all(bytes),
                (None, None) => Ok(()),
            });
            while left > 0 {
                let ready = epoll.wait(&mut events, EpollTimeout::try_from(LIMIT)?)?;
                ensure!(ready > 0, "{left} clients still wait for bytes of {}", bytes.len());
                for event in &events[..ready] {
                    let at = event.data() as usize;
                    match clients[at].read(&mut buffer) {
                        Ok(0) => bail!("client {at} was dropped"),
                        Ok(bytes_read) => {
                            heard[at] += bytes_read;
                            ensure!(heard[at] <= bytes.len(), "client {at} got too much");
                            left -= usize::from(heard[at] == bytes.len());
                        }
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                        Err(error) => bail!("client {at}: {error}"),
                    }
                }
            }
            write.join().map_err(|_| anyhow::anyhow!("the writing thread panicked"))??;
            Ok(started.elapsed().as_secs_f64())
        })
    }
}

/// Bytes of a process that are in memory: proc_pid_status(5).
fn resident(pid: i32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let row = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(row.trim().trim_end_matches(" kB").parse::<f64>()? * 1024.0)
}

/// Pages that the kernel has for the data of TCP sockets, those of other programs too: sockstat's mem. An idle connection
/// has no data; what its own records take is in no table for an ordinary account.
fn kernel_pages() -> Result<f64> {
    let sockstat = fs::read_to_string("/proc/net/sockstat")?;
    let row = sockstat.lines().find(|line| line.starts_with("TCP:")).context("no TCP in sockstat")?;
    Ok(row.rsplit(' ').next().context("no mem")?.parse()?)
}

/// The least that must be done: read, then send to one after the other, as a C program would. It waits in send, so one client
/// that does not read stops all.
fn bare() -> Result<()> {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    listener.listen(4096)?; // TcpListener asks for 128
    let listener = TcpListener::from(listener);
    Screen::new().line(format_args!("PORT : {}", listener.local_addr()?.port()));
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
    epoll.add(std::io::stdin(), EpollEvent::new(EpollFlags::EPOLLIN, 1))?;
    let mut clients: Vec<TcpStream> = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    let mut events = [EpollEvent::empty(); 2];
    loop {
        let ready = epoll.wait(&mut events, EpollTimeout::NONE)?;
        for event in &events[..ready] {
            if event.data() == 0 {
                let (client, _) = listener.accept()?;
                client.set_nodelay(true)?;
                clients.push(client);
                continue;
            }
            let bytes_read = nix::unistd::read(std::io::stdin(), &mut buffer)?;
            if bytes_read == 0 {
                return Ok(());
            }
            for client in &clients {
                let mut sent = 0;
                while sent < bytes_read {
                    let rest = &buffer[sent..bytes_read];
                    sent += nix::sys::socket::send(client.as_raw_fd(), rest, nix::sys::socket::MsgFlags::empty())?;
                }
            }
        }
    }
}

fn middle(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}
