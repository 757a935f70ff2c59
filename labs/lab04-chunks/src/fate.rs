//! What the relay does with each datagram: a series that depends on the seed and the rates, and on nothing else.

use clap::{Args, value_parser};
use shared::SplitMix64;

/// How many of a hundred datagrams meet each fate; the others pass.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Rates {
    /// Lose so many of a hundred datagrams
    #[arg(long, default_value_t = 0, value_name = "PERCENT", value_parser = value_parser!(u8).range(..=100))]
    pub drop: u8,
    /// Send on so many of a hundred twice
    #[arg(long, default_value_t = 0, value_name = "PERCENT", value_parser = value_parser!(u8).range(..=100))]
    pub duplicate: u8,
    /// Hold back so many of a hundred until the next one has passed
    #[arg(long, default_value_t = 0, value_name = "PERCENT", value_parser = value_parser!(u8).range(..=100))]
    pub reorder: u8,
    /// Delay so many of a hundred, and all datagrams behind them
    #[arg(long, default_value_t = 0, value_name = "PERCENT", value_parser = value_parser!(u8).range(..=100))]
    pub delay: u8,
}

impl Rates {
    pub fn sum(&self) -> u32 {
        [self.drop, self.duplicate, self.reorder, self.delay].map(u32::from).iter().sum()
    }
}

/// What the relay does with one datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Pass,
    Drop,
    Duplicate,
    HoldBack,
    Delay,
}

/// The fates of the datagrams, one after the other.
pub struct Fates {
    random: SplitMix64,
    rates: Rates,
    lose: Vec<u64>,
    /// How many fates were drawn.
    pub count: u64,
}

impl Fates {
    /// `lose` names datagrams, counted from 1, that are lost whatever the rates say.
    pub fn new(seed: u64, rates: Rates, lose: &[u64]) -> Self {
        Fates { random: SplitMix64::new(seed), rates, lose: lose.into(), count: 0 }
    }

    /// One draw for each datagram, also for one that `lose` names: a fate depends only on the place in the series.
    pub fn draw(&mut self) -> Fate {
        self.count += 1;
        let mut hundredth = self.random.draw() % 100;
        if self.lose.contains(&self.count) {
            return Fate::Drop;
        }
        let Rates { drop, duplicate, reorder, delay } = self.rates;
        let fates = [(drop, Fate::Drop), (duplicate, Fate::Duplicate), (reorder, Fate::HoldBack), (delay, Fate::Delay)];
        for (rate, fate) in fates {
            match hundredth.checked_sub(rate.into()) {
                None => return fate,
                Some(rest) => hundredth = rest,
            }
        }
        Fate::Pass
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOME: Rates = Rates { drop: 10, duplicate: 10, reorder: 10, delay: 10 };

    fn fates(seed: u64, rates: Rates) -> Vec<Fate> {
        let mut fates = Fates::new(seed, rates, &[]);
        (0..10_000).map(|_| fates.draw()).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_fates_and_another_seed_others() {
        assert_eq!(fates(7, SOME), fates(7, SOME));
        assert_ne!(fates(7, SOME), fates(8, SOME));
    }

    #[test]
    fn each_fate_comes_about_as_often_as_its_rate_says() {
        for fate in [Fate::Drop, Fate::Duplicate, Fate::HoldBack, Fate::Delay] {
            let times = fates(7, SOME).iter().filter(|seen| **seen == fate).count();
            assert!((900..1100).contains(&times), "{fate:?} {times} times of 10000");
        }
        assert!(fates(7, Rates::default()).iter().all(|fate| *fate == Fate::Pass));
        assert!(fates(7, Rates { drop: 100, ..Rates::default() }).iter().all(|fate| *fate == Fate::Drop));
    }

    #[test]
    fn a_named_datagram_is_lost_and_the_others_keep_their_fates() {
        let (mut named, mut plain) = (Fates::new(7, SOME, &[1, 41]), Fates::new(7, SOME, &[]));
        for count in 1..=100 {
            let (with, without) = (named.draw(), plain.draw());
            assert!(with == without || [1, 41].contains(&count), "datagram {count}");
            assert!(with == Fate::Drop || ![1, 41].contains(&count), "datagram {count}");
        }
    }
}
