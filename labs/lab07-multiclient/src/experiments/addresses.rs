//! What the addresses of the handout mean: ports with swapped bytes, and a port that is still taken.

use std::{net::SocketAddr, os::fd::AsRawFd};

use anyhow::{Context, Result};
use kernel::{Pair, State, tcp_socket, wait_for_state};
use nix::{
    libc,
    sys::socket::{MsgFlags, SockaddrIn, getpeername, recv},
};
use shared::{At, Predicts, Stage, Verdict, returned};
use socket2::{Domain, Socket, Type};

use super::{LIMIT, connected, listening};

/// As the handout prints them.
const HANDOUT_PORTS: [u16; 7] = [13442, 13954, 14466, 14978, 15490, 16002, 16514];

pub fn swapped_ports(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Printed {
        AsItIs,
        BytesSwapped,
        Unrelated,
    }
    let (listen_sock, server_addr) = listening()?;
    stage.server(format_args!("listen({}, 8) = 0  on {server_addr}", listen_sock.as_raw_fd()));

    let question = stage.ask(
        "Which ports did the clients 13442, 13954, 14466 of the handout really have?",
        [
            ("these", Printed::AsItIs),
            ("33332, 33334, 33336", Printed::BytesSwapped),
            ("others: the port after accept is a new one", Printed::Unrelated),
        ],
        Predicts { source: Some(Printed::AsItIs), kit: Printed::BytesSwapped },
    )?;

    let mut relations = Vec::new();
    for _ in 0..3 {
        let client_sock = connected(server_addr)?;
        let client_fd = client_sock.as_raw_fd();
        stage.client(format_args!("connect({client_fd}, {server_addr}) = 0"));
        let (conn_sock, _) = listen_sock.accept().at("accept", server_addr)?;
        let conn_fd = conn_sock.as_raw_fd();
        stage.server(format_args!("accept({}) = {conn_fd}", listen_sock.as_raw_fd()));

        let peer_addr: SockaddrIn = getpeername(conn_fd).at("getpeername", "")?;
        let sockaddr_in: &libc::sockaddr_in = peer_addr.as_ref();
        let raw = sockaddr_in.sin_port; // in network byte order; the handout printed it as it lies there
        stage.server(format_args!("getpeername({conn_fd}) = 0  sin_port, read as a number: {raw}"));

        let row = tcp_socket(Pair::of(&client_sock)?)?.context("the client is in no table")?;
        let port = row.pair.local.port();
        stage.say("kernel", format_args!("client {}  port {port} = {:#06x}, {raw} = {raw:#06x}", row.state, port));
        relations.push(match raw {
            _ if raw.swap_bytes() == port => Printed::BytesSwapped,
            _ if raw == port => Printed::AsItIs,
            _ => Printed::Unrelated,
        });
    }
    stage.say("handout", HANDOUT_PORTS.map(|port| port.to_string()).join(" "));
    stage.say("ntohs", HANDOUT_PORTS.map(|port| u16::from_be(port).to_string()).join(" "));
    stage.say("", "By default Linux chooses a client's port from 32768 to 60999.");

    let all_swapped = relations.iter().all(|relation| *relation == Printed::BytesSwapped);
    let observed = if all_swapped { Printed::BytesSwapped } else { relations.remove(0) };
    stage.verdict(question, observed, "ports travel big-endian; the handout forgot ntohs()")
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
            ("if the new run sets SO_REUSEADDR", if_server_first(|_, new| new)),
            ("if the old run had set SO_REUSEADDR", if_server_first(|old, _| old)),
            ("if both set it", if_server_first(|old, new| old && new)),
            ("if either set it", if_server_first(|old, new| old || new)),
        ],
        Predicts { source: Some(if_server_first(|_, _| false)), kit: if_server_first(|old, new| old && new) },
    )?;
    stage.say("", "closed SO_REUSEADDR");
    stage.say("", "first  old new  on the port");

    let mut may_bind = [false; 8];
    for (may_bind, (first, old_reuse, new_reuse)) in may_bind.iter_mut().zip(CASES) {
        // The old run.
        let listen_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", "")?;
        listen_sock.set_reuse_address(old_reuse).at("setsockopt", "")?;
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        listen_sock.bind(&any_port.into()).at("bind", any_port)?;
        listen_sock.listen(8).at("listen", any_port)?;
        let server_addr = super::local_addr(&listen_sock)?;

        let client_sock = connected(server_addr)?;
        let (conn_sock, _) = listen_sock.accept().at("accept", server_addr)?;
        let server_end = Pair::of(&conn_sock)?;

        let (first_sock, second_sock) = match first {
            End::Server => (conn_sock, client_sock),
            End::Client => (client_sock, conn_sock),
        };
        let first_end = Pair::of(&first_sock)?;
        drop(first_sock); // close(2): FIN
        let at_end = recv(second_sock.as_raw_fd(), &mut [0; 8], MsgFlags::empty()).at("recv", server_addr)?;
        anyhow::ensure!(at_end == 0, "recv returned {at_end} bytes instead of end of stream");
        wait_for_state(first_end, Some(State::FinWait2), LIMIT)?; // or a late ACK may cost TIME-WAIT: lab10, how-long
        drop(second_sock); // close(2): the other FIN
        drop(listen_sock);
        wait_for_state(first_end, Some(State::TimeWait), LIMIT)?;
        let left = tcp_socket(server_end)?.map_or("nothing".into(), |row| row.state.to_string());

        // The new run.
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
    stage.verdict(question, may_bind, "SO_REUSEADDR on both runs, or the client closes first")
}
