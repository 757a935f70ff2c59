//! The server's end: all sessions, each bound to its client's address, each with an assembly buffer of its own.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    time::Duration,
};

use super::{
    Assembly, Outgoing, Taken, Timing,
    wire::{Datagram, Refusal},
};

/// What a server allows.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Sessions at the same time.
    pub sessions: usize,
    /// Bytes of one request.
    pub message: usize,
    /// Bytes that all requests and answers of all sessions may take.
    pub memory: usize,
    /// A session is forgotten after this time without a datagram of its client.
    pub idle: Duration,
    /// When to repeat a block of an answer.
    pub timing: Timing,
}

/// What the program is told.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A client has a session.
    Opened { session: u32, client: SocketAddr },
    /// A request is whole: now it counts as received from this client. It wants an answer.
    Whole { session: u32, client: SocketAddr, request: Vec<u8>, again: u32 },
    /// The client has its answer.
    Ended { session: u32 },
    /// Forgotten: its client said nothing, or did not confirm the answer; with so many bytes of its request.
    Freed { session: u32, bytes: usize },
    /// Refused, and the sender was told.
    Refused { id: u32, from: SocketAddr, why: Refusal },
}

#[derive(Debug)]
struct Session {
    client: SocketAddr,
    token: u32,
    window: u32,
    request: Assembly,
    answer: Option<Outgoing>,
    /// When its client was last heard.
    heard: Duration,
    /// What it has of the common memory.
    held: usize,
}

/// All sessions of a server.
pub struct Sessions {
    limits: Limits,
    /// Draws a session's number: random, so that no old one is met again, and nobody guesses it.
    draw: Box<dyn FnMut() -> u32>,
    sessions: BTreeMap<u32, Session>,
    /// A client that asks again, because the reply was lost, gets the same session.
    opened: HashMap<(SocketAddr, u32), u32>,
    held: usize,
    outbox: Vec<(SocketAddr, Vec<u8>)>,
}

impl Sessions {
    pub fn new(limits: Limits, draw: impl FnMut() -> u32 + 'static) -> Self {
        let (sessions, opened) = (BTreeMap::new(), HashMap::new());
        Sessions { limits, draw: Box::new(draw), sessions, opened, held: 0, outbox: Vec::new() }
    }

    /// How many sessions there are, and how many bytes they hold.
    pub fn held(&self) -> (usize, usize) {
        (self.sessions.len(), self.held)
    }

    /// Takes a datagram.
    pub fn hear(&mut self, from: SocketAddr, datagram: &[u8], now: Duration) -> Option<Event> {
        match Datagram::parse(datagram)? {
            Datagram::Open { token, window } => self.open(from, token, window, now),
            Datagram::Block { session, number, last, bytes } => self.block(from, session, number, last, bytes, now),
            Datagram::Confirm { session, number, next } => match self.of(from, session, now) {
                Ok(found) => {
                    if let Some(answer) = &mut found.answer {
                        answer.confirm(number, next);
                    }
                    None
                }
                Err(Refusal::Address) => self.refuse(from, session, Refusal::Address),
                Err(_) => None, // a late double: its session has ended, and nobody waits for an answer
            },
            Datagram::End { session } => match self.of(from, session, now) {
                Err(Refusal::Address) => self.refuse(from, session, Refusal::Address),
                found => {
                    let ended = found.is_ok();
                    self.forget(session);
                    self.send(from, Datagram::End { session }); // also again: the first may be lost
                    ended.then_some(Event::Ended { session })
                }
            },
            Datagram::Session { .. } | Datagram::Refused { .. } => None, // only a server says so
        }
    }

    fn open(&mut self, from: SocketAddr, token: u32, window: u32, now: Duration) -> Option<Event> {
        if let Some(session) = self.opened.get(&(from, token)).copied() {
            self.send(from, Datagram::Session { token, session });
            return None;
        }
        if self.sessions.len() >= self.limits.sessions {
            return self.refuse(from, token, Refusal::Full);
        }
        let session = loop {
            let drawn = (self.draw)();
            if drawn != 0 && !self.sessions.contains_key(&drawn) {
                break drawn;
            }
        };
        let request = Assembly::new(self.limits.message);
        let new = Session { client: from, token, window, request, answer: None, heard: now, held: 0 };
        self.sessions.insert(session, new);
        self.opened.insert((from, token), session);
        self.send(from, Datagram::Session { token, session });
        Some(Event::Opened { session, client: from })
    }

    fn block(
        &mut self,
        from: SocketAddr,
        session: u32,
        number: u32,
        last: bool,
        bytes: &[u8],
        now: Duration,
    ) -> Option<Event> {
        let room = self.limits.memory.saturating_sub(self.held);
        let found = match self.of(from, session, now) {
            Ok(found) => found,
            Err(why) => return self.refuse(from, session, why),
        };
        if bytes.len() > room && found.answer.is_none() {
            self.forget(session);
            return self.refuse(from, session, Refusal::Full);
        }
        let taken = found.request.take(number, last, bytes);
        let next = found.request.next();
        let again = found.request.again;
        match taken {
            Taken::Refused => None,
            Taken::TooLong => {
                self.forget(session);
                self.refuse(from, session, Refusal::Long)
            }
            Taken::Again => {
                self.send(from, Datagram::Confirm { session, number, next });
                None
            }
            Taken::New => {
                let whole = found.request.hand_out();
                let held = found.request.held();
                self.hold(session, held);
                self.send(from, Datagram::Confirm { session, number, next });
                whole.map(|request| Event::Whole { session, client: from, request, again })
            }
        }
    }

    /// Sends the answer to a request, block by block.
    pub fn answer(&mut self, session: u32, answer: Vec<u8>) -> Option<Event> {
        let room = self.limits.memory.saturating_sub(self.held);
        let found = self.sessions.get_mut(&session)?;
        if answer.len() > room {
            return self.no_answer(session);
        }
        let answer = Outgoing::new(answer, found.window, self.limits.timing);
        let held = answer.held();
        found.answer = Some(answer);
        self.hold(session, held);
        None
    }

    /// Ends a session whose request cannot be answered.
    pub fn no_answer(&mut self, session: u32) -> Option<Event> {
        let gone = self.forget(session)?;
        self.refuse(gone.client, session, Refusal::Full)
    }

    /// The session, if it is this client's.
    fn of(&mut self, from: SocketAddr, session: u32, now: Duration) -> Result<&mut Session, Refusal> {
        let found = self.sessions.get_mut(&session).ok_or(Refusal::Unknown)?;
        if found.client != from {
            return Err(Refusal::Address);
        }
        found.heard = now;
        Ok(found)
    }

    fn hold(&mut self, session: u32, bytes: usize) {
        if let Some(found) = self.sessions.get_mut(&session) {
            self.held = self.held - found.held + bytes;
            found.held = bytes;
        }
    }

    fn forget(&mut self, session: u32) -> Option<Session> {
        let gone = self.sessions.remove(&session)?;
        self.opened.remove(&(gone.client, gone.token));
        self.held -= gone.held;
        Some(gone)
    }

    fn refuse(&mut self, from: SocketAddr, id: u32, why: Refusal) -> Option<Event> {
        self.send(from, Datagram::Refused { id, why });
        Some(Event::Refused { id, from, why })
    }

    fn send(&mut self, to: SocketAddr, datagram: Datagram) {
        self.outbox.push((to, datagram.bytes()));
    }

    /// What to send now and to whom, and which sessions were forgotten.
    pub fn due(&mut self, now: Duration) -> (Vec<(SocketAddr, Vec<u8>)>, Vec<Event>) {
        let mut due = std::mem::take(&mut self.outbox);
        let mut dead = Vec::new();
        for (session, found) in &mut self.sessions {
            if now >= found.heard + self.limits.idle {
                dead.push(*session);
                continue;
            }
            let Some(answer) = &mut found.answer else { continue };
            match answer.due(now) {
                Some(numbers) => {
                    due.extend(numbers.into_iter().map(|number| (found.client, answer.datagram(*session, number))));
                }
                None => dead.push(*session), // it does not confirm: gone
            }
        }
        let freed = |session| {
            let bytes = self.forget(session)?.held;
            Some(Event::Freed { session, bytes })
        };
        (due, dead.into_iter().filter_map(freed).collect())
    }

    /// When to call [`Sessions::due`] again, if nothing comes before; `None`: no session, nothing to do.
    pub fn deadline(&self) -> Option<Duration> {
        if !self.outbox.is_empty() {
            return Some(Duration::ZERO);
        }
        let of = |found: &Session| {
            let idle = found.heard + self.limits.idle;
            let answer = found.answer.as_ref();
            // An answer of which nothing was sent yet is due at once.
            let repeat = answer.and_then(|answer| answer.deadline().or((!answer.is_sent()).then_some(Duration::ZERO)));
            repeat.map_or(idle, |repeat| repeat.min(idle))
        };
        self.sessions.values().map(of).min()
    }
}
