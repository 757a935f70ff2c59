//! Threads with arguments and names: the lecture's first four listings.

use std::{sync::Arc, thread};

use anyhow::{Context, Result};

use crate::{HelloArgs, MainThread, event::Event, log::Log};

pub const NO_THREAD: &str = "cannot start a thread; see the limit: ulimit -u";

pub fn run(args: &HelloArgs, main: &mut MainThread) -> Result<()> {
    if args.named {
        return named(args, main);
    }
    let log = Log::with(|_| String::new());
    let enter = Arc::new(Event::new());
    let mut threads = Vec::new();
    for number in 0..args.threads {
        let name = format!("User-{number}");
        main.before(format_args!("start {name}"))?;
        let (enter, stay) = (enter.clone(), args.stay);
        let user = move || {
            log.print(format_args!("Hello I am User number: {number}"));
            if stay {
                enter.wait();
            }
        };
        threads.push(thread::Builder::new().name(name).spawn(user).context(NO_THREAD)?);
    }
    // Nobody has waited for the threads: this line may come before theirs.
    log.print("Click Enter to Terminate ...");
    main.wait_for_enter()?;
    enter.set();
    for thread in threads {
        main.join(thread)?;
    }
    Ok(())
}

/// Who is who in a log: a name of one's own, or the default one.
fn named(args: &HelloArgs, main: &mut MainThread) -> Result<()> {
    let log = Log::with(|name| format!("[DEBUG] ({name:<10}) "));
    let [two, three] = [2.0, 3.0].map(|seconds| args.pace.seconds(seconds));
    let user = move || {
        log.debug("Arrived");
        thread::sleep(two);
        log.debug("Leaving");
    };
    let session = move || {
        log.debug("Starting");
        thread::sleep(three);
        log.debug("Exiting");
    };
    let mut threads = Vec::new();
    main.before("start User")?;
    threads.push(thread::Builder::new().name("User".into()).spawn(user).context(NO_THREAD)?);
    main.before("start Thread-1")?;
    // Python makes up this name for a thread without one. Rust makes up none; to the kernel it has its creator's.
    threads.push(thread::Builder::new().name("Thread-1".into()).spawn(user).context(NO_THREAD)?);
    main.before("start session")?;
    threads.push(thread::Builder::new().name("session".into()).spawn(session).context(NO_THREAD)?);
    for thread in threads {
        main.before("join the next thread")?;
        main.join(thread)?; // Python's main does this by itself, Rust's and C's do not
    }
    Ok(())
}
