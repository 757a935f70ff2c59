//! Three connections over lo, each captured: a packet socket needs CAP_NET_RAW, so this runs as a child of the demo. It
//! prints what passed; the demo reads it.

use std::{
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;
use kernel::{Capture, Pair, State, capture::sum, wait_for_state, wait_until};
use nix::sys::socket::{MsgFlags, SockaddrStorage, recv, send, sendto};
use shared::{At, Screen};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{connection::connected, segment::Segment};

/// What the lecture sends.
pub const MESSAGE: &[u8] = b"Hello World!";
/// A request in two sends, and the answer to it.
pub const HALVES: [&[u8]; 2] = [b"head", b"body"];
const ANSWER: &[u8] = b"answer";
/// How many requests.
pub const REQUESTS: usize = 10;
/// The segments that arrive: the place of the first byte in the stream, and the bytes. The last is the client's own.
pub const PIECES: [(u32, &[u8]); 4] = [(5, b"world"), (2, b"llo"), (5, b"world"), (0, b"he")];
const LIMIT: Duration = Duration::from_secs(5);

/// What is captured.
#[derive(Clone, Copy, ValueEnum)]
pub enum Scene {
    /// One connection from its first segment to its last, with one message
    Whole,
    /// Requests in two sends each
    Halves,
    /// The same with TCP_NODELAY
    HalvesNoDelay,
    /// Segments that arrive in another order, overlap and come twice
    Pieces,
}

/// Plays the scene and prints it.
pub fn run(scene: Scene) -> Result<()> {
    let capture = Capture::start()?;
    match scene {
        Scene::Whole => whole(&capture)?,
        Scene::Halves => halves(&capture, false)?,
        Scene::HalvesNoDelay => halves(&capture, true)?,
        Scene::Pieces => pieces(&capture)?,
    }
    Screen::new().line("end of the scene");
    Ok(())
}

fn whole(capture: &Capture) -> Result<()> {
    let (client_sock, conn_sock) = connected()?;
    let pair = Pair::of(&client_sock)?;
    send(client_sock.as_raw_fd(), MESSAGE, MsgFlags::empty()).at("send", pair.peer)?;
    receive(&conn_sock, MESSAGE)?;
    drop(client_sock); // close(2)
    receive(&conn_sock, b"")?;
    drop(conn_sock);
    wait_for_state(pair.other_end(), None, LIMIT)?; // the last segment has come
    print(capture, pair)
}

fn halves(capture: &Capture, no_delay: bool) -> Result<()> {
    let (client_sock, conn_sock) = connected()?;
    let pair = Pair::of(&client_sock)?;
    client_sock.set_tcp_nodelay(no_delay).at("setsockopt", pair.local)?;
    let started = Instant::now();
    for _ in 0..REQUESTS {
        for half in HALVES {
            send(client_sock.as_raw_fd(), half, MsgFlags::empty()).at("send", pair.peer)?;
        }
        receive(&conn_sock, &HALVES.concat())?;
        send(conn_sock.as_raw_fd(), ANSWER, MsgFlags::empty()).at("send", pair.local)?;
        receive(&client_sock, ANSWER)?;
        print(capture, pair)?; // each time: on everybody's lo the packet socket may fill up
    }
    Screen::new().line(format_args!("ms {}", started.elapsed().as_millis()));
    Ok(())
}

/// A stranger with a raw socket sends segments in the client's name: raw(7) lets CAP_NET_RAW do so.
fn pieces(capture: &Capture) -> Result<()> {
    let (client_sock, conn_sock) = connected()?;
    let pair = Pair::of(&client_sock)?;
    let opening = wait_until("the SYN and its answer", LIMIT, || {
        let segments: Vec<_> = capture.packets(pair)?.iter().filter_map(Segment::of).collect();
        Ok(Some(segments).filter(|segments| segments.len() >= 2))
    })?;
    let (first, acknowledged) = (opening[0].number.wrapping_add(1), opening[1].number.wrapping_add(1));

    let raw_sock = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP)).at("socket", "SOCK_RAW")?;
    raw_sock.bind(&pair.local.into()).at("bind", pair.local)?; // a raw socket has an address and no port
    let [early @ .., (_, first_bytes)] = PIECES;
    for (place, bytes) in early {
        let segment = by_hand(pair, first.wrapping_add(place), acknowledged, bytes)?;
        sendto(raw_sock.as_raw_fd(), &segment, &SockaddrStorage::from(pair.peer), MsgFlags::empty())
            .at("sendto", pair.peer)?;
    }
    print(capture, pair)?;
    client_sock.set_tcp_nodelay(true).at("setsockopt", pair.local)?;
    send(client_sock.as_raw_fd(), first_bytes, MsgFlags::empty()).at("send", pair.peer)?;
    // Now the server has acknowledged bytes that the client has not sent. It sends them, and both ends agree again.
    send(client_sock.as_raw_fd(), b"lloworld", MsgFlags::empty()).at("send", pair.peer)?;
    drop(client_sock); // close(2)
    wait_for_state(pair.other_end(), Some(State::CloseWait), LIMIT)?; // nothing before the FIN is missing
    let mut blocks = Vec::new();
    loop {
        let mut buffer = [0; 5];
        let bytes_read = recv(conn_sock.as_raw_fd(), &mut buffer, MsgFlags::empty()).at("recv", pair.peer)?;
        if bytes_read == 0 {
            break;
        }
        blocks.push(String::from_utf8_lossy(&buffer[..bytes_read]).into_owned());
    }
    Screen::new().line(format_args!("blocks {}", blocks.join(" ")));
    print(capture, pair)
}

/// A segment of the local end, with its checksum: the raw socket puts the IP header in front of it.
fn by_hand(pair: Pair, number: u32, acknowledged: u32, payload: &[u8]) -> Result<Vec<u8>> {
    const WORDS: u8 = 5; // 20 bytes of header
    const ACK: u8 = 0x10;
    const WINDOW: u16 = 1000;
    let (Some(local), Some(peer)) = (ipv4(pair.local), ipv4(pair.peer)) else { bail!("not IPv4: {pair:?}") };
    let ports = [pair.local.port().to_be_bytes(), pair.peer.port().to_be_bytes()].concat();
    let numbers = [number.to_be_bytes(), acknowledged.to_be_bytes()].concat();
    let before = [&ports[..], &numbers, &[WORDS << 4, ACK], &WINDOW.to_be_bytes()].concat();
    let after = [&[0, 0], payload].concat(); // the urgent pointer
    let length = (before.len() + 2 + after.len()) as u16;
    let pseudo_header = [&local[..], &peer, &[0, 6], &length.to_be_bytes()].concat();
    let checksum = !sum(&[&pseudo_header, &before, &[0, 0], &after]);
    Ok([&before[..], &checksum.to_be_bytes(), &after].concat())
}

fn ipv4(addr: std::net::SocketAddr) -> Option<[u8; 4]> {
    match addr {
        std::net::SocketAddr::V4(addr) => Some(addr.ip().octets()),
        std::net::SocketAddr::V6(_) => None,
    }
}

/// Receives these bytes and no others; none at all is the end of the stream.
fn receive(sock: &Socket, wanted: &[u8]) -> Result<()> {
    let mut received: Vec<u8> = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let bytes_read = recv(sock.as_raw_fd(), &mut buffer, MsgFlags::empty()).at("recv", "")?;
        received.extend(&buffer[..bytes_read]);
        if bytes_read == 0 || received.len() >= wanted.len() {
            break;
        }
    }
    ensure!(received == wanted, "received {received:?}");
    Ok(())
}

fn print(capture: &Capture, pair: Pair) -> Result<()> {
    let mut screen = Screen::new();
    capture.packets(pair)?.iter().for_each(|packet| screen.line(format_args!("packet {packet}")));
    Ok(())
}
