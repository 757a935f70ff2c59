//! Publishes a text, or lines as they are typed, and ends. Who receives them, and when, is the broker's business.

use std::{io::stdin, os::fd::AsFd, process::id};

use anyhow::{Error, Result};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::read,
};
use shared::{At, Pause, Screen, Stop};

use crate::{
    PublishArgs,
    mqtt::{self, As, Mqtt, Stopped, Until},
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
    let (input, mut buffer, mut line) = (stdin(), vec![0; 4096], Vec::new());
    loop {
        let mut fds = [stop.as_fd(), input.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        if poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {
            continue;
        }
        if stop.requested() {
            return Err(Error::new(Stopped));
        }
        match read(&input, &mut buffer) {
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Ok(0) if line.is_empty() => return Ok(()),
            Ok(0) => return publish(&line), // its last line has no newline
            bytes_read => {
                for byte in &buffer[..bytes_read.at("read", "standard input")?] {
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
