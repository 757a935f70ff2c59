//! An event: a flag that threads can wait for. The notes name it and link to a page; the demo is the usual one.

#[cfg(test)]
use shuttle::sync::{Condvar, Mutex, MutexGuard}; // a scheduler of its own tries the orders that a kernel rarely takes
#[cfg(not(test))]
use std::sync::{Condvar, Mutex, MutexGuard};
use std::{sync::Arc, thread, time::Duration};

use anyhow::{Context, Result};

use crate::{MainThread, PaceArgs, hello::NO_THREAD, log::Log};

/// As Python's threading.Event: false at first, and true for good once it is set.
pub struct Event {
    set: Mutex<bool>,
    changed: Condvar,
}

impl Event {
    pub fn new() -> Self {
        Event { set: Mutex::new(false), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.set.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Lets everybody go on who waits, now or later.
    pub fn set(&self) {
        *self.lock() = true;
        self.changed.notify_all();
    }

    /// Waits until it is set.
    pub fn wait(&self) {
        let mut set = self.lock();
        while !*set {
            set = self.changed.wait(set).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    /// Waits until it is set or the time is over; says whether it is set.
    pub fn wait_for(&self, time: Duration) -> bool {
        let set = self.lock();
        let waited = self.changed.wait_timeout_while(set, time, |set| !*set);
        *waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0
    }
}

pub fn run(args: &PaceArgs, main: &mut MainThread) -> Result<()> {
    let log = Log::with(|name| format!("({name:<12}) "));
    let event = Arc::new(Event::new());
    let blocking = {
        let event = event.clone();
        move || {
            log.debug("wait_for_event starting");
            event.wait();
            log.debug("event is set");
        }
    };
    let non_blocking = {
        let (event, time) = (event.clone(), args.seconds(2.0));
        move || {
            log.debug("wait_for_event_timeout starting");
            while !event.wait_for(time) {
                log.debug("time is over, event is not set: doing other things");
            }
            log.debug("event is set: processing event");
        }
    };

    main.before("start blocking")?;
    let blocking = thread::Builder::new().name("blocking".into()).spawn(blocking).context(NO_THREAD)?;
    main.before("start non-blocking")?;
    let non_blocking = thread::Builder::new().name("non-blocking".into()).spawn(non_blocking).context(NO_THREAD)?;
    log.debug("Waiting before setting the event");
    main.sleep(args.seconds(3.0))?;
    main.before("set the event")?;
    log.debug("Setting the event");
    event.set();
    main.join(blocking)?;
    main.join(non_blocking)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use shuttle::{
        check_random,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
        thread,
    };

    use super::*;

    /// Schedules tried.
    const SCHEDULES: usize = 2000;

    #[test]
    fn in_no_order_does_a_waiting_thread_miss_the_event() {
        check_random(
            || {
                let event = Arc::new(Event::new());
                let waiters = [(); 2].map(|()| {
                    let event = event.clone();
                    thread::spawn(move || event.wait())
                });
                event.set();
                waiters.into_iter().for_each(|waiter| waiter.join().unwrap()); // a deadlock would be reported
                assert!(event.wait_for(Duration::ZERO));
            },
            SCHEDULES,
        );
    }

    #[test]
    fn a_look_at_the_flag_without_the_lock_misses_the_event_in_some_order() {
        let missed = catch_unwind(AssertUnwindSafe(|| {
            check_random(
                || {
                    let (flag, event) = (Arc::new(AtomicBool::new(false)), Arc::new(Event::new()));
                    let waiter = {
                        let (flag, event) = (flag.clone(), event.clone());
                        thread::spawn(move || {
                            if !flag.load(Ordering::SeqCst) {
                                let _ = event.changed.wait(event.lock()); // set and notified meanwhile: for ever
                            }
                        })
                    };
                    flag.store(true, Ordering::SeqCst);
                    event.changed.notify_all();
                    waiter.join().unwrap();
                },
                SCHEDULES,
            );
        }));
        assert!(missed.is_err());
    }
}
