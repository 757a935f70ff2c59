//! Who else may have the same address and port.

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

/// Another program may have the same port number for the other protocol: then another port is tried.
const PORTS_AT_MOST: usize = 20;
/// So many senders that by chance all go to the same one of two sockets once in two thousand million runs.
const SENDERS: usize = 32;

#[derive(Clone, Copy, PartialEq)]
enum Reuse {
    None,
    Addr, // SO_REUSEADDR
    Port, // SO_REUSEPORT
}

/// What the first socket is, what the second one is, and the option both of them set.
struct Case {
    first: &'static str,
    second: &'static str,
    reuse: Reuse,
}

const fn case(first: &'static str, second: &'static str, reuse: Reuse) -> Case {
    Case { first, second, reuse }
}

/// In the order of the table that is printed.
const CASES: [Case; 8] = [
    case("udp", "udp", Reuse::None),
    case("tcp", "tcp", Reuse::None),
    case("tcp", "udp", Reuse::None),
    case("udp", "udp", Reuse::Addr),
    case("tcp", "tcp", Reuse::Addr),
    case("listens", "tcp", Reuse::Addr),
    case("udp", "udp", Reuse::Port),
    case("listens", "tcp", Reuse::Port),
];

pub fn taken_port(stage: &mut Stage) -> Result<Verdict> {
    let other_protocol = |case: &Case| case.first == "tcp" && case.second == "udp";
    let answer = |works: &dyn Fn(&Case) -> bool| std::array::from_fn::<bool, 8, _>(|at| works(&CASES[at]));
    let kit = answer(&|case| {
        other_protocol(case) || case.reuse == Reuse::Port || case.reuse == Reuse::Addr && case.first != "listens"
    });
    let question = stage.ask(
        "A first socket has 127.0.0.1 and a port. A second one binds the same; both have set the same option, or none. \
         When does that work?",
        [
            ("never: a port belongs to one socket", answer(&|_| false)),
            ("only if one is TCP and the other UDP", answer(&other_protocol)),
            ("b, or with either option", answer(&|case| other_protocol(case) || case.reuse != Reuse::None)),
            ("b, or with SO_REUSEPORT", answer(&|case| other_protocol(case) || case.reuse == Reuse::Port)),
            ("b, or with either option; not SO_REUSEADDR if the first listens", kit),
        ],
        Predicts { source: None, kit },
    )?;
    stage.say("", "first   second option");

    let mut works = [false; 8];
    let mut pairs = Vec::new();
    for (works, case) in works.iter_mut().zip(&CASES) {
        let (first_sock, second_sock, addr, bound) = bind_twice(case)?;
        let option = match case.reuse {
            Reuse::None => "none",
            Reuse::Addr => "reuseaddr",
            Reuse::Port => "reuseport",
        };
        let returned = returned(&bound);
        stage.say(
            "second",
            format_args!(
                "{:<8}{:<7}{option:<10}bind({}, {addr}) = {}",
                case.first,
                case.second,
                second_sock.as_raw_fd(),
                returned.split(" (").next().unwrap_or_default(),
            ),
        );
        *works = bound.is_ok();
        ensure!(
            *works || bound.is_err_and(|error| error.kind() == ErrorKind::AddrInUse),
            "another error than EADDRINUSE"
        );
        pairs.push((first_sock, second_sock, addr));
    }

    // Two UDP sockets on one address: who gets what is sent there?
    for (at, name) in [(3, "reuseaddr"), (6, "reuseport")] {
        if works[at] {
            let (first_sock, second_sock, addr) = &pairs[at];
            let received = received(first_sock, second_sock, *addr)?;
            stage.say(
                name,
                format_args!(
                    "of {SENDERS} datagrams the first socket gets {}, the second {}",
                    received[0], received[1]
                ),
            );
            let as_told = if name == "reuseaddr" { received[0] == 0 } else { received[0] + received[1] == SENDERS };
            ensure!(as_told, "{name}: {received:?} of {SENDERS}");
        }
    }
    // Two TCP sockets with SO_REUSEADDR on one address: both are bound, one may listen.
    if works[4] {
        let (first_sock, second_sock, _) = &pairs[4];
        for (name, sock) in [("first", first_sock), ("second", second_sock)] {
            let listening = sock.listen(8);
            stage.say(name, format_args!("listen({}, 8) = {}", sock.as_raw_fd(), returned(&listening)));
            ensure!(listening.is_ok() == (name == "first"), "{name}: listen returned {listening:?}");
        }
    }
    stage.verdict(question, works, "each protocol has its own ports; sharing one needs both sockets' consent")
}

/// Binds a first socket, lets it listen if the case says so, and binds a second one to the same address.
fn bind_twice(case: &Case) -> Result<(Socket, Socket, SocketAddr, std::io::Result<()>)> {
    let kind = |name| if name == "udp" { Type::DGRAM } else { Type::STREAM };
    for tried in 1.. {
        let first_sock = Socket::new(Domain::IPV4, kind(case.first), None).at("socket", ANY_PORT)?;
        first_sock.set_reuse_address(case.reuse == Reuse::Addr).at("setsockopt", ANY_PORT)?;
        first_sock.set_reuse_port(case.reuse == Reuse::Port).at("setsockopt", ANY_PORT)?;
        first_sock.bind(&ANY_PORT.into()).at("bind", ANY_PORT)?;
        let addr = local_addr(&first_sock)?;
        if case.first == "listens" {
            first_sock.listen(8).at("listen", addr)?;
        }

        let second_sock = Socket::new(Domain::IPV4, kind(case.second), None).at("socket", addr)?;
        second_sock.set_reuse_address(case.reuse == Reuse::Addr).at("setsockopt", addr)?;
        second_sock.set_reuse_port(case.reuse == Reuse::Port).at("setsockopt", addr)?;
        let bound = second_sock.bind(&addr.into());

        let by_a_stranger = kind(case.first) != kind(case.second) && bound.is_err();
        if !by_a_stranger || tried == PORTS_AT_MOST {
            return Ok((first_sock, second_sock, addr, bound));
        }
    }
    bail!("no port was tried")
}

/// Sends a datagram from each of many sockets to `addr`; how many arrive at the first socket, how many at the second.
fn received(first_sock: &Socket, second_sock: &Socket, addr: SocketAddr) -> Result<[usize; 2]> {
    for _ in 0..SENDERS {
        let send_sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", addr)?;
        sendto(send_sock.as_raw_fd(), b"x", &sockaddr_in(addr)?, MsgFlags::empty()).at("sendto", addr)?;
    }
    let mut received = [0; 2];
    wait_until(&format!("{SENDERS} datagrams at {addr}"), LIMIT, || {
        for (count, sock) in received.iter_mut().zip([first_sock, second_sock]) {
            loop {
                match recv(sock.as_raw_fd(), &mut [0; 8], MsgFlags::MSG_DONTWAIT) {
                    Ok(_) => *count += 1,
                    Err(Errno::EAGAIN) => break,
                    Err(Errno::EINTR) => {}
                    result => _ = result.at("recv", addr)?,
                }
            }
        }
        Ok((received.iter().sum::<usize>() == SENDERS).then_some(received))
    })
}
