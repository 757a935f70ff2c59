//! What happened to each client, as a picture: a row for each, in text and as SVG.

use std::time::Duration;

use crate::simulator::{End, Phase, Row};

/// What the characters mean.
pub const LEGEND: &str = "_ absent  . connecting  - waiting  = served  | left  x gave up";
/// Room for the bars; a name stands before them, and a few words behind.
const COLUMNS: usize = 54;
/// The picture's measures.
const WIDTH: f64 = 760.0;
const LEFT: f64 = 90.0;
const ROW: f64 = 28.0;
const TOP: f64 = 44.0;

/// A name and a bar for each client, and the axis below them.
pub fn rows(rows: &[Row]) -> Vec<(String, String)> {
    let total = total(rows);
    let mut lines: Vec<_> = rows.iter().map(|row| (row.name.clone(), bar(row, total))).collect();
    let end = format!("{:.2} s", total.as_secs_f64());
    lines.push((String::new(), format!("0{end:>COLUMNS$}")));
    lines
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

/// The same picture for slides.
pub fn svg(title: &str, rows: &[Row]) -> String {
    let total = total(rows).as_secs_f64();
    let x = |at: Duration| LEFT + at.as_secs_f64() / total * (WIDTH - LEFT - 130.0);
    let height = TOP + ROW * rows.len() as f64 + 40.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"14\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"24\" font-size=\"16\">{title}</text>\n"
    );
    for (row, y) in rows.iter().zip((0..).map(|at| TOP + ROW * f64::from(at))) {
        svg += &format!("<text x=\"10\" y=\"{}\">{}</text>\n", y + 15.0, row.name);
        for (at, (phase, from)) in row.phases.iter().enumerate() {
            let to = row.phases.get(at + 1).map_or(row.end.1, |(_, next)| *next);
            let fill = match phase {
                Phase::Connecting => "#f0c674",
                Phase::Waiting => "#bbbbbb",
                Phase::Served => "#5a9e5a",
            };
            let (from, width) = (x(*from), (x(to) - x(*from)).max(2.0));
            svg += &format!("<rect x=\"{from:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"20\" fill=\"{fill}\"/>\n");
        }
        svg += &format!("<text x=\"{:.1}\" y=\"{}\">{}</text>\n", x(row.end.1) + 6.0, y + 15.0, ended(row));
    }
    let y = height - 20.0;
    for (x, text) in [(LEFT, "0".into()), (WIDTH - 130.0, format!("{total:.2} s"))] {
        svg += &format!("<text x=\"{x}\" y=\"{y}\">{text}</text>\n");
    }
    for (x, fill, text) in
        [(250.0, "#f0c674", "connecting"), (360.0, "#bbbbbb", "waiting"), (450.0, "#5a9e5a", "served")]
    {
        svg += &format!("<rect x=\"{x}\" y=\"{}\" width=\"12\" height=\"12\" fill=\"{fill}\"/>\n", y - 11.0);
        svg += &format!("<text x=\"{}\" y=\"{y}\">{text}</text>\n", x + 18.0);
    }
    svg + "</svg>\n"
}

/// The time of the last end; never zero.
fn total(rows: &[Row]) -> Duration {
    rows.iter().map(|row| row.end.1).max().unwrap_or_default().max(Duration::from_millis(1))
}

/// One client: a character for each moment, then how it ended.
fn bar(row: &Row, total: Duration) -> String {
    let column = |at: Duration| (at.as_secs_f64() / total.as_secs_f64() * COLUMNS as f64).round() as usize;
    let mut bar = String::new();
    for (at, (phase, from)) in row.phases.iter().enumerate() {
        let to = row.phases.get(at + 1).map_or(row.end.1, |(_, next)| *next);
        let character = match phase {
            Phase::Connecting => '.',
            Phase::Waiting => '-',
            Phase::Served => '=',
        };
        let absent = column(*from).saturating_sub(bar.len());
        bar.extend(std::iter::repeat_n('_', absent));
        let long = column(to).saturating_sub(bar.len());
        bar.extend(std::iter::repeat_n(character, long));
    }
    let mark = if row.end.0 == End::Left { "|" } else { "x " };
    format!("{bar}{mark}{}", ended(row))
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
    use super::*;

    fn row(name: &str, phases: &[(Phase, u64)], end: (End, u64)) -> Row {
        let phases = phases.iter().map(|(phase, at)| (*phase, Duration::from_secs(*at))).collect();
        Row { name: name.into(), phases, end: (end.0, Duration::from_secs(end.1)) }
    }

    fn figure() -> Vec<Row> {
        use Phase::*;
        vec![
            row("Thread-1", &[(Connecting, 0), (Waiting, 0), (Served, 0)], (End::Left, 5)),
            row("Thread-2", &[(Connecting, 0), (Waiting, 0), (Served, 5)], (End::Left, 10)),
            row("Thread-3", &[(Connecting, 0), (Waiting, 5)], (End::TimedOut, 9)),
        ]
    }

    #[test]
    fn each_client_has_a_row_in_proportion_and_its_end() {
        let lines = rows(&figure());
        assert_eq!(lines[0].1, format!("{}|", "=".repeat(27)));
        assert_eq!(lines[1].1, format!("{}{}|", "-".repeat(27), "=".repeat(27)));
        assert_eq!(lines[2].1, format!("{}{}x timed out", ".".repeat(27), "-".repeat(22)));
        assert_eq!(lines[3].1.len(), COLUMNS + 1);
        assert_eq!(summary(&figure()), "2 served, 1 timed out");
        assert!(lines.iter().all(|(_, bar)| bar.len() < 79 - 10));
    }

    #[test]
    fn a_picture_has_a_shape_for_each_phase_and_is_closed() {
        let svg = svg("title", &figure());
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "{svg}");
        assert_eq!(svg.matches("height=\"20\"").count(), 8);
        assert_eq!(svg.matches(">timed out<").count(), 1);
    }

    #[test]
    fn nobody_and_no_time_divide_by_nothing() {
        assert_eq!(rows(&[]).len(), 1);
        assert!(!svg("", &[row("Thread-1", &[], (End::Stopped, 0))]).contains("NaN"));
    }
}
