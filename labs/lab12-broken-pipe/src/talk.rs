//! One connection, at either end: lines typed go out, bytes that arrive are shown, and while bytes wait for their
//! acknowledgement the kernel's view of the connection is shown, too.

use std::{
    io::stdin,
    net::Shutdown,
    os::fd::{AsFd, AsRawFd},
};

use anyhow::Result;
use kernel::{Pair, need::SMALL_TTL};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, poll},
    sys::socket::{MsgFlags, recv, send},
    unistd::read,
};
use shared::{At, Pause, Screen, Stop};
use socket2::Socket;

use crate::{
    cable::{CUT, MENDED, set_min_ttl},
    watch::Watch,
};

/// While so much waits for room in the send buffer, no more is read from standard input.
const UNSENT_LIMIT: usize = 64 * 1024;

/// What the end of standard input means.
#[derive(PartialEq, Eq)]
pub enum AtEnd {
    /// Nothing: go on hearing.
    GoOn,
    /// Our sending side is closed; what the peer still says is heard.
    CloseSending,
}

/// A connection and its two directions.
pub struct Talk<'a, 'b> {
    sock: Socket,
    pair: Pair,
    stop: &'a Stop,
    pause: &'a mut Pause<'b>,
    screen: &'a mut Screen,
    /// The start of a line whose end is not typed yet.
    typed: Vec<u8>,
    /// Typed, and not yet taken by send.
    unsent: Vec<u8>,
    watch: Watch,
    /// The peer's end of stream has come, or an error.
    over: bool,
}

impl<'a, 'b> Talk<'a, 'b> {
    /// Takes a connected socket, none of whose calls block, and its two addresses: after a reset it has lost the peer's.
    pub fn new(
        sock: Socket,
        pair: Pair,
        stop: &'a Stop,
        pause: &'a mut Pause<'b>,
        screen: &'a mut Screen,
    ) -> Result<Self> {
        let watch = Watch::new(&sock, pair)?;
        Ok(Talk { sock, pair, stop, pause, screen, typed: Vec::new(), unsent: Vec::new(), watch, over: false })
    }

    /// Talks until the peer's end of stream, an error, or Ctrl-C, then closes. `reads_input` becomes false at the end of
    /// standard input.
    pub fn until_the_end(mut self, reads_input: &mut bool, at_end: AtEnd) -> Result<()> {
        let fd = self.sock.as_raw_fd();
        let input = stdin();
        let mut shut = false;
        while !self.over {
            let events =
                if self.unsent.is_empty() { PollFlags::POLLIN } else { PollFlags::POLLIN | PollFlags::POLLOUT };
            let mut fds =
                vec![PollFd::new(self.stop.as_fd(), PollFlags::POLLIN), PollFd::new(self.sock.as_fd(), events)];
            if *reads_input && self.unsent.len() < UNSENT_LIMIT {
                fds.push(PollFd::new(input.as_fd(), PollFlags::POLLIN));
            }
            match poll(&mut fds, self.watch.timeout()) {
                Err(Errno::EINTR) => continue, // after a signal handler: signal(7)
                result => result.at("poll", "")?,
            };
            let ready: Vec<PollFlags> = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())).collect();

            if !ready[0].is_empty() {
                break; // Ctrl-C
            }
            if ready[1].intersects(!PollFlags::POLLOUT) {
                self.hear();
            }
            let typed = ready.get(2).is_some_and(|events| !events.is_empty());
            if typed {
                *reads_input = self.input()?;
            }
            if typed || ready[1].contains(PollFlags::POLLOUT) {
                self.flush();
            }
            if !*reads_input && at_end == AtEnd::CloseSending && self.unsent.is_empty() && !shut {
                self.pause.before(self.screen, format_args!("shutdown({fd}, SHUT_WR)"));
                let _ = self.sock.shutdown(Shutdown::Write); // ENOTCONN: the peer is gone already
                shut = true;
            }
            if !self.over {
                self.watch.look(&self.sock, self.screen)?;
            }
        }
        self.pause.before(self.screen, format_args!("close({fd})"));
        drop(self.sock); // close(2)
        Ok(())
    }

    /// Shows what arrived.
    fn hear(&mut self) {
        let fd = self.sock.as_raw_fd();
        let mut buffer = [0; 1024];
        self.pause.before(self.screen, format_args!("recv({fd}, 1024)"));
        match recv(fd, &mut buffer, MsgFlags::empty()) {
            Ok(0) => {
                self.screen.line("End of stream");
                self.over = true;
            }
            Ok(bytes_read) => {
                let text = String::from_utf8_lossy(&buffer[..bytes_read]);
                self.screen.line(format_args!("Received {bytes_read} bytes: {text:?}"));
            }
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(errno) => self.ends_with("recv", errno), // ETIMEDOUT, ECONNRESET
        }
    }

    fn ends_with(&mut self, call: &str, errno: Errno) {
        self.screen.line(format_args!("{call}: {errno:?} ({})", errno.desc()));
        self.over = true;
    }

    /// Reads what was typed: commands are obeyed, complete lines wait to be sent. False at the end of the input.
    fn input(&mut self) -> Result<bool> {
        let mut buffer = [0; 1024];
        let bytes_read = match read(stdin(), &mut buffer) {
            Err(Errno::EINTR | Errno::EAGAIN) => return Ok(true),
            result => result.unwrap_or(0),
        };
        self.typed.extend(&buffer[..bytes_read]);
        while let Some(end) = self.typed.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.typed.drain(..=end).collect();
            match line.trim_ascii() {
                b"/unplug" => self.set_cable(CUT)?,
                b"/plug" => self.set_cable(MENDED)?,
                _ => self.unsent.extend(line),
            }
        }
        if bytes_read == 0 || self.typed.len() >= UNSENT_LIMIT {
            self.unsent.append(&mut self.typed);
        }
        Ok(bytes_read > 0)
    }

    /// Sends what was typed, as far as the send buffer has room.
    fn flush(&mut self) {
        let fd = self.sock.as_raw_fd();
        while !self.unsent.is_empty() && !self.over {
            self.pause.before(self.screen, format_args!("send({fd}, {} bytes)", self.unsent.len()));
            match send(fd, &self.unsent, MsgFlags::empty()) {
                Ok(bytes_sent) => {
                    self.unsent.drain(..bytes_sent);
                    self.watch.sent();
                    self.screen.line(format_args!("Sent {bytes_sent} bytes"));
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                Err(errno) => self.ends_with("send", errno), // EPIPE, ECONNRESET
            }
        }
    }

    /// Lets nothing arrive at this end, or everything.
    fn set_cable(&mut self, ttl: i32) -> Result<()> {
        self.flush(); // what was typed before
        let (fd, ipv6) = (self.sock.as_raw_fd(), self.pair.local.ip().to_canonical().is_ipv6());
        let option = if ipv6 { "SOL_IPV6, IPV6_MINHOPCOUNT" } else { "SOL_IP, IP_MINTTL" };
        self.pause.before(self.screen, format_args!("setsockopt({fd}, {option}, {ttl})"));
        set_min_ttl(&self.sock, ipv6, ttl).at("setsockopt IP_MINTTL", self.pair.local)?;
        self.screen.line(if ttl == CUT { "Unplugged: what arrives here is dropped" } else { "Plugged in" });
        if ttl == CUT && !(SMALL_TTL.met)() {
            self.screen.line(format_args!("but that needs {}: {}", SMALL_TTL.what, SMALL_TTL.provided_by));
        }
        Ok(())
    }
}
