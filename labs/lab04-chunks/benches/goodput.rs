//! How fast do datagrams of 1024 bytes arrive: one call each, cut by the kernel (UDP_SEGMENT), and joined again
//! (UDP_GRO)? Beside them, in the same round and on as many processors, `iperf3 -u` with the same payload and no rate
//! limit.
//!
//! Run:      cargo bench -p lab04-chunks        about a minute
//! Needs:    iperf3 for the comparison (package iperf3); without it the rest is measured
//!
//! Measured twice: with the sender on one processor and the receiver on another, and with both on one. There iperf3's two
//! processes share the processor, and our one thread sends and reads in turn. UDP_SEGMENT saves calls of the sender and
//! its way through the stack; cutting, queueing and reading still cost something for every datagram, and more where the
//! datagram changes the processor.
//!
//! How to read it: goodput is what the receiver read, not what the sender sent. UDP has no flow control: where the
//! sender is faster, the rest is lost in the receive buffer, and is shown as lost. All have the same receive buffer, as
//! large as this machine allows (at most 4 MiB). A ratio compares two figures of one round. At the end stand the middle
//! one of these ratios, and the best round of each way compared with iperf3's best. On a busy machine sender and receiver
//! take each other's time and the figures say little; then look at the best rounds.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::{
    fs,
    net::SocketAddr,
    os::fd::AsRawFd,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::socket::{
        MsgFlags, recv, send, setsockopt,
        sockopt::{UdpGroSegment, UdpGsoSegment},
    },
};
use socket2::{Domain, Socket, Type};
use testkit::{Role, have};

const PAYLOAD: usize = 1024;
/// 63 datagrams: the most that fit the 65507 bytes one call takes.
const SEGMENTS: usize = 63;
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(1);
/// A quiet receiver looks at the clock this often.
const QUIET: Duration = Duration::from_millis(50);

#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    segment: bool,
    /// UDP_GRO: one recv may return datagrams the kernel has joined.
    joined: bool,
}

const WAYS: [Way; 3] = [
    Way { name: "one send, one recv each", segment: false, joined: false },
    Way { name: "UDP_SEGMENT, one recv each", segment: true, joined: false },
    Way { name: "UDP_SEGMENT and UDP_GRO", segment: true, joined: true },
];

#[derive(Clone, Copy)]
enum Place {
    TwoProcessors,
    OneProcessor,
}

const PLACES: [(Place, &str); 2] = [(Place::TwoProcessors, "two processors"), (Place::OneProcessor, "one processor")];

/// The receive buffer to ask for: what iperf3 insists on being granted, too.
fn buffer_size() -> usize {
    let limit = |name: &str| {
        let text = fs::read_to_string(format!("/proc/sys/net/core/{name}")).unwrap_or_default();
        text.trim().parse().unwrap_or(212_992) // not shown in some containers
    };
    limit("rmem_max").min(limit("wmem_max")).min(4 << 20)
}

/// Of one round: megabytes received in a second, and the share that was lost.
#[derive(Clone, Copy)]
struct Figure {
    megabytes: f64,
    lost: f64,
}

/// What all rounds of one way gave.
#[derive(Clone, Default)]
struct Score {
    ratios: Vec<f64>,
    best: f64,
}

fn main() {
    let with_iperf3 = have("iperf3");
    if !with_iperf3 {
        println!("iperf3 is missing (apt-get install iperf3): no comparison, the rest follows");
    }
    println!("goodput of {PAYLOAD}-byte datagrams over loopback, MB/s; {ROUNDS} rounds of {ROUND:?} each\n");
    println!("{:<28}{:>10}{:>8}{:>12}", "", "MB/s", "lost", "of iperf3's");
    let mut scores = [const { [const { Score { ratios: Vec::new(), best: 0.0 } }; WAYS.len()] }; PLACES.len()];
    let mut best_of_iperf3 = [0f64; PLACES.len()];
    for round in 1..=ROUNDS {
        for (((place, place_name), scores), best_of_iperf3) in PLACES.iter().zip(&mut scores).zip(&mut best_of_iperf3) {
            println!("round {round}, {place_name}");
            let iperf3 = if with_iperf3 { iperf3(*place) } else { None };
            match iperf3 {
                Some(figure) => {
                    *best_of_iperf3 = best_of_iperf3.max(figure.megabytes);
                    row("iperf3 -u -b 0 -l 1024", figure, None);
                }
                None if with_iperf3 => println!("  iperf3 gave no figure"),
                None => {}
            }
            for (way, score) in WAYS.iter().zip(scores) {
                match measure(*way, *place) {
                    Ok(figure) => {
                        let ratio = iperf3.map(|iperf3| figure.megabytes / iperf3.megabytes);
                        score.ratios.extend(ratio);
                        score.best = score.best.max(figure.megabytes);
                        row(way.name, figure, ratio);
                    }
                    Err(error) => println!("  {:<26}not here: {error}", way.name),
                }
            }
        }
    }
    if !with_iperf3 {
        return;
    }
    println!("\n{:<28}{:>13}{:>13}", "times iperf3's goodput", "middle round", "best rounds");
    for (((_, place_name), scores), best_of_iperf3) in PLACES.iter().zip(scores).zip(best_of_iperf3) {
        println!("{place_name}");
        for (way, mut score) in WAYS.iter().zip(scores) {
            score.ratios.sort_by(f64::total_cmp);
            if let Some(middle) = score.ratios.get(score.ratios.len() / 2) {
                println!("  {:<26}{middle:>13.1}{:>13.1}", way.name, score.best / best_of_iperf3);
            }
        }
    }
}

fn row(name: &str, figure: Figure, ratio: Option<f64>) {
    let ratio = ratio.map_or(String::new(), |ratio| format!("{ratio:.1}"));
    println!("  {name:<26}{:>10.0}{:>7.0}%{ratio:>12}", figure.megabytes, figure.lost * 100.0);
}

/// Sends to one socket as fast as it goes for a round, and reads it.
fn measure(way: Way, place: Place) -> anyhow::Result<Figure> {
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    let recv_sock = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    recv_sock.set_recv_buffer_size(buffer_size())?;
    recv_sock.bind(&any_port.into())?;
    recv_sock.set_read_timeout(Some(QUIET))?;
    if way.joined {
        setsockopt(&recv_sock, UdpGroSegment, &true)?;
    }
    let send_sock = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    send_sock.connect(&recv_sock.local_addr()?)?;
    if way.segment {
        setsockopt(&send_sock, UdpGsoSegment, &(PAYLOAD as i32))?;
    }
    let bytes_a_call = if way.segment { SEGMENTS * PAYLOAD } else { PAYLOAD };

    let started = Instant::now();
    let (sent, received) = match place {
        Place::TwoProcessors => {
            let over = Arc::new(AtomicBool::new(false));
            let sender = thread::spawn({
                let over = over.clone();
                move || flood(&send_sock, bytes_a_call, &over)
            });
            let received = drain(&recv_sock, way.joined, started + ROUND);
            over.store(true, Ordering::Relaxed);
            (sender.join().unwrap()?, received?)
        }
        Place::OneProcessor => take_turns(&send_sock, bytes_a_call, &recv_sock, way.joined, started + ROUND)?,
    };
    let seconds = started.elapsed().as_secs_f64();
    let (sent, received) = (sent as f64, received as f64);
    Ok(Figure { megabytes: received / seconds / 1e6, lost: (1.0 - received / sent).max(0.0) })
}

/// Sends until it is over; returns the bytes.
fn flood(sock: &Socket, bytes_a_call: usize, over: &AtomicBool) -> nix::Result<u64> {
    let bytes = vec![b'x'; bytes_a_call];
    let mut sent = 0;
    while !over.load(Ordering::Relaxed) {
        match send(sock.as_raw_fd(), &bytes, MsgFlags::empty()) {
            Ok(bytes_sent) => sent += bytes_sent as u64,
            Err(Errno::EINTR | Errno::ENOBUFS | Errno::ECONNREFUSED) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(sent)
}

/// Reads until the deadline; returns the bytes. The clock is looked at once in a hundred calls.
fn drain(sock: &Socket, joined: bool, deadline: Instant) -> nix::Result<u64> {
    let mut buffer = vec![0; if joined { 65_536 } else { PAYLOAD }];
    let mut received = 0;
    loop {
        for _ in 0..100 {
            match recv(sock.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(bytes_read) => received += bytes_read as u64,
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        if Instant::now() >= deadline {
            return Ok(received);
        }
    }
}

/// One thread: one send, then as many recv as it takes to read it all, and again until the deadline; returns the bytes
/// sent and received. On loopback a datagram is in the receiver's queue when send returns, so none is waited for.
fn take_turns(
    send_sock: &Socket,
    bytes_a_call: usize,
    recv_sock: &Socket,
    joined: bool,
    deadline: Instant,
) -> nix::Result<(u64, u64)> {
    let bytes = vec![b'x'; bytes_a_call];
    let mut buffer = vec![0; if joined { 65_536 } else { PAYLOAD }];
    let (mut sent, mut received) = (0, 0);
    while Instant::now() < deadline {
        for _ in 0..10 {
            sent += send(send_sock.as_raw_fd(), &bytes, MsgFlags::empty())? as u64;
            while received < sent {
                match recv(recv_sock.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                    Ok(bytes_read) => received += bytes_read as u64,
                    Err(Errno::EAGAIN) => return Ok((sent, received)), // lost: the figures will say so
                    Err(Errno::EINTR) => {}
                    Err(errno) => return Err(errno),
                }
            }
        }
    }
    Ok((sent, received))
}

/// A processor this process may run on.
fn processor() -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?.trim(); // such as 0-1,4
    Some(list.split(['-', ',']).next()?.to_owned())
}

/// One round of iperf3: what its receiver counted. `None` where it failed or its words are others.
fn iperf3(place: Place) -> Option<Figure> {
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).ok()?.port();
    let port = port.to_string();
    let mut server =
        Role::spawn(Command::new("iperf3").args(["-s", "-1", "-p", &port, "-B", "127.0.0.1", "--forceflush"])).ok()?;
    server.wait_for("Server listening on").ok()?;
    let seconds = ROUND.as_secs().to_string();
    let window = buffer_size().to_string();
    let args =
        ["-c", "127.0.0.1", "-p", &port, "-u", "-b", "0", "-l", "1024", "-t", &seconds, "-f", "m", "-w", &window];
    let mut command = Command::new("iperf3");
    command.args(args);
    if let Place::OneProcessor = place {
        let processor = processor()?;
        command.args(["-A", &format!("{processor},{processor}")]);
    }
    let mut client = Role::spawn(&mut command).ok()?;
    let line = client.line_with("  receiver").ok()?;
    client.wait_for_end().ok()?;
    // [  5]   0.00-1.00   sec   512 MBytes  4295 Mbits/sec  0.002 ms  1234/525522 (0.23%)  receiver
    let words: Vec<&str> = line.split_whitespace().collect();
    let rate = words.iter().position(|word| *word == "Mbits/sec").and_then(|at| words[at - 1].parse::<f64>().ok())?;
    let share = words.iter().find_map(|word| word.strip_prefix('(')?.strip_suffix("%)")?.parse::<f64>().ok());
    Some(Figure { megabytes: rate / 8.0, lost: share.unwrap_or(0.0) / 100.0 })
}
