//! Terminal 2: gets a page and the objects it names, over one connection or over one for each request, and says how long
//! each connection lived.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use kernel::Patience;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv, send},
};
use shared::{At, Pause, Screen, Stop, escaped};
use socket2::{Domain, Socket, Type};

use crate::{
    VisitArgs,
    http::{Head, objects},
    ready,
};

/// Bytes asked of one recv.
const CHUNK: usize = 65_536;
/// An answer must be whole after so long.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// A server that says close gets so long to close first.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// A longer answer is refused: a server that never stops shall not fill this machine's memory.
const BODY_LIMIT: usize = 1 << 26;
/// Of a page that names more objects, the others are left out.
const MOST_OBJECTS: usize = 100;

/// A connection to the server.
struct Connection {
    sock: Socket,
    number: u32,
    since: Instant,
    requests: u32,
}

/// How one request over one connection ended.
enum Exchange {
    Answer(Head, Vec<u8>),
    /// The connection was over before the first byte of an answer.
    Gone(&'static str),
    Stopped,
}

struct Visitor<'a> {
    server_addr: SocketAddr,
    /// The field Connection, if this visitor says a word about it.
    wish: &'static str,
    /// The connection that was kept.
    kept: Option<Connection>,
    opened: u32,
    requests: u32,
    stop: &'a Stop,
    pause: Pause<'a>,
    screen: Screen,
}

/// Visits as the arguments say.
pub fn run(args: &VisitArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    let wish = match (args.close, args.keep) {
        (true, _) => "Connection: close\r\n",
        (_, true) => "Connection: keep-alive\r\n",
        _ => "",
    };
    let mut visitor = Visitor {
        server_addr: args.address,
        wish,
        kept: None,
        opened: 0,
        requests: 0,
        stop: &stop,
        pause: Pause::new(args.pause, &stop),
        screen: Screen::new(),
    };
    let started = Instant::now();
    let visited = visitor.visit(args);
    visitor.close();
    let Visitor { requests, opened, mut screen, .. } = visitor;
    let seconds = started.elapsed().as_secs_f64();
    screen.line(format_args!("{requests} requests, {opened} connections, {seconds:.3} s"));
    visited.map(|_| ())
}

impl Visitor<'_> {
    /// The page, what it names, and the guest's entry; `None` after Ctrl-C.
    fn visit(&mut self, args: &VisitArgs) -> Result<Option<()>> {
        let Some(page) = self.fetch("GET", "/")? else { return Ok(None) };
        for object in objects(&String::from_utf8_lossy(&page)).into_iter().take(MOST_OBJECTS) {
            if !self.idles(args.wait) || self.fetch("GET", &object)?.is_none() {
                return Ok(None);
            }
        }
        if args.post && (!self.idles(args.wait) || self.fetch("POST", "/guests")?.is_none()) {
            return Ok(None);
        }
        Ok(Some(()))
    }

    /// The body of the answer; `None` after Ctrl-C.
    fn fetch(&mut self, method: &str, target: &str) -> Result<Option<Vec<u8>>> {
        loop {
            let reused = self.kept.is_some();
            let Some(mut connection) = self.kept.take().map_or_else(|| self.connect(), |kept| Ok(Some(kept)))? else {
                return Ok(None);
            };
            let exchange = self.exchange(&mut connection, method, target);
            let number = connection.number;
            self.kept = Some(connection);
            match exchange? {
                Exchange::Stopped => return Ok(None),
                Exchange::Answer(head, body) => {
                    self.requests += 1;
                    let [_, status, reason] = &head.words;
                    let told = format!("{method} {target}  {status} {reason}");
                    let bytes = body.len();
                    self.screen.line(format_args!("{number}  {}  {bytes} bytes", escaped(told.as_bytes())));
                    if !head.keeps_connection() {
                        self.wait_for_its_close();
                        self.close();
                    }
                    return Ok(Some(body));
                }
                Exchange::Gone(how) => {
                    self.screen.line(format_args!("{number}  {method} {target}  no answer: {how}"));
                    self.close();
                    // Did the server act on the request before it closed? Nobody here can know. RFC 9110 9.2.2: asking
                    // again is safe only if twice does the same as once.
                    if method != "GET" {
                        bail!("not repeated: {method} may have been done; see the server");
                    }
                    if !reused {
                        bail!("{} closes without an answer", self.server_addr);
                    }
                    self.screen.line(format_args!("{number}  was closed meanwhile: {method} {target} once more"));
                }
            }
        }
    }

    /// A new connection; `None` after Ctrl-C.
    fn connect(&mut self) -> Result<Option<Connection>> {
        let addr = self.server_addr;
        let family = if addr.is_ipv6() { "AF_INET6" } else { "AF_INET" };
        self.pause.before(&mut self.screen, format_args!("socket({family}, SOCK_STREAM, 0)"));
        let sock = Socket::new(Domain::for_address(addr), Type::STREAM, None).at("socket", addr)?;
        let fd = sock.as_raw_fd();

        self.pause.before(&mut self.screen, format_args!("connect({fd}, {addr})"));
        sock.set_nonblocking(true).at("fcntl", addr)?; // poll waits for the handshake, and for Ctrl-C beside it
        let mut connected = sock.connect(&addr.into());
        if connected.as_ref().is_err_and(|error| error.raw_os_error() == Some(Errno::EINPROGRESS as i32)) {
            if !ready(&sock, PollFlags::POLLOUT, self.stop)? {
                return Ok(None);
            }
            connected = sock.take_error().and_then(|error| error.map_or(Ok(()), Err)); // SO_ERROR
        }
        connected.at("connect", addr)?;
        self.opened += 1;
        let local_addr = sock.local_addr().at("getsockname", addr)?.as_socket().context("not an IP socket")?;
        self.screen.line(format_args!("{}  opened, {local_addr} > {addr}", self.opened));
        Ok(Some(Connection { sock, number: self.opened, since: Instant::now(), requests: 0 }))
    }

    /// Sends a request and receives its answer: the head, then as many bytes as it says.
    fn exchange(&mut self, connection: &mut Connection, method: &str, target: &str) -> Result<Exchange> {
        let (sock, addr) = (&connection.sock, self.server_addr);
        let (fd, mut patience) = (sock.as_raw_fd(), Patience::new(ANSWER_LIMIT));
        let length = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
        let request = format!("{method} {target} HTTP/1.1\r\nHost: {addr}\r\n{}{length}\r\n", self.wish);
        connection.requests += 1;

        let mut rest = request.as_bytes();
        while !rest.is_empty() {
            self.pause.before(&mut self.screen, format_args!("send({fd}, {} bytes)", rest.len()));
            if !self.comes(sock, PollFlags::POLLOUT, &mut patience)? {
                return Ok(Exchange::Stopped);
            }
            match send(fd, rest, MsgFlags::MSG_NOSIGNAL) {
                Ok(bytes_sent) => rest = &rest[bytes_sent..],
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(Errno::EPIPE) => return Ok(Exchange::Gone("send says EPIPE")),
                Err(Errno::ECONNRESET) => return Ok(Exchange::Gone("send says ECONNRESET")),
                Err(errno) => return Ok(Err(errno).at("send", addr)?),
            }
        }

        let (mut input, mut buffer) = (Vec::new(), vec![0; CHUNK]);
        loop {
            self.pause.before(&mut self.screen, format_args!("recv({fd}, {CHUNK})"));
            if !self.comes(sock, PollFlags::POLLIN, &mut patience)? {
                return Ok(Exchange::Stopped);
            }
            let ended = match recv(fd, &mut buffer, MsgFlags::empty()) {
                Ok(0) if input.is_empty() => return Ok(Exchange::Gone("recv returns 0")),
                Ok(bytes_read) => {
                    input.extend(&buffer[..bytes_read]);
                    bytes_read == 0
                }
                Err(Errno::EINTR | Errno::EAGAIN) => continue,
                Err(Errno::ECONNRESET) if input.is_empty() => return Ok(Exchange::Gone("recv says ECONNRESET")),
                Err(errno) => return Ok(Err(errno).at("recv", addr)?),
            };
            if let Some((head, length)) = Head::parse(&input).map_err(|why| anyhow!("no answer of HTTP/1.1: {why}"))? {
                // Without Content-Length the end of the stream ends the body: RFC 9112 6.3.
                let body = &input[length..];
                match head.body_length().map_err(|why| anyhow!(why))? {
                    Some(bytes) if body.len() >= bytes => return Ok(Exchange::Answer(head, body[..bytes].to_vec())),
                    None if ended => return Ok(Exchange::Answer(head, body.to_vec())),
                    Some(bytes) if bytes > BODY_LIMIT => bail!("the answer is longer than {BODY_LIMIT} bytes"),
                    _ if body.len() > BODY_LIMIT => bail!("the answer is longer than {BODY_LIMIT} bytes"),
                    _ => {}
                }
            }
            if ended {
                bail!("{addr} closed in the middle of an answer, after {} bytes", input.len());
            }
        }
    }

    /// A server that says close closes first, and TIME-WAIT is at its end.
    fn wait_for_its_close(&mut self) {
        let Some(connection) = &self.kept else { return };
        let (fd, mut buffer, mut patience) = (connection.sock.as_raw_fd(), [0; 1024], Patience::new(CLOSE_LIMIT));
        self.pause.before(&mut self.screen, format_args!("recv({fd}, 1024)"));
        while let Ok(true) = self.comes(&connection.sock, PollFlags::POLLIN, &mut patience) {
            match recv(fd, &mut buffer, MsgFlags::empty()) {
                Ok(1..) | Err(Errno::EINTR | Errno::EAGAIN) => {}
                Ok(0) | Err(_) => return,
            }
        }
    }

    /// Closes the kept connection, if there is one.
    fn close(&mut self) {
        let Some(Connection { sock, number, since, requests }) = self.kept.take() else { return };
        self.pause.before(&mut self.screen, format_args!("close({})", sock.as_raw_fd()));
        drop(sock); // close(2)
        let open = since.elapsed().as_secs_f64();
        self.screen.line(format_args!("{number}  closed: {requests} requests in {open:.3} s"));
    }

    /// Waits until the next call will not block; false after Ctrl-C.
    fn comes(&self, sock: &Socket, events: PollFlags, patience: &mut Patience) -> Result<bool> {
        while !patience.is_over() {
            let mut fds = [PollFd::new(self.stop.as_fd(), PollFlags::POLLIN), PollFd::new(sock.as_fd(), events)];
            let woken = poll(&mut fds, PollTimeout::try_from(patience.step())?);
            if self.stop.requested() {
                return Ok(false);
            }
            match woken {
                Ok(0) | Err(Errno::EINTR) => {}
                result => return Ok(result.at("poll", "").map(|_| true)?),
            }
        }
        bail!("{} does not go on within {ANSWER_LIMIT:?}", self.server_addr)
    }

    /// Does nothing for so long; false after Ctrl-C.
    fn idles(&self, seconds: u16) -> bool {
        let mut patience = Patience::new(Duration::from_secs(seconds.into()));
        while !patience.is_over() {
            let mut fds = [PollFd::new(self.stop.as_fd(), PollFlags::POLLIN)];
            let limit = PollTimeout::try_from(patience.step()).unwrap_or(PollTimeout::ZERO);
            let _ = poll(&mut fds, limit); // EINTR: the patience goes on
            if self.stop.requested() {
                return false;
            }
        }
        true
    }
}
