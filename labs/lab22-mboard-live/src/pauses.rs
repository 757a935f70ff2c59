//! How long a client waits before it tries again: longer each time, and each client its own time.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

const FIRST: Duration = Duration::from_millis(200);
/// No pause is longer: so long may the server be back before the last client has found it.
const MOST: Duration = Duration::from_secs(10);

/// The pauses of one client since it lost the server.
pub struct Pauses {
    whole: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Pauses { whole: FIRST }
    }
}

impl Pauses {
    /// The next pause, between a half and the whole of a time that doubles. `random` spreads the clients: all of them have
    /// lost the server at the same moment, and shall not come back at the same moment.
    pub fn next(&mut self, random: u64) -> Duration {
        let half = self.whole / 2;
        self.whole = (self.whole * 2).min(MOST);
        half + half.mul_f64((random % 1000) as f64 / 1000.0)
    }
}

/// A number that nobody can guess: the standard library draws keys for its hash tables, anew in each process.
pub fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_are_spread_and_have_a_limit() {
        let pauses = |random| {
            let mut pauses = Pauses::default();
            (0..12).map(|_| pauses.next(random)).collect::<Vec<_>>()
        };
        let (short, long) = (pauses(0), pauses(999));
        assert_eq!((short[0], short[11]), (FIRST / 2, MOST / 2));
        for (short, long) in short.windows(2).zip(long.windows(2)) {
            assert!(short[0] <= short[1] && long[0] <= long[1] && long[0] > short[0] && long[1] <= MOST);
        }
        assert!(long[0] < 2 * short[0] && short[1] == 2 * short[0]);
    }
}
