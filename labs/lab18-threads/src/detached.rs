//! A thread that nobody joins: the lecture's daemon thread User1, beside User2, for which main waits.

use std::{fs, sync::Arc, thread};

use anyhow::{Context, Result};
use shared::At;

use crate::{DetachedArgs, MainThread, event::Event, hello::NO_THREAD, log::Log};

/// What User1 has to show for its work.
pub const WORK: &str = "the work of User1 is done\n";

pub fn run(args: &DetachedArgs, main: &mut MainThread) -> Result<()> {
    let log = Log::with(|name| format!("[DEBUG] ({name:<10}) "));
    let arrived = Arc::new(Event::new());
    let user1 = {
        let (arrived, work, file) = (arrived.clone(), args.pace.seconds(args.seconds), args.file.clone());
        move || {
            log.debug("Arrived");
            arrived.set();
            thread::sleep(work);
            let written = file.map_or(Ok(()), |file| fs::write(&file, WORK).at("write", file.display()));
            log.debug("Leaving");
            written
        }
    };
    let user2 = move || {
        log.debug("Arrived");
        log.debug("Leaving");
    };

    main.before("start User1")?;
    let user1 = thread::Builder::new().name("User1".into()).spawn(user1).context(NO_THREAD)?;
    arrived.wait(); // or main might end before User1 has begun
    main.before("start User2")?;
    let user2 = thread::Builder::new().name("User2".into()).spawn(user2).context(NO_THREAD)?;

    main.before("join User2")?;
    main.join(user2)?;
    if args.join {
        main.before("join User1")?;
        main.join(user1)??;
    } else {
        main.before("drop the handle of User1, and end main")?;
        drop(user1); // pthread_detach(3): nobody can join User1 any more
    }
    Ok(()) // main returns, and the C library calls exit_group(2): that ends every thread of the process
}
