//! A connection has two ends: TCP refuses a group and a broadcast address.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::AsRawFd,
};

use anyhow::{Result, ensure};
use kernel::Counters;
use nix::errno::Errno;
use shared::{At, Predicts, Stage, Verdict, returned};
use socket2::{Domain, Socket, Type};

use super::{LO, OwnGroup, bound, join, local_addr};

/// What connect says to the group, and to the broadcast address of this link.
type Answers = [Result<(), Errno>; 2];

pub fn tcp_group(stage: &mut Stage) -> Result<Verdict> {
    let group = OwnGroup::new()?;
    let member_sock = bound(group.addr)?;
    join(stage, "member", &member_sock, group.ip())?;

    let any_addr = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
    let listen_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", "")?;
    listen_sock.bind(&any_addr.into()).at("bind", any_addr)?;
    listen_sock.listen(1).at("listen", any_addr)?;
    let port = local_addr(&listen_sock)?.port();
    stage.say("listener", format_args!("bind({}, {any_addr}) = 0", listen_sock.as_raw_fd()));
    stage.say("listener", format_args!("listen({}, 1) = 0  at port {port}", listen_sock.as_raw_fd()));

    // The control: from 127.0.0.1 there is a way to both addresses.
    let destinations = [*group.ip(), Ipv4Addr::BROADCAST].map(|ip| SocketAddrV4::new(ip, port));
    let udp_sock = client(Type::DGRAM)?;
    udp_sock.set_broadcast(true).at("setsockopt", "SO_BROADCAST")?;
    stage.say("UDP", format_args!("setsockopt({}, SOL_SOCKET, SO_BROADCAST, [1]) = 0", udp_sock.as_raw_fd()));
    for destination in destinations {
        ensure!(connected(stage, "UDP", &udp_sock, destination).is_ok(), "UDP has no way to {destination}");
    }

    let question = stage.ask(
        "A TCP client calls connect with the port of the listener: to the group, then to the broadcast address of its \
         link. What does connect return?",
        [
            ("0, 0: the listener has bound 0.0.0.0", [Ok(()), Ok(())]),
            ("-1 ECONNREFUSED: nobody listens there", [Err(Errno::ECONNREFUSED); 2]),
            ("-1 ETIMEDOUT: nobody answers its SYN", [Err(Errno::ETIMEDOUT); 2]),
            ("-1 ENETUNREACH: it sends no SYN", [Err(Errno::ENETUNREACH); 2]),
        ],
        Predicts { source: Some([Err(Errno::ENETUNREACH); 2]), kit: [Err(Errno::ENETUNREACH); 2] },
    )?;
    let before = Counters::read()?;
    let client_sock = client(Type::STREAM)?;
    let observed: Answers = destinations.map(|destination| connected(stage, "TCP", &client_sock, destination));
    stage.counted(&before, ["ActiveOpens", "IpOutNoRoutes"])?;

    let listen_addr = SocketAddrV4::new(LO, port);
    connected(stage, "TCP", &client_sock, listen_addr).at("connect", listen_addr)?;
    stage.verdict(question, observed, "a connection has two ends: TCP takes neither group nor broadcast")
}

/// A socket bound to 127.0.0.1: its way to any group is lo, whatever the routing table says.
fn client(kind: Type) -> Result<Socket> {
    let any_port = SocketAddrV4::new(LO, 0);
    let sock = Socket::new(Domain::IPV4, kind, None).at("socket", any_port)?;
    sock.bind(&any_port.into()).at("bind", any_port)?;
    Ok(sock)
}

/// Calls connect and says so.
fn connected(stage: &mut Stage, label: &str, sock: &Socket, to: SocketAddrV4) -> Result<(), Errno> {
    let connected = sock.connect(&to.into());
    stage.say(label, format_args!("connect({}, {to}) = {}", sock.as_raw_fd(), returned(&connected)));
    connected.map_err(|error| error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw))
}
