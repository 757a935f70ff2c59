//! What the client says and hears. None of these calls blocks.

use std::{
    io::stdin,
    net::{Shutdown, SocketAddr},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv, send},
    unistd::read,
};
use shared::{At, Pause, Screen, escaped};
use socket2::Socket;

use crate::{
    display::reversed,
    lines::{LINE_LIMIT, Line, LineSplitter},
    outbox::{Outbox, wire},
    room::{REFUSAL, fault},
};

const PROMPT: &str = "> Enter string : ";
/// After `exit`: how long to wait for the server's end of stream.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A connected client.
pub struct Client<'a> {
    pub sock: Socket,
    peer_addr: SocketAddr,
    pub outbox: Outbox,
    /// Deadline of a client that is leaving; None before `exit`, end of input or Ctrl-C.
    pub close_by: Option<Instant>,
    /// shutdown(SHUT_WR) has been called.
    shut: bool,
    pub refused: bool,
    pub screen: Screen,
    pause: Pause<'a>,
}

impl<'a> Client<'a> {
    /// Asks for the first line.
    pub fn new(sock: Socket, peer_addr: SocketAddr, mut screen: Screen, pause: Pause<'a>) -> Self {
        screen.ask(PROMPT);
        let outbox = Outbox::default();
        Client { sock, peer_addr, outbox, close_by: None, shut: false, refused: false, screen, pause }
    }

    /// Reads what the server said; false at the end of the server's stream.
    pub fn hear(&mut self, heard: &mut LineSplitter, buffer: &mut [u8]) -> Result<bool> {
        self.pause.before(&mut self.screen, format_args!("recv({}, {LINE_LIMIT})", self.sock.as_raw_fd()));
        match recv(self.sock.as_raw_fd(), buffer, MsgFlags::empty()) {
            Ok(0) => {
                heard.rest().into_iter().for_each(|line| self.show(line));
                if self.close_by.is_none() && !self.refused {
                    self.screen.line("> The server has closed the connection");
                }
                return Ok(false);
            }
            Ok(bytes_read) => heard.push(&buffer[..bytes_read]).into_iter().for_each(|line| self.show(line)),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => Err(errno).at("recv", self.peer_addr)?,
        }
        Ok(true)
    }

    fn show(&mut self, line: Line) {
        match line {
            Line::Text(text) if text.starts_with('!') => {
                self.refused |= text.starts_with(REFUSAL);
                self.screen.line(escaped(text.as_bytes()));
            }
            Line::Text(text) => self.screen.line(format_args!("> Server response : {}", reversed(&text))),
            faulty => self.screen.line(format_args!("> Server response thrown away: {}", fault(&faulty))),
        }
        if self.close_by.is_none() && !self.refused {
            self.screen.ask(PROMPT); // ready for new input
        } else {
            self.screen.ask_nothing();
        }
    }

    /// Reads what was typed and sends the complete lines.
    pub fn input(&mut self, typed: &mut LineSplitter, buffer: &mut [u8]) -> Result<()> {
        let (lines, ended) = match read(stdin(), buffer) {
            Err(Errno::EINTR | Errno::EAGAIN) => return Ok(()),
            Ok(0) | Err(_) => (typed.rest().into_iter().collect(), true),
            Ok(bytes_read) => (typed.push(&buffer[..bytes_read]), false),
        };
        if !ended {
            self.screen.typed(); // Ctrl-D leaves the cursor where it is
        }
        for line in lines {
            match line {
                Line::Text(text) if text == "exit" => return self.leave(),
                Line::Text(text) => {
                    let what = format!("send({}, {} bytes)", self.sock.as_raw_fd(), text.len() + 1);
                    self.pause.before(&mut self.screen, what);
                    ensure!(self.outbox.push(wire(&text)), "more typed at once than the queue holds");
                    self.screen.ask_nothing(); // until the server answers, as in the handout
                }
                faulty => self.screen.line(format_args!("> not sent: {}", fault(&faulty))),
            }
        }
        if ended { self.leave() } else { self.flush() }
    }

    /// No more lines. What waits is still sent, and what the server still sends is read.
    pub fn leave(&mut self) -> Result<()> {
        self.close_by = Some(Instant::now() + CLOSE_TIMEOUT);
        self.screen.ask_nothing();
        self.flush()
    }

    /// Sends what waits, as far as the send buffer has room; a client that is leaving sends FIN after the last byte.
    pub fn flush(&mut self) -> Result<()> {
        while !self.outbox.is_empty() {
            match send(self.sock.as_raw_fd(), &self.outbox.front()[0], MsgFlags::empty()) {
                Ok(bytes_sent) => self.outbox.sent(bytes_sent),
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => Err(errno).at("send", self.peer_addr)?,
            }
        }
        if self.close_by.is_some() && !self.shut {
            self.pause.before(&mut self.screen, format_args!("shutdown({}, SHUT_WR)", self.sock.as_raw_fd()));
            let _ = self.sock.shutdown(Shutdown::Write); // ENOTCONN: the server is gone already
            self.shut = true;
        }
        Ok(())
    }
}
