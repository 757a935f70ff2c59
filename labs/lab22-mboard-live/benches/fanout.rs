//! How long until the last of 1,000 clients has what one of them publishes: this lab's server beside `ncat --broker`.
//!
//! `cargo bench -p lab22-mboard-live` runs both servers, and lets each tell 1,000 connections of this process a message of
//! 100 bytes, in turns. About ten seconds. No test asserts these numbers: they are this machine's, at this moment.
//! The clients of this lab's server confirm each message, as the protocol wants, but only after the clock has stopped: those
//! of ncat say nothing.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use kernel::wait_until;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use shared::{Role, Screen};

const LAB: &str = env!("CARGO_BIN_EXE_lab22-mboard-live");
const CLIENTS: usize = 1000;
const TEXT: usize = 100;
/// In turns: what else the machine does disturbs both. An odd number has a middle.
const ROUNDS: usize = 101;
const LIMIT: Duration = Duration::from_secs(20);

/// A server that tells all its clients what one of them says.
struct Broker {
    _server: Role,
    publisher: TcpStream,
    clients: Vec<TcpStream>,
    epoll: Epoll,
    /// This lab's wire: frames and confirmations.
    live: bool,
}

fn main() -> Result<()> {
    let mut screen = Screen::new();
    let mut ours = ours().context("1,000 clients need descriptors: ulimit -n 4096")?;
    let mut theirs = if Command::new("ncat").arg("--version").output().is_ok() {
        Some(theirs().context("ncat --broker")?)
    } else {
        screen.line("SKIPPED: the comparison needs ncat (apt-get install ncat)");
        None
    };
    let (mut our_ms, mut their_ms, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let ms = ours.told_ms()?;
        our_ms.push(ms);
        if let Some(theirs) = &mut theirs {
            their_ms.push(theirs.told_ms()?);
            ratios.push(ms / their_ms.last().copied().unwrap_or(f64::NAN));
        }
    }
    screen.line(format_args!("{CLIENTS} clients, {TEXT} bytes, {ROUNDS} messages: from publish to the last client"));
    screen.line("server           median ms     90 % ms");
    let mut row = |name: &str, ms: &mut Vec<f64>| {
        ms.sort_by(f64::total_cmp);
        let (middle, most) = (ms[ms.len() / 2], ms[ms.len() * 9 / 10]);
        screen.line(format_args!("{name:<15} {middle:>10.2} {most:>11.2}"));
    };
    row("lab22", &mut our_ms);
    if theirs.is_some() {
        row("ncat --broker", &mut their_ms);
        ratios.sort_by(f64::total_cmp);
        screen.line(format_args!("lab22 / ncat    {:>10.2}  (the middle of {ROUNDS} pairs)", ratios[ROUNDS / 2]));
    }
    Ok(())
}

fn ours() -> Result<Broker> {
    let mut server = Role::spawn(Command::new(LAB).args(["server", "0"]))?;
    let line = server.line_with(" messages; clients connect to ")?;
    Broker::new(server, line.rsplit(' ').next().context("no address")?.parse()?, true)
}

fn theirs() -> Result<Broker> {
    let addr = TcpListener::bind("127.0.0.1:0")?.local_addr()?; // free a moment ago
    let most = (CLIENTS + 10).to_string();
    let port = addr.port().to_string();
    let server = Role::spawn(Command::new("ncat").args(["-l", "127.0.0.1", &port, "--broker", "-m", &most]))?;
    wait_until("ncat", LIMIT, || {
        let rows = kernel::tcp_sockets(addr.port())?;
        Ok(rows.iter().any(|row| row.state == kernel::State::Listen).then_some(()))
    })?;
    Broker::new(server, addr, false)
}

impl Broker {
    fn new(server: Role, addr: SocketAddr, live: bool) -> Result<Broker> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mut clients = Vec::new();
        for at in 0..=CLIENTS {
            let mut stream = TcpStream::connect(addr)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(LIMIT))?;
            if live && at < CLIENTS {
                let hello = format!("6:0:client{at}");
                stream.write_all(format!("{}:{hello}", hello.len()).as_bytes())?;
                stream.read_exact(&mut [0; 6])?; // "3:0:0\n"
            }
            // ncat has a short accept queue: a SYN that finds it full is sent again only after a second.
            wait_until("an empty accept queue", LIMIT, || {
                let rows = kernel::tcp_sockets(addr.port())?;
                let listens = rows.iter().find(|row| row.state == kernel::State::Listen);
                Ok(listens.is_some_and(|row| row.recv_queue == 0).then_some(()))
            })?;
            if at < CLIENTS {
                stream.set_nonblocking(true)?;
                epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, at as u64))?;
            }
            clients.push(stream);
        }
        let publisher = clients.pop().context("no publisher")?;
        let mut broker = Broker { _server: server, publisher, clients, epoll, live };
        broker.told_ms()?; // ncat does not say when it has accepted the last one
        Ok(broker)
    }

    /// Publishes, and waits until the last client has all of it: so many milliseconds.
    fn told_ms(&mut self) -> Result<f64> {
        let text = vec![b'x'; TEXT - 1];
        let message = if self.live { format!("{}:1:", TEXT + 2).into_bytes() } else { Vec::new() };
        let begun = Instant::now();
        self.publisher.write_all(&[&message[..], &text, b"\n"].concat())?;
        let mut received = vec![Vec::new(); CLIENTS];
        let (mut done, mut buffer) = (0, [0; 4096]);
        let mut events = [EpollEvent::empty(); 256];
        while done < CLIENTS {
            ensure!(begun.elapsed() < LIMIT, "only {done} of {CLIENTS} were told");
            let ready = self.epoll.wait(&mut events, EpollTimeout::from(1000_u16)).unwrap_or(0);
            for event in &events[..ready] {
                let at = event.data() as usize;
                match self.clients[at].read(&mut buffer) {
                    Ok(0) => anyhow::bail!("client {at} was dropped"),
                    Ok(bytes_read) => received[at].extend(&buffer[..bytes_read]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                    Err(error) => return Err(error.into()),
                }
                // This lab's frame has a newline of its own behind that of the text.
                if received[at].ends_with(if self.live { b"\n\n" } else { b"x\n" }) {
                    done += 1;
                }
            }
        }
        let told_ms = begun.elapsed().as_secs_f64() * 1000.0;
        if self.live {
            for (client, received) in self.clients.iter_mut().zip(&received) {
                let id = received.split(|byte| *byte == b':').nth(2).context("no id")?;
                let have = [b"7:", id].concat();
                client.write_all(&[format!("{}:", have.len()).as_bytes(), &have].concat())?;
            }
            // Behind the publisher's next answer the server has read all of them: it is quiet while ncat has its turn.
            self.publisher.write_all(b"3:3:1")?;
            self.publisher.read_exact(&mut [0; 10])?; // "2:0:\n2:2:\n"
        }
        Ok(told_ms)
    }
}
