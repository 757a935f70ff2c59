//! A connection for all files, or one for each: what the socket table counts.

use std::{collections::BTreeSet, net::SocketAddr};

use anyhow::{Result, ensure};
use kernel::{State, tcp_sockets, wait_until};
use shared::{Predicts, Stage, Verdict};

use super::{Downloads, LIMIT, server};

const FILES: u16 = 20;

pub fn kept_connection(stage: &mut Stage) -> Result<Verdict> {
    let (_server, addr) = server(stage, &["--seconds", "0", "--size", "1000", "--count", "20"])?;

    let question = stage.ask(
        "One thread gets twenty files from one server, by HTTP/1.1. How many TCP connections does it open?",
        [
            ("1, kept for all the files", 1),
            ("2, one for requests, one for files", 2),
            ("20, a new one for each file", usize::from(FILES)),
        ],
        Predicts { source: None, kit: 1 },
    )?;
    let mut kept = Downloads::new(addr, FILES, 1, false)?;
    kept.run(1)?;
    kept.ensure_whole()?;
    let nothing = Ends::default();
    let open = ends(addr, &nothing)?;
    stage.say("kept", format_args!("{FILES} files, and the program still runs"));
    stage.say("kernel", open.told());
    let observed = open.ports.len();
    drop(kept); // close(2)
    let first = all_over(addr, &nothing)?;
    stage.say("kernel", format_args!("after its end: {}", first.told()));

    let mut each = Downloads::new(addr, FILES, 1, true)?;
    each.run(1)?;
    each.ensure_whole()?;
    let closed = all_over(addr, &first)?;
    stage.say("close", format_args!("{FILES} files, each request says \"Connection: close\""));
    stage.say("kernel", format_args!("after them: {}", closed.told()));
    ensure!(closed.ports.len() > usize::from(FILES) / 2, "a connection for each file leaves more than that");
    stage.verdict(question, observed, "HTTP/1.1 keeps it unless told to close; then each file leaves a TIME-WAIT")
}

/// What the kernel still knows of the connections of one server.
#[derive(Default)]
struct Ends {
    established: usize,
    at_client: usize,
    at_server: usize,
    /// Each connection once, by the client's port.
    ports: BTreeSet<u16>,
}

impl Ends {
    fn told(&self) -> String {
        let Ends { established, at_client, at_server, .. } = self;
        format!("{established} ESTABLISHED, {at_client} + {at_server} in TIME-WAIT (client + server)")
    }
}

/// Reads them from the table. Connections that are counted already have their ports in `before`.
fn ends(addr: SocketAddr, before: &Ends) -> Result<Ends> {
    let mut ends = Ends::default();
    for row in tcp_sockets(0)? {
        let (at_client, at_server) = (row.pair.peer == addr, row.pair.local == addr);
        let port = if at_client { row.pair.local.port() } else { row.pair.peer.port() };
        let count = match row.state {
            State::Established if at_server => &mut ends.established,
            State::TimeWait if at_client => &mut ends.at_client,
            State::TimeWait if at_server => &mut ends.at_server,
            _ => continue,
        };
        if !before.ports.contains(&port) {
            *count += 1;
            ends.ports.insert(port);
        }
    }
    Ok(ends)
}

/// Waits until no connection of this server is on its way any more.
fn all_over(addr: SocketAddr, before: &Ends) -> Result<Ends> {
    wait_until("the end of all connections", LIMIT, || {
        let rows = tcp_sockets(0)?;
        let ours = rows.iter().filter(|row| row.pair.local == addr || row.pair.peer == addr);
        let over = ours.into_iter().all(|row| matches!(row.state, State::TimeWait | State::Listen));
        Ok(over.then_some(()))
    })?;
    ends(addr, before)
}
