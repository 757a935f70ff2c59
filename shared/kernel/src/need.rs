//! What an experiment asks of this machine before it runs: interfaces, ports, settings.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, getsockopt, socket, sockopt::IpMtu};

/// What an experiment needs of this machine, beyond Linux 5.10.
#[derive(Clone, Copy)]
pub struct Need {
    /// What it is, as in "needs ...".
    pub what: &'static str,
    /// The command or setting that provides it.
    pub provided_by: &'static str,
    /// Whether this machine has it.
    pub met: fn() -> bool,
}

/// The numbers of a setting below /proc/sys, such as `net/ipv4/tcp_rmem`; empty where the kernel has no such setting.
pub fn setting(name: &str) -> Vec<u64> {
    let text = fs::read_to_string(format!("/proc/sys/{name}")).unwrap_or_default();
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// Every lab: 127.0.0.1 answers.
pub const LOOPBACK: Need = Need {
    what: "the loopback interface with 127.0.0.1, up",
    provided_by: "ip addr add 127.0.0.1/8 dev lo; ip link set lo up",
    met: || loopback_network().is_some(),
};

/// For an experiment with 127.0.0.2 and others.
pub const LOOPBACK_NETWORK: Need = Need {
    what: "all of 127.0.0.0/8 on the loopback interface",
    provided_by: "ip addr add 127.0.0.1/8 dev lo",
    met: || loopback_network().is_some_and(|mask| mask.is_some_and(|mask| mask.octets() == [255, 0, 0, 0])),
};

/// For an experiment in which a large datagram or segment must not be cut.
pub const LOOPBACK_MTU: Need = Need {
    what: "an MTU of 65536 on the loopback interface",
    provided_by: "ip link set lo mtu 65536",
    met: || loopback_mtu().is_some_and(|mtu| mtu >= 65535), // no IPv4 packet is longer: IP_MTU shows no more
};

/// Every lab: enough ports for the kernel to choose from.
pub const PORTS: Need = Need {
    what: "500 ports for the kernel to choose from",
    provided_by: "sysctl -w net.ipv4.ip_local_port_range='32768 60999' net.ipv4.ip_local_reserved_ports=''",
    met: || free_ports() >= 500,
};

/// Every lab: room for its sockets and its children's pipes.
pub const DESCRIPTORS: Need =
    Need { what: "64 descriptors a process", provided_by: "ulimit -n 1024", met: || descriptor_limit() >= 64 };

/// TCP buffers as Linux sets them up: as received (87380 or more) and as sent (16384), growing to 1 MB and more.
pub const BUFFERS: Need = Need {
    what: "TCP buffers that start and grow as usual",
    provided_by: "sysctl -w net.ipv4.tcp_rmem='4096 131072 6291456' net.ipv4.tcp_wmem='4096 16384 4194304'",
    met: || {
        let [receive, send] = ["net/ipv4/tcp_rmem", "net/ipv4/tcp_wmem"].map(setting);
        let usual = |buffer: &[u64], start| matches!(buffer, [_, first, most] if *first >= start && *most >= 1 << 20);
        usual(&receive, 65536) && usual(&send, 16384)
    },
};

/// Room for connections in TIME-WAIT. Where there is none, the kernel closes them at once; a program that opens thousands
/// of connections a second uses it up for everybody.
pub const TIME_WAIT_BUCKETS: Need = Need {
    what: "room for 1000 more connections in TIME-WAIT",
    provided_by: "sysctl -w net.ipv4.tcp_max_tw_buckets=262144; what fills it leaves after 60 s",
    met: || setting("net/ipv4/tcp_max_tw_buckets").first().is_none_or(|most| *most >= in_time_wait() + 1000),
};

/// How many connections are in TIME-WAIT now; sockstat counts them as the kernel does.
fn in_time_wait() -> u64 {
    let text = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let mut words = text.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default().split_whitespace();
    words.find(|word| *word == "tw").and_then(|_| words.next()?.parse().ok()).unwrap_or(0)
}

/// A backlog as a program asks for it: the kernel cuts what is over somaxconn.
pub const BACKLOGS: Need = Need {
    what: "net.core.somaxconn of 128 or more",
    provided_by: "sysctl -w net.core.somaxconn=4096",
    met: || setting("net/core/somaxconn").first().is_none_or(|most| *most >= 128),
};

/// SYN cookies only when a queue is full, not always (2) and not never (0).
pub const SYN_COOKIES: Need = Need {
    what: "net.ipv4.tcp_syncookies=1",
    provided_by: "sysctl -w net.ipv4.tcp_syncookies=1",
    met: || setting("net/ipv4/tcp_syncookies").first().is_none_or(|mode| *mode == 1),
};

/// For an experiment that cuts a connection with IP_MINTTL: not every packet may arrive with the largest TTL there is.
pub const SMALL_TTL: Need = Need {
    what: "net.ipv4.ip_default_ttl below 255",
    provided_by: "sysctl -w net.ipv4.ip_default_ttl=64",
    met: || setting("net/ipv4/ip_default_ttl").first().is_none_or(|ttl| *ttl < 255),
};

/// The mask of 127.0.0.1 on an interface that is up; `Some(None)` where it has none.
fn loopback_network() -> Option<Option<Ipv4Addr>> {
    let ip = |addr: Option<nix::sys::socket::SockaddrStorage>| Some(addr?.as_sockaddr_in()?.ip());
    getifaddrs().ok()?.find_map(|interface| {
        let up = interface.flags.contains(InterfaceFlags::IFF_UP | InterfaceFlags::IFF_LOOPBACK);
        (up && ip(interface.address) == Some(Ipv4Addr::LOCALHOST)).then(|| ip(interface.netmask))
    })
}

/// The largest packet to 127.0.0.1, asked of a socket of our own: ip(7), IP_MTU.
fn loopback_mtu() -> Option<i32> {
    let sock = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).ok()?;
    let discard = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9));
    connect(sock.as_raw_fd(), &discard).ok()?;
    getsockopt(&sock, IpMtu).ok()
}

/// How many descriptors this process may have, see getrlimit(2).
fn descriptor_limit() -> u64 {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let row = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    row.and_then(|row| row.split_whitespace().next()?.parse().ok()).unwrap_or(u64::MAX) // or "unlimited"
}

/// The ports in ip_local_port_range that are not reserved.
fn free_ports() -> usize {
    let [first, last] = setting("net/ipv4/ip_local_port_range")[..] else { return usize::MAX };
    let reserved = fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports").unwrap_or_default();
    let reserved: Vec<(u64, u64)> = reserved
        .trim()
        .split(',')
        .filter_map(|range| {
            let (from, to) = range.split_once('-').unwrap_or((range, range));
            Some((from.parse().ok()?, to.parse().ok()?))
        })
        .collect();
    (first..=last).filter(|port| !reserved.iter().any(|(from, to)| (from..=to).contains(&port))).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_its_numbers() {
        assert_eq!(setting("net/ipv4/tcp_rmem").len(), 3);
        assert_eq!(setting("net/ipv4/no_such_setting"), []);
    }

    #[test]
    fn the_largest_packet_on_lo_is_known() {
        assert!(loopback_mtu().is_some_and(|mtu| mtu >= 68));
    }
}
