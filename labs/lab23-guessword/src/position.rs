//! The word game as everybody may see it: the server has one such position, and each player's screen has one.
//!
//! It changes by events and by nothing else. Whoever applies the same events in the same order has the same position.

use std::{collections::BTreeMap, fmt, str::FromStr};

use crate::wire::{Event, numbered};

/// In place of a list that is empty, and of a word that is not there.
const NONE: &str = "-";

/// What the screens show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The last event that is in it.
    pub number: u64,
    /// The word, `_` for each letter that is still closed; None while a word must be proposed.
    pub mask: Option<String>,
    /// The letters proposed for this word, in their order, and by whom.
    pub tried: Vec<(char, String)>,
    pub players: BTreeMap<String, Player>,
}

/// What a player has won.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Player {
    pub points: u32,
    /// Of those who left, the points stay until the word is found.
    pub here: bool,
}

impl Position {
    /// Applies the next event.
    pub fn apply(&mut self, event: &Event) {
        self.number += 1;
        match event {
            Event::Joined { name } => {
                self.players.entry(name.clone()).or_insert(Player { points: 0, here: true }).here = true
            }
            Event::Left { name } => {
                if let Some(player) = self.players.get_mut(name) {
                    player.here = false;
                }
                self.players.retain(|_, player| player.here || player.points > 0 && self.mask.is_some());
            }
            Event::Word { mask, .. } => {
                self.mask = Some(mask.clone());
                self.tried.clear();
            }
            Event::Letter { name, letter, places, mask } => {
                self.mask = Some(mask.clone());
                self.tried.push((*letter, name.clone()));
                if let Some(player) = self.players.get_mut(name) {
                    player.points += places;
                }
            }
            Event::Over { .. } => {
                self.mask = None;
                self.players.retain(|_, player| player.here);
            }
            Event::Stroke { .. } => {} // not of this game
        }
    }

    /// Takes in a line of the server: the state as it is now, or the next event. Returns the event.
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
        self.apply(&event);
        Ok(Some(event))
    }

    /// Who has how many points, the most first.
    pub fn scores(&self) -> String {
        let mut players: Vec<_> = self.players.iter().collect();
        players.sort_by_key(|(_, player)| std::cmp::Reverse(player.points));
        players.iter().map(|(name, player)| format!("{name} {}", player.points)).collect::<Vec<_>>().join(", ")
    }
}

/// `now NUMBER MASK LETTER:NAME,... NAME=POINTS,...`; of a player who left `NAME=POINTS:left`.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |items: Vec<String>| if items.is_empty() { NONE.into() } else { items.join(",") };
        let tried = list(self.tried.iter().map(|(letter, name)| format!("{letter}:{name}")).collect());
        let player = |(name, player): (&String, &Player)| {
            format!("{name}={}{}", player.points, if player.here { "" } else { ":left" })
        };
        let players = list(self.players.iter().map(player).collect());
        write!(f, "now {} {} {tried} {players}", self.number, self.mask.as_deref().unwrap_or(NONE))
    }
}

impl FromStr for Position {
    type Err = String;

    fn from_str(line: &str) -> Result<Position, String> {
        let none = || format!("this is no state of the game: {line:?}");
        let words: Vec<&str> = line.split(' ').collect();
        let ["now", number, mask, tried, players] = words[..] else { return Err(none()) };
        let number = number.parse().map_err(|_| none())?;
        let mut position = Position { number, mask: (mask != NONE).then(|| mask.into()), ..Position::default() };
        for item in tried.split(',').filter(|_| tried != NONE) {
            let (letter, name) = item.split_once(':').ok_or_else(none)?;
            position.tried.push((letter.parse().map_err(|_| none())?, name.into()));
        }
        for item in players.split(',').filter(|_| players != NONE) {
            let (name, points) = item.split_once('=').ok_or_else(none)?;
            let (points, here) = points.strip_suffix(":left").map_or((points, true), |points| (points, false));
            let points = points.parse().map_err(|_| none())?;
            position.players.insert(name.into(), Player { points, here });
        }
        Ok(position)
    }
}
