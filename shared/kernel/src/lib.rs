//! What asks the kernel: the instruments with which the labs see what their calls have done.
//!
//! - [`table`]: the socket table, by sock_diag(7), as ss reads it
//! - [`counters`]: /proc/net/netstat and /proc/net/snmp, before and after
//! - [`capture`]: packets as they pass lo
//! - [`tcp_info`]: what a socket says of itself, also where it is in no table
//! - [`options`]: socket options that nix lacks
//! - [`need`]: settings and interfaces that an experiment asks for before it runs
//! - [`namespace`]: a private network, for an ordinary account too
//! - [`hosts`]: two hosts with a cable between them, made of two such networks
//! - [`window`]: a filled window, seen as full
//! - [`wait`]: waiting for a condition, with a limit that being stopped does not use up
//!
//! The rule of this crate: an instrument looks at a lab's socket and never changes it. Delete the crate, and every
//! socket call of the course still stands in the labs.

#[cfg(not(target_os = "linux"))]
compile_error!("These labs are about the Linux kernel: build on Linux 5.10 or newer. WSL2 and virtual machines count.");

#[cfg(target_os = "linux")]
pub mod capture;
#[cfg(target_os = "linux")]
pub mod counters;
#[cfg(target_os = "linux")]
pub mod hosts;
#[cfg(target_os = "linux")]
pub mod namespace;
#[cfg(target_os = "linux")]
pub mod need;
#[cfg(target_os = "linux")]
pub mod options;
#[cfg(target_os = "linux")]
pub mod table;
#[cfg(target_os = "linux")]
pub mod tcp_info;
#[cfg(target_os = "linux")]
pub mod wait;
#[cfg(target_os = "linux")]
pub mod window;

#[cfg(target_os = "linux")]
pub use self::{
    capture::{Capture, Packet},
    counters::Counters,
    need::{Need, setting},
    table::{Pair, Row, State, tcp_socket, tcp_sockets, udp_sockets, wait_for_state},
    wait::{NotSeen, Patience, wait_until},
};

/// The version of the running kernel, such as `6.18.5-generic`.
#[cfg(target_os = "linux")]
pub fn version() -> String {
    let name = nix::sys::utsname::uname();
    name.map_or("of unknown version".into(), |name| name.release().to_string_lossy().into_owned())
}
