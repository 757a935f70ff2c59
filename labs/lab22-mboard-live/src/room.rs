//! The board and the clients around it: who asks, who is told what.

use std::time::{Duration, Instant};

use board::{Board, Code};
use nix::poll::PollFlags;
use shared::{Pause, Screen};

use crate::{connection::Connection, marks::Marks, requests::after, wire::told};

/// So many frames of one client before the others have their turn.
const TURNS: usize = 64;

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
    pub fn part(&mut self, at: usize, why: &str) {
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
