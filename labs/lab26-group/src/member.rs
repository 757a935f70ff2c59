//! Terminals 1, 2, 3: a member of the group. The protocol is in `group`; here are its sockets, its keyboard and its clock.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    io::stdin,
    net::SocketAddrV4,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use anyhow::Result;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::read,
};
use shared::{At, Pause, Screen, SplitMix64, Stop, escaped};
use socket2::Socket;

use crate::{
    MemberArgs, fresh_id,
    group::{Datagram, Event, Id, Member, Settings, wire::TEXT_LIMIT},
    heartbeat,
    lines::{Line, LineSplitter},
    udp::{self, BUFFER_SIZE},
};

/// A member that leaves waits so long for others who ask for what it said last.
const GOODBYE_LIMIT: Duration = Duration::from_secs(2);
/// So many datagrams are read before the next look at the keyboard and the clock.
const AT_ONCE: usize = 100;
/// So many lines may wait until the group has taken this member in; the keyboard waits for the rest.
const LINES_LIMIT: usize = 100;
/// Of so many clients the last number is remembered, so that no text is said twice.
const CLIENTS_LIMIT: usize = 1000;

/// Joins, talks and leaves.
pub fn run(args: &MemberArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();
    let group_sock = udp::join(&mut screen, &mut pause, args.group)?;
    let own_sock = udp::own(&mut screen, &mut pause)?;
    pause.before(&mut screen, "sendto, a heartbeat: no more pauses from here on");

    let mut seat = Seat::new(args, own_sock, screen);
    seat.screen.line(format_args!("Joined {} on {} as {}", args.group, udp::LO, args.name));
    let (mut typed, mut buffer) = (LineSplitter::default(), vec![0; BUFFER_SIZE]);
    loop {
        seat.tick()?;
        if seat.is_over() {
            break;
        }
        seat.screen.settle();
        let input = stdin();
        let mut watched = vec![stop.as_fd(), group_sock.as_fd(), seat.own_sock.as_fd()];
        if seat.leave_by.is_none() && seat.waiting.len() < LINES_LIMIT {
            watched.push(input.as_fd());
        }
        let mut fds: Vec<PollFd> = watched.into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match poll(&mut fds, PollTimeout::try_from(seat.settings.tick())?) {
            Err(Errno::EINTR) => continue,
            result => result.at("poll", "")?,
        };
        let ready: Vec<bool> = fds.iter().map(|fd| fd.revents().is_some_and(|events| !events.is_empty())).collect();
        if ready[0] {
            stop.take();
            seat.leave(true);
        }
        if ready.get(3) == Some(&true) {
            seat.input(&mut typed, &mut buffer);
            seat.say_what_waits()?;
        }
        if ready[1] {
            for _ in 0..AT_ONCE {
                let Some((bytes_read, peer_addr)) = udp::receive(&group_sock, &mut buffer)? else { break };
                seat.hear(&buffer[..bytes_read], peer_addr)?;
            }
        }
        if ready[2] {
            for _ in 0..AT_ONCE {
                let Some((bytes_read, peer_addr)) = udp::receive(&seat.own_sock, &mut buffer)? else { break };
                seat.serve(&buffer[..bytes_read], peer_addr)?;
            }
        }
    }
    udp::send(&seat.own_sock, &Datagram::Leave { from: seat.member.id() }.bytes(), args.group)?;
    seat.screen.ask_nothing();
    seat.screen.line("* goodbye");
    drop(group_sock); // close(2): the kernel leaves the group
    drop(seat.own_sock);
    Ok(())
}

/// A member, its keyboard and its screen.
struct Seat<'a> {
    args: &'a MemberArgs,
    settings: Settings,
    member: Member,
    own_sock: Socket,
    screen: Screen,
    started: Instant,
    losses: SplitMix64,
    /// Names of members; those of the dead, too.
    names: BTreeMap<Id, String>,
    waiting: VecDeque<String>,
    /// The last text of each client, by its number.
    clients: HashMap<SocketAddrV4, u32>,
    settled: bool,
    /// Set once it leaves.
    leave_by: Option<Instant>,
    /// A second Ctrl-C.
    at_once: bool,
}

impl<'a> Seat<'a> {
    fn new(args: &'a MemberArgs, own_sock: Socket, mut screen: Screen) -> Self {
        let mut settings = Settings::new(args.order, heartbeat(args.heartbeat));
        settings.repair = !args.no_repair;
        screen.ask("> ");
        Seat {
            args,
            settings,
            member: Member::new(fresh_id(), &args.name, settings, Duration::ZERO),
            own_sock,
            screen,
            started: Instant::now(),
            losses: SplitMix64::new(args.seed),
            names: BTreeMap::new(),
            waiting: VecDeque::new(),
            clients: HashMap::new(),
            settled: false,
            leave_by: None,
            at_once: false,
        }
    }

    fn tick(&mut self) -> Result<()> {
        self.member.tick(self.started.elapsed());
        if !self.settled && self.member.is_settled() {
            self.settled = true;
            self.screen.line(format_args!("* {} is in the group", self.args.name));
        }
        self.say_what_waits()
    }

    /// Says the lines that were typed, once the group has taken this member in.
    fn say_what_waits(&mut self) -> Result<()> {
        while self.settled
            && let Some(line) = self.waiting.pop_front()
        {
            self.member.say(&line, self.started.elapsed());
            self.after()?;
        }
        self.after()
    }

    /// What came to the group.
    fn hear(&mut self, bytes: &[u8], peer_addr: SocketAddrV4) -> Result<()> {
        let Some(datagram) = Datagram::read(bytes) else { return Ok(()) };
        if self.losses.draw() % 100 < self.args.loss.into() {
            return Ok(()); // as if the network had lost it
        }
        if let Datagram::Find { token } = datagram {
            let here = Datagram::Here { token, name: self.args.name.clone() };
            return if self.settled { udp::send(&self.own_sock, &here.bytes(), peer_addr) } else { Ok(()) };
        }
        if let Datagram::Alive(alive) = &datagram {
            self.names.insert(alive.from, alive.name.clone());
        }
        self.member.hear(&datagram, self.started.elapsed());
        self.after()
    }

    /// What a client sent to this member alone.
    fn serve(&mut self, bytes: &[u8], client_addr: SocketAddrV4) -> Result<()> {
        let Some(Datagram::Post { number, text }) = Datagram::read(bytes) else { return Ok(()) };
        if self.clients.get(&client_addr).is_none_or(|last| *last < number) {
            if self.waiting.len() >= LINES_LIMIT || self.leave_by.is_some() {
                return Ok(()); // no room: the client asks again, or somebody else
            }
            if self.clients.len() >= CLIENTS_LIMIT {
                self.clients.clear();
            }
            self.clients.insert(client_addr, number);
            self.waiting.push_back(text);
            self.say_what_waits()?;
        }
        let posted = Datagram::Posted { number, name: self.args.name.clone() };
        udp::send(&self.own_sock, &posted.bytes(), client_addr)
    }

    fn name(&self, id: Id) -> String {
        if id == self.member.id() {
            return self.args.name.clone();
        }
        self.names.get(&id).cloned().unwrap_or_else(|| format!("#{id}"))
    }

    /// Sends what the member has to send, and shows what it has to tell.
    fn after(&mut self) -> Result<()> {
        for event in self.member.take_events() {
            let told = match event {
                Event::Delivered(item) => format!("{}: {}", self.name(item.from), escaped(item.text.as_bytes())),
                Event::Here(id) => format!("* {} is here", self.name(id)),
                Event::Dead(id, 0) => format!("* {} is dead, say others", self.name(id)),
                Event::Dead(id, beats) => format!("* {} is dead: silent for {beats} heartbeats", self.name(id)),
                Event::Left(id) => format!("* {} has left", self.name(id)),
                Event::View(id, members) => format!("* sequencer {}, members {members}", self.name(id)),
                Event::Excluded => {
                    let id = fresh_id();
                    self.member = Member::new(id, &self.args.name, self.settings, self.started.elapsed());
                    self.settled = false;
                    "* the others have declared me dead: I come back as a new member".into()
                }
            };
            self.screen.line(told);
        }
        for datagram in self.member.take_out() {
            udp::send(&self.own_sock, &datagram.bytes(), self.args.group)?;
        }
        Ok(())
    }

    /// Reads what was typed.
    fn input(&mut self, typed: &mut LineSplitter, buffer: &mut [u8]) {
        let (lines, ended) = match read(stdin(), buffer) {
            Err(Errno::EINTR | Errno::EAGAIN) => return,
            Ok(0) | Err(_) => (typed.rest().into_iter().collect(), true),
            Ok(bytes_read) => (typed.push(&buffer[..bytes_read]), false),
        };
        if !ended {
            self.screen.typed(); // Ctrl-D leaves the cursor where it is
        }
        for line in lines {
            match line {
                Line::Text(text) if text.is_empty() => {}
                Line::Text(text) => self.waiting.push_back(text),
                Line::TooLong => self.screen.line(format_args!("* not said: more than {TEXT_LIMIT} bytes")),
                Line::NotUtf8(at) => self.screen.line(format_args!("* not said: not UTF-8 from byte {at} on")),
            }
        }
        if ended {
            self.leave(false);
        }
    }

    /// No more lines. A second time: at once.
    fn leave(&mut self, signal: bool) {
        self.at_once = signal && self.leave_by.is_some();
        self.leave_by.get_or_insert(Instant::now() + GOODBYE_LIMIT);
        self.screen.ask_nothing();
    }

    /// It has left: all it said is with the others, or it has waited long enough.
    fn is_over(&mut self) -> bool {
        let Some(leave_by) = self.leave_by else { return false };
        let heard = self.waiting.is_empty() && (self.member.is_heard() || !self.settled);
        if !heard && Instant::now() >= leave_by {
            self.screen.line("* some have perhaps not heard my last text");
        }
        heard || self.at_once || Instant::now() >= leave_by
    }
}
