//! A long transfer repeats itself: its first rounds are drawn, the rest is counted.

use std::collections::HashMap;

/// So many rows of a kind are drawn; the next ones are counted.
const DRAWN: usize = 3;
/// Of what is remarkable, more.
const DRAWN_IF_MARKED: usize = 8;

/// What rows of one kind have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    /// The connection, if there is one.
    pub flow: Option<usize>,
    /// In words, such as `left recv(3)`, `segments of data to the right`.
    pub text: String,
    /// It carries a mark.
    pub marked: bool,
}

/// The rows that are counted only.
#[derive(Default)]
pub struct Fold {
    drawn: HashMap<Kind, usize>,
    hidden: Vec<(String, u64, u64)>,
}

impl Fold {
    /// True if this row is to be counted only; `bytes` are added up.
    pub fn hides(&mut self, kind: Kind, bytes: u64) -> bool {
        let most = if kind.marked { DRAWN_IF_MARKED } else { DRAWN };
        let text = kind.text.clone();
        let drawn = self.drawn.entry(kind).or_default();
        *drawn += 1;
        if *drawn <= most {
            return false;
        }
        match self.hidden.iter_mut().find(|(known, ..)| *known == text) {
            Some((_, count, sum)) => (*count, *sum) = (*count + 1, *sum + bytes),
            None => self.hidden.push((text, 1, bytes)),
        }
        true
    }

    /// Something else happened on this connection: what follows is drawn again.
    pub fn forget(&mut self, flow: Option<usize>) {
        self.drawn.retain(|kind, _| kind.flow != flow);
    }

    /// What was counted since the last row that was drawn, in words.
    pub fn counted(&mut self) -> Option<String> {
        let words = |(text, count, bytes): (String, u64, u64)| match bytes {
            0 => format!("{count} x {text}"),
            _ => format!("{count} x {text} = {bytes} bytes"),
        };
        let hidden: Vec<String> = self.hidden.drain(..).map(words).collect();
        (!hidden.is_empty()).then(|| format!("... and so on: {}", hidden.join(", ")))
    }
}
