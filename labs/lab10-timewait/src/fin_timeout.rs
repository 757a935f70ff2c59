//! Inside `unshare -Urn` only: there tcp_fin_timeout may be changed, and changes for nobody else.

use std::{fs, time::Instant};

use anyhow::{Context, Result, ensure};
use kernel::{Pair, State, namespace, tcp_socket, tcp_sockets, wait_for_state};
use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags};
use shared::{At, Screen};
use socket2::Socket;

use crate::connection::{LIMIT, acknowledged, connected_pair, listening};

const SETTING: &str = "/proc/sys/net/ipv4/tcp_fin_timeout";

/// Leaves a TIME-WAIT and an orphaned FIN-WAIT-2 behind, first with the setting as it is, then with `seconds`; prints
/// what the kernel's timers say. `outside` is the network namespace of whoever started this.
pub fn run(seconds: u32, outside: &str) -> Result<()> {
    namespace::ensure_private(outside)?;
    ensure_new()?;
    let mut screen = Screen::new();
    let _kept = two_waits(&mut screen)?;

    fs::write(SETTING, seconds.to_string()).at("write", SETTING)?;
    let closed = Instant::now();
    let (time_wait, fin_wait_2, _peer_sock) = two_waits(&mut screen)?;
    wait_for_state(fin_wait_2, None, LIMIT)?;
    let state = tcp_socket(time_wait)?.context("TIME-WAIT is gone")?.state;
    let seconds = closed.elapsed().as_secs_f64();
    screen.line(format_args!("FIN-WAIT-2 is gone after {seconds:.1} s, and {state} is still there"));
    Ok(())
}

/// A new network has no interface up but lo, and no connection. Any other may be somebody's.
fn ensure_new() -> Result<()> {
    let flags = |interface: nix::ifaddrs::InterfaceAddress| interface.flags;
    let used =
        |flags: InterfaceFlags| flags.contains(InterfaceFlags::IFF_UP) && !flags.contains(InterfaceFlags::IFF_LOOPBACK);
    let in_use = getifaddrs().at("getifaddrs", "")?.map(flags).any(used) || !tcp_sockets(0)?.is_empty();
    ensure!(!in_use, "this network is in use; the role with-fin-timeout is for a new one: unshare -Urn");
    Ok(())
}

/// Leaves both behind and prints their timers. Returns the end in TIME-WAIT, the end in FIN-WAIT-2, and its peer.
fn two_waits(screen: &mut Screen) -> Result<(Pair, Pair, Socket)> {
    let (listen_sock, server_addr) = listening()?;

    // Both ends close: the first is left in TIME-WAIT.
    let (first_sock, second_sock) = connected_pair(&listen_sock, server_addr)?;
    let first = Pair::of(&first_sock)?;
    drop(first_sock); // close(2): FIN
    acknowledged(first)?;
    drop(second_sock); // close(2): the other FIN
    let time_wait = wait_for_state(first, Some(State::TimeWait), LIMIT)?;

    // One end closes, and its peer does nothing: FIN-WAIT-2, without a descriptor.
    let (orphan_sock, peer_sock) = connected_pair(&listen_sock, server_addr)?;
    let orphan = Pair::of(&orphan_sock)?;
    drop(orphan_sock); // close(2): FIN
    let fin_wait_2 = wait_for_state(orphan, Some(State::FinWait2), LIMIT)?;

    let [time_wait, fin_wait_2] = [time_wait, fin_wait_2].map(|row| row.and_then(|row| row.timer));
    screen.line(format_args!(
        "tcp_fin_timeout {} s: TIME-WAIT {:.1} s, FIN-WAIT-2 {:.1} s",
        fs::read_to_string(SETTING).at("open", SETTING)?.trim(),
        time_wait.context("TIME-WAIT without a timer")?.as_secs_f64(),
        fin_wait_2.context("FIN-WAIT-2 without a timer")?.as_secs_f64(),
    ));
    Ok((first, orphan, peer_sock))
}
