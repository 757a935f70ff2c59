//! The queue between groups of threads: who takes waits while it is empty.
//!
//! One Mutex guards everything. As in the lecture it has no limit: whoever puts never waits. Whoever takes looks again in
//! a loop, as another thread may have been faster; the lecture's listing has `if`, and loses threads (lab18).

use std::collections::VecDeque;

#[cfg(test)]
use shuttle::sync::{Condvar, Mutex, MutexGuard}; // a scheduler of its own tries the orders that a kernel rarely takes
#[cfg(not(test))]
use std::sync::{Condvar, Mutex, MutexGuard};

/// A queue, first in first out.
pub struct Queue<T> {
    inner: Mutex<Inner<T>>,
    /// Someone put an element: there is one to take.
    filled: Condvar,
}

struct Inner<T> {
    elements: VecDeque<T>,
    closed: bool,
}

impl<T> Queue<T> {
    pub fn new() -> Self {
        let inner = Inner { elements: VecDeque::new(), closed: false };
        Queue { inner: Mutex::new(inner), filled: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        // A thread that panicked elsewhere leaves the queue whole: no step in here can fail halfway.
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Puts an element at the end; drops it if the queue is closed.
    pub fn put(&self, element: T) {
        let mut inner = self.lock();
        if inner.closed {
            return;
        }
        inner.elements.push_back(element);
        drop(inner); // so that whoever wakes up finds the lock free
        self.filled.notify_one();
    }

    /// Takes the first element; waits while there is none. `None`: the queue is closed.
    pub fn take(&self) -> Option<T> {
        let mut inner = self.lock();
        while inner.elements.is_empty() && !inner.closed {
            inner = self.filled.wait(inner).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        inner.elements.pop_front()
    }

    /// Ctrl-C: what is left is dropped, and whoever takes gets `None`.
    pub fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        let left = std::mem::take(&mut inner.elements);
        drop(inner);
        self.filled.notify_all();
        drop(left); // without the lock: closing many sockets takes its time
    }
}

#[cfg(test)]
mod tests {
    use shuttle::{check_random, sync::Arc, thread};

    use super::*;

    /// Schedules tried for each property.
    const SCHEDULES: usize = 2000;

    #[test]
    fn nothing_is_lost_or_doubled_and_who_came_first_is_taken_first() {
        check_random(
            || {
                let queue = Arc::new(Queue::new());
                let putters = [0, 10].map(|base| {
                    let queue = queue.clone();
                    thread::spawn(move || (1..=2).for_each(|number| queue.put(base + number)))
                });
                let takers = [(); 2].map(|()| {
                    let queue = queue.clone();
                    thread::spawn(move || [queue.take().unwrap(), queue.take().unwrap()])
                });
                putters.into_iter().for_each(|putter| putter.join().unwrap());
                let taken = takers.map(|taker| taker.join().unwrap());
                for base in [0, 1] {
                    assert!(taken.iter().all(|got| got[0] / 10 != base || got[1] / 10 != base || got[0] < got[1]));
                }
                let mut taken = taken.concat();
                taken.sort_unstable();
                assert_eq!(taken, [1, 2, 11, 12]);
            },
            SCHEDULES,
        );
    }

    #[test]
    fn a_close_ends_everybody_who_waits_and_drops_what_is_left() {
        check_random(
            || {
                let queue = Arc::new(Queue::new());
                let takers = [(); 3].map(|()| {
                    let queue = queue.clone();
                    thread::spawn(move || std::iter::from_fn(|| queue.take()).count())
                });
                let putter = {
                    let queue = queue.clone();
                    thread::spawn(move || queue.put(1))
                };
                queue.close();
                putter.join().unwrap();
                assert!(takers.map(|taker| taker.join().unwrap()).iter().sum::<usize>() <= 1);
                assert_eq!(queue.take(), None);
            },
            SCHEDULES,
        );
    }

    /// The lecture's queue: `if` around wait.
    #[test]
    fn if_in_place_of_while_is_found() {
        let found = std::panic::catch_unwind(|| {
            check_random(
                || {
                    let queue = Arc::new(Queue::new());
                    let takers = [(); 2].map(|()| {
                        let queue = queue.clone();
                        thread::spawn(move || {
                            let mut inner = queue.lock();
                            if inner.elements.is_empty() {
                                inner = queue.filled.wait(inner).unwrap();
                            }
                            inner.elements.pop_front().expect("an element after the wait")
                        })
                    });
                    queue.put(1);
                    queue.filled.notify_all(); // as the lecture does
                    shuttle::thread::yield_now();
                    queue.put(2);
                    takers.into_iter().for_each(|taker| assert!(taker.join().is_ok()));
                },
                SCHEDULES,
            );
        });
        assert!(found.is_err());
    }
}
