//! What connect and accept do, and in which order.

use std::{net::SocketAddr, os::fd::AsRawFd};

use anyhow::{Context, Result, ensure};
use kernel::{Pair, Row, State, tcp_sockets, wait_for_state};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, SockaddrIn, recv, send, sendto},
};
use shared::{At, Predicts, Stage, Verdict, returned};

use super::{LIMIT, bound, client_socket, local_addr};

/// "GET before accept": its length is a number to look for.
const EARLY_BYTES: &[u8] = b"GET before accept";

pub fn before_accept(stage: &mut Stage) -> Result<Verdict> {
    /// What the client could do before accept, and what accept finds after it has gone.
    #[derive(Debug, PartialEq)]
    enum Seen {
        ConnectWaits,
        SendFails,
        NobodyLeft,
        SocketWithoutBytes,
        SocketAndBytes,
    }
    let (listen_sock, server_addr) = bound()?;
    listen_sock.listen(5).at("listen", server_addr)?;
    stage.server(format_args!("listen({}, 5) = 0", listen_sock.as_raw_fd()));
    let client_sock = client_socket()?;
    client_sock.set_write_timeout(Some(LIMIT)).at("setsockopt", server_addr)?; // for connect, too
    let client_fd = client_sock.as_raw_fd();

    stage.look(format_args!("ss -tan 'sport = :{0} or dport = :{0}'", server_addr.port()));
    let question = stage.ask(
        "Nobody has called accept. A client connects, sends 17 bytes and closes. Then the server accepts. What happens?",
        [
            ("connect waits: nobody picks up", Seen::ConnectWaits),
            ("connect works, send fails: nobody listens yet", Seen::SendFails),
            ("both work; accept finds nobody, the client has gone", Seen::NobodyLeft),
            ("both work; accept returns a socket, the bytes are lost", Seen::SocketWithoutBytes),
            ("both work; accept returns a socket, recv the 17 bytes", Seen::SocketAndBytes),
        ],
        Predicts { source: Some(Seen::ConnectWaits), kit: Seen::SocketAndBytes },
    )?;
    let lesson = "the kernel connects and receives; accept only fetches";
    let connected = client_sock.connect(&server_addr.into());
    stage.client(format_args!("connect({client_fd}, {server_addr}) = {}", returned(&connected)));
    if connected.as_ref().is_err_and(|error| error.raw_os_error() == Some(Errno::EINPROGRESS as i32)) {
        return stage.verdict(question, Seen::ConnectWaits, lesson); // LIMIT is over: socket(7), SO_SNDTIMEO
    }
    connected.at("connect", server_addr)?;
    let pair = Pair::of(&client_sock)?;
    stage.kernel([("client", pair), ("server's end", pair.other_end())])?;

    let sent = send(client_fd, EARLY_BYTES, MsgFlags::empty());
    stage.client(format_args!("send({client_fd}, \"GET before accept\", 17) = {}", returned(&sent)));
    if sent.is_err() {
        return stage.verdict(question, Seen::SendFails, lesson);
    }
    drop(client_sock); // close(2)
    stage.client(format_args!("close({client_fd}) = 0"));
    wait_for_state(pair, Some(State::FinWait2), LIMIT)?;
    stage.kernel([("client", pair), ("server's end", pair.other_end())])?;

    let accepted = listen_sock.accept();
    let observed = match &accepted {
        Ok((conn_sock, _)) => {
            let conn_fd = conn_sock.as_raw_fd();
            stage.server(format_args!("accept({}) = {conn_fd}", listen_sock.as_raw_fd()));
            let mut buffer = [0; 1024];
            let received = recv(conn_fd, &mut buffer, MsgFlags::empty());
            stage.server(format_args!("recv({conn_fd}, 1024) = {}", returned(&received)));
            let end = recv(conn_fd, &mut [0; 1024], MsgFlags::empty());
            stage.server(format_args!("recv({conn_fd}, 1024) = {}", returned(&end)));
            match received {
                Ok(bytes_read) if &buffer[..bytes_read] == EARLY_BYTES && end == Ok(0) => Seen::SocketAndBytes,
                _ => Seen::SocketWithoutBytes,
            }
        }
        Err(_) => {
            stage.server(format_args!("accept({}) = {}", listen_sock.as_raw_fd(), returned(&accepted.map(|_| ()))));
            Seen::NobodyLeft
        }
    };
    stage.verdict(question, observed, lesson)
}

pub fn not_listening(stage: &mut Stage) -> Result<Verdict> {
    let (server_sock, server_addr) = bound()?;
    stage.server(format_args!("bind({}, 127.0.0.1:0) = 0  port {}", server_sock.as_raw_fd(), server_addr.port()));
    let client_sock = client_socket()?;
    let client_fd = client_sock.as_raw_fd();

    let question = stage.ask(
        "A socket is created and bound, and nothing more. What does connect return?",
        [
            ("0: it waits in the queue", Ok(())),
            ("-1 ECONNREFUSED", Err(Errno::ECONNREFUSED)),
            ("-1 ETIMEDOUT, after two minutes", Err(Errno::ETIMEDOUT)),
        ],
        Predicts { source: Some(Ok(())), kit: Err(Errno::ECONNREFUSED) },
    )?;
    let refused = client_sock.connect(&server_addr.into());
    stage.client(format_args!("connect({client_fd}, {server_addr}) = {}", returned(&refused)));
    let observed = refused.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)));

    // The same socket once it listens: connect works.
    server_sock.listen(5).at("listen", server_addr)?;
    stage.server(format_args!("listen({}, 5) = 0", server_sock.as_raw_fd()));
    let second_sock = client_socket()?;
    second_sock.connect(&server_addr.into()).at("connect", server_addr)?;
    stage.client(format_args!("connect({}, {server_addr}) = 0", second_sock.as_raw_fd()));
    stage.verdict(question, observed, "without listen the SYN is answered with a reset")
}

pub fn new_socket(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Port {
        Listeners,
        Another,
    }
    let (listen_sock, server_addr) = bound()?;
    listen_sock.listen(5).at("listen", server_addr)?;
    stage.server(format_args!("listen({}, 5) = 0  on {server_addr}", listen_sock.as_raw_fd()));
    let client_sock = client_socket()?;
    stage.client(format_args!("not bound, not connected: {}", local_addr(&client_sock)?));

    let question = stage.ask(
        "The client connects, the server accepts. Which local port has the new socket?",
        [("a new one, so that the listener's stays free", Port::Another), ("the listener's", Port::Listeners)],
        Predicts { source: None, kit: Port::Listeners },
    )?;
    client_sock.connect(&server_addr.into()).at("connect", server_addr)?;
    stage.client(format_args!("connect({}, {server_addr}) = 0", client_sock.as_raw_fd()));
    let (conn_sock, peer_addr) = listen_sock.accept().at("accept", server_addr)?;
    let peer_addr = peer_addr.as_socket().context("not an IP socket")?;
    stage.server(format_args!("accept({}) = {}", listen_sock.as_raw_fd(), conn_sock.as_raw_fd()));

    let (client_end, server_end) = (Pair::of(&client_sock)?, Pair::of(&conn_sock)?);
    stage.client(format_args!("{} > {}", client_end.local, client_end.peer));
    stage.server(format_args!("{} > {}", server_end.local, server_end.peer));
    let open = |row: &Row| row.pair.local == server_addr && matches!(row.state, State::Listen | State::Established);
    let with_port = tcp_sockets(server_addr.port())?.iter().filter(|row| open(row)).count();
    stage.say("kernel", format_args!("{with_port} sockets have the local address {server_addr}"));
    ensure!(peer_addr == client_end.local, "accept names {peer_addr} as the client");
    let observed = if server_end.local.port() == server_addr.port() { Port::Listeners } else { Port::Another };
    stage.verdict(question, observed, "a connection is told by both addresses; the port is shared")
}

pub fn listener_io(stage: &mut Stage) -> Result<Verdict> {
    let (listen_sock, server_addr) = bound()?;
    let listen_fd = listen_sock.as_raw_fd();
    listen_sock.listen(5).at("listen", server_addr)?;
    stage.server(format_args!("listen({listen_fd}, 5) = 0"));
    let client_sock = client_socket()?;
    client_sock.connect(&server_addr.into()).at("connect", server_addr)?;
    stage.client(format_args!("connect({}, {server_addr}) = 0", client_sock.as_raw_fd()));
    let sent = send(client_sock.as_raw_fd(), b"hello", MsgFlags::empty());
    stage.client(format_args!("send({}, \"hello\", 5) = {}", client_sock.as_raw_fd(), returned(&sent)));

    let question = stage.ask(
        "The server calls recv, then send, on the listening socket itself. What happens?",
        [
            ("recv returns the 5 bytes, send reaches the client", (Ok(5), Ok(5))),
            ("ENOTCONN from both", (Err(Errno::ENOTCONN), Err(Errno::ENOTCONN))),
            ("EINVAL from both", (Err(Errno::EINVAL), Err(Errno::EINVAL))),
            ("ENOTCONN from recv, EPIPE from send", (Err(Errno::ENOTCONN), Err(Errno::EPIPE))),
        ],
        Predicts { source: None, kit: (Err(Errno::ENOTCONN), Err(Errno::EPIPE)) },
    )?;
    let received = recv(listen_fd, &mut [0; 1024], MsgFlags::empty());
    stage.server(format_args!("recv({listen_fd}, 1024) = {}", returned(&received)));
    let answered = send(listen_fd, b"hello", MsgFlags::empty());
    stage.server(format_args!("send({listen_fd}, \"hello\", 5) = {}", returned(&answered)));
    stage.verdict(question, (received, answered), "it has no peer; the bytes wait at the socket to be accepted")
}

pub fn no_connect(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Without {
        Sent,
        Refused(Errno),
    }
    let (listen_sock, server_addr) = bound()?;
    listen_sock.listen(5).at("listen", server_addr)?;
    stage.server(format_args!("listen({}, 5) = 0", listen_sock.as_raw_fd()));
    let client_sock = client_socket()?;
    let client_fd = client_sock.as_raw_fd();

    let question = stage.ask(
        "A TCP socket, never connected, calls sendto with an address and MSG_FASTOPEN. Result?",
        [
            ("it connects and sends", Without::Sent),
            ("-1 ENOTCONN", Without::Refused(Errno::ENOTCONN)),
            ("-1 EPIPE", Without::Refused(Errno::EPIPE)),
        ],
        Predicts { source: Some(Without::Refused(Errno::ENOTCONN)), kit: Without::Sent },
    )?;
    let SocketAddr::V4(addr) = server_addr else { anyhow::bail!("not an IPv4 address") };
    let fast_open = MsgFlags::from_bits_retain(nix::libc::MSG_FASTOPEN);
    let sent = sendto(client_fd, b"tfo", &SockaddrIn::from(addr), fast_open);
    stage.client(format_args!("sendto({client_fd}, \"tfo\", 3, MSG_FASTOPEN, {server_addr}) = {}", returned(&sent)));
    let observed = match sent {
        Ok(_) => {
            let pair = Pair::of(&client_sock)?;
            stage.kernel([("client", pair)])?;
            let (conn_sock, _) = listen_sock.accept().at("accept", server_addr)?;
            let conn_fd = conn_sock.as_raw_fd();
            stage.server(format_args!("accept({}) = {conn_fd}", listen_sock.as_raw_fd()));
            let mut buffer = [0; 8];
            let bytes_read = recv(conn_fd, &mut buffer, MsgFlags::empty()).at("recv", server_addr)?;
            stage.server(format_args!("recv({conn_fd}, 8) = {bytes_read}"));
            ensure!(&buffer[..bytes_read] == b"tfo", "the server read {:?}", &buffer[..bytes_read]);
            Without::Sent
        }
        Err(errno) => Without::Refused(errno),
    };
    stage.verdict(question, observed, "sendto(MSG_FASTOPEN) connects on the way")
}
