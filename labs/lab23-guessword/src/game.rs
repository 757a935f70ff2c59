//! The rules of the word game. No socket in it: the server drives it, and so do the experiments and the tests.
//!
//! A letter opens all its places in the word and scores a point for each, to whoever proposed it first. There are no
//! turns. A letter that was proposed before changes nothing. Once all letters are open the game is over: the next word
//! is the next of the server's list or, where that has none, the first that a player proposes.

use std::collections::VecDeque;

use crate::{
    position::Position,
    state::{Joined, State},
    wire::{Event, SERVER, WORD_LIMIT},
};

/// The game: what everybody may see, and the word.
#[derive(Clone, Default)]
pub struct Game {
    /// What everybody may see.
    pub position: Position,
    /// None while a word must be proposed.
    word: Option<Vec<char>>,
    /// The next words of the server's list.
    words: VecDeque<Vec<char>>,
}

impl Game {
    /// A game that begins with the first of these words; without any, with the first that is proposed.
    ///
    /// # Errors
    /// One of them is no word.
    pub fn with_words<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Game, String> {
        let words = words.into_iter().map(|text| word(text).ok_or_else(|| format!("{text:?}: {}", word_rule())));
        let mut game = Game { words: words.collect::<Result<_, String>>()?, ..Game::default() };
        game.next_word();
        Ok(game)
    }

    /// What a player proposes: a letter or, while there is no word, a word.
    ///
    /// # Errors
    /// It changes nothing, and why.
    pub fn propose(&mut self, name: &str, text: &str) -> Result<Vec<Event>, String> {
        let Some(secret) = &self.word else {
            let proposed = word(text).ok_or_else(word_rule)?;
            return Ok(vec![self.begin(name, proposed)]);
        };
        let letter = letter(text).ok_or("a word is being guessed: propose one letter")?;
        if let Some((_, first)) = self.position.tried.iter().find(|(tried, _)| *tried == letter) {
            return Err(format!("too late: {first} proposed {letter} before you"));
        }
        let open = |place: &char| *place == letter || self.position.tried.iter().any(|(tried, _)| tried == place);
        let mask: String = secret.iter().map(|place| if open(place) { *place } else { '_' }).collect();
        let places = u32::try_from(secret.iter().filter(|place| **place == letter).count()).unwrap_or(u32::MAX);
        let over = !mask.contains('_');
        let mut events = vec![self.happens(Event::Letter { name: name.into(), letter, places, mask })];
        if over {
            let word = self.word.take().into_iter().flatten().collect();
            events.push(self.happens(Event::Over { word }));
            events.extend(self.next_word());
        }
        Ok(events)
    }

    fn next_word(&mut self) -> Option<Event> {
        let next = self.words.pop_front()?;
        Some(self.begin(SERVER, next))
    }

    fn begin(&mut self, name: &str, word: Vec<char>) -> Event {
        let mask = "_".repeat(word.len());
        self.word = Some(word);
        self.happens(Event::Word { name: name.into(), mask })
    }

    fn happens(&mut self, event: Event) -> Event {
        self.position.apply(&event);
        event
    }
}

impl State for Game {
    const LOGGED: bool = true;

    fn join(&mut self, name: &str) -> Joined {
        let event = self.happens(Event::Joined { name: name.into() });
        Joined { event: format!("{} {event}", self.position.number), now: self.position.to_string() }
    }

    fn say(&mut self, name: &str, text: &str) -> Result<Vec<String>, String> {
        let first = self.position.number + 1;
        let events = self.propose(name, text)?;
        Ok(events.iter().zip(first..).map(|(event, number)| format!("{number} {event}")).collect())
    }

    fn leave(&mut self, name: &str) -> String {
        let event = self.happens(Event::Left { name: name.into() });
        format!("{} {event}", self.position.number)
    }
}

/// One letter, small; capitals count as small letters.
fn letter(text: &str) -> Option<char> {
    let mut letters = text.trim().chars().flat_map(char::to_lowercase);
    letters.next().filter(|letter| letter.is_alphabetic() && letters.next().is_none())
}

fn word(text: &str) -> Option<Vec<char>> {
    let word: Vec<char> = text.trim().chars().flat_map(char::to_lowercase).collect();
    ((1..=WORD_LIMIT).contains(&word.len()) && word.iter().all(|letter| letter.is_alphabetic())).then_some(word)
}

fn word_rule() -> String {
    format!("a word has 1 to {WORD_LIMIT} letters and nothing else")
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn said(game: &mut Game, name: &str, text: &str) -> String {
        game.say(name, text).map_or_else(|why| format!("! {why}"), |events| events.join("; "))
    }

    #[test]
    fn a_letter_scores_its_places_for_whoever_is_first() {
        let mut game = Game::with_words(["letter"]).unwrap();
        assert_eq!(game.join("ann").now, "now 2 ______ - ann=0");
        game.join("bob");
        assert_eq!(said(&mut game, "ann", "E"), "4 letter ann e 2 _e__e_");
        assert_eq!(said(&mut game, "bob", "e"), "! too late: ann proposed e before you");
        assert_eq!(said(&mut game, "bob", "x"), "5 letter bob x 0 _e__e_");
        assert_eq!(said(&mut game, "ann", "x"), "! too late: bob proposed x before you");
        assert_eq!(game.position.to_string(), "now 5 _e__e_ e:ann,x:bob ann=2,bob=0");
        assert_eq!(game.position.scores(), "ann 2, bob 0");
    }

    #[test]
    fn the_first_proposed_word_is_next_and_the_list_goes_first() {
        let mut game = Game::with_words(["a", "b"]).unwrap();
        game.join("ann");
        assert_eq!(said(&mut game, "ann", "word"), "! a word is being guessed: propose one letter");
        assert_eq!(said(&mut game, "ann", "a"), "3 letter ann a 1 a; 4 over a; 5 word - _");
        assert_eq!(said(&mut game, "ann", "b"), "6 letter ann b 1 b; 7 over b");
        assert_eq!(said(&mut game, "ann", "two words"), "! a word has 1 to 32 letters and nothing else");
        assert_eq!(said(&mut game, "ann", "Tõde"), "8 word ann ____");
        assert_eq!(said(&mut game, "bob", "later"), "! a word is being guessed: propose one letter");
        assert_eq!(said(&mut game, "ann", "õ"), "9 letter ann õ 1 _õ__");
    }

    #[test]
    fn the_points_of_one_who_left_stay_until_the_word_is_found() {
        let mut game = Game::with_words(["aab"]).unwrap();
        game.join("ann");
        game.join("bob");
        said(&mut game, "ann", "a");
        game.leave("ann");
        game.leave("bob");
        assert_eq!(game.position.to_string(), "now 6 aa_ a:ann ann=2:left");
        assert_eq!(game.join("ann").now, "now 7 aa_ a:ann ann=2");
        game.leave("ann");
        game.join("bob");
        said(&mut game, "bob", "b");
        assert_eq!(game.position.to_string(), "now 11 - a:ann,b:bob bob=1");
    }

    #[test]
    fn what_is_no_word_in_the_list_is_named() {
        assert!(Game::with_words(["good", "not good"]).is_err_and(|why| why.starts_with("\"not good\": ")));
    }

    proptest! {
        #[test]
        fn whatever_is_said_every_screen_shows_what_the_server_has(
            lines in vec((0usize..3, "[a-eA-E]{0,2}|\\PC{0,3}"), 0..80),
        ) {
            let mut game = Game::default();
            let names = ["ann", "bob", "carl"];
            let mut screens: Vec<Position> = Vec::new();
            for (turn, (who, text)) in lines.iter().enumerate() {
                if turn % 10 == 0 && screens.len() < names.len() {
                    let joined = game.join(names[screens.len()]);
                    screens.iter_mut().for_each(|screen| { screen.hear(&joined.event).unwrap(); });
                    screens.push(Position::default());
                    screens.last_mut().unwrap().hear(&joined.now).unwrap();
                }
                for line in game.say(names[who % screens.len()], text).unwrap_or_default() {
                    screens.iter_mut().for_each(|screen| { screen.hear(&line).unwrap(); });
                }
                prop_assert!(screens.iter().all(|screen| *screen == game.position));
            }
        }

        #[test]
        fn no_line_of_a_stranger_panics_on_a_screen(line in "(now )?\\PC{0,40}") {
            let _ = Position::default().hear(&line);
        }
    }
}
