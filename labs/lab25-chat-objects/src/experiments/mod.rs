//! Where a method runs, and what is left of an object when a process is gone, decided by process ids and the kernel.

mod ends;
mod errors;
mod finding;
mod references;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsRawFd,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result};
use kernel::{
    State,
    need::{DESCRIPTORS, LOOPBACK, LOOPBACK_NETWORK, PORTS},
    tcp_sockets, wait_until,
};
use nix::{sys::signal::SigSet, unistd::Pid};
use remoc::RemoteSend;
use shared::{At, Experiment, Lesson, Role, Stage, returned};
use socket2::{Domain, Socket, Type};
use tokio::runtime::{Builder, Runtime};

use crate::connection::first_reference;

/// How long a state or an answer may take; far more than loopback needs.
const LIMIT: Duration = Duration::from_secs(10);

pub const LESSON: Lesson = Lesson {
    lab: crate::LAB,
    setting: "both ends are on this machine",
    needs: &[LOOPBACK, PORTS, DESCRIPTORS],
    experiments: &[
        Experiment {
            id: "whose-process",
            starred: true,
            minutes: 6,
            claim: "A remote reference is a globally unique reference; it may be passed as a parameter.",
            source: "notes ch.5, Distributed Objects; the question is ours",
            needs: &[],
            play: references::whose_process,
        },
        Experiment {
            id: "killed-client",
            starred: true,
            minutes: 6,
            claim: "An object continues to exist if at least one remote reference exists for it.",
            source: "notes ch.5, Distributed Objects, on garbage collection",
            needs: &[],
            play: ends::killed_client,
        },
        Experiment {
            id: "lost-panic",
            starred: true,
            minutes: 5,
            claim: "Distributed exceptions are additional ones: they come from the distributed nature of the system.",
            source: "notes ch.5, Distributed Objects; the question is ours",
            needs: &[],
            play: errors::lost_panic,
        },
        Experiment {
            id: "many-at-once",
            starred: false,
            minutes: 5,
            claim: "Once an object is served by a machine, one or multiple machines can use it.",
            source: "notes ch.5, Pyro; the question is ours",
            needs: &[],
            play: references::many_at_once,
        },
        Experiment {
            id: "third-process",
            starred: false,
            minutes: 6,
            claim: "The client is able to treat the remote object as if it was a true local object.",
            source: "notes ch.5, Pyro; the question is ours",
            needs: &[],
            play: references::third_process,
        },
        Experiment {
            id: "name-taken",
            starred: false,
            minutes: 4,
            claim: "register: a user is registered by name, self.users[me] = user.",
            source: "notes ch.5, Fig. 5.6; the question is ours",
            needs: &[],
            play: errors::name_taken,
        },
        Experiment {
            id: "restarted",
            starred: false,
            minutes: 5,
            claim: "Persistence: the way in which an object survives restarts of the server is to be handled.",
            source: "notes ch.5, Distributed Objects; the question is ours",
            needs: &[LOOPBACK_NETWORK],
            play: ends::restarted,
        },
        Experiment {
            id: "asked-group",
            starred: false,
            minutes: 4,
            claim: "On a LAN, broadcast finds a name server without any extra parameters.",
            source: "notes ch.5, Pyro; the question is ours",
            needs: &[],
            play: finding::asked_group,
        },
    ],
    next: &[
        ("by hand", "cargo lab25 server"),
        ("", "cargo lab25 client --name ann      (and: client --name bob)"),
        ("watch", "scripts/states.sh 7777 --watch"),
        ("sheet", "cargo lab25 sheet"),
    ],
};

/// What runs the demo's remote calls. Its one thread goes on while the class looks at a question.
struct Calls(Runtime);

impl Calls {
    fn new() -> Result<Calls> {
        let mut builder = Builder::new_multi_thread();
        // Signals are for the demo's own thread.
        builder.worker_threads(1).enable_all().on_thread_start(|| {
            let _ = SigSet::all().thread_block(); // EINVAL only for a wrong argument
        });
        Ok(Calls(builder.build().context("cannot start a thread; see the limit: ulimit -u")?))
    }

    /// Waits for a remote call, with a deadline.
    fn wait<T: Send + 'static>(&self, what: &str, call: impl Future<Output = T> + Send + 'static) -> Result<T> {
        self.wait_within(what, LIMIT, call)
    }

    fn wait_within<T: Send + 'static>(
        &self,
        what: &str,
        limit: Duration,
        call: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        let task = self.0.spawn(call);
        wait_until(what, limit, || Ok(task.is_finished().then_some(())))?;
        Ok(self.0.block_on(task)?)
    }

    /// Connects, shows the calls, and takes the first reference.
    fn connect<T: RemoteSend>(&self, stage: &mut Stage, label: &str, server_addr: SocketAddr) -> Result<T> {
        let sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
        let fd = sock.as_raw_fd();
        let connected = sock.connect(&server_addr.into());
        stage.say(label, format_args!("connect({fd}, {server_addr}) = {}", returned(&connected)));
        connected.at("connect", server_addr)?;
        self.wait("the first reference", first_reference(sock))?
    }
}

/// The address behind `text` in a line that a role prints.
fn address_behind(role: &mut Role, text: &str) -> Result<SocketAddr> {
    let line = role.line_with(text)?;
    line.rsplit(text).next().and_then(|addr| addr.trim().parse().ok()).context("no address in the line")
}

/// The real server as a child process, in a group that no other server is in.
fn server_role(options: &[&str]) -> Result<(Role, SocketAddr)> {
    let group = free_group()?.to_string();
    let mut server = Role::start(&[&["server", "0", "--group", &group], options].concat())?;
    let server_addr = address_behind(&mut server, "chat://")?;
    Ok((server, server_addr))
}

/// The real client as a child process; it is in.
fn client_role(name: &str, server_addr: SocketAddr) -> Result<Role> {
    let mut client = Role::start(&["client", "--name", name, "--uri", &server_addr.to_string()])?;
    client.wait_for(&format!("the window lives in process {}\n", client.pid()))?;
    Ok(client)
}

/// The workshop as a child process.
fn workshop_role() -> Result<(Role, SocketAddr)> {
    let mut workshop = Role::start(&["workshop"])?;
    let addr = address_behind(&mut workshop, "workshop at ")?;
    Ok((workshop, addr))
}

/// A group with a port that no server of this machine uses now.
fn free_group() -> Result<std::net::SocketAddrV4> {
    let sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", "")?;
    sock.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).at("bind", "")?;
    let port = sock.local_addr().at("getsockname", "")?.as_socket().context("not an IP socket")?.port();
    Ok(std::net::SocketAddrV4::new(Ipv4Addr::new(239, 1, 1, 1), port))
}

/// How many connections this server has: rows of the kernel's table with its port at their own end.
fn connections(server_addr: SocketAddr) -> Result<usize> {
    let rows = tcp_sockets(server_addr.port())?;
    Ok(rows.iter().filter(|row| row.state == State::Established && row.pair.local == server_addr).count())
}

/// Whether each thread of a process is stopped: state T in /proc/PID/task/TID/stat, t below strace.
fn stands_still(pid: Pid) -> Result<bool> {
    let folder = format!("/proc/{pid}/task");
    for thread in fs::read_dir(&folder).with_context(|| folder.clone())? {
        let stat = fs::read_to_string(thread?.path().join("stat"))?;
        if !stat.contains(") T ") && !stat.contains(") t ") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The other ends of all TCP connections that a process has.
fn peers_of(pid: Pid) -> Result<Vec<SocketAddr>> {
    let folder = format!("/proc/{pid}/fd");
    let links = fs::read_dir(Path::new(&folder)).with_context(|| folder.clone())?;
    let targets = links.filter_map(|link| fs::read_link(link.ok()?.path()).ok());
    let inodes: Vec<String> = targets.map(|target| target.to_string_lossy().into_owned()).collect();
    let rows = tcp_sockets(0)?.into_iter();
    Ok(rows.filter(|row| inodes.contains(&format!("socket:[{}]", row.inode))).map(|row| row.pair.peer).collect())
}
