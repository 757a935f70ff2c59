//! Two hosts and a cable: what is done on them. `unshare -Urn` starts this as root of a network of its own, for an ordinary
//! account too.
//!
//! One process has both hosts: it opens a socket on the host it is on at that moment, and the socket stays there. Each
//! line it prints is a label and a text; experiments/hosts.rs shows them, and asks in between.

use std::{
    io::stdin,
    net::{Ipv4Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use kernel::hosts::{
    DEVICE,
    Host::{A, B},
    Hosts,
};
use kernel::{Counters, Pair, Patience, tcp_socket};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, SockaddrIn, getsockopt, recv, send, sendto, sockopt::SocketError},
};
use shared::{At, Screen, returned};
use socket2::{Domain, Socket, Type};

const SERVER_ADDR: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 0, 0, 1), 7777);
/// discard: nobody listens there.
const CLOSED_ADDR: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 0, 0, 1), 9);
/// No host has this address.
const NOBODY_ADDR: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 0, 0, 9), 9);
/// What has not arrived by then does not arrive before something is changed; a cable takes microseconds.
const NOTHING_MS: u16 = 500;
/// The kernel asks by ARP three times, a second apart; a repeated segment may take two.
const LIMIT: Duration = Duration::from_secs(10);

/// Both hosts, and the lines for the class.
struct Scene {
    hosts: Hosts,
    screen: Screen,
}

/// Plays one experiment.
pub fn run(experiment: &str, outside: &str) -> Result<()> {
    let mut screen = Screen::new();
    let played = Hosts::new(outside).and_then(|hosts| {
        screen.line("ready");
        let scene = &mut Scene { hosts, screen: Screen::new() };
        match experiment {
            "link-down" => link_down(scene),
            "moved" => moved(scene),
            "gone" => gone(scene),
            other => bail!("no experiment {other} on two hosts"),
        }
    });
    if let Err(error) = &played {
        screen.line(format_args!("failed\t{error:#}")); // nobody sees standard error: namespace::command
    }
    played
}

impl Scene {
    fn say(&mut self, label: &str, text: impl std::fmt::Display) {
        self.screen.line(format_args!("{label}\t{text}"));
    }

    /// The question is put; goes on once the class has predicted.
    fn ask(&mut self) -> Result<()> {
        self.say("ask", "");
        ensure!(stdin().read_line(&mut String::new())? > 0, "nobody asks any more");
        Ok(())
    }

    /// ip(8) on one of the hosts.
    fn ip(&mut self, host: kernel::hosts::Host, command: &str) -> Result<()> {
        self.hosts.ip(host, command)?;
        self.say(&format!("host {host:?}"), format_args!("ip {command}"));
        Ok(())
    }

    /// A connection: the server's end on A, the client's on B.
    fn connected_pair(&mut self) -> Result<(Socket, Socket, Socket)> {
        self.hosts.enter(A)?;
        let server_addr = SocketAddr::from(SERVER_ADDR);
        let listen_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
        listen_sock.bind(&server_addr.into()).at("bind", server_addr)?;
        listen_sock.listen(5).at("listen", server_addr)?;

        self.hosts.enter(B)?;
        let client_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
        let connected = client_sock.connect(&server_addr.into());
        let fd = client_sock.as_raw_fd();
        self.say("client", format_args!("connect({fd}, {server_addr}) = {}", returned(&connected)));
        connected.at("connect", server_addr)?;
        let (conn_sock, _) = listen_sock.accept().at("accept", server_addr)?;
        Ok((listen_sock, client_sock, conn_sock))
    }

    /// Both ends of the connection, each in its own host's table.
    fn kernel(&mut self, client: Pair) -> Result<()> {
        let mut states = Vec::new();
        for (host, end) in [(B, client), (A, client.other_end())] {
            self.hosts.enter(host)?;
            states.push(tcp_socket(end)?.map_or("in no table".into(), |row| row.state.to_string()));
        }
        self.say("kernel", format_args!("client {}   server {}", states[0], states[1]));
        Ok(())
    }

    /// How long the client's kernel may take to send again: long, if the program was stopped meanwhile.
    fn repetition(&self, client: Pair) -> Result<Duration> {
        self.hosts.enter(B)?;
        Ok(LIMIT + tcp_socket(client)?.and_then(|row| row.timer).unwrap_or_default())
    }

    /// Waits for bytes, or for `limit`; nothing within it is EAGAIN.
    fn receive(&mut self, label: &str, sock: &Socket, limit: Duration) -> Result<nix::Result<usize>> {
        let fd = sock.as_raw_fd();
        let mut patience = Patience::new(limit);
        let mut shown = Patience::new(LIMIT);
        while !ready(sock, PollFlags::POLLIN, patience.step())? {
            if patience.is_over() {
                self.say(label, format_args!("nothing to recv on {fd} for {limit:?}"));
                return Ok(Err(Errno::EAGAIN));
            }
            if shown.is_over() {
                self.say("wait", format_args!("for the next repetition: at most {:.0} s", limit.as_secs_f64()));
                shown = Patience::new(LIMIT);
            }
        }
        let received = recv(fd, &mut [0; 64], MsgFlags::empty());
        self.say(label, format_args!("recv({fd}, 64) = {}", returned(&received)));
        Ok(received)
    }
}

fn link_down(scene: &mut Scene) -> Result<()> {
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
    let datagram = sendto(fd, b"line", &SockaddrIn::from(std::net::SocketAddrV4::new(ip, port)), MsgFlags::empty());
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

fn moved(scene: &mut Scene) -> Result<()> {
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

fn gone(scene: &mut Scene) -> Result<()> {
    scene.ask()?;
    scene.hosts.enter(B)?;
    let before = Counters::read()?;
    let refused = ends(scene, CLOSED_ADDR.into())?;
    // UDP has no handshake: the refusal is an ICMP message, and the next call on the socket gives it.
    let udp_sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", "")?;
    let (fd, closed_addr) = (udp_sock.as_raw_fd(), SocketAddr::from(CLOSED_ADDR));
    let connected = udp_sock.connect(&closed_addr.into());
    scene.say("client", format_args!("connect({fd}, {closed_addr}) = {}  with UDP", returned(&connected)));
    let sent = send(fd, b"line", MsgFlags::empty());
    scene.say("client", format_args!("send({fd}, \"line\", 4) = {}", returned(&sent)));
    let refused_datagram = scene.receive("client", &udp_sock, LIMIT)?;
    ensure!(refused_datagram == Err(Errno::ECONNREFUSED), "the datagram to a closed port: {refused_datagram:?}");
    let icmp = before.risen("IcmpInDestUnreachs")?;
    scene.say("counted", format_args!("IcmpInDestUnreachs +{icmp}  (host B alone)"));

    let nobody = ends(scene, NOBODY_ADDR.into())?;
    let (addr, _) = NOBODY_ADDR;
    let neighbour =
        Command::new("ip").args(["neigh", "show", &addr.to_string()]).output().context("cannot start ip")?;
    scene.say("host B", format_args!("ip neigh show {addr}: {}", String::from_utf8_lossy(&neighbour.stdout).trim()));
    scene.say("observed", format_args!("{refused:?}, {nobody:?}"));
    Ok(())
}

/// How a connect from here to `addr` ends.
fn ends(scene: &mut Scene, addr: SocketAddr) -> Result<Errno> {
    let sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", addr)?;
    sock.set_nonblocking(true).at("fcntl", addr)?; // poll waits: after Ctrl-Z and fg it can be called again
    let connected = sock.connect(&addr.into());
    scene.say("client", format_args!("connect({}, {addr}) = {}", sock.as_raw_fd(), returned(&connected)));
    let mut ended = connected.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)));
    if ended == Err(Errno::EINPROGRESS) {
        let mut patience = Patience::new(LIMIT);
        while !ready(&sock, PollFlags::POLLOUT, patience.step())? {
            ensure!(!patience.is_over(), "connect to {addr} goes on for {LIMIT:?}");
        }
        let error = getsockopt(&sock, SocketError).at("getsockopt SO_ERROR", addr)?;
        ended = if error == 0 { Ok(()) } else { Err(Errno::from_raw(error)) };
        scene.say("client", format_args!("is told {}", returned(&ended)));
    }
    match ended {
        Ok(()) => bail!("connect to {addr} worked"),
        Err(errno) => Ok(errno),
    }
}

/// Whether the next call on `sock` will not block; waits so long for it, not counting an interruption.
fn ready(sock: &Socket, events: PollFlags, limit: Duration) -> Result<bool> {
    let rounded_up = limit + Duration::from_millis(1); // poll counts milliseconds
    match poll(&mut [PollFd::new(sock.as_fd(), events)], PollTimeout::try_from(rounded_up)?) {
        Ok(events) => Ok(events > 0),
        Err(Errno::EINTR) => Ok(false), // after Ctrl-Z and fg: signal(7)
        Err(errno) => Ok(Err(errno).at("poll", "")?),
    }
}
