//! When the next run may have the port.

use std::{os::fd::AsRawFd, time::Duration};

use anyhow::{Result, ensure};
use kernel::{Pair, State, tcp_socket, wait_for_state};
use nix::sys::socket::{MsgFlags, recv};
use shared::{At, Predicts, Stage, Verdict, returned};
use socket2::{Domain, Socket, Type};

use super::{LIMIT, acknowledged, connected_pair, listening};

/// How the old run ended, whether it set SO_REUSEADDR, whether the new one does.
type Case = (Ending, bool, bool);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Ending {
    /// The server closed first, then the client: TIME-WAIT.
    BothClosed,
    /// The server ended and the client is still there: FIN-WAIT-2.
    ClientStays,
    /// The client closed first.
    ClientFirst,
}

/// In the order of the table that is printed.
const CASES: [Case; 12] = {
    use Ending::{BothClosed, ClientFirst, ClientStays};
    [
        (BothClosed, false, false),
        (BothClosed, false, true),
        (BothClosed, true, false),
        (BothClosed, true, true),
        (ClientStays, false, false),
        (ClientStays, false, true),
        (ClientStays, true, false),
        (ClientStays, true, true),
        (ClientFirst, false, false),
        (ClientFirst, false, true),
        (ClientFirst, true, false),
        (ClientFirst, true, true),
    ]
};

pub fn bind_again(stage: &mut Stage) -> Result<Verdict> {
    use Ending::{ClientFirst, ClientStays};
    let question = stage.ask(
        "The server closed first and its client after it; or the client is still there; or the client closed first. \
         When may the next run bind the port at once?",
        [
            ("if the client closed first; else only waiting helps", CASES.map(|(end, ..)| end == ClientFirst)),
            ("... or if the new run sets SO_REUSEADDR", CASES.map(|(end, _, new)| end == ClientFirst || new)),
            (
                "... or if both runs set it, but not while a client is there",
                CASES.map(|(end, old, new)| end == ClientFirst || end != ClientStays && old && new),
            ),
            ("... or if both runs set SO_REUSEADDR", CASES.map(|(end, old, new)| end == ClientFirst || old && new)),
        ],
        Predicts {
            source: Some(CASES.map(|(end, ..)| end == ClientFirst)),
            kit: CASES.map(|(end, old, new)| end == ClientFirst || old && new),
        },
    )?;
    stage.say("", "SO_REUSEADDR");
    stage.say("", "old new  left of the old run");

    let mut may_bind = [false; CASES.len()];
    for (may_bind, (ending, old_reuse, new_reuse)) in may_bind.iter_mut().zip(CASES) {
        // The old run.
        let (listen_sock, server_addr) = listening(old_reuse)?;
        let (client_sock, conn_sock) = connected_pair(&listen_sock, server_addr)?;
        let (client, server) = (Pair::of(&client_sock)?, Pair::of(&conn_sock)?);
        let still_there = match ending {
            Ending::BothClosed => {
                drop(conn_sock); // close(2): FIN
                end_of_stream(&client_sock)?;
                acknowledged(server)?;
                drop(client_sock); // close(2): the other FIN
                wait_for_state(server, Some(State::TimeWait), LIMIT)?;
                None
            }
            Ending::ClientStays => {
                drop(conn_sock); // close(2): FIN
                end_of_stream(&client_sock)?;
                wait_for_state(server, Some(State::FinWait2), LIMIT)?;
                Some(client_sock)
            }
            Ending::ClientFirst => {
                drop(client_sock); // close(2): FIN
                end_of_stream(&conn_sock)?;
                acknowledged(client)?;
                drop(conn_sock); // close(2): the other FIN
                wait_for_state(client, Some(State::TimeWait), LIMIT)?;
                wait_for_state(server, None, LIMIT)?;
                None
            }
        };
        drop(listen_sock); // close(2)
        let left = tcp_socket(server)?.map_or("nothing".into(), |row| row.state.to_string());

        // The new run.
        let new_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
        new_sock.set_reuse_address(new_reuse).at("setsockopt", server_addr)?;
        let bound = new_sock.bind(&server_addr.into());
        let yes_no = |set| if set { "yes" } else { "no" };
        let returned = returned(&bound);
        stage.say(
            "new run",
            format_args!(
                "{:<4}{:<5}{left:<11}bind({}, {server_addr}) = {}",
                yes_no(old_reuse),
                yes_no(new_reuse),
                new_sock.as_raw_fd(),
                returned.split(" (").next().unwrap_or_default(),
            ),
        );
        *may_bind = bound.is_ok();
        drop(still_there);
    }
    stage.verdict(question, may_bind, "SO_REUSEADDR on both runs, clients or not; or the client closes first")
}

pub fn reset(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Left {
        AtTheServer,
        AtTheClient,
        Nowhere,
    }
    let (listen_sock, server_addr) = listening(false)?;
    let (client_sock, conn_sock) = connected_pair(&listen_sock, server_addr)?;
    let (client, server) = (Pair::of(&client_sock)?, Pair::of(&conn_sock)?);
    conn_sock.set_linger(Some(Duration::ZERO)).at("setsockopt", server_addr)?;
    stage.server("SO_LINGER is on, with 0 seconds, and SO_REUSEADDR is off");

    let question = stage.ask(
        "The server closes first. Where is TIME-WAIT now, and may the next run bind the port?",
        [
            ("at the server, so bind fails", (Left::AtTheServer, false)),
            ("at neither end, and bind succeeds", (Left::Nowhere, true)),
            ("at neither end, yet bind fails", (Left::Nowhere, false)),
            ("at the client, and bind succeeds", (Left::AtTheClient, true)),
        ],
        Predicts { source: None, kit: (Left::Nowhere, true) },
    )?;
    let (conn_fd, listen_fd, client_fd) = (conn_sock.as_raw_fd(), listen_sock.as_raw_fd(), client_sock.as_raw_fd());
    drop(conn_sock); // close(2): RST
    stage.server(format_args!("close({conn_fd}) = 0"));
    let bytes_read = recv(client_fd, &mut [0; 8], MsgFlags::empty());
    stage.client(format_args!("recv({client_fd}, 8) = {}", returned(&bytes_read)));
    drop(client_sock); // close(2)
    stage.client(format_args!("close({client_fd}) = 0"));
    drop(listen_sock); // close(2)
    stage.server(format_args!("close({listen_fd}) = 0"));
    let left = match stage.kernel([("client", client), ("server", server)])? {
        [None, None] => Left::Nowhere,
        [None, Some(State::TimeWait)] => Left::AtTheServer,
        [Some(State::TimeWait), None] => Left::AtTheClient,
        states => anyhow::bail!("the ends are in the states {states:?}"),
    };
    let new_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
    let bound = new_sock.bind(&server_addr.into());
    stage.say("new run", format_args!("bind({}, {server_addr}) = {}", new_sock.as_raw_fd(), returned(&bound)));
    stage.verdict(question, (left, bound.is_ok()), "a reset forgets the connection at both ends, and bytes under way")
}

fn end_of_stream(sock: &Socket) -> Result<()> {
    let bytes_read = recv(sock.as_raw_fd(), &mut [0; 8], MsgFlags::empty()).at("recv", "")?;
    ensure!(bytes_read == 0, "recv returned {bytes_read} bytes instead of end of stream");
    Ok(())
}
