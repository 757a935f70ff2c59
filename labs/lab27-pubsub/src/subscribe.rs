//! Subscribes, and shows what comes until Ctrl-C. With --session the broker goes on collecting afterwards.

use std::process::id;

use anyhow::Result;
use shared::{Pause, Screen, Stop, escaped};

use crate::{
    SubscribeArgs,
    mqtt::{self, As, Mqtt, Until},
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
    let mut mqtt = Mqtt::connect(addr, who, Until::Stop(&stop))?;
    if mqtt.remembered {
        screen.line(format_args!("The broker remembers {}", who.name));
    }
    for topic in &args.topics {
        pause.before(&mut screen, format_args!("SUBSCRIBE to {topic}"));
        mqtt.subscribe(topic, mqtt::qos(args.qos))?;
    }
    screen.line(format_args!("subscribed to {}; Ctrl-C ends", args.topics.join(" ")));

    loop {
        let publish = mqtt.receive()?;
        let retained = if publish.retain { "  (retained)" } else { "" };
        screen.line(format_args!("{}  {}{retained}", escaped(publish.topic.as_bytes()), escaped(&publish.payload)));
    }
}
