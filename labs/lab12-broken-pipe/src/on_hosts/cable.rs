//! A link goes down, an address goes away: what becomes of an established connection?

use std::{
    net::{SocketAddr, SocketAddrV4},
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kernel::Pair;
use kernel::hosts::{
    DEVICE,
    Host::{A, B},
};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, SockaddrIn, send, sendto},
};
use shared::{At, returned};
use socket2::{Domain, Socket, Type};

use super::{CLOSED_ADDR, SERVER_ADDR, Scene};

/// What has not arrived by then does not arrive before something is changed; a cable takes microseconds.
const NOTHING_MS: u16 = 500;

pub fn link_down(scene: &mut Scene) -> Result<()> {
    let (_listen_sock, client_sock, conn_sock) = scene.connected_pair()?;
    let client = Pair::of(&client_sock)?;
    scene.hosts.enter(B)?;
    let udp_sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", "")?;

    scene.ip(A, &format!("link set {DEVICE} down"))?;
    three_calls(scene, &client_sock, &udp_sock)?;
    scene.kernel(client)?;
    scene.ip(A, &format!("link set {DEVICE} up"))?;
    let limit = scene.repetition(client)?;
    let received = scene.receive("server", &conn_sock, limit)?;
    ensure!(received == Ok(4), "the link of A is up again, and recv returned {received:?}");
    scene.ask()?;

    scene.ip(B, &format!("link set {DEVICE} down"))?;
    let observed = three_calls(scene, &client_sock, &udp_sock)?;
    scene.kernel(client)?;
    scene.ip(B, &format!("link set {DEVICE} up"))?;
    let limit = scene.repetition(client)?;
    let received = scene.receive("server", &conn_sock, limit)?;
    ensure!(received == Ok(4), "the link of B is up again, and recv returned {received:?}");
    scene.say("observed", observed);
    Ok(())
}

/// On B: send on the connection, a datagram, and the start of another connection. What the three calls returned.
fn three_calls(scene: &mut Scene, client_sock: &Socket, udp_sock: &Socket) -> Result<String> {
    let server_addr = SocketAddr::from(SERVER_ADDR);
    scene.hosts.enter(B)?;
    let fd = client_sock.as_raw_fd();
    let sent = send(fd, b"line", MsgFlags::empty());
    scene.say("client", format_args!("send({fd}, \"line\", 4) = {}", returned(&sent)));

    let fd = udp_sock.as_raw_fd();
    let (ip, port) = CLOSED_ADDR;
    let datagram = sendto(fd, b"line", &SockaddrIn::from(SocketAddrV4::new(ip, port)), MsgFlags::empty());
    scene.say("client", format_args!("sendto({fd}, \"line\", 4, {ip}:{port}) = {}", returned(&datagram)));

    let new_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
    new_sock.set_nonblocking(true).at("fcntl", server_addr)?; // it would wait for the answer to its SYN
    let fd = new_sock.as_raw_fd();
    let connected = new_sock.connect(&server_addr.into());
    scene.say("client", format_args!("connect({fd}, {server_addr}) = {}", returned(&connected)));

    let short = |result: nix::Result<usize>| result.map_or_else(|errno| format!("{errno:?}"), |n| n.to_string());
    let connected = connected.map(|()| 0).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)));
    Ok([short(sent), short(datagram), short(connected)].join(", "))
}

pub fn moved(scene: &mut Scene) -> Result<()> {
    let (listen_sock, client_sock, conn_sock) = scene.connected_pair()?;
    let client = Pair::of(&client_sock)?;
    let fd = client_sock.as_raw_fd();
    scene.ask()?;

    scene.ip(B, &format!("addr del 10.0.0.2/24 dev {DEVICE}"))?;
    scene.ip(B, &format!("addr add 10.0.0.3/24 dev {DEVICE}"))?;
    let sent = send(fd, b"line", MsgFlags::empty());
    scene.say("client", format_args!("send({fd}, \"line\", 4) = {}", returned(&sent)));
    let received = scene.receive("server", &conn_sock, Duration::from_millis(NOTHING_MS.into()))?;
    scene.kernel(client)?;

    let observed = match (sent, received) {
        (Err(_), _) => "fails",
        (_, Err(Errno::EAGAIN)) => "nothing",
        (_, Ok(_)) => "arrives",
        (_, Err(_)) => "reset",
    };
    if observed == "nothing" {
        // A new connection has the new address; the old one has waited for the old address.
        let server_addr = SocketAddr::from(SERVER_ADDR);
        scene.hosts.enter(B)?;
        let new_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
        let new_fd = new_sock.as_raw_fd();
        let connected = new_sock.connect(&server_addr.into());
        scene.say("client", format_args!("connect({new_fd}, {server_addr}) = {}", returned(&connected)));
        connected.at("connect", server_addr)?;
        let (_new_conn_sock, peer_addr) = listen_sock.accept().at("accept", server_addr)?;
        let peer_addr = peer_addr.as_socket().context("not an IP socket")?;
        scene.say("server", format_args!("a new connection from {}", peer_addr.ip()));

        scene.ip(B, &format!("addr add 10.0.0.2/24 dev {DEVICE}"))?;
        let limit = scene.repetition(client)?;
        let received = scene.receive("server", &conn_sock, limit)?;
        ensure!(received == Ok(4), "the old address is back, and recv returned {received:?}");
    }
    scene.say("observed", observed);
    Ok(())
}
