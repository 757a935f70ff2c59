//! One connection: a request at a time, its limits and its deadline.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use super::http::{Answer, Parsed, parse};
use super::routes::Class;

/// A request must be whole, and an answer taken, within this time.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// A kept connection may be silent so long; a page asks every two seconds.
const IDLE_LIMIT: Duration = Duration::from_secs(15);
/// What one turn of one connection may read.
const TURN: usize = 4096;

/// A peer of the server.
pub struct Connection {
    /// Its socket.
    pub conn_sock: TcpStream,
    received: Vec<u8>,
    /// What is still to be sent.
    answer: Vec<u8>,
    sent: usize,
    /// A request was answered.
    served: bool,
    /// It ends once all is sent.
    last: bool,
    /// When it was accepted.
    pub accepted: Instant,
    /// Until then something must have happened.
    deadline: Instant,
}

impl Connection {
    /// A peer that was accepted now.
    pub fn new(conn_sock: TcpStream, now: Instant) -> Connection {
        let deadline = now + REQUEST_LIMIT;
        Connection {
            conn_sock,
            received: Vec::new(),
            answer: Vec::new(),
            sent: 0,
            served: false,
            last: false,
            accepted: now,
            deadline,
        }
    }

    /// Whether something is still to be sent.
    pub fn sends(&self) -> bool {
        !self.answer.is_empty()
    }

    /// Served, and nothing of a next request has come.
    pub fn is_idle(&self) -> bool {
        self.served && self.received.is_empty() && self.answer.is_empty()
    }

    /// Whether it may stay although nothing happened. Who began a request is told that it took too long.
    pub fn is_in_time(&mut self, now: Instant) -> bool {
        if now >= self.deadline && !self.received.is_empty() && self.answer.is_empty() {
            let _ = self.conn_sock.write(&Answer::refusal(408).bytes(false, false)); // nobody may be there to read it
        }
        now < self.deadline
    }

    /// Reads or writes once; false if the connection is over.
    pub fn turn(&mut self, class: &mut Class, now: Instant) -> bool {
        if now >= self.deadline {
            return self.is_in_time(now);
        }
        if self.answer.is_empty() {
            let mut buffer = [0; TURN];
            match self.conn_sock.read(&mut buffer) {
                Ok(0) => return false, // end of stream; half a request is none
                Ok(bytes_read) => self.take(&buffer[..bytes_read], class, now),
                Err(error) => return matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
            }
        }
        self.send(class, now)
    }

    fn take(&mut self, bytes: &[u8], class: &mut Class, now: Instant) {
        if self.last {
            return; // what follows the last request is read away and not looked at
        }
        if self.received.is_empty() {
            self.deadline = now + REQUEST_LIMIT; // from the first byte on, however slowly the others come
        }
        self.received.extend(bytes);
        self.next(class, now);
    }

    /// Answers the first request that was received, if it is whole.
    fn next(&mut self, class: &mut Class, now: Instant) {
        match parse(&self.received) {
            Parsed::Part => return,
            Parsed::Whole(request, length) => {
                self.received.drain(..length);
                self.last = !request.keep;
                self.answer = class.answer(&request, now).bytes(request.keep, request.method == "HEAD");
            }
            Parsed::Refused(status) => {
                self.last = true;
                self.answer = Answer::refusal(status).bytes(false, false);
            }
        }
        self.sent = 0;
        self.deadline = now + REQUEST_LIMIT;
    }

    fn send(&mut self, class: &mut Class, now: Instant) -> bool {
        while self.sent < self.answer.len() {
            match self.conn_sock.write(&self.answer[self.sent..]) {
                Ok(0) => return false,
                Ok(bytes_sent) => self.sent += bytes_sent,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
            if self.sent < self.answer.len() {
                continue;
            }
            if self.last {
                return self.finish(now);
            }
            self.answer.clear();
            self.sent = 0;
            self.served = true;
            self.deadline = now + if self.received.is_empty() { IDLE_LIMIT } else { REQUEST_LIMIT };
            if !self.received.is_empty() {
                self.next(class, now); // it was sent behind the last one
                return true; // and waits for its turn to be sent
            }
        }
        true
    }

    /// Everything is sent. What the peer still sends is read away for a moment: a close with unread bytes would reset
    /// the connection, and the answer might be lost with it.
    fn finish(&mut self, now: Instant) -> bool {
        self.answer.clear();
        self.sent = 0;
        self.deadline = self.deadline.min(now + Duration::from_secs(1));
        self.conn_sock.shutdown(Shutdown::Write).is_ok()
    }
}
