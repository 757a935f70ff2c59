//! How a bound socket shows in the tables that ss and netstat read.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
};

use anyhow::{Result, ensure};
use kernel::{Pair, State, tcp_sockets, udp_sockets};
use nix::errno::Errno;
use shared::{At, Predicts, Stage, Verdict, returned};
use socket2::{Domain, Socket, Type};

use super::{ANY_PORT, bound_only, local_addr};

pub fn in_the_table(stage: &mut Stage) -> Result<Verdict> {
    let udp_sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", ANY_PORT)?;
    let udp_fd = udp_sock.as_raw_fd();
    udp_sock.bind(&ANY_PORT.into()).at("bind", ANY_PORT)?;
    stage.say("udp", format_args!("bind({udp_fd}, {ANY_PORT}) = 0"));
    let udp_addr = local_addr(&udp_sock)?;
    stage.say("udp", format_args!("getsockname({udp_fd}, {udp_addr}) = 0"));
    let udp_rows = show_tables(stage, "udp", udp_addr)?;
    ensure!(udp_rows == [Some(State::Closed); 2], "the bound UDP socket is {udp_rows:?}");

    let tcp_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", ANY_PORT)?;
    let tcp_fd = tcp_sock.as_raw_fd();
    tcp_sock.bind(&ANY_PORT.into()).at("bind", ANY_PORT)?;
    stage.say("tcp", format_args!("bind({tcp_fd}, {ANY_PORT}) = 0"));
    let tcp_addr = local_addr(&tcp_sock)?;
    stage.say("tcp", format_args!("getsockname({tcp_fd}, {tcp_addr}) = 0"));

    stage.look(format_args!("ss -tuln '( sport = :{} or sport = :{} )'", udp_addr.port(), tcp_addr.port()));
    let question = stage.ask(
        "netstat reads /proc/net/tcp. We ask the kernel's sock_diag, as ss did before version 6.8, for the sockets in every TCP state. Which \
         row do the two tables have for the bound TCP socket?",
        [
            ("each has a row: LISTEN", [Some(State::Listen); 2]),
            ("each has a row: CLOSED", [Some(State::Closed); 2]),
            ("sock_diag has a row, /proc/net/tcp does not", [Some(State::Closed), None]),
            ("no row in either table", [None; 2]),
        ],
        Predicts { source: Some([Some(State::Closed); 2]), kit: [None; 2] },
    )?;
    let tcp_rows = show_tables(stage, "tcp", tcp_addr)?;

    let second_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", tcp_addr)?;
    let second_bound = second_sock.bind(&tcp_addr.into());
    stage.say("second", format_args!("bind({}, {tcp_addr}) = {}", second_sock.as_raw_fd(), returned(&second_bound)));
    let taken = second_bound.is_err_and(|error| error.raw_os_error() == Some(Errno::EADDRINUSE as i32));
    ensure!(taken, "{tcp_addr} is bound, and yet a second socket was not refused with EADDRINUSE");
    let found = u8::from(bound_only::is_listed(tcp_addr)?);
    let asked = "asked for what is only bound, as by ss -B";
    stage.say("sock_diag", format_args!("{asked}: {found} (before Linux 6.8: 0)"));

    // A bound socket can listen. Another one can connect from the port that it has.
    tcp_sock.listen(8).at("listen", tcp_addr)?;
    stage.say("tcp", format_args!("listen({tcp_fd}, 8) = 0"));
    let listening = show_tables(stage, "tcp", tcp_addr)?;
    ensure!(listening == [Some(State::Listen); 2], "the listening socket is {listening:?}");

    let client_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", ANY_PORT)?;
    let client_fd = client_sock.as_raw_fd();
    client_sock.bind(&ANY_PORT.into()).at("bind", ANY_PORT)?;
    stage.client(format_args!("bind({client_fd}, {ANY_PORT}) = 0"));
    let client_addr = local_addr(&client_sock)?;
    stage.client(format_args!("getsockname({client_fd}, {client_addr}) = 0"));
    client_sock.connect(&tcp_addr.into()).at("connect", tcp_addr)?;
    stage.client(format_args!("connect({client_fd}, {tcp_addr}) = 0"));
    let pair = Pair::of(&client_sock)?;
    ensure!(pair.local == client_addr, "bound to {client_addr}, connected from {}", pair.local);
    stage.kernel([(&format!("from {client_addr}:"), pair)])?;

    stage.verdict(question, tcp_rows, "its port is taken; no table of connections has it until it listens or connects")
}

/// The state of the socket bound to `addr` as ss (sock_diag) and as netstat (/proc/net) have it; `None`: no row.
pub fn show_tables(stage: &mut Stage, protocol: &str, addr: SocketAddr) -> Result<[Option<State>; 2]> {
    let rows = if protocol == "udp" { udp_sockets(addr.port())? } else { tcp_sockets(addr.port())? };
    let ss = rows.into_iter().find(|row| row.pair.local == addr).map(|row| row.state);
    let file = format!("/proc/net/{protocol}");
    let netstat = proc_state(&fs::read_to_string(&file).at("open", &file)?, addr);
    let shown = |state: Option<State>| match state {
        Some(State::Closed) if protocol == "udp" => "UNCONN".to_string(), // as ss calls it; netstat leaves it blank
        Some(state) => state.to_string(),
        None => "no row".to_string(),
    };
    stage.say("kernel", format_args!("{protocol} {addr}   sock_diag: {}   {file}: {}", shown(ss), shown(netstat)));
    Ok([ss, netstat])
}

/// Finds the row with this local address in /proc/net/udp or /proc/net/tcp, see proc(5): address and state in hexadecimal,
/// the address as a word in this machine's byte order.
fn proc_state(table: &str, addr: SocketAddr) -> Option<State> {
    let IpAddr::V4(ip) = addr.ip() else { return None };
    let wanted = format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), addr.port());
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let row = rows.into_iter().find(|fields| fields.get(1) == Some(&wanted.as_str()))?;
    State::from_number(u8::from_str_radix(row.get(3)?, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn a_row_is_found_by_its_whole_local_address() {
        let table = "  sl  local_address rem_address   st\n 10: 0100007F:1E61 00000000:0000 0A 00000000:00000000\n";
        let state = |addr: &str| proc_state(table, addr.parse().unwrap());
        assert_eq!(state("127.0.0.1:7777"), Some(State::Listen));
        assert_eq!(state("127.0.0.2:7777"), None);
        assert_eq!(state("127.0.0.1:7778"), None);
    }
}
