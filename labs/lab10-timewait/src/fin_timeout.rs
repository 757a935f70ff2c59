//! Inside `unshare -Urn` only: there tcp_fin_timeout may be changed, and changes for nobody else.

use std::{fs, path::Path, time::Instant};

use anyhow::{Context, Result, ensure};
use kernel::{Pair, State, tcp_socket, wait_for_state};
use shared::{At, Screen};

use crate::experiments::{LIMIT, acknowledged, connected_pair, listening};

const SETTING: &str = "/proc/sys/net/ipv4/tcp_fin_timeout";
/// A link whose text names the network namespace.
pub const NAMESPACE: &str = "/proc/self/ns/net";

/// Leaves a TIME-WAIT and an orphaned FIN-WAIT-2 behind, and prints what becomes of them. `outside` is the network
/// namespace of whoever started this.
pub fn run(seconds: u32, outside: &Path) -> Result<()> {
    let mut screen = Screen::new();
    let own = fs::read_link(NAMESPACE).at("readlink", NAMESPACE)?;
    ensure!(own != outside, "this would change the setting for everybody: start it in unshare -Urn");
    fs::write(SETTING, seconds.to_string()).at("write", SETTING)?;

    // Both ends close: TIME-WAIT at the first.
    let (listen_sock, server_addr) = listening(false)?;
    let (first_sock, second_sock) = connected_pair(&listen_sock, server_addr)?;
    let first = Pair::of(&first_sock)?;
    drop(first_sock);
    acknowledged(first)?;
    drop(second_sock);
    let time_wait = wait_for_state(first, Some(State::TimeWait), LIMIT)?;
    let time_wait = time_wait.and_then(|row| row.timer).context("TIME-WAIT without a timer")?;

    // Only one closes, and the other does nothing: FIN-WAIT-2.
    let (orphan_sock, _peer_sock) = connected_pair(&listen_sock, server_addr)?;
    let orphan = Pair::of(&orphan_sock)?;
    let closed = Instant::now();
    drop(orphan_sock);
    let fin_wait_2 = wait_for_state(orphan, Some(State::FinWait2), LIMIT)?;
    let fin_wait_2 = fin_wait_2.and_then(|row| row.timer).context("FIN-WAIT-2 without a timer")?;
    screen.line(format_args!(
        "timers setting {seconds} s, TIME-WAIT {:.1} s, FIN-WAIT-2 {:.1} s",
        time_wait.as_secs_f64(),
        fin_wait_2.as_secs_f64(),
    ));
    if fin_wait_2 < LIMIT {
        wait_for_state(orphan, None, LIMIT)?;
        let still = tcp_socket(first)?.context("TIME-WAIT is gone")?.state;
        screen.line(format_args!("FIN-WAIT-2 is gone after {:.1} s, {still} is not", closed.elapsed().as_secs_f64()));
    }
    Ok(())
}
