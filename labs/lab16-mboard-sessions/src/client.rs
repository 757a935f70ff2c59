//! Terminal 2: one request after the other, each in a session of its own.

use std::{
    fs,
    io::stdin,
    net::SocketAddr,
    os::{
        fd::{AsFd, AsRawFd},
        unix::ffi::OsStrExt,
    },
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use board::{Message, Request, ids, message, reply};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv, send},
    unistd::read,
};
use shared::{At, Pause, Screen, Stop, escaped};
use socket2::{Domain, Socket, Type};

use crate::{
    ClientArgs, SERVER, place,
    session::ClientEnd,
    udp::{BUFFER_SIZE, random, until},
};

/// The longest answer, and the longest text from standard input, in bytes.
const ANSWER_LIMIT: usize = 64 << 20;
/// More of a text is not shown.
const SHOWN: usize = 200;

/// A socket that hears only the server.
struct Client<'a> {
    args: &'a ClientArgs,
    sock: Socket,
    server_addr: SocketAddr,
    stop: &'a Stop,
    pause: Pause<'a>,
    screen: Screen,
    start: Instant,
}

/// Publishes, or reads the board.
pub fn run(args: &ClientArgs) -> Result<()> {
    let server_addr = place(&args.address, SERVER)?;
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();
    let text = match &args.publish {
        Some(text) if text == "-" => match read_all(&stop)? {
            Some(text) => Some(text),
            None => return Ok(()), // Ctrl-C
        },
        text => text.as_ref().map(|text| text.as_bytes().to_vec()),
    };

    let family = if server_addr.is_ipv6() { "AF_INET6" } else { "AF_INET" };
    pause.before(&mut screen, format_args!("socket({family}, SOCK_DGRAM, 0)"));
    let sock = Socket::new(Domain::for_address(server_addr), Type::DGRAM, None).at("socket", server_addr)?;

    // From now on the kernel hands over only the server's datagrams, and tells when nobody is there: lab03-datagram.
    pause.before(&mut screen, format_args!("connect({}, {server_addr})", sock.as_raw_fd()));
    sock.connect(&server_addr.into()).at("connect", server_addr)?;
    sock.set_nonblocking(true).at("fcntl", server_addr)?; // poll waits, so that Ctrl-C and the deadlines are heard

    let mut client = Client { args, sock, server_addr, stop: &stop, pause, screen, start: Instant::now() };
    match text {
        Some(text) => client.publish(&text)?,
        None => client.read_board()?,
    }
    drop(client.sock); // close(2)
    Ok(())
}

impl Client<'_> {
    fn publish(&mut self, text: &[u8]) -> Result<()> {
        if let Some(answer) = self.ask(Request::Publish { text }.encode())? {
            reply(&answer)?;
            self.screen.line("Message Published");
        }
        Ok(())
    }

    /// As in the lecture: the ids, then each message by its id.
    fn read_board(&mut self) -> Result<()> {
        let Some(answer) = self.ask(Request::Last { count: self.args.last.unwrap_or(0) }.encode())? else {
            return Ok(());
        };
        let mut texts = Vec::new();
        for id in ids(reply(&answer)?)? {
            let Some(answer) = self.ask(Request::Get { id }.encode())? else { return Ok(()) };
            let Message { time, author, text, .. } = message(id, reply(&answer)?)?;
            self.screen.line(format_args!("{id} {:.3} {author} {}", time.as_secs_f64(), shown(&text)));
            texts.extend(text);
        }
        if let Some(path) = &self.args.out {
            fs::write(path, texts).at("write", path.display())?;
        }
        Ok(())
    }

    /// One request, one session: its answer, or `None` after Ctrl-C.
    fn ask(&mut self, request: Vec<u8>) -> Result<Option<Vec<u8>>> {
        let fd = self.sock.as_raw_fd();
        let bytes = request.len();
        let (window, timing) = (self.args.window, self.args.repeats.timing());
        let mut session = ClientEnd::new(random(), request, window, timing, ANSWER_LIMIT, self.start.elapsed());
        let mut buffer = vec![0; BUFFER_SIZE];
        loop {
            for datagram in session.due(self.start.elapsed()) {
                self.pause.before(&mut self.screen, format_args!("send({fd}, {})", datagram.len()));
                match send(fd, &datagram, MsgFlags::empty()) {
                    Err(Errno::ECONNREFUSED) => self.nobody_there(&session)?, // an ICMP message that came before
                    Err(Errno::EMSGSIZE) => bail!("a block does not fit into a datagram here"),
                    _ => {} // what cannot be sent is lost, as it could be on any link: the next repetition mends it
                }
            }
            if let Some(result) = session.result() {
                let (blocks, again) = session.blocks();
                if self.args.publish.is_some() {
                    let number = session.session();
                    self.screen.line(format_args!("[{number}] {bytes} bytes, blocks: {blocks}, sent again: {again}"));
                }
                return match result {
                    Ok(answer) => Ok(Some(answer)),
                    Err(failure) => bail!("{}: {failure}", self.server_addr),
                };
            }
            let mut fds =
                [PollFd::new(self.stop.as_fd(), PollFlags::POLLIN), PollFd::new(self.sock.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, until(session.deadline(), self.start.elapsed())) {
                Err(Errno::EINTR) => continue, // Ctrl-Z, then fg
                result => _ = result.at("poll", "")?,
            }
            if self.stop.requested() {
                return Ok(None);
            }
            if fds[1].any() == Some(true) {
                self.pause.before(&mut self.screen, format_args!("recv({fd}, {BUFFER_SIZE})"));
                match recv(fd, &mut buffer, MsgFlags::empty()) {
                    Ok(bytes_read) => session.hear(&buffer[..bytes_read], self.start.elapsed()),
                    Err(Errno::EAGAIN | Errno::EINTR) => {}
                    Err(Errno::ECONNREFUSED) => self.nobody_there(&session)?,
                    Err(errno) => return Ok(Err(errno).at("recv", self.server_addr)?),
                }
            }
        }
    }

    /// Nobody has the server's port. Without a session that is the end. With one the server may be on its way back.
    fn nobody_there(&self, session: &ClientEnd) -> Result<()> {
        let (addr, port) = (self.server_addr, self.server_addr.port());
        ensure!(
            session.session() != 0,
            "recv {addr}: ECONNREFUSED (111) Connection refused\n  hint: start the server; see who has the port: \
             scripts/states.sh {port}"
        );
        Ok(())
    }
}

/// The start of a text, on one line, without what could act on the terminal.
fn shown(text: &[u8]) -> String {
    match text.split_at_checked(SHOWN) {
        Some((start, rest)) if !rest.is_empty() => format!("{} ... and {} bytes more", escaped(start), rest.len()),
        _ => escaped(text),
    }
}

/// Standard input to its end; `None` after Ctrl-C.
fn read_all(stop: &Stop) -> Result<Option<Vec<u8>>> {
    let (input, mut text, mut buffer) = (stdin(), Vec::new(), vec![0; 65_536]);
    loop {
        let mut fds = [stop.as_fd(), input.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        if poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {
            continue;
        }
        if stop.requested() {
            return Ok(None);
        }
        match read(&input, &mut buffer) {
            Ok(0) => return Ok(Some(text)),
            Ok(bytes_read) => text.extend(&buffer[..bytes_read]),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(errno) => return Err(errno).at("read", "standard input").context("standard input")?,
        }
        ensure!(text.len() <= ANSWER_LIMIT, "standard input has more than {ANSWER_LIMIT} bytes");
    }
}
