//! Publishes a text, or lines as they are typed, and ends. Who receives them, and when, is the broker's business.

use std::process::id;

use anyhow::Result;
use shared::{Pause, Screen, Stop};

use crate::{
    PublishArgs,
    mqtt::{self, As, Mqtt, Until},
    work::typed,
};

/// What the broker said at last.
const ANSWERS: [&str; 3] = ["sent; at QoS 0 nobody answers", "PUBACK", "PUBCOMP"];

/// Publishes, as the arguments say.
pub fn run(args: &PublishArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.client.pause, &stop);
    let mut screen = Screen::new();
    let addr = args.client.address;

    pause.before(&mut screen, format_args!("CONNECT to {addr}"));
    let name = format!("publish-{}", id());
    let mut mqtt = Mqtt::connect(addr, As::guest(&name), Until::Stop(&stop))?;

    let mut publish = |text: &[u8]| {
        pause.before(&mut screen, format_args!("PUBLISH to {}, {} bytes", args.topic, text.len()));
        mqtt.publish(&args.topic, text, mqtt::qos(args.qos), args.retain)?;
        screen.line(format_args!("{}: {}", args.topic, ANSWERS[usize::from(args.qos)]));
        Ok(())
    };
    match args.text.as_str() {
        "-" => each_line(&stop, publish)?,
        text => publish(text.as_bytes())?,
    }

    pause.before(&mut screen, "DISCONNECT");
    drop(mqtt);
    Ok(())
}

/// Standard input, line by line, up to its end.
fn each_line(stop: &Stop, mut publish: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let (mut buffer, mut line) = (vec![0; 4096], Vec::new());
    loop {
        match typed(stop, &mut buffer)? {
            0 if line.is_empty() => return Ok(()),
            0 => return publish(&line), // its last line has no newline
            bytes_read => {
                for byte in &buffer[..bytes_read] {
                    match byte {
                        b'\n' => publish(&std::mem::take(&mut line))?,
                        byte => line.push(*byte),
                    }
                }
                anyhow::ensure!(line.len() <= mqtt::LONGEST, "a line of more than {} bytes", mqtt::LONGEST);
            }
        }
    }
}
