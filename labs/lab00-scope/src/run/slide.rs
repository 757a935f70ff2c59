//! The shapes of a page for slides: walls, arrows, texts, down the page.

use std::fmt::Write as _;

use shared::escaped;

use super::ladder::{PROCESS, Row, Shape, Side, Told};
use super::wrap::wrapped;

/// The measures of the page, in pixels: its width, where the two ends' lines stand, a line of text.
const WIDTH: usize = 1600;
const WALLS: [usize; 2] = [480, 1120];
const MARGIN: usize = 24;
const LINE: usize = 30;
/// A character of the fixed-width font at 20 pixels, as most fonts have it.
const CHARACTER: usize = 12;
/// Characters in the lane of an end, above an arrow, and across the page.
const AT_END: usize = (WALLS[0] - 2 * MARGIN) / CHARACTER;
const ON_WIRE: usize = (WALLS[1] - WALLS[0] - 2 * MARGIN) / CHARACTER;
const ACROSS: usize = (WIDTH - 2 * MARGIN) / CHARACTER;
/// Characters of the title, which is larger.
const TITLE: usize = (WIDTH - 2 * MARGIN) / 16;
/// So much lower does an arrow end: time runs down the page.
const SLOPE: usize = 10;

const STYLE: &str = "\
text { font: 20px 'DejaVu Sans Mono', 'Liberation Mono', Consolas, Menlo, monospace; fill: #1a1a1a; white-space: pre }
.page { fill: #ffffff } .head { font-weight: bold } .quiet { fill: #5f6368 } .state { font-weight: bold; fill: #0b57d0 }
.mark { font-weight: bold; fill: #b3261e } .wall { stroke: #80868b; stroke-width: 2 }
.arrow { stroke: #1a1a1a; stroke-width: 2.5; fill: none } .tip { fill: #1a1a1a }
.bad { stroke: #b3261e } .badtip { fill: #b3261e }
@media (prefers-color-scheme: dark) {
text { fill: #e8eaed } .page { fill: #17191c } .quiet { fill: #9aa0a6 } .state { fill: #8ab4f8 }
.mark { fill: #ff8a80 } .arrow { stroke: #e8eaed } .tip { fill: #e8eaed } .bad { stroke: #ff8a80 } .badtip { fill: #ff8a80 }
}";

/// The shapes so far, and how far down they reach.
#[derive(Default)]
pub struct Page {
    shapes: String,
    y: usize,
}

impl Page {
    /// Draws one row below the others.
    pub fn draw(&mut self, row: &Row) {
        let stamp = row.stamp.map(|pause| format!("+{:.2}s", pause.as_secs_f64()));
        match &row.shape {
            Shape::Across { lead, text, told } => self.across(lead, text, *told),
            Shape::Turn { ends: [left, right] } => {
                self.y += LINE / 2;
                self.at_end(Side::Left, left, "head", false);
                self.at_end(Side::Right, right, "head", false);
                self.next(1);
            }
            Shape::Heading { protocol, who, ends } => {
                self.y += LINE;
                for (side, at) in [(Side::Left, 0), (Side::Right, 1)] {
                    let who = if who[at].chars().count() > AT_END {
                        who[at].replacen(PROCESS, " ", 1)
                    } else {
                        who[at].clone()
                    };
                    self.at_end(side, &wrapped(&who, AT_END, 0)[0], "head", false);
                }
                self.text(middle(), self.y, "middle", "head", protocol);
                self.next(1);
                for (side, at) in [(Side::Left, 0), (Side::Right, 1)] {
                    self.at_end(side, &ends[at], "head", false);
                }
                self.next(1);
            }
            Shape::Call { side, text } => {
                for line in wrapped(text, AT_END, 2) {
                    self.at_end(*side, &line, "call", true);
                    self.next(1);
                }
            }
            Shape::States { ends } => {
                for (side, state) in [Side::Left, Side::Right].into_iter().zip(ends) {
                    self.at_end(side, state.as_deref().unwrap_or_default(), "state", true);
                }
                self.next(1);
            }
            Shape::Arrow { to, parts, marks, data, lost } => {
                let mut label = parts.join(" ");
                if label.chars().count() + 1 + data.len() <= ON_WIRE {
                    label = format!("{label} {data}").trim_end().into();
                }
                self.arrow(*to, &label, marks, *lost);
            }
        }
        if let Some(stamp) = stamp {
            self.text(WIDTH - MARGIN, self.y - LINE, "end", "quiet", &stamp);
        }
    }

    /// The whole file.
    pub fn finished(&self, title: &str) -> String {
        let (top, height) = (3 * LINE, self.y + 4 * LINE);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
             height=\"{height}\">\n<style>\n{STYLE}\n</style>\n<rect class=\"page\" width=\"100%\" height=\"100%\"/>\n\
             <text class=\"head\" style=\"font-size: 26px\" x=\"{MARGIN}\" y=\"44\">{}</text>\n\
             <g transform=\"translate(0 {top})\">\n{}</g>\n</svg>\n",
            in_xml(&wrapped(title, TITLE, 0)[0]),
            self.shapes
        )
    }

    fn arrow(&mut self, to: Side, label: &str, marks: &[String], lost: bool) {
        let bad = !marks.is_empty();
        for line in wrapped(label, ON_WIRE, 0) {
            self.walls();
            self.text(middle(), self.y, "middle", "call", &line);
            self.y += LINE - 6;
        }
        if bad {
            for line in wrapped(&marks.join(", "), ON_WIRE, 0) {
                self.walls();
                self.text(middle(), self.y, "middle", "mark", &line);
                self.y += LINE - 6;
            }
        }
        self.walls();
        let (top, [left, right]) = (self.y - LINE / 2 - 4, WALLS);
        let (from, end) = if to == Side::Right { (left, right) } else { (right, left) };
        // One that is lost ends before the other end does.
        let tip = if lost { (from + 2 * end) / 3 } else { end };
        let (class, tip_class) = if bad { ("arrow bad", "badtip") } else { ("arrow", "tip") };
        let _ = writeln!(
            self.shapes,
            "<line class=\"{class}\" x1=\"{from}\" y1=\"{top}\" x2=\"{tip}\" y2=\"{}\"/>",
            top + SLOPE
        );
        let (y, back) = ((top + SLOPE) as isize, if to == Side::Right { -14 } else { 14 });
        let tip = tip as isize;
        let _ = if lost {
            let (a, b, c, d) = (tip - 9, tip + 9, y - 9, y + 9);
            writeln!(self.shapes, "<path class=\"{class}\" d=\"M{a} {c}L{b} {d}M{a} {d}L{b} {c}\"/>")
        } else {
            writeln!(self.shapes, "<path class=\"{tip_class}\" d=\"M{tip} {y}l{back} -7v14z\"/>")
        };
        self.next(1);
    }

    fn across(&mut self, lead: &str, text: &str, told: Told) {
        let room = ACROSS.saturating_sub(lead.chars().count()).max(ACROSS / 2);
        let class = if told == Told::Call { "call" } else { "quiet" };
        for (at, line) in wrapped(text, room, 2).into_iter().enumerate() {
            let lead = if at == 0 { lead.to_string() } else { " ".repeat(lead.chars().count()) };
            self.text(MARGIN, self.y, "start", class, &format!("{lead}{line}"));
            self.next(1);
        }
    }

    /// A line of text beside an end's wall; the walls go on.
    fn at_end(&mut self, side: Side, text: &str, class: &str, walls: bool) {
        if walls {
            self.walls();
        }
        match side {
            Side::Left => self.text(WALLS[0] - MARGIN / 2, self.y, "end", class, text),
            Side::Right => self.text(WALLS[1] + MARGIN / 2, self.y, "start", class, text),
        }
    }

    /// The ends' lines beside the line of text that stands at `y`.
    fn walls(&mut self) {
        for x in WALLS {
            let (from, to) = (self.y as isize - LINE as isize + 6, self.y + 8);
            let _ = writeln!(self.shapes, "<line class=\"wall\" x1=\"{x}\" y1=\"{from}\" x2=\"{x}\" y2=\"{to}\"/>");
        }
    }

    fn text(&mut self, x: usize, y: usize, anchor: &str, class: &str, text: &str) {
        if !text.is_empty() {
            let _ = writeln!(
                self.shapes,
                "<text class=\"{class}\" x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{}</text>",
                in_xml(text)
            );
        }
    }

    fn next(&mut self, lines: usize) {
        self.y += lines * LINE;
    }
}

fn middle() -> usize {
    (WALLS[0] + WALLS[1]) / 2
}

/// A text may come from a stranger.
fn in_xml(text: &str) -> String {
    let text = escaped(text.as_bytes()).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('"', "&quot;")
}
