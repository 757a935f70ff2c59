//! A counter behind a lock. One thread adds, one subtracts; the lock keeps a read and its write together.

#[cfg(test)]
use shuttle::sync::{Mutex, MutexGuard}; // a scheduler of its own tries the orders that a kernel rarely takes
#[cfg(not(test))]
use std::sync::{Mutex, MutexGuard};
use std::{sync::Arc, thread};

use anyhow::{Context, Result};

use crate::{MainThread, PaceArgs, hello::NO_THREAD, log::Log};

const ROUNDS: usize = 10;

/// The lecture's counter.
pub struct Counter {
    value: Mutex<i64>,
}

impl Counter {
    pub fn new() -> Self {
        Counter { value: Mutex::new(0) }
    }

    /// Adds one; `tell` hears each step.
    pub fn increment(&self, tell: impl Fn(&str)) {
        self.change(1, tell);
    }

    /// Subtracts one.
    pub fn decrement(&self, tell: impl Fn(&str)) {
        self.change(-1, tell);
    }

    fn change(&self, by: i64, tell: impl Fn(&str)) {
        tell("Waiting for a lock");
        let mut value = self.lock();
        tell("Acquired a lock");
        *value += by;
        tell(&format!("Value {}", *value));
        // Said while the lock is still held: afterwards, another thread might speak first.
        tell("Releasing the lock");
        drop(value);
    }

    pub fn value(&self) -> i64 {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, i64> {
        self.value.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

pub fn run(args: &PaceArgs, main: &mut MainThread) -> Result<()> {
    let log = Log::with(|name| format!("({name:<9}) "));
    let counter = Arc::new(Counter::new());
    let worker_a = {
        let (counter, time) = (counter.clone(), args.seconds(1.0));
        move || {
            for _ in 0..ROUNDS {
                log.debug(format_args!("Sleeping {:.2}", time.as_secs_f64()));
                thread::sleep(time);
                counter.increment(|step| log.debug(step));
                log.debug("Done");
            }
        }
    };
    let worker_b = {
        let (counter, time) = (counter.clone(), args.seconds(2.0));
        move || {
            for _ in 0..ROUNDS {
                log.debug(format_args!("Sleeping {:.2}", time.as_secs_f64()));
                thread::sleep(time);
                counter.decrement(|step| log.debug(step));
                log.debug("Done");
            }
        }
    };

    main.before("start Thread-1")?;
    let increments = thread::Builder::new().name("Thread-1".into()).spawn(worker_a).context(NO_THREAD)?;
    main.before("start Thread-2")?;
    let decrements = thread::Builder::new().name("Thread-2".into()).spawn(worker_b).context(NO_THREAD)?;
    log.debug("Waiting for worker threads");
    main.before("join Thread-1")?;
    main.join(increments)?;
    main.before("join Thread-2")?;
    main.join(decrements)?;
    log.debug(format_args!("Counter final value: {}", counter.value()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use shuttle::{
        check_random,
        sync::atomic::{AtomicI64, Ordering},
        thread,
    };

    use super::*;

    /// Schedules tried.
    const SCHEDULES: usize = 2000;

    #[test]
    fn with_the_lock_no_order_of_the_threads_loses_a_change() {
        check_random(
            || {
                let counter = shuttle::sync::Arc::new(Counter::new());
                let adds = {
                    let counter = counter.clone();
                    thread::spawn(move || (0..3).for_each(|_| counter.increment(|_| ())))
                };
                (0..3).for_each(|_| counter.decrement(|_| ()));
                adds.join().unwrap();
                assert_eq!(counter.value(), 0);
            },
            SCHEDULES,
        );
    }

    #[test]
    fn a_load_and_a_store_without_a_lock_lose_a_change_in_some_order() {
        let lost = catch_unwind(AssertUnwindSafe(|| {
            check_random(
                || {
                    let value = shuttle::sync::Arc::new(AtomicI64::new(0));
                    let adds = {
                        let value = value.clone();
                        thread::spawn(move || value.store(value.load(Ordering::SeqCst) + 1, Ordering::SeqCst))
                    };
                    value.store(value.load(Ordering::SeqCst) + 1, Ordering::SeqCst);
                    adds.join().unwrap();
                    assert_eq!(value.load(Ordering::SeqCst), 2);
                },
                SCHEDULES,
            );
        }));
        assert!(lost.is_err());
    }
}
