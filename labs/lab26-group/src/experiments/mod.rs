//! Claims about groups, decided over real sockets on 127.0.0.1. The members in here have the time from the experiment: nobody
//! waits for a heartbeat. Where a process has to die, the members are children of the demo.

pub mod count;
mod crash;
mod discovery;
mod order;
mod repair;
mod room;

use kernel::need::{DESCRIPTORS, LOOPBACK, PORTS};
use kernel::{Need, namespace::NAMESPACE, setting};
use shared::{Experiment, Lesson};

/// Each member joins a group.
const MEMBERSHIPS: Need = Need {
    what: "igmp_max_memberships of 1 or more",
    provided_by: "sysctl -w net.ipv4.igmp_max_memberships=20",
    met: || setting("net/ipv4/igmp_max_memberships").first().is_none_or(|most| *most >= 1),
};

/// Each membership takes some of it.
const OPTION_MEMORY: Need = Need {
    what: "optmem_max of 4096 or more",
    provided_by: "sysctl -w net.core.optmem_max=131072",
    met: || setting("net/core/optmem_max").first().is_none_or(|most| *most >= 4096),
};

pub const LESSON: Lesson = Lesson {
    lab: crate::LAB,
    setting: "all members on this machine",
    needs: &[LOOPBACK, PORTS, MEMBERSHIPS, OPTION_MEMORY, DESCRIPTORS],
    experiments: &[
        Experiment {
            id: "one-in-ten",
            starred: true,
            minutes: 6,
            claim: "A message is sent to a group and then delivered to all the members.",
            source: "notes ch.6, Group communication; the question is ours",
            needs: &[],
            play: repair::one_in_ten,
        },
        Experiment {
            id: "two-at-once",
            starred: true,
            minutes: 6,
            claim: "Group communication can guarantee an order of the messages.",
            source: "notes ch.6, Group communication; the question is ours",
            needs: &[],
            play: order::two_at_once,
        },
        Experiment {
            id: "sequencer-dies",
            starred: true,
            minutes: 7,
            claim: "One member gives all messages their order. When it dies, the group goes on without it.",
            source: "ours",
            needs: &[],
            play: crash::sequencer_dies,
        },
        Experiment {
            id: "kill-9",
            starred: false,
            minutes: 4,
            claim: "Servers have to learn of each other's presence, and that one has left.",
            source: "notes ch.6, Indirect communication; the question is ours",
            needs: &[],
            play: crash::kill_9,
        },
        Experiment {
            id: "stopped",
            starred: false,
            minutes: 4,
            claim: "A member that was declared dead is dead.",
            source: "ours",
            needs: &[],
            play: crash::stopped,
        },
        Experiment {
            id: "overtaken",
            starred: false,
            minutes: 5,
            claim: "With each sender's messages in order, an answer stands behind its question.",
            source: "ours",
            needs: &[],
            play: order::overtaken,
        },
        Experiment {
            id: "one-packet",
            starred: false,
            minutes: 3,
            claim: "A multicast is transmitted only once, however many receive it.",
            source: "notes ch.2, UDP Multicasting",
            needs: &[NAMESPACE],
            play: count::one_packet,
        },
        Experiment {
            id: "discovery",
            starred: false,
            minutes: 5,
            claim: "A client need not name its server: it can ask the group, and any server will do.",
            source: "notes ch.6, Space uncoupling",
            needs: &[],
            play: discovery::discovery,
        },
    ],
    next: &[
        ("by hand", "cargo lab26 member ann     (three terminals: ann, bob, cid)"),
        ("", "cargo lab26 find"),
        ("simulate", "cargo lab26 simulate --order total --runs 1000"),
        ("watch", "scripts/groups.sh 239.26.26.26"),
        ("sheet", "cargo lab26 sheet"),
    ],
};
