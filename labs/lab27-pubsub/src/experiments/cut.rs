//! The connection of a publisher is cut in the middle of 1,000 messages.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::Result;
use rumqttc::QoS;
use shared::{Predicts, Stage, Verdict};

use super::{
    brokers::{Broker, up_to},
    relay::Relay,
};
use crate::mqtt::{self, As, Mqtt, acknowledges};

const MESSAGES: usize = 1000;
/// Sent and not acknowledged yet, at most.
const WINDOW: usize = 50;
/// On a machine that is far too busy the class is told how far it is.
const SLOW: Duration = Duration::from_secs(5);

pub fn cut(stage: &mut Stage) -> Result<Verdict> {
    let broker = Broker::start(stage)?;
    stage.say("relay", "stands between publisher and broker, and cuts the connection once, after 500");
    stage.say("", format_args!("QoS 0: the next {WINDOW} messages go nowhere, then the cut"));
    stage.say("", format_args!("QoS 1, 2: the next {WINDOW} answers of the broker go nowhere, then the cut"));
    let question = stage.ask(
        "The publisher sends 1 to 1,000, connects again after the cut, and repeats what was not acknowledged. At which QoS does the subscriber count each number once?",
        [
            ("at 0, 1 and 2: TCP repeats lost bytes", vec![0, 1, 2]),
            ("at 1 and 2: each one is acknowledged", vec![1, 2]),
            ("at 2 alone", vec![2]),
            ("at 1 alone", vec![1]),
        ],
        Predicts { source: None, kit: vec![2] },
    )?;
    let mut exact = Vec::new();
    for number in 0..=2 {
        let Counted { lost, doubled } = counted(stage, &broker, number)?;
        stage.say("counted", format_args!("QoS {number}: of {MESSAGES} messages {lost} lost, {doubled} doubled"));
        if (lost, doubled) == (0, 0) {
            exact.push(number);
        }
    }
    stage.verdict(question, exact, "QoS 0 loses, QoS 1 doubles; QoS 2 pays four packets a message to do neither")
}

/// How many numbers the subscriber lacks, and how many it has more than once.
struct Counted {
    lost: usize,
    doubled: usize,
}

/// Plays it at one QoS.
fn counted(stage: &mut Stage, broker: &Broker, number: u8) -> Result<Counted> {
    let (qos, topic) = (mqtt::qos(number), format!("numbers/{number}"));
    let mut subscriber = broker.client(As::guest("subscriber"))?;
    subscriber.subscribe(&topic, QoS::ExactlyOnce)?;
    let relay = Relay::start(broker.addr, qos, MESSAGES / 2, WINDOW)?;
    let name = format!("publisher-{number}");
    let who = As { again: true, ..As::session(&name) };
    let mut publisher = Mqtt::connect(relay.addr, who, mqtt::Until::Limit(super::LIMIT))?;
    let (mut sent, mut acknowledged, mut told) = (0, 0, Instant::now());
    'sending: while acknowledged < MESSAGES {
        while sent < MESSAGES && sent < acknowledged + WINDOW {
            if publisher.hand_over(&topic, (sent + 1).to_string().as_bytes(), qos, false).is_err() {
                break 'sending; // its connection is over
            }
            sent += 1;
        }
        if publisher.await_event("an acknowledgement", |event| acknowledges(event, qos).then_some(())).is_err() {
            break; // it waits in vain
        }
        acknowledged += 1;
        if told.elapsed() > SLOW {
            stage.say("publisher", format_args!("QoS {number}: {acknowledged} messages so far"));
            told = Instant::now();
        }
    }
    if publisher.publish(&topic, b"end", QoS::AtLeastOnce, false).is_err() {
        broker.client(As::guest("marks"))?.publish(&topic, b"end", QoS::AtLeastOnce, false)?;
    }
    stage.say("publisher", format_args!("QoS {number}: {sent} messages, {} cut", publisher.losses));
    drop(publisher);
    relay.end()?;
    let mut times: HashMap<Vec<u8>, usize> = HashMap::new();
    for publish in up_to(&mut subscriber, "end", 1)? {
        *times.entry(publish.payload.to_vec()).or_default() += 1;
    }
    let lost = MESSAGES - times.len();
    let doubled = times.values().filter(|times| **times > 1).count();
    Ok(Counted { lost, doubled })
}
