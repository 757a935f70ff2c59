//! The states of all ends, read from the kernel's table after a step, and compared with those before it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;

use anyhow::Result;
use kernel::{Row, State, tcp_sockets, udp_sockets};
use nix::libc;

use super::calls::{Entered, socket_inode};
use super::model::{Socket, StateChange};
use super::networks::Networks;

/// What the kernel's table said last, and what is known of each socket.
pub struct States {
    /// Only ends of sockets that the commands have or had: on this machine's network others have theirs.
    only_ours: bool,
    /// Each end's state and inode.
    ends: BTreeMap<(SocketAddr, SocketAddr), (State, u64)>,
    sockets: HashMap<u64, Socket>,
    /// Who called with it last.
    owners: HashMap<u64, u32>,
    our_ports: HashSet<u16>,
}

impl States {
    /// Nothing is known yet.
    pub fn new(only_ours: bool) -> States {
        States {
            only_ours,
            ends: BTreeMap::new(),
            sockets: HashMap::new(),
            owners: HashMap::new(),
            our_ports: HashSet::new(),
        }
    }

    /// A socket as it is known.
    pub fn socket(&self, inode: u64) -> Socket {
        self.sockets.get(&inode).cloned().unwrap_or(Socket { inode, protocol: "socket", local: None, peer: None })
    }

    /// What a call tells about a socket that the table does not: its protocol, the address it is bound to.
    pub fn learn(&mut self, socket: Socket) {
        self.our_ports.extend(socket.local.iter().map(SocketAddr::port));
        self.sockets.insert(socket.inode, socket);
    }

    /// What the end of a call tells: what kind a new socket is, where one is bound.
    pub fn learn_from(&mut self, call: &Entered, thread: i32, result: i64) {
        let fd = if result < 0 { None } else { call.fd().or(i32::try_from(result).ok()) };
        let Some(inode) = fd.and_then(|fd| socket_inode(thread, fd)) else { return };
        match call.spec.name {
            "socket" => self.learn(Socket { inode, protocol: protocol(call.args), local: None, peer: None }),
            "bind" => {
                let local = call.address(thread).filter(|addr| addr.port() != 0);
                self.learn(Socket { local, ..self.socket(inode) });
            }
            "accept" | "accept4" => {
                let protocol = self.socket(inode).protocol;
                if let Some(inode) = i32::try_from(result).ok().and_then(|fd| socket_inode(thread, fd)) {
                    self.learn(Socket { inode, protocol, local: None, peer: None });
                }
            }
            _ => {}
        }
    }

    /// Whether a packet between these two belongs to the commands.
    pub fn is_ours(&self, source: SocketAddr, destination: SocketAddr) -> bool {
        !self.only_ours || [source, destination].iter().any(|end| self.our_ports.contains(&end.port()))
    }

    /// A process has made a call on a socket.
    pub fn own(&mut self, inode: u64, process: u32) {
        self.owners.insert(inode, process);
    }

    /// The ends that are there now.
    pub fn ends(&self) -> impl Iterator<Item = (SocketAddr, SocketAddr, State)> {
        self.ends.iter().map(|((local, peer), (state, _))| (*local, *peer, *state))
    }

    /// Reads the table and tells what has changed; the ends of `first` come first.
    ///
    /// # Errors
    /// What sock_diag(7) says.
    pub fn changes(&mut self, networks: &Networks, first: Option<SocketAddr>) -> Result<Vec<StateChange>> {
        for row in networks.in_each(|| udp_sockets(0))?.concat() {
            self.see("UDP", &row);
        }
        let mut now = BTreeMap::new();
        for row in networks.in_each(|| tcp_sockets(0))?.concat() {
            self.see("TCP", &row);
            let ends = (row.pair.local, row.pair.peer);
            if self.is_ours(ends.0, ends.1) {
                // A closed socket has no inode; it had one before. Two listeners may share an address (SO_REUSEPORT).
                let before = self.ends.get(&ends).map_or(0, |(_, inode)| *inode);
                let inode = if row.inode == 0 { before } else { u64::from(row.inode) };
                now.insert(ends, (row.state, inode));
            }
        }
        let mut changes = Vec::new();
        let change = |local, peer, state, before, inode| {
            let process = self.owners.get(inode).copied();
            StateChange { local, peer, state, before, process }
        };
        for (&(local, peer), (state, inode)) in &now {
            let before = self.ends.get(&(local, peer)).map(|(state, _)| *state);
            if before != Some(*state) {
                changes.push(change(local, peer, *state, before, inode));
            }
        }
        for (&(local, peer), (state, inode)) in &self.ends {
            if !now.contains_key(&(local, peer)) {
                changes.push(change(local, peer, State::Closed, Some(*state), inode));
            }
        }
        self.ends = now;
        changes.sort_by_key(|change| (Some(change.local) != first, change.local, change.peer));
        Ok(changes)
    }

    /// On a network that others use: which ports are ours now.
    ///
    /// # Errors
    /// What sock_diag(7) says.
    pub fn learn_ports(&mut self, networks: &Networks) -> Result<()> {
        if self.only_ours {
            networks.in_each(|| udp_sockets(0))?.concat().iter().for_each(|row| self.see("UDP", row));
            networks.in_each(|| tcp_sockets(0))?.concat().iter().for_each(|row| self.see("TCP", row));
        }
        Ok(())
    }

    /// The table knows a socket's addresses; a wildcard peer is none.
    fn see(&mut self, protocol: &'static str, row: &Row) {
        let (local, peer) = (row.pair.local, row.pair.peer);
        let peer = Some(peer).filter(|peer| peer.port() != 0);
        let inode = u64::from(row.inode);
        if inode != 0 && (!self.only_ours || self.sockets.contains_key(&inode)) {
            self.learn(Socket { inode, protocol, local: Some(local), peer });
        }
    }
}

/// The protocol of a new socket.
fn protocol(args: [u64; 6]) -> &'static str {
    let kind = args[1] as i32 & 0xf;
    match (args[0] as i32, kind) {
        (libc::AF_INET | libc::AF_INET6, libc::SOCK_STREAM) if matches!(args[2] as i32, 0 | libc::IPPROTO_TCP) => "TCP",
        (libc::AF_INET | libc::AF_INET6, libc::SOCK_DGRAM) if matches!(args[2] as i32, 0 | libc::IPPROTO_UDP) => "UDP",
        (libc::AF_INET | libc::AF_INET6, libc::SOCK_RAW) => "RAW",
        (libc::AF_UNIX, _) => "UNIX",
        (libc::AF_NETLINK, _) => "NETLINK",
        (libc::AF_PACKET, _) => "PACKET",
        _ => "socket",
    }
}
