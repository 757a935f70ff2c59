//! The address: loopback, any, of another machine, chosen by the kernel, and written in octal.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, ToSocketAddrs},
    os::fd::AsRawFd,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    sys::socket::{MsgFlags, SockaddrIn, recvfrom, sendto},
};
use shared::{At, Predicts, Stage, Verdict, returned};
use socket2::{Domain, Socket, Type};

use super::{ANY_PORT, LIMIT, local_addr};

/// In TEST-NET-1 of RFC 5737, which is for documentation: no machine should have it.
pub const NOT_OURS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// An address of lo, as all of 127.0.0.0/8 is, although no list of addresses shows it.
const IN_LOOPBACK: Ipv4Addr = Ipv4Addr::new(127, 1, 2, 3);
/// The group of the lecture's multicast programs (lab05). Nobody has to join it here.
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 1, 1);

/// In the order of the table that is printed.
const DESTINATIONS: [Ipv4Addr; 3] = [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::UNSPECIFIED];

pub fn any_address(stage: &mut Stage) -> Result<Verdict> {
    let loopback_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", ANY_PORT)?;
    let loopback_fd = loopback_sock.as_raw_fd();
    loopback_sock.bind(&ANY_PORT.into()).at("bind", ANY_PORT)?;
    stage.say("first", format_args!("bind({loopback_fd}, {ANY_PORT}) = 0"));
    loopback_sock.listen(8).at("listen", ANY_PORT)?;
    let loopback_addr = local_addr(&loopback_sock)?;
    stage.say("first", format_args!("getsockname({loopback_fd}, {loopback_addr}) = 0"));

    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)); // INADDR_ANY
    let any_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", any)?;
    let any_fd = any_sock.as_raw_fd();
    any_sock.bind(&any.into()).at("bind", any)?;
    stage.say("second", format_args!("bind({any_fd}, {any}) = 0"));
    any_sock.listen(8).at("listen", any)?;
    let any_addr = local_addr(&any_sock)?;
    stage.say("second", format_args!("getsockname({any_fd}, {any_addr}) = 0"));

    stage.look(format_args!("ss -tln '( sport = :{} or sport = :{} )'", loopback_addr.port(), any_addr.port()));
    let question = stage.ask(
        "Both listen. Clients connect to 127.0.0.1, to 127.0.0.2 and to 0.0.0.0. Which of the three addresses lead to \
         which server?",
        [
            ("first: 127.0.0.1; second: 0.0.0.0", [[true, false, false], [false, false, true]]),
            ("first: all three; second: all three", [[true; 3]; 2]),
            ("first: all except 127.0.0.2; second: all three", [[true, false, true], [true; 3]]),
            ("first: 127.0.0.1; second: all except 0.0.0.0", [[true, false, false], [true, true, false]]),
        ],
        Predicts { source: None, kit: [[true, false, true], [true; 3]] },
    )?;
    let mut reached = [[false; 3]; 2];
    let servers = [("first", &loopback_sock, loopback_addr.port()), ("second", &any_sock, any_addr.port())];
    for (reached, (name, listen_sock, port)) in reached.iter_mut().zip(servers) {
        for (reached, destination) in reached.iter_mut().zip(DESTINATIONS) {
            *reached = connects(stage, name, listen_sock, SocketAddr::from((destination, port)))?;
        }
    }
    // 0.0.0.0 is not a name for 127.0.0.1: a client that has an address connects to that one.
    let own = SocketAddr::from((DESTINATIONS[1], 0));
    let client_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", own)?;
    let client_fd = client_sock.as_raw_fd();
    client_sock.set_write_timeout(Some(LIMIT)).at("setsockopt", own)?;
    client_sock.bind(&own.into()).at("bind", own)?;
    stage.client(format_args!("bind({client_fd}, {own}) = 0"));
    let this_host = SocketAddr::from((Ipv4Addr::UNSPECIFIED, any_addr.port()));
    client_sock.connect(&this_host.into()).at("connect", this_host)?;
    stage.client(format_args!("connect({client_fd}, {this_host}) = 0"));
    let peer_addr = client_sock.peer_addr().at("getpeername", this_host)?.as_socket().context("not an IP socket")?;
    stage.client(format_args!("getpeername({client_fd}, {peer_addr}) = 0"));
    ensure!(peer_addr.ip() == own.ip(), "from {} the connection leads to {peer_addr}", own.ip());
    stage.verdict(question, reached, "to bind, 0.0.0.0 is every address; to connect, it is this host")
}

/// Connects to `addr`. If this works, shows the address of the server's end of the connection.
fn connects(stage: &mut Stage, name: &str, listen_sock: &Socket, addr: SocketAddr) -> Result<bool> {
    let client_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", addr)?;
    client_sock.set_write_timeout(Some(LIMIT)).at("setsockopt", addr)?; // connect waits no longer than this
    let connected = client_sock.connect(&addr.into());
    stage.client(format_args!("connect({}, {addr}) = {}", client_sock.as_raw_fd(), returned(&connected)));
    match connected {
        Err(error) if error.raw_os_error() == Some(Errno::ECONNREFUSED as i32) => return Ok(false),
        connected => connected.at("connect", addr)?,
    }
    let client_addr = local_addr(&client_sock)?;
    listen_sock.set_read_timeout(Some(LIMIT)).at("setsockopt", addr)?; // accept waits no longer than this
    loop {
        let (conn_sock, peer_addr) = match listen_sock.accept() {
            Err(error) if error.raw_os_error() == Some(Errno::EINTR as i32) => continue, // Ctrl-Z and fg: signal(7)
            accepted => accepted.at("accept", addr)?,
        };
        if peer_addr.as_socket() != Some(client_addr) {
            continue; // a stranger: 0.0.0.0 is open to others
        }
        let conn_fd = conn_sock.as_raw_fd();
        stage.say(name, format_args!("accept({}) = {conn_fd}", listen_sock.as_raw_fd()));
        stage.say(name, format_args!("getsockname({conn_fd}, {}) = 0", local_addr(&conn_sock)?));
        return Ok(true);
    }
}

pub fn implicit_bind(stage: &mut Stage) -> Result<Verdict> {
    /// What getsockname says after sendto, whether there is a port, and the source the receiver sees.
    type Seen = (Ipv4Addr, bool, Ipv4Addr);
    const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
    const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

    let recv_sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", ANY_PORT)?;
    recv_sock.set_read_timeout(Some(LIMIT)).at("setsockopt", ANY_PORT)?;
    let recv_fd = recv_sock.as_raw_fd();
    recv_sock.bind(&ANY_PORT.into()).at("bind", ANY_PORT)?;
    let recv_addr = local_addr(&recv_sock)?;
    stage.say("receiver", format_args!("getsockname({recv_fd}, {recv_addr}) = 0"));

    let send_sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", "")?;
    let send_fd = send_sock.as_raw_fd();
    stage.say("sender", format_args!("getsockname({send_fd}, {}) = 0", local_addr(&send_sock)?));

    let question = stage.ask(
        "The sender calls sendto, and never bind. What does its getsockname return after that, and which source address \
         does the receiver get?",
        [
            ("127.0.0.1 and a port; source 127.0.0.1", (LOOPBACK, true, LOOPBACK)),
            ("0.0.0.0 and a port; source 127.0.0.1", (ANY, true, LOOPBACK)),
            ("0.0.0.0 and a port; source 0.0.0.0", (ANY, true, ANY)),
            ("0.0.0.0 and port 0; source 127.0.0.1", (ANY, false, LOOPBACK)),
        ],
        Predicts::<Seen> { source: Some((ANY, true, ANY)), kit: (ANY, true, LOOPBACK) },
    )?;
    let sent = sendto(send_fd, b"Hello world!", &sockaddr_in(recv_addr)?, MsgFlags::empty());
    stage.say("sender", format_args!("sendto({send_fd}, \"Hello world!\", 12, {recv_addr}) = {}", returned(&sent)));
    sent.at("sendto", recv_addr)?;
    let own_addr = local_addr(&send_sock)?;
    stage.say("sender", format_args!("getsockname({send_fd}, {own_addr}) = 0"));

    let mut buffer = [0; 1024];
    let (bytes_read, source) = loop {
        match recvfrom::<SockaddrIn>(recv_fd, &mut buffer) {
            Err(Errno::EINTR) => continue,
            result => break result.at("recvfrom", recv_addr)?,
        }
    };
    let source = SocketAddr::from(SocketAddrV4::from(source.context("a datagram without a source")?));
    stage.say("receiver", format_args!("recvfrom({recv_fd}, 1024, {source}) = {bytes_read}"));
    ensure!(source.port() == own_addr.port() || own_addr.port() == 0, "two ports: {own_addr} and {source}");

    // connect binds the address as well: it looks the route up once and stores the source address.
    send_sock.connect(&recv_addr.into()).at("connect", recv_addr)?;
    stage.say("sender", format_args!("connect({send_fd}, {recv_addr}) = 0"));
    let connected_addr = local_addr(&send_sock)?;
    stage.say("sender", format_args!("getsockname({send_fd}, {connected_addr}) = 0"));
    ensure!(connected_addr == source, "connected from {connected_addr} instead of {source}");

    let third_sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", "")?;
    let third_fd = third_sock.as_raw_fd();
    stage.say("third", format_args!("getsockname({third_fd}, {}) = 0", local_addr(&third_sock)?));
    third_sock.connect(&recv_addr.into()).at("connect", recv_addr)?;
    stage.say("third", format_args!("connect({third_fd}, {recv_addr}) = 0"));
    let third_addr = local_addr(&third_sock)?;
    stage.say("third", format_args!("getsockname({third_fd}, {third_addr}) = 0"));
    ensure!(third_addr.ip() == LOOPBACK && third_addr.port() != 0, "connect has bound to {third_addr}");

    let observed = (ipv4(own_addr)?, own_addr.port() != 0, ipv4(source)?);
    stage.verdict(question, observed, "sendto binds the port only; the route gives each datagram its source")
}

pub fn foreign_address(stage: &mut Stage) -> Result<Verdict> {
    let question = stage.ask(
        "Four UDP sockets bind one address each: 127.1.2.3, which nobody has set up; 192.0.2.1, which this machine does \
         not have; the multicast group 239.1.1.1; the broadcast address 255.255.255.255. Which calls return 0?",
        [
            ("all four", [true; 4]),
            ("the first three", [true, true, true, false]),
            ("all except 192.0.2.1", [true, false, true, true]),
            ("only 127.1.2.3", [true, false, false, false]),
            ("none of the four", [false; 4]),
        ],
        Predicts { source: None, kit: [true, false, true, true] },
    )?;
    let mut works = [false; 4];
    let mut socks = Vec::new(); // kept open: so each has a descriptor of its own
    for (kind, name) in [(Type::DGRAM, "udp"), (Type::STREAM, "tcp")] {
        let mut bound = [false; 4];
        for (bound, ip) in bound.iter_mut().zip([IN_LOOPBACK, NOT_OURS, GROUP, Ipv4Addr::BROADCAST]) {
            let addr = SocketAddr::from((ip, 0));
            let sock = Socket::new(Domain::IPV4, kind, None).at("socket", addr)?;
            let result = sock.bind(&addr.into());
            let returned = returned(&result);
            let returned = returned.split(" (").next().unwrap_or_default(); // one line a call
            stage.say(name, format_args!("bind({}, {addr}) = {returned}", sock.as_raw_fd()));
            socks.push(sock);
            *bound = result.is_ok();
            let refused = result.is_err_and(|error| error.raw_os_error() == Some(Errno::EADDRNOTAVAIL as i32));
            ensure!(*bound || refused, "another error than EADDRNOTAVAIL");
        }
        if kind == Type::DGRAM {
            works = bound;
        }
        ensure!(bound == works, "TCP binds {bound:?}, UDP {works:?}");
    }
    stage.verdict(question, works, "bind takes this machine's addresses, groups and broadcast addresses")
}

pub fn octal(stage: &mut Stage) -> Result<Verdict> {
    let decimal = Some(Ipv4Addr::new(10, 10, 10, 6));
    let octal = Some(Ipv4Addr::new(8, 8, 8, 6));
    let question = stage.ask(
        "How does getaddrinfo read \"10.10.10.06\", and how does it read \"010.010.010.06\"?",
        [
            ("8.8.8.6 and 8.8.8.6", (octal, octal)),
            ("10.10.10.6 and 10.10.10.6", (decimal, decimal)),
            ("10.10.10.6 and 8.8.8.6", (decimal, octal)),
            ("both are no addresses", (None, None)),
        ],
        Predicts { source: Some((octal, octal)), kit: (decimal, octal) },
    )?;
    let read = [get_addr_info(stage, "10.10.10.06"), get_addr_info(stage, "010.010.010.06")];

    // Rust's own parser, as inet_pton(3), knows decimal numbers only.
    let parsed = "010.010.010.06".parse::<Ipv4Addr>();
    let parsed = parsed.map_err(|error| error.to_string());
    stage.say("Rust", format_args!("{:<31}{}", "parse(\"010.010.010.06\")", told(parsed)));

    // The kernel gets four bytes, never the text.
    let addr = SocketAddr::from((get_addr_info(stage, "127.0.0.010").context("127.0.0.010 is no address")?, 0));
    let sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", addr)?;
    let fd = sock.as_raw_fd();
    sock.bind(&addr.into()).at("bind", addr)?;
    stage.say("kernel", format_args!("bind({fd}, {addr}) = 0"));
    stage.say("kernel", format_args!("getsockname({fd}, {}) = 0", local_addr(&sock)?));
    stage.verdict(question, read.into(), "four octets, written in decimal; a leading 0 makes a number octal")
}

/// Lets the C library read an address, getaddrinfo(3) with inet_aton(3)'s rules; nothing is looked up or sent.
fn get_addr_info(stage: &mut Stage, text: &str) -> Option<Ipv4Addr> {
    // Rust parses what it can by itself; a number with a leading zero it leaves to getaddrinfo.
    let found = (text, 0).to_socket_addrs().map_err(|error| error.to_string());
    let ip = found.and_then(|mut addrs| addrs.find_map(|addr| ipv4(addr).ok()).ok_or("no IPv4 address".into()));
    stage.say("C library", format_args!("{:<31}{}", format!("getaddrinfo({text:?})"), told(ip.clone())));
    ip.ok()
}

fn told(read: Result<Ipv4Addr, String>) -> String {
    read.map_or_else(|error| error, |ip| ip.to_string())
}

/// The address as nix's sendto takes it.
pub fn sockaddr_in(addr: SocketAddr) -> Result<SockaddrIn> {
    match addr {
        SocketAddr::V4(addr) => Ok(addr.into()),
        SocketAddr::V6(addr) => bail!("{addr} is no IPv4 address"),
    }
}

fn ipv4(addr: SocketAddr) -> Result<Ipv4Addr> {
    match addr.ip() {
        IpAddr::V4(ip) => Ok(ip),
        IpAddr::V6(ip) => bail!("{ip} is no IPv4 address"),
    }
}

/// Whether an interface of this machine has this address.
pub fn is_ours(ip: Ipv4Addr) -> bool {
    let own = getifaddrs().into_iter().flatten().filter_map(|interface| interface.address);
    own.filter_map(|address| address.as_sockaddr_in().map(SockaddrIn::ip)).any(|own| own == ip)
}
