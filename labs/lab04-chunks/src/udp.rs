//! What the kernel tells about a UDP socket besides its datagrams: where they came from, and how many were dropped.

use std::{
    fs,
    io::ErrorKind,
    net::{SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::AsFd,
    time::Duration,
};

use anyhow::{Context, Result};
use kernel::wait_until;
use nix::sys::{socket::SockaddrStorage, stat::fstat};
use shared::{At, Screen};
use socket2::Socket;

/// An open socket is in the kernel's table at once; the file that shows the table may leave a row out.
const LISTED_LIMIT: Duration = Duration::from_secs(2);

/// The address recvfrom(2) wrote down.
pub fn source_addr(source: Option<SockaddrStorage>) -> Result<SocketAddr> {
    let source = source.context("recvfrom gave no address")?;
    let v4 = source.as_sockaddr_in().map(|addr| SocketAddrV4::from(*addr).into());
    v4.or_else(|| source.as_sockaddr_in6().map(|addr| SocketAddrV6::from(*addr).into())).context("not an IP address")
}

/// How many datagrams the kernel dropped for this socket, because the receive buffer was full (or a checksum was wrong):
/// the last column of /proc/net/udp, see proc_pid_net(5). The file may leave a row out while other sockets come and go,
/// so this function looks again.
pub fn drops(sock: &Socket) -> Result<u64> {
    let inode = fstat(sock.as_fd()).at("fstat", "")?.st_ino.to_string();
    wait_until("the socket in /proc/net/udp", LISTED_LIMIT, || {
        for file in ["/proc/net/udp", "/proc/net/udp6"] {
            match fs::read_to_string(file) {
                Ok(table) => {
                    if let Some(drops) = drops_of(&table, &inode) {
                        return Ok(Some(drops));
                    }
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {} // no IPv6 here
                Err(error) => return Err(error).at("open", file)?,
            }
        }
        Ok(None)
    })
}

/// sl, local, remote, st, queues, tr:when, retransmits, uid, timeout, inode, ref, pointer, drops.
fn drops_of(table: &str, inode: &str) -> Option<u64> {
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|field| field.get(9) == Some(&inode)).find_map(|field| field.get(12)?.parse().ok())
}

/// Says how many datagrams the kernel dropped for this socket, if it did: recvfrom never tells.
pub fn tell_drops(sock: &Socket, screen: &mut Screen) {
    if let Ok(drops @ 1..) = drops(sock) {
        screen.line(format_args!("The kernel dropped {drops} datagrams: the receive buffer was full"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
 3109: 0100007F:1E62 00000000:0000 07 00000000:00014C00 00:00000000 00000000     0        0 4711 2 00000000b0a3 49
";

    #[test]
    fn the_drops_are_found_by_the_inode() {
        assert_eq!(drops_of(TABLE, "4711"), Some(49));
        assert_eq!(drops_of(TABLE, "471"), None);
        assert_eq!(drops_of("", "4711"), None);
    }
}
