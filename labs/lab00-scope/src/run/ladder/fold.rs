//! A long transfer repeats itself: its first rounds are drawn, the rest is counted.

use std::collections::{HashMap, HashSet};

use super::rows::Shape;

/// So many rows of a kind are drawn; the next ones are counted.
const DRAWN: usize = 3;
/// Of what is remarkable, more.
const DRAWN_IF_MARKED: usize = 8;
/// Where rows are counted already, each new kind is drawn once.
const DRAWN_MEANWHILE: usize = 1;
/// So few rows take no more room than their count: they are drawn after all.
const FEW: usize = 4;

/// What rows of one kind have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    /// The connection, if there is one.
    pub flow: Option<usize>,
    /// In words, such as `left recv(3)`, `data to the right`.
    pub text: String,
    /// It carries a mark.
    pub marked: bool,
}

/// What has become of the rows that were not drawn.
pub enum Counted {
    Nothing,
    /// They are drawn now, each on its connection.
    Few(Vec<(Option<usize>, Shape)>),
    /// How many of each kind, in words.
    Many(String),
}

/// The rows that are counted only.
#[derive(Default)]
pub struct Fold {
    drawn: HashMap<Kind, usize>,
    /// Connections of which rows were hidden.
    folding: HashSet<Option<usize>>,
    /// Kind, rows and bytes.
    hidden: Vec<(String, usize, u64)>,
    first: Vec<(Option<usize>, Shape)>,
}

impl Fold {
    /// True if this row is to be counted only; `bytes` are added up.
    pub fn hides(&mut self, kind: Kind, bytes: u64, shape: &Shape) -> bool {
        let most = match (self.folding.contains(&kind.flow), kind.marked) {
            (true, _) => DRAWN_MEANWHILE,
            (false, true) => DRAWN_IF_MARKED,
            (false, false) => DRAWN,
        };
        let (flow, text) = (kind.flow, kind.text.clone());
        let drawn = self.drawn.entry(kind).or_default();
        *drawn += 1;
        if *drawn <= most {
            return false;
        }
        if self.first.len() <= FEW {
            self.first.push((flow, shape.clone()));
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
        self.folding.remove(&flow);
    }

    /// What was hidden since the last row that was drawn.
    pub fn counted(&mut self) -> Counted {
        let (hidden, first) = (std::mem::take(&mut self.hidden), std::mem::take(&mut self.first));
        match first.len() {
            0 => Counted::Nothing,
            1..=FEW => Counted::Few(first),
            _ => {
                self.folding.extend(first.iter().map(|(flow, _)| *flow));
                let words = hidden.into_iter().map(|(text, count, bytes)| match bytes {
                    0 => format!("{count} x {text}"),
                    _ => format!("{count} x {text} = {bytes} bytes"),
                });
                Counted::Many(format!("... and so on: {}", words.collect::<Vec<_>>().join(", ")))
            }
        }
    }
}
