//! The network in which the commands run: a private one with nothing in it but lo, else this machine's.

use std::fs;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::libc;
use nix::sched::{CloneFlags, unshare};
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
    probe.env_remove(shared::PARENT); // it has another parent than we have
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
