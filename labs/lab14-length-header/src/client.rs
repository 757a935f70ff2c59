//! Terminal 2: sends each typed line as a message and shows the answer.

use std::{
    io::stdin,
    net::{Shutdown, SocketAddr},
    os::fd::{AsFd, AsRawFd},
    process::ExitCode,
};

use anyhow::Result;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv, send},
    unistd::read,
};
use shared::{At, Pause, Screen, Stop, escaped};
use socket2::{Domain, Socket, Type};

use crate::{
    ClientArgs,
    connection::{DISCONNECT, RECEIVED},
    frames::header,
    place,
};

const PROMPT: &str = "message> ";
/// What the exam's client sends.
const EXAM: [&str; 3] = ["Hello World!", "Hello World Second Message!", "Hello World Third Message!"];
/// The longest line, in bytes: what the server takes unless told otherwise.
const LINE_LIMIT: usize = 1_048_576;

/// A connected client.
struct Client<'a> {
    sock: Socket,
    server_addr: SocketAddr,
    stop: &'a Stop,
    pause: Pause<'a>,
    screen: Screen,
}

/// What became of a message.
enum Answer {
    Received,
    /// The server's last words; nothing, if it just closed.
    Refused(String),
    /// Ctrl-C.
    Stopped,
}

/// Sends until end of input, Ctrl-C or the server's end of stream.
pub fn run(args: &ClientArgs) -> Result<ExitCode> {
    let addr = place(&args.address)?;
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();

    let family = if addr.is_ipv6() { "AF_INET6" } else { "AF_INET" };
    pause.before(&mut screen, format_args!("socket({family}, SOCK_STREAM, 0)"));
    let sock = Socket::new(Domain::for_address(addr), Type::STREAM, None).at("socket", addr)?;
    let fd = sock.as_raw_fd();

    pause.before(&mut screen, format_args!("connect({fd}, {addr})"));
    sock.set_nonblocking(true).at("fcntl", addr)?; // poll waits for the handshake, and for Ctrl-C beside it
    let mut connected = sock.connect(&addr.into());
    if connected.as_ref().is_err_and(|error| error.raw_os_error() == Some(Errno::EINPROGRESS as i32)) {
        let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(sock.as_fd(), PollFlags::POLLOUT)];
        while poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {} // after a signal handler: signal(7)
        if stop.requested() {
            return Ok(ExitCode::SUCCESS);
        }
        connected = sock.take_error().and_then(|error| error.map_or(Ok(()), Err)); // SO_ERROR
    }
    connected.at("connect", addr)?;
    screen.line(format_args!("[CONNECTED] to {addr}"));

    let mut client = Client { sock, server_addr: addr, stop: &stop, pause, screen };
    let mut last = if args.exam { client.play_exam()? } else { client.send_lines()? };
    if let Answer::Received = last {
        last = client.leave()?;
    }
    if let Answer::Refused(words) = last {
        let words = if words.is_empty() { "the server has closed the connection".into() } else { words };
        client.screen.line(format_args!("[REFUSED] {words}"));
        return Ok(ExitCode::FAILURE);
    }
    client.pause.before(&mut client.screen, format_args!("close({fd})"));
    drop(client.sock); // close(2)
    Ok(ExitCode::SUCCESS)
}

impl Client<'_> {
    /// The exam's messages; Enter, or the end of input, goes on to the next.
    fn play_exam(&mut self) -> Result<Answer> {
        for message in EXAM {
            self.screen.line(format_args!("{PROMPT}{message}"));
            match self.send(message.as_bytes())? {
                Answer::Received => {}
                other => return Ok(other),
            }
            self.screen.line("Press Enter to go on ...");
            self.stop.wait_for_enter();
            if self.stop.requested() {
                return Ok(Answer::Stopped);
            }
        }
        Ok(Answer::Received)
    }

    /// What is typed, line by line.
    fn send_lines(&mut self) -> Result<Answer> {
        let (mut typed, mut buffer) = (Vec::new(), vec![0; 65536]);
        loop {
            while let Some(end) = typed.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = typed.drain(..=end).collect();
                match self.send(line.trim_ascii_end())? {
                    Answer::Received => {}
                    other => return Ok(other),
                }
            }
            if typed.len() > LINE_LIMIT {
                anyhow::bail!("a line is longer than {LINE_LIMIT} bytes, the most that the server takes");
            }
            self.screen.ask(PROMPT);
            self.screen.settle();
            let input = stdin();
            let mut fds =
                [self.stop.as_fd(), self.sock.as_fd(), input.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            if poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {
                continue;
            }
            if self.stop.requested() {
                return Ok(Answer::Stopped);
            }
            if fds[1].any() == Some(true) {
                return self.answer(); // unasked: the server's end of stream
            }
            match read(&input, &mut buffer) {
                Ok(bytes_read @ 1..) => typed.extend(&buffer[..bytes_read]),
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Ok(0) | Err(_) if typed.is_empty() => return Ok(Answer::Received),
                Ok(0) | Err(_) => return self.send(&std::mem::take(&mut typed)), // the last line has no newline
            }
            self.screen.typed();
        }
    }

    /// One message: the header, the text, and then its answer.
    fn send(&mut self, text: &[u8]) -> Result<Answer> {
        let fd = self.sock.as_raw_fd();
        for part in [&header(text.len())[..], text] {
            let mut rest = part;
            while !rest.is_empty() {
                self.pause.before(&mut self.screen, format_args!("send({fd}, {} bytes)", rest.len()));
                if !self.ready(PollFlags::POLLOUT)? {
                    return Ok(Answer::Stopped);
                }
                match send(fd, rest, MsgFlags::empty()) {
                    Ok(bytes_sent) => rest = &rest[bytes_sent..],
                    Err(Errno::EINTR | Errno::EAGAIN) => {}
                    Err(Errno::EPIPE | Errno::ECONNRESET) => return self.answer(), // perhaps it says why
                    Err(errno) => return Ok(Err(errno).at("send", self.server_addr)?),
                }
            }
        }
        self.answer()
    }

    /// "Msg received", which may come in pieces; anything else is read to its end.
    fn answer(&mut self) -> Result<Answer> {
        let fd = self.sock.as_raw_fd();
        let (mut answer, mut buffer) = (Vec::new(), [0; 2048]);
        while answer != RECEIVED.as_bytes() {
            self.pause.before(&mut self.screen, format_args!("recv({fd}, 2048)"));
            if !self.ready(PollFlags::POLLIN)? {
                return Ok(Answer::Stopped);
            }
            match recv(fd, &mut buffer, MsgFlags::empty()) {
                Ok(bytes_read @ 1..) => answer.extend(&buffer[..bytes_read]),
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Ok(0) => return Ok(Answer::Refused(escaped(&answer))),
                Err(errno) if answer.is_empty() => return Ok(Err(errno).at("recv", self.server_addr)?),
                Err(_) => return Ok(Answer::Refused(escaped(&answer))),
            }
            if answer.len() > buffer.len() {
                return Ok(Answer::Refused(escaped(&answer))); // no answer of this protocol
            }
        }
        self.screen.line(RECEIVED);
        Ok(Answer::Received)
    }

    /// `!DISCONNECT`, its answer, FIN.
    fn leave(&mut self) -> Result<Answer> {
        self.screen.ask_nothing();
        self.screen.line(format_args!("{PROMPT}{DISCONNECT}"));
        let last = self.send(DISCONNECT.as_bytes())?;
        self.pause.before(&mut self.screen, format_args!("shutdown({}, SHUT_WR)", self.sock.as_raw_fd()));
        let _ = self.sock.shutdown(Shutdown::Write); // ENOTCONN: the server was faster
        Ok(last)
    }

    /// Waits until the next call will not block; false after Ctrl-C.
    fn ready(&self, events: PollFlags) -> Result<bool> {
        let mut fds = [PollFd::new(self.stop.as_fd(), PollFlags::POLLIN), PollFd::new(self.sock.as_fd(), events)];
        loop {
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => {}
                result => return Ok(result.at("poll", "").map(|_| !self.stop.requested())?),
            }
        }
    }
}
