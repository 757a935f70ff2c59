//! Terminal 4: a client that knows no server. It asks the group, takes the first member that answers, and asks again when
//! this member is gone.

use std::{
    io::stdin,
    net::{SocketAddr, SocketAddrV4},
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv, send},
    unistd::read,
};
use shared::{At, Pause, Screen, Stop};
use socket2::{Domain, Socket, Type};

use crate::{
    FindArgs, fresh_id,
    group::{Datagram, wire::TEXT_LIMIT},
    lines::{Line, LineSplitter},
    udp::{self, LO},
};

/// How long to wait for the first answer before asking again.
const ANSWER_LIMIT: Duration = Duration::from_millis(500);
/// How long others may answer after the first.
const OTHERS: Duration = Duration::from_millis(200);
/// And with --answers, until there are so many.
const ALL_LIMIT: Duration = Duration::from_secs(10);
/// Questions without an answer.
const ATTEMPTS: u32 = 6;

/// Somebody who answered.
struct Found {
    name: String,
    addr: SocketAddrV4,
}

/// Asks, takes the first, and has it say each line that is typed.
pub fn run(args: &FindArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    let mut client = Client { args, pause: Pause::new(args.pause, &stop), stop: &stop, screen: Screen::new() };
    let Some(mut taken) = client.find(args.answers)? else { return Ok(()) };
    let mut sock = client.connect(taken.addr)?;
    let (mut lines, mut buffer, mut number) = (LineSplitter::default(), vec![0; TEXT_LIMIT], 0);
    loop {
        client.screen.ask("> ");
        client.screen.settle();
        let input = stdin();
        let mut fds = [client.stop.as_fd(), input.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let _ = poll(&mut fds, PollTimeout::NONE); // after EINTR read says what is there
        if client.stop.requested() {
            break;
        }
        if fds[1].revents().is_none_or(|events| events.is_empty()) {
            continue;
        }
        let (typed, ended) = match read(stdin(), &mut buffer) {
            Err(Errno::EINTR | Errno::EAGAIN) => continue,
            Ok(0) | Err(_) => (lines.rest().into_iter().collect(), true),
            Ok(bytes_read) => (lines.push(&buffer[..bytes_read]), false),
        };
        if !ended {
            client.screen.typed();
        }
        for line in typed {
            let text = match line {
                Line::Text(text) if text.is_empty() => continue,
                Line::Text(text) => text,
                Line::TooLong | Line::NotUtf8(_) => {
                    client.screen.line(format_args!("* not sent: no UTF-8, or more than {TEXT_LIMIT} bytes"));
                    continue;
                }
            };
            number += 1;
            while !client.post(&sock, &taken, number, &text)? {
                let Some(other) = client.find(None)? else { return Ok(()) };
                taken = other;
                sock = client.connect(taken.addr)?;
            }
        }
        if ended || client.stop.requested() {
            break;
        }
    }
    client.screen.ask_nothing();
    client.screen.end();
    drop(sock); // close(2)
    Ok(())
}

struct Client<'a> {
    args: &'a FindArgs,
    pause: Pause<'a>,
    stop: &'a Stop,
    screen: Screen,
}

impl Client<'_> {
    /// Asks the group who is there, and waits for so many answers; the first one is taken. `None` after Ctrl-C.
    fn find(&mut self, answers: Option<u8>) -> Result<Option<Found>> {
        let group = self.args.group;
        let sock = udp::own(&mut self.screen, &mut self.pause)?;
        let (token, mut found, mut buffer) = (fresh_id(), Vec::<Found>::new(), [0; 2048]);
        for _ in 0..ATTEMPTS {
            self.pause.before(&mut self.screen, format_args!("sendto({}, find, {group})", sock.as_raw_fd()));
            udp::send(&sock, &Datagram::Find { token }.bytes(), group)?;
            let asked = Instant::now();
            let mut until = asked + ANSWER_LIMIT;
            while answers.is_none_or(|answers| found.len() < usize::from(answers)) && self.readable(&sock, until)? {
                let Some((bytes_read, addr)) = udp::receive(&sock, &mut buffer)? else { continue };
                let Some(Datagram::Here { token: answered, name }) = Datagram::read(&buffer[..bytes_read]) else {
                    continue;
                };
                if answered != token || found.iter().any(|found| found.addr == addr) {
                    continue;
                }
                if found.is_empty() {
                    until = Instant::now() + if answers.is_some() { ALL_LIMIT } else { OTHERS };
                }
                let taken = if found.is_empty() { "  taken: it is the first" } else { "" };
                self.screen.line(format_args!("* {name} answers from {addr}{taken}"));
                found.push(Found { name, addr });
            }
            if self.stop.requested() {
                return Ok(None);
            }
            if !found.is_empty() {
                return Ok(Some(found.swap_remove(0)));
            }
        }
        bail!("nobody in {group} answers\n  hint: start a member: cargo lab26 member ann {group}")
    }

    /// A connected UDP socket hears of a closed port: lab03, ICMP.
    fn connect(&mut self, addr: SocketAddrV4) -> Result<Socket> {
        let sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", "")?;
        sock.set_nonblocking(true).at("fcntl", "")?;
        sock.bind(&SocketAddrV4::new(LO, 0).into()).at("bind", LO)?;
        self.pause.before(&mut self.screen, format_args!("connect({}, {addr})", sock.as_raw_fd()));
        sock.connect(&addr.into()).at("connect", addr)?;
        Ok(sock)
    }

    /// Has the member say a text; false if the member does not answer.
    fn post(&mut self, sock: &Socket, taken: &Found, number: u32, text: &str) -> Result<bool> {
        let fd = sock.as_raw_fd();
        let bytes = Datagram::Post { number, text: text.into() }.bytes();
        let mut failure = "is silent".to_string();
        'attempts: for _ in 0..ATTEMPTS {
            self.pause.before(&mut self.screen, format_args!("send({fd}, {} bytes)", bytes.len()));
            match send(fd, &bytes, MsgFlags::empty()) {
                Ok(_) | Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(errno) => {
                    failure = format!("is gone: send returns {errno:?}");
                    break;
                }
            }
            let until = Instant::now() + ANSWER_LIMIT;
            while self.readable(sock, until)? {
                let mut buffer = [0; 2048];
                match recv(fd, &mut buffer, MsgFlags::empty()) {
                    Ok(bytes_read) => match Datagram::read(&buffer[..bytes_read]) {
                        Some(Datagram::Posted { number: posted, name }) if posted == number => {
                            self.screen.line(format_args!("* {name} has said it"));
                            return Ok(true);
                        }
                        _ => {}
                    },
                    Err(Errno::EINTR | Errno::EAGAIN) => {}
                    Err(errno) => {
                        failure = format!("is gone: recv returns {errno:?}");
                        break 'attempts;
                    }
                }
            }
            if self.stop.requested() {
                return Ok(true);
            }
        }
        self.screen.line(format_args!(
            "* {} at {} {failure}; asking the group again",
            taken.name,
            SocketAddr::V4(taken.addr)
        ));
        Ok(false)
    }

    /// Waits for something to read; false at `until` and after Ctrl-C.
    fn readable(&self, sock: &Socket, until: Instant) -> Result<bool> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut fds = [self.stop.as_fd(), sock.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            match poll(&mut fds, PollTimeout::try_from(left)?) {
                Err(Errno::EINTR) => continue,
                result => result.at("poll", "")?,
            };
            let ready = fds[1].revents().is_some_and(|events| !events.is_empty());
            return Ok(ready && !self.stop.requested());
        }
    }
}
