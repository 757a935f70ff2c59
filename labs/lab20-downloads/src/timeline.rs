//! When each file was asked for, when its bytes came, how it ended: a row for each, drawn by `shared::Timeline`.

use std::time::{Duration, Instant};

use shared::{Timeline, TimelinePhase, TimelineRow};

use crate::job::{Job, State};

/// What the characters mean.
pub const LEGEND: &str = "_ not asked  . waits  = bytes come  # whole  x broken off";
const WAITS: TimelinePhase = TimelinePhase { character: '.', colour: "#cccccc", meaning: "waits" };
const COMES: TimelinePhase = TimelinePhase { character: '=', colour: "#2a7f3f", meaning: "bytes come" };
const BREAKS: TimelinePhase = TimelinePhase { character: '=', colour: "#b03030", meaning: "not whole" };
/// Longer names are cut.
const NAME: usize = 12;

/// When a file's download began and ended, since the first of all.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    name: String,
    asked: Duration,
    first: Duration,
    end: Duration,
    whole: bool,
}

/// When all downloads of one run began and ended.
pub struct Times(Vec<Row>);

impl Times {
    /// Of the downloads that have begun; one that is still under way ends now.
    pub fn of(jobs: &[Job]) -> Times {
        let states: Vec<(&Job, State)> = jobs.iter().map(|job| (job, job.state())).collect();
        let begin = states.iter().filter_map(|(_, state)| state.asked).min().unwrap_or_else(Instant::now);
        let since = |moment: Option<Instant>| moment.unwrap_or_else(Instant::now).duration_since(begin);
        let row = |(job, state): &(&Job, State)| {
            state.asked?;
            let end = since(state.ended);
            let first = state.first.map_or(end, |first| since(Some(first)));
            let whole = state.ended.is_some() && state.failure.is_none();
            Some(Row { name: job.url.name.clone(), asked: since(state.asked), first, end, whole })
        };
        Times(states.iter().filter_map(row).collect())
    }

    /// From the first request to the last byte.
    pub fn total(&self) -> Duration {
        self.0.iter().map(|row| row.end).max().unwrap_or_default()
    }

    /// The times in which the bytes of a file came, laid end to end.
    pub fn sum(&self) -> Duration {
        self.0.iter().map(|row| row.end - row.first).sum()
    }

    /// How many files came at the same time, on average.
    pub fn at_a_time(&self) -> f64 {
        self.sum().as_secs_f64() / self.total().as_secs_f64().max(1e-9)
    }

    /// The same in a few words.
    pub fn summary(&self) -> String {
        let whole = self.0.iter().filter(|row| row.whole).count();
        format!("{whole} of {} files whole, {:.1} at a time", self.0.len(), self.at_a_time())
    }

    pub fn drawn(&self) -> Timeline {
        let drawn = |row: &Row| {
            let (comes, mark, words) = if row.whole { (COMES, '#', "") } else { (BREAKS, 'x', "broken") };
            let phases = vec![(WAITS, row.asked..row.first), (comes, row.first..row.end)];
            TimelineRow { name: short(&row.name), phases, end: row.end, mark, words }
        };
        Timeline(self.0.iter().map(drawn).collect())
    }
}

/// A name that fits in front of its bar.
pub fn short(name: &str) -> String {
    if name.chars().count() <= NAME { name.into() } else { name.chars().take(NAME - 2).collect::<String>() + ".." }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times() -> Times {
        let row = |name: &str, [asked, first, end]: [u64; 3], whole| {
            let [asked, first, end] = [asked, first, end].map(Duration::from_millis);
            Row { name: name.into(), asked, first, end, whole }
        };
        Times(vec![row("1.bin", [0, 0, 1000], true), row("a-very-long-name", [500, 1000, 2000], false)])
    }

    #[test]
    fn each_file_has_a_row_that_shows_when_it_waited_and_how_it_ended() {
        let lines = times().drawn().text(79 - 14);
        assert_eq!(lines[0], ("1.bin".into(), format!("{}#", "=".repeat(27))));
        let bar = format!("{}{}{}x broken", "_".repeat(14), ".".repeat(13), "=".repeat(27));
        assert_eq!(lines[1], ("a-very-lon..".into(), bar));
        assert!(lines.iter().all(|(_, bar)| bar.len() + NAME + 2 < 80), "{lines:?}");
        assert_eq!(times().summary(), "1 of 2 files whole, 1.0 at a time");
    }

    #[test]
    fn the_times_of_the_bytes_are_laid_end_to_end() {
        assert_eq!(times().sum(), Duration::from_millis(2000));
        assert_eq!(times().total(), Duration::from_millis(2000));
        assert!((times().at_a_time() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn the_picture_has_a_bar_for_waiting_and_one_for_the_bytes_of_each_file() {
        let svg = times().drawn().svg("title");
        assert_eq!(svg.matches("height=\"20\"").count(), 4, "{svg}");
        assert_eq!(svg.matches("height=\"12\"").count(), 3, "{svg}"); // waits, bytes come, not whole
    }
}
