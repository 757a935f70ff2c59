//! The way to each state: socket calls alone, in the order in which they are made.

mod calls;
mod ending;
mod opening;

use std::{net::SocketAddr, thread, time::Duration};

use anyhow::{Result, ensure};
use kernel::{Pair, Patience, State, tcp_info, tcp_socket, wait_for_state};
use shared::At;
use socket2::Socket;

pub use self::{
    calls::{BLOCK, SMALL, fill},
    opening::DeferAccept,
};
use crate::{log::Log, states::facts};

/// How long a state may take to come; far more than loopback needs.
const LIMIT: Duration = Duration::from_secs(5);
/// A state must stay for this long to count; no transient state does.
const STILL: Duration = Duration::from_millis(100);

/// A state that was reached: where to see it, and the sockets that hold it.
pub struct Reached {
    pub state: State,
    /// The end that is in it; `None`: in no table.
    pub pair: Option<Pair>,
    /// The server's port.
    pub port: u16,
    socks: Vec<Socket>,
}

impl Reached {
    /// The state now: from the kernel's table, or from the socket itself where it is in none.
    pub fn now(&self) -> Result<Option<State>> {
        match (self.pair, self.socks.first()) {
            (Some(pair), _) => Ok(tcp_socket(pair)?.map(|row| row.state)),
            (None, Some(sock)) => Ok(tcp_info::state(sock).at("getsockopt", "TCP_INFO")?),
            (None, None) => Ok(None),
        }
    }

    /// Waits until the state is there, and sees that it stays.
    fn confirm(&self) -> Result<()> {
        if let Some(pair) = self.pair {
            wait_for_state(pair, Some(self.state), LIMIT)?;
        }
        let mut patience = Patience::new(STILL);
        while !patience.is_over() {
            let now = self.now()?;
            ensure!(now == Some(self.state), "{} does not stay: now {now:?}", self.state);
            thread::sleep(STILL / 10); // between two looks; the end is above
        }
        Ok(())
    }

    /// The states of both ends now, `C` for the client's and `S` for the server's; an end in no table is left out.
    pub fn ends(&self) -> Result<Vec<(char, State)>> {
        let (this, other) = if facts(self.state).end == "client" { ('C', 'S') } else { ('S', 'C') };
        let mut ends = Vec::from_iter(self.now()?.map(|state| (this, state)));
        if let Some(pair) = self.pair.filter(|_| self.state != State::Listen) {
            ends.extend(tcp_socket(pair.other_end())?.map(|row| (other, row.state)));
        }
        Ok(ends)
    }
}

/// Takes a socket to `state`, where it can stay for `seconds`.
pub fn reach(state: State, addr: SocketAddr, seconds: u32, log: &mut Log) -> Result<Reached> {
    let reached = match state {
        State::Listen => opening::listen(addr, log),
        State::SynSent => opening::syn_sent(addr, seconds, log),
        State::SynReceived => opening::syn_received(addr, seconds, log),
        State::Established => opening::established(addr, log),
        State::FinWait1 => ending::fin_wait_1(addr, log),
        State::FinWait2 => ending::fin_wait_2(addr, log),
        State::CloseWait => ending::close_wait(addr, log),
        State::Closing => ending::closing(addr, log),
        State::LastAck => ending::last_ack(addr, log),
        State::TimeWait => ending::time_wait(addr, log),
        State::Closed => opening::closed(log),
    }?;
    reached.confirm()?;
    let who = facts(state).end;
    let mut told = format!("{who} {state}");
    if let Some(pair) = reached.pair.filter(|_| state != State::Listen) {
        let other = tcp_socket(pair.other_end())?.map_or("in no table".into(), |row| row.state.to_string());
        told += &format!("   {} {other}", if who == "client" { "server" } else { "client" });
    }
    log.say(if reached.pair.is_some() { "kernel" } else { "TCP_INFO" }, told);
    Ok(reached)
}
