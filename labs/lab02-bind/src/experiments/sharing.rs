//! Which sockets may have the same address and port.

use std::{io::ErrorKind, net::SocketAddr, os::fd::AsRawFd};

use anyhow::{Result, bail, ensure};
use kernel::wait_until;
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv, sendto},
};
use shared::{At, Predicts, Stage, Verdict, returned};
use socket2::{Domain, Socket, Type};

use super::{ANY_PORT, LIMIT, addresses::sockaddr_in, local_addr};

/// Another program may have the same port for the other protocol. Then another port is tried.
const PORTS_AT_MOST: usize = 20;
/// How many sockets send a datagram each.
const SENDERS: usize = 32;

/// What a socket sets before bind.
#[derive(Clone, Copy, PartialEq)]
enum Sets {
    Nothing,
    ReuseAddr, // SO_REUSEADDR
    ReusePort, // SO_REUSEPORT
}
use Sets::{Nothing, ReuseAddr, ReusePort};

/// Two sockets for one address and port: what each is, and what it sets.
struct Row {
    first: (&'static str, Sets),
    second: (&'static str, Sets),
}

const fn row(first: (&'static str, Sets), second: (&'static str, Sets)) -> Row {
    Row { first, second }
}

/// As they are printed, numbered from 1.
const ROWS: [Row; 9] = [
    row(("udp", Nothing), ("udp", Nothing)),
    row(("tcp", Nothing), ("udp", Nothing)),
    row(("udp", ReuseAddr), ("udp", Nothing)),
    row(("udp", Nothing), ("udp", ReuseAddr)),
    row(("udp", ReuseAddr), ("udp", ReuseAddr)),
    row(("udp", ReusePort), ("udp", ReusePort)),
    row(("tcp", ReuseAddr), ("tcp", ReuseAddr)),
    row(("tcp listens", ReuseAddr), ("tcp", ReuseAddr)),
    row(("tcp listens", ReusePort), ("tcp", ReusePort)),
];
/// The rows, counted from 0, whose two sockets are used once more below.
const UDP_REUSEADDR: usize = 4;
const UDP_REUSEPORT: usize = 5;
const TCP_REUSEADDR: usize = 6;

pub fn taken_port(stage: &mut Stage) -> Result<Verdict> {
    let rows = |numbers: &[usize]| std::array::from_fn::<bool, 9, _>(|at| numbers.contains(&(at + 1)));
    stage.say("row", "first socket               second socket");
    for (at, Row { first, second }) in ROWS.iter().enumerate() {
        stage.say(
            "",
            format_args!("{}  {:<11} {:<12}  {:<11} {}", at + 1, first.0, first.1.name(), second.0, second.1.name()),
        );
    }
    let question = stage.ask(
        "The first socket has 127.0.0.1 and a port. The second one binds the same address and port. In which rows does \
         this bind work?",
        [
            ("in row 2", rows(&[2])),
            ("in rows 2, 6 and 9", rows(&[2, 6, 9])),
            ("in rows 2, 5, 6, 7 and 9", rows(&[2, 5, 6, 7, 9])),
            ("in rows 2, 5, 6, 7, 8 and 9", rows(&[2, 5, 6, 7, 8, 9])),
            ("in rows 2, 4, 5, 6, 7, 8 and 9", rows(&[2, 4, 5, 6, 7, 8, 9])),
            ("in all rows except row 1", rows(&[2, 3, 4, 5, 6, 7, 8, 9])),
        ],
        Predicts { source: None, kit: rows(&[2, 5, 6, 7, 9]) },
    )?;
    let mut works = [false; 9];
    let mut pairs = Vec::new();
    for (at, row) in ROWS.iter().enumerate() {
        let (first_sock, second_sock, addr, bound) = bind_twice(row)?;
        let returned = returned(&bound);
        let returned = returned.split(" (").next().unwrap_or_default(); // one line a row
        let pair = format!("{}, {}", described(row.first), described(row.second));
        stage.say(
            &format!("row {}", at + 1),
            format_args!("{pair:<37}  bind({}) = {returned}", second_sock.as_raw_fd()),
        );
        works[at] = bound.is_ok();
        let in_use = bound.is_err_and(|error| error.kind() == ErrorKind::AddrInUse);
        ensure!(works[at] || in_use, "another error than EADDRINUSE");
        pairs.push((first_sock, second_sock, addr));
    }

    // Two UDP sockets have one address: which of them gets the datagrams?
    for at in [UDP_REUSEADDR, UDP_REUSEPORT].into_iter().filter(|at| works[*at]) {
        let (first_sock, second_sock, addr) = &pairs[at];
        let [first, second] = received(first_sock, second_sock, *addr)?;
        let row = format!("row {}", at + 1);
        stage.say(&row, format_args!("of {SENDERS} datagrams the first socket gets {first}, the second {second}"));
        ensure!(at == UDP_REUSEPORT || first == 0, "with SO_REUSEADDR the first socket gets datagrams");
    }
    // Two TCP sockets have one address: which of them can listen?
    if works[TCP_REUSEADDR] {
        let (first_sock, second_sock, _) = &pairs[TCP_REUSEADDR];
        for (name, sock) in [("first", first_sock), ("second", second_sock)] {
            let listening = sock.listen(8);
            stage.say(
                &format!("row {}", TCP_REUSEADDR + 1),
                format_args!("{name}: listen({}, 8) = {}", sock.as_raw_fd(), returned(&listening)),
            );
            ensure!(listening.is_ok() == (name == "first"), "{name}: listen returned {listening:?}");
        }
    }
    stage.verdict(
        question,
        works,
        "UDP and TCP have their own ports; to share one, both set the same option (SO_REUSEADDR: before any listen)",
    )
}

/// A socket of a row once more, for when the table is off the screen: `udp REUSEADDR`, or `udp` if it sets nothing.
fn described((kind, sets): (&str, Sets)) -> String {
    match sets {
        Nothing => kind.into(),
        sets => format!("{kind} {}", sets.name().trim_start_matches("SO_")),
    }
}

impl Sets {
    fn name(self) -> &'static str {
        match self {
            Nothing => "-",
            ReuseAddr => "SO_REUSEADDR",
            ReusePort => "SO_REUSEPORT",
        }
    }
}

/// Binds a first socket, calls listen if the row says so, and binds a second socket to the same address.
fn bind_twice(row: &Row) -> Result<(Socket, Socket, SocketAddr, std::io::Result<()>)> {
    let Row { first: (first, first_sets), second: (second, second_sets) } = row;
    let kind = |name: &str| if name == "udp" { Type::DGRAM } else { Type::STREAM };
    for tried in 1.. {
        let first_sock = Socket::new(Domain::IPV4, kind(first), None).at("socket", ANY_PORT)?;
        first_sock.set_reuse_address(*first_sets == ReuseAddr).at("setsockopt", ANY_PORT)?;
        first_sock.set_reuse_port(*first_sets == ReusePort).at("setsockopt", ANY_PORT)?;
        first_sock.bind(&ANY_PORT.into()).at("bind", ANY_PORT)?;
        let addr = local_addr(&first_sock)?;
        if *first == "tcp listens" {
            first_sock.listen(8).at("listen", addr)?;
        }

        let second_sock = Socket::new(Domain::IPV4, kind(second), None).at("socket", addr)?;
        second_sock.set_reuse_address(*second_sets == ReuseAddr).at("setsockopt", addr)?;
        second_sock.set_reuse_port(*second_sets == ReusePort).at("setsockopt", addr)?;
        let bound = second_sock.bind(&addr.into());

        let by_a_stranger = kind(first) != kind(second) && bound.is_err();
        if !by_a_stranger || tried == PORTS_AT_MOST {
            return Ok((first_sock, second_sock, addr, bound));
        }
    }
    bail!("no port was tried")
}

/// Sends a datagram to `addr` from each of many sockets. How many arrive at the first socket, how many at the second?
fn received(first_sock: &Socket, second_sock: &Socket, addr: SocketAddr) -> Result<[usize; 2]> {
    let mut received = [0; 2];
    for _ in 0..SENDERS {
        let send_sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", addr)?;
        sendto(send_sock.as_raw_fd(), b"x", &sockaddr_in(addr)?, MsgFlags::empty()).at("sendto", addr)?;
        let at = wait_until(&format!("a datagram at {addr}"), LIMIT, || {
            for (at, sock) in [first_sock, second_sock].into_iter().enumerate() {
                match recv(sock.as_raw_fd(), &mut [0; 8], MsgFlags::MSG_DONTWAIT) {
                    Ok(_) => return Ok(Some(at)),
                    Err(Errno::EAGAIN | Errno::EINTR) => {}
                    result => _ = result.at("recv", addr)?,
                }
            }
            Ok(None)
        })?;
        received[at] += 1;
    }
    Ok(received)
}
