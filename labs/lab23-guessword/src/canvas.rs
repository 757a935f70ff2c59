//! The shared white-board: 60 x 20 cells. The server has one, and each client has one. No socket in it.

use std::{fmt, str::FromStr};

use crate::{
    state::{Joined, State},
    wire::{Event, Stroke, numbered},
};

/// Cells in a row.
pub const WIDTH: usize = 60;
/// Rows.
pub const HEIGHT: usize = 20;

/// The picture, and the number of the last event that is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canvas {
    pub number: u64,
    cells: [[u8; WIDTH]; HEIGHT],
}

impl Default for Canvas {
    fn default() -> Self {
        Canvas { number: 0, cells: [[b' '; WIDTH]; HEIGHT] }
    }
}

impl Canvas {
    /// What stands in a cell; None outside of the picture.
    pub fn cell(&self, x: usize, y: usize) -> Option<char> {
        Some(char::from(*self.cells.get(y)?.get(x)?))
    }

    /// Its rows, top first.
    pub fn rows(&self) -> impl Iterator<Item = String> + '_ {
        self.cells.iter().map(|row| row.iter().copied().map(char::from).collect())
    }

    /// Paints one cell; false outside of the picture.
    pub fn paint(&mut self, Stroke { x, y, pen }: Stroke) -> bool {
        let cell = self.cells.get_mut(y).and_then(|row| row.get_mut(x));
        let (Some(cell), Ok(pen)) = (cell, u8::try_from(pen)) else { return false };
        *cell = pen;
        true
    }

    /// Takes in a line of the server: the picture as it is now, or the next event. Returns the event.
    ///
    /// # Errors
    /// The line is no such thing, or an event is missing before it.
    pub fn hear(&mut self, line: &str) -> Result<Option<Event>, String> {
        if line.starts_with("now ") {
            *self = line.parse()?;
            return Ok(None);
        }
        let (number, event) = numbered(line)?;
        if number != self.number + 1 {
            return Err(format!("event {} is missing: {line:?}", self.number + 1));
        }
        self.number = number;
        match &event {
            Event::Stroke { stroke, .. } if !self.paint(*stroke) => Err(format!("outside of the picture: {line:?}")),
            _ => Ok(Some(event)),
        }
    }

    fn happens(&mut self, event: &Event) -> String {
        self.number += 1;
        format!("{} {event}", self.number)
    }
}

impl State for Canvas {
    const LOGGED: bool = false;

    fn join(&mut self, name: &str) -> Joined {
        let event = self.happens(&Event::Joined { name: name.into() });
        Joined { event, now: self.to_string() }
    }

    fn say(&mut self, name: &str, text: &str) -> Result<Vec<String>, String> {
        let stroke: Stroke = text.parse()?;
        if !self.paint(stroke) {
            return Err(format!("outside of the picture: X is 0 to {}, Y is 0 to {}", WIDTH - 1, HEIGHT - 1));
        }
        Ok(vec![self.happens(&Event::Stroke { name: name.into(), stroke })])
    }

    fn leave(&mut self, name: &str) -> String {
        self.happens(&Event::Left { name: name.into() })
    }
}

/// `now NUMBER CELLS`: all rows in one.
impl fmt::Display for Canvas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "now {} {}", self.number, self.rows().collect::<String>())
    }
}

impl FromStr for Canvas {
    type Err = String;

    fn from_str(line: &str) -> Result<Canvas, String> {
        let none = || format!("this is no picture of {WIDTH} x {HEIGHT} cells: {line:?}");
        let mut parts = line.splitn(3, ' ').skip(1);
        let number = parts.next().and_then(|number| number.parse().ok()).ok_or_else(none)?;
        let cells = parts.next().unwrap_or_default().as_bytes();
        if cells.len() != WIDTH * HEIGHT || !cells.iter().all(|cell| (b' '..=b'~').contains(cell)) {
            return Err(none());
        }
        let mut canvas = Canvas { number, ..Canvas::default() };
        canvas.cells.iter_mut().zip(cells.chunks(WIDTH)).for_each(|(row, cells)| row.copy_from_slice(cells));
        Ok(canvas)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn a_cell_outside_is_refused_and_the_corners_are_inside() {
        let mut canvas = Canvas::default();
        assert!(canvas.say("ann", "60 0 x").is_err() && canvas.say("ann", "0 20 x").is_err());
        assert_eq!(canvas.say("ann", "59 19 x"), Ok(vec!["1 stroke ann 59 19 x".into()]));
        assert_eq!((canvas.cell(59, 19), canvas.cell(60, 19)), (Some('x'), None));
    }

    #[test]
    fn a_missing_event_and_a_foreign_line_are_reported() {
        let mut canvas = Canvas::default();
        assert!(canvas.hear("2 stroke ann 1 1 x").is_err_and(|why| why.starts_with("event 1 is missing")));
        assert!(canvas.hear("1 stroke ann 60 1 x").is_err());
        assert!(canvas.hear("HTTP/1.1 400 Bad Request").is_err() && canvas.hear("now 3 short").is_err());
    }

    proptest! {
        #[test]
        fn every_copy_is_the_servers_picture_whenever_it_began(
            strokes in vec((0..WIDTH + 1, 0..HEIGHT + 1, 0x20u8..0x7f), 0..200),
            late in 0usize..200,
        ) {
            let mut server = Canvas::default();
            let (mut first, mut second) = (Canvas::default(), Canvas::default());
            first.hear(&server.join("ann").now).unwrap();
            for (turn, (x, y, pen)) in strokes.iter().enumerate() {
                if turn == late {
                    let joined = server.join("bob");
                    first.hear(&joined.event).unwrap();
                    second.hear(&joined.now).unwrap();
                }
                for event in server.say("ann", &format!("{x} {y} {}", char::from(*pen))).unwrap_or_default() {
                    first.hear(&event).unwrap();
                    if turn >= late {
                        second.hear(&event).unwrap();
                    }
                }
            }
            prop_assert_eq!(&first, &server);
            prop_assert!(late >= strokes.len() || second == server);
        }
    }
}
