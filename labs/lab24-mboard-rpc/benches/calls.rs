//! What one question to an empty board costs: by XML-RPC, and over the wires of lab17 and lab22.
//!
//!     cargo bench -p lab24-mboard-rpc
//!
//! All servers are processes or threads of this machine, on 127.0.0.1. Times differ from machine to machine; the ratios
//! say more. It runs in a network of its own, as each round leaves 400 connections in TIME-WAIT.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    env,
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::{Command, exit},
    thread,
    time::{Duration, Instant},
};

use board::{Board, now};
use kernel::namespace::{self, NAMESPACE};
use testkit::Role;

/// Questions of each kind in a round.
const QUESTIONS: u32 = 200;
const ROUNDS: usize = 5;
/// Set for the bench in its private network.
const PRIVATE: &str = "RPC_BENCH";
const XML: &str = "<?xml version='1.0'?>\n<methodCall><methodName>last</methodName><params><param><value><i4>0</i4>\
                   </value></param></params></methodCall>";

fn main() {
    if env::var_os(PRIVATE).is_none() && (NAMESPACE.met)() {
        let status = namespace::command(env::current_exe().unwrap()).env(PRIVATE, "1").status().unwrap();
        exit(status.code().unwrap_or(1));
    }
    let (_once, once) = rpc_server(&[]);
    let (_kept, kept) = rpc_server(&["--threaded", "--keep"]);
    let (short, long) = (lab17_wire(), lab22_wire());
    let mut best = [Duration::MAX; 4];
    for _ in 0..ROUNDS {
        let times = [
            timed(|| per_connection(short, b"2:0", b"0:")),
            {
                let mut stream = connected(long);
                timed(|| line(&mut stream))
            },
            timed(|| per_connection(once, post("1.0").as_bytes(), b"</methodResponse>")),
            {
                let mut stream = connected(kept);
                let request = post("1.1");
                timed(|| call(&mut stream, request.as_bytes()))
            },
        ];
        best.iter_mut().zip(times).for_each(|(best, time)| *best = time.min(*best));
    }
    println!("one question, the best of {ROUNDS} rounds of {QUESTIONS}           microseconds   ratio");
    for (name, time) in [
        "lab17's wire, a connection each",
        "lab22's wire, one connection",
        "XML-RPC, a connection each (HTTP/1.0)",
        "XML-RPC, one connection (HTTP/1.1)",
    ]
    .iter()
    .zip(best)
    {
        let each = time / QUESTIONS;
        println!("{name:<48}{:>12}{:>8.1}", each.as_micros(), time.as_secs_f64() / best[0].as_secs_f64());
    }
}

fn timed(mut question: impl FnMut()) -> Duration {
    let start = Instant::now();
    (0..QUESTIONS).for_each(|_| question());
    start.elapsed()
}

fn rpc_server(options: &[&str]) -> (Role, SocketAddr) {
    let mut server =
        Role::spawn(Command::new(env!("CARGO_BIN_EXE_lab24-mboard-rpc")).args(["server", "0"]).args(options)).unwrap();
    let line = server.line_with("; calls to http://").unwrap();
    let addr = line.trim_end().strip_suffix("/RPC2").unwrap().rsplit('/').next().unwrap();
    (server, addr.parse().unwrap())
}

/// A connection for each request, which ends at the client's shutdown.
fn lab17_wire() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        let mut board = Board::default();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            stream.read_to_end(&mut request).unwrap();
            stream.write_all(&board.answer(&request, addr, now()).unwrap()).unwrap();
        }
    });
    addr
}

/// One connection for all requests, a line each.
fn lab22_wire() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        let mut board = Board::default();
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut request = String::new();
            while stream.read_line(&mut request).unwrap() > 0 {
                let mut answer = board.answer(request.trim_end().as_bytes(), addr, now()).unwrap();
                answer.push(b'\n');
                stream.get_mut().write_all(&answer).unwrap();
                request.clear();
            }
        }
    });
    addr
}

fn connected(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn post(version: &str) -> String {
    format!("POST /RPC2 HTTP/{version}\r\nContent-Type: text/xml\r\nContent-Length: {}\r\n\r\n{XML}", XML.len())
}

fn per_connection(addr: SocketAddr, request: &[u8], end: &[u8]) {
    let mut stream = connected(addr);
    stream.write_all(request).unwrap();
    if request.len() == 3 {
        stream.shutdown(Shutdown::Write).unwrap();
    }
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.ends_with(end));
}

fn line(stream: &mut TcpStream) {
    stream.write_all(b"2:0\n").unwrap();
    let mut answer = [0; 3];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"0:\n");
}

fn call(stream: &mut TcpStream, request: &[u8]) {
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"</methodResponse>") {
        let mut buffer = [0; 1024];
        let bytes_read = stream.read(&mut buffer).unwrap();
        assert!(bytes_read > 0);
        answer.extend(&buffer[..bytes_read]);
    }
}
