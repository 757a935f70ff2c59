//! Two hosts and a cable: two network namespaces nested in a private user namespace, joined by a veth pair. No root needed.
//!
//! A socket belongs to the host on which it was opened, whoever uses its descriptor later. So one program can hold both
//! ends of a connection between the two hosts.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns, unshare};

use crate::{Need, namespace, setting, wait_until};

/// The network namespace of this thread.
const OWN: &str = "/proc/thread-self/ns/net";
/// The network device of either host; the cable joins the two.
pub const DEVICE: &str = "eth0";

/// One of the two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// 10.0.0.1
    A,
    /// 10.0.0.2
    B,
}

/// Both hosts. They are gone with the last socket and the last process on them.
pub struct Hosts {
    a: File,
    b: File,
}

impl Hosts {
    /// Makes both hosts and lays the cable. `outside` is the network namespace of whoever started this program, which
    /// must be root of a private one: [`namespace::command`].
    ///
    /// # Errors
    /// This is no private namespace; what ip(8) says.
    pub fn new(outside: &str) -> Result<Hosts> {
        namespace::ensure_private(outside)?;
        let hosts = Hosts { a: new_host()?, b: new_host()? };
        let b = format!("/proc/{}/fd/{}", std::process::id(), hosts.b.as_raw_fd());
        hosts.ip(Host::A, &format!("link add {DEVICE} type veth peer name {DEVICE} netns {b}"))?;
        for (host, addr) in [(Host::A, "10.0.0.1/24"), (Host::B, "10.0.0.2/24")] {
            hosts.ip(host, "link set lo up")?;
            hosts.ip(host, &format!("addr add {addr} dev {DEVICE}"))?;
            hosts.ip(host, &format!("link set {DEVICE} up"))?;
        }
        Ok(hosts)
    }

    /// From now on this thread opens its sockets, reads its tables and starts its programs on `host`.
    ///
    /// # Errors
    /// EPERM without root's rights in the namespace.
    pub fn enter(&self, host: Host) -> Result<()> {
        let namespace = match host {
            Host::A => &self.a,
            Host::B => &self.b,
        };
        setns(namespace, CloneFlags::CLONE_NEWNET).with_context(|| format!("setns to host {host:?}"))
    }

    /// Runs ip(8) on `host`, where this thread then is.
    ///
    /// # Errors
    /// It is not installed, or it fails.
    pub fn ip(&self, host: Host, command: &str) -> Result<()> {
        self.enter(host)?;
        let told =
            Command::new("ip").args(command.split(' ')).stdin(Stdio::null()).status().context("cannot start ip")?;
        ensure!(told.success(), "this failed on host {host:?}: ip {command}");
        Ok(())
    }
}

/// A network of its own for this thread; the descriptor keeps it.
fn new_host() -> Result<File> {
    unshare(CloneFlags::CLONE_NEWNET).context("unshare CLONE_NEWNET")?;
    File::open(OWN).with_context(|| format!("open {OWN}"))
}

/// Found by making a nested host and a veth pair, once.
fn possible() -> bool {
    static POSSIBLE: OnceLock<bool> = OnceLock::new();
    *POSSIBLE.get_or_init(|| {
        let mut command = namespace::command("unshare");
        command.args(["-n", "ip", "link", "add", DEVICE, "type", "veth", "peer", "name", "eth1"]);
        let Ok(mut child) = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn() else { return false };
        let ended = wait_until("the end of ip", namespace::START_LIMIT, || Ok(child.try_wait()?));
        let _ = child.kill(); // ESRCH: it has ended
        ended.is_ok_and(|status| status.success())
    })
}

/// Whether a setting forbids it: asked only where it is not possible.
fn allowed(name: &str, forbids: u64) -> bool {
    setting(name).first() != Some(&forbids) || possible()
}

/// For an experiment with two hosts; the first that is not met names what forbids them.
pub const HOSTS: [Need; 4] = [
    Need {
        what: "two hosts: kernel.apparmor_restrict_unprivileged_userns=0",
        provided_by: "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        met: || allowed("kernel/apparmor_restrict_unprivileged_userns", 1),
    },
    Need {
        what: "two hosts: kernel.unprivileged_userns_clone=1",
        provided_by: "sysctl -w kernel.unprivileged_userns_clone=1",
        met: || allowed("kernel/unprivileged_userns_clone", 0),
    },
    Need {
        what: "two hosts: room for namespaces (user.max_user_namespaces)",
        provided_by: "sysctl -w user.max_user_namespaces=1000 user.max_net_namespaces=1000",
        met: || allowed("user/max_user_namespaces", 0) && allowed("user/max_net_namespaces", 0),
    },
    Need {
        what: "two hosts: a namespace and a veth pair (unshare -Urn, ip)",
        provided_by: "apt-get install util-linux iproute2; modprobe veth; a container must allow unshare",
        met: possible,
    },
];
