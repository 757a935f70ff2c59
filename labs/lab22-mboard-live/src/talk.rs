//! What the client says and hears on one connection. None of these calls blocks.

use std::{
    collections::VecDeque,
    net::{Shutdown, SocketAddr},
    os::fd::AsRawFd,
};

use board::{Message, Request, reply};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv, send},
};
use shared::{Pause, Screen, escaped};
use socket2::Socket;

use crate::{
    frames::{Frames, frame, number},
    wire::{Heard, Live, heard},
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

/// One connection.
pub struct Link {
    pub sock: Socket,
    frames: Frames,
    outbox: VecDeque<u8>,
    /// The server has answered the first request.
    pub greeted: bool,
    /// So many messages are new to this client and still to come.
    pub to_come: u64,
    /// shutdown(SHUT_WR) was called.
    pub shut: bool,
}

impl Link {
    /// The first request says who this is and what is known; then what is not confirmed yet is asked again.
    pub fn new(sock: Socket, client: &Client) -> Link {
        let (frames, outbox) = (Frames::default(), VecDeque::new());
        let mut link = Link { sock, frames, outbox, greeted: false, to_come: 0, shut: false };
        link.say(&Live::Tell { mark: client.mark, name: &client.name }.encode());
        client.pending.iter().for_each(|line| link.publish(line));
        link
    }

    /// Queues a request.
    fn say(&mut self, request: &[u8]) {
        self.outbox.extend(frame(request));
    }

    /// Queues a line to be published.
    pub fn publish(&mut self, (request_id, text): &(u64, Vec<u8>)) {
        self.say(&Request::PublishOnce { request_id: *request_id, text }.encode());
    }

    /// Whether something waits for send.
    pub fn waits(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Sends what waits, as far as the send buffer has room. The error says how the connection broke.
    pub fn flush(&mut self, client: &mut Client) -> Result<(), String> {
        while !self.outbox.is_empty() {
            let (fd, bytes) = (self.sock.as_raw_fd(), self.outbox.as_slices().0);
            client.pause.before(&mut client.screen, format_args!("send({fd}, {} bytes)", bytes.len()));
            match send(fd, bytes, MsgFlags::empty()) {
                Ok(bytes_sent) => drop(self.outbox.drain(..bytes_sent)),
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(format!("send: {errno:?} ({})", errno.desc())),
            }
        }
        Ok(())
    }

    /// FIN: this client asks nothing more. What the server still sends is read.
    pub fn shut(&mut self, client: &mut Client) {
        client.pause.before(&mut client.screen, format_args!("shutdown({}, SHUT_WR)", self.sock.as_raw_fd()));
        let _ = self.sock.shutdown(Shutdown::Write); // ENOTCONN: the server is gone already
        self.shut = true;
    }

    /// Reads what the server said, and confirms what was shown. The error says how the connection ended.
    pub fn hear(&mut self, client: &mut Client, buffer: &mut [u8]) -> Result<(), String> {
        let fd = self.sock.as_raw_fd();
        client.pause.before(&mut client.screen, format_args!("recv({fd}, {})", buffer.len()));
        match recv(fd, buffer, MsgFlags::empty()) {
            Ok(0) => return Err("end of stream".into()),
            Ok(bytes_read) => self.frames.push(&buffer[..bytes_read]),
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
            Err(errno) => return Err(format!("recv: {errno:?} ({})", errno.desc())),
        }
        let before = client.mark;
        loop {
            let body = match self.frames.next() {
                Ok(Some(body)) => body,
                Ok(None) => break,
                Err(bad) => return client.give_up(format!("what came is no frame: {bad:?}")),
            };
            match heard(&body) {
                Ok(Heard::Told(message)) => {
                    self.to_come = self.to_come.saturating_sub(1);
                    client.show(&message);
                }
                Ok(Heard::Answer(answer)) if !self.greeted => {
                    self.greeted = true;
                    match reply(&answer).map(number) {
                        Ok(Some(new)) => self.to_come = new,
                        Ok(None) => return client.give_up("this is no live message board".into()),
                        Err(refusal) => return client.give_up(refusal.to_string()),
                    }
                    client.greet(self.to_come);
                }
                Ok(Heard::Answer(answer)) => client.confirmed(&answer),
                Ok(Heard::Replaced) => {
                    return client.give_up("a newer connection has this name".into());
                }
                Err(refusal) => return client.give_up(refusal.to_string()),
            }
        }
        if client.mark != before && !self.shut {
            // TCP has confirmed these bytes already; that they were shown only the program can confirm.
            self.say(&Live::Have { id: client.mark }.encode());
        }
        Ok(())
    }
}

impl Client<'_> {
    fn give_up(&mut self, why: String) -> Result<(), String> {
        self.gives_up = true;
        Err(why)
    }

    fn greet(&mut self, new: u64) {
        let (name, addr) = (escaped(self.name.as_bytes()), self.server_addr);
        self.screen.line(format_args!("Connected to {addr} as {name}; {new} new messages"));
    }

    fn show(&mut self, Message { id, time, author, text }: &Message) {
        self.screen.line(format_args!("{id}  {:.2}  {author}  {}", time.as_secs_f64(), escaped(text)));
        self.mark = *id;
    }

    /// The oldest line that waits has its answer.
    fn confirmed(&mut self, answer: &[u8]) {
        match (self.pending.pop_front(), reply(answer)) {
            (Some(_), Ok(_)) => self.screen.line("Message Published"),
            (Some((_, text)), Err(refusal)) => {
                self.screen.line(format_args!("not published: {}: {refusal}", escaped(&text)));
            }
            (None, _) => self.screen.line(format_args!("an answer that nobody waits for: {}", escaped(answer))),
        }
    }
}
