//! Which browsers are here, and which of them ask too often. The clock is given, not read.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::ballot::Voter;

/// A browser that has not asked for so long is away: a page asks every two seconds.
const AWAY_AFTER: Duration = Duration::from_secs(10);
/// Browsers that are remembered; of more, the longest unseen are forgotten.
const MOST_REMEMBERED: usize = 4096;
/// Requests that a browser may make at once.
const BURST: f64 = 20.0;
/// And each second from then on.
const EACH_SECOND: f64 = 5.0;

/// The browsers that were seen.
#[derive(Default)]
pub struct Crowd {
    browsers: HashMap<Voter, Browser>,
    /// When those who are away were last forgotten.
    swept: Option<Instant>,
}

struct Browser {
    seen: Instant,
    /// Requests it may still make now.
    left: f64,
}

impl Crowd {
    /// A browser asks for something: whether it may. A flood is refused for as long as it goes on.
    pub fn admits(&mut self, voter: Voter, now: Instant) -> bool {
        if self.browsers.len() >= MOST_REMEMBERED && !self.browsers.contains_key(&voter) {
            // Not for each of a flood: that would delay the others.
            if self.swept.is_none_or(|swept| now.saturating_duration_since(swept) > Duration::from_secs(1)) {
                self.browsers.retain(|_, browser| now.saturating_duration_since(browser.seen) < AWAY_AFTER);
                self.swept = Some(now);
            }
            if self.browsers.len() >= MOST_REMEMBERED {
                return true; // so many at once: without a memory of each
            }
        }
        let browser = self.browsers.entry(voter).or_insert(Browser { seen: now, left: BURST });
        let since = now.saturating_duration_since(browser.seen).as_secs_f64();
        browser.left = (browser.left + since * EACH_SECOND).min(BURST);
        browser.seen = now;
        let admitted = browser.left >= 1.0;
        browser.left -= if admitted { 1.0 } else { 0.0 };
        admitted
    }

    /// How many browsers are here now.
    pub fn here(&self, now: Instant) -> usize {
        self.browsers.values().filter(|browser| now.saturating_duration_since(browser.seen) < AWAY_AFTER).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_refused_and_delays_nobody_else() {
        let (mut crowd, now) = (Crowd::default(), Instant::now());
        let admitted = (0..1000).filter(|_| crowd.admits(1, now)).count();
        assert_eq!(admitted, 20);
        assert!(crowd.admits(2, now));
        assert!(crowd.admits(1, now + Duration::from_secs(1)), "it has calmed down");
    }

    #[test]
    fn who_has_not_asked_for_a_while_is_away() {
        let (mut crowd, now) = (Crowd::default(), Instant::now());
        assert!(crowd.admits(1, now) && crowd.admits(2, now + Duration::from_secs(9)));
        assert_eq!(crowd.here(now + Duration::from_secs(9)), 2);
        assert_eq!(crowd.here(now + Duration::from_secs(11)), 1);
    }

    #[test]
    fn random_cookies_cannot_fill_the_memory() {
        let (mut crowd, now) = (Crowd::default(), Instant::now());
        (0..100_000).for_each(|voter| assert!(crowd.admits(voter, now)));
        assert_eq!(crowd.browsers.len(), MOST_REMEMBERED);
        assert!(crowd.admits(7_000_000, now + AWAY_AFTER));
        assert_eq!(crowd.browsers.len(), 1);
    }
}
