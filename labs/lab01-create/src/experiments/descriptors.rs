//! What a descriptor is: a number, a link under /proc, and a socket that is not in any table yet.

use std::{
    fs::{self, File},
    net::SocketAddr,
    os::{
        fd::AsRawFd,
        unix::fs::{FileTypeExt, MetadataExt},
    },
    process::id,
};

use anyhow::{Context, Result, ensure};
use kernel::{State, tcp_info, udp_sockets, wait_until};
use nix::errno::Errno;
use shared::{At, Predicts, Stage, Verdict, returned};
use socket2::{Domain, Protocol, Socket, Type};

use super::{LIMIT, hold_role, inode_of, links};

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
        "The program is ended and started again. Which of the three numbers are new?",
        [
            ("all three", Differ { pid: true, fd: true, inode: true }),
            ("the process id and the descriptor", Differ { pid: true, fd: true, inode: false }),
            ("the process id and the one in socket:[...]", Differ { pid: true, fd: false, inode: true }),
            ("only the process id", Differ { pid: true, fd: false, inode: false }),
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
    stage.say("", format_args!("in run 2 no number below {} is free", second.fd));
    if let Some((fd, link)) = open.iter().find(|(_, link)| link.contains("signalfd")) {
        stage.say("", format_args!("{fd} -> {link}: hold reads Ctrl-C from it"));
    }

    // The same within one process: the number that close gives back is the next one that socket gives out.
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
    stage.verdict(question, observed, "a new descriptor is the lowest number that is free in its process")
}

/// Waits until the threads that read the output of children have ended: each of them holds a descriptor.
fn wait_for_threads() -> Result<()> {
    let tasks = "/proc/self/task";
    wait_until("the end of earlier threads", LIMIT, || {
        let threads = fs::read_dir(tasks).at("open", tasks)?.count();
        Ok((threads <= THREADS).then_some(()))
    })
}

pub fn under_proc(stage: &mut Stage) -> Result<Verdict> {
    /// What open(2) gives for the path of hold's socket.
    #[derive(Debug, PartialEq)]
    enum Opened {
        SameSocket,
        AnotherFile,
        Refused(Errno),
    }
    let hold = hold_role(&[])?;
    stage.say("hold", format_args!("OS assigned process id: {}", hold.pid));
    stage.say("hold", format_args!("File descriptor assigned by OS: {}", hold.fd));
    let inode = inode_of(hold.pid, hold.fd)?;
    let path = format!("/proc/{}/fd/{}", hold.pid, hold.fd);
    stage.say("kernel", format_args!("{path} -> socket:[{inode}]"));
    let file = fs::metadata(&path).at("stat", &path)?; // stat(2) follows the link, to the socket itself
    ensure!(file.file_type().is_socket(), "stat says that {path} is no socket");
    ensure!(file.ino() == u64::from(inode), "the link names inode {inode}, stat says {}", file.ino());
    stage.say("kernel", format_args!("stat of this path: a socket, inode {}", file.ino()));

    // The same folder has descriptor 0 of hold, a pipe.
    let pipe_path = format!("/proc/{}/fd/0", hold.pid);
    let pipe = File::open(&pipe_path).at("open", &pipe_path)?;
    stage.say("here", format_args!("open {pipe_path}, a pipe: descriptor {}", pipe.as_raw_fd()));

    stage.look(format_args!("ls -l /proc/{}/fd", hold.pid));
    let question = stage.ask(
        &format!("Now we open {path} in the same way. What does open return?"),
        [
            ("a descriptor of the same socket", Opened::SameSocket),
            ("ENOENT: socket:[...] is not a file name", Opened::Refused(Errno::ENOENT)),
            ("EACCES: the descriptor belongs to hold", Opened::Refused(Errno::EACCES)),
            ("ENXIO: open does not work on sockets", Opened::Refused(Errno::ENXIO)),
        ],
        Predicts { source: None, kit: Opened::Refused(Errno::ENXIO) },
    )?;
    let observed = match File::open(&path).at("open", &path) {
        Ok(opened) => {
            stage.say("here", format_args!("open {path}: descriptor {}", opened.as_raw_fd()));
            let same = opened.metadata().at("fstat", &path)?.ino() == u64::from(inode);
            if same { Opened::SameSocket } else { Opened::AnotherFile }
        }
        Err(error) => {
            stage.say("here", &error);
            Opened::Refused(error.errno.context("an error without a number")?)
        }
    };
    stage.verdict(question, observed, "the link shows the inode of the socket, but open cannot open it")
}

pub fn unbound(stage: &mut Stage) -> Result<Verdict> {
    /// The call after which the table has the socket for the first time.
    #[derive(Debug, PartialEq)]
    enum ListedAfter {
        Socket,
        Bind,
        Sendto,
        None,
    }
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    let udp_sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", "")?;
    let udp_fd = udp_sock.as_raw_fd();
    let inode = inode_of(id().cast_signed(), udp_fd)?;
    stage.say("udp", format_args!("socket(AF_INET, SOCK_DGRAM, 0) = {udp_fd}"));
    stage.say("kernel", format_args!("/proc/{}/fd/{udp_fd} -> socket:[{inode}]", id()));

    stage.look(format_args!("ss -uane | grep ino:{inode}"));
    let question = stage.ask(
        "The program calls socket, bind, then sendto. ss and netstat print the kernel's table of UDP sockets. After which \
         of the three calls is this inode in it for the first time?",
        [
            ("after socket(), with port 0", ListedAfter::Socket),
            ("after bind()", ListedAfter::Bind),
            ("after the first sendto()", ListedAfter::Sendto),
            ("never: UDP has no connections to list", ListedAfter::None),
        ],
        Predicts { source: Some(ListedAfter::Bind), kit: ListedAfter::Bind },
    )?;
    let after_socket = in_udp_table(stage, inode)?;

    udp_sock.bind(&any_port.into()).at("bind", any_port)?;
    stage.say("udp", format_args!("bind({udp_fd}, {any_port}) = 0"));
    let after_bind = in_udp_table(stage, inode)?;

    let local_addr = udp_sock.local_addr().at("getsockname", any_port)?.as_socket().context("not an IP socket")?;
    let sent = udp_sock.send_to(b"x", &local_addr.into()); // to itself
    stage.say("udp", format_args!("sendto({udp_fd}, \"x\", 1, {local_addr}) = {}", returned(&sent)));
    let after_sendto = in_udp_table(stage, inode)?;

    // A socket that is in no table exists all the same, and so does its state.
    let tcp_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", "")?;
    let tcp_fd = tcp_sock.as_raw_fd();
    stage.say("tcp", format_args!("socket(AF_INET, SOCK_STREAM, 0) = {tcp_fd}"));
    let state = tcp_info::state(&tcp_sock).at("getsockopt", "TCP_INFO")?.context("an unknown state")?;
    stage.say("tcp", format_args!("getsockopt({tcp_fd}, SOL_TCP, TCP_INFO) = 0  state {state}"));
    ensure!(state == State::Closed, "a TCP socket that was only created is {state}");

    let observed = match [after_socket, after_bind, after_sendto] {
        [true, ..] => ListedAfter::Socket,
        [_, true, _] => ListedAfter::Bind,
        [.., true] => ListedAfter::Sendto,
        _ => ListedAfter::None,
    };
    stage.verdict(question, observed, "bind adds a UDP socket to the table; the socket and its state exist before that")
}

/// Looks for a socket in the kernel's table of UDP sockets, and says what is there.
fn in_udp_table(stage: &mut Stage, inode: u32) -> Result<bool> {
    let row = udp_sockets(0)?.into_iter().find(|row| row.inode == inode);
    let found = row.as_ref().map_or("no row".into(), |row| row.pair.local.to_string());
    stage.say("kernel", format_args!("inode {inode} in the table of UDP sockets: {found}"));
    Ok(row.is_some())
}

pub fn protocol(stage: &mut Stage) -> Result<Verdict> {
    type Created = Result<Option<Protocol>, Errno>;
    const REFUSED: Created = Err(Errno::EPROTONOSUPPORT);
    let [tcp, udp, mptcp]: [Created; 3] =
        [Protocol::TCP, Protocol::UDP, Protocol::MPTCP].map(|number| Ok(Some(number)));

    let question = stage.ask(
        "socket() is called three times with type SOCK_STREAM. The third argument is 0, then IPPROTO_UDP, then \
         IPPROTO_MPTCP. Which protocols do the sockets have?",
        [
            ("TCP, TCP, TCP: the type decides", [tcp, tcp, tcp]),
            ("TCP, UDP, MPTCP: the argument decides", [tcp, udp, mptcp]),
            ("TCP, an error, MPTCP: it must fit the type", [tcp, REFUSED, mptcp]),
            ("TCP, an error, an error: streams are TCP", [tcp, REFUSED, REFUSED]),
        ],
        Predicts { source: Some([tcp, tcp, tcp]), kit: [tcp, REFUSED, mptcp] },
    )?;
    let mut observed = [REFUSED; 3];
    for (seen, (name, number)) in observed.iter_mut().zip([
        ("0", None),
        ("IPPROTO_UDP", Some(Protocol::UDP)),
        ("IPPROTO_MPTCP", Some(Protocol::MPTCP)),
    ]) {
        let call = format!("socket(AF_INET, SOCK_STREAM, {name})");
        *seen = match Socket::new(Domain::IPV4, Type::STREAM, number) {
            Ok(sock) => {
                let fd = sock.as_raw_fd();
                stage.say("here", format_args!("{call} = {fd}"));
                let protocol = sock.protocol().at("getsockopt", "SO_PROTOCOL")?;
                let protocol_name = match protocol {
                    Some(Protocol::TCP) => "IPPROTO_TCP",
                    Some(Protocol::UDP) => "IPPROTO_UDP",
                    Some(Protocol::MPTCP) => "IPPROTO_MPTCP",
                    _ => "another protocol",
                };
                let call = format!("getsockopt({fd}, SOL_SOCKET, SO_PROTOCOL) = 0");
                stage.say("here", format_args!("{call}  {}, {protocol_name}", protocol.map_or(0, i32::from)));
                drop(sock); // close(2)
                stage.say("here", format_args!("close({fd}) = 0"));
                Ok(protocol)
            }
            Err(error) => {
                let refused = Err::<(), _>(error);
                stage.say("here", format_args!("{call} = {}", returned(&refused)));
                refused
                    .at("socket", name)
                    .map_or_else(|error| Err(error.errno.unwrap_or(Errno::UnknownErrno)), |()| REFUSED)
            }
        };
    }
    stage.verdict(question, observed, "the type allows some protocols; 0 takes the usual one, for a stream TCP")
}
