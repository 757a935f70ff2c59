//! The message board without a server of its own: each message is a retained one with a topic of its own below board/.
//! Who comes later gets all of them from the broker; who is there gets each new one at once.

use std::{
    process::id,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Result, ensure};
use rumqttc::QoS;
use shared::{Pause, Screen, Stop, escaped};

use crate::{
    BoardArgs,
    mqtt::{As, Mqtt, Until},
};

/// Publishes a message, or shows the board until Ctrl-C.
pub fn run(args: &BoardArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();

    pause.before(&mut screen, format_args!("CONNECT to {}", args.address));
    let name = format!("board-{}", id());
    let mut mqtt = Mqtt::connect(args.address, As::guest(&name), Until::Stop(&stop))?;

    if let Some(text) = &args.publish {
        ensure!(!text.is_empty(), "an empty text would delete a retained message: MQTT 3.1.1 3.3.1.3");
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let topic = format!("board/{}-{}", now.as_micros(), id());
        pause.before(&mut screen, format_args!("PUBLISH to {topic}, {} bytes, retained", text.len()));
        mqtt.publish(&topic, text.as_bytes(), QoS::AtLeastOnce, true)?;
        screen.line("Message Published");
        return Ok(());
    }

    pause.before(&mut screen, "SUBSCRIBE to board/+");
    mqtt.subscribe("board/+", QoS::AtLeastOnce)?;
    screen.line(format_args!("The board at {}; Ctrl-C ends", args.address));
    loop {
        let publish = mqtt.receive()?;
        screen.line(format_args!("{}  {}", escaped(publish.topic.as_bytes()), escaped(&publish.payload)));
    }
}
