//! The lecture's claims about big messages, decided by the kernel.

mod complete;
mod limits;
mod numbers;

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kernel::Need;
use kernel::need::{LOOPBACK, LOOPBACK_MTU, PORTS};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, SockaddrIn, recvfrom, sendto, setsockopt, sockopt::UdpGsoSegment},
};
use shared::{At, Experiment, Lesson, Role, Stage};
use socket2::{Domain, Socket, Type};

/// How long a datagram or an answer may take; far more than loopback needs.
const LIMIT: Duration = Duration::from_secs(5);

/// 92 datagrams of 1024 bytes fit into the usual receive buffer; the lecture's message has 83.
const BUFFERS: Need = Need {
    what: "socket buffers of 212992 bytes",
    provided_by: "sysctl -w net.core.rmem_default=212992 net.core.wmem_default=212992",
    met: || {
        let sizes = |sock: Socket| Ok([sock.recv_buffer_size()?, sock.send_buffer_size()?]);
        let sizes = Socket::new(Domain::IPV4, Type::DGRAM, None).and_then(sizes);
        sizes.is_ok_and(|sizes| sizes.iter().all(|size| *size >= 212_992))
    },
};

const UDP_SEGMENT: Need = Need {
    what: "UDP_SEGMENT",
    provided_by: "Linux 4.18 or newer with its own network stack",
    met: || {
        let sock = Socket::new(Domain::IPV4, Type::DGRAM, None);
        sock.is_ok_and(|sock| setsockopt(&sock, UdpGsoSegment, &1024).is_ok())
    },
};

pub const LESSON: Lesson = Lesson {
    lab: crate::LAB,
    setting: "sender and receiver on this machine",
    needs: &[LOOPBACK, PORTS, BUFFERS],
    experiments: &[
        Experiment {
            id: "two-senders",
            starred: true,
            minutes: 5,
            claim: "The receiver does not distinguish senders. What happens if two send at the same time?",
            source: "notes ch.2, Dealing with Big Amount of Data, reflection",
            needs: &[],
            play: complete::two_senders,
        },
        Experiment {
            id: "one-lost",
            starred: true,
            minutes: 7,
            claim: "The newline at the end lets the receiver receive the message without knowing its length.",
            source: "notes ch.2, Dealing with Big Amount of Data",
            needs: &[LOOPBACK_MTU],
            play: complete::one_lost,
        },
        Experiment {
            id: "small-buffer",
            starred: true,
            minutes: 6,
            claim: "UDP gives the sender no feedback about the delivery of its data.",
            source: "notes ch.2, UDP Multicasting, on the sections before; the question is ours",
            needs: &[],
            play: limits::small_buffer,
        },
        Experiment {
            id: "whole",
            starred: false,
            minutes: 4,
            claim: "A message of 84001 bytes is sent in 83 datagrams, and the receiver puts them together again.",
            source: "notes ch.2, Dealing with Big Amount of Data",
            needs: &[LOOPBACK_MTU],
            play: complete::whole,
        },
        Experiment {
            id: "early-newline",
            starred: false,
            minutes: 4,
            claim: "The line break indicates the end of the message.",
            source: "notes ch.2, Dealing with Big Amount of Data",
            needs: &[],
            play: complete::early_newline,
        },
        Experiment {
            id: "three-ways",
            starred: false,
            minutes: 5,
            claim: "Instead of a terminator, the first block may hold the total length of the message.",
            source: "notes ch.2, Ensuring Packet Arrival Order, note; the question is ours",
            needs: &[],
            play: numbers::three_ways,
        },
        Experiment {
            id: "mended",
            starred: false,
            minutes: 6,
            claim: "UDP does not guarantee the order. A number in each block lets the receiver restore the order.",
            source: "notes ch.2, Ensuring Packet Arrival Order",
            needs: &[LOOPBACK_MTU],
            play: numbers::mended,
        },
        Experiment {
            id: "kernel-splits",
            starred: false,
            minutes: 3,
            claim: "The program has to split big data into smaller blocks before it sends them.",
            source: "notes ch.2, Sending a message inside UDP packet",
            needs: &[LOOPBACK_MTU, UDP_SEGMENT],
            play: limits::kernel_splits,
        },
    ],
    next: &[
        ("by hand", "cargo lab04 receive"),
        ("", "cargo lab04 relay --lose 41"),
        ("", "cargo lab04 send --to 7779"),
        ("watch", "scripts/states.sh 7778 --watch"),
        ("measure", "cargo bench -p lab04-chunks"),
        ("sheet", "cargo lab04 sheet"),
    ],
};

/// A UDP socket on 127.0.0.1, on a port of the kernel's choice. A recvfrom that hears nothing for LIMIT fails.
fn receiver() -> Result<(Socket, SocketAddr)> {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let recv_sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", any_port)?;
    recv_sock.bind(&any_port.into()).at("bind", any_port)?;
    recv_sock.set_read_timeout(Some(LIMIT)).at("setsockopt", any_port)?;
    let local_addr = local_addr(&recv_sock)?;
    Ok((recv_sock, local_addr))
}

/// A socket to send from. As in the lecture it is not bound: the first sendto binds it.
fn sender() -> Result<Socket> {
    Ok(Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", "")?)
}

/// Hands each block to the kernel in a call of its own, then prints the calls; equal ones share a line.
fn send_blocks(stage: &mut Stage, label: &str, sock: &Socket, to: SocketAddr, blocks: &[&[u8]]) -> Result<()> {
    for block in blocks {
        send_block(sock, to, block)?;
    }
    for equal in blocks.chunk_by(|one, next| one.len() == next.len()) {
        let lengths: Vec<usize> = equal.iter().map(|block| block.len()).collect();
        say_calls(stage, label, &format!("sendto({}, {}, {to})", sock.as_raw_fd(), lengths[0]), &lengths);
    }
    Ok(())
}

/// One sendto: it takes a whole datagram, or fails.
fn send_block(sock: &Socket, to: SocketAddr, block: &[u8]) -> Result<()> {
    let bytes_sent = loop {
        match sendto(sock.as_raw_fd(), block, &sockaddr(to)?, MsgFlags::empty()) {
            Err(Errno::EINTR) => {} // with SO_SNDTIMEO after Ctrl-Z and fg: signal(7)
            result => break result.at("sendto", to)?,
        }
    };
    ensure!(bytes_sent == block.len(), "sendto took {bytes_sent} of {} bytes", block.len());
    Ok(())
}

/// The next datagram; EAGAIN if none comes within LIMIT.
fn recv_block(sock: &Socket, buffer: &mut [u8]) -> nix::Result<(usize, Option<SockaddrIn>)> {
    loop {
        match recvfrom(sock.as_raw_fd(), buffer) {
            Err(Errno::EINTR) => {} // with SO_RCVTIMEO after Ctrl-Z and fg: signal(7)
            result => return result,
        }
    }
}

/// Prints calls that were made one after the other, with these results; equal results share a line:
/// `recvfrom(4, 1024) x82 = 83968 bytes`.
fn say_calls(stage: &mut Stage, label: &str, call: &str, results: &[usize]) {
    for equal in results.chunk_by(|one, next| one == next) {
        match equal.len() {
            1 => stage.say(label, format_args!("{call} = {}", equal[0])),
            times => stage.say(label, format_args!("{call} x{times} = {} bytes", times * equal[0])),
        }
    }
}

/// The real receiver as a child process, on a port of the kernel's choice.
fn receive_role() -> Result<(Role, SocketAddr)> {
    let mut receiver = Role::start(&["receive", "0"])?;
    let banner = receiver.line_with("Socket is bound to ")?;
    let addr = banner.rsplit(' ').next().and_then(|addr| addr.parse().ok()).context("no address in the banner")?;
    receiver.wait_for("Waiting for message ...\n")?;
    Ok((receiver, addr))
}

/// The real relay as a child process, on a port of the kernel's choice.
fn relay_role(to: SocketAddr, options: &[&str]) -> Result<(Role, SocketAddr)> {
    let mut relay = Role::start(&[&["relay", "0", "--to", &to.to_string()], options].concat())?;
    let banner = relay.line_with("Relay is bound to ")?;
    let addr =
        banner.split([' ', ',']).nth(4).and_then(|addr| addr.parse().ok()).context("no address in the banner")?;
    Ok((relay, addr))
}

fn local_addr(sock: &Socket) -> Result<SocketAddr> {
    sock.local_addr().at("getsockname", "")?.as_socket().context("not an IP socket")
}

fn sockaddr(addr: SocketAddr) -> Result<SockaddrIn> {
    match addr {
        SocketAddr::V4(addr) => Ok(addr.into()),
        SocketAddr::V6(addr) => anyhow::bail!("{addr}: the experiments use IPv4"),
    }
}
