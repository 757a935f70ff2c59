//! A queue with an end: who puts waits while it is full, who takes waits while it is empty.
//!
//! One Mutex guards everything. Two Condvars tell the two kinds of waiters apart, so that each notify_one wakes
//! somebody who can go on. Whoever waits looks again in a loop: another thread may have been faster.

use std::collections::VecDeque;

#[cfg(test)]
use shuttle::sync::{Condvar, Mutex, MutexGuard}; // a scheduler of its own tries the orders that a kernel rarely takes
#[cfg(not(test))]
use std::sync::{Condvar, Mutex, MutexGuard};

/// A bounded queue, first in first out.
pub struct Queue<T> {
    inner: Mutex<Inner<T>>,
    /// Someone took an element: there is room for one.
    room: Condvar,
    /// Someone put an element: there is one to take.
    filled: Condvar,
}

struct Inner<T> {
    elements: VecDeque<T>,
    capacity: usize,
    closed: bool,
}

impl<T> Inner<T> {
    fn is_full(&self) -> bool {
        self.elements.len() >= self.capacity
    }
}

impl<T> Queue<T> {
    /// For at most `capacity` elements.
    pub fn new(capacity: usize) -> Self {
        let inner = Inner { elements: VecDeque::new(), capacity, closed: false };
        Queue { inner: Mutex::new(inner), room: Condvar::new(), filled: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        // A thread that panicked elsewhere leaves the queue whole: no step in here can fail halfway.
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Puts an element at the end; waits while the queue is full. Returns how many elements are in it now.
    pub fn put(&self, element: T) -> usize {
        let mut inner = self.lock();
        while inner.is_full() {
            inner = self.room.wait(inner).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        inner.elements.push_back(element);
        let length = inner.elements.len();
        drop(inner); // so that whoever wakes up finds the lock free
        self.filled.notify_one();
        length
    }

    /// Takes the first element; waits while there is none. `None`: the queue is closed, and empty.
    pub fn take(&self) -> Option<T> {
        let mut inner = self.lock();
        while inner.elements.is_empty() && !inner.closed {
            inner = self.filled.wait(inner).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        let element = inner.elements.pop_front();
        drop(inner);
        self.room.notify_one();
        element
    }

    /// How many elements are in it.
    pub fn len(&self) -> usize {
        self.lock().elements.len()
    }

    /// Whether the next one to put would wait.
    pub fn is_full(&self) -> bool {
        self.lock().is_full()
    }

    /// No limit any more, and nobody waits for room: the server stops and puts away what it has accepted.
    pub fn lift_limit(&self) {
        self.lock().capacity = usize::MAX;
        self.room.notify_all();
    }

    /// Nothing more will be put: whoever takes gets what is left, and then `None`.
    pub fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
    }
}

#[cfg(test)]
mod broken;

#[cfg(test)]
mod tests {
    use shuttle::{check_random, sync::Arc, thread};

    use super::*;

    /// Schedules tried for each property.
    const SCHEDULES: usize = 2000;

    /// Two threads put 1, 2 and 11, 12 into a queue of one; two threads take until the end. What each of them got.
    fn two_and_two() -> [Vec<u32>; 2] {
        let queue = Arc::new(Queue::new(1));
        let putters = [0, 10].map(|base| {
            let queue = queue.clone();
            thread::spawn(move || (1..=2).for_each(|number| assert!(queue.put(base + number) <= 1)))
        });
        let takers = [(); 2].map(|()| {
            let queue = queue.clone();
            thread::spawn(move || std::iter::from_fn(|| queue.take()).collect::<Vec<_>>())
        });
        putters.into_iter().for_each(|putter| putter.join().unwrap());
        queue.close();
        takers.map(|taker| taker.join().unwrap())
    }

    #[test]
    fn nothing_is_lost_or_doubled_and_nobody_waits_for_ever() {
        check_random(
            || {
                let mut taken = two_and_two().concat();
                taken.sort_unstable();
                assert_eq!(taken, [1, 2, 11, 12]);
            },
            SCHEDULES,
        );
    }

    #[test]
    fn who_came_first_is_taken_first() {
        check_random(
            || {
                for got in two_and_two() {
                    for base in [0, 10] {
                        let order: Vec<_> = got.iter().filter(|number| **number / 10 == base / 10).collect();
                        assert!(order.is_sorted(), "{got:?}");
                    }
                }
            },
            SCHEDULES,
        );
    }

    #[test]
    fn a_stop_lets_everybody_who_waits_for_room_go_on() {
        check_random(
            || {
                let queue = Arc::new(Queue::new(1));
                queue.put(1);
                let putter = {
                    let queue = queue.clone();
                    thread::spawn(move || queue.put(2))
                };
                queue.lift_limit();
                putter.join().unwrap();
                queue.close();
                assert_eq!(std::iter::from_fn(|| queue.take()).collect::<Vec<_>>(), [1, 2]);
                assert_eq!(queue.len(), 0);
            },
            SCHEDULES,
        );
    }
}
