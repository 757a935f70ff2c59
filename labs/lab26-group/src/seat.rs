//! A member of the group with its keyboard, its screen and its clock: what came is heard, what is due is sent.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    io::stdin,
    net::SocketAddrV4,
    time::{Duration, Instant},
};

use anyhow::Result;
use nix::{errno::Errno, unistd::read};
use shared::{Screen, SplitMix64, escaped};
use socket2::Socket;

use crate::{
    MemberArgs, fresh_id,
    group::{Datagram, Event, Id, Member, Settings, wire::TEXT_LIMIT},
    heartbeat,
    lines::{Line, LineSplitter},
    udp,
};

/// A member that leaves waits so long for others who ask for what it said last.
const GOODBYE_LIMIT: Duration = Duration::from_secs(2);
/// So many lines may wait until the group has taken this member in; the keyboard waits for the rest.
const LINES_LIMIT: usize = 100;
/// So many names are remembered.
const NAMES_LIMIT: usize = 2000;
/// Of so many clients the last number is remembered, so that no text is said twice.
const CLIENTS_LIMIT: usize = 1000;

/// A member, its keyboard and its screen.
pub struct Seat<'a> {
    args: &'a MemberArgs,
    pub settings: Settings,
    pub member: Member,
    pub own_sock: Socket,
    pub screen: Screen,
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
    pub fn new(args: &'a MemberArgs, own_sock: Socket, mut screen: Screen) -> Self {
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

    pub fn tick(&mut self) -> Result<()> {
        self.member.tick(self.started.elapsed());
        if !self.settled && self.member.is_settled() {
            self.settled = true;
            self.screen.line(format_args!("* {} is in the group", self.args.name));
        }
        self.say_what_waits()
    }

    /// Says the lines that were typed, once the group has taken this member in.
    pub fn say_what_waits(&mut self) -> Result<()> {
        while self.settled
            && let Some(line) = self.waiting.pop_front()
        {
            self.member.say(&line, self.started.elapsed());
            self.after()?;
        }
        self.after()
    }

    /// What came to the group.
    pub fn hear(&mut self, bytes: &[u8], peer_addr: SocketAddrV4) -> Result<()> {
        let Some(datagram) = Datagram::read(bytes) else { return Ok(()) };
        if self.losses.draw() % 100 < self.args.loss.into() {
            return Ok(()); // as if the network had lost it
        }
        if let Datagram::Find { token } = datagram {
            let here = Datagram::Here { token, name: self.args.name.clone() };
            return if self.settled { udp::send(&self.own_sock, &here.bytes(), peer_addr) } else { Ok(()) };
        }
        if let Datagram::Alive(alive) = &datagram {
            if self.names.len() >= NAMES_LIMIT {
                self.names.clear(); // the next heartbeats bring those of the living
            }
            self.names.insert(alive.from, alive.name.clone());
        }
        self.member.hear(&datagram, self.started.elapsed());
        self.after()
    }

    /// What a client sent to this member alone.
    pub fn serve(&mut self, bytes: &[u8], client_addr: SocketAddrV4) -> Result<()> {
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

    /// Sends what the member has to send, and then shows what it has to tell: what is shown has been sent.
    fn after(&mut self) -> Result<()> {
        for datagram in self.member.take_out() {
            udp::send(&self.own_sock, &datagram.bytes(), self.args.group)?;
        }
        for event in self.member.take_events() {
            let told = match event {
                Event::Delivered(item) => format!("{}: {}", self.name(item.from), escaped(item.text.as_bytes())),
                Event::Here(id) => format!("* {} is here", self.name(id)),
                Event::Dead(id, 0) if !self.names.contains_key(&id) => continue, // it was gone before this member came
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
        Ok(())
    }

    /// Reads what was typed.
    pub fn input(&mut self, typed: &mut LineSplitter, buffer: &mut [u8]) {
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
    pub fn leave(&mut self, signal: bool) {
        self.at_once = signal && self.leave_by.is_some();
        self.leave_by.get_or_insert(Instant::now() + GOODBYE_LIMIT);
        self.screen.ask_nothing();
    }

    /// A line can be taken.
    pub fn wants_lines(&self) -> bool {
        self.leave_by.is_none() && self.waiting.len() < LINES_LIMIT
    }

    /// It has left: all it said is with the others, or it has waited long enough.
    pub fn is_over(&mut self) -> bool {
        let Some(leave_by) = self.leave_by else { return false };
        let heard = self.waiting.is_empty() && (self.member.is_heard() || !self.settled);
        if !heard && Instant::now() >= leave_by {
            self.screen.line("* some have perhaps not heard my last text");
        }
        heard || self.at_once || Instant::now() >= leave_by
    }
}
