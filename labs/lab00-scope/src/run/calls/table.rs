//! The system calls that a socket program makes, and what each argument is.

use nix::libc;

/// A system call.
#[derive(Debug)]
pub struct Spec {
    number: i64,
    /// As strace names it.
    pub name: &'static str,
    /// What its arguments are.
    pub args: &'static [Arg],
}

/// What an argument is, and so how it is written. A number names the argument that has the length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg {
    /// The descriptor that the call is about.
    Fd,
    /// Another descriptor.
    OtherFd,
    EpollFd,
    Int,
    Size,
    Offset,
    Domain,
    Type,
    Protocol,
    How,
    MessageFlags,
    SocketFlags,
    DupFlags,
    Address(usize),
    AddressBack(usize),
    /// A pointer to the length of what comes back.
    LengthOut,
    Bytes(usize),
    BytesBack(usize),
    Vector(usize),
    VectorBack(usize),
    Message,
    MessageBack,
    MessagesBack,
    Level,
    OptionName,
    OptionValue(usize),
    OptionBack(usize),
    PairBack,
    PollFds,
    Set,
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "select(2) is pselect6 there"))]
    TimeVal,
    TimeSpec,
    SignalSet,
    EventsBack,
    EpollOp,
    EpollEvent,
    FcntlCommand,
    FcntlValue,
}

impl Arg {
    /// Whether only the end of the call tells it.
    pub fn comes_back(self) -> bool {
        use Arg::*;
        matches!(
            self,
            AddressBack(_)
                | LengthOut
                | BytesBack(_)
                | VectorBack(_)
                | MessageBack
                | MessagesBack
                | OptionBack(_)
                | PairBack
                | EventsBack
        )
    }
}

/// The call with this number on this machine, if it is one of ours.
pub fn spec(number: u64) -> Option<&'static Spec> {
    CALLS.iter().find(|spec| spec.number == number as i64)
}

/// The names of all of them.
pub fn names() -> impl Iterator<Item = &'static str> {
    CALLS.iter().map(|spec| spec.name)
}

macro_rules! calls {
    ($($(#[$only:meta])* $number:ident $name:literal $args:expr;)*) => {
        &[$($(#[$only])* Spec { number: libc::$number, name: $name, args: { use Arg::*; &$args } },)*]
    };
}

const CALLS: &[Spec] = calls! {
    SYS_socket "socket" [Domain, Type, Protocol];
    SYS_socketpair "socketpair" [Domain, Type, Protocol, PairBack];
    SYS_bind "bind" [Fd, Address(2), Int];
    SYS_listen "listen" [Fd, Int];
    SYS_accept "accept" [Fd, AddressBack(2), LengthOut];
    SYS_accept4 "accept4" [Fd, AddressBack(2), LengthOut, SocketFlags];
    SYS_connect "connect" [Fd, Address(2), Int];
    SYS_sendto "sendto" [Fd, Bytes(2), Size, MessageFlags, Address(5), Int];
    SYS_recvfrom "recvfrom" [Fd, BytesBack(2), Size, MessageFlags, AddressBack(5), LengthOut];
    SYS_sendmsg "sendmsg" [Fd, Message, MessageFlags];
    SYS_recvmsg "recvmsg" [Fd, MessageBack, MessageFlags];
    SYS_sendmmsg "sendmmsg" [Fd, MessagesBack, Int, MessageFlags];
    SYS_recvmmsg "recvmmsg" [Fd, MessagesBack, Int, MessageFlags, TimeSpec];
    SYS_read "read" [Fd, BytesBack(2), Size];
    SYS_write "write" [Fd, Bytes(2), Size];
    SYS_readv "readv" [Fd, VectorBack(2), Int];
    SYS_writev "writev" [Fd, Vector(2), Int];
    SYS_sendfile "sendfile" [Fd, OtherFd, Offset, Size];
    SYS_shutdown "shutdown" [Fd, How];
    SYS_close "close" [Fd];
    SYS_setsockopt "setsockopt" [Fd, Level, OptionName, OptionValue(4), Int];
    SYS_getsockopt "getsockopt" [Fd, Level, OptionName, OptionBack(4), LengthOut];
    SYS_getsockname "getsockname" [Fd, AddressBack(2), LengthOut];
    SYS_getpeername "getpeername" [Fd, AddressBack(2), LengthOut];
    #[cfg(target_arch = "x86_64")]
    SYS_poll "poll" [PollFds, Size, Int];
    SYS_ppoll "ppoll" [PollFds, Size, TimeSpec, SignalSet, Size];
    #[cfg(target_arch = "x86_64")]
    SYS_select "select" [Int, Set, Set, Set, TimeVal];
    SYS_pselect6 "pselect6" [Int, Set, Set, Set, TimeSpec, SignalSet];
    #[cfg(target_arch = "x86_64")]
    SYS_epoll_wait "epoll_wait" [EpollFd, EventsBack, Int, Int];
    SYS_epoll_pwait "epoll_pwait" [EpollFd, EventsBack, Int, Int, SignalSet, Size];
    SYS_epoll_pwait2 "epoll_pwait2" [EpollFd, EventsBack, Int, TimeSpec, SignalSet, Size];
    SYS_epoll_ctl "epoll_ctl" [OtherFd, EpollOp, Fd, EpollEvent];
    SYS_dup "dup" [Fd];
    #[cfg(target_arch = "x86_64")]
    SYS_dup2 "dup2" [Fd, OtherFd];
    SYS_dup3 "dup3" [Fd, OtherFd, DupFlags];
    SYS_fcntl "fcntl" [Fd, FcntlCommand, FcntlValue];
};

/// Calls behind which a program's sockets cannot be followed.
pub fn hides_sockets(number: u64) -> Option<&'static str> {
    (number as i64 == libc::SYS_io_uring_setup).then_some("io_uring_setup")
}
