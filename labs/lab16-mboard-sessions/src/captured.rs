//! The same over a TCP connection and over a session, each captured, with one loss each: a packet socket needs
//! CAP_NET_RAW, so this runs as a child of the demo. It prints what passed; the demo reads it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use kernel::{Capture, Packet, Pair, wait_for_state, wait_until};
use nix::{
    poll::{PollFd, PollFlags, poll},
    sys::socket::{MsgFlags, SockaddrStorage, recv, recvfrom, send, sendto},
};
use shared::{At, Screen};
use socket2::{Domain, SockFilter, Socket, Type};

use crate::{
    session::{BLOCK_LEN, ClientEnd, Event, Limits, Sessions, Timing, wire::Datagram},
    udp::{BUFFER_SIZE, random, source_addr, until},
};

/// What TCP carries, in two sends; the second one is lost.
pub const PARTS: [&[u8]; 2] = [b"Hello ", b"world!"];
/// From this block of the session on everything is lost, until it is sent again.
const LOST_BLOCK: u32 = 2;
const LIMIT: Duration = Duration::from_secs(5);
const TIMING: Timing = Timing { first: Duration::from_millis(200), most: Duration::from_secs(2), attempts: 8 };
/// Classic BPF, the one instruction "return 0": of each packet keep nothing (BPF_RET, linux/filter.h).
const DROP: [(u16, u8, u8, u32); 1] = [(0x06, 0, 0, 0)];

/// Plays both and prints them.
pub fn run() -> Result<()> {
    let capture = Capture::start()?;
    tcp(&capture)?;
    session(&capture)?;
    Screen::new().line("end of the capture");
    Ok(())
}

/// From now on this socket loses whatever arrives for it.
fn lose(sock: &Socket) -> Result<()> {
    let filter = DROP.map(|(code, jt, jf, k)| SockFilter::new(code, jt, jf, k));
    Ok(sock.attach_filter(&filter).at("setsockopt", "SO_ATTACH_FILTER")?)
}

fn tcp(capture: &Capture) -> Result<()> {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listen_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", any_port)?;
    listen_sock.bind(&any_port.into()).at("bind", any_port)?;
    listen_sock.listen(1).at("listen", any_port)?;
    let server_addr = listen_sock.local_addr().at("getsockname", "")?.as_socket().context("not an IP socket")?;
    let client_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
    client_sock.connect(&server_addr.into()).at("connect", server_addr)?;
    let (conn_sock, _) = listen_sock.accept().at("accept", server_addr)?;
    conn_sock.set_read_timeout(Some(LIMIT)).at("setsockopt", "")?;
    let (pair, mut packets) = (Pair::of(&client_sock)?, Vec::new());
    let mut buffer = [0; 64];

    send(client_sock.as_raw_fd(), PARTS[0], MsgFlags::empty()).at("send", server_addr)?;
    recv(conn_sock.as_raw_fd(), &mut buffer, MsgFlags::empty()).at("recv", "")?;
    // SYN, SYN ACK, ACK, the bytes, and their acknowledgement: only then the second part, so that nothing is late.
    seen(capture, pair, &mut packets, |packets| packets.len() >= 5)?;
    lose(&conn_sock)?;
    send(client_sock.as_raw_fd(), PARTS[1], MsgFlags::empty()).at("send", server_addr)?;
    let twice = |packets: &[Packet]| packets.iter().filter(|packet| packet.bytes.ends_with(PARTS[1])).count() >= 2;
    seen(capture, pair, &mut packets, twice)?;
    conn_sock.detach_filter().at("setsockopt", "SO_DETACH_FILTER")?;
    let bytes_read = recv(conn_sock.as_raw_fd(), &mut buffer, MsgFlags::empty()).at("recv", "")?;
    ensure!(&buffer[..bytes_read] == PARTS[1], "TCP delivered something else");
    drop(client_sock); // close(2)
    recv(conn_sock.as_raw_fd(), &mut buffer, MsgFlags::empty()).at("recv", "")?;
    drop(conn_sock);
    wait_for_state(pair.other_end(), None, LIMIT)?; // the last segment has come
    packets.extend(capture.packets(pair)?);
    print("tcp", &packets);
    Ok(())
}

/// Looks until the captured packets are as wanted.
fn seen(capture: &Capture, pair: Pair, packets: &mut Vec<Packet>, wanted: impl Fn(&[Packet]) -> bool) -> Result<()> {
    wait_until("the captured segments", LIMIT, || {
        packets.extend(capture.packets(pair)?);
        Ok(wanted(packets).then_some(()))
    })
}

/// Both ends of a session in one loop, over two sockets.
fn session(capture: &Capture) -> Result<()> {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server_sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", any_port)?;
    server_sock.bind(&any_port.into()).at("bind", any_port)?;
    let server_addr = server_sock.local_addr().at("getsockname", "")?.as_socket().context("not an IP socket")?;
    let client_sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", server_addr)?;
    client_sock.connect(&server_addr.into()).at("connect", server_addr)?;
    let pair = Pair::of(&client_sock)?;

    let start = Instant::now();
    let limits = Limits { sessions: 1, message: 1 << 20, memory: 1 << 20, idle: 10 * LIMIT, timing: TIMING };
    let mut sessions = Sessions::new(limits, random);
    let request = vec![b'a'; 2 * BLOCK_LEN + 100];
    let mut client = ClientEnd::new(random(), request, 2, TIMING, 1 << 20, start.elapsed());
    let (mut buffer, mut losing) = (vec![0; BUFFER_SIZE], false);
    while client.result().is_none() {
        for datagram in client.due(start.elapsed()) {
            let number = match Datagram::parse(&datagram) {
                Some(Datagram::Block { number, .. }) => number,
                _ => 0,
            };
            match (number, losing) {
                (LOST_BLOCK, false) => {
                    lose(&server_sock)?;
                    losing = true;
                }
                (LOST_BLOCK, true) => server_sock.detach_filter().at("setsockopt", "SO_DETACH_FILTER")?,
                _ => {}
            }
            send(client_sock.as_raw_fd(), &datagram, MsgFlags::empty()).at("send", server_addr)?;
        }
        for (to, datagram) in sessions.due(start.elapsed()).0 {
            let to = SockaddrStorage::from(to);
            sendto(server_sock.as_raw_fd(), &datagram, &to, MsgFlags::empty()).at("sendto", server_addr)?;
        }
        let deadline = client.deadline().into_iter().chain(sessions.deadline()).min();
        let mut fds = [&server_sock, &client_sock].map(|sock| PollFd::new(sock.as_fd(), PollFlags::POLLIN));
        poll(&mut fds, until(deadline, start.elapsed())).at("poll", "")?;
        let ready = fds.map(|fd| fd.any() == Some(true));
        if ready[0] {
            let (bytes_read, from) =
                recvfrom::<SockaddrStorage>(server_sock.as_raw_fd(), &mut buffer).at("recvfrom", "")?;
            let event = sessions.hear(source_addr(from)?, &buffer[..bytes_read], start.elapsed());
            if let Some(Event::Whole { session, .. }) = event {
                sessions.answer(session, b"0:".into());
            }
        }
        if ready[1] {
            let bytes_read = recv(client_sock.as_raw_fd(), &mut buffer, MsgFlags::empty()).at("recv", "")?;
            client.hear(&buffer[..bytes_read], start.elapsed());
        }
    }
    print("udp", &capture.packets(pair)?);
    Ok(())
}

fn print(label: &str, packets: &[Packet]) {
    let mut screen = Screen::new();
    packets.iter().for_each(|packet| screen.line(format_args!("{label} {packet}")));
}
