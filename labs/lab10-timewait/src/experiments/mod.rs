//! What the sources say about the minute after the close, decided by the kernel.

mod again;
mod ends;
mod minute;
mod ports;

use kernel::namespace::NAMESPACE;
use kernel::need::{DESCRIPTORS, LOOPBACK, PORTS, TIME_WAIT_BUCKETS};
use shared::{Experiment, Lesson};

pub const LESSON: Lesson = Lesson {
    lab: crate::LAB,
    setting: "both ends are on this machine",
    needs: &[LOOPBACK, PORTS, TIME_WAIT_BUCKETS, DESCRIPTORS],
    experiments: &[
        Experiment {
            id: "closes-first",
            starred: true,
            minutes: 5,
            claim: "When a connection has been closed, an end of it still waits for some time, in TIME-WAIT.",
            source: "notes ch.2, TCP socket, states; the question is ours",
            needs: &[],
            play: ends::closes_first,
        },
        Experiment {
            id: "still-connected",
            starred: true,
            minutes: 5,
            claim: "If the server cannot bind when it is started again, its port is in TIME-WAIT: wait for some time.",
            source: "lab 7 handout, note at the top",
            needs: &[],
            play: again::still_connected,
        },
        Experiment {
            id: "pairs",
            starred: true,
            minutes: 5,
            claim: "Each connection takes a port, and there are only 2^16: with many connections they run out.",
            source: "notes, Long-lived and short-lived connections",
            needs: &[ports::PORT_RANGE],
            play: ports::pairs,
        },
        Experiment {
            id: "both-at-once",
            starred: false,
            minutes: 4,
            claim: "The end that closes first is left in TIME-WAIT.",
            source: "ours",
            needs: &[],
            play: ends::both_at_once,
        },
        Experiment {
            id: "how-long",
            starred: false,
            minutes: 3,
            claim: "TIME-WAIT is over after some time, and then the program starts without the error.",
            source: "lab 7 handout, note at the top; the question is ours",
            needs: &[],
            play: minute::how_long,
        },
        Experiment {
            id: "fin-timeout",
            starred: false,
            minutes: 4,
            claim: "A smaller tcp_fin_timeout ends TIME-WAIT sooner.",
            source: "ours",
            needs: &[NAMESPACE],
            play: minute::fin_timeout,
        },
        Experiment {
            id: "at-the-server",
            starred: false,
            minutes: 3,
            claim: "A pair of addresses cannot be used again while the server's end is in TIME-WAIT.",
            source: "ours",
            needs: &[],
            play: ports::at_the_server,
        },
        Experiment {
            id: "tw-reuse",
            starred: false,
            minutes: 4,
            claim: "A pair of addresses cannot be used again while the client's end is in TIME-WAIT.",
            source: "ours",
            needs: &[ports::PORT_RANGE, ports::REUSE],
            play: ports::tw_reuse,
        },
    ],
    next: &[
        ("by hand", "cargo lab10 server --close-first"),
        ("", "cargo lab10 client"),
        ("", "cargo lab10 countdown 7777"),
        ("watch", "scripts/timewait.sh 7777 --watch"),
        ("sheet", "cargo lab10 sheet"),
    ],
};
