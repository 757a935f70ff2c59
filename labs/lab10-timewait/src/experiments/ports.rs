//! A port is used up only towards one address; and who may use a pair of addresses again before its TIME-WAIT is over.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsRawFd,
    process, thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use kernel::{Counters, Need, Pair, Patience, State, setting, tcp_socket, wait_for_state};
use nix::{errno::Errno, libc, setsockopt_impl, sockopt_impl, sys::socket::setsockopt};
use shared::{At, Predicts, Stage, Verdict, returned};
use socket2::{Domain, Socket, Type};

use crate::connection::{LIMIT, accepted_from, acknowledged, listening};

/// Not in libc: include/uapi/linux/in.h.
const IP_LOCAL_PORT_RANGE: i32 = 51;
/// How often to look for ports that nobody has.
const TRIES: u64 = 100;
/// Between two connects from the same port; as the question's output says.
const BETWEEN_CONNECTS: Duration = Duration::from_millis(50);
/// How often the clock may spoil the first connect on Linux before 6.14: see [`tw_reuse`].
const ROUNDS: u32 = 5;

sockopt_impl!(
    /// From which ports connect chooses: lower bound | upper bound << 16. See ip(7).
    LocalPortRange, SetOnly, libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE, u32
);

/// The option itself.
pub const PORT_RANGE: Need = Need {
    what: "the socket option IP_LOCAL_PORT_RANGE",
    provided_by: "Linux 6.3 or newer",
    met: || {
        Socket::new(Domain::IPV4, Type::STREAM, None).is_ok_and(|sock| setsockopt(&sock, LocalPortRange, &0).is_ok())
    },
};

/// connect may take over a TIME-WAIT, on loopback at least.
pub const REUSE: Need = Need {
    what: "tcp_tw_reuse, tcp_tw_reuse_delay and tcp_timestamps as by default",
    provided_by: "sysctl -w net.ipv4.tcp_tw_reuse=2 net.ipv4.tcp_tw_reuse_delay=1000 net.ipv4.tcp_timestamps=1",
    met: || {
        let on = |name| setting(name).first().is_some_and(|value| *value > 0);
        on("net/ipv4/tcp_tw_reuse") && on("net/ipv4/tcp_timestamps") && reuse_delay().is_none_or(|ms| ms == 1000)
    },
};

/// After how many milliseconds, since Linux 6.14. Before, it is the next second of the clock.
fn reuse_delay() -> Option<u64> {
    setting("net/ipv4/tcp_tw_reuse_delay").first().copied()
}

/// The first and the last port of a range.
type Range = (u16, u16);

pub fn pairs(stage: &mut Stage) -> Result<Verdict> {
    let (first_listen_sock, first_addr) = listening()?;
    let (second_listen_sock, second_addr) = listening()?;
    let (range, _socks) = taken(2, &first_listen_sock, first_addr)?;
    stage.say("setting", format_args!("connect may choose from two ports only, {} and {}", range.0, range.1));
    stage.client(format_args!("has two connections to {first_addr}, one from each port"));

    stage.look(format_args!("ss -tan 'sport = :{} or sport = :{}'", range.0, range.1));
    let question = stage.ask(
        "The client connects twice more with this range: to the same server, and to another server. What happens?",
        [
            ("same server: no port left; other server: no port left", [Err(Errno::EADDRNOTAVAIL); 2]),
            ("same server: no port left; other server: connected", [Err(Errno::EADDRNOTAVAIL), Ok(())]),
            ("same server: connected; other server: connected", [Ok(()), Ok(())]),
        ],
        Predicts { source: Some([Err(Errno::EADDRNOTAVAIL); 2]), kit: [Err(Errno::EADDRNOTAVAIL), Ok(())] },
    )?;
    let mut connects = |addr: SocketAddr, listen_sock: &Socket| -> Result<(Result<(), Errno>, Socket)> {
        let sock = with_range(range)?;
        let connected = sock.connect(&addr.into());
        let mut from = String::new();
        if connected.is_ok() {
            let client_addr = Pair::of(&sock)?.local;
            accepted_from(listen_sock, client_addr)?;
            from = format!("  from {client_addr}");
        }
        stage.client(format_args!("connect({}, {addr}) = {}{from}", sock.as_raw_fd(), returned(&connected)));
        Ok((errno_of(&connected), sock))
    };
    let (same, _same_sock) = connects(first_addr, &first_listen_sock)?;
    let (other, _other_sock) = connects(second_addr, &second_listen_sock)?;
    stage.verdict(question, [same, other], "a port is used up towards one server, not towards all")
}

pub fn at_the_server(stage: &mut Stage) -> Result<Verdict> {
    let (listen_sock, server_addr) = listening()?;
    let question = stage.ask(
        "A client has connected, and the server closes the connection first. The server still listens. The client \
         connects again at once, from the same port. What does connect return?",
        [
            ("0: the new connection replaces TIME-WAIT", Ok(())),
            ("EADDRNOTAVAIL: this pair of addresses is in use", Err(Errno::EADDRNOTAVAIL)),
            ("ECONNREFUSED: TIME-WAIT answers with a reset", Err(Errno::ECONNREFUSED)),
            ("ETIMEDOUT: TIME-WAIT answers nothing", Err(Errno::ETIMEDOUT)),
        ],
        Predicts { source: None, kit: Ok(()) },
    )?;
    // A port that no other connection has: connect alone may share one, see pairs, and bind would refuse it below.
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let client_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", any_port)?;
    let client_fd = client_sock.as_raw_fd();
    client_sock.bind(&any_port.into()).at("bind", any_port)?;
    client_sock.connect(&server_addr.into()).at("connect", server_addr)?;
    let client = Pair::of(&client_sock)?;
    stage.client(format_args!("connect({client_fd}, {server_addr}) = 0  from {}", client.local));
    let conn_sock = accepted_from(&listen_sock, client.local)?;
    let (server, conn_fd) = (client.other_end(), conn_sock.as_raw_fd());

    drop(conn_sock); // close(2): FIN
    stage.server(format_args!("close({conn_fd}) = 0"));
    acknowledged(server)?;
    drop(client_sock); // close(2): the other FIN
    stage.client(format_args!("close({client_fd}) = 0"));
    wait_for_state(server, Some(State::TimeWait), LIMIT)?;
    stage.kernel([("server", server), ("client", client)])?;

    let sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
    let bound = sock.bind(&client.local.into());
    stage.client(format_args!("bind({}, {}) = {}", sock.as_raw_fd(), client.local, returned(&bound)));
    bound.at("bind", client.local)?;
    let [left, _] = stage.kernel([("server", server), ("client", client)])?;
    ensure!(left == Some(State::TimeWait), "TIME-WAIT was gone before the new connect");
    let connected = sock.connect(&server_addr.into());
    stage.client(format_args!("connect({}, {server_addr}) = {}", sock.as_raw_fd(), returned(&connected)));
    if connected.is_ok() {
        let _conn_sock = accepted_from(&listen_sock, client.local)?;
        let states = stage.kernel([("server", server), ("client", client)])?;
        ensure!(states == [Some(State::Established); 2], "the same pair of addresses should be connected");
    }
    stage.verdict(question, errno_of(&connected), "connect succeeds at once if the listening end is in TIME-WAIT")
}

pub fn tw_reuse(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Again {
        AtOnce,
        WithinAboutASecond,
        NotSoon,
    }
    let (listen_sock, server_addr) = listening()?;
    let reuse = setting("net/ipv4/tcp_tw_reuse").first().copied().context("no tcp_tw_reuse")?;
    stage.say("setting", format_args!("tcp_tw_reuse is {reuse}; connect may choose from one port only"));

    let question = stage.ask(
        "The client closes first, and connects again and again to the same server from the same port. When does \
         connect succeed?",
        [
            ("at the first try: the old connection is closed", Again::AtOnce),
            ("within about a second, in spite of TIME-WAIT", Again::WithinAboutASecond),
            ("not within five seconds: TIME-WAIT lasts a minute", Again::NotSoon),
        ],
        Predicts { source: None, kit: Again::WithinAboutASecond },
    )?;
    for round in 1..=ROUNDS {
        let (range, mut socks) = taken(1, &listen_sock, server_addr)?;
        let (client_sock, conn_sock) = socks.pop().context("no connection")?;
        let client = Pair::of(&client_sock)?;
        let client_fd = client_sock.as_raw_fd();
        let sock = with_range(range)?;
        let fd = sock.as_raw_fd();
        let before = Counters::read()?;
        drop(client_sock); // close(2): FIN
        acknowledged(client)?;
        drop(conn_sock); // close(2): the other FIN
        wait_for_state(client, Some(State::TimeWait), LIMIT)?;

        let mut patience = Patience::new(LIMIT);
        let mut refused = 0;
        let (seen, connected) = loop {
            let seen = time_wait(client)?; // the last look before the connect
            let connected = sock.connect(&server_addr.into());
            if errno_of(&connected) != Err(Errno::EADDRNOTAVAIL) || patience.is_over() {
                break (seen, connected);
            }
            refused += 1;
            if refused == 1 {
                stage.client(format_args!("close({client_fd}) = 0"));
                stage.say("kernel", format_args!("client {seen}"));
                stage.client(format_args!("connect({fd}, {server_addr}) = {}", returned(&connected)));
                stage.say("wait", format_args!("a connect every 50 ms, for 5 s at most"));
            }
            thread::sleep(BETWEEN_CONNECTS); // a bounded poll: the limit is above
        };
        match refused {
            0 => stage.client(format_args!("close({client_fd}) = 0")),
            1 => {}
            _ => stage.client(format_args!("connect({fd}, {server_addr}) x{} = -1 EADDRNOTAVAIL", refused - 1)),
        }
        stage.say("kernel", format_args!("client {seen}"));
        stage.client(format_args!("connect({fd}, {server_addr}) = {}", returned(&connected)));
        stage.kernel([("client", client)])?;
        stage.counted(&before, ["TWRecycled"])?;

        let observed = match (errno_of(&connected), refused) {
            (Ok(()), 0) => Again::AtOnce,
            (Ok(()), _) => Again::WithinAboutASecond,
            (Err(Errno::EADDRNOTAVAIL), _) => Again::NotSoon,
            (Err(errno), _) => bail!("connect {server_addr}: {errno:?}"),
        };
        if observed == Again::AtOnce && reuse_delay().is_none() && round < ROUNDS {
            stage.say("clock", "before Linux 6.14 the next second of the clock is enough, and it came: once more");
            continue;
        }
        return stage.verdict(
            question,
            observed,
            "on loopback connect may take over a TIME-WAIT older than a second; elsewhere if tcp_tw_reuse is 1",
        );
    }
    bail!("no round was played")
}

/// What the kernel has of this end, which must be in TIME-WAIT.
fn time_wait(end: Pair) -> Result<String> {
    let row = tcp_socket(end)?.context("TIME-WAIT is gone")?;
    ensure!(row.state == State::TimeWait, "TIME-WAIT has become {}", row.state);
    let left = row.timer.context("TIME-WAIT without a timer")?;
    Ok(format!("{}  timer {:.2} s", row.state, left.as_secs_f64()))
}

/// What connect returned, without its text.
fn errno_of(connected: &io::Result<()>) -> Result<(), Errno> {
    let errno = |error: &io::Error| error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw);
    connected.as_ref().copied().map_err(errno)
}

/// A socket whose connect chooses its port from `range`.
fn with_range((first, last): Range) -> Result<Socket> {
    let sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", "")?;
    let bounds = u32::from(first) | u32::from(last) << 16;
    setsockopt(&sock, LocalPortRange, &bounds).at("setsockopt", "IP_LOCAL_PORT_RANGE")?;
    Ok(sock)
}

/// A range of `count` ports, each with a connection to `server_addr`, so nobody else can bind one of them; and both ends
/// of each connection.
fn taken(count: u16, listen_sock: &Socket, server_addr: SocketAddr) -> Result<(Range, Vec<(Socket, Socket)>)> {
    // The kernel heeds the socket's range only within its own: ip_local_port_range.
    let [lowest, highest] = setting("net/ipv4/ip_local_port_range")[..] else { bail!("no ip_local_port_range") };
    let room = highest.saturating_sub(lowest + u64::from(count)).max(1);
    for attempt in 0..TRIES {
        // Different ports for each process and each attempt.
        let first = (lowest + (u64::from(process::id()) * 7919 + attempt * 101) % room) as u16;
        let range = (first, first + count - 1);
        let connect_one = |_| -> Result<Option<(Socket, Socket)>> {
            let client_sock = with_range(range)?;
            match errno_of(&client_sock.connect(&server_addr.into())) {
                Err(Errno::EADDRNOTAVAIL) => return Ok(None), // somebody has a port of the range
                connected => connected.at("connect", server_addr)?,
            }
            let conn_sock = accepted_from(listen_sock, Pair::of(&client_sock)?.local)?;
            Ok(Some((client_sock, conn_sock)))
        };
        if let Some(socks) = (0..count).map(connect_one).collect::<Result<Option<Vec<_>>>>()? {
            return Ok((range, socks));
        }
    }
    bail!("no {count} ports in a row are free, in {TRIES} attempts")
}
