//! A work queue: a session with the queue's name, subscribed to tasks/NAME. The broker keeps each task until a worker has
//! confirmed it. The worker that comes takes the session over, with all that is not confirmed.

use std::{io::stdin, os::fd::AsFd, process::id};

use anyhow::{Context, Error, Result};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::read,
};
use rumqttc::QoS;
use shared::{At, Pause, Screen, Stop, escaped};

use crate::{
    TaskArgs, WorkerArgs,
    mqtt::{As, Mqtt, Stopped, Until},
};

/// Why a worker may lose its connection.
const TAKEN: &str = "no more tasks here; a second worker takes a queue over";

/// Puts tasks into the queue.
pub fn task(args: &TaskArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.client.pause, &stop);
    let mut screen = Screen::new();

    pause.before(&mut screen, format_args!("CONNECT to {}", args.client.address));
    let name = format!("task-{}", id());
    let mut mqtt = Mqtt::connect(args.client.address, As::guest(&name), Until::Stop(&stop))?;
    for text in &args.texts {
        pause.before(&mut screen, format_args!("PUBLISH to tasks/{}, {} bytes", args.queue, text.len()));
        mqtt.publish(&format!("tasks/{}", args.queue), text.as_bytes(), QoS::AtLeastOnce, false)?;
        screen.line(format_args!("PUBACK   {}", escaped(text.as_bytes())));
    }
    Ok(())
}

/// Takes tasks until Ctrl-C or the end of input; each Enter confirms the one in hand.
pub fn worker(args: &WorkerArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.client.pause, &stop);
    let mut screen = Screen::new();
    let addr = args.client.address;
    let name = format!("queue-{}", args.queue);

    pause.before(&mut screen, format_args!("CONNECT to {addr}"));
    let who = As { confirms: true, ..As::session(&name) };
    let mut mqtt = Mqtt::connect(addr, who, Until::Stop(&stop))?;
    pause.before(&mut screen, format_args!("SUBSCRIBE to tasks/{}", args.queue));
    mqtt.subscribe(&format!("tasks/{}", args.queue), QoS::AtLeastOnce)?;
    screen.line(format_args!("queue {}: Enter confirms a task, Ctrl-C ends", args.queue));

    loop {
        let publish = mqtt.receive().context(TAKEN)?;
        screen.line(format_args!("takes    {}", escaped(&publish.payload)));
        if !enter(&stop)? {
            return Ok(()); // the task is not confirmed: the broker keeps it
        }
        mqtt.confirm(&publish).context(TAKEN)?;
        screen.line(format_args!("confirms {}", escaped(&publish.payload)));
    }
}

/// Waits for Enter; false at the end of input.
pub fn enter(stop: &Stop) -> Result<bool> {
    let mut byte = [0];
    loop {
        match typed(stop, &mut byte)? {
            0 => return Ok(false),
            _ if byte == *b"\n" => return Ok(true),
            _ => {}
        }
    }
}

/// Waits for bytes of standard input, and for Ctrl-C beside them; 0 at its end.
pub fn typed(stop: &Stop, buffer: &mut [u8]) -> Result<usize> {
    let input = stdin();
    loop {
        let mut fds = [stop.as_fd(), input.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        if poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {
            continue;
        }
        if stop.requested() {
            return Err(Error::new(Stopped));
        }
        match read(&input, buffer) {
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            bytes_read => return Ok(bytes_read.at("read", "standard input")?),
        }
    }
}
