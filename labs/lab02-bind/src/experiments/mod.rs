//! The lecture's claims and questions about bind, decided by the kernel.

mod addresses;
mod bound_only;
mod ports;
mod sharing;
mod tables;

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result};
use kernel::{
    Need,
    need::{DESCRIPTORS, LOOPBACK, LOOPBACK_NETWORK, PORTS},
    setting,
};
use nix::unistd::geteuid;
use shared::{At, Experiment, Lesson};
use socket2::Socket;

/// How long an answer may take; far more than loopback needs.
const LIMIT: Duration = Duration::from_secs(5);
/// 127.0.0.1, and a port of the kernel's choice.
const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

const PRIVILEGED_PORTS: Need = Need {
    what: "privileged ports",
    provided_by: "as root: sysctl net.ipv4.ip_unprivileged_port_start=1024",
    met: || ports::unprivileged_port_start().is_ok_and(|start| start > 1),
};

const ORDINARY_ACCOUNT: Need = Need {
    what: "an account without CAP_NET_BIND_SERVICE that may run this program",
    provided_by: "play it as an ordinary account: cargo lab02 demo below-1024",
    met: || (geteuid().is_root() || !ports::may_bind_all_ports()) && ports::runs_as_ordinary_account(),
};

const OWN_ADDRESSES_ONLY: Need = Need {
    what: "a kernel that lets a socket bind only this machine's addresses",
    provided_by: "as root: sysctl net.ipv4.ip_nonlocal_bind=0",
    met: || setting("net/ipv4/ip_nonlocal_bind") == [0],
};

const NOT_192_0_2_1: Need = Need {
    what: "a machine without the address 192.0.2.1, which is for documentation only",
    provided_by: "see its addresses: ip addr",
    met: || !addresses::is_ours(addresses::NOT_OURS),
};

pub const LESSON: Lesson = Lesson {
    lab: crate::LAB,
    setting: "all sockets are on this machine",
    needs: &[LOOPBACK, PORTS, DESCRIPTORS],
    experiments: &[
        Experiment {
            id: "in-the-table",
            starred: true,
            minutes: 5,
            claim: "netstat shows a bound UDP socket. In the same way it shows that a bound TCP socket is registered with \
                    127.0.0.1:7777.",
            source: "notes ch.2, Binding socket (UDP and TCP)",
            needs: &[],
            play: tables::in_the_table,
        },
        Experiment {
            id: "any-address",
            starred: true,
            minutes: 6,
            claim: "A socket on 127.0.0.1 is limited to this machine. How do we bind to all interfaces without naming all \
                    addresses?",
            source: "notes ch.2, Binding socket, questions 2 and 3",
            needs: &[LOOPBACK_NETWORK],
            play: addresses::any_address,
        },
        Experiment {
            id: "implicit-bind",
            starred: true,
            minutes: 5,
            claim: "sendto on an unbound socket binds it to 0.0.0.0; the source of a datagram is the address to which its \
                    socket is bound.",
            source: "notes ch.2, Sending a message inside UDP packet",
            needs: &[],
            play: addresses::implicit_bind,
        },
        Experiment {
            id: "port-zero",
            starred: false,
            minutes: 3,
            claim: "What happens if we bind port 0 in place of 7777? Port 0 means the first unused port.",
            source: "notes ch.2, Binding socket, question 1; Sending a message",
            needs: &[],
            play: ports::port_zero,
        },
        Experiment {
            id: "below-1024",
            starred: false,
            minutes: 3,
            claim: "Can a socket be bound to a port below 1024? Try 1023.",
            source: "notes ch.2, Binding socket, question 4",
            needs: &[PRIVILEGED_PORTS, ORDINARY_ACCOUNT],
            play: ports::below_1024,
        },
        Experiment {
            id: "taken-port",
            starred: false,
            minutes: 6,
            claim: "The UDP socket and the TCP socket of the lecture both have port 7777.",
            source: "notes ch.2, Binding socket (UDP and TCP); the question is ours",
            needs: &[],
            play: sharing::taken_port,
        },
        Experiment {
            id: "foreign-address",
            starred: false,
            minutes: 4,
            claim: "Binding gives a socket its address, as one declares a new mailbox to the post.",
            source: "notes ch.2, Binding socket, definition 9; the question is ours",
            needs: &[OWN_ADDRESSES_ONLY, NOT_192_0_2_1, LOOPBACK_NETWORK],
            play: addresses::foreign_address,
        },
        Experiment {
            id: "octal",
            starred: false,
            minutes: 3,
            claim: "An IPv4 address is composed of four octal values, such as 10.10.10.6.",
            source: "notes ch.2, Address family control",
            needs: &[LOOPBACK_NETWORK],
            play: addresses::octal,
        },
    ],
    next: &[
        ("by hand", "cargo lab02 hold                 (in two terminals)"),
        ("", "cargo lab02 hold --type stream   (is it in the table?)"),
        ("watch", "scripts/states.sh 7777 --watch"),
        ("sheet", "cargo lab02 sheet"),
    ],
};

fn local_addr(sock: &Socket) -> Result<SocketAddr> {
    sock.local_addr().at("getsockname", "")?.as_socket().context("not an IP socket")
}
