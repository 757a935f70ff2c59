//! Emphasis, and text that stays within its area. Emphasis never has a meaning of its own.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};

/// How the board may emphasize: not at all with NO_COLOR.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    pub emphasis: bool,
}

impl Look {
    pub fn of_the_environment() -> Look {
        Look { emphasis: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) }
    }

    fn with(self, style: Style) -> Style {
        if self.emphasis { style } else { Style::new() }
    }

    pub fn plain(self) -> Style {
        Style::new()
    }

    pub fn strong(self) -> Style {
        self.with(Style::new().add_modifier(Modifier::BOLD))
    }

    pub fn changed(self) -> Style {
        self.with(Style::new().add_modifier(Modifier::BOLD | Modifier::REVERSED))
    }

    /// Red and green can be read on white and on black.
    pub fn new_row(self) -> Style {
        self.with(Style::new().fg(Color::Green).add_modifier(Modifier::BOLD))
    }

    pub fn gone_row(self) -> Style {
        self.with(Style::new().fg(Color::Red))
    }
}

/// Writes `text` at this column and row of `area`; what does not fit is cut off.
pub fn put(buffer: &mut Buffer, area: Rect, column: u16, row: u16, text: &str, style: Style) {
    let area = area.intersection(buffer.area);
    if column < area.width && row < area.height {
        buffer.set_stringn(
            area.x + column,
            area.y + row,
            text,
            usize::from(area.width - column),
            Style::reset().patch(style),
        );
    }
}
