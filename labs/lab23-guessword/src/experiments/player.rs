//! A player of an experiment: its socket calls, shown as they are made.

use std::{collections::VecDeque, net::SocketAddr, os::fd::AsRawFd};

use anyhow::{Context, Result, anyhow, ensure};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv, send},
};
use shared::{At, Stage};
use socket2::{Domain, Socket, Type};

use super::{CHUNK, LIMIT};
use crate::lines::{Line, LineSplitter};

/// A player: a connection, and the lines that came over it.
pub struct Player {
    pub name: &'static str,
    pub sock: Socket,
    pub splitter: LineSplitter,
    pub lines: VecDeque<String>,
}

impl Player {
    /// Connects and says the name. The first line that comes back is the state.
    pub fn join(stage: &mut Stage, name: &'static str, server_addr: SocketAddr) -> Result<Player> {
        let sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
        sock.set_read_timeout(Some(LIMIT)).at("setsockopt", server_addr)?;
        sock.connect(&server_addr.into()).at("connect", server_addr)?;
        let player = Player { name, sock, splitter: LineSplitter::default(), lines: [].into() };
        player.send(stage, name)?;
        Ok(player)
    }

    pub fn fd(&self) -> i32 {
        self.sock.as_raw_fd()
    }

    /// Sends a line, and shows the call.
    pub fn send(&self, stage: &mut Stage, line: &str) -> Result<()> {
        let bytes = format!("{line}\n");
        let bytes_sent = loop {
            match send(self.fd(), bytes.as_bytes(), MsgFlags::MSG_NOSIGNAL) {
                Err(Errno::EINTR) => {}
                sent => break sent.at("send", "")?,
            }
        };
        stage.say(self.name, format_args!("send({}, {bytes:?}, {}) = {bytes_sent}", self.fd(), bytes.len()));
        ensure!(bytes_sent == bytes.len(), "only {bytes_sent} of {} bytes were sent", bytes.len());
        Ok(())
    }

    /// The next line of the server.
    pub fn line(&mut self) -> Result<String> {
        let mut buffer = vec![0; CHUNK];
        while self.lines.is_empty() {
            let bytes_read = match recv(self.fd(), &mut buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => continue, // Ctrl-Z, then fg: with SO_RCVTIMEO recv is not restarted, signal(7)
                bytes_read => bytes_read.at("recv", "")?,
            };
            ensure!(bytes_read > 0, "the server has closed {}'s connection", self.name);
            for line in self.splitter.push(&buffer[..bytes_read]) {
                let Line::Text(text) = line else { return Err(anyhow!("the server's line is no text")) };
                self.lines.push_back(text);
            }
        }
        self.lines.pop_front().context("no line")
    }

    /// The next line, shown.
    pub fn hears(&mut self, stage: &mut Stage) -> Result<String> {
        let line = self.line()?;
        stage.say(self.name, format_args!("hears \"{line}\""));
        Ok(line)
    }

    /// Waits until a line has come that holds `text`, and shows only this one.
    pub fn hears_of(&mut self, stage: &mut Stage, text: &str) -> Result<String> {
        loop {
            let line = self.line()?;
            if line.contains(text) {
                stage.say(self.name, format_args!("hears \"{line}\""));
                return Ok(line);
            }
        }
    }
}
