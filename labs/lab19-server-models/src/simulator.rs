//! What both simulators share: a thread for each client, what it waits for, and what is told of it.

use std::{
    fmt::Display,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd},
    sync::mpsc::{Sender, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use kernel::Patience;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use shared::{At, Screen, Stop};
use socket2::{Domain, Socket, Type};

use crate::{SimulatorArgs, serve::errno, timeline};

/// A thread needs far less to reach its connect.
const CONNECT_CALL: Duration = Duration::from_secs(5);
/// In a terminal: who is not served by then may wait for long.
const HEAD_START: Duration = Duration::from_millis(100);
/// Between two looks at a client's patience.
const STEP: Duration = Duration::from_millis(40);

/// What a client does at a moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Phase {
    /// connect has been called, and no answer has come: SYN-SENT.
    Connecting,
    /// It is connected, and nobody has said a word.
    Waiting,
    /// The service is there.
    Served,
}

/// How a client ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    /// It had all it came for.
    Left,
    TimedOut,
    /// The server closed the connection before.
    Closed,
    Failed(&'static str, Errno),
    /// Ctrl-C.
    Stopped,
}

/// All that happened to one client, in times since the first one started.
#[derive(Clone, Debug)]
pub struct Row {
    pub name: String,
    pub phases: Vec<(Phase, Duration)>,
    pub end: (End, Duration),
}

impl Row {
    pub fn was_served(&self) -> bool {
        self.phases.iter().any(|(phase, _)| *phase == Phase::Served)
    }
}

/// A line of the simulator's log.
pub struct Line {
    pub at: Duration,
    pub name: String,
    pub level: &'static str,
    pub text: String,
}

enum Message {
    Line(Line),
    /// This client's SYN is on its way.
    Connects(usize),
    /// This client has the service, or its end.
    Done(usize),
}

/// One client's view: its clock, its voice, its patience.
pub struct Client<'a> {
    pub number: usize,
    start: Instant,
    row: Row,
    stop: Option<&'a Stop>,
    messages: Sender<Message>,
}

impl Client<'_> {
    pub fn say(&self, level: &'static str, text: impl Display) {
        let line = Line { at: self.start.elapsed(), name: self.row.name.clone(), level, text: text.to_string() };
        let _ = self.messages.send(Message::Line(line)); // nobody listens any more
    }

    pub fn begins(&mut self, phase: Phase) {
        self.row.phases.push((phase, self.start.elapsed()));
        if phase == Phase::Served {
            let _ = self.messages.send(Message::Done(self.number));
        }
    }

    /// socket and connect, with a time limit as Python's settimeout: for this call alone.
    pub fn connect(&mut self, server_addr: SocketAddr, timeout: Duration) -> Result<Socket, End> {
        let failed = |call| move |error| End::Failed(call, errno(error));
        let sock = Socket::new(Domain::for_address(server_addr), Type::STREAM, None).map_err(failed("socket"))?;
        self.say("DEBUG", format_args!("Trying to connect to {server_addr}"));
        self.begins(Phase::Connecting);
        sock.set_nonblocking(true).map_err(failed("fcntl"))?; // poll waits, and hears Ctrl-C beside it
        let connected = sock.connect(&server_addr.into());
        let _ = self.messages.send(Message::Connects(self.number));
        match connected.map_err(errno) {
            Err(Errno::EINPROGRESS) => {
                self.wait(sock.as_fd(), PollFlags::POLLOUT, timeout)?;
                sock.take_error().and_then(|error| error.map_or(Ok(()), Err)).map_err(failed("connect"))?; // SO_ERROR
            }
            Err(errno) => return Err(End::Failed("connect", errno)),
            Ok(()) => {}
        }
        self.begins(Phase::Waiting);
        Ok(sock)
    }

    /// Waits until the next call will not block.
    pub fn wait(&self, fd: BorrowedFd, events: PollFlags, timeout: Duration) -> Result<(), End> {
        let mut patience = Patience::new(timeout);
        loop {
            let mut fds = vec![PollFd::new(fd, events)];
            fds.extend(self.stop.map(|stop| PollFd::new(stop.as_fd(), PollFlags::POLLIN)));
            let _ = poll(&mut fds, step(&patience)); // after EINTR it is asked again
            if fds[0].any() == Some(true) {
                return Ok(());
            }
            if self.stop.is_some_and(Stop::requested) {
                return Err(End::Stopped);
            }
            if patience.is_over() {
                return Err(End::TimedOut);
            }
        }
    }

    /// Keeps the server busy for so long.
    pub fn stay(&self, time: Duration) -> Result<(), End> {
        let mut patience = Patience::new(time);
        loop {
            let mut fds: Vec<_> = self.stop.iter().map(|stop| PollFd::new(stop.as_fd(), PollFlags::POLLIN)).collect();
            let _ = poll(&mut fds, step(&patience));
            if self.stop.is_some_and(Stop::requested) {
                return Err(End::Stopped);
            }
            if patience.is_over() {
                return Ok(());
            }
        }
    }
}

/// What there is to simulate.
pub struct Setting<'a> {
    pub clients: usize,
    pub stop: Option<&'a Stop>,
    /// So long the first client may take to be served before the second one starts. In the lecture's logs it is served
    /// by then; else its connection would still be in the accept queue, and take the place of another.
    pub head_start: Duration,
    /// Between two clients.
    pub gap: Duration,
}

/// Short enough for Patience to count all of it, on a busy machine, too.
fn step(patience: &Patience) -> PollTimeout {
    PollTimeout::try_from(patience.step().min(STEP)).unwrap_or(PollTimeout::ZERO)
}

/// Runs all clients to their end. `each` is what one of them does; `tell` hears every line, in the thread that calls.
pub fn simulate(
    setting: &Setting,
    each: impl Fn(&mut Client) -> Result<(), End> + Sync,
    mut before: impl FnMut(usize),
    mut tell: impl FnMut(Line),
) -> Result<Vec<Row>> {
    let Setting { clients, stop, head_start, gap } = *setting;
    let (messages, inbox) = channel();
    let mut start = Instant::now();
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for number in 1..=clients {
            before(number);
            if number == 1 {
                start = Instant::now();
            }
            if stop.is_some_and(Stop::requested) {
                break;
            }
            let name = format!("Thread-{number}");
            let row = Row { name: name.clone(), phases: Vec::new(), end: (End::Left, Duration::ZERO) };
            let mut client = Client { number, start, row, stop, messages: messages.clone() };
            let each = &each;
            let run = move || {
                let end = each(&mut client).err().unwrap_or(End::Left);
                client.row.end = (end, start.elapsed());
                let (level, text) = match end {
                    End::Left => ("DEBUG", String::new()),
                    End::TimedOut => ("ERROR", "Timeout waiting for service!".into()),
                    End::Closed => ("ERROR", "Server closed connection".into()),
                    End::Failed(call, errno) => ("ERROR", format!("{call}: {errno:?} ({})", errno.desc())),
                    End::Stopped => ("INFO", "Ctrl+C issued, terminating".into()),
                };
                if !text.is_empty() {
                    client.say(level, text);
                }
                client.say("INFO", "Disconnected ...");
                let _ = client.messages.send(Message::Done(number));
                client.row
            };
            let thread = thread::Builder::new().name(name).spawn_scoped(scope, run);
            threads.push(thread.context("cannot start a thread; see the limit: ulimit -u")?);
            // The next client's SYN comes after this one's, as in the lecture's logs.
            let mut patience = Patience::new(CONNECT_CALL);
            while !patience.is_over() && !stop.is_some_and(Stop::requested) {
                match inbox.recv_timeout(patience.step()) {
                    Ok(Message::Line(line)) => tell(line),
                    Ok(Message::Connects(who)) if who == number => {
                        patience = Patience::new(if number == 1 { head_start.max(gap) } else { gap });
                    }
                    Ok(Message::Done(who)) if who == number => patience = Patience::new(gap),
                    Ok(Message::Connects(_) | Message::Done(_)) | Err(_) => {}
                }
            }
        }
        drop(messages);
        for message in inbox.iter() {
            if let Message::Line(line) = message {
                tell(line);
            }
        }
        let rows = threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a client panicked")));
        rows.collect()
    })
}

/// A simulator in a terminal: its lines, its timeline, its picture.
pub fn run(args: &SimulatorArgs, stop: &Stop, each: impl Fn(&mut Client) -> Result<(), End> + Sync) -> Result<()> {
    let mut screen = Screen::new();
    let mut asking = Screen::new();
    let mut pause = shared::Pause::new(args.pause, stop);
    let setting = Setting { clients: args.clients.get(), stop: Some(stop), head_start: HEAD_START, gap: args.gap };
    let before = |number| pause.before(&mut asking, format_args!("Thread-{number}: connect({})", args.address));
    let tell = |Line { at, name, level, text }: Line| {
        screen.line(format_args!("{:8.3} ({name}) {level} {text}", at.as_secs_f64()));
    };
    let rows = simulate(&setting, each, before, tell)?;
    if let Some(End::Failed("connect", errno)) = all_ended_so(&rows) {
        return Ok(Err(errno).at("connect", args.address)?); // nobody is there: an error like any client's, with its hint
    }
    screen.line("(MainThread) INFO Client threads dead ...");
    screen.line(format_args!("\ntimeline  {}", timeline::LEGEND));
    let lines = timeline::drawn(&rows).text(screen.width() - 10);
    lines.iter().for_each(|(name, bar)| screen.line(format_args!("{name:<10}{bar}")));
    screen.line(timeline::summary(&rows));
    if let Some(path) = &args.svg {
        let title = format!("{} clients, {}", rows.len(), timeline::summary(&rows));
        std::fs::write(path, timeline::drawn(&rows).svg(&title)).at("write", path.display())?;
        screen.line(format_args!("wrote {}", path.display()));
    }
    screen.line("(MainThread) INFO Terminating ...");
    Ok(())
}

/// The end that all of them share.
fn all_ended_so(rows: &[Row]) -> Option<End> {
    let first = rows.first()?.end.0;
    rows.iter().all(|row| row.end.0 == first).then_some(first)
}
