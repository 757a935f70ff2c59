//! The way to each state: socket calls alone, in the order in which they are made.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    errno::Errno,
    getsockopt_impl, libc,
    poll::{PollFd, PollFlags, poll},
    setsockopt_impl, sockopt_impl,
    sys::socket::{MsgFlags, getsockopt, recv, send, setsockopt},
};
use shared::{
    At,
    kernel::{Pair, State, tcp_socket, wait_for_state},
    returned,
};
use socket2::{Domain, Socket, Type};

use crate::{log::Log, tcp_info};

/// How long a state may take to come; far more than loopback needs.
const LIMIT: Duration = Duration::from_secs(5);
/// So long it must stay to count: no transient state does.
const STILL: Duration = Duration::from_millis(100);
/// A small window is soon full. The kernel takes twice this, or its minimum.
pub const SMALL: usize = 2048;
/// So long no room in the send buffer: the receiver's window is shut, it is not just slow.
const NO_ROOM_MS: u8 = 50;
/// One send while a window is filled.
pub const BLOCK: usize = 1024;
/// Enough tries of a SYN for an hour: TCP_SYNCNT, see tcp(7).
const SYN_TRIES: i32 = 60;
/// In seconds: beyond this SYN-SENT needs more tries than tcp_syn_retries allows, 6 of them for two minutes.
const PATIENCE: u32 = 100;

sockopt_impl!(
    /// So long a connection may wait for its first data before it exists; see tcp(7).
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

/// A state that was reached: where to see it, and the descriptors that hold it.
pub struct Reached {
    pub state: State,
    /// The end that is in it; `None`: in no table.
    pub pair: Option<Pair>,
    /// The server's port.
    pub port: u16,
    socks: Vec<Socket>,
}

impl Reached {
    /// The state now: from the kernel's table, or from the socket itself where it is in none.
    pub fn now(&self) -> Result<Option<State>> {
        match (self.pair, self.socks.first()) {
            (Some(pair), _) => Ok(tcp_socket(pair)?.map(|row| row.state)),
            (None, Some(sock)) => tcp_info::name(tcp_info::state(sock).at("getsockopt", "TCP_INFO")?).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// Waits until the state is there, and sees that it stays.
    fn confirm(&self) -> Result<()> {
        if let Some(pair) = self.pair {
            wait_for_state(pair, Some(self.state), LIMIT)?;
        }
        let end = Instant::now() + STILL;
        while Instant::now() < end {
            let now = self.now()?;
            ensure!(now == Some(self.state), "{} does not stay: now {now:?}", self.state);
            thread::sleep(STILL / 10); // between two looks; the end is above
        }
        Ok(())
    }
}

/// Takes a socket to `state`, where it can stay for `seconds`.
pub fn reach(state: State, addr: SocketAddr, seconds: u32, log: &mut Log) -> Result<Reached> {
    let reached = match state {
        State::Listen => listen(addr, log),
        State::SynSent => syn_sent(addr, seconds, log),
        State::SynReceived => syn_received(addr, seconds, log),
        State::Established => established(addr, log),
        State::FinWait1 => fin_wait_1(addr, log),
        State::FinWait2 => fin_wait_2(addr, log),
        State::CloseWait => close_wait(addr, log),
        State::Closing => closing(addr, log),
        State::LastAck => last_ack(addr, log),
        State::TimeWait => time_wait(addr, log),
        State::Closed => closed(log),
    }?;
    reached.confirm()?;
    let who = crate::states::facts(state).end;
    let mut told = format!("{who} {state}");
    if let Some(pair) = reached.pair.filter(|_| state != State::Listen) {
        let other = tcp_socket(pair.other_end())?.map_or("in no table".into(), |row| row.state.to_string());
        told += &format!("   {} {other}", if who == "client" { "server" } else { "client" });
    }
    log.say(if reached.pair.is_some() { "kernel" } else { "TCP_INFO" }, told);
    Ok(reached)
}

fn listen(addr: SocketAddr, log: &mut Log) -> Result<Reached> {
    let (listen_sock, server_addr) = listening(addr, None, 0, log)?;
    let pair = Pair { local: server_addr, peer: SocketAddr::from(([0, 0, 0, 0], 0)) };
    Ok(Reached { state: State::Listen, pair: Some(pair), port: server_addr.port(), socks: vec![listen_sock] })
}

fn syn_sent(addr: SocketAddr, seconds: u32, log: &mut Log) -> Result<Reached> {
    let (listen_sock, server_addr) = listening(addr, None, 0, log)?;
    let first_sock = connecting(server_addr, None, log)?;
    log.say("", "it waits for accept; the queue of length 0 is full");

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
    let told = returned(&result); // without its words: the line is full
    log.say(
        "client",
        format_args!("connect({client_fd}, {server_addr}) = {}", told.split(" (").next().unwrap_or(&told)),
    );
    let local = client_sock.local_addr().at("getsockname", "")?.as_socket().context("not an IP socket")?;
    let pair = Pair { local, peer: server_addr }; // getpeername says ENOTCONN until there is an answer
    let socks = vec![client_sock, first_sock, listen_sock];
    Ok(Reached { state: State::SynSent, pair: Some(pair), port: server_addr.port(), socks })
}

fn syn_received(addr: SocketAddr, seconds: u32, log: &mut Log) -> Result<Reached> {
    let (listen_sock, server_addr) = listening(addr, None, 1, log)?;
    let listen_fd = listen_sock.as_raw_fd();
    let defer = i32::try_from(seconds)? + 2;
    log.next(format_args!("setsockopt({listen_fd}, SOL_TCP, TCP_DEFER_ACCEPT, {defer})"));
    setsockopt(&listen_sock, DeferAccept, &defer).at("setsockopt", "TCP_DEFER_ACCEPT")?;
    log.say("server", format_args!("setsockopt({listen_fd}, SOL_TCP, TCP_DEFER_ACCEPT, {defer}) = 0"));
    // Up to 1, 3, 7, 15, 31 ... s: the times at which the SYN+ACK would be sent again.
    let rounded_up = getsockopt(&listen_sock, DeferAccept).at("getsockopt", "TCP_DEFER_ACCEPT")?;
    log.say("", format_args!("the kernel rounds up to {rounded_up} s; then a bare ACK will do: ESTABLISHED"));

    let client_sock = connecting(server_addr, None, log)?;
    let pair = Pair::of(&client_sock)?.other_end();
    log.say("", "the client is ESTABLISHED all along: it has its SYN+ACK");
    let socks = vec![client_sock, listen_sock];
    Ok(Reached { state: State::SynReceived, pair: Some(pair), port: server_addr.port(), socks })
}

fn established(addr: SocketAddr, log: &mut Log) -> Result<Reached> {
    let (client_sock, conn_sock, server_addr) = connected(addr, None, log)?;
    let pair = Pair::of(&client_sock)?;
    let socks = vec![client_sock, conn_sock];
    Ok(Reached { state: State::Established, pair: Some(pair), port: server_addr.port(), socks })
}

fn fin_wait_1(addr: SocketAddr, log: &mut Log) -> Result<Reached> {
    let (client_sock, conn_sock, server_addr) = connected(addr, Some(SMALL), log)?;
    let pair = Pair::of(&client_sock)?;
    filled("client", &client_sock, log)?;
    shut("client", &client_sock, log)?; // the FIN stands behind the data
    let socks = vec![client_sock, conn_sock];
    Ok(Reached { state: State::FinWait1, pair: Some(pair), port: server_addr.port(), socks })
}

fn fin_wait_2(addr: SocketAddr, log: &mut Log) -> Result<Reached> {
    let (client_sock, conn_sock, server_addr) = connected(addr, None, log)?;
    let pair = Pair::of(&client_sock)?;
    shut("client", &client_sock, log)?;
    let socks = vec![client_sock, conn_sock];
    Ok(Reached { state: State::FinWait2, pair: Some(pair), port: server_addr.port(), socks })
}

fn close_wait(addr: SocketAddr, log: &mut Log) -> Result<Reached> {
    let (client_sock, conn_sock, server_addr) = connected(addr, None, log)?;
    let pair = Pair::of(&conn_sock)?;
    shut("client", &client_sock, log)?;
    let socks = vec![client_sock, conn_sock];
    Ok(Reached { state: State::CloseWait, pair: Some(pair), port: server_addr.port(), socks })
}

fn closing(addr: SocketAddr, log: &mut Log) -> Result<Reached> {
    let (client_sock, conn_sock, server_addr) = connected(addr, Some(SMALL), log)?;
    let pair = Pair::of(&client_sock)?;
    filled("client", &client_sock, log)?;
    shut("client", &client_sock, log)?; // FIN-WAIT-1: the FIN stands behind the data
    wait_for_state(pair, Some(State::FinWait1), LIMIT)?;
    shut("server", &conn_sock, log)?; // this FIN has room, so it arrives
    let socks = vec![client_sock, conn_sock];
    Ok(Reached { state: State::Closing, pair: Some(pair), port: server_addr.port(), socks })
}

fn last_ack(addr: SocketAddr, log: &mut Log) -> Result<Reached> {
    let (client_sock, conn_sock, server_addr) = connected(addr, Some(SMALL), log)?;
    let pair = Pair::of(&conn_sock)?;
    shut("client", &client_sock, log)?;
    wait_for_state(pair, Some(State::CloseWait), LIMIT)?;
    filled("server", &conn_sock, log)?;
    shut("server", &conn_sock, log)?; // the FIN stands behind the data
    let socks = vec![client_sock, conn_sock];
    Ok(Reached { state: State::LastAck, pair: Some(pair), port: server_addr.port(), socks })
}

fn time_wait(addr: SocketAddr, log: &mut Log) -> Result<Reached> {
    let (client_sock, conn_sock, server_addr) = connected(addr, None, log)?;
    let pair = Pair::of(&client_sock)?;
    let (client_fd, conn_fd) = (client_sock.as_raw_fd(), conn_sock.as_raw_fd());

    log.next(format_args!("close({client_fd})"));
    drop(client_sock); // close(2): FIN
    log.say("client", format_args!("close({client_fd}) = 0"));

    conn_sock.set_read_timeout(Some(LIMIT)).at("setsockopt", "SO_RCVTIMEO")?; // only so that nothing can hang here
    log.next(format_args!("recv({conn_fd}, 1024)"));
    let end = recv(conn_fd, &mut [0; 1024], MsgFlags::empty());
    log.say("server", format_args!("recv({conn_fd}, 1024) = {}", returned(&end)));

    log.next(format_args!("close({conn_fd})"));
    drop(conn_sock); // close(2): FIN
    log.say("server", format_args!("close({conn_fd}) = 0"));
    Ok(Reached { state: State::TimeWait, pair: Some(pair), port: server_addr.port(), socks: Vec::new() })
}

fn closed(log: &mut Log) -> Result<Reached> {
    log.next("socket(AF_INET, SOCK_STREAM, 0)");
    let sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", "")?;
    log.say("client", format_args!("socket(AF_INET, SOCK_STREAM, 0) = {}", sock.as_raw_fd()));
    Ok(Reached { state: State::Closed, pair: None, port: 0, socks: vec![sock] })
}

/// A listening socket; a small receive buffer is inherited by the connections it takes.
fn listening(
    addr: SocketAddr,
    receive_buffer: Option<usize>,
    backlog: i32,
    log: &mut Log,
) -> Result<(Socket, SocketAddr)> {
    log.next("socket(AF_INET, SOCK_STREAM, 0)");
    let listen_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", addr)?;
    let listen_fd = listen_sock.as_raw_fd();
    log.say("server", format_args!("socket(AF_INET, SOCK_STREAM, 0) = {listen_fd}"));

    log.next(format_args!("setsockopt({listen_fd}, SOL_SOCKET, SO_REUSEADDR, 1)"));
    listen_sock.set_reuse_address(true).at("setsockopt", addr)?; // for --port: see lab10-timewait
    log.say("server", format_args!("setsockopt({listen_fd}, SOL_SOCKET, SO_REUSEADDR, 1) = 0"));
    small_buffers("server", &listen_sock, receive_buffer, log)?;

    log.next(format_args!("bind({listen_fd}, {addr})"));
    listen_sock.bind(&addr.into()).at("bind", addr)?;
    log.say("server", format_args!("bind({listen_fd}, {addr}) = 0"));
    let server_addr = listen_sock.local_addr().at("getsockname", addr)?.as_socket().context("not an IP socket")?;

    log.next(format_args!("listen({listen_fd}, {backlog})"));
    listen_sock.listen(backlog).at("listen", addr)?;
    log.say("server", format_args!("listen({listen_fd}, {backlog}) = 0  {server_addr}"));
    Ok((listen_sock, server_addr))
}

/// A client, connected.
fn connecting(server_addr: SocketAddr, receive_buffer: Option<usize>, log: &mut Log) -> Result<Socket> {
    log.next("socket(AF_INET, SOCK_STREAM, 0)");
    let client_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
    let client_fd = client_sock.as_raw_fd();
    log.say("client", format_args!("socket(AF_INET, SOCK_STREAM, 0) = {client_fd}"));

    small_buffers("client", &client_sock, receive_buffer, log)?;

    log.next(format_args!("connect({client_fd}, {server_addr})"));
    client_sock.connect(&server_addr.into()).at("connect", server_addr)?;
    log.say("client", format_args!("connect({client_fd}, {server_addr}) = 0"));
    Ok(client_sock)
}

/// The window is told in the SYN and the SYN+ACK: before connect and before listen.
fn small_buffers(who: &str, sock: &Socket, size: Option<usize>, log: &mut Log) -> Result<()> {
    let Some(size) = size else { return Ok(()) };
    let fd = sock.as_raw_fd();
    log.next(format_args!("setsockopt({fd}, SOL_SOCKET, SO_RCVBUF, {size})"));
    sock.set_recv_buffer_size(size).at("setsockopt", "SO_RCVBUF")?;
    log.say(who, format_args!("setsockopt({fd}, SOL_SOCKET, SO_RCVBUF, {size}) = 0"));
    log.next(format_args!("setsockopt({fd}, SOL_SOCKET, SO_SNDBUF, {size})"));
    sock.set_send_buffer_size(size).at("setsockopt", "SO_SNDBUF")?;
    log.say(who, format_args!("setsockopt({fd}, SOL_SOCKET, SO_SNDBUF, {size}) = 0"));
    Ok(())
}

/// Both ends of a connection. The listener is closed: one connection is enough.
fn connected(addr: SocketAddr, receive_buffer: Option<usize>, log: &mut Log) -> Result<(Socket, Socket, SocketAddr)> {
    let (listen_sock, server_addr) = listening(addr, receive_buffer, 1, log)?;
    let client_sock = connecting(server_addr, receive_buffer, log)?;
    let listen_fd = listen_sock.as_raw_fd();
    log.next(format_args!("accept({listen_fd})"));
    let (conn_sock, _) = listen_sock.accept().at("accept", server_addr)?;
    log.say("server", format_args!("accept({listen_fd}) = {}", conn_sock.as_raw_fd()));
    log.next(format_args!("close({listen_fd})"));
    drop(listen_sock); // close(2)
    log.say("server", format_args!("close({listen_fd}) = 0"));
    Ok((client_sock, conn_sock, server_addr))
}

/// shutdown(SHUT_WR).
fn shut(who: &str, sock: &Socket, log: &mut Log) -> Result<()> {
    let fd = sock.as_raw_fd();
    log.next(format_args!("shutdown({fd}, SHUT_WR)"));
    sock.shutdown(std::net::Shutdown::Write).at("shutdown", "")?;
    log.say(who, format_args!("shutdown({fd}, SHUT_WR) = 0"));
    Ok(())
}

/// Fills the peer's window, and tells of it.
fn filled(who: &str, sock: &Socket, log: &mut Log) -> Result<()> {
    let fd = sock.as_raw_fd();
    log.next(format_args!("send({fd}, {BLOCK}, MSG_DONTWAIT) until EAGAIN"));
    let (sends, bytes_sent) = fill(sock)?;
    log.say(who, format_args!("send({fd}, {BLOCK}, MSG_DONTWAIT) x{sends} = {bytes_sent} bytes, then EAGAIN"));
    Ok(())
}

/// Sends until neither the peer's window nor this end's buffer has room: how many sends, how many bytes.
pub fn fill(sock: &Socket) -> Result<(usize, usize)> {
    let (mut sends, mut total) = (0, 0);
    loop {
        match send(sock.as_raw_fd(), &[b'a'; BLOCK], MsgFlags::MSG_DONTWAIT) {
            Ok(bytes_sent) => (sends, total) = (sends + 1, total + bytes_sent),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                let mut fds = [PollFd::new(sock.as_fd(), PollFlags::POLLOUT)];
                if poll(&mut fds, NO_ROOM_MS) == Ok(0) {
                    break;
                }
            }
            Err(errno) => return Ok(Err(errno).at("send", "")?),
        }
    }
    let left = tcp_socket(Pair::of(sock)?)?.context("the sender is in no table")?.send_queue;
    ensure!(left > 0, "all {total} bytes were taken: the window is not full");
    Ok((sends, total))
}
