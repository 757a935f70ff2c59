//! What `run` observed, in the order of cause and effect. The tracer makes it; the ladder, the SVG, the JSON and the
//! capture file show it. Nothing in here makes a call.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

pub use kernel::State;

/// One thing that happened.
#[derive(Clone, Debug)]
pub struct Event {
    /// When it was seen, since the start of the run; stopped time counts too.
    pub at: Duration,
    /// What it was.
    pub what: What,
}

/// What can happen. A step is a call, then the segments that it caused, then the states that it changed.
#[derive(Clone, Debug)]
pub enum What {
    /// A process is there: a command, or a child of one. It is told with the first event that is about it, as a shell that
    /// looks for a program has nothing to show; and again after an exec, with the new program.
    Started {
        /// Its process id.
        process: u32,
        /// Who forked it; `None` for a command of the command line.
        parent: Option<u32>,
        /// Its program's name, without folders.
        program: String,
    },
    /// A socket call waits, or has ended.
    Call(Call),
    /// A packet went over the wire.
    Segment(Segment),
    /// One end of a connection is in another state.
    State(StateChange),
    /// A line that the process printed.
    Output {
        /// Who printed it. A line of a child is the command's.
        process: u32,
        /// Whether it came from standard error.
        error: bool,
        /// The line, without its end.
        line: String,
    },
    /// A process ended. Its sockets were closed by that.
    Ended {
        /// Its process id.
        process: u32,
        /// `exited with 0`, `killed by SIGKILL` ...
        how: String,
    },
    /// Packets passed that the capture could not keep (packet(7), PACKET_STATISTICS).
    Lost {
        /// How many since the step before.
        packets: u64,
    },
    /// What the tracer has to say of a process (a signal, a stop, a limit of what can be seen); `None`: of the run.
    Note {
        /// Of whom.
        process: Option<u32>,
        /// One sentence.
        text: String,
    },
}

/// A socket call.
#[derive(Clone, Debug)]
pub struct Call {
    /// The same number in the event that says it waits and in the one that says it returned.
    pub number: u64,
    /// The process that called.
    pub process: u32,
    /// The thread that called; that of `main` has the number of the process.
    pub thread: u32,
    /// In strace's notation; while it waits, without a result: `accept4(3,  <unfinished ...>`.
    pub text: String,
    /// As the labs print it: `connect(3, 127.0.0.1:4444) = 0`; while it waits, without ` = result`.
    pub short: String,
    /// The system call's name, such as `accept4`.
    pub name: &'static str,
    /// The descriptor it is about; accept's new one is in `result`.
    pub fd: Option<i32>,
    /// What it returned: a number, or minus an errno; `None` while it waits.
    pub result: Option<i64>,
    /// The socket behind the descriptor, as far as the kernel tells it.
    pub socket: Option<Socket>,
    /// For accept: the socket behind the new descriptor.
    pub accepted: Option<Socket>,
    /// Whether it waits, and whether it did.
    pub phase: Phase,
    /// How long it took, with the time in which it was stopped inside; zero while it waits.
    pub took: Duration,
}

/// Where a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It sleeps in the kernel. Another event with the same number follows, unless the process ends in the call.
    Waits,
    /// It ended without a wait that was shown.
    Ended,
    /// It ended, and [`Phase::Waits`] was shown before.
    Returned,
}

/// A socket, as the kernel's table has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Its inode: the same socket in another process or behind another descriptor has it too.
    pub inode: u64,
    /// `TCP`, `UDP`, `UNIX` ..., as far as it is known; otherwise `socket`.
    pub protocol: &'static str,
    /// Its own address, once it is bound.
    pub local: Option<SocketAddr>,
    /// Its peer's, once it is connected.
    pub peer: Option<SocketAddr>,
}

/// A packet on the wire, counted once.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Who sent it; port 0 where the protocol has none.
    pub source: SocketAddr,
    /// To whom.
    pub destination: SocketAddr,
    /// What it is.
    pub protocol: Protocol,
    /// Bytes behind the headers.
    pub payload: usize,
    /// What is remarkable about it.
    pub marks: Vec<Mark>,
    /// All of it, from the IP header on.
    pub bytes: Vec<u8>,
    /// The kernel's own time stamp.
    pub taken_at: SystemTime,
    /// What sent it, as far as it is known.
    pub cause: Cause,
}

/// The protocol above IP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// A segment.
    Tcp(Tcp),
    /// A datagram.
    Udp,
    /// An error or an echo, in words.
    Icmp(String),
    /// Its number (IGMP is 2).
    Other(u8),
}

/// The fields of a segment. Numbers are relative: a SYN has sequence number 0, the first byte behind it 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// Its flags, in the order in which they are read.
    pub flags: Flags,
    /// Relative sequence number.
    pub seq: u32,
    /// Relative acknowledgement number; 0 without ACK.
    pub ack: u32,
    /// The receive window in bytes, scaled where the scale is known.
    pub window: u32,
}

/// The flags of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    pub syn: bool,
    pub fin: bool,
    pub rst: bool,
    pub psh: bool,
    pub urg: bool,
    pub ack: bool,
}

/// `SYN+ACK`; PSH says nothing that a class needs, and is written only where the alternate form asks for it.
impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let psh = self.psh && f.alternate();
        let flags = [
            (self.syn, "SYN"),
            (self.fin, "FIN"),
            (self.rst, "RST"),
            (psh, "PSH"),
            (self.urg, "URG"),
            (self.ack, "ACK"),
        ];
        let set: Vec<&str> = flags.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
        f.pad(&set.join("+"))
    }
}

/// What is remarkable about a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Its bytes, its SYN or its FIN were sent before.
    Retransmission,
    /// It says that the receive window is full.
    ZeroWindow,
    /// It asks a full window whether it still is.
    WindowProbe,
    /// It says that there is room again.
    WindowUpdate,
    /// It asks an idle connection whether it still is.
    KeepAlive,
    /// It acknowledges again what was acknowledged, and carries nothing.
    DuplicateAck,
    /// It ends the connection without a close.
    Reset,
    /// It was sent and did not arrive.
    Lost,
}

/// As the picture writes it.
impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Mark::Retransmission => "retransmission",
            Mark::ZeroWindow => "zero window",
            Mark::WindowProbe => "window probe",
            Mark::WindowUpdate => "window update",
            Mark::KeepAlive => "keepalive",
            Mark::DuplicateAck => "duplicate ACK",
            Mark::Reset => "reset",
            Mark::Lost => "lost",
        })
    }
}

/// What sent a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The call with this number: it was the only one that ran.
    Call(u64),
    /// The end of this process, which closed its sockets.
    End(u32),
    /// No call sends this at once: a timer of the kernel did (retransmission, delayed ACK, probe, keepalive).
    Timer,
    /// No call of a command on this connection ran: somebody else's, or one that is not stopped at.
    Unknown,
}

/// One end of a connection is in another state than before the step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateChange {
    /// The address of this end.
    pub local: SocketAddr,
    /// The address of the other end; port 0 for a listener.
    pub peer: SocketAddr,
    /// The state now; CLOSED once the kernel's table has it no more.
    pub state: State,
    /// The state before; `None` for an end that is new.
    pub before: Option<State>,
    /// The process that has a descriptor of it, as far as it is known.
    pub process: Option<u32>,
}

/// Somebody who is told what happens, as it happens.
pub trait Sink {
    /// The next event.
    ///
    /// # Errors
    /// Whatever writing fails with; the run is ended then.
    fn event(&mut self, event: &Event) -> anyhow::Result<()>;

    /// The step is over; it may take long until the next event.
    ///
    /// # Errors
    /// Whatever writing fails with.
    fn step(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    /// The run is over.
    ///
    /// # Errors
    /// Whatever writing fails with.
    fn end(&mut self) -> anyhow::Result<()> {
        Ok(())
    }
}
