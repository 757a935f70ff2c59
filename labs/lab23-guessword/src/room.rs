//! The clients the server knows, and the one state that they share: one line changes it at a time, and all hear of it.

use std::{net::SocketAddr, time::Instant};

use nix::{errno::Errno, poll::PollFlags};
use shared::{Pause, Screen, escaped};
use socket2::Socket;

use crate::{
    connection::{Connection, Received},
    lines::{LINE_LIMIT, Line},
    outbox::OUTBOX_LIMIT,
    state::State,
    wire::{NOTICE, check_name},
};

/// What a client hears that is one too many.
pub const REFUSAL: &str = "! Server rejected due to too many clients";
/// So many refused and leaving connections are waited for at one time; one more is closed at once.
const MOST_CLOSING: usize = 64;

/// All connections, the state, and the screen they are shown on.
pub struct Room<'a, S> {
    pub clients: Vec<Connection>,
    pub max_clients: usize,
    pub state: S,
    pub screen: Screen,
    pub pause: Pause<'a>,
}

impl<S: State> Room<'_, S> {
    /// Lets a client in, or tells that client why not.
    pub fn enter(&mut self, conn_sock: Socket, peer_addr: SocketAddr) {
        let inside = self.clients.iter().filter(|client| client.is_in()).count();
        let mut client = Connection::new(conn_sock, peer_addr);
        if inside < self.max_clients {
            self.screen.line(format_args!("> New connection [{peer_addr}]"));
            self.clients.push(client);
            return;
        }
        self.screen.line(format_args!("> Rejected [{peer_addr}]: {inside} clients are in"));
        if client.refuse(REFUSAL).is_ok() && self.clients.len() - inside < MOST_CLOSING {
            self.clients.push(client);
        }
    }

    /// Reads from and sends to the client at this place, as poll found it ready.
    pub fn serve(&mut self, at: usize, events: PollFlags, buffer: &mut [u8]) {
        if events.intersects(!PollFlags::POLLOUT) {
            let client = &mut self.clients[at];
            self.pause.before(&mut self.screen, format_args!("recv({}, {})", client.fd(), buffer.len()));
            match client.receive(buffer) {
                Ok(Received::Lines(lines)) => lines.into_iter().for_each(|line| self.hear(at, line)),
                Ok(Received::End(cut)) => self.end(at, cut.is_some()),
                Err(errno) => self.lose(at, errno),
            }
        }
        self.flush();
    }

    /// One line of a client: its name, or what changes the state.
    fn hear(&mut self, at: usize, line: Line) {
        let client = &self.clients[at];
        if !client.is_in() {
            return; // dropped meanwhile, or refused
        }
        let (peer_addr, name) = (client.peer_addr, client.name.clone());
        let text = match line {
            Line::Text(text) => text,
            faulty => return self.object(at, &format!("your line was thrown away: {}", fault(&faulty))),
        };
        let Some(name) = name else {
            let taken = self.clients.iter().any(|client| client.name.as_deref() == Some(text.as_str()));
            return match check_name(&text) {
                Err(why) => self.object(at, &why),
                Ok(()) if taken => self.object(at, &format!("there is a player {text} already: another name")),
                Ok(()) => self.join(at, text),
            };
        };
        match self.state.say(&name, &text) {
            Ok(events) => {
                for event in events {
                    if S::LOGGED {
                        self.screen.line(format_args!("> [{peer_addr}] {event}"));
                    }
                    self.tell_all(&event);
                }
            }
            Err(why) => {
                if S::LOGGED {
                    self.screen.line(format_args!("> [{peer_addr}] {name} {}: {why}", escaped(text.as_bytes())));
                }
                self.object(at, &why);
            }
        }
    }

    /// A client has said its name: the others hear of it, and it hears how things stand.
    fn join(&mut self, at: usize, name: String) {
        let joined = self.state.join(&name);
        self.screen.line(format_args!("> [{}] {}", self.clients[at].peer_addr, joined.event));
        self.tell_all(&joined.event);
        self.clients[at].name = Some(name);
        let told = self.clients[at].say(&joined.now);
        self.check(at, told);
    }

    /// A notice for one client alone.
    fn object(&mut self, at: usize, why: &str) {
        let told = self.clients[at].say(&format!("{NOTICE}{why}"));
        self.check(at, told);
    }

    /// One event for all who have said their names. It is only queued here, so a client that does not read delays nobody.
    fn tell_all(&mut self, event: &str) {
        for at in 0..self.clients.len() {
            let client = &mut self.clients[at];
            if client.is_in() && client.name.is_some() {
                let told = client.say(event);
                self.check(at, told);
            }
        }
    }

    /// Whether a client could be told; if not, it is dropped.
    fn check(&mut self, at: usize, told: nix::Result<bool>) {
        match told {
            Ok(true) => {}
            Ok(false) => {
                let (peer_addr, limit) = (self.clients[at].peer_addr, OUTBOX_LIMIT / 1024);
                self.screen.line(format_args!("> Dropped client [{peer_addr}]: it does not read; {limit} KiB wait"));
                self.clients[at].give_up();
                self.part(at);
            }
            Err(errno) => self.lose(at, errno),
        }
    }

    /// Sends what waits, to everybody.
    fn flush(&mut self) {
        for at in 0..self.clients.len() {
            if !self.clients[at].waits_to_be_sent() {
                continue;
            }
            if let Err(errno) = self.clients[at].flush() {
                self.lose(at, errno);
            }
        }
    }

    /// The client has closed its sending side. Half a line has no meaning, so it changes nothing.
    fn end(&mut self, at: usize, cut: bool) {
        let client = &mut self.clients[at];
        if client.is_in() {
            let remark = if cut { " (its last line has no end, and does not count)" } else { "" };
            self.screen.line(format_args!("> Closing connection for client [{}]{remark}...", client.peer_addr));
            client.leave().unwrap_or_else(|_| client.give_up());
            self.part(at);
        }
    }

    fn lose(&mut self, at: usize, errno: Errno) {
        let client = &mut self.clients[at];
        if client.is_in() {
            let (peer_addr, number, text) = (client.peer_addr, errno as i32, errno.desc());
            self.screen.line(format_args!("> Lost client [{peer_addr}]: {errno:?} ({number}) {text}"));
        }
        client.give_up();
        self.part(at);
    }

    /// The others hear that a client has gone; its name is free again.
    fn part(&mut self, at: usize) {
        if let Some(name) = self.clients[at].name.take() {
            let event = self.state.leave(&name);
            self.screen.line(format_args!("> [{}] {event}", self.clients[at].peer_addr));
            self.tell_all(&event);
        }
    }

    /// Ctrl-C: FIN to all clients. What they still send is read until they close, too, or until the deadline.
    pub fn say_goodbye(&mut self) {
        for client in self.clients.iter_mut().filter(|client| client.is_in()) {
            self.screen.line(format_args!("> Closing connection for client [{}]...", client.peer_addr));
            client.leave().unwrap_or_else(|_| client.give_up());
        }
    }

    /// When poll has to wake up at the latest, because the deadline of a connection has passed.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.clients.iter().filter_map(Connection::close_by).min()
    }

    /// Closes and forgets the connections that are over.
    pub fn close_those_over(&mut self) {
        self.clients.retain(|client| !client.is_over()); // close(2)
    }
}

/// What is wrong with a line that is no text.
pub fn fault(line: &Line) -> String {
    match line {
        Line::NotUtf8(at) => format!("not UTF-8 from byte {at} on"),
        Line::TooLong | Line::Text(_) => format!("longer than {LINE_LIMIT} bytes"),
    }
}
