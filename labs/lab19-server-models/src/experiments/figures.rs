//! The lecture's simulations, with its own numbers divided by a speed.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, bail};
use kernel::{Counters, tcp_socket, wait_until};
use shared::{Predicts, Role, Screen, Stage, Verdict};

use super::{LIMIT, connected, listener, served, server};
use crate::{
    connections::{connect_to_server, two_decimals},
    simulator::{End, Line, Phase, Row, Setting, simulate},
    timeline,
};

/// The lecture's DEFAULT_CLIENTS.
const CLIENTS: usize = 5;
/// The kernel's SYN timer does not scale: a repetition after 1, 2 and 3 s, before Linux 6.5 after 1 and 3 s. At this speed
/// a client that waits for 15 s / 4 has all of these, and the last one comes when two clients have left.
const FIGURE_SPEED: f64 = 4.0;
/// No client's SYN gets in while the first one stays: any speed means the same.
const QUESTION_SPEED: f64 = 15.0;
/// Nor is a SYN dropped here.
const THREADS_SPEED: f64 = 10.0;
/// In the lecture's logs it is milliseconds. But the kernel's timers are not that fine: a second later, the SYNs of two
/// clients would come again in the same moment, and a kernel with a backlog of 1 might answer one of them with a SYN
/// cookie, and drop its ACK. Then that client is connected, and the server never hears of it.
const GAP: Duration = Duration::from_millis(100);
/// A run in which the machine let so much time pass between two clients says nothing about the kernel.
const HELD_UP: Duration = Duration::from_millis(300);
/// Runs at most, where the machine is that busy.
const RUNS: usize = 3;

/// Five clients at once. Prints what each of them learns, and the timeline.
fn five_clients(stage: &mut Stage, server_addr: SocketAddr, wait_s: f64, stay_s: f64, speed: f64) -> Result<Vec<Row>> {
    let [wait, stay] = [wait_s, stay_s].map(|seconds| Duration::from_secs_f64(seconds / speed));
    let (wait_now, stay_now) = (two_decimals(wait), two_decimals(stay));
    stage.say("speed", format_args!("{speed}: they wait {wait_s} s / {speed} = {wait_now} s, stay {stay_now} s"));
    let tell = |Line { name, text, .. }: Line| {
        if text.starts_with("Service") || text.starts_with("Timeout") {
            stage.say(&name, text);
        }
    };
    let rows = simulate(
        &Setting { clients: CLIENTS, stop: None, head_start: LIMIT, gap: GAP }, // Ctrl-C ends a demo by itself
        |client| connect_to_server(client, server_addr, wait, stay),
        |_| (),
        tell,
    )?;
    let mut screen = Screen::new();
    screen.measure();
    let lines = timeline::drawn(&rows).text(screen.width() - 10); // as wide as the stage's own lines
    stage.say("timeline", timeline::LEGEND);
    lines.into_iter().for_each(|(name, bar)| stage.say(&name, bar));
    for row in &rows {
        if let End::Failed(call, errno) = row.end.0 {
            bail!("{}: {call}: {errno:?}", row.name);
        }
    }
    Ok(rows)
}

/// How many got the service.
fn count_served(rows: &[Row]) -> usize {
    rows.iter().filter(|row| row.was_served()).count()
}

/// The longest time in which nobody was served although somebody had left, or in which one stayed too long.
fn held_up(rows: &[Row], stay: Duration) -> Duration {
    let start = |row: &Row| row.phases.iter().find(|(phase, _)| *phase == Phase::Served).map(|(_, at)| *at);
    let mut services: Vec<_> = rows.iter().filter_map(|row| Some((start(row)?, row.end.1))).collect();
    services.sort_unstable();
    let mut free_at = Duration::ZERO;
    let mut longest = Duration::ZERO;
    for (from, to) in services {
        longest = longest.max(from.saturating_sub(free_at)).max((to - from).saturating_sub(stay));
        free_at = to;
    }
    longest
}

pub fn figure_4_6(stage: &mut Stage) -> Result<Verdict> {
    let (_server, server_addr) = server(&["many-clients", "0"])?;
    stage.server(format_args!("one thread, backlog 1, on {server_addr}: Figure 4.4"));

    let question = stage.ask(
        "Five clients come at once; each waits three times as long as one stays. How many are served?",
        [
            ("three: the kernel never lets the last two in", 3),
            ("four: the last one loses patience, and leaves", 4),
            ("five: each of them waits long enough", 5),
        ],
        Predicts { source: Some(4), kit: 5 },
    )?;
    let before = Counters::read()?;
    let mut rows = five_clients(stage, server_addr, 15.0, 5.0, FIGURE_SPEED)?;
    for _ in 1..RUNS {
        let held = held_up(&rows, Duration::from_secs_f64(5.0 / FIGURE_SPEED));
        if held < HELD_UP {
            break;
        }
        stage
            .say("again", format_args!("this machine was busy: {:.2} s passed with nobody served", held.as_secs_f64()));
        rows = five_clients(stage, server_addr, 15.0, 5.0, FIGURE_SPEED)?;
    }
    stage.counted(&before, ["ListenOverflows"])?;
    stage.verdict(
        question,
        count_served(&rows),
        "a full queue drops the SYN; once connected, the time-out starts anew for recv",
    )
}

pub fn wait_5_stay_30(stage: &mut Stage) -> Result<Verdict> {
    let (mut server, server_addr) = server(&["many-clients", "0"])?;
    stage.server(format_args!("one thread, backlog 1, on {server_addr}: Figure 4.4"));

    let question = stage.ask(
        "Who is served, and whom of the others does the server meet when it is free again, after 30 s?",
        [
            ("one is served; it meets none of the other four", (1, 0)),
            ("one is served; it meets two of the other four", (1, 2)),
            ("one is served; it meets all of the other four", (1, 4)),
            ("two are served; it meets three that have left", (2, 3)),
        ],
        Predicts { source: None, kit: (1, 2) },
    )?;
    let rows = five_clients(stage, server_addr, 5.0, 30.0, QUESTION_SPEED)?;
    // The queue is first in, first out: once a sixth client is served, the server has met all who came before.
    wait_until("an empty accept queue", LIMIT, || {
        Ok(tcp_socket(listener(server_addr))?.filter(|row| row.recv_queue == 0)) // else its SYN is dropped, too
    })?;
    let (sixth_sock, sixth) = connected(stage, "sixth", server_addr)?;
    served(stage, "sixth", &sixth_sock)?;
    server.wait_for(&format!("client {} is using a service", sixth.local))?;
    let log = server.printed();
    let met = log.matches("New client connected").count() - count_served(&rows) - 1; // the sixth
    for line in log.lines().filter(|line| line.contains(" left before ")) {
        stage.server(line);
    }
    stage.server(format_args!("it has met {met} clients that had left"));
    let observed = (count_served(&rows), met);
    stage.verdict(
        question,
        observed,
        "two wait in the accept queue, even dead; the SYNs of the other two were never let in",
    )
}

pub fn four_threads(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Fifth {
        Served,
        TakenLater,
        Closed,
        NeverTaken,
    }
    // With the lecture's backlog of 1 it would depend on main's speed whether a SYN is dropped: experiment immediately.
    let (mut server, server_addr) = server(&["pool", "0", "--workers", "4", "--backlog", "5"])?;
    stage.server(format_args!("four threads behind a queue, backlog 5, on {server_addr}"));

    let question = stage.ask(
        "They wait 5 s and stay 30 s. Four threads are busy. What becomes of the fifth client's connection?",
        [
            ("main closes it, as no thread is free", Fifth::Closed),
            ("one of the threads serves it in between", Fifth::Served),
            ("a thread takes it when its client is gone", Fifth::TakenLater),
            ("it leaves the queue together with its client", Fifth::NeverTaken),
        ],
        Predicts { source: None, kit: Fifth::TakenLater },
    )?;
    let rows = five_clients(stage, server_addr, 5.0, 30.0, THREADS_SPEED)?;
    let observed = match rows.iter().find(|row| !row.was_served()) {
        None => Fifth::Served,
        Some(row) if row.end.0 != End::TimedOut => Fifth::Closed,
        Some(_) => {
            let fifth = fifth_added(&mut server)?;
            let taken = format!("New client connected from {fifth}");
            let seen = wait_until("the fifth to be taken", LIMIT, || {
                Ok(server.printed().contains(&format!("{fifth} disconnected")).then_some(()))
            });
            let log = server.printed();
            for line in log.lines().filter(|line| line.contains(&fifth)) {
                stage.server(line);
            }
            if seen.is_ok() && log.contains(&taken) { Fifth::TakenLater } else { Fifth::NeverTaken }
        }
    };
    stage.verdict(question, observed, "main accepts and queues it; nobody takes it out but a thread, 25 s too late")
}

/// The address of the client that no thread was free for: added, and not connected from.
fn fifth_added(server: &mut Role) -> Result<String> {
    wait_until("five clients in the queue", LIMIT, || {
        let log = server.printed();
        let added = log.lines().filter_map(|line| line.split_once("Added client ")).map(|(_, addr)| addr.to_string());
        let added: Vec<_> = added.collect();
        Ok(added.get(CLIENTS - 1).cloned())
    })
}
