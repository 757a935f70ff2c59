//! How fast bytes may leave: each file at a pace of its own, or all of them at the pace of one link.

use std::{
    sync::{Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// The server's pace: `seconds` for each file of `size` bytes.
pub struct Pace {
    seconds: Duration,
    size: u64,
    /// The link, where all files share one: when it is free again.
    link: Option<Mutex<Instant>>,
}

/// One file on its way.
pub struct Turn<'a> {
    pace: &'a Pace,
    start: Instant,
    bytes: u64,
}

impl Pace {
    pub fn new(seconds: Duration, size: u64, shared: bool) -> Pace {
        Pace { seconds, size, link: shared.then(|| Mutex::new(Instant::now())) }
    }

    /// A file begins.
    pub fn turn(&self) -> Turn<'_> {
        Turn { pace: self, start: Instant::now(), bytes: 0 }
    }

    fn time_for(&self, bytes: u64) -> Duration {
        self.seconds.mul_f64(bytes as f64 / self.size.max(1) as f64)
    }
}

impl Turn<'_> {
    /// When `bytes` more may leave.
    pub fn due(&mut self, bytes: u64) -> Instant {
        self.bytes += bytes;
        match &self.pace.link {
            // Its own pace: who was late may catch up.
            None => self.start + self.pace.time_for(self.bytes),
            // The link carries these bytes after those of everybody who came before.
            Some(link) => {
                let mut free = link.lock().unwrap_or_else(PoisonError::into_inner);
                *free = (*free).max(Instant::now()) + self.pace.time_for(bytes);
                *free
            }
        }
    }
}

/// How many files may be on their way at the same time.
pub struct Places {
    free: Mutex<usize>,
    freed: Condvar,
}

/// Taken by one file, and free again when it is dropped.
pub struct Place<'a>(&'a Places);

impl Places {
    pub fn new(number: usize) -> Places {
        Places { free: Mutex::new(number), freed: Condvar::new() }
    }

    /// Takes a place; waits for one no longer than `limit`.
    pub fn take(&self, limit: Duration) -> Option<Place<'_>> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let none = |free: &mut usize| *free == 0;
        let (mut free, _) = self.freed.wait_timeout_while(free, limit, none).unwrap_or_else(PoisonError::into_inner);
        *free = free.checked_sub(1)?;
        Some(Place(self))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(5);

    /// When the last of ten steps of two files is due, which take their steps in turns.
    fn two(shared: bool) -> Duration {
        let pace = Pace::new(10 * STEP, 1000, shared);
        let start = Instant::now();
        let mut turns = [pace.turn(), pace.turn()];
        let due = (0..10).flat_map(|_| turns.each_mut().map(|turn| turn.due(100))).max();
        due.unwrap().duration_since(start)
    }

    #[test]
    fn a_file_is_never_faster_than_its_pace_and_a_link_carries_one_byte_at_a_time() {
        assert!(two(false) >= 10 * STEP);
        assert!(two(true) >= 20 * STEP);
    }

    #[test]
    fn no_more_places_are_taken_than_there_are() {
        let places = Places::new(2);
        let (first, second) = (places.take(STEP), places.take(STEP));
        assert!(first.is_some() && second.is_some() && places.take(STEP).is_none());
        drop(first);
        assert!(places.take(STEP).is_some());
    }
}
