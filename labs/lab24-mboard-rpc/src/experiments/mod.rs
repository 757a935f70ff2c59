//! What a call hides, and what it cannot hide, decided by the kernel.

mod connections;
mod ends;
mod python;
mod values;
mod waiting;

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsFd,
    process::Command,
    sync::OnceLock,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kernel::{
    Need, Patience, Row, State,
    need::{DESCRIPTORS, LOOPBACK, PORTS, TIME_WAIT_BUCKETS},
    tcp_sockets,
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use shared::{At, Experiment, Lesson, Role};
use socket2::{Domain, Socket, Type};

use crate::{http::PATH, proxy::Proxy};

/// How long a state or an answer may take; far more than loopback needs.
const LIMIT: Duration = Duration::from_secs(10);
/// How long to listen where nothing is expected to come.
const SILENCE: Duration = Duration::from_millis(300);
const CHUNK: usize = 65_536;

/// Where Python is the subject.
const PYTHON: Need = Need {
    what: "python3 with its modules xmlrpc.client and xmlrpc.server",
    provided_by: "apt-get install python3",
    met: || {
        static MET: OnceLock<bool> = OnceLock::new();
        let check = || {
            let ran = Command::new("python3").args(["-c", "import xmlrpc.client, xmlrpc.server"]).output();
            ran.is_ok_and(|ran| ran.status.success())
        };
        *MET.get_or_init(check)
    },
};

pub const LESSON: Lesson = Lesson {
    lab: crate::LAB,
    setting: "the server is a process of its own",
    needs: &[LOOPBACK, PORTS, DESCRIPTORS],
    experiments: &[
        Experiment {
            id: "connected",
            starred: true,
            minutes: 6,
            claim: "ServerProxy(...) connects to the server: the client then logs \"Connected to Mboard XMLRPC server!\".",
            source: "notes ch.5, Figure 5.5",
            needs: &[],
            play: connections::connected,
        },
        Experiment {
            id: "killed-in-call",
            starred: true,
            minutes: 8,
            claim: "A remote procedure call is equivalent to a function call: it returns once the function has run.",
            source: "notes ch.5, How does it work?; the question is ours",
            needs: &[],
            play: ends::killed_in_call,
        },
        Experiment {
            id: "behind-the-slow",
            starred: true,
            minutes: 6,
            claim: "When the request arrives, the server calls a dispatch routine, then sends the reply.",
            source: "notes ch.5, How does it work?; the question is ours",
            needs: &[],
            play: waiting::behind_the_slow,
        },
        Experiment {
            id: "asked-twice",
            starred: false,
            minutes: 5,
            claim: "The client calls the stub once; the stub sends the call to the server and waits for the reply.",
            source: "notes ch.5, steps 1 to 11; the question is ours",
            needs: &[PYTHON],
            play: python::asked_twice,
        },
        Experiment {
            id: "connections",
            starred: false,
            minutes: 6,
            claim: "There are tasks in which RPC underperforms other protocols on top of TCP or UDP.",
            source: "notes ch.5, RPC disadvantages; the question is ours",
            needs: &[TIME_WAIT_BUCKETS],
            play: connections::connections,
        },
        Experiment {
            id: "large-id",
            starred: false,
            minutes: 5,
            claim: "Step 7: the server's stub converts the result if needed and marshals it.",
            source: "notes ch.5, steps 1 to 11; the question is ours",
            needs: &[],
            play: values::large_id,
        },
        Experiment {
            id: "who-asked",
            starred: false,
            minutes: 4,
            claim: "publish(msg, source) keeps the source of a message beside its text.",
            source: "notes ch.5, Figure 5.4; the question is ours",
            needs: &[],
            play: values::who_asked,
        },
        Experiment {
            id: "private-names",
            starred: false,
            minutes: 5,
            claim: "register_instance(mboard) registers all functions of the Mboard instance.",
            source: "notes ch.5, Figure 5.4, line 44",
            needs: &[PYTHON],
            play: python::private_names,
        },
    ],
    next: &[
        ("by hand", "cargo lab24 server --slow"),
        ("", "cargo lab24 client --publish 'Hello world!' --last 3"),
        ("by name", "cargo lab24 names   and   cargo lab24 server 0 --name board"),
        ("watch", "scripts/states.sh 7777 --watch"),
        ("sheet", "cargo lab24 sheet"),
    ],
};

/// A listening socket on a port of the kernel's choice.
fn listening() -> Result<(Socket, SocketAddr)> {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listen_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", any_port)?;
    listen_sock.bind(&any_port.into()).at("bind", any_port)?;
    listen_sock.listen(16).at("listen", any_port)?;
    let server_addr = listen_sock.local_addr().at("getsockname", any_port)?.as_socket().context("not an IP socket")?;
    Ok((listen_sock, server_addr))
}

/// The real server as a child process, on a port of the kernel's choice.
fn server_role(options: &[&str]) -> Result<(Role, SocketAddr)> {
    let mut server = Role::start(&[&["server", "0"], options].concat())?;
    let banner = server.line_with(" messages; calls to http://")?;
    let addr = banner.trim_end().strip_suffix(PATH).and_then(|banner| banner.rsplit('/').next());
    Ok((server, addr.and_then(|addr| addr.parse().ok()).context("no address in the banner")?))
}

/// A stub without a limit: a recv with one would fail after Ctrl-Z and fg, see signal(7).
fn proxy(server_addr: SocketAddr) -> Proxy {
    Proxy::new(server_addr, None)
}

/// Both ends of all connections with this port, the listening socket left out.
fn ends(port: u16) -> Result<Vec<Row>> {
    let all = tcp_sockets(0)?.into_iter().filter(|row| row.state != State::Listen);
    Ok(all.filter(|row| row.pair.local.port() == port || row.pair.peer.port() == port).collect())
}

/// Waits until the socket has something to receive or to accept; false if nothing comes in time.
fn waits(sock: &Socket, limit: Duration) -> Result<bool> {
    let mut patience = Patience::new(limit);
    while !patience.is_over() {
        let mut fds = [PollFd::new(sock.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::try_from(patience.step())?) {
            Ok(0) | Err(Errno::EINTR) => {}
            ready => return Ok(ready.at("poll", "")? > 0),
        }
    }
    Ok(false)
}

/// Accepts the connection that must have come.
fn accepted(listen_sock: &Socket) -> Result<Socket> {
    ensure!(waits(listen_sock, LIMIT)?, "not seen within {LIMIT:?}: a connection");
    Ok(listen_sock.accept().at("accept", "")?.0)
}
