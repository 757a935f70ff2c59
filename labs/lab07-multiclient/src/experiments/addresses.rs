//! What the addresses of the handout mean: ports with swapped bytes, and a port that is still taken.

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    os::fd::AsRawFd,
};

use anyhow::{Context, Result, bail};
use kernel::{Pair, State, setting, tcp_socket, wait_for_state};
use nix::{
    libc,
    sys::socket::{SockaddrIn, getpeername},
};
use shared::{At, Predicts, Stage, Verdict, returned};
use socket2::{Domain, Socket, Type};

use super::{TIME_LIMIT, connected, listening, local_addr};

/// As the handout prints them.
const PRINTED: [u16; 7] = [13442, 13954, 14466, 14978, 15490, 16002, 16514];
/// The ports that Linux chooses from unless net.ipv4.ip_local_port_range says otherwise.
const DEFAULT_RANGE: RangeInclusive<u16> = 32768..=60999;

pub fn swapped_ports(stage: &mut Stage) -> Result<Verdict> {
    let first_three = |ports: [u16; 7]| [ports[0], ports[1], ports[2]];
    let (as_printed, bytes_swapped) = (first_three(PRINTED), first_three(PRINTED.map(u16::swap_bytes)));
    let (listen_sock, server_addr) = listening()?;
    stage.server(format_args!("listen({}, 8) = 0  on {server_addr}", listen_sock.as_raw_fd()));

    let question = stage.ask(
        "The handout prints 13442, 13954 and 14466. Which ports did those three clients have?",
        [
            ("13442, 13954 and 14466", as_printed),
            ("33332, 33334 and 33336", bytes_swapped),
            ("41982, 41984 and 41986", [41982, 41984, 41986]),
        ],
        Predicts { source: Some(as_printed), kit: bytes_swapped },
    )?;

    for _ in 0..3 {
        let client_sock = connected(server_addr)?;
        let client_fd = client_sock.as_raw_fd();
        stage.client(format_args!("connect({client_fd}, {server_addr}) = 0"));
        let (conn_sock, _) = listen_sock.accept().at("accept", server_addr)?;
        let conn_fd = conn_sock.as_raw_fd();
        stage.server(format_args!("accept({}) = {conn_fd}", listen_sock.as_raw_fd()));

        let peer_addr: SockaddrIn = getpeername(conn_fd).at("getpeername", "")?;
        let sockaddr_in: &libc::sockaddr_in = peer_addr.as_ref();
        let raw = sockaddr_in.sin_port; // in network byte order; the handout printed these two bytes as they lie there
        stage.server(format_args!("getpeername({conn_fd}) = 0"));
        stage.say("sin_port", format_args!("{}, read as a number of this processor", in_bytes(raw)));

        let row = tcp_socket(Pair::of(&client_sock)?)?.context("the client is in no table")?;
        let port = row.pair.local.port();
        stage.say("kernel", format_args!("client {}  port {}", row.state, in_bytes(port)));
    }
    // A connect takes a port of this range, by preference an even one; bind(0) by preference an odd one.
    let range = setting("net/ipv4/ip_local_port_range").iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
    stage.say("kernel", format_args!("net.ipv4.ip_local_port_range = {range}"));
    let printed_fit = like_linux(stage, "printed", PRINTED);
    let swapped_fit = like_linux(stage, "swapped", PRINTED.map(u16::swap_bytes));
    let observed = match (printed_fit, swapped_fit) {
        (true, false) => as_printed,
        (false, true) => bytes_swapped,
        both => bail!("as printed and swapped, they fit: {both:?}"),
    };
    stage.verdict(question, observed, "ports travel highest byte first; the handout forgot ntohs()")
}

/// A port and its two bytes.
fn in_bytes(port: u16) -> String {
    let [high, low] = port.to_be_bytes();
    format!("{port} = {high} * 256 + {low}")
}

/// Whether Linux gives such ports to clients that connect one after the other: all in the default range, all even, and
/// each 2 above the one before.
fn like_linux(stage: &mut Stage, label: &str, ports: [u16; 7]) -> bool {
    let in_range = ports.iter().filter(|port| DEFAULT_RANGE.contains(port)).count();
    let even = ports.iter().filter(|port| **port % 2 == 0).count();
    let steps: BTreeSet<i32> = ports.windows(2).map(|two| i32::from(two[1]) - i32::from(two[0])).collect();
    stage.say(label, ports.map(|port| port.to_string()).join(" "));
    let (first, last) = (DEFAULT_RANGE.start(), DEFAULT_RANGE.end());
    let by = steps.iter().map(i32::to_string).collect::<Vec<_>>().join(" or ");
    stage.say("", format_args!("{in_range} of 7 from {first} to {last}, {even} of 7 even, rising by {by}"));
    in_range == 7 && even == 7 && steps == BTreeSet::from([2])
}

/// Who closes first, whether the old run set SO_REUSEADDR, whether the new one does.
type Case = (End, bool, bool);

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Server,
    Client,
}

/// The eight cases in the order of the table that is printed.
const CASES: [Case; 8] = [
    (End::Server, false, false),
    (End::Server, false, true),
    (End::Server, true, false),
    (End::Server, true, true),
    (End::Client, false, false),
    (End::Client, false, true),
    (End::Client, true, false),
    (End::Client, true, true),
];

pub fn who_may_bind(stage: &mut Stage) -> Result<Verdict> {
    // Where the client closed first nothing is in the way, whatever is predicted for the other four.
    let if_server_first =
        |allowed: fn(bool, bool) -> bool| CASES.map(|(end, old, new)| end == End::Client || allowed(old, new));
    let question = stage.ask(
        "The server closed first: TIME-WAIT. Without waiting, when may the next run bind the same port?",
        [
            ("never: only waiting helps", if_server_first(|_, _| false)),
            ("with SO_REUSEADDR on the new run", if_server_first(|_, new| new)),
            ("with SO_REUSEADDR on the old run", if_server_first(|old, _| old)),
            ("with SO_REUSEADDR on both runs", if_server_first(|old, new| old && new)),
            ("with SO_REUSEADDR on one of the runs", if_server_first(|old, new| old || new)),
        ],
        Predicts { source: Some(if_server_first(|_, _| false)), kit: if_server_first(|old, new| old && new) },
    )?;
    stage.say("", "closed SO_REUSEADDR");
    stage.say("", "first  old new  on the port");

    let mut may_bind = [false; 8];
    for (may_bind, (first, old_reuse, new_reuse)) in may_bind.iter_mut().zip(CASES) {
        let old_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", "")?;
        old_sock.set_reuse_address(old_reuse).at("setsockopt", "")?;
        let (server_addr, server_end) = run_and_end(old_sock, first)?;
        let left = tcp_socket(server_end)?.map_or("nothing".into(), |row| row.state.to_string());

        let new_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", "")?;
        new_sock.set_reuse_address(new_reuse).at("setsockopt", "")?;
        let bound = new_sock.bind(&server_addr.into());

        let yes_no = |set| if set { "yes" } else { "no" };
        let returned = returned(&bound);
        stage.say(
            "new run",
            format_args!(
                "{:<7}{:<4}{:<5}{left:<10}bind({}, {server_addr}) = {}",
                format!("{first:?}").to_lowercase(),
                yes_no(old_reuse),
                yes_no(new_reuse),
                new_sock.as_raw_fd(),
                returned.split(" (").next().unwrap_or_default(),
            ),
        );
        *may_bind = bound.is_ok();
    }
    stage.verdict(question, may_bind, "with SO_REUSEADDR on both runs; or if the client closes first")
}

/// A run of a server: listens, serves one client, and ends; the server or the client closes first. Returns the server's
/// address and its end of the connection; who closed first is in TIME-WAIT.
fn run_and_end(listen_sock: Socket, first: End) -> Result<(SocketAddr, Pair)> {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    listen_sock.bind(&any_port.into()).at("bind", any_port)?;
    listen_sock.listen(8).at("listen", any_port)?;
    let server_addr = local_addr(&listen_sock)?;

    let client_sock = connected(server_addr)?;
    let (conn_sock, _) = listen_sock.accept().at("accept", server_addr)?;
    let server_end = Pair::of(&conn_sock)?;

    let (first_sock, second_sock) = match first {
        End::Server => (conn_sock, client_sock),
        End::Client => (client_sock, conn_sock),
    };
    let first_end = Pair::of(&first_sock)?;
    drop(first_sock); // close(2): FIN
    wait_for_state(first_end.other_end(), Some(State::CloseWait), TIME_LIMIT)?;
    wait_for_state(first_end, Some(State::FinWait2), TIME_LIMIT)?; // or a late ACK may cost TIME-WAIT: lab10, how-long
    drop(second_sock); // close(2): the other FIN
    drop(listen_sock);
    wait_for_state(first_end, Some(State::TimeWait), TIME_LIMIT)?;
    Ok((server_addr, server_end))
}

pub fn other_ways(stage: &mut Stage) -> Result<Verdict> {
    /// Sets one of the two options, or none.
    type Option = fn(&Socket) -> io::Result<()>;
    let none: Option = |_| Ok(());
    let reuse_addr: Option = |sock| sock.set_reuse_address(true);
    let reuse_port: Option = |sock| sock.set_reuse_port(true);
    let cases = [
        ("SO_REUSEPORT", reuse_port, "SO_REUSEPORT", reuse_port, Ipv4Addr::LOCALHOST),
        ("SO_REUSEPORT", reuse_port, "SO_REUSEADDR", reuse_addr, Ipv4Addr::LOCALHOST),
        ("SO_REUSEADDR", reuse_addr, "SO_REUSEPORT", reuse_port, Ipv4Addr::LOCALHOST),
        ("-", none, "-", none, Ipv4Addr::new(127, 0, 0, 2)),
        ("-", none, "-", none, Ipv4Addr::UNSPECIFIED),
    ];
    stage.say("", "case  old run       new run       binds to");
    for (number, (old, _, new, _, ip)) in (1..).zip(&cases) {
        stage.say("", format_args!("{number:<6}{old:<14}{new:<14}{ip}"));
    }
    let question = stage.ask(
        "The old run was on 127.0.0.1 and closed first: TIME-WAIT. In which cases does the new run's bind work at once, on the same port?",
        [
            ("1 and 4", [true, false, false, true, false]),
            ("1, 2 and 3", [true, true, true, false, false]),
            ("4 and 5", [false, false, false, true, true]),
            ("1", [true, false, false, false, false]),
        ],
        Predicts { source: None, kit: [true, false, false, true, false] },
    )?;
    let mut may_bind = [false; 5];
    for (number, (may_bind, (_, old, _, new, ip))) in (1..).zip(may_bind.iter_mut().zip(cases)) {
        let old_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", "")?;
        old(&old_sock).at("setsockopt", "")?;
        let (server_addr, server_end) = run_and_end(old_sock, End::Server)?;
        let left = tcp_socket(server_end)?.map_or("nothing".into(), |row| row.state.to_string());

        let new_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", "")?;
        new(&new_sock).at("setsockopt", "")?;
        let new_addr = SocketAddr::from((ip, server_addr.port()));
        let bound = new_sock.bind(&new_addr.into());
        let returned = returned(&bound);
        let returned = returned.split(" (").next().unwrap_or_default();
        stage.say(
            &format!("case {number}"),
            format_args!("{left}  bind({}, {new_addr}) = {returned}", new_sock.as_raw_fd()),
        );
        *may_bind = bound.is_ok();
    }
    stage.verdict(question, may_bind, "with the same option on both runs, or on another address; 0.0.0.0 is no other")
}
