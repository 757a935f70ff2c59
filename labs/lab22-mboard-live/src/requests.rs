//! What a client may ask, and what it is answered.

use board::{Board, Code, Message, Request, now};
use shared::escaped;

use crate::{
    frames::FRAME_LIMIT,
    room::Room,
    wire::{Live, REPLACED},
};

/// More of a message is not shown.
const SHOWN: usize = 60;

impl Room<'_> {
    /// Answers one request.
    pub fn ask(&mut self, at: usize, request: &[u8]) {
        let Room { clients, board, marks, screen, .. } = self;
        let client = &mut clients[at];
        let name = client.name.clone().unwrap_or_default();
        let answer = match (Live::parse(request), Request::parse(request)) {
            (Some(Ok(Live::Tell { mark, name })), _) => return self.enter(at, mark, name),
            (Some(Ok(Live::Have { id })), _) => {
                let id = id.min(client.told.unwrap_or(0)); // no client has what it was not told
                marks.confirm(&name, id);
                return screen.line(format_args!("{client} has all up to {id}"));
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
        self.screen.line(format_args!("{client} is here; messages to tell: {missed}"));
    }
}

/// The messages newer than this one, the oldest first.
pub fn after(board: &Board, id: u64) -> &[Message] {
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
