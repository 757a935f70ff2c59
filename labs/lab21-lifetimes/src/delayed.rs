//! Two hosts and a slow line between them: the server is on one, the client on the other. They need networks of their own,
//! so this runs as a child of the demo. It prints what passed and how long it took; the demo reads it.

use std::{
    fs::File,
    net::SocketAddr,
    os::fd::AsRawFd,
    process,
    sync::mpsc::{Receiver, channel},
    thread,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use kernel::hosts::{DEVICE, Host, Hosts};
use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
    sys::socket::{MsgFlags, recv, send},
};
use shared::{At, Screen};
use socket2::{Domain, Socket, Type};

use crate::relay::{Segment, line_end, relay};

pub const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: page\r\n\r\n";
pub const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nHello";
/// How often new and kept are tried: the quickest counts, as a busy machine may delay any.
pub const TRIES: usize = 3;

/// Makes hosts and line, asks over new connections and over kept ones, prints segments and times.
pub fn run(outside: &str) -> Result<()> {
    let between = File::open("/proc/thread-self/ns/net").context("open /proc/thread-self/ns/net")?;
    let hosts = Hosts::new(outside)?;
    hosts.ip(Host::A, &format!("link del {DEVICE}"))?; // the short cable between the two
    let here = format!("/proc/{}/fd/{}", process::id(), between.as_raw_fd());
    for (host, addr, end) in [(Host::A, "10.0.0.1/24", "to-a"), (Host::B, "10.0.0.2/24", "to-b")] {
        hosts.ip(host, &format!("link add {DEVICE} type veth peer name {end} netns {here}"))?;
        hosts.ip(host, &format!("addr add {addr} dev {DEVICE}"))?;
        hosts.ip(host, &format!("link set {DEVICE} up"))?;
    }
    setns(&between, CloneFlags::CLONE_NEWNET).context("setns back")?;
    let ends = [(Host::A, line_end("to-a")?), (Host::B, line_end("to-b")?)];
    let (seen, segments) = channel();
    thread::Builder::new().spawn(move || relay(&ends, &seen)).context("cannot start a thread")?;
    ask(&hosts, &segments)
}

/// The server is on host A, the client on host B.
fn ask(hosts: &Hosts, segments: &Receiver<Segment>) -> Result<()> {
    let mut screen = Screen::new();
    let server_addr = SocketAddr::from(([10, 0, 0, 1], 8080));
    hosts.enter(Host::A)?;
    let listen_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
    listen_sock.bind(&server_addr.into()).at("bind", server_addr)?;
    listen_sock.listen(16).at("listen", server_addr)?;
    hosts.enter(Host::B)?;
    // The first one also asks for addresses (ARP) and is not counted.
    for number in 0..=TRIES {
        let (mut told, mut times) = (Vec::new(), Vec::new());
        let started = Instant::now();
        let client_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
        client_sock.connect(&server_addr.into()).at("connect", server_addr)?;
        let port = client_sock.local_addr().at("getsockname", "")?.as_socket().context("not an IP socket")?.port();
        let mut conn_sock = None;
        for (label, started) in [("new", Some(started)), ("kept", None)] {
            let started = started.unwrap_or_else(Instant::now);
            send(client_sock.as_raw_fd(), REQUEST, MsgFlags::empty()).at("send", server_addr)?;
            let conn_sock = match &mut conn_sock {
                Some(conn_sock) => conn_sock,
                none => none.insert(listen_sock.accept().at("accept", server_addr)?.0),
            };
            receive_all(conn_sock, REQUEST)?;
            send(conn_sock.as_raw_fd(), ANSWER, MsgFlags::empty()).at("send", server_addr)?;
            receive_all(&client_sock, ANSWER)?;
            times.push((label, started.elapsed().as_millis()));
            let ours = segments.try_iter().filter(|(of, _)| *of == port);
            told.push((label, ours.map(|(_, text)| text).collect::<Vec<_>>().join(", ")));
        }
        if number > 0 {
            told.iter().for_each(|(label, passed)| screen.line(format_args!("{label} segments {passed}")));
            times.iter().for_each(|(label, ms)| screen.line(format_args!("{label} ms {ms}")));
        }
    }
    screen.line("end of the scene");
    Ok(())
}

/// Receives these bytes and no others.
fn receive_all(sock: &Socket, wanted: &[u8]) -> Result<()> {
    let (mut received, mut buffer) = (Vec::<u8>::new(), [0; 1024]);
    while received.len() < wanted.len() {
        match recv(sock.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Err(Errno::EINTR) => {}
            bytes_read => match bytes_read.at("recv", "")? {
                0 => break,
                bytes_read => received.extend(&buffer[..bytes_read]),
            },
        }
    }
    ensure!(received == wanted, "received {received:?}");
    Ok(())
}
