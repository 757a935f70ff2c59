//! What does a look of `lab00-scope watch` cost, with 20,000 sockets? Run: cargo bench -p lab00-scope --bench watch
//!
//! Processor time, in the kernel and out of it, of one look with its drawing: the time of a run with many looks, less
//! the time of a run with few, through the number of looks between. Beside it: the kernel's answer alone, read and thrown
//! away, which no look can be cheaper than; and ss(8), with its start. The sockets
//! are both ends of connections in a private network: the machine's own table stays as it is.
#![allow(missing_docs)]

use std::{
    env,
    net::{TcpListener, TcpStream},
    os::fd::AsRawFd,
    process::{Command, Stdio, exit},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kernel::namespace::{self, NAMESPACE};
use nix::libc;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use nix::sys::time::TimeValLike;
use shared::{Role, Screen};
use testkit::Terminal;

const LAB: &str = env!("CARGO_BIN_EXE_lab00-scope");
/// Set for the bench in its private network.
const PRIVATE: &str = "SCOPE_WATCH_BENCH";
/// Connections of one child: two descriptors each, below the usual limit of 20,000.
const CONNECTIONS: usize = 2500;
const CHILDREN: usize = 4;
const FEW: u32 = 5;
const MANY: u32 = 55;
/// The middle one of so many is printed.
const ROUNDS: usize = 3;
const LIMIT: Duration = Duration::from_secs(60);

fn main() -> Result<()> {
    if env::args().any(|argument| argument == "--hold") {
        return hold();
    }
    if env::var_os(PRIVATE).is_none() {
        if !(NAMESPACE.met)() {
            Screen::new().line(format_args!("SKIPPED: needs {}: {}", NAMESPACE.what, NAMESPACE.provided_by));
            return Ok(());
        }
        let status = namespace::command(env::current_exe()?).env(PRIVATE, "1").status()?;
        exit(status.code().unwrap_or(1));
    }
    let mut screen = Screen::new();
    screen.line("sockets   board 100x30   log (--plain)   board, one port   the kernel's answer   ss -tan");
    let (mut children, mut port) = (Vec::new(), "9".to_string());
    for sockets in [0, 2 * CONNECTIONS, 2 * CONNECTIONS * CHILDREN] {
        while children.len() * 2 * CONNECTIONS < sockets {
            let mut child = Role::spawn(Command::new(env::current_exe()?).arg("--hold"))?;
            child.wait_for_within("holds port ", LIMIT)?;
            port = child.wait_for("\n")?;
            children.push(child);
        }
        let board = middle(|| per_look(&[], true))?;
        let log = middle(|| per_look(&["--plain"], false))?;
        let one = middle(|| per_look(&[&port], true))?;
        let answer = middle(answer)?;
        let ss = middle(ss)?;
        screen.line(format_args!(
            "{sockets:>7}   {board:>9.2} ms   {log:>11.2} ms   {one:>12.2} ms   {answer:>16.2} ms   {ss:>5.1} ms"
        ));
    }
    Ok(())
}

/// Opens the connections and holds both ends until standard input ends.
fn hold() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    let mut ends = Vec::new();
    for _ in 0..CONNECTIONS {
        ends.push((TcpStream::connect(addr).context("connect; see ulimit -n")?, listener.accept()?));
    }
    Screen::new().line(format_args!("holds port {}", addr.port()));
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}

/// Milliseconds of processor time of one look.
fn per_look(args: &[&str], on_terminal: bool) -> Result<f64> {
    let watch = |looks: u32| -> Result<f64> {
        let before = children_ms()?;
        let mut command = Command::new(LAB);
        command.args(["watch", "--interval", "20", "--looks", &looks.to_string()]).args(args);
        if on_terminal {
            ensure!(Terminal::start(&mut command, 100, 30).end().success(), "the board failed");
        } else {
            let status = command.stdout(Stdio::null()).stdin(Stdio::null()).status()?;
            ensure!(status.success(), "the log failed: {status}");
        }
        Ok(children_ms()? - before)
    };
    Ok((watch(MANY)? - watch(FEW)?) / f64::from(MANY - FEW))
}

/// Milliseconds of processor time of the kernel's answer to one look at TCP: sock_diag(7), no filter, no extensions.
fn answer() -> Result<f64> {
    const TCPDIAG_GETSOCK: u16 = 18;
    const STATES: u32 = 0x1ffe;
    let request = [
        &76u32.to_ne_bytes()[..], // nlmsghdr: length, type, flags, sequence number, port
        &TCPDIAG_GETSOCK.to_ne_bytes(),
        &((libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16).to_ne_bytes(),
        &[0; 8],
        &[0; 52], // inet_diag_req: family and extensions: none; sockets: any
        &STATES.to_ne_bytes(),
        &[0; 4], // a last member that nothing reads
    ]
    .concat();
    let netlink =
        socket(AddressFamily::Netlink, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)?;
    let (mut buffer, before) = (vec![0; 64 * 1024], used_ms(UsageWho::RUSAGE_SELF)?);
    for _ in 0..MANY {
        send(netlink.as_raw_fd(), &request, MsgFlags::empty())?;
        // The end of an answer is a message of its own.
        while recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())? > 0 && buffer[4] != libc::NLMSG_DONE as u8 {
            ensure!(buffer[4] != libc::NLMSG_ERROR as u8, "the kernel refuses the request");
        }
    }
    Ok((used_ms(UsageWho::RUSAGE_SELF)? - before) / f64::from(MANY))
}

/// Milliseconds of processor time of one run of ss; NaN without it.
fn ss() -> Result<f64> {
    let before = children_ms()?;
    let status = Command::new("ss").arg("-tan").stdout(Stdio::null()).status();
    Ok(if status.is_ok_and(|status| status.success()) { children_ms()? - before } else { f64::NAN })
}

fn children_ms() -> Result<f64> {
    used_ms(UsageWho::RUSAGE_CHILDREN)
}

fn used_ms(who: UsageWho) -> Result<f64> {
    let used = getrusage(who)?;
    Ok((used.user_time() + used.system_time()).num_microseconds() as f64 / 1000.0)
}

fn middle(mut measured: impl FnMut() -> Result<f64>) -> Result<f64> {
    let mut all = (0..ROUNDS).map(|_| measured()).collect::<Result<Vec<f64>>>()?;
    all.sort_by(f64::total_cmp);
    Ok(all[ROUNDS / 2])
}
