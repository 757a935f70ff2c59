//! One message to 100 subscribers: how many a second through a broker, and from lab07's server, which holds the
//! connections itself?
//!
//! `cargo build --release -p lab07-multiclient && cargo bench -p lab27-pubsub` runs the embedded rumqttd, mosquitto where
//! it is installed, and lab07's `server-epoll`, in turns, in a private network. This process is the publisher and all
//! subscribers, with sockets of its own. About 20 seconds. No test asserts these numbers: they are this machine's, at this
//! moment. The ratio is what to compare.

use std::{
    env,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio, exit},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use kernel::{
    State,
    namespace::{self, NAMESPACE},
    tcp_sockets, wait_until,
};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use shared::{Role, Screen};

const LAB: &str = env!("CARGO_BIN_EXE_lab27-pubsub");
const SUBSCRIBERS: usize = 100;
/// Bytes of a text; lab07's line has a newline behind it, a PUBLISH 11 bytes before it.
const TEXT: usize = 100;
/// Messages of a batch. The next one is sent when every subscriber has this one: nobody's queue overflows.
const BATCH: usize = 50;
const BATCHES: usize = 20;
/// In turns: what else the machine does disturbs all of them. An odd number has a middle.
const ROUNDS: usize = 15;
const TOPIC: &[u8] = b"letters";
/// Set for the bench in its private network.
const PRIVATE: &str = "PUBSUB_BENCH";
const LIMIT: Duration = Duration::from_secs(60);

/// A server, its subscribers, and whoever speaks to all of them.
struct Crowd {
    server: Role,
    /// A publisher at QoS 0 or 1; lab07's operator types instead.
    publisher: Option<(TcpStream, u8)>,
    subscribers: Vec<TcpStream>,
    epoll: Epoll,
    /// Bytes of one message to one subscriber.
    bytes: usize,
}

fn main() -> Result<()> {
    if env::var_os(PRIVATE).is_none() && (NAMESPACE.met)() {
        let status = namespace::command(env::current_exe()?).env(PRIVATE, "1").stderr(Stdio::inherit()).status()?;
        exit(status.code().unwrap_or(1));
    }
    let mut screen = Screen::new();
    let lab07 = Path::new(LAB).with_file_name("lab07-multiclient");
    let mut crowds = Vec::new();
    if lab07.exists() {
        crowds.push(("lab07 server-epoll", lab07_server(&lab07)?));
    } else {
        screen.line("SKIPPED: lab07's server: cargo build --release -p lab07-multiclient");
    }
    for qos in [0, 1] {
        let name = ["rumqttd, QoS 0", "rumqttd, QoS 1"][usize::from(qos)];
        let mut server = Role::spawn(Command::new(LAB).args(["broker", "0"]))?;
        let line = server.line_with("is the broker at ")?;
        crowds.push((name, broker(server, line.rsplit(' ').next().context("no address")?.trim().parse()?, qos)?));
    }
    if Command::new("mosquitto").arg("-h").output().is_ok() {
        for qos in [0, 1] {
            let name = ["mosquitto, QoS 0", "mosquitto, QoS 1"][usize::from(qos)];
            crowds.push((name, mosquitto(qos)?));
        }
    } else {
        screen.line("SKIPPED: mosquitto: apt-get install mosquitto, and /usr/sbin in PATH");
    }
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); crowds.len()];
    for _ in 0..ROUNDS {
        for ((name, crowd), rates) in crowds.iter_mut().zip(&mut rates) {
            rates.push(crowd.messages_per_second().context(*name)?);
        }
    }
    screen.line(format_args!("{SUBSCRIBERS} subscribers, texts of {TEXT} bytes, in batches of {BATCH}"));
    screen.line("server               messages/s      / lab07");
    let first = rates.first().cloned().unwrap_or_default();
    for ((name, _), rates) in crowds.iter().zip(&rates) {
        let ratio = middle(rates.iter().zip(&first).map(|(rate, first)| rate / first).collect());
        let ratio = if lab07.exists() { format!("{ratio:.2}") } else { "?".into() };
        screen.line(format_args!("{name:<20} {:>10.0} {ratio:>12}", middle(rates.clone())));
    }
    Ok(())
}

fn middle(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN)
}

fn lab07_server(program: &Path) -> Result<Crowd> {
    let mut server = Role::spawn(Command::new(program).args(["server-epoll", "0", "--quiet", "--max-clients", "100"]))?;
    let port: u16 =
        server.line_with("> Server bound to IP : ")?.rsplit(' ').next().context("no port")?.trim().parse()?;
    let mut crowd = Crowd::new(server, TEXT + 1)?;
    for _ in 0..SUBSCRIBERS {
        crowd.add(TcpStream::connect(("127.0.0.1", port))?)?;
    }
    wait_until("an empty accept queue", LIMIT, || {
        let rows = tcp_sockets(port)?;
        let listens = rows.iter().find(|row| row.state == State::Listen);
        Ok(listens.is_some_and(|row| row.recv_queue == 0).then_some(()))
    })?;
    Ok(crowd)
}

fn mosquitto(qos: u8) -> Result<Crowd> {
    let addr = TcpListener::bind("127.0.0.1:0")?.local_addr()?; // free a moment ago, and nobody else is in this network
    let mut command = Command::new("mosquitto");
    let mut server = Role::spawn(command.args(["-c", "/dev/stdin"]).stderr(Stdio::null()))?;
    server.type_line(&format!(
        "listener {} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\nlog_type none\nuser root",
        addr.port()
    ))?;
    server.input = None;
    wait_until("mosquitto listening", LIMIT, || {
        Ok(tcp_sockets(addr.port())?.iter().any(|row| row.state == State::Listen).then_some(()))
    })?;
    broker(server, addr, qos)
}

/// Connects 100 subscribers and a publisher, in MQTT 3.1.1 by hand.
fn broker(server: Role, addr: SocketAddr, qos: u8) -> Result<Crowd> {
    let connect = |name: &str| {
        let mut stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let hello = [&text(b"MQTT")[..], &[4, 2, 0xff, 0xff], &text(name.as_bytes())].concat(); // CleanSession; no ping for 18 hours
        stream.write_all(&packet(0x10, &hello))?;
        let mut connack = [0; 4];
        stream.read_exact(&mut connack)?;
        ensure!(connack == [0x20, 2, 0, 0], "CONNACK is {connack:?}");
        Ok(stream)
    };
    let mut crowd = Crowd::new(server, 2 + 2 + TOPIC.len() + TEXT)?;
    for at in 0..SUBSCRIBERS {
        let mut stream = connect(&format!("subscriber{at}"))?;
        stream.write_all(&packet(0x82, &[&[0, 1][..], &text(TOPIC), &[0]].concat()))?; // QoS 0
        stream.read_exact(&mut [0; 5])?; // SUBACK
        crowd.add(stream)?;
    }
    crowd.publisher = Some((connect("publisher")?, qos));
    Ok(crowd)
}

/// MQTT 3.1.1, 2.2: one byte of type and flags, the length (one byte is enough here), the rest.
fn packet(first: u8, rest: &[u8]) -> Vec<u8> {
    assert!(rest.len() < 128, "a length of two bytes");
    [&[first, rest.len() as u8], rest].concat()
}

fn text(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes(), text].concat()
}

impl Crowd {
    fn new(server: Role, bytes: usize) -> Result<Crowd> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Crowd { server, publisher: None, subscribers: Vec::new(), epoll, bytes })
    }

    fn add(&mut self, stream: TcpStream) -> Result<()> {
        stream.set_nonblocking(true)?;
        self.epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, self.subscribers.len() as u64))?;
        self.subscribers.push(stream);
        Ok(())
    }

    /// Sends batch after batch, each to all.
    fn messages_per_second(&mut self) -> Result<f64> {
        self.batch()?; // to warm up
        let begun = Instant::now();
        for _ in 0..BATCHES {
            self.batch()?;
        }
        Ok((BATCHES * BATCH) as f64 / begun.elapsed().as_secs_f64())
    }

    /// Sends a batch, and waits until each subscriber has every byte of it, and the publisher every PUBACK.
    fn batch(&mut self) -> Result<()> {
        let line = vec![b'x'; TEXT];
        match &mut self.publisher {
            None => {
                let line = String::from_utf8(line)?;
                self.server.type_line(&[line.as_str(); BATCH].join("\n"))?;
            }
            Some((publisher, qos)) => {
                let mut bytes = Vec::new();
                for number in 1..=BATCH as u16 {
                    let id = number.to_be_bytes();
                    let id = if *qos == 0 { &[][..] } else { &id };
                    bytes.extend(packet(0x30 | *qos << 1, &[&text(TOPIC), id, &line].concat()));
                }
                publisher.write_all(&bytes)?;
            }
        }
        let mut missing = vec![self.bytes * BATCH; self.subscribers.len()];
        let (mut waiting, mut buffer) = (missing.len(), [0; 65536]);
        let mut events = [EpollEvent::empty(); 128];
        let begun = Instant::now();
        while waiting > 0 {
            ensure!(begun.elapsed() < LIMIT, "{waiting} subscribers still wait");
            let ready = self.epoll.wait(&mut events, EpollTimeout::from(1000_u16)).unwrap_or(0);
            for event in &events[..ready] {
                let at = event.data() as usize;
                match self.subscribers[at].read(&mut buffer) {
                    Ok(0) => anyhow::bail!("subscriber {at} was dropped"),
                    Ok(bytes_read) => {
                        ensure!(bytes_read <= missing[at], "subscriber {at} got more than was sent");
                        missing[at] -= bytes_read;
                        waiting -= usize::from(missing[at] == 0);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        if let Some((publisher, 1)) = &mut self.publisher {
            publisher.read_exact(&mut [0; 4 * BATCH])?; // PUBACKs
        }
        Ok(())
    }
}
