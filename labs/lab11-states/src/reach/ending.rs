//! FIN-WAIT-1, FIN-WAIT-2, CLOSE-WAIT, CLOSING, LAST-ACK, TIME-WAIT.

use std::{net::SocketAddr, os::fd::AsRawFd};

use anyhow::{Result, ensure};
use kernel::{Need, Pair, State, need::TIME_WAIT_BUCKETS, wait_for_state};
use nix::sys::socket::{MsgFlags, recv};
use shared::returned;

use super::{
    LIMIT, Reached,
    calls::{SMALL, connected, filled, shut},
};
use crate::log::Log;

pub fn fin_wait_1(addr: SocketAddr, log: &mut Log) -> Result<Reached> {
    let (client_sock, conn_sock, server_addr) = connected(addr, Some(SMALL), log)?;
    let pair = Pair::of(&client_sock)?;
    filled("client", &client_sock, log)?;
    shut("client", &client_sock, log)?; // the FIN is queued behind the unsent data
    let socks = vec![client_sock, conn_sock];
    Ok(Reached { state: State::FinWait1, pair: Some(pair), port: server_addr.port(), socks })
}

pub fn fin_wait_2(addr: SocketAddr, log: &mut Log) -> Result<Reached> {
    let (client_sock, conn_sock, server_addr) = connected(addr, None, log)?;
    let pair = Pair::of(&client_sock)?;
    shut("client", &client_sock, log)?;
    let socks = vec![client_sock, conn_sock];
    Ok(Reached { state: State::FinWait2, pair: Some(pair), port: server_addr.port(), socks })
}

pub fn close_wait(addr: SocketAddr, log: &mut Log) -> Result<Reached> {
    let (client_sock, conn_sock, server_addr) = connected(addr, None, log)?;
    let pair = Pair::of(&conn_sock)?;
    shut("client", &client_sock, log)?;
    let socks = vec![client_sock, conn_sock];
    Ok(Reached { state: State::CloseWait, pair: Some(pair), port: server_addr.port(), socks })
}

pub fn closing(addr: SocketAddr, log: &mut Log) -> Result<Reached> {
    let (client_sock, conn_sock, server_addr) = connected(addr, Some(SMALL), log)?;
    let pair = Pair::of(&client_sock)?;
    filled("client", &client_sock, log)?;
    shut("client", &client_sock, log)?; // FIN-WAIT-1: the FIN is queued behind the unsent data
    wait_for_state(pair, Some(State::FinWait1), LIMIT)?;
    shut("server", &conn_sock, log)?; // nothing is before this FIN, so it arrives
    let socks = vec![client_sock, conn_sock];
    Ok(Reached { state: State::Closing, pair: Some(pair), port: server_addr.port(), socks })
}

pub fn last_ack(addr: SocketAddr, log: &mut Log) -> Result<Reached> {
    let (client_sock, conn_sock, server_addr) = connected(addr, Some(SMALL), log)?;
    let pair = Pair::of(&conn_sock)?;
    shut("client", &client_sock, log)?;
    wait_for_state(pair, Some(State::CloseWait), LIMIT)?;
    filled("server", &conn_sock, log)?;
    shut("server", &conn_sock, log)?; // the FIN is queued behind the unsent data
    let socks = vec![client_sock, conn_sock];
    Ok(Reached { state: State::LastAck, pair: Some(pair), port: server_addr.port(), socks })
}

pub fn time_wait(addr: SocketAddr, log: &mut Log) -> Result<Reached> {
    let Need { what, provided_by, met } = TIME_WAIT_BUCKETS;
    ensure!(met(), "TIME-WAIT needs {what}: {provided_by}");
    let (client_sock, conn_sock, server_addr) = connected(addr, None, log)?;
    let pair = Pair::of(&client_sock)?;
    let (client_fd, conn_fd) = (client_sock.as_raw_fd(), conn_sock.as_raw_fd());

    log.next(format_args!("close({client_fd})"));
    drop(client_sock); // close(2): FIN
    log.say("client", format_args!("close({client_fd}) = 0"));

    wait_for_state(pair, Some(State::FinWait2), LIMIT)?; // or a late ACK may end TIME-WAIT: lab10-timewait, how-long
    log.next(format_args!("recv({conn_fd}, 1024)"));
    let end = recv(conn_fd, &mut [0; 1024], MsgFlags::empty());
    log.say("server", format_args!("recv({conn_fd}, 1024) = {}", returned(&end)));

    log.next(format_args!("close({conn_fd})"));
    drop(conn_sock); // close(2): FIN
    log.say("server", format_args!("close({conn_fd}) = 0"));
    Ok(Reached { state: State::TimeWait, pair: Some(pair), port: server_addr.port(), socks: Vec::new() })
}
