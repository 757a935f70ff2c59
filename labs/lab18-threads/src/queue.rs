//! The lecture's queue with a condition, and the mistake in its get: `if` where a `while` must stand.
//!
//! A thread that waits gives the lock away and gets it back when it wakes up. Between the notification and its waking,
//! another thread may have taken the element. So whoever wakes up looks again.

use std::collections::VecDeque;

#[cfg(test)]
use shuttle::sync::{Condvar, Mutex, MutexGuard}; // a scheduler of its own tries the orders that a kernel rarely takes
#[cfg(not(test))]
use std::sync::{Condvar, Mutex, MutexGuard};

/// A queue, first in first out. The lecture's `pop()` takes the last element instead.
pub struct Queue<T> {
    inner: Mutex<Inner<T>>,
    filled: Condvar,
}

struct Inner<T> {
    elements: VecDeque<T>,
    /// Threads that wait for the condition.
    waiting: usize,
}

impl<T> Queue<T> {
    pub fn new() -> Self {
        Queue { inner: Mutex::new(Inner { elements: VecDeque::new(), waiting: 0 }), filled: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Waits once, and looks no more than that.
    fn wait<'a>(&self, mut inner: MutexGuard<'a, Inner<T>>) -> MutexGuard<'a, Inner<T>> {
        inner.waiting += 1;
        let mut inner = self.filled.wait(inner).unwrap_or_else(|poisoned| poisoned.into_inner());
        inner.waiting -= 1;
        inner
    }

    /// Puts an element at the end. `tell` hears each step, in the order in which it happens: the lock is held.
    pub fn put(&self, element: T, tell: impl Fn(&str)) {
        let mut inner = self.lock();
        tell("Added element");
        inner.elements.push_back(element);
        if inner.elements.len() == 1 {
            tell("Queue is no more empty, notifying all waiting threads");
            self.filled.notify_all(); // all, since the next element notifies nobody
        }
    }

    /// Takes the first element; waits while there is none.
    pub fn get(&self, tell: impl Fn(&str)) -> T {
        let mut inner = self.lock();
        loop {
            if let Some(element) = inner.elements.pop_front() {
                return element;
            }
            tell("Queue is empty, waiting ...");
            inner = self.wait(inner);
        }
    }

    /// As the lecture's listing: it waits if the queue is empty, and does not look again. `None` is Python's IndexError.
    pub fn get_with_if(&self) -> Option<T> {
        let mut inner = self.lock();
        if inner.elements.is_empty() {
            inner = self.wait(inner);
        }
        inner.elements.pop_front()
    }

    /// How many threads wait for the condition. Whoever is counted has given the lock away.
    pub fn waiting(&self) -> usize {
        self.lock().waiting
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use shuttle::{check_random, sync::Arc, thread};

    use super::*;

    /// Schedules tried for each property.
    const SCHEDULES: usize = 2000;

    /// Whether some schedule among many ends in a panic, or in a deadlock, which shuttle reports as one.
    fn is_found(mistake: impl Fn() + Send + Sync + 'static) -> bool {
        catch_unwind(AssertUnwindSafe(|| check_random(mistake, SCHEDULES))).is_err()
    }

    /// Two consumers take one element each, as `take` does it, while 1 and 2 are put as `put` does it.
    fn two_consumers(
        put: impl Fn(&Queue<u32>, u32),
        take: impl Fn(&Queue<u32>) -> u32 + Send + Sync + Copy + 'static,
    ) -> Vec<u32> {
        let queue = Arc::new(Queue::new());
        let consumers = [(); 2].map(|()| {
            let queue = queue.clone();
            thread::spawn(move || take(&queue))
        });
        [1, 2].into_iter().for_each(|number| put(&queue, number));
        let mut taken = consumers.map(|consumer| consumer.join().unwrap()).to_vec();
        taken.sort_unstable();
        taken
    }

    #[test]
    fn nothing_is_lost_or_doubled_and_nobody_waits_for_ever() {
        check_random(
            || {
                let taken = two_consumers(|queue, number| queue.put(number, |_| ()), |queue| queue.get(|_| ()));
                assert_eq!(taken, [1, 2]);
            },
            SCHEDULES,
        );
    }

    #[test]
    fn who_came_first_is_taken_first() {
        check_random(
            || {
                let queue = Arc::new(Queue::new());
                let producer = {
                    let queue = queue.clone();
                    thread::spawn(move || (0..5).for_each(|number| queue.put(number, |_| ())))
                };
                let taken: Vec<_> = (0..5).map(|_| queue.get(|_| ())).collect();
                producer.join().unwrap();
                assert_eq!(taken, [0, 1, 2, 3, 4]);
            },
            SCHEDULES,
        );
    }

    #[test]
    fn if_in_place_of_while_is_found() {
        assert!(is_found(|| {
            two_consumers(|queue, number| queue.put(number, |_| ()), |queue| queue.get_with_if().expect("an element"));
        }));
    }

    #[test]
    fn a_notify_of_one_thread_for_the_first_element_only_is_found() {
        assert!(is_found(|| {
            let put = |queue: &Queue<u32>, number| {
                let mut inner = queue.lock();
                inner.elements.push_back(number);
                if inner.elements.len() == 1 {
                    queue.filled.notify_one(); // the second element finds a queue that is not empty, and wakes nobody
                }
            };
            two_consumers(put, |queue| queue.get(|_| ()));
        }));
    }
}
