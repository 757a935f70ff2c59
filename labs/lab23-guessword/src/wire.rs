//! What goes over the connections, as lines: clients send proposals or strokes, the server sends numbered events.
//!
//! The first line of a client is its name. The server answers with the state as it is now, one line, and from then on
//! sends each event to everybody: `NUMBER WHAT WHO ...`. The numbers have no gap, and are the one order of all events.

use std::{fmt, str::FromStr};

/// The longest name, in characters.
pub const NAME_LIMIT: usize = 16;
/// The longest word, in characters.
pub const WORD_LIMIT: usize = 32;
/// Begins a line of the server for one client alone: why a line of that client changes nothing.
pub const NOTICE: &str = "! ";

/// One change of the shared state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Joined {
        name: String,
    },
    Left {
        name: String,
    },
    /// A new word, as its mask: `_` for each letter. It comes from a player, or from the server's list: [`SERVER`].
    Word {
        name: String,
        mask: String,
    },
    /// A letter, proposed for the first time, and how many places of the word have it.
    Letter {
        name: String,
        letter: char,
        places: u32,
        mask: String,
    },
    /// All letters of the word are open.
    Over {
        word: String,
    },
    /// A cell of the white-board gets another character.
    Stroke {
        name: String,
        stroke: Stroke,
    },
}

/// Who "proposes" the words of the server's list; no player has this name.
pub const SERVER: &str = "-";

/// One cell of the white-board and its new character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stroke {
    /// Column, from 0 at the left.
    pub x: usize,
    /// Row, from 0 at the top.
    pub y: usize,
    /// A printable character of ASCII; a blank wipes the cell.
    pub pen: char,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Joined { name } => write!(f, "joined {name}"),
            Event::Left { name } => write!(f, "left {name}"),
            Event::Word { name, mask } => write!(f, "word {name} {mask}"),
            Event::Letter { name, letter, places, mask } => write!(f, "letter {name} {letter} {places} {mask}"),
            Event::Over { word } => write!(f, "over {word}"),
            Event::Stroke { name, stroke } => write!(f, "stroke {name} {stroke}"),
        }
    }
}

impl FromStr for Event {
    type Err = String;

    fn from_str(text: &str) -> Result<Event, String> {
        let none = || format!("this is no event: {text:?}");
        let (what, rest) = text.split_once(' ').ok_or_else(none)?;
        let words: Vec<&str> = rest.split(' ').collect();
        match (what, &words[..]) {
            ("joined", [name]) => Ok(Event::Joined { name: (*name).into() }),
            ("left", [name]) => Ok(Event::Left { name: (*name).into() }),
            ("word", [name, mask]) => Ok(Event::Word { name: (*name).into(), mask: (*mask).into() }),
            ("letter", [name, letter, places, mask]) => {
                let letter = letter.parse().map_err(|_| none())?;
                let places = places.parse().map_err(|_| none())?;
                Ok(Event::Letter { name: (*name).into(), letter, places, mask: (*mask).into() })
            }
            ("over", [word]) => Ok(Event::Over { word: (*word).into() }),
            ("stroke", [name, ..]) => {
                let stroke = rest[name.len()..].strip_prefix(' ').ok_or_else(none)?.parse()?;
                Ok(Event::Stroke { name: (*name).into(), stroke })
            }
            _ => Err(none()),
        }
    }
}

impl fmt::Display for Stroke {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stroke { x, y, pen } = self;
        write!(f, "{x} {y} {pen}")
    }
}

impl FromStr for Stroke {
    type Err = String;

    fn from_str(text: &str) -> Result<Stroke, String> {
        let form = || "a stroke is X Y CHARACTER, such as 3 4 #".to_string();
        let mut parts = text.splitn(3, ' ');
        let mut number = || parts.next()?.parse::<usize>().ok();
        let (x, y) = number().zip(number()).ok_or_else(form)?;
        let mut pens = parts.next().ok_or_else(form)?.chars();
        match (pens.next(), pens.next()) {
            (Some(pen @ ' '..='~'), None) => Ok(Stroke { x, y, pen }),
            (Some(_), None) => Err("the character is none of printable ASCII".into()),
            _ => Err(form()),
        }
    }
}

/// A line of the server: the number, and what stands behind it.
pub fn numbered(line: &str) -> Result<(u64, Event), String> {
    let parts = line.split_once(' ').and_then(|(number, event)| Some((number.parse().ok()?, event)));
    let (number, event) = parts.ok_or_else(|| format!("this line has no number: {line:?}"))?;
    Ok((number, event.parse()?))
}

/// Whether a client may have this name.
///
/// # Errors
/// Why not.
pub fn check_name(name: &str) -> Result<(), String> {
    let named = |c: char| c.is_alphanumeric() || c == '_';
    let length = name.chars().count();
    if length == 0 || length > NAME_LIMIT || !name.chars().all(named) {
        return Err(format!("a name has 1 to {NAME_LIMIT} letters or digits"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_event_is_read_as_it_was_written() {
        let name = || String::from("ann");
        for event in [
            Event::Joined { name: name() },
            Event::Left { name: name() },
            Event::Word { name: SERVER.into(), mask: "____".into() },
            Event::Letter { name: name(), letter: 'õ', places: 1, mask: "_õ__".into() },
            Event::Over { word: "tõde".into() },
            Event::Stroke { name: name(), stroke: Stroke { x: 59, y: 19, pen: ' ' } },
            Event::Stroke { name: name(), stroke: Stroke { x: 0, y: 0, pen: '#' } },
        ] {
            assert_eq!(numbered(&format!("17 {event}")), Ok((17, event)));
        }
    }

    #[test]
    fn what_is_no_name_or_stroke_is_refused() {
        for name in ["", "-", "two words", "a=b", "a,b", "abcdefghijklmnopq", "a\x1b"] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        assert!(["ann", "Jüri", "x_1"].iter().all(|name| check_name(name).is_ok()));
        for stroke in ["", "1", "1 2", "1 2 ", "1 2 ab", "-1 2 a", "1 2 õ", "1 2 \t", "a b c", "1  2 c"] {
            assert!(stroke.parse::<Stroke>().is_err(), "{stroke:?}");
        }
        assert_eq!("1 2  ".parse(), Ok(Stroke { x: 1, y: 2, pen: ' ' }));
    }

    proptest! {
        #[test]
        fn no_line_of_a_stranger_panics(line in "\\PC{0,40}") {
            let _ = numbered(&line);
            let _ = line.parse::<Stroke>();
            let _ = line.parse::<Event>();
        }
    }
}
