//! What connect and accept do, and in which order.

use std::{io, net::SocketAddr, os::fd::AsRawFd};

use anyhow::{Context, Result, bail, ensure};
use kernel::{Counters, Pair, Row, State, tcp_socket, tcp_sockets, wait_until};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, SockaddrIn, recv, send, sendto},
};
use shared::{At, Predicts, Stage, Verdict, returned};

use super::{TIME_LIMIT, bound, client_socket, local_addr};

/// 17 bytes: a number to look for in the output.
const EARLY_BYTES: &[u8] = b"GET before accept";

pub fn before_accept(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Seen {
        ConnectWaits,
        SendFails,
        AcceptFails,
        EndAtOnce,
        Bytes,
    }
    let (listen_sock, server_addr) = bound()?;
    listen_sock.listen(5).at("listen", server_addr)?;
    stage.server(format_args!("listen({}, 5) = 0", listen_sock.as_raw_fd()));
    let client_sock = client_socket()?;
    client_sock.set_write_timeout(Some(TIME_LIMIT)).at("setsockopt", server_addr)?; // SO_SNDTIMEO ends connect, too
    let client_fd = client_sock.as_raw_fd();

    stage.look(format_args!("ss -tan 'sport = :{0} or dport = :{0}'", server_addr.port()));
    let question = stage.ask(
        "Nobody has called accept. A client connects, sends 17 bytes and closes. Then the server accepts and reads. What does it get?",
        [
            ("nothing: connect waits for accept", Seen::ConnectWaits),
            ("nothing: send fails before accept", Seen::SendFails),
            ("an error from accept: the client has gone", Seen::AcceptFails),
            ("0 from recv: the bytes are lost", Seen::EndAtOnce),
            ("17 from recv, and then 0", Seen::Bytes),
        ],
        Predicts { source: Some(Seen::ConnectWaits), kit: Seen::Bytes },
    )?;
    let lesson = "the kernel connects and receives; accept only fetches the connection";
    // With SO_SNDTIMEO connect is not restarted after Ctrl-Z and fg; called again it waits on: signal(7).
    let connected = loop {
        match client_sock.connect(&server_addr.into()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => break result,
        }
    };
    stage.client(format_args!("connect({client_fd}, {server_addr}) = {}", returned(&connected)));
    if connected.as_ref().is_err_and(|error| error.raw_os_error() == Some(Errno::EINPROGRESS as i32)) {
        return stage.verdict(question, Seen::ConnectWaits, lesson); // TIME_LIMIT is over: socket(7), SO_SNDTIMEO
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
    // With tcp_max_tw_buckets=0 a socket that nobody has open leaves the table at FIN-WAIT-2.
    wait_until("the acknowledgement of the client's FIN", TIME_LIMIT, || {
        Ok(tcp_socket(pair)?.is_none_or(|row| row.state == State::FinWait2).then_some(()))
    })?;
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
                Ok(bytes_read) if &buffer[..bytes_read] == EARLY_BYTES && end == Ok(0) => Seen::Bytes,
                Ok(0) => Seen::EndAtOnce,
                other => bail!("recv returned {other:?}, then {end:?}"),
            }
        }
        Err(_) => {
            stage.server(format_args!("accept({}) = {}", listen_sock.as_raw_fd(), returned(&accepted.map(|_| ()))));
            Seen::AcceptFails
        }
    };
    stage.verdict(question, observed, lesson)
}

pub fn not_listening(stage: &mut Stage) -> Result<Verdict> {
    let (server_sock, server_addr) = bound()?;
    let server_fd = server_sock.as_raw_fd();
    stage.server(format_args!("bind({server_fd}, 127.0.0.1:0) = 0  port {}", server_addr.port()));
    let client_sock = client_socket()?;
    let client_fd = client_sock.as_raw_fd();

    let question = stage.ask(
        "A socket is created and bound, and nothing more. A client calls connect, then the server calls accept. What do they return?",
        [
            ("connect 0, accept a new socket", (Ok(()), Ok(()))),
            ("connect 0, accept -1 EINVAL", (Ok(()), Err(Errno::EINVAL))),
            ("connect -1 ECONNREFUSED, accept -1 EINVAL", (Err(Errno::ECONNREFUSED), Err(Errno::EINVAL))),
            ("connect -1 ECONNREFUSED, accept waits", (Err(Errno::ECONNREFUSED), Err(Errno::EAGAIN))),
            ("connect -1 ETIMEDOUT, accept waits", (Err(Errno::ETIMEDOUT), Err(Errno::EAGAIN))),
        ],
        Predicts { source: Some((Ok(()), Ok(()))), kit: (Err(Errno::ECONNREFUSED), Err(Errno::EINVAL)) },
    )?;
    let before = Counters::read()?;
    let connected = client_sock.connect(&server_addr.into());
    stage.client(format_args!("connect({client_fd}, {server_addr}) = {}", returned(&connected)));
    stage.counted(&before, ["OutRsts"])?;
    let accepted = server_sock.accept().map(|_| ());
    stage.server(format_args!("accept({server_fd}) = {}", returned(&accepted)));
    let observed = (connected.map_err(errno), accepted.map_err(errno));

    server_sock.listen(5).at("listen", server_addr)?;
    stage.server(format_args!("listen({server_fd}, 5) = 0"));
    let second_sock = client_socket()?;
    let second_fd = second_sock.as_raw_fd();
    second_sock.connect(&server_addr.into()).at("connect", server_addr)?;
    stage.client(format_args!("connect({second_fd}, {server_addr}) = 0"));
    let (conn_sock, _) = server_sock.accept().at("accept", server_addr)?;
    stage.server(format_args!("accept({server_fd}) = {}", conn_sock.as_raw_fd()));
    let on_connected = conn_sock.accept().map(|_| ());
    stage.server(format_args!("accept({}) = {}", conn_sock.as_raw_fd(), returned(&on_connected)));
    stage.verdict(
        question,
        observed,
        "accept needs a listening socket; before listen the kernel answers each SYN with a reset",
    )
}

pub fn new_socket(stage: &mut Stage) -> Result<Verdict> {
    let (listen_sock, server_addr) = bound()?;
    let (listen_fd, port) = (listen_sock.as_raw_fd(), server_addr.port());
    listen_sock.listen(5).at("listen", server_addr)?;
    stage.server(format_args!("listen({listen_fd}, 5) = 0  on {server_addr}"));
    let mut client_socks = Vec::new();
    for _ in 0..2 {
        let client_sock = client_socket()?;
        let client_fd = client_sock.as_raw_fd();
        stage.client(format_args!("socket {client_fd}, not bound: {}", local_addr(&client_sock)?));
        client_sock.connect(&server_addr.into()).at("connect", server_addr)?;
        stage.client(format_args!("connect({client_fd}, {server_addr}) = 0  from {}", local_addr(&client_sock)?));
        client_socks.push(client_sock);
    }

    let question = stage.ask(
        &format!("The server accepts both clients. How many of its sockets have the local port {port} then?"),
        [
            ("1: each new socket gets a port of its own", 1),
            ("2: the listener hands its port to them", 2),
            ("3: the listener and both new sockets", 3),
        ],
        Predicts { source: None, kit: 3 },
    )?;
    let mut server_socks = Vec::new();
    for client_sock in &client_socks {
        let (conn_sock, peer_addr) = listen_sock.accept().at("accept", server_addr)?;
        let peer_addr = peer_addr.as_socket().context("not an IP socket")?;
        stage.server(format_args!("accept({listen_fd}) = {}  from {peer_addr}", conn_sock.as_raw_fd()));
        ensure!(peer_addr == local_addr(client_sock)?, "accept names {peer_addr} as the client");
        server_socks.push(conn_sock);
    }
    server_socks.push(listen_sock);
    let mut with_port = 0;
    for sock in &server_socks {
        let local_addr = local_addr(sock)?;
        stage.server(format_args!("getsockname({}) = 0  {local_addr}", sock.as_raw_fd()));
        with_port += usize::from(local_addr.port() == port);
    }
    let open = |row: &&Row| row.pair.local == server_addr && row.inode != 0; // TIME-WAIT rows of others have inode 0
    let rows = tcp_sockets(port)?.iter().filter(open).count();
    stage.say("kernel", format_args!("{rows} sockets with a descriptor have the local address {server_addr}"));
    ensure!(rows == with_port, "getsockname tells of {with_port} sockets, the kernel's table of {rows}");
    stage.verdict(question, with_port, "they share the port; the client's address and port tell them apart")
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
        "The server calls recv, then send, on the listening socket itself. What do they return?",
        [
            ("recv 5, send 5", (Ok(5), Ok(5))),
            ("recv waits, send 5", (Err(Errno::EAGAIN), Ok(5))),
            ("recv 0, send -1 EINVAL", (Ok(0), Err(Errno::EINVAL))),
            ("recv -1 ENOTCONN, send -1 EPIPE", (Err(Errno::ENOTCONN), Err(Errno::EPIPE))),
        ],
        Predicts {
            source: Some((Err(Errno::ENOTCONN), Err(Errno::EPIPE))),
            kit: (Err(Errno::ENOTCONN), Err(Errno::EPIPE)),
        },
    )?;
    let received = recv(listen_fd, &mut [0; 1024], MsgFlags::empty());
    stage.server(format_args!("recv({listen_fd}, 1024) = {}", returned(&received)));
    let answered = send(listen_fd, b"hello", MsgFlags::empty());
    stage.server(format_args!("send({listen_fd}, \"hello\", 5) = {}", returned(&answered)));
    let (conn_sock, _) = listen_sock.accept().at("accept", server_addr)?;
    let conn_fd = conn_sock.as_raw_fd();
    stage.server(format_args!("accept({listen_fd}) = {conn_fd}"));
    let bytes_read = recv(conn_fd, &mut [0; 1024], MsgFlags::empty()).at("recv", server_addr)?;
    stage.server(format_args!("recv({conn_fd}, 1024) = {bytes_read}"));
    stage.verdict(
        question,
        (received, answered),
        "a listener has no peer; the bytes wait at the socket that accept returns",
    )
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
        "A TCP socket that is not connected calls sendto with 3 bytes, an address and the flag MSG_FASTOPEN. What does sendto return?",
        [
            ("3, the bytes sent", Without::Sent),
            ("-1 ENOTCONN", Without::Refused(Errno::ENOTCONN)),
            ("-1 EPIPE", Without::Refused(Errno::EPIPE)),
            ("-1 EISCONN", Without::Refused(Errno::EISCONN)),
        ],
        Predicts { source: Some(Without::Refused(Errno::EPIPE)), kit: Without::Sent },
    )?;
    let SocketAddr::V4(addr) = server_addr else { anyhow::bail!("not an IPv4 address") };
    let fast_open = MsgFlags::from_bits_retain(nix::libc::MSG_FASTOPEN);
    let sent = sendto(client_fd, b"tfo", &SockaddrIn::from(addr), fast_open);
    stage.client(format_args!("sendto({client_fd}, \"tfo\", 3, MSG_FASTOPEN, {server_addr}) = {}", returned(&sent)));
    let mut accepted = None; // open to the end, so that its descriptor is nobody else's
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
            accepted = Some(conn_sock);
            Without::Sent
        }
        Err(errno) => Without::Refused(errno),
    };
    let other_sock = client_socket()?;
    let other_fd = other_sock.as_raw_fd();
    let plain = sendto(other_fd, b"tfo", &SockaddrIn::from(addr), MsgFlags::empty());
    stage.say("other", format_args!("sendto({other_fd}, \"tfo\", 3, 0, {server_addr}) = {}", returned(&plain)));
    ensure!(plain == Err(Errno::EPIPE), "without the flag sendto returned {plain:?}");
    drop(accepted);
    stage.verdict(question, observed, "MSG_FASTOPEN connects and sends in one call; without the flag: EPIPE")
}

/// The number of a failed call.
fn errno(error: io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}
