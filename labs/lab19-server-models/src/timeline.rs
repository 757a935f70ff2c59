//! What happened to each client: a row for each, drawn by `shared::Timeline`.

use shared::{Timeline, TimelinePhase, TimelineRow};

use crate::simulator::{End, Phase, Row};

/// What the characters mean.
pub const LEGEND: &str = "_ absent  . connecting  - waiting  = served  | left  x gave up";
const CONNECTING: TimelinePhase = TimelinePhase { character: '.', colour: "#f0c674", meaning: "connecting" };
const WAITING: TimelinePhase = TimelinePhase { character: '-', colour: "#bbbbbb", meaning: "waiting" };
const SERVED: TimelinePhase = TimelinePhase { character: '=', colour: "#5a9e5a", meaning: "served" };

/// A phase lasts until the next one begins.
pub fn drawn(rows: &[Row]) -> Timeline {
    let drawn = |row: &Row| {
        let ends = row.phases.iter().skip(1).map(|(_, from)| *from).chain([row.end.1]);
        let phases = row.phases.iter().zip(ends).map(|((phase, from), to)| {
            let phase = match phase {
                Phase::Connecting => CONNECTING,
                Phase::Waiting => WAITING,
                Phase::Served => SERVED,
            };
            (phase, *from..to)
        });
        let mark = if row.end.0 == End::Left { '|' } else { 'x' };
        TimelineRow { name: row.name.clone(), phases: phases.collect(), end: row.end.1, mark, words: ended(row) }
    };
    Timeline(rows.iter().map(drawn).collect())
}

/// How many had which end.
pub fn summary(rows: &[Row]) -> String {
    let count = |ends: &dyn Fn(&Row) -> bool| rows.iter().filter(|row| ends(row)).count();
    let served = count(&|row| row.was_served());
    let timed_out = count(&|row| row.end.0 == End::TimedOut);
    let mut text = format!("{served} served, {timed_out} timed out");
    for (word, number) in [
        ("closed by the server", count(&|row| row.end.0 == End::Closed)),
        ("failed", count(&|row| matches!(row.end.0, End::Failed(..)))),
        ("interrupted", count(&|row| row.end.0 == End::Stopped)),
    ] {
        if number > 0 {
            text += &format!(", {number} {word}");
        }
    }
    text
}

/// Words for an end that is not the good one.
fn ended(row: &Row) -> &'static str {
    match row.end.0 {
        End::Left => "",
        End::TimedOut => "timed out",
        End::Closed => "closed",
        End::Failed(_, nix::errno::Errno::ECONNREFUSED) => "refused",
        End::Failed(_, nix::errno::Errno::ECONNRESET) => "reset",
        End::Failed(..) => "failed",
        End::Stopped => "interrupted",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn row(name: &str, phases: &[(Phase, u64)], end: (End, u64)) -> Row {
        let phases = phases.iter().map(|(phase, at)| (*phase, Duration::from_secs(*at))).collect();
        Row { name: name.into(), phases, end: (end.0, Duration::from_secs(end.1)) }
    }

    #[test]
    fn a_phase_lasts_until_the_next_and_the_last_until_the_end() {
        use Phase::*;
        let rows = [
            row("Thread-1", &[(Connecting, 0), (Waiting, 0), (Served, 0)], (End::Left, 5)),
            row("Thread-2", &[(Connecting, 0), (Waiting, 0), (Served, 5)], (End::Left, 10)),
            row("Thread-3", &[(Connecting, 0), (Waiting, 5)], (End::TimedOut, 9)),
        ];
        let lines = drawn(&rows).text(69);
        assert_eq!(lines[0].1, format!("{}|", "=".repeat(27)));
        assert_eq!(lines[1].1, format!("{}{}|", "-".repeat(27), "=".repeat(27)));
        assert_eq!(lines[2].1, format!("{}{}x timed out", ".".repeat(27), "-".repeat(22)));
        assert_eq!(summary(&rows), "2 served, 1 timed out");
    }

    #[test]
    fn every_end_fits_behind_its_bar() {
        use nix::errno::Errno::{ECONNREFUSED, ECONNRESET, EPIPE};
        let failed = [ECONNREFUSED, ECONNRESET, EPIPE].map(|errno| End::Failed("recv", errno));
        for end in [End::Left, End::TimedOut, End::Closed, End::Stopped].into_iter().chain(failed) {
            let lines = drawn(&[row("Thread-1", &[(Phase::Served, 0)], (end, 9))]).text(69);
            assert!(lines.iter().all(|(_, bar)| bar.len() < 79 - 10), "{lines:?}");
        }
    }
}
