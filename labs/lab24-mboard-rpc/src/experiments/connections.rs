//! How many connections a call makes, and when.

use std::{
    collections::HashSet,
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsRawFd,
    thread,
};

use anyhow::{Context, Result, bail, ensure};
use dxr::Value;
use kernel::{Pair, Row, State};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv, send},
};
use shared::{At, Predicts, Stage, Verdict, returned};
use socket2::{Domain, Socket, Type};

use super::{CHUNK, LIMIT, accepted, ends, listening, proxy, server_role, waits};
use crate::{
    http::{self, Head},
    marshal::answer_to_xml,
    proxy::Failure,
};

/// As the lecture's client makes them for ten messages: listMethods, ten times publish, ten times get.
const MESSAGES: i32 = 10;

pub fn connected(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Notices {
        Proxy,
        FirstCall,
        Nothing,
    }
    // Bound and not listening: nobody serves here, and nobody else can take the port meanwhile.
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let bound_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", any_port)?;
    let bound_fd = bound_sock.as_raw_fd();
    stage.say("nobody", format_args!("socket(AF_INET, SOCK_STREAM, 0) = {bound_fd}"));
    bound_sock.bind(&any_port.into()).at("bind", any_port)?;
    stage.say("nobody", format_args!("bind({bound_fd}, 127.0.0.1:0) = 0  and no listen"));
    let addr = bound_sock.local_addr().at("getsockname", any_port)?.as_socket().context("not an IP socket")?;

    let question = stage.ask(
        "No server listens at this address. The client makes its proxy for it, and calls last(0). Where does it notice?",
        [
            ("where the proxy is made: ECONNREFUSED", Notices::Proxy),
            ("in the call: ECONNREFUSED", Notices::FirstCall),
            ("the call waits until a server comes", Notices::Nothing),
        ],
        Predicts { source: Some(Notices::Proxy), kit: Notices::FirstCall },
    )?;
    let before = own_sockets()?;
    let absent = proxy(addr);
    let made = own_sockets()?.saturating_sub(before);
    stage.client(format_args!("the proxy is made: {made} new sockets in this process"));
    let called = absent.call("last", vec![Value::Integer(0)]);
    stage.client(match &called {
        Ok(_) => "last(0) has a result".into(),
        Err(failure) => format!("last(0): {failure}"),
    });
    let observed = match called {
        Err(Failure::Connect(_, Some(Errno::ECONNREFUSED))) if made == 0 => Notices::FirstCall,
        Err(Failure::Connect(..)) => Notices::Proxy,
        _ => Notices::Nothing,
    };

    // The same with a server that keeps the connection, so that it can be counted.
    let (server, server_addr) = server_role(&["--threaded", "--keep"])?;
    let count = |stage: &mut Stage, after: &str| -> Result<usize> {
        let all = ends(server_addr.port())?;
        let count = all.iter().filter(|row| row.pair.peer == server_addr && row.state == State::Established).count();
        stage.say("kernel", format_args!("{after}: connections to a server that listens: {count}"));
        Ok(count)
    };
    let present = proxy(server_addr);
    let after_proxy = count(stage, "the proxy is made")?;
    present.call("last", vec![Value::Integer(0)])?;
    let after_call = count(stage, "the first call is done")?;
    ensure!((after_proxy, after_call) == (0, 1), "{after_proxy} and {after_call} connections");
    drop(server);
    stage.verdict(question, observed, "a proxy is an address and no connection; only the first call connects")
}

/// The sockets among this process's descriptors.
fn own_sockets() -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir("/proc/self/fd")? {
        // The descriptor of this very listing is gone by now, or is no socket.
        let target = fs::read_link(entry?.path()).unwrap_or_default();
        count += usize::from(target.to_string_lossy().starts_with("socket:"));
    }
    Ok(count)
}

pub fn connections(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Made {
        One,
        OneEach,
        TwoEach,
    }
    one_call(stage)?;

    let (mut server, server_addr) = server_role(&[])?;
    let question = stage.ask(
        "The server answers with HTTP/1.0, as the lecture's. One proxy makes 21 calls. How many connections are made?",
        [
            ("1, as there is one proxy", Made::One),
            ("21, one for each call", Made::OneEach),
            ("42: a call and its reply have one each", Made::TwoEach),
        ],
        Predicts { source: None, kit: Made::OneEach },
    )?;
    let (calls, pairs) = calls(server_addr)?;
    server.wait_for(" closed: ")?;
    stage.client(format_args!("{calls} calls: listMethods, {MESSAGES} times publish, {MESSAGES} times get"));
    stage.say("kernel", format_args!("{} connections to the server's port", pairs.len()));
    let ours = |row: &Row| row.state == State::TimeWait && pairs.contains(&as_one(row.pair, server_addr));
    let waiting = ends(server_addr.port())?.into_iter().filter(ours);
    let (at_server, at_client): (Vec<_>, Vec<_>) = waiting.partition(|row| row.pair.local == server_addr);
    stage.say(
        "kernel",
        format_args!("TIME-WAIT: {} at the server's port, {} at the client's ports", at_server.len(), at_client.len()),
    );
    // A FIN may be lost to a reset, so not every connection must be found.
    let observed = match pairs.len() {
        1 => Made::One,
        found if found > calls / 2 && found <= calls => Made::OneEach,
        found if found > calls => Made::TwoEach,
        found => bail!("{found} connections for {calls} calls"),
    };

    let (_server, server_addr) = server_role(&["--threaded", "--keep"])?;
    let (calls, pairs) = self::calls(server_addr)?;
    stage.say("mended", format_args!("server --threaded --keep, HTTP/1.1: {calls} calls, {} connection", pairs.len()));
    ensure!(pairs.len() == 1, "{} connections were made", pairs.len());
    stage.verdict(
        question,
        observed,
        "each call pays a handshake and a TIME-WAIT, unless HTTP/1.1 keeps the connection",
    )
}

/// What one call sends and receives; this program is the server.
fn one_call(stage: &mut Stage) -> Result<()> {
    let (listen_sock, server_addr) = listening()?;
    let client = thread::spawn(move || proxy(server_addr).call("last", vec![Value::Integer(0)]));
    let conn_sock = accepted(&listen_sock)?;
    let conn_fd = conn_sock.as_raw_fd();
    stage.server(format_args!("accept({}) = {conn_fd}", listen_sock.as_raw_fd()));
    let (mut received, mut buffer) = (Vec::new(), vec![0; CHUNK]);
    let head = loop {
        match Head::parse(&received, CHUNK) {
            Some(head) if received.len() >= head.length + head.body => break head,
            _ => {}
        }
        ensure!(waits(&conn_sock, LIMIT)?, "not seen within {LIMIT:?}: a call");
        match recv(conn_fd, &mut buffer, MsgFlags::empty()) {
            Err(Errno::EINTR) => {}
            bytes_read => received.extend(&buffer[..bytes_read.at("recv", server_addr)?]),
        }
    };
    stage.server(format_args!("last(0) is {} bytes of HTTP and {} of XML", head.length, head.body));
    stage.server("over lab15's wire the same question is \"2:0\": 3 bytes");
    let answer = http::answer(200, &answer_to_xml(&Ok(Value::Array(vec![]))), false);
    let sent = send(conn_fd, &answer, MsgFlags::MSG_NOSIGNAL);
    stage.server(format_args!("send({conn_fd}, {}) = {}  no message; lab15 sends 2", answer.len(), returned(&sent)));
    drop(conn_sock); // close(2)
    stage.server(format_args!("close({conn_fd}) = 0"));
    client.join().ok().context("the client's thread ended badly")??;
    Ok(())
}

/// Makes the calls with one proxy, and looks at the kernel's table after each: how many calls, and which connections.
fn calls(server_addr: SocketAddr) -> Result<(usize, HashSet<(SocketAddr, SocketAddr)>)> {
    let client = proxy(server_addr);
    // An earlier program may have had this port, and left its TIME-WAITs.
    let before: Vec<_> = ends(server_addr.port())?.iter().map(|row| as_one(row.pair, server_addr)).collect();
    let (mut calls, mut pairs) = (0, HashSet::new());
    let mut call = |name: &str, params: Vec<Value>| -> Result<Value> {
        let result = client.call(name, params)?;
        calls += 1;
        let all = ends(server_addr.port())?.into_iter().map(|row| as_one(row.pair, server_addr));
        pairs.extend(all.filter(|pair| !before.contains(pair)));
        Ok(result)
    };
    call("system.listMethods", vec![])?;
    let mut ids = Vec::new();
    for number in 0..MESSAGES {
        ids.push(call("publish", vec![Value::String(format!("message {number}"))])?);
    }
    for id in ids {
        call("get", vec![id])?;
    }
    Ok((calls, pairs))
}

/// A connection, from whichever of its ends it is seen: the server's address first.
fn as_one(Pair { local, peer }: Pair, server_addr: SocketAddr) -> (SocketAddr, SocketAddr) {
    if local == server_addr { (local, peer) } else { (peer, local) }
}
