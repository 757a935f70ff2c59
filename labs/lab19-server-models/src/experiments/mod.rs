//! What chapter 4 says of its servers, decided by the kernel. Each server is a child process.

mod ends;
mod figures;
mod waiting;

use std::{
    ffi::OsString,
    net::{Ipv4Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kernel::{
    Need, NotSeen, Pair, Patience,
    need::{BACKLOGS, DESCRIPTORS, LOOPBACK, PORTS, setting},
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv},
};
use shared::{At, Experiment, Lesson, Role, Stage, own_program, returned};
use socket2::{Domain, Socket, Type};

/// How long a state or an answer may take; far more than loopback needs.
const LIMIT: Duration = Duration::from_secs(5);

/// The last of five clients gets in with its third repetition.
const SYN_RETRIES: Need = Need {
    what: "net.ipv4.tcp_syn_retries of 3 or more",
    provided_by: "sysctl -w net.ipv4.tcp_syn_retries=6",
    met: || setting("net/ipv4/tcp_syn_retries").first().is_none_or(|retries| *retries >= 3),
};

pub const LESSON: Lesson = Lesson {
    lab: crate::LAB,
    setting: "each server is a process of its own",
    needs: &[LOOPBACK, PORTS, DESCRIPTORS, BACKLOGS],
    experiments: &[
        Experiment {
            id: "figure-4-6",
            starred: true,
            minutes: 10,
            claim: "Five clients come at once. Each stays 5 s and waits for 15 s: four are served, the last has left.",
            source: "notes ch.4, Testing the servers with client's simulator, Figures 4.6 and 4.7",
            needs: &[SYN_RETRIES],
            play: figures::figure_4_6,
        },
        Experiment {
            id: "second-client",
            starred: true,
            minutes: 6,
            claim: "A server for one client rejects the second one with a TCP connection reset.",
            source: "notes ch.4, Request-Response protocols, Figure 4.3",
            needs: &[],
            play: waiting::second_client,
        },
        Experiment {
            id: "wait-5-stay-30",
            starred: true,
            minutes: 7,
            claim: "What are the results if a client waits for 5 s only, and each keeps the server busy for 30 s?",
            source: "notes ch.4, Testing the servers with client's simulator, question",
            needs: &[],
            play: figures::wait_5_stay_30,
        },
        Experiment {
            id: "four-threads",
            starred: false,
            minutes: 5,
            claim: "What happens if the \"pre-fork\" server has four threads, and five clients come?",
            source: "notes ch.4, Thread-per-connection using different thread models, question on PREFORK_THREADS",
            needs: &[],
            play: figures::four_threads,
        },
        Experiment {
            id: "immediately",
            starred: false,
            minutes: 5,
            claim: "With a new thread for each client, each client is guaranteed to be handled immediately.",
            source: "notes ch.4, Delegation (Manager-Workers)",
            needs: &[],
            play: waiting::immediately,
        },
        Experiment {
            id: "no-descriptor",
            starred: false,
            minutes: 4,
            claim: "The number of threads can vary from zero to a huge number, with the number of clients.",
            source: "notes ch.4, Delegation (Manager-Workers); the question is ours",
            needs: &[],
            play: waiting::no_descriptor,
        },
        Experiment {
            id: "one-dies",
            starred: false,
            minutes: 6,
            claim: "A pool of threads is easily ported to processes, by replacing its queue.",
            source: "notes ch.4, Combining threading and multiprocessing; the question is ours",
            needs: &[],
            play: ends::one_dies,
        },
        Experiment {
            id: "last-address",
            starred: false,
            minutes: 4,
            claim: "The server's log names the client that has finished.",
            source: "notes ch.4, Figures 4.4, 4.8 and 4.9; the question is ours",
            needs: &[],
            play: ends::last_address,
        },
    ],
    next: &[
        ("by hand", "cargo lab19 server many-clients"),
        ("", "cargo lab19 connections --speed 4"),
        ("watch", "scripts/backlog.sh 7777 --watch"),
        ("sheet", "cargo lab19 sheet"),
    ],
};

/// A server on a port of the kernel's choice, once it listens.
fn server(arguments: &[&str]) -> Result<(Role, SocketAddr)> {
    listening(Role::start(&[&["server"], arguments].concat())?)
}

/// The same by a shell that sets limits first. What is said on standard error is thrown away: a panic, for one.
fn limited_server(shell: &str, arguments: &[&str]) -> Result<(Role, SocketAddr)> {
    let script = OsString::from(format!("{shell} exec \"$0\" server \"$@\""));
    let mut sh = Command::new("/bin/sh");
    sh.arg("-c").arg(script).arg(own_program()?).args(arguments).stderr(Stdio::null());
    listening(Role::spawn(&mut sh)?)
}

fn listening(mut server: Role) -> Result<(Role, SocketAddr)> {
    let line = server.line_with(" is in listening state")?;
    let addr = line.split_whitespace().find_map(|word| word.parse().ok()).context("no address in the line")?;
    Ok((server, addr))
}

/// A connection, and the call as it was made.
fn connected(stage: &mut Stage, who: &str, server_addr: SocketAddr) -> Result<(Socket, Pair)> {
    let sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
    let result = sock.connect(&server_addr.into());
    stage.say(who, format_args!("connect({}, {server_addr}) = {}", sock.as_raw_fd(), returned(&result)));
    result.at("connect", server_addr)?;
    let pair = Pair::of(&sock)?;
    Ok((sock, pair))
}

/// Waits until there is something to read, or until `limit` has passed.
fn readable(sock: &Socket, limit: Duration) -> Result<bool> {
    let mut patience = Patience::new(limit);
    loop {
        let step = patience.step() + Duration::from_millis(1); // poll counts milliseconds
        match poll(&mut [PollFd::new(sock.as_fd(), PollFlags::POLLIN)], PollTimeout::try_from(step)?) {
            Ok(1) => return Ok(true),
            Ok(_) | Err(Errno::EINTR) if patience.is_over() => return Ok(false),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Ok(Err(errno).at("poll", "")?),
        }
    }
}

/// Waits for the byte that says that the service is there.
fn byte(sock: &Socket) -> Result<nix::Result<usize>> {
    ensure!(readable(sock, LIMIT)?, NotSeen { what: "the byte".into(), limit: LIMIT, instead: String::new() });
    Ok(recv(sock.as_raw_fd(), &mut [0; 1], MsgFlags::MSG_DONTWAIT))
}

/// The same, and prints the call.
fn served(stage: &mut Stage, who: &str, sock: &Socket) -> Result<()> {
    let result = byte(sock)?;
    stage.say(who, format_args!("recv({}, 1, MSG_DONTWAIT) = {}", sock.as_raw_fd(), returned(&result)));
    ensure!(result == Ok(1), "{who}: recv returned {result:?}");
    Ok(())
}

/// The addresses under which the kernel lists a listening socket.
fn listener(server_addr: SocketAddr) -> Pair {
    Pair { local: server_addr, peer: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)) }
}
