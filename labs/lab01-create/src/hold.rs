//! Creates a socket, prints its descriptor and the commands that show it, waits, closes it.

use std::{
    io::stdout,
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant},
};

use anyhow::Result;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::getpid,
};
use shared::{At, Pause, Screen, Stop};
use socket2::{Domain, Socket, Type};

use crate::{Family, HoldArgs, Kind};

/// Holds one socket until the time is over, or Ctrl-C.
pub fn run(args: &HoldArgs) -> Result<()> {
    let stop = Stop::on_signals()?; // signalfd(2): a descriptor to read Ctrl-C from; it takes the lowest free number
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();
    let pid = getpid();
    screen.line("Application started");
    screen.line(format_args!("OS assigned process id: {pid}"));

    let (domain, family) = match args.family {
        Family::Inet => (Domain::IPV4, "AF_INET"),
        Family::Inet6 => (Domain::IPV6, "AF_INET6"),
        Family::Unix => (Domain::UNIX, "AF_UNIX"),
    };
    let (kind, kind_name) = match args.kind {
        Kind::Stream => (Type::STREAM, "SOCK_STREAM"),
        Kind::Dgram => (Type::DGRAM, "SOCK_DGRAM"),
    };
    let protocol = match (args.family, args.kind) {
        (Family::Inet, Kind::Stream) => "TCP",
        (Family::Inet, Kind::Dgram) => "UDP",
        (Family::Inet6, Kind::Stream) => "TCP over IPv6",
        (Family::Inet6, Kind::Dgram) => "UDP over IPv6",
        (Family::Unix, Kind::Stream) => "Unix stream",
        (Family::Unix, Kind::Dgram) => "Unix datagram",
    };

    // socket(2): int fd = socket(AF_INET, SOCK_DGRAM, 0). It has no address and no peer yet; no other process can reach it.
    pause.before(&mut screen, format_args!("socket({family}, {kind_name}, 0)"));
    let sock = Socket::new(domain, kind, None).at("socket", format_args!("{family} {kind_name}"))?;
    let fd = sock.as_raw_fd();
    screen.line(format_args!("{protocol} Socket created"));
    screen.line(format_args!("File descriptor assigned by OS: {fd}"));
    screen.line(format_args!("Look: ls -l /proc/{pid}/fd/{fd}"));
    screen.line(format_args!("      scripts/fds.sh {pid}"));

    screen.line(format_args!("Waiting {} seconds before termination ... (Ctrl-C ends it)", args.seconds));
    wait(&stop, Duration::from_secs(args.seconds))?;

    // close(2). Without this call the kernel closes the descriptor when the process ends.
    pause.before(&mut screen, format_args!("close({fd})"));
    screen.line(format_args!("Closing the {protocol} socket ..."));
    drop(sock); // close(2)

    screen.line("Terminating ...");
    Ok(())
}

/// The lecture's sleep, as poll(2) with a timeout: Ctrl-C ends it, and so does the end of the program that reads our output.
fn wait(stop: &Stop, time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    let output = stdout();
    loop {
        let left = PollTimeout::try_from(end.saturating_duration_since(Instant::now()))?;
        let reader_gone = PollFlags::empty(); // POLLERR is reported without being asked for
        let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(output.as_fd(), reader_gone)];
        match poll(&mut fds, left) {
            Err(Errno::EINTR) => continue,
            result => result.at("poll", "")?,
        };
        if fds.iter().any(|fd| fd.any().unwrap_or(true)) || Instant::now() >= end {
            return Ok(());
        }
    }
}
