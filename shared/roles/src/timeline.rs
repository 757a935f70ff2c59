//! What happened to several things at the same time, as a picture: a row for each, in text and as SVG.

use std::fmt::Write;
use std::iter::repeat_n;
use std::ops::Range;
use std::time::Duration;

use crate::escaped;

/// Columns of the longest bar in text.
const COLUMNS: usize = 54;
/// A moment at which a thing is not there yet, in text.
const ABSENT: char = '_';
/// The measures of the SVG: the picture, and where its bars are.
const WIDTH: f64 = 800.0;
const BARS: Range<f64> = 120.0..690.0;
const TOP: f64 = 44.0;
const ROW: f64 = 28.0;
const BAR: f64 = 20.0;

/// A row for each thing, and one axis of time for all of them.
pub struct Timeline(pub Vec<TimelineRow>);

/// One thing. All its times begin where the picture does.
pub struct TimelineRow {
    /// What it is; in the SVG about 14 characters have room.
    pub name: String,
    /// What it did, and from when to when, in order of time.
    pub phases: Vec<(TimelinePhase, Range<Duration>)>,
    /// When it ended.
    pub end: Duration,
    /// How it ended: a character behind the bar, and up to 11 characters of words, or none.
    pub mark: char,
    /// See `mark`; the SVG shows the words only.
    pub words: &'static str,
}

/// What a thing does for a while.
#[derive(Clone, Copy, PartialEq)]
pub struct TimelinePhase {
    /// In text: one for each moment of it.
    pub character: char,
    /// In the SVG, such as `#5a9e5a`.
    pub colour: &'static str,
    /// A word or two for the SVG's legend.
    pub meaning: &'static str,
}

impl Timeline {
    /// A name and a bar for each row, and the axis below them. `_` is a moment before the first phase. There are
    /// `width` columns behind the names.
    pub fn text(&self, width: usize) -> Vec<(String, String)> {
        let behind = self.0.iter().map(|row| row.words.len() + 2).max().unwrap_or(1); // mark, blank, words
        let columns = width.saturating_sub(behind).min(COLUMNS);
        let mut lines: Vec<_> = self.0.iter().map(|row| (row.name.clone(), self.bar(row, columns))).collect();
        let total = self.total_shown();
        lines.push((String::new(), format!("0{total:>columns$}")));
        lines
    }

    /// The same as an SVG file, with this title.
    pub fn svg(&self, title: &str) -> String {
        let height = TOP + ROW * self.0.len() as f64 + 64.0;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
             height=\"{height}\" font-family=\"sans-serif\" font-size=\"14\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
             <text x=\"10\" y=\"26\" font-size=\"16\">{}</text>\n",
            in_xml(title)
        );
        let x = |at| BARS.start + self.share(at) * (BARS.end - BARS.start);
        let mut legend: Vec<TimelinePhase> = Vec::new();
        for (row, y) in self.0.iter().zip((0..).map(|at| TOP + ROW * f64::from(at))) {
            label(&mut svg, 10.0, y + 15.0, "start", &row.name);
            for (phase, time) in &row.phases {
                rectangle(&mut svg, x(time.start), y, (x(time.end) - x(time.start)).max(1.0), BAR, phase.colour);
                if !legend.contains(phase) {
                    legend.push(*phase);
                }
            }
            label(&mut svg, x(row.end) + 6.0, y + 15.0, "start", row.words);
        }
        label(&mut svg, BARS.start, height - 46.0, "start", "0");
        label(&mut svg, BARS.end, height - 46.0, "end", &self.total_shown());
        for (phase, x) in legend.iter().zip((0..).map(|at| BARS.start + 120.0 * f64::from(at))) {
            rectangle(&mut svg, x, height - 25.0, 12.0, 12.0, phase.colour);
            label(&mut svg, x + 18.0, height - 14.0, "start", phase.meaning);
        }
        svg + "</svg>\n"
    }

    /// One row: a character for each moment, then how it ended.
    fn bar(&self, row: &TimelineRow, columns: usize) -> String {
        let column = |at| (self.share(at) * columns as f64).round() as usize;
        let (mut bar, mut drawn) = (String::new(), 0);
        for (phase, time) in &row.phases {
            for (character, to) in [(ABSENT, column(time.start)), (phase.character, column(time.end))] {
                bar.extend(repeat_n(character, to.saturating_sub(drawn)));
                drawn = drawn.max(to);
            }
        }
        format!("{bar}{} {}", row.mark, row.words).trim_end().into()
    }

    /// The time of the last end; never zero.
    fn total(&self) -> Duration {
        self.0.iter().map(|row| row.end).max().unwrap_or_default().max(Duration::from_millis(1))
    }

    fn total_shown(&self) -> String {
        format!("{:.2} s", self.total().as_secs_f64())
    }

    /// From 0 at the beginning to 1 at the last end.
    fn share(&self, at: Duration) -> f64 {
        (at.as_secs_f64() / self.total().as_secs_f64()).min(1.0)
    }
}

fn rectangle(svg: &mut String, x: f64, y: f64, width: f64, height: f64, colour: &str) {
    let _ = writeln!(
        svg,
        "<rect x=\"{x:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"{height}\" fill=\"{}\"/>",
        in_xml(colour)
    );
}

/// `anchor`: which end of the text is at `x`.
fn label(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    if !text.is_empty() {
        let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"{anchor}\">{}</text>", in_xml(text));
    }
}

/// A name may come from a stranger.
fn in_xml(text: &str) -> String {
    let text = escaped(text.as_bytes()).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAITS: TimelinePhase = TimelinePhase { character: '-', colour: "#bbbbbb", meaning: "waiting" };
    const SERVED: TimelinePhase = TimelinePhase { character: '=', colour: "#5a9e5a", meaning: "served" };

    fn row(name: &str, phases: &[(TimelinePhase, Range<u64>)], end: u64, words: &'static str) -> TimelineRow {
        let seconds = |time: &Range<u64>| Duration::from_secs(time.start)..Duration::from_secs(time.end);
        let phases = phases.iter().map(|(phase, time)| (*phase, seconds(time))).collect();
        let mark = if words.is_empty() { '|' } else { 'x' };
        TimelineRow { name: name.into(), phases, end: Duration::from_secs(end), mark, words }
    }

    fn figure() -> Timeline {
        Timeline(vec![
            row("Thread-1", &[(WAITS, 0..0), (SERVED, 0..5)], 5, ""),
            row("Thread-2", &[(WAITS, 0..5), (SERVED, 5..10)], 10, ""),
            row("Thread-3", &[(WAITS, 5..9)], 9, "timed out"),
        ])
    }

    #[test]
    fn each_row_is_in_proportion_and_tells_its_end() {
        let lines = figure().text(79);
        assert_eq!(lines[0], ("Thread-1".into(), format!("{}|", "=".repeat(27))));
        assert_eq!(lines[1].1, format!("{}{}|", "-".repeat(27), "=".repeat(27)));
        assert_eq!(lines[2].1, format!("{}{}x timed out", "_".repeat(27), "-".repeat(22)));
        assert_eq!(lines[3], (String::new(), format!("0{:>54}", "10.00 s")));
    }

    #[test]
    fn a_row_stays_within_its_width() {
        let long = Timeline(vec![row("Thread-1", &[(SERVED, 0..9)], 9, "interrupted")]);
        for width in [13, 40, 67, 200] {
            let lines = long.text(width);
            assert!(lines.iter().all(|(_, bar)| bar.len() <= width.clamp(13, 67)), "{width}: {lines:?}");
        }
        assert_eq!(long.text(66)[0].1, format!("{}x interrupted", "=".repeat(53)));
    }

    #[test]
    fn the_svg_has_a_shape_for_each_phase_and_a_legend_of_them() {
        let svg = figure().svg("three clients");
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "{svg}");
        assert_eq!(svg.matches("height=\"20\"").count(), 5, "{svg}");
        assert_eq!(svg.matches("height=\"12\"").count(), 2, "{svg}");
        for text in ["three clients", "Thread-3", "timed out", "10.00 s", "waiting", "served"] {
            assert_eq!(svg.matches(&format!(">{text}</text>")).count(), 1, "{text}: {svg}");
        }
    }

    #[test]
    fn what_a_stranger_called_a_thing_is_shown_and_changes_no_shape() {
        let svg = Timeline(vec![row("</text>&\"\u{1b}[2J", &[(WAITS, 0..1)], 1, "")]).svg("1 < 2");
        assert!(
            svg.contains(">&lt;/text&gt;&amp;&quot;\\u{1b}[2J</text>") && svg.contains(">1 &lt; 2</text>"),
            "{svg}"
        );
        assert!(!svg.contains('\u{1b}'));
    }

    #[test]
    fn nothing_and_no_time_divide_by_nothing() {
        assert_eq!(Timeline(Vec::new()).text(79).len(), 1);
        let stopped = Timeline(vec![row("Thread-1", &[], 0, "interrupted")]);
        assert_eq!(stopped.text(0)[0].1, "x interrupted");
        assert!(!stopped.svg("").contains("NaN"));
    }
}
