//! Packets on their way over lo: captured with a packet socket, as tcpdump(8) does.
//!
//! packet(7) needs CAP_NET_RAW. A demo of an ordinary account has it in a private network, so it captures in a child.

use std::ffi::OsStr;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::str::FromStr;

use anyhow::{Context, Error, Result};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{MsgFlags, recv};
use socket2::{Domain, Protocol, Socket, Type};

use crate::namespace::{self, NAMESPACE};
use crate::{Need, Pair};

/// Packets taken at one look.
const MOST: usize = 10_000;

/// For an experiment that runs a part of itself by [`command`].
pub const CAPTURE: Need = Need {
    what: "a private user and network namespace (unshare -Urn, ip), or CAP_NET_RAW",
    provided_by: NAMESPACE.provided_by,
    met: || (NAMESPACE.met)() || Capture::start().is_ok(),
};

/// A command that runs `program` where it may capture: in a private network, else here.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    if (NAMESPACE.met)() {
        return namespace::command(program);
    }
    let mut here = Command::new(program);
    here.stderr(Stdio::null());
    here
}

/// One IPv4 packet between the two ends of a pair.
#[derive(Clone, Debug, PartialEq)]
pub struct Packet {
    /// Whether the pair's local end sent it.
    pub from_local: bool,
    /// Its bytes, from the IP header on.
    pub bytes: Vec<u8>,
}

impl Packet {
    /// The IP header, and behind it the segment or datagram; `None` for a packet that is cut.
    pub fn split(&self) -> Option<(&[u8], &[u8])> {
        self.bytes.split_at_checked(usize::from(self.bytes.first()? & 0xf) * 4).filter(|(header, _)| header.len() >= 20)
    }

    /// Who sent it to whom, if it has ports; in the order of [`Pair`].
    fn ends(&self) -> Option<Pair> {
        let (header, behind) = self.split()?;
        let ip = |at| Some(Ipv4Addr::from(<[u8; 4]>::try_from(header.get(at..at + 4)?).ok()?));
        let port = |at| Some(u16::from_be_bytes(behind.get(at..at + 2)?.try_into().ok()?));
        Some(Pair { local: SocketAddr::from((ip(12)?, port(0)?)), peer: SocketAddr::from((ip(16)?, port(2)?)) })
    }
}

/// From a child to its parent: the direction, and the bytes in hexadecimal.
impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.from_local { "> " } else { "< " })?;
        self.bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Packet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Packet> {
        let (direction, hex) = text.split_once(' ').context("no direction")?;
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair)?, 16).context("not hexadecimal");
        let bytes = hex.trim_end().as_bytes().chunks(2).map(byte).collect::<Result<_>>()?;
        Ok(Packet { from_local: direction == ">", bytes })
    }
}

/// A packet socket: every IPv4 packet that arrives is queued there, until its buffer is full.
pub struct Capture(Socket);

impl Capture {
    /// Captures from now on.
    ///
    /// # Errors
    /// EPERM without CAP_NET_RAW.
    pub fn start() -> Result<Capture> {
        let protocol = Protocol::from(i32::from((libc::ETH_P_IP as u16).to_be()));
        let sock =
            Socket::new(Domain::from(libc::AF_PACKET), Type::DGRAM, Some(protocol)).context("socket AF_PACKET")?;
        Ok(Capture(sock))
    }

    /// What has passed between the two ends since the last look, in order and without waiting; all else is thrown away.
    /// Of a flood it takes only so many.
    ///
    /// # Errors
    /// What recv(2) says.
    pub fn packets(&self, pair: Pair) -> Result<Vec<Packet>> {
        let (mut buffer, mut packets) = (vec![0; 65536], Vec::new());
        for _ in 0..MOST {
            let bytes = match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EAGAIN) => return Ok(packets),
                received => buffer[..received.context("recv AF_PACKET")?].to_vec(),
            };
            let mut packet = Packet { from_local: true, bytes };
            let ends = packet.ends();
            packet.from_local = ends == Some(pair);
            if packet.from_local || ends == Some(pair.other_end()) {
                packets.push(packet);
            }
        }
        Ok(packets)
    }
}

/// The Internet checksum's sum (RFC 1071): 16-bit words; a carry comes back in at the other end. Not yet complemented.
pub fn sum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let sum: u32 = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    ((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Captured on lo: 127.0.0.1:7777 to 127.0.0.1:7778, "Hello world!" in a datagram.
    const PACKET: &str = "> 45000028000040004011 3cc3 7f0000017f000001 1e61 1e62 0014 fe27 48656c6c6f20776f726c6421";

    #[test]
    fn a_packet_passes_from_child_to_parent_and_knows_its_ends() {
        let packet: Packet = PACKET.replacen(' ', "_", 1).replace(' ', "").replace('_', " ").parse().unwrap();
        assert_eq!(packet.to_string().parse::<Packet>().unwrap(), packet);
        let pair = packet.ends().unwrap();
        assert_eq!((pair.local.to_string().as_str(), pair.peer.port()), ("127.0.0.1:7777", 7778));
        let cut = Packet { from_local: true, bytes: packet.bytes[..19].to_vec() };
        assert!(cut.split().is_none() && cut.ends().is_none() && "45".parse::<Packet>().is_err());
    }

    #[test]
    fn a_carry_comes_back_and_an_odd_byte_counts_as_the_high_one() {
        assert_eq!(sum(&[&[0xff, 0xff], &[0x00, 0x01]]), 1);
        assert_eq!(sum(&[&[0x01]]), 0x0100);
        let pseudo_header = [127, 0, 0, 1, 127, 0, 0, 1, 0, 17, 0, 20];
        assert_eq!(sum(&[&pseudo_header]), 0xfe27);
        assert_eq!(!sum(&[&pseudo_header, &[0x1e, 0x61, 0x1e, 0x62, 0, 20, 0, 0], b"Hello world!"]), 0x5311);
    }
}
