//! The board and the clients around it: who asks, who is told what.

use std::time::{Duration, Instant};

use board::{Board, Code, Message, Request, now};
use nix::poll::PollFlags;
use shared::{Pause, Screen, escaped};

use crate::{
    connection::Connection,
    frames::FRAME_LIMIT,
    marks::Marks,
    wire::{Live, REPLACED, told},
};

/// So many frames of one client before the others have their turn.
const TURNS: usize = 64;
/// More of a message is not shown.
const SHOWN: usize = 60;

/// All connections, and what they look at.
pub struct Room<'a> {
    pub clients: Vec<Connection>,
    pub board: Board,
    pub marks: Marks,
    /// Something was published, and not everybody was told yet.
    pub news: bool,
    /// A client that takes nothing for so long is dropped.
    pub patience: Duration,
    pub screen: Screen,
    pub pause: Pause<'a>,
}

impl Room<'_> {
    /// Reads from and sends to the client at this place, as poll found it ready.
    pub fn serve(&mut self, at: usize, events: PollFlags, buffer: &mut [u8]) {
        let client = &mut self.clients[at];
        let mut done = Ok(());
        if events.intersects(!PollFlags::POLLOUT) {
            self.pause.before(&mut self.screen, format_args!("recv({}, {})", client.fd(), buffer.len()));
            done = client.receive(buffer);
        }
        if let Err(errno) = done {
            return self.lose(at, &format!("recv: {errno:?} ({})", errno.desc()));
        }
        self.answer(at);
        self.tell(at);
        let client = &mut self.clients[at];
        if client.end_seen && client.is_in() && client.has_room() && !client.more {
            let cut = match client.cut_bytes() {
                0 => String::new(),
                bytes => format!(", {bytes} bytes of a request before it: thrown away"),
            };
            self.part(at, &format!("end of stream{cut}"));
        }
    }

    /// Answers the requests that are there, while there is room for answers: who does not read is not read from.
    fn answer(&mut self, at: usize) {
        for _ in 0..TURNS {
            self.flush(at);
            if !self.clients[at].has_room() {
                return;
            }
            match self.clients[at].next_request() {
                Ok(Some(request)) => self.ask(at, &request),
                Ok(None) => return self.clients[at].more = false,
                Err(bad) => {
                    self.clients[at].say(&Code::BadFormat.reply());
                    return self.part(at, &format!("what came is no frame: {bad:?}"));
                }
            }
        }
        self.clients[at].more = true;
    }

    fn ask(&mut self, at: usize, request: &[u8]) {
        let Room { clients, board, marks, screen, .. } = self;
        let client = &mut clients[at];
        let name = client.name.clone().unwrap_or_default();
        let answer = match (Live::parse(request), Request::parse(request)) {
            (Some(Ok(Live::Tell { mark, name })), _) => return self.enter(at, mark, name),
            (Some(Ok(Live::Have { id })), _) => {
                let id = id.min(client.told.unwrap_or(0)); // no client has what it was not told
                if marks.confirm(&name, id) {
                    screen.line(format_args!("{client} has all up to {id}"));
                }
                return;
            }
            (Some(Err(code)), _) | (None, Err(code)) => Ok(code.reply()),
            (None, Ok(Request::Publish { text })) => board.publish(client.peer_addr, now(), text).map(|id| {
                self.published(at, &name, id, text);
                Code::Ok.reply()
            }),
            (None, Ok(Request::PublishOnce { request_id, text })) => {
                board.publish_once(client.peer_addr, now(), request_id, text).map(|id| {
                    id.into_iter().for_each(|id| self.published(at, &name, id, text));
                    Code::Ok.reply()
                })
            }
            (None, Ok(request)) => board.carry_out(&request, client.peer_addr, now()),
        };
        match answer {
            Ok(answer) if answer.len() <= FRAME_LIMIT => self.clients[at].say(&answer),
            Ok(_) => self.clients[at].say(&Code::BadFormat.reply()), // ask for fewer
            Err(error) => self.part(at, &format!("not published, so not answered: {error:#}")),
        }
    }

    fn published(&mut self, at: usize, name: &str, id: u64, text: &[u8]) {
        self.marks.published(name, id);
        self.news = true;
        self.screen.line(format_args!("{} publishes {id}: {}", self.clients[at], shown(text)));
    }

    /// A client says its name, and which messages it has. Whoever had the name before has to go.
    fn enter(&mut self, at: usize, mark: u64, name: &str) {
        let older = self.clients.iter().enumerate();
        let older =
            older.filter(|(place, client)| *place != at && client.is_in() && client.name.as_deref() == Some(name));
        for place in older.map(|(place, _)| place).collect::<Vec<_>>() {
            self.clients[place].say(REPLACED);
            self.part(place, "a newer connection has this name");
        }
        // A mark of another board, from before the server lost its messages, says nothing.
        let mark = if self.board.get(mark).is_some() { mark } else { 0 };
        let is_here = |name: &str| self.clients.iter().any(|client| client.name.as_deref() == Some(name));
        let mark = self.marks.enter(name, mark, is_here);
        let missed = after(&self.board, mark).iter().filter(|message| !self.marks.is_own(name, message.id)).count();
        let client = &mut self.clients[at];
        (client.name, client.told) = (Some(name.into()), Some(mark));
        client.say(&[&Code::Ok.reply()[..], missed.to_string().as_bytes()].concat());
        self.screen.line(format_args!("{client} is here; {missed} messages to tell"));
    }

    /// Something was published: all are told, each as far as the kernel takes it.
    pub fn tell_all(&mut self) {
        self.news = false;
        (0..self.clients.len()).for_each(|at| self.tell(at));
    }

    /// Queues and sends what this client was not told yet.
    fn tell(&mut self, at: usize) {
        for _ in 0..TURNS {
            self.flush(at);
            let Room { clients, board, marks, .. } = self;
            let client = &mut clients[at];
            let (Some(last), Some(name)) = (client.told, &client.name) else { return };
            if !client.is_in() || !client.has_room() {
                return;
            }
            let Some(next) = after(board, last).first() else { return };
            if marks.is_own(name, next.id) {
                marks.pass(name, last, next.id);
            } else {
                client.say(&told(next));
            }
            client.told = Some(next.id);
        }
        self.flush(at);
        self.clients[at].more = true;
    }

    fn flush(&mut self, at: usize) {
        if let Err(errno) = self.clients[at].flush() {
            self.lose(at, &format!("send: {errno:?} ({})", errno.desc()));
        }
    }

    /// Parts from a client in good order.
    fn part(&mut self, at: usize, why: &str) {
        if self.clients[at].is_in() {
            self.screen.line(format_args!("{} is gone: {why}", self.clients[at]));
            self.clients[at].leave();
        }
    }

    /// Closes with a reset: nothing that is sent would arrive.
    fn lose(&mut self, at: usize, why: &str) {
        if self.clients[at].is_in() {
            self.screen.line(format_args!("{} is gone: {why}", self.clients[at]));
        }
        self.clients[at].give_up();
    }

    /// Ctrl-C: FIN to all clients. What they still send is read until they close, too, or until the deadline.
    pub fn say_goodbye(&mut self) {
        (0..self.clients.len()).for_each(|at| self.part(at, "the server stops"));
    }

    /// When poll has to wake up at the latest.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.clients.iter().filter_map(|client| client.deadline(self.patience)).min()
    }

    /// Drops the clients that take nothing; closes and forgets the connections that are over.
    pub fn close_those_over(&mut self) {
        for at in 0..self.clients.len() {
            if self.clients[at].is_stuck(self.patience) {
                self.lose(at, &format!("has read nothing for {:?}", self.patience));
            }
        }
        self.clients.retain(|client| !client.is_over()); // close(2)
    }
}

/// The messages newer than this one, the oldest first.
fn after(board: &Board, id: u64) -> &[Message] {
    let messages = board.last(0);
    &messages[messages.partition_point(|message| message.id <= id)..]
}

/// The beginning of a message, as a terminal can show it.
fn shown(bytes: &[u8]) -> String {
    match bytes.len().checked_sub(SHOWN) {
        None | Some(0) => escaped(bytes),
        Some(more) => format!("{}... and {more} bytes more", escaped(&bytes[..SHOWN])),
    }
}
