//! The lanes of a page of text, and what stands in them.

use std::iter::repeat_n;

use super::ladder::{PROCESS, Side, Told};
use super::wrap::wrapped;

/// From so many columns on the wire has a lane of its own.
const THREE_LANES: usize = 95;
/// The lane of the wire: `PSH+ACK seq 15 ack 15 len 14 win 65536` has room on an arrow.
const WIRE: usize = 45;
/// Of an arrow, at least so much is drawn: `-- ` before the label, ` >` behind it.
const ARROW: usize = 5;
/// Further lines of a call begin so far to the right.
const HANG: usize = 2;

/// Where the lanes are.
pub struct Page {
    /// Columns.
    pub width: usize,
    /// Columns left of the wire, of the wire, right of it; the walls are not counted.
    lanes: [usize; 3],
    three: bool,
}

impl Page {
    pub fn new(width: usize) -> Page {
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
    pub fn with_numbers(&self, who: &[String; 2]) -> [String; 2] {
        let [l, w, _] = self.lanes;
        let room = if self.three { l.saturating_sub(1) } else { w.saturating_sub(8) / 2 };
        let fits = |who: &String| who.chars().count() <= room;
        who.each_ref().map(|who| if fits(who) { who.clone() } else { who.replacen(PROCESS, " ", 1) })
    }

    /// Something at the left end and something at the right end, each near its wall.
    pub fn ends(&self, [left, right]: [&str; 2], between: &str) -> Vec<String> {
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

    pub fn call(&self, side: Side, text: &str) -> Vec<String> {
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

    pub fn states(&self, left: &str, right: &str, stamp: &str) -> Vec<String> {
        let l = self.lanes[0];
        if self.three {
            return vec![self.row(&format!("{left:>0$} ", l - 1), stamp, &format!(" {right}"))];
        }
        self.ends([left, right], stamp)
    }

    /// Whether such a label has room on an arrow.
    pub fn has_room(&self, parts: &[String]) -> bool {
        let blanks = parts.len().saturating_sub(1) + ARROW;
        parts.iter().map(|part| part.chars().count()).sum::<usize>() + blanks <= self.lanes[1]
    }

    /// An arrow with its label on the first line; what has no room there stands below it.
    pub fn arrow(&self, to: Side, parts: &[String], lost: bool) -> Vec<String> {
        let (w, room) = (self.lanes[1], self.lanes[1].saturating_sub(ARROW));
        let mut labels: Vec<String> = Vec::new();
        for part in parts.iter().flat_map(|part| wrapped(part, room, 0)) {
            match labels.last_mut() {
                Some(label) if label.chars().count() + 1 + part.chars().count() <= room => {
                    *label += &format!(" {part}")
                }
                _ => labels.push(part),
            }
        }
        let label = labels.first().cloned().unwrap_or_default();
        let dashes = w.saturating_sub(label.chars().count() + ARROW);
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

    pub fn across(&self, lead: &str, text: &str, told: Told) -> Vec<String> {
        let room = self.width.saturating_sub(lead.chars().count()).max(self.width / 2);
        let hang = if told == Told::Program { 0 } else { HANG };
        let indent = if told == Told::Program { lead.to_string() } else { " ".repeat(lead.chars().count()) };
        let line = |(at, line): (usize, String)| format!("{}{line}", if at == 0 { lead } else { &indent });
        wrapped(text, room, hang).into_iter().enumerate().map(line).collect()
    }
}
