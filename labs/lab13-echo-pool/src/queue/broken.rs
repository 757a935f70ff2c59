//! The queue with one mistake each, as lectures and projects have them. A scheduler that tries many orders finds each
//! mistake; a test on the kernel's own scheduler rarely does. Every test in here passes because the mistake is found.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use shuttle::{
    check_random,
    sync::{Arc, Condvar, Mutex},
    thread,
};

/// What is wrong.
#[derive(Clone, Copy, PartialEq)]
enum Mistake {
    /// `if` around wait: whoever wakes up believes that nobody was faster.
    IfForWhile,
    /// notify_one only when the first element comes: the second one wakes nobody.
    NotifyAtLengthOne,
    /// The last element is taken first.
    LastInFirstOut,
    /// None: the same code without a mistake passes.
    None,
}

struct Queue {
    elements: Mutex<VecDeque<u32>>,
    filled: Condvar,
    mistake: Mistake,
}

impl Queue {
    fn put(&self, element: u32) {
        let mut elements = self.elements.lock().unwrap();
        elements.push_back(element);
        if self.mistake != Mistake::NotifyAtLengthOne || elements.len() == 1 {
            self.filled.notify_one();
        }
    }

    fn take(&self) -> u32 {
        let mut elements = self.elements.lock().unwrap();
        if self.mistake == Mistake::IfForWhile {
            if elements.is_empty() {
                elements = self.filled.wait(elements).unwrap();
            }
        } else {
            while elements.is_empty() {
                elements = self.filled.wait(elements).unwrap();
            }
        }
        let element = if self.mistake == Mistake::LastInFirstOut { elements.pop_back() } else { elements.pop_front() };
        element.expect("an element after the wait")
    }
}

/// One thread puts 1 and 2, two threads take one each; and one taker alone finds both in their order. Panics under the
/// schedule that shows a mistake.
fn play(mistake: Mistake) {
    let queue = Arc::new(Queue { elements: Mutex::new(VecDeque::new()), filled: Condvar::new(), mistake });
    let takers = [(); 2].map(|()| {
        let queue = queue.clone();
        thread::spawn(move || queue.take())
    });
    let putter = {
        let queue = queue.clone();
        thread::spawn(move || [1, 2].into_iter().for_each(|number| queue.put(number)))
    };
    putter.join().unwrap();
    let mut taken = takers.map(|taker| taker.join().unwrap());
    taken.sort_unstable();
    assert_eq!(taken, [1, 2]);
    [3, 4].into_iter().for_each(|number| queue.put(number));
    assert_eq!([queue.take(), queue.take()], [3, 4]);
}

/// Whether some schedule among many ends in a panic, or in a deadlock, which shuttle reports as one.
fn is_found(mistake: Mistake) -> bool {
    catch_unwind(AssertUnwindSafe(|| check_random(move || play(mistake), 2000))).is_err()
}

#[test]
fn if_in_place_of_while_is_found() {
    assert!(is_found(Mistake::IfForWhile));
}

#[test]
fn a_notify_only_for_the_first_element_is_found() {
    assert!(is_found(Mistake::NotifyAtLengthOne));
}

#[test]
fn last_in_first_out_is_found() {
    assert!(is_found(Mistake::LastInFirstOut));
}

#[test]
fn without_a_mistake_nothing_is_found() {
    assert!(!is_found(Mistake::None));
}
