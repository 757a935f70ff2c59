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
    /// Let so many of a hundred be overtaken
    #[arg(long, default_value_t = 0, value_name = "PERCENT", value_parser = value_parser!(u8).range(..=100))]
    pub reorder: u8,
}

impl Rates {
    pub fn sum(&self) -> u32 {
        [self.drop, self.duplicate, self.reorder].map(u32::from).iter().sum()
    }
}

/// What the relay does with one datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Pass,
    Drop,
    Duplicate,
    /// It takes longer than those behind it.
    Overtaken,
}

/// The fates of the datagrams of one direction, one after the other.
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
        let Rates { drop, duplicate, reorder } = self.rates;
        for (rate, fate) in [(drop, Fate::Drop), (duplicate, Fate::Duplicate), (reorder, Fate::Overtaken)] {
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

    const SOME: Rates = Rates { drop: 10, duplicate: 10, reorder: 10 };

    fn fates(seed: u64, lose: &[u64]) -> Vec<Fate> {
        let mut fates = Fates::new(seed, SOME, lose);
        (0..10_000).map(|_| fates.draw()).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_fates_about_as_often_as_the_rates_say() {
        assert_eq!(fates(7, &[]), fates(7, &[]));
        assert_ne!(fates(7, &[]), fates(8, &[]));
        for fate in [Fate::Drop, Fate::Duplicate, Fate::Overtaken] {
            let times = fates(7, &[]).iter().filter(|seen| **seen == fate).count();
            assert!((900..1100).contains(&times), "{fate:?} {times} times of 10000");
        }
    }

    #[test]
    fn a_named_datagram_is_lost_and_the_others_keep_their_fates() {
        for (at, (named, plain)) in fates(7, &[1, 41]).into_iter().zip(fates(7, &[])).enumerate() {
            let is_named = [0, 40].contains(&at);
            assert!(if is_named { named == Fate::Drop } else { named == plain }, "datagram {}", at + 1);
        }
    }
}
