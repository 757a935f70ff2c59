//! The client's side of the conversation, whatever becomes of a connection: what was typed and is not confirmed, what was
//! shown.

use std::{collections::VecDeque, io::stdin, net::SocketAddr, time::Instant};

use board::{Message, reply};
use nix::{errno::Errno, unistd::read};
use shared::{Pause, Screen, escaped};

use crate::{
    link::Link,
    pauses::{Pauses, random},
    typed::{LINE_LIMIT, Typed},
};

/// What outlives a connection.
pub struct Client<'a> {
    pub name: String,
    pub server_addr: SocketAddr,
    /// The newest message that was shown.
    pub mark: u64,
    /// Typed and not confirmed, the oldest first, each with its request id: after a reconnect it is asked again, and done once.
    pub pending: VecDeque<(u64, Vec<u8>)>,
    /// To try again would not help: a newer connection has this client's name, or the server is no live board.
    pub gives_up: bool,
    pub screen: Screen,
    pub pause: Pause<'a>,
}

impl Client<'_> {
    pub fn give_up(&mut self, why: String) -> Result<(), String> {
        self.gives_up = true;
        Err(why)
    }

    pub fn greet(&mut self, new: u64) {
        let (name, addr) = (escaped(self.name.as_bytes()), self.server_addr);
        self.screen.line(format_args!("Connected to {addr} as {name}; new messages: {new}"));
    }

    pub fn show(&mut self, Message { id, time, author, text }: &Message) {
        self.screen.line(format_args!("{id}  {:.2}  {author}  {}", time.as_secs_f64(), escaped(text)));
        self.mark = *id;
    }

    /// The oldest line that waits has its answer.
    pub fn confirmed(&mut self, answer: &[u8]) {
        match (self.pending.pop_front(), reply(answer)) {
            (Some(_), Ok(_)) => self.screen.line("Message Published"),
            (Some((_, text)), Err(refusal)) => {
                self.screen.line(format_args!("not published: {}: {refusal}", escaped(&text)));
            }
            (None, _) => self.screen.line(format_args!("an answer that nobody waits for: {}", escaped(answer))),
        }
    }

    /// Reads what was typed; complete lines are published, now or once the server is found again.
    pub fn keyboard(&mut self, typed: &mut Option<Typed>, link: &mut Option<Link>, buffer: &mut [u8]) {
        let lines = match (read(stdin(), buffer), &mut *typed) {
            (Err(Errno::EINTR | Errno::EAGAIN), _) | (_, None) => return,
            (Ok(bytes_read @ 1..), Some(typed)) => {
                self.screen.typed(); // Ctrl-D leaves the cursor where it is
                typed.push(&buffer[..bytes_read])
            }
            (Ok(0) | Err(_), Some(_)) => typed.take().map(Typed::rest).unwrap_or_default(),
        };
        for line in lines {
            match line {
                Some(text) => {
                    let line = (random(), text);
                    link.iter_mut().for_each(|link| link.publish(&line));
                    self.pending.push_back(line);
                }
                None => self.screen.line(format_args!("not published: longer than {LINE_LIMIT} bytes")),
            }
        }
    }

    /// When to try again; all clients have lost the server at the same moment.
    pub fn later(&mut self, pauses: &mut Pauses, why: &str) -> Instant {
        let pause = pauses.next(random());
        self.screen.line(format_args!("no server: {why}; again in {:.2} s", pause.as_secs_f64()));
        Instant::now() + pause
    }
}
