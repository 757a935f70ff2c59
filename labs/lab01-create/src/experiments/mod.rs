//! The lecture's claims about a bare socket, decided by the kernel. The other process is always the real `hold`.

mod descriptors;
mod sharing;

use std::{collections::BTreeMap, fs, os::fd::RawFd, time::Duration};

use anyhow::{Context, Result};
use kernel::{
    Need,
    need::{DESCRIPTORS, LOOPBACK, PORTS},
    setting,
};
use shared::{At, Experiment, Lesson, Role};

/// How long an answer may take; far more than any machine needs.
const LIMIT: Duration = Duration::from_secs(5);

const MPTCP: Need = Need {
    what: "a kernel with MPTCP, switched on",
    provided_by: "as root: sysctl -w net.mptcp.enabled=1",
    met: || setting("net/mptcp/enabled") == [1],
};

pub const LESSON: Lesson = Lesson {
    lab: crate::LAB,
    setting: "this process and hold as its child",
    needs: &[DESCRIPTORS],
    experiments: &[
        Experiment {
            id: "same-number",
            starred: true,
            minutes: 4,
            claim: "Each run of the program gives another process id and another descriptor.",
            source: "notes ch.2, Creating socket",
            needs: &[],
            play: descriptors::same_number,
        },
        Experiment {
            id: "kill-9",
            starred: true,
            minutes: 4,
            claim: "When the program is terminated, the OS closes its descriptors.",
            source: "notes ch.2, Creating socket",
            needs: &[],
            play: sharing::kill_9,
        },
        Experiment {
            id: "two-numbers",
            starred: true,
            minutes: 5,
            claim: "For the OS a socket is a descriptor with a unique number, and close() closes the socket.",
            source: "notes ch.2, What is a socket?",
            needs: &[],
            play: sharing::two_numbers,
        },
        Experiment {
            id: "under-proc",
            starred: false,
            minutes: 2,
            claim: "Creating a socket is like opening a file: ls -l /proc/X/fd/Y shows its descriptor.",
            source: "notes ch.2, Creating socket; the question is ours",
            needs: &[],
            play: descriptors::under_proc,
        },
        Experiment {
            id: "unbound",
            starred: false,
            minutes: 3,
            claim: "Creating a socket adds a descriptor; binding it adds it to the list of bound sockets.",
            source: "notes ch.2, Creating socket and Binding socket",
            needs: &[LOOPBACK, PORTS],
            play: descriptors::unbound,
        },
        Experiment {
            id: "on-exec",
            starred: false,
            minutes: 3,
            claim: "The OS assigns the descriptor to the process that created the socket.",
            source: "notes ch.2, Creating socket; the question is ours",
            needs: &[],
            play: sharing::on_exec,
        },
        Experiment {
            id: "read-write",
            starred: false,
            minutes: 2,
            claim: "A socket is similar to a file, but in place of read, write and seek it has send and recvfrom.",
            source: "notes ch.2, What is a socket?",
            needs: &[],
            play: sharing::read_write,
        },
        Experiment {
            id: "protocol",
            starred: false,
            minutes: 2,
            claim: "The socket type controls the transport layer protocol.",
            source: "notes ch.2, What is a socket?",
            needs: &[MPTCP],
            play: descriptors::protocol,
        },
    ],
    next: &[
        ("by hand", "cargo lab01 hold    (or hold --type stream)"),
        ("look", "ls -l /proc/PID/fd    with the PID that hold prints"),
        ("watch", "scripts/fds.sh PID"),
        ("sheet", "cargo lab01 sheet"),
    ],
};

/// The real `hold` as a child process, its process id as it prints it, and its descriptor.
struct Hold {
    role: Role,
    pid: i32,
    fd: RawFd,
}

/// Starts `hold` for a day: longer than any class.
fn hold_role(options: &[&str]) -> Result<Hold> {
    let mut role = Role::start(&[&["hold", "--seconds", "86400"], options].concat())?;
    let pid = last_number(&role.line_with("OS assigned process id: ")?)?;
    let fd = last_number(&role.line_with("File descriptor assigned by OS: ")?)?;
    Ok(Hold { role, pid, fd })
}

fn last_number(line: &str) -> Result<i32> {
    line.rsplit(' ').next().and_then(|word| word.parse().ok()).with_context(|| format!("no number in {line:?}"))
}

/// The descriptors of a process and where the link of each leads, as `ls -l /proc/PID/fd` shows them.
fn links(pid: i32) -> Result<BTreeMap<RawFd, String>> {
    let folder = format!("/proc/{pid}/fd");
    let mut links = BTreeMap::new();
    for entry in fs::read_dir(&folder).at("open", &folder)? {
        let entry = entry.at("readdir", &folder)?;
        let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // The listing has a descriptor of its own, which may be closed when its link is read.
        let Ok(link) = fs::read_link(entry.path()) else { continue };
        links.insert(fd, link.to_string_lossy().into_owned());
    }
    Ok(links)
}

/// The number in `socket:[4711]`.
fn inode_in(link: &str) -> Option<u32> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// The inode of a socket, read from its link /proc/PID/fd/N.
fn inode_of(pid: i32, fd: RawFd) -> Result<u32> {
    let path = format!("/proc/{pid}/fd/{fd}");
    let link = fs::read_link(&path).at("readlink", &path)?;
    inode_in(&link.to_string_lossy()).with_context(|| format!("{path} leads to {}", link.display()))
}

/// Whether a table of /proc/net has a row with this inode; the headline says which column that is.
fn listed(table: &str, inode: u32) -> Result<bool> {
    let text = fs::read_to_string(table).at("open", table)?;
    let mut rows = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let column = rows.next().and_then(|names| names.iter().position(|name| *name == "Inode"));
    let column = column.with_context(|| format!("{table} has no column Inode"))?;
    Ok(rows.any(|row| row.get(column).and_then(|field| field.parse().ok()) == Some(inode)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inode_is_read_from_a_link_to_a_socket_only() {
        assert_eq!(inode_in("socket:[4711]"), Some(4711));
        for link in ["socket: [4711]", "pipe:[4711]", "socket:[]", "anon_inode:[signalfd]", "/tmp/socket:[1]"] {
            assert_eq!(inode_in(link), None, "{link}");
        }
    }

    #[test]
    fn an_unbound_unix_socket_is_listed_until_it_is_closed() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&one);
        let inode = inode_of(std::process::id().cast_signed(), fd).unwrap();
        assert!(listed("/proc/net/unix", inode).unwrap());
        drop(one);
        assert!(!listed("/proc/net/unix", inode).unwrap());
    }
}
