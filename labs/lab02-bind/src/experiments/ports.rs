//! The port: chosen by the kernel, or refused to ordinary accounts.

use std::{
    fs,
    io::{Read, pipe},
    net::SocketAddr,
    os::{fd::AsRawFd, unix::process::CommandExt},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use kernel::setting;
use nix::unistd::geteuid;
use shared::{At, Predicts, Role, Stage, Verdict};
use socket2::{Domain, Socket, Type};

use super::{ANY_PORT, local_addr, tables::show_tables};

/// Twelve random ports are in ascending order once in 479 million runs.
const UDP_SOCKETS: usize = 12;
/// The account nobody, which every Linux has; a demo that root plays uses it.
const NOBODY: u32 = 65534;
/// CAP_NET_BIND_SERVICE in include/uapi/linux/capability.h.
const CAP_NET_BIND_SERVICE: u32 = 10;
/// How many ports are tried if other programs have the first ones.
const PORTS_AT_MOST: u16 = 16;

pub fn port_zero(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Ports {
        Zero,
        Ascending,
        FromRange,
        FromAnywhere,
    }
    let [first, last] = setting("net/ipv4/ip_local_port_range")[..] else { bail!("no ip_local_port_range") };

    let question = stage.ask(
        "Twelve UDP sockets bind port 0, one after the other. Which ports do they get?",
        [
            ("port 0, each of them", Ports::Zero),
            ("the first unused ports, in ascending order", Ports::Ascending),
            ("ports from 1024 to 65535, in no order", Ports::FromAnywhere),
            ("ports of ip_local_port_range, in no order", Ports::FromRange),
        ],
        Predicts { source: Some(Ports::Ascending), kit: Ports::FromRange },
    )?;
    let mut udp_socks = Vec::new(); // kept open: close makes a port free again
    let mut udp_ports = Vec::new();
    for at in 0..UDP_SOCKETS {
        let sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", ANY_PORT)?;
        sock.bind(&ANY_PORT.into()).at("bind", ANY_PORT)?;
        let bound_addr = local_addr(&sock)?;
        if at < 3 {
            let fd = sock.as_raw_fd();
            stage.say("udp", format_args!("bind({fd}, {ANY_PORT}) = 0"));
            stage.say("udp", format_args!("getsockname({fd}, {bound_addr}) = 0"));
        }
        udp_ports.push(bound_addr.port());
        udp_socks.push(sock);
    }
    show_tables(stage, "udp", local_addr(&udp_socks[0])?)?;
    let listed: Vec<_> = udp_ports.iter().map(u16::to_string).collect();
    stage.say("ports", listed.join(" "));
    stage.say("range", format_args!("{first} to {last} in /proc/sys/net/ipv4/ip_local_port_range"));

    let observed = match &udp_ports {
        ports if ports.iter().all(|port| *port == 0) => Ports::Zero,
        ports if ports.is_sorted() => Ports::Ascending,
        ports if ports.iter().all(|port| (first..=last).contains(&u64::from(*port))) => Ports::FromRange,
        _ => Ports::FromAnywhere,
    };
    stage.verdict(question, observed, "a port of the range, not the first one; getsockname tells which")
}

pub fn below_1024(stage: &mut Stage) -> Result<Verdict> {
    let start = unprivileged_port_start()?;
    let below = start - 1;
    let question = stage.ask(
        &format!("An ordinary account binds port {below}, then {start}, with UDP and with TCP. Which calls work?"),
        [
            ("the two on the higher port", [false, false, true, true]),
            ("all four: the limit is a convention", [true; 4]),
            ("all except TCP on the lower port", [true, false, true, true]),
            ("none: every port needs a permission", [false; 4]),
        ],
        Predicts { source: None, kit: [false, false, true, true] },
    )?;
    stage.say("kernel", format_args!("ip_unprivileged_port_start is {start}"));
    let uid = if geteuid().is_root() { NOBODY } else { geteuid().as_raw() };
    stage.say("account", format_args!("uid {uid} runs hold, the lecture's program, as a child process"));
    let mut works = [false; 4];
    for (works, (kind, port)) in
        works.iter_mut().zip([("dgram", below), ("stream", below), ("dgram", start), ("stream", start)])
    {
        *works = held(stage, kind, port)?;
    }
    stage.verdict(question, works, "below the limit bind needs the capability CAP_NET_BIND_SERVICE")
}

/// Lets an ordinary account run `hold` on this port, or on the next one if another program has it.
fn held(stage: &mut Stage, kind: &str, port: u16) -> Result<bool> {
    for port in (port..=u16::MAX).take(PORTS_AT_MOST.into()) {
        let addr = SocketAddr::from(([127, 0, 0, 1], port)).to_string();
        let (mut errors, stderr) = pipe().at("pipe", "")?;
        let mut command = as_ordinary_account(&["hold", &addr, "--type", kind]);
        command.stderr(stderr);
        let mut hold = Role::spawn(&mut command)?;
        drop(command); // it has a copy of the pipe's writing end
        hold.input = None; // as Ctrl-D: hold ends as soon as it has bound, or has failed to
        let status = hold.wait_for_end()?;
        let mut error = String::new();
        errors.read_to_string(&mut error).at("read", "standard error")?;

        let line = if status.success() {
            hold.line_with("Socket is bound to ")?
        } else {
            error.lines().next().with_context(|| format!("hold {addr} --type {kind}: {status}"))?.into()
        };
        stage.say("account", format_args!("hold {addr} --type {kind}"));
        stage.say("", &line);
        if status.success() {
            return Ok(true);
        } else if line.contains("EACCES") {
            return Ok(false);
        } else if !line.contains("EADDRINUSE") {
            bail!("neither bound nor refused: {line}");
        }
    }
    bail!("other programs have {PORTS_AT_MOST} ports from {port} on")
}

/// This program with these arguments, under the account nobody if root plays.
fn as_ordinary_account(args: &[&str]) -> Command {
    // Not by its path: that account may not enter every folder on the way.
    let mut command = Command::new("/proc/self/exe");
    command.args(args);
    if geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY); // the capabilities of root go with its uid, see capabilities(7)
    }
    command
}

pub fn runs_as_ordinary_account() -> bool {
    let mut command = as_ordinary_account(&["hold", "--help"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Whether this process has CAP_NET_BIND_SERVICE, see proc_pid_status(5).
pub fn may_bind_all_ports() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0);
    effective & (1 << CAP_NET_BIND_SERVICE) != 0
}

/// The first port that every account may bind.
pub fn unprivileged_port_start() -> Result<u16> {
    let start = setting("net/ipv4/ip_unprivileged_port_start").first().copied().context("no such setting")?;
    Ok(start.try_into()?)
}
