//! A state that several threads change: with the lock held from reading to writing, or only for each of the two.

#[cfg(test)]
use shuttle::sync::{Mutex, MutexGuard}; // a scheduler of its own tries the orders that a kernel rarely takes
#[cfg(not(test))]
use std::sync::{Mutex, MutexGuard};

/// One value for all threads.
pub struct Shelf<T>(Mutex<T>);

impl<T: Clone> Shelf<T> {
    pub fn new(value: T) -> Self {
        Shelf(Mutex::new(value))
    }

    /// Changes the value. Nobody else reads or writes it meanwhile.
    pub fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        change(&mut self.lock())
    }

    /// A copy of the value. Once it is taken, others may change the value.
    pub fn copy(&self) -> T {
        self.lock().clone()
    }

    /// Puts a value in the place of what is there now.
    pub fn put_back(&self, value: T) {
        *self.lock() = value;
    }

    fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use shuttle::{check_random, sync::Arc, thread};

    use super::*;
    use crate::{game::Game, state::State};

    /// Schedules tried for each property.
    const SCHEDULES: usize = 1000;

    /// Two players propose one letter each, as `propose` does it; their points.
    fn points(letters: [&'static str; 2], propose: fn(&Shelf<Game>, &str, &str)) -> [u32; 2] {
        let mut game = Game::with_words(["letter"]).unwrap();
        for name in ["ann", "bob"] {
            game.join(name);
        }
        let shelf = Arc::new(Shelf::new(game));
        let ann = {
            let shelf = shelf.clone();
            thread::spawn(move || propose(&shelf, "ann", letters[0]))
        };
        propose(&shelf, "bob", letters[1]);
        ann.join().unwrap();
        let position = shelf.copy().position;
        ["ann", "bob"].map(|name| position.players[name].points)
    }

    fn with_the_lock(shelf: &Shelf<Game>, name: &str, letter: &str) {
        let _ = shelf.change(|game| game.propose(name, letter));
    }

    fn by_copy(shelf: &Shelf<Game>, name: &str, letter: &str) {
        let mut game = shelf.copy();
        let _ = game.propose(name, letter);
        shelf.put_back(game);
    }

    /// Whether some schedule among many ends in a panic.
    fn is_found(mistake: impl Fn() + Send + Sync + 'static) -> bool {
        catch_unwind(AssertUnwindSafe(|| check_random(mistake, SCHEDULES))).is_err()
    }

    #[test]
    fn with_the_lock_no_order_of_the_threads_loses_a_score_or_gives_it_twice() {
        check_random(|| assert_eq!(points(["e", "t"], with_the_lock), [2, 2]), SCHEDULES);
        check_random(|| assert_eq!(points(["e", "e"], with_the_lock).iter().sum::<u32>(), 2), SCHEDULES);
    }

    #[test]
    fn a_copy_that_is_put_back_loses_a_score_in_some_order() {
        assert!(is_found(|| assert_eq!(points(["e", "t"], by_copy), [2, 2])));
    }
}
