//! Members in one process, each with a socket of its own in one group. What is sent is sent by sendto, and what is heard was
//! received by recvfrom; only the losses are the experiment's own.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, SockaddrIn, recv, sendto},
};
use shared::{At, SplitMix64, Stage, returned};
use socket2::{Domain, Socket, Type};

use crate::{
    group::{Datagram, Event, Id, Member, Settings},
    udp::LO,
};

/// How long a datagram may take through lo; far more than it needs.
const LIMIT: Duration = Duration::from_secs(5);
const BUFFER_SIZE: usize = 2048;
pub const NAMES: [&str; 3] = ["ann", "bob", "cid"];

/// A group and a port that no other run has: the kernel chooses the port, and the port makes the group.
pub struct OwnGroup {
    pub addr: SocketAddrV4,
    /// While this is open, the kernel gives no other group the same port.
    _port_sock: Socket,
}

impl OwnGroup {
    pub fn new() -> Result<OwnGroup> {
        // Whoever binds 0.0.0.0 gets a port that is free at every address of this machine.
        let any_port = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
        let free_sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", any_port)?;
        free_sock.bind(&any_port.into()).at("bind", any_port)?;
        free_sock.set_reuse_address(true).at("setsockopt", any_port)?;
        let local_addr = free_sock.local_addr().at("getsockname", any_port)?;
        let port = local_addr.as_socket().context("not an IP socket")?.port();

        // A group nobody sends to holds the port, and takes no datagram from our own sockets.
        let hold_addr = SocketAddrV4::new(Ipv4Addr::new(239, 252, 0, 0), port);
        let port_sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", hold_addr)?;
        port_sock.set_reuse_address(true).at("setsockopt", hold_addr)?;
        port_sock.bind(&hold_addr.into()).at("bind", hold_addr)?;
        let [high, low] = port.to_be_bytes();
        Ok(OwnGroup { addr: SocketAddrV4::new(Ipv4Addr::new(239, 253, high, low), port), _port_sock: port_sock })
    }
}

/// One member and its socket.
pub struct Seat {
    sock: Socket,
    pub member: Member,
    /// The texts it has delivered.
    pub log: Vec<String>,
    losses: SplitMix64,
    /// What it has thrown away.
    pub thrown: u32,
}

/// All members; each knows the others from the beginning.
pub struct Room {
    group: OwnGroup,
    pub seats: Vec<Seat>,
    settings: Settings,
    now: Duration,
    /// Percent of what is received that is thrown away.
    pub loss: u64,
    /// Whether the calls are printed.
    pub aloud: bool,
    /// How many datagrams were received from the kernel.
    pub received: u32,
}

impl Room {
    pub fn open(settings: Settings) -> Result<Room> {
        let group = OwnGroup::new()?;
        let ids: Vec<Id> = (1..=NAMES.len() as u32).collect();
        let mut seats = Vec::new();
        for id in &ids {
            let sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", group.addr)?;
            sock.set_read_timeout(Some(LIMIT)).at("setsockopt", group.addr)?;
            sock.set_reuse_address(true).at("setsockopt", group.addr)?;
            sock.bind(&group.addr.into()).at("bind", group.addr)?;
            sock.join_multicast_v4(group.addr.ip(), &LO).at("setsockopt IP_ADD_MEMBERSHIP", LO)?;
            sock.set_multicast_if_v4(&LO).at("setsockopt IP_MULTICAST_IF", LO)?;
            let member = Member::founder(*id, settings, &ids, Duration::ZERO);
            let losses = SplitMix64::new((*id).into());
            seats.push(Seat { sock, member, log: Vec::new(), losses, thrown: 0 });
        }
        Ok(Room { group, seats, settings, now: Duration::ZERO, loss: 0, aloud: false, received: 0 })
    }

    /// A member says a text; it is not sent yet.
    pub fn say(&mut self, at: usize, text: &str) {
        self.seats[at].member.say(text, self.now);
        self.note(at);
    }

    /// Adds to the log what was delivered.
    fn note(&mut self, at: usize) {
        let seat = &mut self.seats[at];
        let events = seat.member.take_events().into_iter();
        seat.log.extend(events.filter_map(|event| match event {
            Event::Delivered(item) => Some(item.text.clone()),
            _ => None,
        }));
    }

    /// Sends what the members have to send, until nobody has anything more. Each copy that the kernel makes is received;
    /// `loses` says who throws one away.
    pub fn deliver(&mut self, stage: &mut Stage, loses: impl Fn(usize, &Datagram) -> bool) -> Result<()> {
        loop {
            let out: Vec<(usize, Datagram)> = (0..self.seats.len())
                .flat_map(|at| self.seats[at].member.take_out().into_iter().map(move |datagram| (at, datagram)))
                .collect();
            if out.is_empty() {
                return Ok(());
            }
            for (from, datagram) in out {
                self.send(stage, from, &datagram)?;
                for to in 0..self.seats.len() {
                    let heard = self.receive(stage, to, from)?;
                    if to == from {
                        continue; // its own copy
                    }
                    let seat = &mut self.seats[to];
                    let lost = loses(to, &datagram) || seat.losses.draw() % 100 < self.loss;
                    if lost {
                        seat.thrown += 1;
                    } else if let Some(heard) = heard {
                        seat.member.hear(&heard, self.now);
                        self.note(to);
                    }
                }
            }
        }
    }

    fn send(&self, stage: &mut Stage, from: usize, datagram: &Datagram) -> Result<()> {
        let (fd, bytes, to) = (self.seats[from].sock.as_raw_fd(), datagram.bytes(), self.group.addr);
        let sent = loop {
            match sendto(fd, &bytes, &SockaddrIn::from(to), MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                sent => break sent,
            }
        };
        if self.aloud && shown(datagram) {
            let text = String::from_utf8_lossy(&bytes);
            let call = format!("sendto({fd}, \"{text}\", {}, {to}) = {}", bytes.len(), returned(&sent));
            stage.say(NAMES[from], call);
        }
        sent.at("sendto", std::net::SocketAddr::from(to))?;
        Ok(())
    }

    fn receive(&mut self, stage: &mut Stage, to: usize, from: usize) -> Result<Option<Datagram>> {
        let (fd, mut buffer) = (self.seats[to].sock.as_raw_fd(), [0; BUFFER_SIZE]);
        let received = loop {
            match recv(fd, &mut buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => {} // with SO_RCVTIMEO after Ctrl-Z and fg: signal(7)
                received => break received,
            }
        };
        let datagram = received.ok().and_then(|bytes_read| Datagram::read(&buffer[..bytes_read]));
        if self.aloud && to != from && datagram.as_ref().is_some_and(shown) {
            stage.say(NAMES[to], format_args!("recv({fd}, {BUFFER_SIZE}) = {}", returned(&received)));
        }
        received.at("recv", self.group.addr)?;
        self.received += 1;
        Ok(datagram)
    }

    /// So much time passes: heartbeats, questions, answers.
    pub fn pass(&mut self, stage: &mut Stage, time: Duration) -> Result<()> {
        let until = self.now + time;
        while self.now < until {
            self.now += self.settings.tick();
            for at in 0..self.seats.len() {
                self.seats[at].member.tick(self.now);
                self.note(at);
            }
            self.deliver(stage, |_, _| false)?;
        }
        Ok(())
    }

    /// The logs of all members.
    pub fn logs(&self) -> Vec<Vec<String>> {
        self.seats.iter().map(|seat| seat.log.clone()).collect()
    }
}

/// Heartbeats would fill the screen.
fn shown(datagram: &Datagram) -> bool {
    !matches!(datagram, Datagram::Alive(_))
}
