//! Terminal 2: the lecture's client. It asks, waits for the answer, and asks again if none comes.

use std::{
    fs::File,
    io::{Read, stdin},
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    process::ExitCode,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use board::{Message, Request, ids, message, reply};
use kernel::Patience;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv, send},
    unistd::read,
};
use shared::{At, Pause, Screen, Stop, escaped};
use socket2::{Domain, Socket, Type};

use crate::{ClientArgs, DATAGRAM, place};

/// One client, and whom it asks.
struct Client<'a> {
    args: &'a ClientArgs,
    server_addr: SocketAddr,
    stop: &'a Stop,
    pause: Pause<'a>,
    screen: Screen,
}

/// Publishes or reads, as the arguments say.
pub fn run(args: &ClientArgs) -> Result<ExitCode> {
    let server_addr = place(&args.address)?;
    ensure!(server_addr.port() != 0, "nobody is at port 0: a port from 1 to 65535");
    let stop = Stop::on_signals()?;
    let mut client =
        Client { args, server_addr, stop: &stop, pause: Pause::new(args.pause, &stop), screen: Screen::new() };
    match &args.publish {
        Some(text) => client.publish(text)?,
        None => client.read_last()?,
    };
    Ok(ExitCode::SUCCESS)
}

impl Client<'_> {
    /// The lecture's "publish" routine; `None` after Ctrl-C.
    fn publish(&mut self, text: &str) -> Result<Option<()>> {
        let text = match text {
            "-" => match self.read_standard_input()? {
                Some(text) => text,
                None => return Ok(None),
            },
            text => text.into(),
        };
        let kept = cut(&text, self.args.limit.try_into()?);
        if kept.len() < text.len() {
            self.screen.line(format_args!("The text is too long: only its first {} bytes are published", kept.len()));
        }
        let request = match self.args.once {
            false => Request::Publish { text: kept.as_bytes() },
            true => Request::PublishOnce { request_id: random()?, text: kept.as_bytes() },
        };
        let Some(answer) = self.ask(&request.encode())? else { return Ok(None) };
        reply(&answer)?;
        self.screen.line("Message Published");
        Ok(Some(()))
    }

    /// The lecture's "read last N messages": the ids in one answer, then an answer for each message.
    fn read_last(&mut self) -> Result<Option<()>> {
        let Some(answer) = self.ask(&Request::Last { count: self.args.last }.encode())? else { return Ok(None) };
        for id in ids(reply(&answer)?)? {
            let Some(answer) = self.ask(&Request::Get { id }.encode()).with_context(|| format!("message {id}"))? else {
                return Ok(None);
            };
            let Message { time, author, text, .. } = message(id, reply(&answer)?)?;
            self.screen.line(format_args!("{id}  {:.2}  {author}  {}", time.as_secs_f64(), escaped(&text)));
        }
        Ok(Some(()))
    }

    /// One request and its answer; `None` after Ctrl-C.
    fn ask(&mut self, request: &[u8]) -> Result<Option<Vec<u8>>> {
        // A new socket and so a new port for each request: a late answer to the one before goes to a port that is
        // closed, and cannot be taken for the answer to this one.
        let addr = self.server_addr;
        let family = if addr.is_ipv6() { "AF_INET6" } else { "AF_INET" };
        self.pause.before(&mut self.screen, format_args!("socket({family}, SOCK_DGRAM, 0)"));
        let sock = Socket::new(Domain::for_address(addr), Type::DGRAM, None).at("socket", addr)?;
        let fd = sock.as_raw_fd();

        // From now on the kernel hands over only what comes from this address.
        self.pause.before(&mut self.screen, format_args!("connect({fd}, {addr})"));
        sock.connect(&addr.into()).at("connect", addr)?;
        sock.set_nonblocking(true).at("fcntl", addr)?;

        for attempt in 0..=self.args.retries {
            if attempt > 0 {
                let limit = self.args.timeout;
                self.screen.line(format_args!("No answer in {limit:?}; asking again ({attempt})"));
            }
            self.pause.before(&mut self.screen, format_args!("send({fd}, {})", request.len()));
            match send(fd, request, MsgFlags::empty()) {
                Err(Errno::ECONNREFUSED) => bail!(self.nobody("send")),
                Err(Errno::EMSGSIZE) => bail!(
                    "send {addr}: EMSGSIZE (90) Message too long\n  hint: a datagram holds {DATAGRAM} bytes; give a smaller --limit"
                ),
                sent => sent.at("send", addr)?, // all of it or nothing: there is no short write
            };

            self.pause.before(&mut self.screen, format_args!("recv({fd}, 65536)"));
            let (mut buffer, mut patience) = (vec![0; 65_536], Patience::new(self.args.timeout));
            while !patience.is_over() {
                let mut fds = [self.stop.as_fd(), sock.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
                let woken = poll(&mut fds, PollTimeout::try_from(patience.step())?);
                if self.stop.requested() {
                    return Ok(None);
                }
                if !matches!(woken, Ok(_) | Err(Errno::EINTR)) {
                    woken.at("poll", "")?;
                }
                match recv(fd, &mut buffer, MsgFlags::empty()) {
                    Ok(bytes_read) => {
                        buffer.truncate(bytes_read);
                        return Ok(Some(buffer)); // the socket is closed here
                    }
                    Err(Errno::EAGAIN | Errno::EINTR) => {}
                    Err(Errno::ECONNREFUSED) => bail!(self.nobody("recv")), // an ICMP message says so: lab03, connect
                    Err(errno) => return Ok(Err(errno).at("recv", addr)?),
                }
            }
        }
        bail!(
            "no answer from {addr} to {} requests of {:?}\n  hint: the request or the answer was lost, or the answer is too long for a datagram; see what the server says",
            u16::from(self.args.retries) + 1,
            self.args.timeout
        )
    }

    fn nobody(&self, call: &str) -> anyhow::Error {
        let addr = self.server_addr;
        anyhow!(
            "{call} {addr}: ECONNREFUSED (111) Connection refused\n  hint: nobody has that port; start the server: cargo lab15 server {addr}"
        )
    }

    /// All of standard input up to its end, or a little more than can be sent; `None` after Ctrl-C.
    fn read_standard_input(&self) -> Result<Option<String>> {
        let (input, mut typed, mut buffer) = (stdin(), Vec::new(), [0; 4096]);
        while typed.len() <= DATAGRAM + 4 {
            let mut fds = [self.stop.as_fd(), input.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            if poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {
                continue;
            }
            if self.stop.requested() {
                return Ok(None);
            }
            match read(&input, &mut buffer) {
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Ok(0) => break,
                bytes_read => typed.extend(&buffer[..bytes_read.at("read", "standard input")?]),
            }
        }
        if typed.ends_with(b"\n") {
            typed.pop(); // it ends the line that was typed, and is no part of the message
        }
        match String::from_utf8(typed) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.utf8_error().error_len().is_none() && error.as_bytes().len() > DATAGRAM => {
                let end = error.utf8_error().valid_up_to(); // reading stopped inside a letter
                Ok(Some(String::from_utf8_lossy(&error.as_bytes()[..end]).into_owned()))
            }
            Err(error) => bail!("the text is not UTF-8 from byte {} on", error.utf8_error().valid_up_to()),
        }
    }
}

/// The beginning of the text, at most so many bytes, with its last letter whole.
pub fn cut(text: &str, limit: usize) -> &str {
    let end = (0..=limit.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}

/// A request id that no other request has.
fn random() -> Result<u64> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).at("read", "/dev/urandom")?;
    Ok(u64::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn a_cut_leaves_the_last_letter_whole() {
        assert_eq!(cut("Hello", 9), "Hello");
        assert_eq!(cut("Hello", 5), "Hello");
        assert_eq!(cut("Hello", 2), "He");
        assert_eq!(cut("t\u{f5}de", 2), "t");
        assert_eq!(cut("\u{20ac}", 2), "");
        assert_eq!(cut("", 0), "");
    }
}
