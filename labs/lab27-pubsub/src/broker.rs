//! Terminal 1: rumqttd as the broker, inside this program. What it holds is in its memory: it ends with the program.

use std::{
    collections::HashMap,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kernel::{State, tcp_sockets, wait_until};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};
use shared::{At, Pause, Screen, Stop};
use socket2::{Domain, Socket, Type};

use crate::BrokerArgs;

/// Far longer than rumqttd needs to listen.
const LIMIT: Duration = Duration::from_secs(20);
/// The longest packet, in bytes.
const MOST_BYTES: usize = 1 << 20;
/// Messages sent to a subscriber and not confirmed by it, at most.
const IN_FLIGHT: usize = 100;

/// Serves until Ctrl-C.
pub fn run(args: &BrokerArgs) -> Result<()> {
    let addr = args.address;
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();

    // rumqttd says nothing where its bind fails, and takes no port of the kernel's choice. So this socket asks first, and
    // keeps the address until rumqttd listens there: SO_REUSEADDR lets two bind while at most one of them listens.
    let family = if addr.is_ipv6() { "AF_INET6" } else { "AF_INET" };
    pause.before(&mut screen, format_args!("socket({family}, SOCK_STREAM, 0)"));
    let keeper = Socket::new(Domain::for_address(addr), Type::STREAM, None).at("socket", addr)?;
    let fd = keeper.as_raw_fd();
    pause.before(&mut screen, format_args!("setsockopt({fd}, SOL_SOCKET, SO_REUSEADDR, 1)"));
    keeper.set_reuse_address(true).at("setsockopt", addr)?;
    pause.before(&mut screen, format_args!("bind({fd}, {addr})"));
    keeper.bind(&addr.into()).at("bind", addr)?;
    let local_addr = keeper.local_addr().at("getsockname", addr)?.as_socket().context("not an IP socket")?;

    pause.before(&mut screen, "rumqttd binds, listens and accepts");
    let mut broker = Broker::new(config(local_addr));
    let serving = thread::Builder::new().spawn(move || broker.start().map_err(|error| error.to_string()));
    let serving = serving.context("cannot start a thread; see the limit: ulimit -u")?;
    wait_until("rumqttd listening", LIMIT, || {
        ensure!(!serving.is_finished(), "rumqttd could not listen on {local_addr}");
        let listens = tcp_sockets(local_addr.port())?.iter().any(|row| row.state == State::Listen);
        Ok(listens.then_some(()))
    })?;
    drop(keeper); // close(2)
    screen.line(format_args!("rumqttd 0.20 is the broker at {local_addr}"));

    while !stop.requested() {
        let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::from(1000u16)); // EINTR: looked again
        ensure!(!serving.is_finished(), "rumqttd has ended");
    }
    screen.line("The broker ends, and what it held is gone");
    Ok(()) // rumqttd has no call that ends it: its threads end with the program
}

/// MQTT 3.1.1 on one address, and nothing else.
fn config(listen: SocketAddr) -> Config {
    let connections = ConnectionSettings {
        connection_timeout_ms: 60_000,
        max_payload_size: MOST_BYTES,
        max_inflight_count: IN_FLIGHT,
        auth: None,
        external_auth: None,
        dynamic_filters: true, // a topic may be published to before anybody subscribes
    };
    let server = ServerSettings { name: "v4".into(), listen, tls: None, next_connection_delay_ms: 1, connections };
    let router = RouterConfig {
        max_connections: 1000,
        max_outgoing_packet_count: 200,
        max_segment_size: 100 << 20,
        max_segment_count: 10,
        ..RouterConfig::default()
    };
    Config { router, v4: Some(HashMap::from([("v4".into(), server)])), ..Config::default() }
}
