//! What a player sees of the game.

use shared::escaped;

use crate::{
    client::Copy,
    position::Position,
    wire::{Event, SERVER},
};

/// A player's screen.
#[derive(Default)]
pub struct Guess(Position);

impl Copy for Guess {
    fn hear(&mut self, line: &str) -> Result<String, String> {
        let event = self.0.hear(line)?;
        let number = self.0.number;
        let what = match event {
            None => "you are in".into(),
            Some(Event::Joined { name }) => format!("{name} joins"),
            Some(Event::Left { name }) => format!("{name} leaves"),
            Some(Event::Word { name, .. }) if name == SERVER => "a new word".into(),
            Some(Event::Word { name, .. }) => format!("{name} has a new word"),
            Some(Event::Letter { name, letter, places: 0, .. }) => format!("{name}: no {letter}"),
            Some(Event::Letter { name, letter, places, .. }) => format!("{name}: {letter} scores {places}"),
            Some(Event::Over { word }) => format!("the word was {word}"),
            Some(Event::Stroke { .. }) => return Err("a white-board is at this address".into()),
        };
        let mask = self.0.mask.as_deref().unwrap_or_default();
        let shown = format!("{number:>3}  {what:<18} {mask:<10} {}", self.0.scores());
        Ok(escaped(shown.trim_end().as_bytes()))
    }

    fn prompt(&self) -> &'static str {
        if self.0.mask.is_some() { "> letter : " } else { "> propose a word : " }
    }

    fn end(&self) -> Vec<String> {
        Vec::new()
    }
}
