//! From four clients to a thousand: what an idle one costs, and what happens when all connect at once.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use kernel::{Need, State, setting, tcp_sockets, wait_until};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        resource::{Resource, getrlimit, setrlimit},
        signal::{Signal, kill},
        socket::{MsgFlags, recv, send},
    },
};
use shared::{At, Predicts, Role, Stage, Verdict};
use socket2::{Domain, Socket, Type};

use super::{TIME_LIMIT, connected, crowd::stopped, listening, local_addr};

/// Idle connections; the last number is that of the clients in `storm`, too.
const IDLE: [usize; 3] = [1, 100, 1000];
const CROWD: usize = IDLE[2];
/// The fastest of so many batches is free of what else the machine does.
const BATCHES: usize = 40;
const CALLS: u32 = 20;

pub const MANY_DESCRIPTORS: Need = Need {
    what: "2200 descriptors a process",
    provided_by: "ulimit -Hn 4096; ulimit -n 4096",
    met: || getrlimit(Resource::RLIMIT_NOFILE).is_ok_and(|(_, most)| most >= 2200),
};

pub const MANY_PORTS: Need = Need {
    what: "2500 ports for the kernel to choose from",
    provided_by: "sysctl -w net.ipv4.ip_local_port_range='32768 60999'",
    met: || match setting("net/ipv4/ip_local_port_range")[..] {
        [first, last] => last.saturating_sub(first) >= 2500,
        _ => true,
    },
};

pub const LARGE_BACKLOG: Need = Need {
    what: "net.core.somaxconn of 1000 or more",
    provided_by: "sysctl -w net.core.somaxconn=4096",
    met: || setting("net/core/somaxconn").first().is_none_or(|most| *most >= CROWD as u64),
};

/// The soft limit is 1024 on many machines; a program may raise it up to the hard one.
fn raise_descriptor_limit() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).at("getrlimit", "RLIMIT_NOFILE")?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, most, most).at("setrlimit", "RLIMIT_NOFILE")?)
}

pub fn idle_cost(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    struct Dearer {
        poll: bool,
        epoll: bool,
    }
    raise_descriptor_limit()?;
    let (listen_sock, server_addr) = listening()?;
    let mut clients = Vec::new();
    let mut conn_socks = Vec::new();
    for _ in 0..=CROWD {
        let client_sock = connected(server_addr)?;
        client_sock.set_linger(Some(Duration::ZERO)).at("setsockopt", server_addr)?; // no TIME-WAIT of a thousand
        clients.push(client_sock);
        conn_socks.push(listen_sock.accept().at("accept", server_addr)?.0);
    }
    let (busy_sock, idle_socks) = conn_socks.split_first().context("there are a thousand")?;
    let client_fd = clients[0].as_raw_fd();
    let bytes_sent = send(client_fd, b"racecar\n", MsgFlags::empty()).at("send", server_addr)?;
    stage.client(format_args!("send({client_fd}, \"racecar\\n\", 8) = {bytes_sent}"));
    stage.server(format_args!("{CROWD} other clients are connected and silent"));

    let question = stage.ask(
        "One descriptor is ready, the others are idle. Does one call take longer with 1000 idle ones than with 1?",
        [
            ("poll: no, epoll_wait: no", Dearer { poll: false, epoll: false }),
            ("poll: no, epoll_wait: yes", Dearer { poll: false, epoll: true }),
            ("poll: yes, epoll_wait: no", Dearer { poll: true, epoll: false }),
            ("poll: yes, epoll_wait: yes", Dearer { poll: true, epoll: true }),
        ],
        Predicts { source: None, kit: Dearer { poll: true, epoll: false } },
    )?;
    let mut best = [[Duration::MAX; 3]; 2];
    for (at, idle) in IDLE.into_iter().enumerate() {
        let watched = || [busy_sock].into_iter().chain(&idle_socks[..idle]);
        let mut fds: Vec<PollFd> = watched().map(|sock| PollFd::new(sock.as_fd(), PollFlags::POLLIN)).collect();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).at("epoll_create1", "")?;
        for sock in watched() {
            epoll.add(sock, EpollEvent::new(EpollFlags::EPOLLIN, 0)).at("epoll_ctl", "")?;
        }
        let mut events = [EpollEvent::empty(); 8];
        for _ in 0..BATCHES {
            let one_call = |started: Instant| started.elapsed() / CALLS;
            let started = Instant::now();
            for _ in 0..CALLS {
                ensure!(poll(&mut fds, PollTimeout::ZERO).at("poll", "")? == 1, "poll found another number ready");
            }
            best[0][at] = best[0][at].min(one_call(started));
            let started = Instant::now();
            for _ in 0..CALLS {
                ensure!(epoll.wait(&mut events, EpollTimeout::ZERO).at("epoll_wait", "")? == 1, "not 1, as poll");
            }
            best[1][at] = best[1][at].min(one_call(started));
        }
    }
    let [poll_grows, epoll_grows] = best.map(|times| times[2].as_nanos() as f64 - times[0].as_nanos() as f64);
    for (name, times) in ["poll", "epoll"].into_iter().zip(best) {
        let [one, hundred, thousand] = times.map(|time| time.as_nanos() as f64 / 1000.0);
        let (by_100, by_1000) = (hundred / one, thousand / one);
        stage.say(name, format_args!("idle: 1 {one:.1} us   100 {hundred:.1} us   1000 {thousand:.1} us"));
        stage.say("", format_args!("100 idle: {by_100:.1} times the time with 1, 1000 idle: {by_1000:.1} times"));
    }
    // What a debugger or a busy machine adds to each call is in both: only what the idle ones add counts.
    let dearer =
        |grows: f64, other: f64, with_one: Duration| grows > other / 4.0 && grows > with_one.as_nanos() as f64 / 10.0;
    let observed = Dearer {
        poll: dearer(poll_grows, epoll_grows, best[0][0]),
        epoll: dearer(epoll_grows, poll_grows, best[1][0]),
    };
    stage.verdict(question, observed, "poll asks all each time; epoll is told")
}

pub fn storm(stage: &mut Stage) -> Result<Verdict> {
    raise_descriptor_limit()?;
    let mut servers = Vec::new();
    for name in ["server", "server-epoll"] {
        let mut server = Role::start(&[name, "0"])?;
        let banner = server.line_with("PORT : ")?;
        let port: u16 =
            banner.rsplit(' ').next().and_then(|port| port.parse().ok()).context("no port in the banner")?;
        stopped(&server)?;
        let rows = tcp_sockets(port)?;
        let listens = rows.iter().find(|row| row.state == State::Listen).context("the server does not listen")?;
        let backlog = listens.send_queue; // as ss shows it for LISTEN: what listen asked for, or somaxconn
        stage.say("stop", format_args!("{name} stands still: LISTEN, backlog (Send-Q) {backlog}"));
        servers.push((name, server, SocketAddr::from(([127, 0, 0, 1], port))));
    }
    let question = stage.ask(
        "1000 clients connect to each of the two at once. How many of them does the kernel connect, while no program calls accept?",
        [
            ("0 and 0", [0, 0]),
            ("4 and 1000", [4, CROWD]),
            ("17 and 1000", [17, CROWD]),
            ("1000 and 1000", [CROWD, CROWD]),
        ],
        Predicts { source: None, kit: [17, CROWD] },
    )?;
    let mut observed = [0, 0];
    let mut crowds = Vec::new();
    for ((name, _, server_addr), (observed, expected)) in servers.iter().zip(observed.iter_mut().zip([17, CROWD])) {
        let mut crowd = Vec::new();
        for _ in 0..CROWD {
            let client_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
            client_sock.set_linger(Some(Duration::ZERO)).at("setsockopt", server_addr)?; // no TIME-WAIT of a thousand
            client_sock.set_nonblocking(true).at("fcntl", server_addr)?;
            match client_sock.connect(&(*server_addr).into()) {
                Err(error) if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => {}
                result => result.at("connect", server_addr)?,
            }
            crowd.push(client_sock);
        }
        stage.client(format_args!("{CROWD} sockets, and connect on each to {server_addr}"));
        let established = || {
            let rows = tcp_sockets(server_addr.port())?;
            Ok::<_, anyhow::Error>(rows.iter().filter(|row| row.state == State::Established).count())
        };
        // Whoever comes too late for the queue stays in SYN-SENT; those that found room may need a moment.
        let _ = wait_until("the handshakes", TIME_LIMIT, || Ok((established()? >= expected).then_some(())));
        *observed = established()?;
        stage.say("kernel", format_args!("{name}: {observed} connections ESTABLISHED, none accepted"));
        crowds.push(crowd);
    }
    let (_, mut server, _) = servers.pop().context("there are two")?;
    drop(servers); // the other one, still stopped: closed with its queue
    let crowd = crowds.pop().context("there are two")?;
    drop(crowds);
    if observed[1] == CROWD {
        kill(server.pid(), Signal::SIGCONT).at("kill", server.pid())?;
        stage.say("go on", format_args!("kill -CONT {}", server.pid()));
        for client_sock in &crowd {
            server.wait_for(&format!("> New connection [{}]\n", local_addr(client_sock)?))?;
        }
        stage.server(format_args!("> New connection, {CROWD} times"));
        server.type_line("all here?")?;
        stage.say("operator", "all here?");
        let mut heard = 0;
        for client_sock in &crowd {
            client_sock.set_nonblocking(false).at("fcntl", "")?;
            client_sock.set_read_timeout(Some(TIME_LIMIT)).at("setsockopt", "")?;
            let mut buffer = [0; 64];
            let bytes_read = loop {
                match recv(client_sock.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                    Err(Errno::EINTR) => {} // Ctrl-Z, then fg
                    received => break received.at("recv", "")?,
                }
            };
            heard += usize::from(&buffer[..bytes_read] == b"all here?\n");
        }
        stage.client(format_args!("{heard} of {CROWD} have the line"));
        ensure!(heard == CROWD, "{} clients without the line", CROWD - heard);
    }
    stage.verdict(question, observed, "the backlog and one more; the others retry")
}
