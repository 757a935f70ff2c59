//! Inside `unshare -Urn` only: there tcp_fin_timeout may be changed, and changes for nobody else.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use shared::{
    At, Screen,
    kernel::{Pair, State, tcp_socket, wait_for_state},
};
use socket2::{Domain, Socket, Type};

const SETTING: &str = "/proc/sys/net/ipv4/tcp_fin_timeout";
/// A link whose text names the network namespace.
pub const NAMESPACE: &str = "/proc/self/ns/net";
const LIMIT: Duration = Duration::from_secs(5);

/// Leaves a TIME-WAIT and an orphaned FIN-WAIT-2 behind, and prints what becomes of them. `outside` is the network
/// namespace of whoever started this.
pub fn run(seconds: u32, outside: &Path) -> Result<()> {
    let mut screen = Screen::new();
    let own = fs::read_link(NAMESPACE).at("readlink", NAMESPACE)?;
    ensure!(own != outside, "this would change the setting for everybody: start it in unshare -Urn");
    fs::write(SETTING, seconds.to_string()).at("write", SETTING)?;

    // Both ends close: TIME-WAIT at the first.
    let (first_sock, second_sock) = connected_pair()?;
    let first = Pair::of(&first_sock)?;
    drop(first_sock);
    wait_for_state(first, Some(State::FinWait2), LIMIT)?;
    drop(second_sock);
    let time_wait = wait_for_state(first, Some(State::TimeWait), LIMIT)?;
    let time_wait = time_wait.and_then(|row| row.timer).context("TIME-WAIT without a timer")?;

    // Only one closes, and the other does nothing: FIN-WAIT-2.
    let (orphan_sock, _peer_sock) = connected_pair()?;
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

fn connected_pair() -> Result<(Socket, Socket)> {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listen_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", any_port)?;
    listen_sock.bind(&any_port.into()).at("bind", any_port)?;
    listen_sock.listen(1).at("listen", any_port)?;
    let server_addr = listen_sock.local_addr().at("getsockname", any_port)?;
    let client_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", any_port)?;
    client_sock.connect(&server_addr).at("connect", any_port)?;
    let (conn_sock, _) = listen_sock.accept().at("accept", any_port)?;
    Ok((client_sock, conn_sock))
}
