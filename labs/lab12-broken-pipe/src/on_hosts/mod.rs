//! Two hosts and a cable: what is done on them. `unshare -Urn` starts this as root of a network of its own, for an ordinary
//! account too.
//!
//! One process has both hosts: it opens a socket on the host it is on at that moment, and the socket stays there. Each
//! line it prints is a label and a text; experiments/hosts.rs shows them, and asks in between.

mod cable;
mod gone;

use std::{
    fmt::Display,
    io::stdin,
    net::{Ipv4Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use anyhow::{Result, bail, ensure};
use kernel::hosts::{
    Host::{self, A, B},
    Hosts,
};
use kernel::{Pair, Patience, tcp_socket};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv},
};
use shared::{At, Screen, returned};
use socket2::{Domain, Socket, Type};

const SERVER_ADDR: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 0, 0, 1), 7777);
/// discard: nobody listens there.
const CLOSED_ADDR: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 0, 0, 1), 9);
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
            "link-down" => cable::link_down(scene),
            "moved" => cable::moved(scene),
            "gone" => gone::gone(scene),
            other => bail!("no experiment {other} on two hosts"),
        }
    });
    if let Err(error) = &played {
        screen.line(format_args!("failed\t{error:#}")); // nobody sees standard error: namespace::command
    }
    played
}

impl Scene {
    fn say(&mut self, label: &str, text: impl Display) {
        self.screen.line(format_args!("{label}\t{text}"));
    }

    /// The question is put; goes on once the class has predicted.
    fn ask(&mut self) -> Result<()> {
        self.say("ask", "");
        ensure!(stdin().read_line(&mut String::new())? > 0, "nobody asks any more");
        Ok(())
    }

    /// ip(8) on one of the hosts.
    fn ip(&mut self, host: Host, command: &str) -> Result<()> {
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

/// Whether the next call on `sock` will not block; waits so long for it, not counting an interruption.
fn ready(sock: &Socket, events: PollFlags, limit: Duration) -> Result<bool> {
    let rounded_up = limit + Duration::from_millis(1); // poll counts milliseconds
    match poll(&mut [PollFd::new(sock.as_fd(), events)], PollTimeout::try_from(rounded_up)?) {
        Ok(events) => Ok(events > 0),
        Err(Errno::EINTR) => Ok(false), // after Ctrl-Z and fg: signal(7)
        Err(errno) => Ok(Err(errno).at("poll", "")?),
    }
}
