//! Games that nobody plays: players who propose at random, lines that are under way for a random time, all from a seed.
//! The same rules and screens as behind the sockets.

use std::collections::VecDeque;

use shared::SplitMix64;

use crate::{game::Game, position::Position, state::State, wire::Event};

/// The letters proposed: few, so that two players often propose the same one.
const LETTERS: &str = "abcdefgh";
const WORDS: [&str; 6] = ["abed", "cafe", "beach", "faded", "headache", "bead"];
const PLAYERS: [&str; 4] = ["ann", "bob", "carl", "dora"];

/// What happened in one game, or in many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Letters that came to the server.
    pub proposals: u32,
    /// Of those, letters that somebody else had proposed, while the sender's screen did not show it yet.
    pub late: u32,
    /// Letters that scored more or less than their places in the word, all proposals together.
    pub wrong_scores: u32,
    /// Screens that, with all events in, did not show what the server has.
    pub wrong_screens: u32,
    /// Screens compared.
    pub screens: u32,
}

impl Count {
    /// Both together.
    pub fn and(self, other: Count) -> Count {
        Count {
            proposals: self.proposals + other.proposals,
            late: self.late + other.late,
            wrong_scores: self.wrong_scores + other.wrong_scores,
            wrong_screens: self.wrong_screens + other.wrong_screens,
            screens: self.screens + other.screens,
        }
    }
}

/// A player: the screen, what is on its way to it, and what is on its way to the server.
struct Seat {
    name: &'static str,
    screen: Position,
    to_screen: VecDeque<String>,
    to_server: VecDeque<String>,
}

/// A number from 0 to `limit` - 1.
fn below(random: &mut SplitMix64, limit: usize) -> usize {
    (random.draw() >> 33) as usize % limit
}

/// Plays one game from its first letter to its last; players join and leave while it goes on.
///
/// # Errors
/// A screen got a line that it does not understand.
pub fn play(seed: u64) -> Result<Count, String> {
    let mut random = SplitMix64::new(seed);
    let word = WORDS[below(&mut random, WORDS.len())];
    let mut game = Game::with_words([word])?;
    let mut seats: Vec<Seat> = Vec::new();
    let (mut away, mut scored, mut count): (Vec<_>, Vec<(char, u32)>, _) =
        (PLAYERS.into(), Vec::new(), Count::default());
    while game.position.mask.is_some() {
        match below(&mut random, 20) {
            0 if !away.is_empty() => {
                let name = away.swap_remove(below(&mut random, away.len()));
                let joined = game.join(name);
                seats.iter_mut().for_each(|seat| seat.to_screen.push_back(joined.event.clone()));
                let to_screen = VecDeque::from([joined.now]);
                seats.push(Seat { name, screen: Position::default(), to_screen, to_server: VecDeque::new() });
            }
            1 if seats.len() > 1 => {
                let left = seats.swap_remove(below(&mut random, seats.len())); // what was on its way is lost
                away.push(left.name);
                let event = game.leave(left.name);
                seats.iter_mut().for_each(|seat| seat.to_screen.push_back(event.clone()));
            }
            turn if !seats.is_empty() => {
                let at = below(&mut random, seats.len());
                match turn % 3 {
                    0 => think(&mut seats[at], &mut random),
                    1 => hear(&mut seats[at], 1)?,
                    _ => {
                        let (name, line) = (seats[at].name, seats[at].to_server.pop_front());
                        let Some(letter) = line else { continue };
                        count.proposals += 1;
                        let events = match game.propose(name, &letter) {
                            Ok(events) => events,
                            Err(_) => {
                                count.late += 1;
                                continue;
                            }
                        };
                        let first = game.position.number + 1 - events.len() as u64;
                        for (event, number) in events.iter().zip(first..) {
                            if let Event::Letter { letter, places, .. } = event {
                                scored.push((*letter, *places));
                            }
                            seats.iter_mut().for_each(|seat| seat.to_screen.push_back(format!("{number} {event}")));
                        }
                    }
                }
            }
            _ => {}
        }
    }
    for letter in LETTERS.chars() {
        let places = word.chars().filter(|place| *place == letter).count() as u32;
        let points: u32 = scored.iter().filter(|(other, _)| *other == letter).map(|(_, points)| points).sum();
        count.wrong_scores += u32::from(points != places);
    }
    for seat in &mut seats {
        hear(seat, usize::MAX)?;
        count.screens += 1;
        count.wrong_screens += u32::from(seat.screen != game.position);
    }
    Ok(count)
}

/// Proposes a letter that the own screen does not show as proposed; it may not be up to date.
fn think(seat: &mut Seat, random: &mut SplitMix64) {
    let shown = |letter: &char| seat.screen.tried.iter().any(|(tried, _)| tried == letter);
    let open: Vec<char> = LETTERS.chars().filter(|letter| !shown(letter)).collect();
    if seat.screen.mask.is_some() && !open.is_empty() {
        seat.to_server.push_back(open[below(random, open.len())].into());
    }
}

/// The next lines come to the screen.
fn hear(seat: &mut Seat, most: usize) -> Result<(), String> {
    let lines = seat.to_screen.len().min(most);
    seat.to_screen.drain(..lines).try_for_each(|line| seat.screen.hear(&line).map(|_| ()))
}

/// Plays a game from each of these seeds, and adds up.
///
/// # Errors
/// As [`play`].
pub fn play_many(mut seeds: impl Iterator<Item = u64>) -> Result<Count, String> {
    seeds.try_fold(Count::default(), |sum, seed| Ok(sum.and(play(seed)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_ten_thousand_games_every_letter_scores_once_and_all_screens_are_equal() {
        let count = play_many(1..=10_000).unwrap();
        assert_eq!((count.wrong_scores, count.wrong_screens), (0, 0), "{count:?}");
        assert!(count.late > 1000 && count.screens > 10_000, "the games are too tame: {count:?}");
    }

    #[test]
    fn a_seed_plays_the_same_game_again() {
        assert_eq!(play(7), play(7));
        assert!((1..50).any(|seed| play(seed) != play(7)));
    }
}
