//! Terminal 2: gets a page and the objects it names, over one connection or over one for each request, and says how long
//! each connection lived.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use kernel::Patience;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv},
};
use shared::{At, Pause, Screen, Stop, escaped};
use socket2::{Domain, Socket, Type};

use crate::{
    VisitArgs,
    exchange::{Come, Exchange, comes, exchange},
    http::objects,
    ready,
};

/// A server that says close gets so long to close first.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// Of a page that names more objects, the others are left out.
const MOST_OBJECTS: usize = 100;

/// A connection to the server.
struct Connection {
    sock: Socket,
    number: u32,
    since: Instant,
    requests: u32,
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
            connection.requests += 1;
            let exchange = self.exchange(&connection.sock, method, target);
            let number = connection.number;
            self.kept = Some(connection);
            match exchange? {
                Exchange::Stopped => return Ok(None),
                Exchange::Answer(head, body, stays) => {
                    self.requests += 1;
                    let [_, status, reason] = &head.words;
                    let told = format!("{method} {target}  {status} {reason}");
                    let bytes = body.len();
                    self.screen.line(format_args!("{number}  {}  {bytes} bytes", escaped(told.as_bytes())));
                    if !stays {
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

    /// A server that says close closes first, and TIME-WAIT is at its end.
    fn wait_for_its_close(&mut self) {
        let Some(Connection { sock, .. }) = &self.kept else { return };
        let (fd, mut buffer, mut patience) = (sock.as_raw_fd(), [0; 1024], Patience::new(CLOSE_LIMIT));
        self.pause.before(&mut self.screen, format_args!("recv({fd}, 1024)"));
        while let Ok(Come::Yes) = comes(sock, PollFlags::POLLIN, &mut patience, self.stop) {
            match recv(fd, &mut buffer, MsgFlags::empty()) {
                Ok(1..) | Err(Errno::EINTR | Errno::EAGAIN) => {}
                Ok(0) | Err(_) => return,
            }
        }
    }

    /// Sends one request and receives its answer.
    fn exchange(&mut self, sock: &Socket, method: &str, target: &str) -> Result<Exchange> {
        let length = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
        let addr = self.server_addr;
        let request = format!("{method} {target} HTTP/1.1\r\nHost: {addr}\r\n{}{length}\r\n", self.wish);
        exchange(sock, addr, request.as_bytes(), self.stop, &mut self.pause, &mut self.screen)
    }

    /// Closes the kept connection, if there is one.
    fn close(&mut self) {
        let Some(Connection { sock, number, since, requests }) = self.kept.take() else { return };
        self.pause.before(&mut self.screen, format_args!("close({})", sock.as_raw_fd()));
        drop(sock); // close(2)
        let open = since.elapsed().as_secs_f64();
        self.screen.line(format_args!("{number}  closed: {requests} requests in {open:.3} s"));
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
