//! What one worker's end costs the others, and whose name stands in the log.

use std::{fs, os::fd::AsRawFd};

use anyhow::{Context, Result, ensure};
use kernel::wait_until;
use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, kill},
        socket::{MsgFlags, recv, send},
    },
    unistd::Pid,
};
use shared::{At, Predicts, Role, Stage, Verdict};
use socket2::{Domain, Socket, Type};

use super::{LIMIT, byte, limited_server, readable, served, server};
use crate::serve::{REQUEST_BYTES, padded};

const WORKERS: usize = 4;
/// Of each request, so much is sent before one worker dies.
const FIRST_BYTES: usize = 10;
/// In this experiment, what makes a thread panic.
const BUG: &str = "bug";

pub fn one_dies(stage: &mut Stage) -> Result<Verdict> {
    let question = stage.ask(
        "Four workers, a client each. SIGKILL goes to one worker: to a thread of a pool, then to a process of pre-fork. \
         How many clients lose their connection?",
        [
            ("one with the thread, one with the process", (1, 1)),
            ("four with the thread, one with the process", (4, 1)),
            ("one with the thread, four with the process", (1, 4)),
            ("four with the thread, four with the process", (4, 4)),
        ],
        Predicts { source: None, kit: (4, 1) },
    )?;
    let options = ["0", "--service", "requests", "--workers", "4", "--backlog", "5", "--delay", "0"];

    let (mut pool, clients) = busy_server(&[&["pool"], &options[..]].concat(), "half")?;
    let tid = thread_named(&pool, "Thread-1")?;
    kill(tid, Signal::SIGKILL).at("kill", tid)?;
    stage.say("pool", format_args!("SIGKILL to {tid}, Thread-1 of process {}", pool.pid()));
    let lost_with_thread = lost(&clients)?;
    let ended = pool.wait_for_end()?;
    stage.say("pool", format_args!("the process has ended: {ended}; {lost_with_thread} of 4 clients lost"));

    let (mut prefork, clients) = busy_server(&[&["prefork"], &options[..]].concat(), "half")?;
    let log = prefork.printed();
    let pid = log.lines().find_map(|line| line.split_once("Process-1 is process ")).map(|(_, pid)| pid.trim());
    let pid = Pid::from_raw(pid.context("no process id in the log")?.parse()?);
    kill(pid, Signal::SIGKILL).at("kill", pid)?;
    stage.say("prefork", format_args!("SIGKILL to {pid}, Process-1 of server {}", prefork.pid()));
    stage.say("prefork", prefork.line_with("Process-1 ended")?);
    let lost_with_process = lost(&clients)?;
    stage.say("prefork", format_args!("{lost_with_process} of 4 clients lost; the others have their responses"));

    // A bug that Rust, or Python, notices is an exception of one thread.
    let (pool, clients) = busy_server(&[&["pool"], &options[..], &["--panic-on", BUG]].concat(), BUG)?;
    let lost_with_panic = lost(&clients)?;
    let left = wait_until("one thread less", LIMIT, || {
        Ok(Some(threads_named(&pool, "Thread-")?.len()).filter(|left| *left < WORKERS))
    })?;
    stage.say(
        "panic",
        format_args!("a thread of the pool panics: {lost_with_panic} of 4 clients lost, {left} threads left"),
    );
    ensure!(
        (lost_with_panic, left) == (1, WORKERS - 1),
        "the panic cost {lost_with_panic} clients, {left} threads left"
    );
    stage.verdict(
        question,
        (lost_with_thread, lost_with_process),
        "a signal ends a whole process; other processes, and the listening socket, live on",
    )
}

/// A server whose workers have a client each, in the middle of a request; the first client's begins with `text`.
fn busy_server(arguments: &[&str], text: &str) -> Result<(Role, Vec<Socket>)> {
    let (mut server, server_addr) = limited_server("", arguments)?;
    let mut clients = Vec::new();
    for number in 0..WORKERS {
        let sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
        sock.connect(&server_addr.into()).at("connect", server_addr)?;
        let local_addr = sock.local_addr().at("getsockname", server_addr)?.as_socket().context("no IP socket")?;
        let request = padded(if number == 0 { text } else { "half" });
        send(sock.as_raw_fd(), &request[..FIRST_BYTES], MsgFlags::MSG_NOSIGNAL).at("send", server_addr)?;
        wait_until("a worker for each client", LIMIT, || {
            Ok(server.printed().contains(&format!("New client connected from {local_addr}")).then_some(()))
        })?;
        clients.push(sock);
    }
    Ok((server, clients))
}

/// Sends the other half of each request. How many clients get no response?
fn lost(clients: &[Socket]) -> Result<usize> {
    let mut lost = 0;
    for sock in clients {
        let fd = sock.as_raw_fd();
        let rest = [b' '; REQUEST_BYTES - FIRST_BYTES];
        let _ = send(fd, &rest, MsgFlags::MSG_NOSIGNAL); // EPIPE, ECONNRESET: recv tells
        let mut bytes = 0;
        let complete = loop {
            ensure!(readable(sock, LIMIT)?, "a client gets neither a response nor an end");
            match recv(fd, &mut [0; REQUEST_BYTES], MsgFlags::MSG_DONTWAIT) {
                Ok(0) | Err(Errno::ECONNRESET | Errno::EPIPE) => break bytes == REQUEST_BYTES,
                Ok(bytes_read) => bytes += bytes_read,
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(errno) => return Ok(Err(errno).at("recv", "")?),
            }
        };
        lost += usize::from(!complete);
    }
    Ok(lost)
}

/// The threads of a process whose names begin so.
fn threads_named(server: &Role, name: &str) -> Result<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(format!("/proc/{}/task", server.pid()))? {
        let entry = entry?;
        let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default(); // it may have ended
        if comm.starts_with(name) {
            found.push(Pid::from_raw(entry.file_name().to_string_lossy().parse()?));
        }
    }
    Ok(found)
}

fn thread_named(server: &Role, name: &str) -> Result<Pid> {
    threads_named(server, name)?.first().copied().with_context(|| format!("no thread {name}"))
}

pub fn last_address(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Named {
        Each,
        First,
        Last,
        Other,
    }
    let options = ["thread-per-socket", "0", "--backlog", "5"];
    let mut question = None;
    let mut observed = Named::Other;
    for global in [true, false] {
        let who = if global { "global" } else { "mended" };
        let (mut server, server_addr) =
            server(&[&options[..], if global { &["--global-address"] } else { &[] }].concat())?;
        let mut clients = Vec::new();
        for name in ["first", "second", "third", "fourth", "fifth"] {
            if global {
                let (sock, pair) = super::connected(stage, name, server_addr)?;
                served(stage, name, &sock)?;
                clients.push((sock, pair.local));
            } else {
                let sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
                sock.connect(&server_addr.into()).at("connect", server_addr)?;
                let local_addr = sock.local_addr().at("getsockname", server_addr)?.as_socket();
                ensure!(byte(&sock)? == Ok(1), "the {name} client is not served");
                clients.push((sock, local_addr.context("no IP socket")?));
            }
            wait_until("a thread for each client", LIMIT, || {
                Ok((server.printed().matches("Service offered").count() == clients.len()).then_some(()))
            })?;
        }
        let addrs: Vec<String> = clients.iter().map(|(_, addr)| addr.to_string()).collect();
        if question.is_none() {
            question = Some(stage.ask(
                "Main keeps the client's address in a global variable, as Figure 4.4 does. The five leave. Whom do the \
                 lines \"finished using service\" name?",
                [
                    ("each line names the client that has left", Named::Each),
                    ("each line names the first of the clients", Named::First),
                    ("each line names the last of the clients", Named::Last),
                ],
                Predicts { source: None, kit: Named::Last },
            )?);
        }
        for (number, (sock, _)) in clients.into_iter().enumerate() {
            drop(sock); // close(2)
            wait_until("a line for each client", LIMIT, || {
                Ok((server.printed().matches("finished using service").count() == number + 1).then_some(()))
            })?;
        }
        let log = server.printed();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("finished using service")).collect();
        lines.iter().for_each(|line| stage.say(who, line));
        let all = |addr: &String| lines.iter().all(|line| line.contains(addr));
        let named = match addrs.iter().map(all).collect::<Vec<_>>()[..] {
            [true, ..] => Named::First,
            [.., true] => Named::Last,
            _ if lines.iter().zip(&addrs).all(|(line, addr)| line.contains(addr)) => Named::Each,
            _ => Named::Other,
        };
        if global {
            observed = named;
        } else {
            ensure!(named == Named::Each, "without the global variable the lines name {named:?}");
        }
    }
    let question = question.context("no question was put")?;
    stage.verdict(question, observed, "each accept overwrites the one variable that all threads read")
}
