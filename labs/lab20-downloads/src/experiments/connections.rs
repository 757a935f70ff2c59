//! A connection for all files, or one for each: what the socket table counts.

use std::{collections::BTreeSet, net::SocketAddr};

use anyhow::Result;
use kernel::{State, tcp_sockets, wait_until};
use shared::{Predicts, Stage, Verdict};

use super::{Downloads, LIMIT, server};

const FILES: u16 = 20;

pub fn kept_connection(stage: &mut Stage) -> Result<Verdict> {
    let (_server, addr) = server(stage, &["--seconds", "0", "--size", "1000", "--count", "20"])?;
    let mut known = Ends::read(addr, &Ends::default())?; // the port may have been another program's a minute ago

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
    let open = Ends::read(addr, &known)?;
    stage.say("kept", format_args!("{FILES} files, and the program still runs"));
    stage.say("kernel", open.told());
    let observed = open.ports.len();
    drop(kept); // close(2)
    all_over(addr)?;
    stage.say("kernel", format_args!("after its end: {}", Ends::read(addr, &known)?.told()));

    known.ports.extend(open.ports);
    let mut each = Downloads::new(addr, FILES, 1, true)?;
    each.run(1)?;
    each.ensure_whole()?;
    all_over(addr)?;
    stage.say("close", format_args!("{FILES} files, each request says \"Connection: close\""));
    stage.say("kernel", format_args!("after them: {}", Ends::read(addr, &known)?.told()));
    stage.verdict(question, observed, "HTTP/1.1 keeps a connection for the next request, unless one end says close")
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
    /// Reads them from the table. Connections that are known already are left out.
    fn read(addr: SocketAddr, known: &Ends) -> Result<Ends> {
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
            if !known.ports.contains(&port) {
                *count += 1;
                ends.ports.insert(port);
            }
        }
        Ok(ends)
    }

    fn told(&self) -> String {
        let Ends { established, at_client, at_server, .. } = self;
        format!("{established} ESTABLISHED, {at_client} + {at_server} in TIME-WAIT (client + server)")
    }
}

/// Waits until no connection of this server is on its way any more. Its client's end is then in TIME-WAIT or gone.
fn all_over(addr: SocketAddr) -> Result<()> {
    wait_until("the end of all connections", LIMIT, || {
        let rows = tcp_sockets(addr.port())?;
        let mut ours = rows.iter().filter(|row| row.pair.local == addr);
        Ok(ours.all(|row| matches!(row.state, State::TimeWait | State::Listen)).then_some(()))
    })
}
