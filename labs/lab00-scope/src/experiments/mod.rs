//! The claims, decided by the kernel.

mod first;

use kernel::need::{LOOPBACK, PORTS};
use shared::{Experiment, Lesson};

pub const LESSON: Lesson = Lesson {
    lab: crate::LAB,
    setting: "both ends run in this one process",
    needs: &[LOOPBACK, PORTS],
    experiments: &[Experiment {
        id: "two-waiting",
        starred: true,
        minutes: 5,
        claim: "recv returns all the bytes that have arrived.",
        source: "ours: say here who says so, and where",
        needs: &[],
        play: first::two_waiting,
    }],
    next: &[
        ("by hand", "cargo lab00 receive"),
        ("watch", "scripts/states.sh 7778 --watch"),
        ("sheet", "cargo lab00 sheet"),
    ],
};
