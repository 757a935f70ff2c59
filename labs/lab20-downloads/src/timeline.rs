//! A row for each file: when it was asked for, when its bytes came, how it ended. As text, and as a picture.

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use crate::job::{Job, State};

/// Columns of the bar in a line of text.
const BAR: usize = 60;
/// Longer names are cut.
const NAME: usize = 12;

/// When a file's download began and ended, in seconds since the first of all.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    name: String,
    asked: f64,
    first: f64,
    end: f64,
    whole: bool,
}

/// All downloads of one run.
pub struct Timeline {
    rows: Vec<Row>,
    total: f64,
}

impl Timeline {
    /// Of the downloads that have begun; one that is still under way ends now.
    pub fn of(jobs: &[Job]) -> Timeline {
        let states: Vec<(&Job, State)> = jobs.iter().map(|job| (job, job.state())).collect();
        let begin = states.iter().filter_map(|(_, state)| state.asked).min().unwrap_or_else(Instant::now);
        let since = |moment: Option<Instant>| moment.unwrap_or_else(Instant::now).duration_since(begin).as_secs_f64();
        let row = |(job, state): &(&Job, State)| {
            state.asked?;
            let end = since(state.ended);
            let first = state.first.map_or(end, |first| since(Some(first)));
            let whole = state.ended.is_some() && state.failure.is_none();
            Some(Row { name: job.url.name.clone(), asked: since(state.asked), first, end, whole })
        };
        let rows: Vec<Row> = states.iter().filter_map(row).collect();
        let total = rows.iter().map(|row| row.end).fold(0.0, f64::max);
        Timeline { rows, total }
    }

    /// From the first request to the last byte.
    pub fn total(&self) -> Duration {
        Duration::from_secs_f64(self.total)
    }

    /// The times in which the bytes of a file came, laid end to end.
    pub fn sum(&self) -> Duration {
        Duration::from_secs_f64(self.rows.iter().map(|row| row.end - row.first).sum())
    }

    /// How many files came at the same time, on average.
    pub fn at_a_time(&self) -> f64 {
        self.sum().as_secs_f64() / self.total.max(1e-9)
    }

    /// Lines under 80 columns: `.` asked and waiting, `=` bytes come, `#` whole, `x` broken.
    pub fn text(&self) -> Vec<String> {
        let column = |time: f64| ((time / self.total.max(1e-9) * BAR as f64) as usize).min(BAR - 1);
        let total = format!("{:.2} s", self.total);
        let mut lines = vec![format!("{:NAME$}  0 s{total:>width$}", "", width = BAR - 3)];
        for row in &self.rows {
            let mut bar = String::new();
            for at in 0..=column(row.end) {
                bar.push(match at {
                    at if at == column(row.end) => {
                        if row.whole {
                            '#'
                        } else {
                            'x'
                        }
                    }
                    at if at < column(row.asked) => ' ',
                    at if at < column(row.first) => '.',
                    _ => '=',
                });
            }
            lines.push(format!("{:NAME$}  {bar}", short(&row.name)));
        }
        lines.push(format!("{:NAME$}  . waits   = bytes come   # whole   x broken off", ""));
        lines
    }

    /// The same as a picture, for slides.
    pub fn svg(&self) -> String {
        const LEFT: f64 = 120.0;
        const WIDE: f64 = 640.0;
        const HIGH: f64 = 28.0;
        let x = |time: f64| LEFT + time / self.total.max(1e-9) * WIDE;
        let height = HIGH * (self.rows.len() + 2) as f64;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 800 {height}\" font-family=\"sans-serif\" \
             font-size=\"14\">\n"
        );
        for (at, row) in self.rows.iter().enumerate() {
            let (y, colour) = (HIGH * (at + 1) as f64, if row.whole { "#2a7f3f" } else { "#b03030" });
            let name = row.name.replace('&', "&amp;").replace('<', "&lt;");
            let mut bar = |from: f64, to: f64, colour: &str| {
                let width = (x(to) - x(from)).max(1.0);
                let _ = writeln!(
                    svg,
                    "<rect x=\"{:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"18\" fill=\"{colour}\"/>",
                    x(from)
                );
            };
            bar(row.asked, row.first, "#cccccc");
            bar(row.first, row.end, colour);
            let _ = writeln!(svg, "<text x=\"4\" y=\"{}\">{name}</text>", y + 14.0);
        }
        let y = height - 10.0;
        let _ = writeln!(svg, "<text x=\"{LEFT}\" y=\"{y}\">0 s</text>");
        let _ = writeln!(svg, "<text x=\"{}\" y=\"{y}\" text-anchor=\"end\">{:.2} s</text>", LEFT + WIDE, self.total);
        svg + "</svg>\n"
    }
}

/// A name that fits in front of its bar.
pub fn short(name: &str) -> String {
    if name.chars().count() <= NAME { name.into() } else { name.chars().take(NAME - 2).collect::<String>() + ".." }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, asked: f64, first: f64, end: f64, whole: bool) -> Row {
        Row { name: name.into(), asked, first, end, whole }
    }

    fn timeline() -> Timeline {
        let rows = vec![row("1.bin", 0.0, 0.0, 1.0, true), row("a-very-long-name", 0.5, 1.0, 1.5, false)];
        Timeline { rows, total: 2.0 }
    }

    #[test]
    fn each_file_has_a_row_that_shows_when_it_waited_and_how_it_ended() {
        let lines = timeline().text();
        assert_eq!(lines[1], format!("1.bin         {}#", "=".repeat(30)));
        assert_eq!(lines[2], format!("a-very-lon..  {}{}{}x", " ".repeat(15), ".".repeat(15), "=".repeat(15)));
        assert!(lines.iter().all(|line| line.len() < 80), "{lines:?}");
    }

    #[test]
    fn the_times_of_the_bytes_are_laid_end_to_end() {
        assert_eq!(timeline().sum(), Duration::from_millis(1500));
        assert!((timeline().at_a_time() - 0.75).abs() < 1e-9);
    }

    #[test]
    fn the_picture_has_a_bar_for_waiting_and_one_for_the_bytes_of_each_file() {
        let svg = timeline().svg();
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert_eq!((svg.matches("<rect ").count(), svg.matches("<text ").count()), (4, 4));
    }
}
