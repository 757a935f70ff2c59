//! Terminal 2: many clients at once, a thread each. Every echo is compared byte for byte with what was sent.

use std::{
    net::SocketAddr,
    os::fd::AsRawFd,
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Error, Result, bail, ensure};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv, send},
};
use shared::{At, CallError, Screen, Stop};
use socket2::{Domain, Socket, Type};

use crate::LoadArgs;

/// The bytes of a request without `--length`: these lengths in turns. The longest needs several calls of recv.
const LENGTHS: [usize; 4] = [1, 36, 512, 20_000];
/// An echo that takes longer is lost.
const ECHO_LIMIT: Duration = Duration::from_secs(10);
/// One client of so many resets its connections, with `--resets`.
const RESETS_ONE_OF: usize = 10;
/// So many failures get a line each.
const TOLD: usize = 5;
/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(1);

/// What all clients have seen.
#[derive(Default)]
struct Tally {
    echoes: AtomicUsize,
    resets: AtomicUsize,
    /// How long each echo took.
    latencies: Mutex<Vec<Duration>>,
    failures: Mutex<Vec<Error>>,
}

impl Tally {
    fn fail(&self, why: Error) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).push(why);
    }
}

/// Runs all clients to their end, or until Ctrl-C, and sums up; fails if one echo was lost or wrong.
pub fn run(args: &LoadArgs) -> Result<ExitCode> {
    let stop = Stop::on_signals()?;
    let mut screen = Screen::new();
    let tally = Tally::default();
    let silent = (0..args.slow).map(|_| connected(args.address)).collect::<Result<Vec<_>>>()?;
    let start = Instant::now();
    let end = args.seconds.map(|seconds| start + Duration::from_secs(seconds.into()));
    thread::scope(|scope| {
        let mut clients = Vec::new();
        for number in 0..args.clients.get() {
            let (tally, stop) = (&tally, &stop);
            let client = move || {
                let resets = args.resets && number % RESETS_ONE_OF == RESETS_ONE_OF - 1;
                client(number, args, resets, end, tally, stop).unwrap_or_else(|error| tally.fail(error));
            };
            clients.push(thread::Builder::new().spawn_scoped(scope, client).context("no more threads: ulimit -u")?);
        }
        let mut shown = start;
        while clients.iter().any(|client| !client.is_finished()) {
            thread::sleep(Duration::from_millis(20)); // between two looks; each client has its own deadline
            if shown.elapsed() >= PROGRESS {
                shown = Instant::now();
                screen.line(format_args!("{} echoes", tally.echoes.load(Ordering::Relaxed)));
            }
        }
        anyhow::Ok(())
    })?;
    let seconds = start.elapsed().as_secs_f64();
    drop(silent); // close(2)

    let mut failures = tally.failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut latencies = tally.latencies.into_inner().unwrap_or_else(PoisonError::into_inner);
    latencies.sort_unstable();
    let at = |share: f64| latencies.get((latencies.len() as f64 * share) as usize).copied().unwrap_or_default();
    let echoes = latencies.len();
    if echoes == 0 && failures.first().is_some_and(|error| error.downcast_ref().is_some_and(is_connect)) {
        return Err(failures.remove(0)); // nobody is there: an error like any client's, with its hint
    }
    if echoes > 0 {
        screen.line(format_args!(
            "{echoes} echoes in {seconds:.2} s, all as sent: {:.0}/s, median {:.3} ms, 99 % {:.3} ms",
            echoes as f64 / seconds,
            at(0.5).as_secs_f64() * 1e3,
            at(0.99).as_secs_f64() * 1e3,
        ));
    }
    if args.resets {
        screen.line(format_args!("{} connections reset by this program", tally.resets.load(Ordering::Relaxed)));
    }
    screen.line(format_args!("{} echoes lost", failures.len()));
    failures.iter().take(TOLD).for_each(|failure| screen.line(format_args!("lost: {failure:#}")));
    if failures.len() > TOLD {
        screen.line(format_args!("and {} more", failures.len() - TOLD));
    }
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn is_connect(error: &CallError) -> bool {
    error.call == "connect"
}

/// One client: its requests, one after the other.
fn client(
    number: usize,
    args: &LoadArgs,
    resets: bool,
    end: Option<Instant>,
    tally: &Tally,
    stop: &Stop,
) -> Result<()> {
    let (mut latencies, mut kept) = (Vec::new(), None);
    let mut turn = 0;
    let result = loop {
        if stop.requested() || end.map_or(turn >= args.requests.get(), |end| Instant::now() >= end) {
            break Ok(());
        }
        let length = args.length.map_or(LENGTHS[turn % LENGTHS.len()], |length| length as usize);
        let request: Vec<u8> = (0..length).map(|at| (number + turn + at) as u8).collect();
        let sock = match kept.take().map_or_else(|| connected(args.address), Ok) {
            Ok(sock) => sock,
            Err(error) => break Err(error),
        };
        turn += 1;
        let asked = Instant::now();
        let told = if resets { reset(&sock, &request) } else { echoed(&sock, &request) };
        if let Err(error) = told.with_context(|| format!("client {number}, request {turn}")) {
            break Err(error);
        }
        if resets {
            tally.resets.fetch_add(1, Ordering::Relaxed);
        } else {
            latencies.push(asked.elapsed());
            tally.echoes.fetch_add(1, Ordering::Relaxed);
            kept = args.kept.then_some(sock);
        }
    };
    tally.latencies.lock().unwrap_or_else(PoisonError::into_inner).extend(latencies); // what came, came
    result
}

/// A connection; no call on it waits longer than the limit of an echo.
fn connected(addr: SocketAddr) -> Result<Socket> {
    let sock = Socket::new(Domain::for_address(addr), Type::STREAM, None).at("socket", addr)?;
    sock.set_read_timeout(Some(ECHO_LIMIT)).at("setsockopt", addr)?;
    sock.set_write_timeout(Some(ECHO_LIMIT)).at("setsockopt", addr)?; // connect hears it, too
    sock.connect(&addr.into()).at("connect", addr)?;
    Ok(sock)
}

/// Sends a request and compares what comes back. A request fits into both buffers, so one end may wait for the other.
fn echoed(sock: &Socket, request: &[u8]) -> Result<()> {
    send_all(sock, request)?;
    let (mut echo, mut buffer) = (Vec::<u8>::new(), vec![0; request.len()]);
    while echo.len() < request.len() {
        match recv(sock.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(0) => bail!("end of stream after {} of {} bytes", echo.len(), request.len()),
            Ok(bytes_read) => echo.extend(&buffer[..bytes_read]),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => bail!("no echo within {ECHO_LIMIT:?}"), // SO_RCVTIMEO
            Err(errno) => return Ok(Err(errno).at("recv", "")?),
        }
    }
    ensure!(echo == request, "{} bytes came back, and not those that were sent", echo.len());
    Ok(())
}

fn send_all(sock: &Socket, mut rest: &[u8]) -> Result<()> {
    while !rest.is_empty() {
        match send(sock.as_raw_fd(), rest, MsgFlags::MSG_NOSIGNAL) {
            Ok(bytes_sent) => rest = &rest[bytes_sent..],
            Err(Errno::EINTR) => {}
            Err(errno) => return Ok(Err(errno).at("send", "")?),
        }
    }
    Ok(())
}

/// Half a request, then a reset: SO_LINGER 0, and close when the socket is dropped.
fn reset(sock: &Socket, request: &[u8]) -> Result<()> {
    send_all(sock, &request[..request.len().div_ceil(2)])?;
    Ok(sock.set_linger(Some(Duration::ZERO)).at("setsockopt", "SO_LINGER")?)
}
