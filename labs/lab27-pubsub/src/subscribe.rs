//! Subscribes, and shows what comes until Ctrl-C. With --session the broker goes on collecting afterwards.

use std::process::id;

use anyhow::Result;
use shared::{Pause, Screen, Stop, escaped};

use crate::{
    SubscribeArgs,
    mqtt::{self, As, Mqtt, Until},
    mqtt5::{FOR_EVER, Mqtt5},
};

/// Shows messages until Ctrl-C.
pub fn run(args: &SubscribeArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.client.pause, &stop);
    let mut screen = Screen::new();
    let addr = args.client.address;
    let guest = format!("subscribe-{}", id());
    let who = args.session.as_deref().map_or(As::guest(&guest), As::session);

    pause.before(&mut screen, format_args!("CONNECT to {addr}"));
    if args.mqtt5 {
        let seconds = args.session.as_ref().map(|_| args.expires.unwrap_or(FOR_EVER));
        let mut mqtt = Mqtt5::connect(addr, who.name, seconds, &stop)?;
        known(&mut screen, mqtt.remembered, who.name);
        each(args, &mut pause, &mut screen, |topic| mqtt.subscribe(topic, args.qos))?;
        loop {
            let publish = mqtt.receive()?;
            show(&mut screen, &publish.topic, &publish.payload, publish.retain);
        }
    }
    let mut mqtt = Mqtt::connect(addr, who, Until::Stop(&stop))?;
    known(&mut screen, mqtt.remembered, who.name);
    each(args, &mut pause, &mut screen, |topic| mqtt.subscribe(topic, mqtt::qos(args.qos)))?;
    loop {
        let publish = mqtt.receive()?;
        show(&mut screen, publish.topic.as_bytes(), &publish.payload, publish.retain);
    }
}

fn known(screen: &mut Screen, remembered: bool, name: &str) {
    if remembered {
        screen.line(format_args!("The broker remembers {name}"));
    }
}

/// Subscribes to topic after topic.
fn each(
    args: &SubscribeArgs,
    pause: &mut Pause,
    screen: &mut Screen,
    mut subscribe: impl FnMut(&str) -> Result<()>,
) -> Result<()> {
    for topic in &args.topics {
        pause.before(screen, format_args!("SUBSCRIBE to {topic}"));
        subscribe(topic)?;
    }
    screen.line(format_args!("subscribed to {}; Ctrl-C ends", args.topics.join(" ")));
    Ok(())
}

fn show(screen: &mut Screen, topic: &[u8], text: &[u8], retained: bool) {
    let retained = if retained { "  (retained)" } else { "" };
    screen.line(format_args!("{}  {}{retained}", escaped(topic), escaped(text)));
}
