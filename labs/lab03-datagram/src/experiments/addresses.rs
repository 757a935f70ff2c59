//! Addresses that name nobody in particular: all machines of a network, and 0.0.0.0.

use std::{
    io::IoSliceMut,
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsRawFd,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, SockaddrStorage, recv, recvmsg, sendto},
};
use shared::{At, Predicts, Stage, Verdict, returned};
use socket2::{Domain, Socket, Type};

use super::{ANY_PORT, LIMIT, bound, to, waits};

/// How many sockets share the port that the broadcast goes to.
const RECEIVERS: usize = 3;
/// The broadcast address of lo's network, 127.0.0.0/8.
const EVERYBODY: Ipv4Addr = Ipv4Addr::new(127, 255, 255, 255);
/// A second address of lo.
const SECOND: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

pub fn broadcast(stage: &mut Stage) -> Result<Verdict> {
    let mut addr = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let mut receive_socks = Vec::new();
    while receive_socks.len() < RECEIVERS {
        let sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", addr)?;
        if addr.port() != 0 {
            // So that all may have the port: see lab02-bind. The first one's port was nobody else's.
            sock.set_reuse_address(true).at("setsockopt", addr)?;
        }
        sock.bind(&addr.into()).at("bind", addr)?;
        stage.say("receiver", format_args!("bind({}, {addr}) = 0", sock.as_raw_fd()));
        sock.set_reuse_address(true).at("setsockopt", addr)?;
        addr = sock.local_addr().at("getsockname", addr)?.as_socket().context("not an IP socket")?;
        receive_socks.push(sock);
    }
    stage.say("", format_args!("SO_REUSEADDR lets all three have port {}", addr.port()));
    let (sock, _) = bound(ANY_PORT)?;
    let fd = sock.as_raw_fd();
    let everybody = SocketAddr::from((EVERYBODY, addr.port()));

    stage.look(format_args!("ss -uan 'sport = :{}'", addr.port()));
    let question = stage.ask(
        "A sender sends to 127.255.255.255, the broadcast address of this network. Then it sets SO_BROADCAST and sends again. What happens?",
        [
            ("the first is sent; all three receive the second", (true, RECEIVERS)),
            ("the first is sent; one socket receives the second", (true, 1)),
            ("the first is refused; all three receive the second", (false, RECEIVERS)),
            ("the first is refused; one socket receives the second", (false, 1)),
        ],
        Predicts { source: None, kit: (false, RECEIVERS) },
    )?;
    let first = sendto(fd, b"first", &to(everybody), MsgFlags::empty());
    stage.say("sender", format_args!("sendto({fd}, \"first\", 5, {everybody}) = {}", returned(&first)));
    ensure!(matches!(first, Ok(5) | Err(Errno::EACCES)), "without SO_BROADCAST sendto returned {first:?}");
    sock.set_broadcast(true).at("setsockopt", everybody)?;
    stage.say("sender", format_args!("setsockopt({fd}, SOL_SOCKET, SO_BROADCAST, [1]) = 0"));
    let second = sendto(fd, b"second", &to(everybody), MsgFlags::empty());
    stage.say("sender", format_args!("sendto({fd}, \"second\", 6, {everybody}) = {}", returned(&second)));

    let mut heard = 0;
    for sock in &receive_socks {
        let (receive_fd, mut buffer) = (sock.as_raw_fd(), [0; 16]);
        while waits(&[sock], LIMIT)? {
            let received = recv(receive_fd, &mut buffer, MsgFlags::MSG_DONTWAIT);
            stage.say("receiver", format_args!("recv({receive_fd}, 16, MSG_DONTWAIT) = {}", returned(&received)));
            if &buffer[..received.at("recv", addr)?] == b"second" {
                heard += 1;
                break;
            }
        }
    }
    stage.verdict(question, (first.is_ok(), heard), "a broadcast must be allowed first; each socket gets a copy")
}

pub fn to_any_address(stage: &mut Stage) -> Result<Verdict> {
    let [(first_sock, first_addr), (second_sock, second_addr)] = same_port_of_two_addresses()?;
    for (sock, addr) in [(&first_sock, first_addr), (&second_sock, second_addr)] {
        stage.say("receiver", format_args!("getsockname({}, {addr}) = 0", sock.as_raw_fd()));
    }
    let sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", "")?;
    let (bound_sock, local_addr) = bound(SocketAddr::from((SECOND, 0)))?;
    stage.say("second", format_args!("getsockname({}, {local_addr}) = 0", bound_sock.as_raw_fd()));
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, first_addr.port()));

    stage.look(format_args!("ss -uan 'sport = :{}'", first_addr.port()));
    let question = stage.ask(
        "Two senders send to 0.0.0.0 and that port. The first sender is not bound; the second is bound to 127.0.0.2. Which receiver gets the datagrams?",
        [
            ("127.0.0.1 gets both", [vec![1], vec![1]]),
            ("127.0.0.1 gets the first, 127.0.0.2 the second", [vec![1], vec![2]]),
            ("each receiver gets both", [vec![1, 2], vec![1, 2]]),
            ("no receiver: sendto refuses both", [vec![], vec![]]),
        ],
        Predicts { source: None, kit: [vec![1], vec![2]] },
    )?;
    let mut observed = [vec![], vec![]];
    for (got, (who, sock)) in observed.iter_mut().zip([("first", &sock), ("second", &bound_sock)]) {
        let fd = sock.as_raw_fd();
        let sent = sendto(fd, who.as_bytes(), &to(any), MsgFlags::empty());
        stage.say(who, format_args!("sendto({fd}, \"{who}\", {}, {any}) = {}", who.len(), returned(&sent)));
        if sent.is_err() {
            continue;
        }
        let local_addr = sock.local_addr().at("getsockname", any)?.as_socket().context("not an IP socket")?;
        stage.say("", format_args!("getsockname({fd}, {local_addr}) = 0"));
        ensure!(waits(&[&first_sock, &second_sock], LIMIT)?, "{who:?} reached neither receiver within {LIMIT:?}");
        for (number, receive_sock) in [(1, &first_sock), (2, &second_sock)] {
            let (receive_fd, mut buffer) = (receive_sock.as_raw_fd(), [0; 16]);
            let mut parts = [IoSliceMut::new(&mut buffer)];
            match recvmsg::<SockaddrStorage>(receive_fd, &mut parts, None, MsgFlags::MSG_DONTWAIT) {
                Ok(message) => {
                    let (bytes_read, from) = (message.bytes, message.address.context("no source address")?);
                    stage.say(
                        "receiver",
                        format_args!("recvmsg({receive_fd}, MSG_DONTWAIT) = {bytes_read}  from {from}"),
                    );
                    got.push(number);
                }
                Err(Errno::EAGAIN) => {}
                Err(errno) => bail!("recvmsg: {errno:?}"),
            }
        }
    }
    stage.verdict(question, observed, "0.0.0.0 stands for the sender's own address; unbound, for 127.0.0.1")
}

/// Two sockets with the same port, of 127.0.0.1 and of 127.0.0.2.
fn same_port_of_two_addresses() -> Result<[(Socket, SocketAddr); 2]> {
    for _ in 0..10 {
        let first = bound(ANY_PORT)?;
        // Where somebody has this port of 127.0.0.2: another one.
        if let Ok(second) = bound(SocketAddr::from((SECOND, first.1.port()))) {
            return Ok([first, second]);
        }
    }
    bail!("no port was free on both addresses, ten times")
}
