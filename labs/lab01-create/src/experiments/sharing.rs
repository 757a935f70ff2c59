//! One socket and its descriptors: which processes have one, and which close is the last.

use std::{
    collections::BTreeSet,
    os::fd::{AsRawFd, RawFd},
    process::id,
};

use anyhow::{Result, ensure};
use kernel::{NotSeen, wait_until};
use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, kill},
        socket::{MsgFlags, recv},
    },
    unistd::{Whence, dup, lseek, read, write},
};
use shared::{At, Predicts, Stage, Verdict, returned};
use socket2::{Domain, Socket, Type};

use super::{LIMIT, hold_role, inode_in, inode_of, links, listed};

/// Two Unix sockets, connected to each other: recv at one end tells what happened at the other end.
fn connected_pair(stage: &mut Stage) -> Result<(Socket, Socket)> {
    let (near_sock, far_sock) = Socket::pair(Domain::UNIX, Type::STREAM, None).at("socketpair", "")?;
    let (near_fd, far_fd) = (near_sock.as_raw_fd(), far_sock.as_raw_fd());
    stage.say("here", format_args!("socketpair(AF_UNIX, SOCK_STREAM, 0, [{near_fd}, {far_fd}]) = 0"));
    near_sock.set_read_timeout(Some(LIMIT)).at("setsockopt", "SO_RCVTIMEO")?;
    Ok((near_sock, far_sock))
}

/// A child that is started from now on gets this descriptor with the same number.
fn let_inherit(stage: &mut Stage, sock: &Socket) -> Result<()> {
    sock.set_cloexec(false).at("fcntl", "F_SETFD")?;
    stage.say("here", format_args!("fcntl({}, F_SETFD, 0) = 0  a child inherits it", sock.as_raw_fd()));
    Ok(())
}

/// recv(2), repeated after a signal; SO_RCVTIMEO ends each of its waits after LIMIT.
fn receive(fd: RawFd, flags: MsgFlags) -> nix::Result<usize> {
    loop {
        match recv(fd, &mut [0; 8], flags) {
            Err(Errno::EINTR) => continue, // after Ctrl-Z and fg: signal(7)
            result => return result,
        }
    }
}

pub fn kill_9(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum After {
        Nothing,
        EndOfStream,
        Reset,
    }
    /// What our end reads, and whether hold's own socket is still there.
    #[derive(Debug, PartialEq)]
    struct Left {
        heard: After,
        behind: bool,
    }
    let (near_sock, far_sock) = connected_pair(stage)?;
    let (near_fd, far_fd) = (near_sock.as_raw_fd(), far_sock.as_raw_fd());
    let_inherit(stage, &far_sock)?;
    let hold = hold_role(&["--family", "unix", "--type", "stream"])?;
    let own_inode = inode_of(hold.pid, hold.fd)?;
    let far_inode = inode_of(hold.pid, far_fd)?;
    stage.say("hold", format_args!("descriptor {}, its own  socket:[{own_inode}]", hold.fd));
    stage.say("hold", format_args!("descriptor {far_fd}, inherited  socket:[{far_inode}]"));
    drop(far_sock); // close(2)
    stage.say("here", format_args!("close({far_fd}) = 0  only hold has that end now"));
    ensure!(listed("/proc/net/unix", own_inode)?, "socket:[{own_inode}] is not in /proc/net/unix");

    stage.look(format_args!("ls -l /proc/{}/fd", hold.pid));
    let question = stage.ask(
        "We kill hold with kill -9, so it cannot call close(). What happens to its two sockets, and what does our recv \
         return?",
        [
            ("both sockets stay; recv waits", Left { heard: After::Nothing, behind: true }),
            ("its own socket stays; recv returns 0", Left { heard: After::EndOfStream, behind: true }),
            ("both are closed; recv returns ECONNRESET", Left { heard: After::Reset, behind: false }),
            ("both are closed; recv returns 0", Left { heard: After::EndOfStream, behind: false }),
        ],
        Predicts {
            source: Some(Left { heard: After::EndOfStream, behind: false }),
            kit: Left { heard: After::EndOfStream, behind: false },
        },
    )?;
    kill(hold.role.pid(), Signal::SIGKILL).at("kill", hold.pid)?;
    stage.say("kill", format_args!("kill -9 {}", hold.pid));
    let received = receive(near_fd, MsgFlags::empty());
    stage.say("here", format_args!("recv({near_fd}, 8) = {}", returned(&received)));
    let gone =
        wait_until("hold's own socket gone", LIMIT, || Ok((!listed("/proc/net/unix", own_inode)?).then_some(())));
    let behind = match gone {
        Ok(()) => false,
        Err(error) if error.is::<NotSeen>() => true,
        Err(error) => return Err(error),
    };
    let now = if behind { "still there" } else { "gone" };
    stage.say("kernel", format_args!("socket:[{own_inode}] in /proc/net/unix: {now}"));
    let heard = match received {
        Ok(0) => After::EndOfStream,
        Err(Errno::EAGAIN) => After::Nothing,
        Err(Errno::ECONNRESET) => After::Reset,
        other => anyhow::bail!("our end got {other:?}"),
    };
    stage.verdict(question, Left { heard, behind }, "however a process ends, the kernel closes its descriptors")
}

pub fn two_numbers(stage: &mut Stage) -> Result<Verdict> {
    /// The event after which our end reads end of stream.
    #[derive(Debug, PartialEq)]
    enum Heard {
        First,
        Second,
        Childs,
        Never,
    }
    let (near_sock, far_sock) = connected_pair(stage)?;
    let (near_fd, far_fd) = (near_sock.as_raw_fd(), far_sock.as_raw_fd());
    let_inherit(stage, &far_sock)?;
    let hold = hold_role(&[])?;
    let dup_sock = dup(&far_sock).at("dup", far_fd)?;
    let dup_fd = dup_sock.as_raw_fd();
    stage.say("here", format_args!("dup({far_fd}) = {dup_fd}"));
    let here = id().cast_signed();
    let inodes = [inode_of(here, far_fd)?, inode_of(here, dup_fd)?, inode_of(hold.pid, far_fd)?];
    ensure!(inodes.iter().all(|inode| *inode == inodes[0]), "three descriptors, but the inodes {inodes:?}");
    stage.say("kernel", format_args!("{far_fd} and {dup_fd} here, {far_fd} in hold: all socket:[{}]", inodes[0]));

    stage.look(format_args!("ls -l /proc/{here}/fd /proc/{}/fd", hold.pid));
    let question = stage.ask(
        &format!(
            "We close {far_fd}, then {dup_fd}; then hold ends. After which of these does recv({near_fd}) return 0?"
        ),
        [
            ("after our first close()", Heard::First),
            ("after our second close()", Heard::Second),
            ("after the end of hold", Heard::Childs),
        ],
        Predicts { source: Some(Heard::First), kit: Heard::Childs },
    )?;
    let mut heard = Heard::Never;
    drop(far_sock); // close(2)
    stage.say("here", format_args!("close({far_fd}) = 0"));
    let received = receive(near_fd, MsgFlags::MSG_DONTWAIT);
    stage.say("here", format_args!("recv({near_fd}, 8, MSG_DONTWAIT) = {}", returned(&received)));
    if received == Ok(0) {
        heard = Heard::First;
    }
    drop(dup_sock); // close(2)
    stage.say("here", format_args!("close({dup_fd}) = 0"));
    let received = receive(near_fd, MsgFlags::MSG_DONTWAIT);
    stage.say("here", format_args!("recv({near_fd}, 8, MSG_DONTWAIT) = {}", returned(&received)));
    if received == Ok(0) && heard == Heard::Never {
        heard = Heard::Second;
    }
    kill(hold.role.pid(), Signal::SIGINT).at("kill", hold.pid)?;
    stage.say("kill", format_args!("kill -INT {}, as Ctrl-C does", hold.pid));
    let received = receive(near_fd, MsgFlags::empty());
    stage.say("here", format_args!("recv({near_fd}, 8) = {}", returned(&received)));
    if received == Ok(0) && heard == Heard::Never {
        heard = Heard::Childs;
    }
    stage.verdict(
        question,
        heard,
        "close() gives back a descriptor; with its last descriptor the socket is closed, here when hold ends",
    )
}

pub fn on_exec(stage: &mut Stage) -> Result<Verdict> {
    /// Which of the two sockets the new program has.
    #[derive(Debug, PartialEq)]
    struct Has {
        marked: bool,
        plain: bool,
    }
    let marked_sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", "")?; // Rust and Python add the flag
    let marked_fd = marked_sock.as_raw_fd();
    stage.say("here", format_args!("socket(AF_INET, SOCK_DGRAM|SOCK_CLOEXEC, 0) = {marked_fd}"));
    let plain_sock = Socket::new_raw(Domain::IPV4, Type::DGRAM, None).at("socket", "")?; // as in C
    let plain_fd = plain_sock.as_raw_fd();
    stage.say("here", format_args!("socket(AF_INET, SOCK_DGRAM, 0) = {plain_fd}"));

    let question = stage.ask(
        "Now this process starts hold, with fork and exec. Which of the two sockets does hold have?",
        [
            ("none: it has only 0, 1 and 2", Has { marked: false, plain: false }),
            ("only the first", Has { marked: true, plain: false }),
            ("only the second", Has { marked: false, plain: true }),
            ("the first and the second", Has { marked: true, plain: true }),
        ],
        Predicts { source: None, kit: Has { marked: false, plain: true } },
    )?;
    let hold = hold_role(&[])?;
    let here = id().cast_signed();
    let (marked_inode, plain_inode) = (inode_of(here, marked_fd)?, inode_of(here, plain_fd)?);
    let inherited: BTreeSet<u32> = links(hold.pid)?.values().filter_map(|link| inode_in(link)).collect();
    let observed = Has { marked: inherited.contains(&marked_inode), plain: inherited.contains(&plain_inode) };
    for (fd, inode, has) in [(marked_fd, marked_inode, observed.marked), (plain_fd, plain_inode, observed.plain)] {
        let has = if has { "hold has it" } else { "hold does not have it" };
        stage.say("kernel", format_args!("{fd} -> socket:[{inode}]  {has}"));
    }
    stage.verdict(question, observed, "exec closes the descriptors marked close-on-exec and keeps all others")
}

pub fn read_write(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    struct Works {
        write: bool,
        read: bool,
        lseek: bool,
    }
    let (near_sock, far_sock) = connected_pair(stage)?;
    let (near_fd, far_fd) = (near_sock.as_raw_fd(), far_sock.as_raw_fd());

    let question = stage.ask(
        "write, read and lseek are calls for files. Which of them work on these sockets?",
        [
            ("write, read and lseek", Works { write: true, read: true, lseek: true }),
            ("none of the three", Works { write: false, read: false, lseek: false }),
            ("write and read", Works { write: true, read: true, lseek: false }),
            ("write only", Works { write: true, read: false, lseek: false }),
        ],
        Predicts {
            source: Some(Works { write: false, read: false, lseek: false }),
            kit: Works { write: true, read: true, lseek: false },
        },
    )?;
    let written = write(&far_sock, b"four");
    stage.say("here", format_args!("write({far_fd}, \"four\", 4) = {}", returned(&written)));
    let bytes_read = read(&near_sock, &mut [0; 8]);
    stage.say("here", format_args!("read({near_fd}, 8) = {}", returned(&bytes_read)));
    let position = lseek(&near_sock, 0, Whence::SeekSet);
    stage.say("here", format_args!("lseek({near_fd}, 0, SEEK_SET) = {}", returned(&position)));

    let observed = Works { write: written == Ok(4), read: bytes_read == Ok(4), lseek: position.is_ok() };
    stage.verdict(question, observed, "read is recv without flags; a socket has no position to seek to")
}
