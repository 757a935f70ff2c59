//! The ladder in plain text, line by line as it happens: three lanes (left end | wire | right end) where there is room,
//! else two, with the wire between the ends.

use anyhow::Result;
use shared::Screen;

use super::ladder::{Ladder, Row, Shape, Shown};
use super::model::{Event, Sink};
use super::page::Page;

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
            let marks = marks.iter().map(|mark| format!("* {mark}"));
            let behind: Vec<String> = marks.chain((!stamp.is_empty()).then(|| stamp.trim().into())).collect();
            let with_data = [parts, std::slice::from_ref(data), &behind].concat();
            let label =
                if !data.is_empty() && page.has_room(&with_data) { with_data } else { [&parts[..], &behind].concat() };
            page.arrow(*to, &label, *lost)
        }
    };
    let cut = |line: String| line.chars().take(width).collect::<String>().trim_end().to_string();
    lines.into_iter().map(cut).collect()
}
