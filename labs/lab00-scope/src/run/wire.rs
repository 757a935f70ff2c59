//! The wire: a packet socket sees every packet twice, as it is sent and as it arrives. It is counted once.
//!
//! A program may open its sockets in other network namespaces: two hosts with a cable. Each gets a packet socket.

use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, getsockopt, recvmsg,
    setsockopt, socket, sockopt,
};
use nix::{cmsg_space, getsockopt_impl, sockopt_impl};

use super::softirq::Softirqs;

sockopt_impl!(
    /// Packets seen and packets dropped since the last look: packet(7).
    Statistics, GetOnly, libc::SOL_PACKET, libc::PACKET_STATISTICS, libc::tpacket_stats
);

/// What the kernel may keep for us while we do not look; the commands stand still when we do.
const BUFFER: usize = 32 << 20;
/// The largest packet on lo is 65536 bytes, and more with IPv6.
const LARGEST: usize = 256 << 10;
/// What was sent arrives at once, unless something on the way drops it.
const ARRIVAL_LIMIT: Duration = Duration::from_millis(50);
/// No look takes longer, however much is sent.
const TAKE_LIMIT: Duration = Duration::from_secs(1);
/// sll_pkttype of what this machine sends.
const PACKET_OUTGOING: u8 = 4;

/// A packet as it was seen.
pub struct Packet {
    /// From the IP header on.
    pub bytes: Vec<u8>,
    /// The kernel's time stamp.
    pub taken_at: SystemTime,
    /// Whether it arrived.
    pub arrived: bool,
}

/// A capture of everything on the networks in which the commands have sockets.
pub struct Wire {
    taps: Vec<OwnedFd>,
    buffer: Vec<u8>,
    softirqs: Softirqs,
    /// Sent, in order; those that were handed on are gone.
    sent: VecDeque<Packet>,
}

impl Wire {
    /// The packet socket: every protocol, so that it sees what is sent, too.
    ///
    /// # Errors
    /// EPERM without CAP_NET_RAW.
    pub fn tap() -> Result<OwnedFd> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let tap = socket(AddressFamily::Packet, SockType::Datagram, flags, SockProtocol::EthAll)
            .context("socket AF_PACKET")?;
        if setsockopt(&tap, sockopt::RcvBufForce, &BUFFER).is_err() {
            setsockopt(&tap, sockopt::RcvBuf, &BUFFER).context("setsockopt SO_RCVBUF")?;
        }
        setsockopt(&tap, sockopt::ReceiveTimestampns, &true).context("setsockopt SO_TIMESTAMPNS")?;
        Ok(tap)
    }

    /// Captures from now on.
    ///
    /// # Errors
    /// As [`Wire::tap`].
    pub fn start() -> Result<Wire> {
        let taps = vec![Wire::tap()?];
        Ok(Wire { taps, buffer: vec![0; LARGEST], softirqs: Softirqs::find(), sent: VecDeque::new() })
    }

    /// Captures on another network, too: `tap` was opened there.
    pub fn add(&mut self, tap: OwnedFd) {
        self.taps.push(tap);
    }

    /// What was sent since the last look, in order, once it has arrived or is lost.
    ///
    /// # Errors
    /// What recvmsg(2) says.
    pub fn take(&mut self) -> Result<Vec<Packet>> {
        let began = Instant::now();
        loop {
            let pending = self.softirqs.pending(); // asked first: what was handed on before is read now
            self.read()?;
            // Each packet has its own time to arrive: the last one may have been sent just now.
            let is_old = |packet: &Packet| packet.taken_at.elapsed().is_ok_and(|age| age >= ARRIVAL_LIMIT);
            let settled = self.sent.iter().all(|packet| packet.arrived || is_old(packet));
            let waited = began.elapsed();
            if settled && (!pending || waited >= ARRIVAL_LIMIT) || waited >= TAKE_LIMIT {
                return Ok(self.sent.drain(..).collect());
            }
            std::thread::sleep(Duration::from_micros(200)); // bounded by the limit above
        }
    }

    /// To wait for the next packet.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.taps.iter().map(AsFd::as_fd)
    }

    /// Whether the kernel has handed on all there is.
    pub fn is_still(&self) -> bool {
        !self.softirqs.pending()
    }

    /// How many packets the kernel could not keep since the last call.
    ///
    /// # Errors
    /// What getsockopt(2) says.
    pub fn lost(&self) -> Result<u64> {
        let mut lost = 0;
        for tap in &self.taps {
            // The kernel counts from zero again after each look.
            lost += u64::from(getsockopt(tap, Statistics).context("getsockopt PACKET_STATISTICS")?.tp_drops);
        }
        Ok(lost)
    }

    fn read(&mut self) -> Result<()> {
        let mut copies = Vec::new();
        for tap in 0..self.taps.len() {
            while let Some(copy) = self.receive(tap)? {
                copies.push(copy);
            }
        }
        if self.taps.len() > 1 {
            copies.sort_by_key(|(packet, _)| packet.taken_at); // what is sent here arrives there
        }
        for (packet, outgoing) in copies {
            if outgoing {
                self.sent.push_back(packet);
                continue;
            }
            let same = |sent: &&mut Packet| !sent.arrived && sent.bytes == packet.bytes;
            match self.sent.iter_mut().find(same) {
                Some(sent) => sent.arrived = true,
                None => self.sent.push_back(Packet { arrived: true, ..packet }), // the machine's own copy of a multicast
            }
        }
        Ok(())
    }

    /// The next copy, and whether it is the one that was sent.
    fn receive(&mut self, tap: usize) -> Result<Option<(Packet, bool)>> {
        loop {
            let mut control = cmsg_space!(libc::timespec);
            let mut parts = [IoSliceMut::new(&mut self.buffer)];
            let received =
                recvmsg::<LinkAddr>(self.taps[tap].as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT);
            let message = match received {
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR | Errno::ENETDOWN) => continue,
                message => message.context("recvmsg AF_PACKET")?,
            };
            let from = message.address.context("a packet without a link address")?;
            let mut taken_at = SystemTime::now();
            for control in message.cmsgs().context("control messages of a packet")? {
                if let ControlMessageOwned::ScmTimestampns(time) = control {
                    taken_at = SystemTime::UNIX_EPOCH + Duration::from(time);
                }
            }
            let length = message.bytes;
            if matches!(i32::from(u16::from_be(from.protocol())), libc::ETH_P_IP | libc::ETH_P_IPV6) {
                let bytes = self.buffer[..length].to_vec();
                return Ok(Some((Packet { bytes, taken_at, arrived: false }, from.pkttype() == PACKET_OUTGOING)));
            }
        }
    }
}
