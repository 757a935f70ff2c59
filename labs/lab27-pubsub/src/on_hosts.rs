//! Two hosts in private networks of their own, and a broker between them: what is done there. `unshare -Urn` starts this
//! as root of a network of its own, for an ordinary account too. Each line it prints is a label and a text.

use std::{
    fmt::Display,
    fs::File,
    io::stdin,
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsRawFd,
    process::{Command, id},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kernel::{
    State,
    hosts::{
        DEVICE,
        Host::{self, A, B},
        Hosts,
    },
    tcp_sockets, wait_until,
};
use nix::sched::{CloneFlags, setns};
use rumqttc::QoS;
use shared::{At, Role, Screen, returned};
use socket2::{Domain, Socket, Type};

use crate::mqtt::{As, Mqtt, Until};

/// The network namespace of this thread.
const OWN: &str = "/proc/thread-self/ns/net";
const LIMIT: Duration = Duration::from_secs(10);
const PORT: u16 = 1883;
const TEXT: &str = "Hello from A";

/// The networks of A, of B, and of the broker, which has a foot in both.
struct Scene {
    hosts: Hosts,
    middle: File,
    screen: Screen,
}

/// Plays it.
pub fn run(outside: &str) -> Result<()> {
    let mut screen = Screen::new();
    let played = networks(outside).and_then(|mut scene| {
        screen.line("ready");
        scene.play()
    });
    if let Err(error) = &played {
        screen.line(format_args!("broken\t{error:#}")); // nobody sees standard error: namespace::command
    }
    played
}

/// A is 10.1.0.2, B is 10.2.0.2; the broker's host is 10.1.0.1 and 10.2.0.1, and passes no packet on.
fn networks(outside: &str) -> Result<Scene> {
    let middle = File::open(OWN).with_context(|| format!("open {OWN}"))?;
    let hosts = Hosts::new(outside)?;
    hosts.ip(A, &format!("link del {DEVICE}"))?; // the cable between them goes
    let there = format!("/proc/{}/fd/{}", id(), middle.as_raw_fd());
    for (host, net) in [(A, 1), (B, 2)] {
        hosts.ip(host, &format!("link add {DEVICE} type veth peer name net{net} netns {there}"))?;
        hosts.ip(host, &format!("addr add 10.{net}.0.2/24 dev {DEVICE}"))?;
        hosts.ip(host, &format!("link set {DEVICE} up"))?;
    }
    let scene = Scene { hosts, middle, screen: Screen::new() };
    scene.enter_middle()?;
    for net in [1, 2] {
        for command in [format!("addr add 10.{net}.0.1/24 dev net{net}"), format!("link set net{net} up")] {
            let told = Command::new("ip").args(command.split(' ')).status().context("cannot start ip")?;
            ensure!(told.success(), "this failed on the broker's host: ip {command}");
        }
    }
    Ok(scene)
}

impl Scene {
    fn say(&mut self, label: &str, text: impl Display) {
        self.screen.line(format_args!("{label}\t{text}"));
    }

    fn enter_middle(&self) -> Result<()> {
        setns(&self.middle, CloneFlags::CLONE_NEWNET).context("setns to the broker's host")
    }

    fn play(&mut self) -> Result<()> {
        self.say("hosts", "A is 10.1.0.2, B is 10.2.0.2, two networks without a route between them");
        self.say("", "the broker's host is 10.1.0.1 and 10.2.0.1; it forwards no packets");
        self.refused(A, Ipv4Addr::new(10, 2, 0, 2))?;
        self.refused(B, Ipv4Addr::new(10, 1, 0, 2))?;

        self.enter_middle()?;
        let mut broker = Role::start(&["broker", &format!("0.0.0.0:{PORT}")])?;
        broker.wait_for("is the broker at")?;
        self.say("broker", format_args!("listens on 0.0.0.0:{PORT}"));
        self.say("ask", "");
        ensure!(stdin().read_line(&mut String::new())? > 0, "nobody asks any more");

        let came = self.through_the_broker();
        match &came {
            Ok((.., text)) => self.say("server B", format_args!("gets \"{text}\"")),
            Err(error) => self.say("failed", format_args!("{error:#}")),
        }

        // Who has accepted: a connection whose own port is the one that was listened on.
        let mut accepted = [0; 3];
        for (at, host) in [None, Some(A), Some(B)].into_iter().enumerate() {
            host.map_or_else(|| self.enter_middle(), |host| self.hosts.enter(host))?;
            let rows = tcp_sockets(0)?;
            let listening = |port| rows.iter().any(|row| row.state == State::Listen && row.pair.local.port() == port);
            let established = rows.iter().filter(|row| row.state == State::Established);
            accepted[at] = established.filter(|row| listening(row.pair.local.port())).count();
        }
        let [broker_count, a, b] = accepted;
        self.say("kernel", format_args!("connections accepted: the broker {broker_count}, A {a}, B {b}"));
        if came.is_ok_and(|(.., text)| text == TEXT) {
            self.say("observed", format_args!("arrives, broker {broker_count}, A {a}, B {b}"));
        } else {
            self.say("observed", "does not arrive");
        }
        Ok(())
    }

    /// The server subscribes, the client publishes: both are still connected, and the server has this text.
    fn through_the_broker(&mut self) -> Result<(Mqtt<'static>, Mqtt<'static>, String)> {
        let mut server = self.dial(B, 2, "server")?;
        server.subscribe("requests", QoS::AtLeastOnce)?;
        self.say("server B", "SUBSCRIBE requests");
        let mut client = self.dial(A, 1, "client")?;
        client.publish("requests", TEXT.as_bytes(), QoS::AtLeastOnce, false)?;
        self.say("client A", format_args!("PUBLISH requests \"{TEXT}\": PUBACK"));
        let came = server.receive()?;
        Ok((client, server, String::from_utf8_lossy(&came.payload).into_owned()))
    }

    /// A connect from one host to the other one.
    fn refused(&mut self, host: Host, peer: Ipv4Addr) -> Result<()> {
        self.hosts.enter(host)?;
        let peer_addr = SocketAddr::from((peer, 7777));
        let sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", peer_addr)?;
        let connected = sock.connect(&peer_addr.into());
        let fd = sock.as_raw_fd();
        self.say(&format!("host {host:?}"), format_args!("connect({fd}, {peer_addr}) = {}", returned(&connected)));
        ensure!(connected.is_err(), "there is a way from {host:?} to {peer}");
        Ok(())
    }

    /// A client on that host, connected to the broker's address in its network.
    fn dial(&mut self, host: Host, net: u8, name: &str) -> Result<Mqtt<'static>> {
        self.hosts.enter(host)?;
        let broker_addr = SocketAddr::from(([10, net, 0, 1], PORT));
        // Its thread starts on this host. The link may need a moment until it carries packets.
        let client = wait_until("a connection to the broker", LIMIT, || {
            Ok(Mqtt::connect(broker_addr, As::guest(name), Until::Limit(LIMIT)).ok())
        })?;
        self.say(&format!("{name} {host:?}"), format_args!("CONNECT to {broker_addr}: CONNACK"));
        Ok(client)
    }
}
