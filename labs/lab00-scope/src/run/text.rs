//! The ladder in plain text, line by line as it happens: three lanes (left end | wire | right end) where there is room,
//! else two, with the wire between the ends.

use std::iter::repeat_n;

use anyhow::Result;
use shared::{Screen, escaped};

use super::flows::Side;
use super::ladder::{Ladder, PROCESS, Row, Shape, Shown, Told};
use super::model::{Event, Sink};

/// From so many columns on the wire has a lane of its own.
const THREE_LANES: usize = 95;
/// The lane of the wire: `PSH+ACK seq 15 ack 15 len 14 win 65536` has room on an arrow.
const WIRE: usize = 45;
/// Further lines of a call begin so far to the right.
const HANG: usize = 2;

/// Writes the ladder on standard output.
pub struct Text {
    ladder: Ladder,
    screen: Screen,
}

impl Text {
    pub fn new(shown: Shown) -> Text {
        let mut screen = Screen::new();
        screen.measure();
        Text { ladder: Ladder::new(shown), screen }
    }

    fn draw(&mut self, rows: &[Row]) {
        for row in rows {
            let emphasis = row.is_loud();
            for line in lines(row, self.screen.width()) {
                let line = if emphasis { self.screen.bold(&line) } else { line };
                self.screen.line(line);
            }
        }
    }
}

impl Sink for Text {
    fn event(&mut self, event: &Event) -> Result<()> {
        let rows = self.ladder.event(event);
        self.draw(&rows);
        Ok(())
    }

    fn step(&mut self) -> Result<()> {
        let rows = self.ladder.step();
        self.draw(&rows);
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let rows = self.ladder.end();
        self.draw(&rows);
        Ok(())
    }
}

impl Row {
    /// What a class looks for.
    fn is_loud(&self) -> bool {
        match &self.shape {
            Shape::Heading { .. } | Shape::States { .. } => true,
            Shape::Arrow { marks, .. } => !marks.is_empty(),
            _ => false,
        }
    }
}

/// The lines of one row, none wider than `width` columns.
pub fn lines(row: &Row, width: usize) -> Vec<String> {
    let stamp = row.stamp.map(|pause| format!("  +{:.2}s", pause.as_secs_f64())).unwrap_or_default();
    let page = Page::new(width);
    let lines = match &row.shape {
        Shape::Across { lead, text, told } => page.across(lead, &format!("{text}{stamp}"), *told),
        Shape::Turn { ends: [left, right] } => {
            let dots = page.width.saturating_sub(left.len() + right.len() + 2).max(1);
            vec![format!("{left} {} {right}", ".".repeat(dots))]
        }
        Shape::Heading { protocol, who, ends } => {
            let mut lines = vec![String::new()];
            let who = page.with_numbers(who);
            lines.extend(page.ends([&who[0], &who[1]], protocol));
            lines.extend(page.ends([&ends[0], &ends[1]], ""));
            lines
        }
        Shape::Call { side, text } => page.call(*side, &format!("{text}{stamp}")),
        Shape::States { ends } => {
            let [left, right] = ends.each_ref().map(|state| state.as_deref().unwrap_or_default());
            page.states(left, right, &stamp)
        }
        Shape::Arrow { to, parts, marks, data, lost } => {
            let mut label = parts.clone();
            label.extend(marks.iter().map(|mark| format!("* {mark}")));
            label.extend((!stamp.is_empty()).then(|| stamp.trim().into()));
            page.arrow(*to, &label, data, *lost)
        }
    };
    let cut = |line: String| line.chars().take(width).collect::<String>().trim_end().to_string();
    lines.into_iter().map(cut).collect()
}

/// Where the lanes are.
struct Page {
    width: usize,
    /// Columns left of the wire, of the wire, right of it; the walls are not counted.
    lanes: [usize; 3],
    three: bool,
}

impl Page {
    fn new(width: usize) -> Page {
        let three = width >= THREE_LANES;
        let beside = width.saturating_sub(WIRE + 2);
        let lanes = if three { [beside / 2, WIRE, beside - beside / 2] } else { [0, width.saturating_sub(2), 0] };
        Page { width, lanes, three }
    }

    /// A line of the picture: what stands in the three lanes, padded.
    fn row(&self, left: &str, wire: &str, right: &str) -> String {
        let [l, w, _] = self.lanes;
        format!("{left:<l$}|{wire:<w$}|{right}")
    }

    /// Who is at the ends: program and process, in fewer words where there is little room.
    fn with_numbers(&self, who: &[String; 2]) -> [String; 2] {
        let [l, w, _] = self.lanes;
        let room = if self.three { l.saturating_sub(1) } else { w.saturating_sub(8) / 2 };
        let fits = |who: &String| who.chars().count() <= room;
        who.each_ref().map(|who| if fits(who) { who.clone() } else { who.replacen(PROCESS, " ", 1) })
    }

    /// Something at the left end and something at the right end, each near its wall.
    fn ends(&self, [left, right]: [&str; 2], between: &str) -> Vec<String> {
        let [l, w, r] = self.lanes;
        if self.three {
            let (left, right) = (wrapped(left, l - 1, HANG), wrapped(right, r - 1, HANG));
            let count = left.len().max(right.len()).max(1);
            let line = |at: usize| {
                let text = |lines: &[String]| lines.get(at).cloned().unwrap_or_default();
                let middle = if at == 0 { format!("{between:^w$}") } else { String::new() };
                self.row(&text(&left), &middle, &format!(" {}", text(&right)))
            };
            return (0..count).map(line).collect();
        }
        let room = w.saturating_sub(2);
        if left.chars().count() + right.chars().count() + between.len() + 2 > room {
            let mut lines: Vec<String> = wrapped(left, room, HANG);
            lines = lines.iter().map(|line| self.row("", &format!(" {line}"), "")).collect();
            lines.extend(self.at_right(right));
            return lines;
        }
        let inside = format!(" {left}{between:^0$}{right}", room - left.chars().count() - right.chars().count());
        vec![self.row("", &inside, "")]
    }

    /// The text ends at the right wall.
    fn at_right(&self, text: &str) -> Vec<String> {
        let room = self.lanes[1].saturating_sub(2);
        let lines = wrapped(text, room, HANG);
        let longest = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
        let indent = room.saturating_sub(longest) + 1;
        lines.iter().map(|line| self.row("", &format!("{:indent$}{line}", ""), "")).collect()
    }

    fn call(&self, side: Side, text: &str) -> Vec<String> {
        let [l, w, r] = self.lanes;
        match (self.three, side) {
            (true, Side::Left) => wrapped(text, l - 1, HANG).iter().map(|line| self.row(line, "", "")).collect(),
            (true, Side::Right) => {
                wrapped(text, r - 1, HANG).iter().map(|line| self.row("", "", &format!(" {line}"))).collect()
            }
            (false, Side::Left) => {
                let lines = wrapped(text, w.saturating_sub(2), HANG);
                lines.iter().map(|line| self.row("", &format!(" {line}"), "")).collect()
            }
            (false, Side::Right) => self.at_right(text),
        }
    }

    fn states(&self, left: &str, right: &str, stamp: &str) -> Vec<String> {
        let l = self.lanes[0];
        if self.three {
            return vec![self.row(&format!("{left:>0$} ", l - 1), stamp, &format!(" {right}"))];
        }
        self.ends([left, right], stamp)
    }

    /// An arrow with its label on the first line; what has no room there stands below it.
    fn arrow(&self, to: Side, parts: &[String], data: &str, lost: bool) -> Vec<String> {
        let (w, room) = (self.lanes[1], self.lanes[1].saturating_sub(5));
        let mut labels: Vec<String> = Vec::new();
        for part in parts.iter().flat_map(|part| wrapped(part, room, 0)) {
            match labels.last_mut() {
                Some(label) if label.chars().count() + 1 + part.chars().count() <= room => {
                    *label += &format!(" {part}")
                }
                _ => labels.push(part),
            }
        }
        let only = labels.len() == 1;
        if let Some(label) = labels.first_mut().filter(|label| only && label.chars().count() + 1 + data.len() <= room) {
            *label = format!("{label} {data}").trim_end().into();
        }
        let label = labels.first().cloned().unwrap_or_default();
        let dashes = w.saturating_sub(label.chars().count() + 5);
        let shaft = |ends: &str| match lost {
            // It does not arrive.
            true => repeat_n('-', dashes.saturating_sub(3)).collect::<String>() + "X  ",
            false => repeat_n('-', dashes).collect::<String>() + ends,
        };
        let first = match (to, lost) {
            (Side::Right, false) => format!("-- {label} {}", shaft(">")),
            (Side::Right, true) => format!("-- {label} {}", shaft("")),
            (Side::Left, false) => format!("<- {label} {}", shaft("-")),
            (Side::Left, true) => format!(" X {label} {}", repeat_n('-', dashes + 1).collect::<String>()),
        };
        let mut lines = vec![self.row("", &first, "")];
        lines.extend(labels.iter().skip(1).map(|label| self.row("", &format!("   {label}"), "")));
        lines
    }

    fn across(&self, lead: &str, text: &str, told: Told) -> Vec<String> {
        let room = self.width.saturating_sub(lead.chars().count()).max(self.width / 2);
        let hang = if told == Told::Program { 0 } else { HANG };
        let indent = if told == Told::Program { lead.to_string() } else { " ".repeat(lead.chars().count()) };
        let line = |(at, line): (usize, String)| format!("{}{line}", if at == 0 { lead } else { &indent });
        wrapped(text, room, hang).into_iter().enumerate().map(line).collect()
    }
}

/// The text in lines of at most `width` columns, broken between words where that is possible; further lines begin `hang`
/// columns to the right.
pub fn wrapped(text: &str, width: usize, hang: usize) -> Vec<String> {
    let text: Vec<char> = plain(text).chars().collect();
    let (mut lines, mut rest) = (Vec::new(), &text[..]);
    loop {
        let indent = if lines.is_empty() { 0 } else { hang.min(width / 2) };
        let room = width.saturating_sub(indent).max(1);
        let line = |part: &[char]| format!("{:indent$}{}", "", part.iter().collect::<String>().trim_end());
        if rest.len() <= room {
            lines.push(line(rest));
            return lines;
        }
        // The last blank that leaves something on either side; a word that is longer than the line is cut.
        let blank = (1..=room).rev().find(|at| rest[*at] == ' ' && rest[..*at].iter().any(|scalar| *scalar != ' '));
        let (part, more) = rest.split_at(blank.unwrap_or(room));
        lines.push(line(part));
        let blanks = more.iter().take_while(|scalar| **scalar == ' ').count();
        rest = &more[blanks..];
    }
}

/// A stranger's text: it acts on no terminal, and each of its characters has one column.
pub fn plain(text: &str) -> String {
    let narrow = |scalar: char| match scalar {
        '\0'..'\u{250}' => scalar.to_string(),
        _ => scalar.escape_default().to_string(),
    };
    escaped(text.as_bytes()).chars().map(narrow).collect()
}
