//! The network in which the commands run: a private one with nothing in it but lo, else this machine's.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::libc;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use nix::unistd::{getgid, getuid};

use super::wire::Wire;

/// Where the commands run, and what can be seen there.
pub enum Network {
    /// A network of their own.
    Private,
    /// This machine's network, seen on lo.
    Shared,
    /// This machine's network; its packets cannot be captured.
    Unseen,
}

impl Network {
    /// What it is, for the head of the output.
    pub fn name(&self) -> &'static str {
        match self {
            Network::Private => "private network",
            Network::Shared => "this machine's lo: other programs' packets are left out by port",
            Network::Unseen => {
                "this machine's network, without its packets: neither a private namespace nor CAP_NET_RAW here"
            }
        }
    }
}

/// Goes to a private network if that is possible. Call it before any thread exists.
///
/// # Errors
/// It seemed possible and failed.
pub fn enter() -> Result<Network> {
    // What fails half-way cannot be undone: a child tries it first.
    let mut probe = Command::new("/proc/self/exe");
    let probe =
        probe.args(["run", "--probe"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if probe.is_ok_and(|status| status.success()) {
        enter_private()?;
        return Ok(Network::Private);
    }
    Ok(if Wire::tap().is_ok() { Network::Shared } else { Network::Unseen })
}

/// A network namespace with lo up. root needs no more; everybody else makes a user namespace around it, in which every
/// number of an account stays what it is: a program that is not root does not become root by being looked at.
///
/// # Errors
/// What unshare(2) says, what the maps of user_namespaces(7) say, what rtnetlink(7) says, EPERM of a packet socket.
pub fn enter_private() -> Result<()> {
    let (uid, gid) = (getuid(), getgid());
    if unshare(CloneFlags::CLONE_NEWNET).is_err() {
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET).context("unshare CLONE_NEWUSER|CLONE_NEWNET")?;
        for (file, text) in [
            ("/proc/self/setgroups", "deny".into()),
            ("/proc/self/uid_map", format!("{uid} {uid} 1")),
            ("/proc/self/gid_map", format!("{gid} {gid} 1")),
        ] {
            fs::write(file, text).with_context(|| format!("write {file}"))?;
        }
    }
    lo_up()?;
    Wire::tap()?;
    Ok(())
}

/// As `ip link set lo up`: one request to rtnetlink(7).
fn lo_up() -> Result<()> {
    const UP: u32 = libc::IFF_UP as u32;
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    let request = [
        &32u32.to_ne_bytes()[..], // nlmsghdr: length, type, flags, sequence number, port
        &libc::RTM_NEWLINK.to_ne_bytes(),
        &flags.to_ne_bytes(),
        &[0; 8],
        &[0; 4],             // ifinfomsg: family and type
        &1i32.to_ne_bytes(), // lo is the first interface of every namespace
        &UP.to_ne_bytes(),   // the flag
        &UP.to_ne_bytes(),   // which flags to change
    ]
    .concat();
    let netlink = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)
        .context("socket NETLINK_ROUTE")?;
    send(netlink.as_raw_fd(), &request, MsgFlags::empty()).context("send NETLINK_ROUTE")?;
    let mut answer = [0; 1024];
    let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty()).context("recv NETLINK_ROUTE")?;
    ensure!(answer.get(16..20).filter(|_| length >= 20) == Some(&[0; 4]), "rtnetlink refused to bring lo up");
    Ok(())
}

/// The network namespaces in which the commands have sockets; the first is that of this program.
pub struct Networks(Vec<(String, File)>);

impl Networks {
    /// The own one.
    ///
    /// # Errors
    /// /proc is not there.
    pub fn own() -> Result<Networks> {
        let mut networks = Networks(Vec::new());
        networks.add("self")?;
        Ok(networks)
    }

    /// That of a thread, if it is not known yet. Whether it is new.
    ///
    /// # Errors
    /// The thread is gone, or it is somebody else's.
    pub fn add(&mut self, thread: &str) -> Result<bool> {
        let path = format!("/proc/{thread}/ns/net");
        let name = fs::read_link(&path).with_context(|| format!("readlink {path}"))?.to_string_lossy().into_owned();
        let new = !self.0.iter().any(|(known, _)| *known == name);
        if new {
            let file = File::open(&path).with_context(|| format!("open {path}"))?;
            self.0.push((name, file));
        }
        Ok(new)
    }

    /// Does something in each network; the last is the newest.
    ///
    /// # Errors
    /// What `there` fails with; EPERM from setns(2).
    pub fn in_each<T>(&self, there: impl FnMut() -> Result<T>) -> Result<Vec<T>> {
        self.in_some(0, there)
    }

    /// Does something in the newest network.
    ///
    /// # Errors
    /// As [`Networks::in_each`].
    pub fn in_newest<T>(&self, there: impl FnMut() -> Result<T>) -> Result<Option<T>> {
        Ok(self.in_some(self.0.len().saturating_sub(1), there)?.pop())
    }

    fn in_some<T>(&self, from: usize, mut there: impl FnMut() -> Result<T>) -> Result<Vec<T>> {
        if self.0.len() == 1 {
            return Ok(vec![there()?]);
        }
        let enter = |file: &File| setns(file, CloneFlags::CLONE_NEWNET).context("setns");
        let mut results = Vec::new();
        for (_, file) in &self.0[from..] {
            enter(file)?;
            results.push(there());
        }
        enter(&self.0[0].1)?;
        results.into_iter().collect()
    }
}
