//! CLOSED, LISTEN, SYN-SENT, SYN-RECEIVED, ESTABLISHED.

use std::{net::SocketAddr, os::fd::AsRawFd};

use anyhow::{Context, Result, bail, ensure};
use kernel::{Pair, State, setting, tcp_sockets, wait_until};
use nix::{
    getsockopt_impl, libc, setsockopt_impl, sockopt_impl,
    sys::socket::{getsockopt, setsockopt},
};
use shared::{At, returned};
use socket2::{Domain, Socket, Type};

use super::{
    LIMIT, Reached,
    calls::{connect_started, connected, connecting, goes_on, listening},
};
use crate::log::{Interrupted, Log};

/// Enough tries of a SYN for an hour: TCP_SYNCNT, see tcp(7).
const SYN_TRIES: i32 = 60;
/// Beyond these seconds SYN-SENT needs more tries than tcp_syn_retries allows: 6, which take two minutes.
const PATIENCE: u32 = 100;

sockopt_impl!(
    /// For how many seconds the kernel waits for a client's first data before accept can fetch it; see tcp(7).
    DeferAccept,
    Both,
    libc::IPPROTO_TCP,
    libc::TCP_DEFER_ACCEPT,
    libc::c_int
);
sockopt_impl!(
    /// How often the SYN is sent again before connect gives up; see tcp(7).
    SynCount,
    SetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_SYNCNT,
    libc::c_int
);

pub fn closed(log: &mut Log) -> Result<Reached> {
    log.next("socket(AF_INET, SOCK_STREAM, 0)");
    let sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", "")?;
    log.say("client", format_args!("socket(AF_INET, SOCK_STREAM, 0) = {}", sock.as_raw_fd()));
    Ok(Reached { state: State::Closed, pair: None, port: 0, socks: vec![sock] })
}

pub fn listen(addr: SocketAddr, log: &mut Log) -> Result<Reached> {
    let (listen_sock, server_addr) = listening(addr, None, 0, log)?;
    let pair = Pair { local: server_addr, peer: SocketAddr::from(([0, 0, 0, 0], 0)) };
    Ok(Reached { state: State::Listen, pair: Some(pair), port: server_addr.port(), socks: vec![listen_sock] })
}

pub fn syn_sent(addr: SocketAddr, seconds: u32, log: &mut Log) -> Result<Reached> {
    let (listen_sock, server_addr) = listening(addr, None, 0, log)?;
    let (first_sock, result) = connect_started(server_addr, None, log)?;
    if result.as_ref().is_err_and(|error| !goes_on(error)) {
        result.at("connect", server_addr)?;
    }
    // A stranger who was faster fills the queue as well.
    wait_until("a full accept queue", LIMIT, || {
        if log.stop.requested() {
            bail!(Interrupted);
        }
        let rows = tcp_sockets(server_addr.port())?;
        Ok(rows.iter().any(|row| row.state == State::Listen && row.recv_queue > row.send_queue).then_some(()))
    })?;
    log.say("", "one connection waits for accept; the queue of length 0 is full");

    log.next("socket(AF_INET, SOCK_STREAM, 0)");
    let client_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
    let client_fd = client_sock.as_raw_fd();
    log.say("client", format_args!("socket(AF_INET, SOCK_STREAM, 0) = {client_fd}"));
    if seconds > PATIENCE {
        log.next(format_args!("setsockopt({client_fd}, SOL_TCP, TCP_SYNCNT, {SYN_TRIES})"));
        setsockopt(&client_sock, SynCount, &SYN_TRIES).at("setsockopt", "TCP_SYNCNT")?;
        log.say("client", format_args!("setsockopt({client_fd}, SOL_TCP, TCP_SYNCNT, {SYN_TRIES}) = 0"));
    }
    log.next(format_args!("fcntl({client_fd}, F_SETFL, O_RDWR|O_NONBLOCK)"));
    client_sock.set_nonblocking(true).at("fcntl", "O_NONBLOCK")?;
    log.say("client", format_args!("fcntl({client_fd}, F_SETFL, O_RDWR|O_NONBLOCK) = 0"));

    log.next(format_args!("connect({client_fd}, {server_addr})"));
    let result = client_sock.connect(&server_addr.into());
    let told = returned(&result); // without the words in brackets: the line is full
    let told = told.split(" (").next().unwrap_or(&told);
    log.say("client", format_args!("connect({client_fd}, {server_addr}) = {told}"));
    let local = client_sock.local_addr().at("getsockname", "")?.as_socket().context("not an IP socket")?;
    let pair = Pair { local, peer: server_addr }; // getpeername says ENOTCONN until there is an answer
    let socks = vec![client_sock, first_sock, listen_sock];
    Ok(Reached { state: State::SynSent, pair: Some(pair), port: server_addr.port(), socks })
}

pub fn syn_received(addr: SocketAddr, seconds: u32, log: &mut Log) -> Result<Reached> {
    let cookies = setting("net/ipv4/tcp_syncookies");
    ensure!(cookies != [2], "a SYN cookie keeps no SYN-RECEIVED: sysctl -w net.ipv4.tcp_syncookies=1");
    let (listen_sock, server_addr) = listening(addr, None, 1, log)?;
    let listen_fd = listen_sock.as_raw_fd();
    let defer = i32::try_from(seconds)? + 2;
    log.next(format_args!("setsockopt({listen_fd}, SOL_TCP, TCP_DEFER_ACCEPT, {defer})"));
    setsockopt(&listen_sock, DeferAccept, &defer).at("setsockopt", "TCP_DEFER_ACCEPT")?;
    log.say("server", format_args!("setsockopt({listen_fd}, SOL_TCP, TCP_DEFER_ACCEPT, {defer}) = 0"));
    // To 1, 3, 7, 15, 31 ... s: the times at which the SYN+ACK would be sent again.
    let rounded_up = getsockopt(&listen_sock, DeferAccept).at("getsockopt", "TCP_DEFER_ACCEPT")?;
    log.say("", format_args!("the kernel rounds up to {rounded_up} s; then an ACK without data is enough"));

    let client_sock = connecting(server_addr, None, log)?;
    let pair = Pair::of(&client_sock)?.other_end();
    log.say("", "the client has the SYN+ACK, so the client is ESTABLISHED");
    let socks = vec![client_sock, listen_sock];
    Ok(Reached { state: State::SynReceived, pair: Some(pair), port: server_addr.port(), socks })
}

pub fn established(addr: SocketAddr, log: &mut Log) -> Result<Reached> {
    let (client_sock, conn_sock, server_addr) = connected(addr, None, log)?;
    let pair = Pair::of(&client_sock)?;
    let socks = vec![client_sock, conn_sock];
    Ok(Reached { state: State::Established, pair: Some(pair), port: server_addr.port(), socks })
}
