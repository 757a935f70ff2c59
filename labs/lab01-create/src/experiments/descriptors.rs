//! What a descriptor is: a number, a link under /proc, and not yet a row in a table.

use std::{
    fs,
    io::ErrorKind,
    net::SocketAddr,
    os::{
        fd::AsRawFd,
        unix::fs::{FileTypeExt, MetadataExt},
    },
    process::id,
};

use anyhow::{Context, Result, ensure};
use kernel::{State, tcp_info, udp_sockets, wait_until};
use nix::{libc, unistd::geteuid};
use shared::{At, Predicts, Stage, Verdict, returned};
use socket2::{Domain, Socket, Type};

use super::{LIMIT, hold_role, inode_in, inode_of, links};

/// This program's main thread and the watchdog of its demo.
const THREADS: usize = 2;

pub fn same_number(stage: &mut Stage) -> Result<Verdict> {
    /// Which numbers of the second run differ from those of the first.
    #[derive(Debug, PartialEq)]
    struct Differ {
        pid: bool,
        fd: bool,
        inode: bool,
    }
    let first = hold_role(&[])?;
    let first_inode = inode_of(first.pid, first.fd)?;
    stage.say("run 1", format_args!("process id {}  descriptor {}  socket:[{first_inode}]", first.pid, first.fd));

    stage.look(format_args!("ls -l /proc/{}/fd", first.pid));
    let question = stage.ask(
        "The program is ended and started again. Which of the three numbers differ?",
        [
            ("all three", Differ { pid: true, fd: true, inode: true }),
            ("the process id and the descriptor", Differ { pid: true, fd: true, inode: false }),
            ("the process id and the one in socket:[...]", Differ { pid: true, fd: false, inode: true }),
            ("the process id alone", Differ { pid: true, fd: false, inode: false }),
        ],
        Predicts {
            source: Some(Differ { pid: true, fd: true, inode: true }),
            kit: Differ { pid: true, fd: false, inode: true },
        },
    )?;
    drop(first.role);
    let second = hold_role(&[])?;
    let second_inode = inode_of(second.pid, second.fd)?;
    stage.say("run 2", format_args!("process id {}  descriptor {}  socket:[{second_inode}]", second.pid, second.fd));
    let open = links(second.pid)?;
    let free: Vec<_> = (0..second.fd).filter(|fd| !open.contains_key(fd)).collect();
    ensure!(free.is_empty(), "run 2 got {} while {free:?} were free", second.fd);
    stage.say("", format_args!("below {} no number is free", second.fd));
    if let Some((fd, link)) = open.iter().find(|(_, link)| link.contains("signalfd")) {
        stage.say("", format_args!("one is {fd} -> {link}, where Ctrl-C arrives"));
    }

    // The same in one process, in sight: the number that is given back is the next to be given out.
    drop(second.role);
    wait_for_threads()?;
    let one_sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", "")?;
    let one_fd = one_sock.as_raw_fd();
    stage.say("here", format_args!("socket(AF_INET, SOCK_DGRAM, 0) = {one_fd}"));
    let two_sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", "")?;
    stage.say("here", format_args!("socket(AF_INET, SOCK_DGRAM, 0) = {}", two_sock.as_raw_fd()));
    drop(one_sock); // close(2)
    stage.say("here", format_args!("close({one_fd}) = 0"));
    let three_sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", "")?;
    let three_fd = three_sock.as_raw_fd();
    stage.say("here", format_args!("socket(AF_INET, SOCK_DGRAM, 0) = {three_fd}"));
    ensure!(three_fd == one_fd, "{one_fd} was free, and yet the third socket is {three_fd}");

    let observed =
        Differ { pid: second.pid != first.pid, fd: second.fd != first.fd, inode: second_inode != first_inode };
    stage.verdict(question, observed, "a descriptor is the lowest free number, in each process anew")
}

/// Waits for the threads that read the output of children: each holds a descriptor, and gives it back when it ends.
fn wait_for_threads() -> Result<()> {
    let tasks = "/proc/self/task";
    wait_until("the end of earlier threads", LIMIT, || {
        let threads = fs::read_dir(tasks).at("open", tasks)?.count();
        Ok((threads <= THREADS).then_some(()))
    })
}

pub fn under_proc(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Link {
        Nothing,
        File,
        Socket(Number),
    }
    #[derive(Debug, PartialEq)]
    enum Number {
        Inode,
        ProcessId,
        Descriptor,
        Unrelated,
    }
    let hold = hold_role(&[])?;
    stage.say("hold", format_args!("OS assigned process id: {}", hold.pid));
    stage.say("hold", format_args!("File descriptor assigned by OS: {}", hold.fd));

    let path = format!("/proc/{}/fd/{}", hold.pid, hold.fd);
    stage.look(format_args!("ls -l {path}"));
    let question = stage.ask(
        "hold has created a UDP socket, nothing more. Where does its link under /proc lead?",
        [
            ("nowhere: ENOENT, as it is not bound", Link::Nothing),
            ("to a file, as any open file's does", Link::File),
            ("to socket:[the process id]", Link::Socket(Number::ProcessId)),
            ("to socket:[the descriptor]", Link::Socket(Number::Descriptor)),
            ("to socket:[a number of its own]", Link::Socket(Number::Inode)),
        ],
        Predicts { source: Some(Link::Socket(Number::Inode)), kit: Link::Socket(Number::Inode) },
    )?;
    let link = match fs::read_link(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            stage.say("kernel", format_args!("{path}: ENOENT"));
            return stage.verdict(question, Link::Nothing, "");
        }
        result => result.at("readlink", &path)?,
    };
    stage.say("kernel", format_args!("{path} -> {}", link.display()));
    let file = fs::metadata(&path).at("stat", &path)?; // stat(2) follows the link, to the socket itself
    let is_socket = file.file_type().is_socket();
    let what = if is_socket { "a socket" } else { "no socket" };
    stage.say("kernel", format_args!("stat of the same: {what}, inode {}", file.ino()));
    let observed = match inode_in(&link.to_string_lossy()) {
        Some(number) => Link::Socket(match number {
            _ if is_socket && u64::from(number) == file.ino() => Number::Inode,
            _ if number == hold.pid.cast_unsigned() => Number::ProcessId,
            _ if number == hold.fd.cast_unsigned() => Number::Descriptor,
            _ => Number::Unrelated,
        }),
        None => Link::File,
    };
    stage.verdict(question, observed, "socket:[N]: N is the socket's inode, and names it in every table")
}

pub fn unbound(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    struct Listed {
        created: bool,
        bound: bool,
    }
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    let udp_sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", "")?;
    let udp_fd = udp_sock.as_raw_fd();
    let inode = inode_of(id().cast_signed(), udp_fd)?;
    stage.say("udp", format_args!("socket(AF_INET, SOCK_DGRAM, 0) = {udp_fd}"));
    stage.say("kernel", format_args!("/proc/{}/fd/{udp_fd} -> socket:[{inode}]", id()));

    stage.look(format_args!("ss -uane | grep ino:{inode}"));
    let question = stage.ask(
        "From when on does the table of UDP sockets, which ss and netstat print, have this inode?",
        [
            ("from socket() on, with port 0", Listed { created: true, bound: true }),
            ("from bind() on", Listed { created: false, bound: true }),
            ("from the first datagram on", Listed { created: false, bound: false }),
        ],
        Predicts { source: Some(Listed { created: false, bound: true }), kit: Listed { created: false, bound: true } },
    )?;
    let row = || Ok::<_, anyhow::Error>(udp_sockets(0)?.into_iter().find(|row| row.inode == inode));
    let created = row()?;
    stage.say("kernel", format_args!("inode {inode} in the table of UDP sockets: {}", yes_no(created.is_some())));

    udp_sock.bind(&any_port.into()).at("bind", any_port)?;
    stage.say("udp", format_args!("bind({udp_fd}, {any_port}) = 0"));
    let bound = row()?;
    stage.say("kernel", format_args!("inode {inode} in the table of UDP sockets: {}", yes_no(bound.is_some())));
    if let Some(row) = &bound {
        stage.say("kernel", format_args!("{}  {}, which ss calls UNCONN", row.pair.local, row.state));
    }

    // In no table is not nothing: the socket is there, and so is its state.
    let tcp_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", "")?;
    let tcp_fd = tcp_sock.as_raw_fd();
    stage.say("tcp", format_args!("socket(AF_INET, SOCK_STREAM, 0) = {tcp_fd}"));
    let state = tcp_info::state(&tcp_sock).at("getsockopt", "TCP_INFO")?.context("an unknown state")?;
    stage.say("tcp", format_args!("getsockopt({tcp_fd}, SOL_TCP, TCP_INFO) = 0  state {state}"));
    ensure!(state == State::Closed, "a TCP socket that was only created is {state}");

    let observed = Listed { created: created.is_some(), bound: bound.is_some() };
    stage.verdict(question, observed, "bind puts it on the list; before, the kernel has it all the same")
}

fn yes_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

pub fn families(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Fourth {
        Unknown,
        Forbidden,
        Socket,
    }
    stage.say("account", format_args!("uid {}", geteuid()));
    let question = stage.ask(
        "socket(AF_NETLINK, SOCK_RAW, 0) names a fourth family. What does this account get?",
        [
            ("a socket, as with the three", Fourth::Socket),
            ("EAFNOSUPPORT: there are three", Fourth::Unknown),
            ("EPERM: SOCK_RAW is for root", Fourth::Forbidden),
        ],
        Predicts { source: Some(Fourth::Unknown), kit: Fourth::Socket },
    )?;
    let created = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, None);
    let netlink_sock = match created {
        Ok(sock) => sock,
        Err(error) => {
            let error = Err::<(), _>(error);
            stage.say("here", format_args!("socket(AF_NETLINK, SOCK_RAW, 0) = {}", returned(&error)));
            let refused = error.at("socket", "AF_NETLINK");
            let errno = refused.as_ref().err().and_then(|error| error.errno);
            let observed = match errno.map(|errno| errno as i32) {
                Some(libc::EAFNOSUPPORT) => Fourth::Unknown,
                Some(libc::EPERM | libc::EACCES) => Fourth::Forbidden,
                _ => return Err(refused.map_or_else(Into::into, |()| anyhow::anyhow!("no error"))),
            };
            return stage.verdict(question, observed, "");
        }
    };
    let fd = netlink_sock.as_raw_fd();
    stage.say("here", format_args!("socket(AF_NETLINK, SOCK_RAW, 0) = {fd}"));
    let inode = inode_of(id().cast_signed(), fd)?;
    stage.say("kernel", format_args!("/proc/{}/fd/{fd} -> socket:[{inode}]", id()));
    stage.verdict(question, Fourth::Socket, "Linux numbers over 40 families; ss itself asks through AF_NETLINK")
}
