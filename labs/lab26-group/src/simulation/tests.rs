//! The whole protocol keeps its promises over thousands of runs; a protocol with a part left out breaks one.

use std::time::Duration;

use shared::SplitMix64;

use super::{Plan, check, play};
use crate::group::{Order, Settings};

const HEARTBEAT: Duration = Duration::from_millis(50);

/// All kinds of runs: small and large groups, networks that lose nothing or a third, crashes and stops or none.
fn plan(settings: Settings, seed: u64) -> Plan {
    let number = |limit| (SplitMix64::new(seed ^ 0x5eed).draw() >> 8) / limit;
    let (members, loss) = (2 + (number(1) % 4) as u32, number(7) % 4 * 10);
    let (crashes, stops) = ((number(31) % 3) as u32, (number(101) % 3) as u32);
    Plan { settings, members, loss, longest_ms: 1 + number(307) % 60, texts: 3, crashes, stops }
}

fn broken(settings: Settings, seeds: std::ops::Range<u64>) -> Vec<String> {
    seeds.filter_map(|seed| check(&plan(settings, seed), &play(&plan(settings, seed), seed)).err()).collect()
}

fn assert_all_promises(order: Order, runs: u64) {
    for seed in 0..runs {
        let plan = plan(Settings::new(order, HEARTBEAT), seed);
        if let Err(promise) = check(&plan, &play(&plan, seed)) {
            panic!("seed {seed}, {plan:?}: {promise}");
        }
    }
}

#[test]
fn repair_alone_brings_every_text_to_every_member() {
    assert_all_promises(Order::None, 500);
}

#[test]
fn fifo_keeps_the_order_of_each_sender() {
    assert_all_promises(Order::Fifo, 500);
}

#[test]
fn vector_clocks_keep_causes_before_their_effects() {
    assert_all_promises(Order::Causal, 500);
}

#[test]
fn a_sequencer_and_those_after_it_give_all_one_order() {
    assert_all_promises(Order::Total, 1000);
}

/// Takes minutes: `cargo test --release -p lab26-group -- --ignored`
#[test]
#[ignore = "the long form of the four above"]
fn a_hundred_thousand_runs_keep_every_promise() {
    for order in [Order::None, Order::Fifo, Order::Causal, Order::Total] {
        assert_all_promises(order, 25_000);
    }
}

#[test]
fn without_repair_something_is_missing_for_ever() {
    let settings = Settings { repair: false, ..Settings::new(Order::Fifo, HEARTBEAT) };
    let broken = broken(settings, 0..30);
    assert!(broken.iter().any(|promise| promise.starts_with("rest: ")), "{broken:?}");
}

#[test]
fn without_the_clock_an_answer_comes_before_its_question() {
    let settings = Settings { merge_clock: false, ..Settings::new(Order::Causal, HEARTBEAT) };
    let broken = broken(settings, 0..100);
    assert!(broken.iter().any(|promise| promise.starts_with("causal: ")), "{broken:?}");
}

#[test]
fn a_sequencer_that_asks_nobody_breaks_the_order() {
    let settings = Settings { flush: false, ..Settings::new(Order::Total, HEARTBEAT) };
    let broken = broken(settings, 0..1000);
    assert!(broken.iter().any(|promise| !promise.starts_with("rest: ")), "{broken:?}");
}
