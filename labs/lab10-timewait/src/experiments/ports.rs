//! A port is used up only towards one address.

use std::{
    fs, io,
    net::SocketAddr,
    os::fd::AsRawFd,
    process,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use kernel::{Need, Pair, State, wait_for_state, wait_until};
use nix::{libc, setsockopt_impl, sockopt_impl, sys::socket::setsockopt};
use shared::{At, Predicts, Stage, Verdict, returned};
use socket2::{Domain, Socket, Type};

use super::{LIMIT, acknowledged, listening};

/// Not in libc: include/uapi/linux/in.h.
const IP_LOCAL_PORT_RANGE: i32 = 51;
const RANGE_OF_THE_KERNEL: &str = "/proc/sys/net/ipv4/ip_local_port_range";
const TW_REUSE: &str = "/proc/sys/net/ipv4/tcp_tw_reuse";
/// How often to look for ports that nobody has.
const TRIES: u32 = 100;
/// A success this early is luck: on older kernels the second that has to pass is one of the clock.
const FIRST_MOMENT: Duration = Duration::from_millis(100);

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
    what: "tcp_tw_reuse=2, tcp_tw_reuse_delay=1000 and tcp_timestamps=1 in net.ipv4, as by default",
    provided_by: "as root: sysctl net.ipv4.tcp_tw_reuse=2, and so on",
    met: || {
        let on = |file| fs::read_to_string(file).is_ok_and(|value| value.trim() != "0");
        // Since Linux 6.14; before, it is a second of the clock.
        let delay = fs::read_to_string("/proc/sys/net/ipv4/tcp_tw_reuse_delay").unwrap_or("1000".into());
        on(TW_REUSE) && on("/proc/sys/net/ipv4/tcp_timestamps") && delay.trim() == "1000"
    },
};

/// The first and the last port of a range.
type Range = (u16, u16);

pub fn pairs(stage: &mut Stage) -> Result<Verdict> {
    let (_first_sock, first_addr) = listening(false)?;
    let (_second_sock, second_addr) = listening(false)?;
    let (range, _socks) = taken(2, first_addr)?;
    stage.say("setting", format_args!("connect may choose from two ports only, {} and {}", range.0, range.1));
    stage.client(format_args!("has two connections to {first_addr}, one from each"));

    stage.look(format_args!("ss -tan 'sport = :{} or sport = :{}'", range.0, range.1));
    let question = stage.ask(
        "Two more connects with this range: one to the same server, one to another. What do they return?",
        [
            ("both fail: both ports are taken", (false, false)),
            ("the same server: fails. The other: succeeds", (false, true)),
            ("both succeed: any number of connections share a port", (true, true)),
        ],
        Predicts { source: Some((false, false)), kit: (false, true) },
    )?;
    let mut connects = |addr: SocketAddr| -> Result<(bool, Socket)> {
        let sock = with_range(range)?;
        let connected = sock.connect(&addr.into());
        let from = if connected.is_ok() { format!("  from {}", Pair::of(&sock)?.local) } else { String::new() };
        stage.client(format_args!("connect({}, {addr}) = {}{from}", sock.as_raw_fd(), returned(&connected)));
        Ok((connected.is_ok(), sock))
    };
    let (same, _same_sock) = connects(first_addr)?;
    let (other, _other_sock) = connects(second_addr)?;
    stage.verdict(question, (same, other), "a connection is a pair of addresses; a port is used up per server")
}

pub fn tw_reuse(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Again {
        AtOnce,
        AfterASecond,
        NotSoon,
    }
    let setting = fs::read_to_string(TW_REUSE).at("open", TW_REUSE)?;
    let (listen_sock, server_addr) = listening(false)?;
    stage.say("setting", format_args!("tcp_tw_reuse is {}; connect may choose from one port only", setting.trim()));

    let question = stage.ask(
        "The client closes first, and connects to the same server from the same port. When does connect succeed?",
        [
            ("at once: the old connection is closed", Again::AtOnce),
            ("after about a second", Again::AfterASecond),
            ("not within five seconds: after a minute, when TIME-WAIT is over", Again::NotSoon),
        ],
        Predicts { source: None, kit: Again::AfterASecond },
    )?;
    // The first moment is short, and before Linux 6.14 a new second may begin in it: then once more.
    for last_try in [false, false, false, false, true] {
        let (range, mut socks) = taken(1, server_addr)?;
        let client_sock = socks.pop().context("no connection")?;
        let client = Pair::of(&client_sock)?;
        let conn_sock = accepted_from(&listen_sock, client.local)?;
        let (client_fd, sock) = (client_sock.as_raw_fd(), with_range(range)?);
        let closed = Instant::now();
        drop(client_sock); // close(2): FIN
        acknowledged(client)?;
        drop(conn_sock); // close(2): the other FIN
        wait_for_state(client, Some(State::TimeWait), LIMIT)?;
        let connected = sock.connect(&server_addr.into());
        if connected.is_ok() && !last_try {
            continue;
        }
        stage.client(format_args!("close({client_fd}) = 0"));
        stage.client(format_args!("connect({}, {server_addr}) = {}", sock.as_raw_fd(), returned(&connected)));
        stage.kernel([("client", client), ("server", client.other_end())])?;
        if connected.is_ok() {
            return stage.verdict(question, Again::AtOnce, "");
        }
        let seen = wait_until("connect from the same port", LIMIT, || {
            let sock = with_range(range)?;
            Ok(sock.connect(&server_addr.into()).is_ok().then_some(sock))
        });
        let Ok(sock) = seen else { return stage.verdict(question, Again::NotSoon, "") };
        if closed.elapsed() < FIRST_MOMENT && !last_try {
            stage.say("again", "a new second began just then");
            continue;
        }
        stage.client(format_args!("connect({}, {server_addr}) = 0", sock.as_raw_fd()));
        stage.kernel([("client", client)])?;
        return stage.verdict(question, Again::AfterASecond, "connect may take over a TIME-WAIT older than a second");
    }
    bail!("this machine is too slow to see what happens in the first second")
}

/// A socket whose connect chooses its port from `range`.
fn with_range((first, last): Range) -> Result<Socket> {
    let sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", "")?;
    let bounds = u32::from(first) | u32::from(last) << 16;
    setsockopt(&sock, LocalPortRange, &bounds).at("setsockopt", "IP_LOCAL_PORT_RANGE")?;
    Ok(sock)
}

/// A range of `count` ports, each with a connection to `addr`: so nobody else can bind one of them.
fn taken(count: u16, addr: SocketAddr) -> Result<(Range, Vec<Socket>)> {
    // The kernel heeds the socket's range only within its own: ip_local_port_range.
    let bounds = fs::read_to_string(RANGE_OF_THE_KERNEL).at("open", RANGE_OF_THE_KERNEL)?;
    let mut bounds = bounds.split_whitespace().map(str::parse::<u16>);
    let (lowest, highest) = (bounds.next().context("no range")??, bounds.next().context("no range")??);
    let room = u32::from(highest.saturating_sub(lowest).saturating_sub(count)).max(1);
    for attempt in 0..TRIES {
        // Different ports for each process and each attempt.
        let first = lowest + ((process::id().wrapping_mul(7919) + attempt * 101) % room) as u16;
        let range = (first, first + count - 1);
        let connect_one = |_| {
            let sock = with_range(range)?;
            Ok(sock.connect(&addr.into()).map(|()| sock))
        };
        let socks: Result<io::Result<Vec<Socket>>> = (0..count).map(connect_one).collect();
        if let Ok(socks) = socks? {
            return Ok((range, socks));
        }
    }
    bail!("no {count} ports in a row are free, in {TRIES} attempts")
}

/// The server's end of the connection with this client; connections of earlier attempts are passed over.
fn accepted_from(listen_sock: &Socket, client_addr: SocketAddr) -> Result<Socket> {
    loop {
        let (conn_sock, peer_addr) = listen_sock.accept().at("accept", "")?;
        if peer_addr.as_socket() == Some(client_addr) {
            return Ok(conn_sock);
        }
    }
}
