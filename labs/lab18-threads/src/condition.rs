//! A consumer waits for a condition, a producer notifies: the lecture's Queue demo.

use std::{sync::Arc, thread, time::Instant};

use anyhow::{Context, Result};

use crate::{MainThread, PaceArgs, hello::NO_THREAD, log::Log, queue::Queue};

const ELEMENTS: usize = 5;

pub fn run(args: &PaceArgs, main: &mut MainThread) -> Result<()> {
    let log = Log::with(|name| format!("({name}) "));
    let begin = Instant::now();
    let tell = move |text: &str| log.debug(format_args!("{text}  at {:.1} s", begin.elapsed().as_secs_f64()));
    let queue = Arc::new(Queue::new());
    let consumer = {
        let (queue, time) = (queue.clone(), args.seconds(1.0));
        move || {
            tell("Starting consumer thread");
            for _ in 0..ELEMENTS {
                let element: usize = queue.get(tell);
                tell(&format!("Retrieved: {element}"));
                thread::sleep(time);
            }
        }
    };
    let producer = {
        let (queue, time) = (queue.clone(), args.seconds(3.0));
        move || {
            tell("Starting producer thread");
            for element in 0..ELEMENTS {
                queue.put(element, tell);
                tell(&format!("Added: {element}"));
                thread::sleep(time);
            }
        }
    };

    main.before("start Consumer")?;
    let consumer = thread::Builder::new().name("Consumer".into()).spawn(consumer).context(NO_THREAD)?;
    main.before("start Producer")?;
    let producer = thread::Builder::new().name("Producer".into()).spawn(producer).context(NO_THREAD)?;
    main.before("join Consumer")?;
    main.join(consumer)?;
    main.before("join Producer")?;
    main.join(producer)?;
    tell("Terminating ...");
    Ok(())
}
