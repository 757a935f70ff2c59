//! What the client says and hears on one connection. None of these calls blocks.

use std::{collections::VecDeque, net::Shutdown, os::fd::AsRawFd};

use board::{Request, reply};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv, send},
};
use socket2::Socket;

use crate::{
    frames::{Frames, frame, number},
    talk::Client,
    wire::{Heard, Live, heard},
};

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
