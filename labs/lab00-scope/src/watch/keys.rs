//! What the viewer has asked for, key by key.

use termion::event::Key;

use super::order::{FILTERS, Filter, SORTS, Sort};

/// What is shown, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    pub sort: Sort,
    pub filter: Filter,
    /// What a row must contain, in small letters.
    pub text: String,
    /// Keys go into the text.
    pub typing: bool,
    pub frozen: bool,
    pub help: bool,
    /// The first row shown; the table may be shorter meanwhile.
    pub top: usize,
}

/// The longest text that can be searched for.
const LONGEST_TEXT: usize = 30;

impl View {
    /// What a key does, with a table of so many rows on the screen; false to quit.
    pub fn press(&mut self, key: Key, rows: usize, total: usize) -> bool {
        if key == Key::Ctrl('c') {
            return false;
        }
        if self.help {
            self.help = false; // any key
            return key != Key::Char('q');
        }
        if self.typing {
            match key {
                Key::Char('\n' | '\r') => self.typing = false,
                Key::Esc => (self.typing, self.text) = (false, String::new()),
                Key::Backspace => drop(self.text.pop()),
                Key::Char(letter) if letter.is_ascii_graphic() && self.text.len() < LONGEST_TEXT => {
                    self.text.push(letter.to_ascii_lowercase());
                }
                _ => {}
            }
            self.top = 0;
            return true;
        }
        let last = total.saturating_sub(rows);
        let top = self.top.min(last);
        match key {
            Key::Char('q') => return false,
            Key::Char('?' | 'h') => self.help = true,
            Key::Char(' ') => self.frozen = !self.frozen,
            Key::Char('s') => (self.sort, self.top) = (next(&SORTS, self.sort), 0),
            Key::Char('f') => (self.filter, self.top) = (next(&FILTERS, self.filter), 0),
            Key::Char('/') => (self.typing, self.text) = (true, String::new()),
            Key::Esc => (self.filter, self.text, self.top) = (Filter::All, String::new(), 0),
            Key::Up => self.top = top.saturating_sub(1),
            Key::Down => self.top = (top + 1).min(last),
            Key::PageUp => self.top = top.saturating_sub(rows),
            Key::PageDown => self.top = (top + rows).min(last),
            Key::Home => self.top = 0,
            Key::End => self.top = last,
            _ => {}
        }
        true
    }
}

fn next<T: Copy + PartialEq>(all: &[T], one: T) -> T {
    let place = all.iter().position(|other| *other == one).map_or(0, |place| place + 1);
    all[place % all.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pressed(keys: &[Key]) -> View {
        let mut view = View::default();
        assert!(keys.iter().all(|key| view.press(*key, 10, 25)));
        view
    }

    #[test]
    fn s_and_f_go_round_and_escape_shows_all_again() {
        let s = Key::Char('s');
        assert_eq!(pressed(&[s]).sort, Sort::Local);
        assert_eq!(pressed(&[s; SORTS.len()]), View::default());
        assert_eq!(pressed(&[Key::Char('f'); 2]).filter, Filter::Open);
        assert_eq!(pressed(&[Key::Char('f'), Key::Esc]), View::default());
    }

    #[test]
    fn keys_between_a_slash_and_enter_are_a_text() {
        let view =
            pressed(&[Key::Char('/'), Key::Char('Q'), Key::Char('s'), Key::Backspace, Key::Char('\n'), Key::Char(' ')]);
        assert_eq!((view.text.as_str(), view.typing, view.frozen), ("q", false, true));
        assert_eq!(pressed(&[Key::Char('/'), Key::Char('q'), Key::Esc]), View::default());
    }

    #[test]
    fn scrolling_ends_with_the_last_row() {
        assert_eq!(pressed(&[Key::PageDown, Key::PageDown, Key::Down]).top, 15);
        assert_eq!(pressed(&[Key::End, Key::Up]).top, 14);
        assert_eq!(pressed(&[Key::Down, Key::PageUp, Key::Up]).top, 0);
    }

    #[test]
    fn q_and_ctrl_c_quit_from_the_help_too() {
        for key in [Key::Char('q'), Key::Ctrl('c')] {
            assert!(!View::default().press(key, 10, 25) && !pressed(&[Key::Char('?')]).press(key, 10, 25));
        }
        assert!(!pressed(&[Key::Char('?'), Key::Char('x')]).help);
    }
}
