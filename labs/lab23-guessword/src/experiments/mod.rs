//! What chapter 4 says of shared state, decided with the real servers: the order in which they read is what counts.

mod order;
mod player;
mod players;
mod sharing;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result};
use kernel::{
    Pair,
    need::{DESCRIPTORS, LOOPBACK, PORTS},
    tcp_socket, wait_until,
};
use nix::sys::signal::{Signal, kill};
use shared::{At, Experiment, Lesson, Role, Stage};

use self::player::Player;

/// How long an answer may take; far more than loopback needs.
const LIMIT: Duration = Duration::from_secs(10);
/// Bytes asked of one recv.
const CHUNK: usize = 64 * 1024;

pub const LESSON: Lesson = Lesson {
    lab: crate::LAB,
    setting: "servers and clients on this machine",
    needs: &[LOOPBACK, PORTS, DESCRIPTORS],
    experiments: &[
        Experiment {
            id: "same-letter",
            starred: true,
            minutes: 6,
            claim: "If two users propose the same letter, the server scores the fastest.",
            source: "notes ch.4, Concurrent modification",
            needs: &[],
            play: order::same_letter,
        },
        Experiment {
            id: "lost-score",
            starred: true,
            minutes: 7,
            claim: "The key element of the server is the structure Game, with all the routines for concurrent actions.",
            source: "notes ch.4, Concurrent modification; the question is ours",
            needs: &[],
            play: sharing::lost_score,
        },
        Experiment {
            id: "same-cell",
            starred: true,
            minutes: 7,
            claim: "A change by one user is shown to the others immediately. If two change the same pixel at the same \
                    time, the collision needs a decision.",
            source: "notes ch.4, Shared state; the question is ours",
            needs: &[],
            play: order::same_cell,
        },
        Experiment {
            id: "joins-late",
            starred: false,
            minutes: 4,
            claim: "The user may join in the middle of a game.",
            source: "notes ch.4, Concurrent modification; the question is ours",
            needs: &[],
            play: players::joins_late,
        },
        Experiment {
            id: "leaves-halfway",
            starred: false,
            minutes: 4,
            claim: "There is no strict order in which the players guess.",
            source: "notes ch.4, Concurrent modification; the question is ours",
            needs: &[],
            play: players::leaves_halfway,
        },
        Experiment {
            id: "never-reads",
            starred: false,
            minutes: 4,
            claim: "Once one user changes the picture, the others are notified immediately.",
            source: "notes ch.4, Shared state; the question is ours",
            needs: &[],
            play: players::never_reads,
        },
        Experiment {
            id: "ten-thousand",
            starred: false,
            minutes: 4,
            claim: "Whoever applies the same events in the same order has the same state.",
            source: "ours, on notes ch.4, Shared state: how do local states determine the global state?",
            needs: &[],
            play: sharing::ten_thousand,
        },
    ],
    next: &[
        ("by hand", "cargo lab23 server         (or: whiteboard)"),
        ("", "cargo lab23 client ann     (or: draw ann; two or three terminals)"),
        ("watch", "scripts/states.sh 7777 --watch"),
        ("sheet", "cargo lab23 sheet"),
    ],
};

/// One of the real servers as a child process, on a port of the kernel's choice.
fn server_role(which: &str) -> Result<(Role, SocketAddr)> {
    let mut server = Role::start(&[which, "0"])?;
    let banner = server.line_with("PORT : ")?;
    let port = banner.rsplit(' ').next().and_then(|port| port.parse().ok()).context("no port in the banner")?;
    Ok((server, SocketAddr::from((Ipv4Addr::LOCALHOST, port))))
}

/// Stops the server's process: what happens until [`goes_on`], the kernel does alone.
fn stopped(stage: &mut Stage, server: &Role) -> Result<()> {
    kill(server.pid(), Signal::SIGSTOP).at("kill", server.pid())?;
    let stat = format!("/proc/{}/stat", server.pid());
    // proc_pid_stat(5): T is stopped; t, the same while strace looks on.
    let stopped = |text: String| text.contains(") T ") || text.contains(") t ");
    wait_until("the server stopped", LIMIT, || Ok(stopped(fs::read_to_string(&stat)?).then_some(())))?;
    stage.say("stop", format_args!("kill -STOP {}: the server's program stands still now", server.pid()));
    Ok(())
}

fn goes_on(stage: &mut Stage, server: &Role) -> Result<()> {
    kill(server.pid(), Signal::SIGCONT).at("kill", server.pid())?;
    stage.say("go on", format_args!("kill -CONT {}", server.pid()));
    Ok(())
}

/// Waits until the server's kernel holds so many bytes of this player that the server has not read.
fn arrived(stage: &mut Stage, player: &Player, bytes: u32) -> Result<()> {
    let server_end = Pair::of(&player.sock)?.other_end();
    wait_until("the bytes in the server's receive queue", LIMIT, || {
        Ok(tcp_socket(server_end)?.filter(|row| row.recv_queue == bytes).map(|_| ()))
    })?;
    stage.say("kernel", format_args!("{}'s line has arrived: Recv-Q {bytes} at the server's end", player.name));
    Ok(())
}
