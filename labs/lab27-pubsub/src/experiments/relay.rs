//! A middle man between one client and the broker. It cuts the connection once, in the middle; the next one it leaves alone.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    thread::{JoinHandle, spawn},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use kernel::Patience;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv, send},
};
use rumqttc::QoS;
use shared::At;
use socket2::{Domain, Socket, Type};

use super::{accepted, bound};

/// Packet types: MQTT 3.1.1, 2.2.1.
const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;
const PUBREC: u8 = 5;
/// How long it waits for the next bytes.
const LIMIT: Duration = Duration::from_secs(20);

/// The middle man; a thread of its own.
pub struct Relay {
    pub addr: SocketAddr,
    thread: JoinHandle<Result<()>>,
}

impl Relay {
    /// QoS 0: `pass` messages go to the broker, the next `held` go nowhere, then comes the cut. QoS 1 and 2: all messages
    /// go to the broker; `pass` of its answers go back, the next `held` go nowhere, then comes the cut.
    pub fn start(broker_addr: SocketAddr, qos: QoS, pass: usize, held: usize) -> Result<Relay> {
        let (listen_sock, addr) = bound()?;
        listen_sock.listen(5).at("listen", addr)?;
        let thread = spawn(move || {
            let was_cut = cut(&listen_sock, broker_addr, qos, pass, held)?;
            // The client may have had enough of it.
            if was_cut && super::waits(&listen_sock, LIMIT)? { forward(&listen_sock, broker_addr) } else { Ok(()) }
        });
        Ok(Relay { addr, thread })
    }

    /// What went wrong in it, once both connections are over.
    pub fn end(self) -> Result<()> {
        self.thread.join().map_err(|_| anyhow!("the relay ended badly"))?.context("the relay")
    }
}

/// The first connection, up to its cut; false if the client ends it before.
fn cut(listen_sock: &Socket, broker_addr: SocketAddr, qos: QoS, pass: usize, held: usize) -> Result<bool> {
    let client_sock = accepted(listen_sock)?;
    let broker_sock = connected(broker_addr)?;
    let (mut from_client, mut from_broker) = (Vec::new(), Vec::new());
    let (mut passed, mut kept) = (0, 0);
    while kept < held {
        let [client, broker] = readable([&client_sock, &broker_sock])?;
        if client {
            if !receive(&client_sock, &mut from_client)? {
                return Ok(false);
            }
            while let Some(packet) = first_packet(&mut from_client)? {
                if packet[0] >> 4 == PUBLISH && qos == QoS::AtMostOnce {
                    if passed >= pass {
                        kept += 1;
                        continue; // it never arrives
                    }
                    passed += 1;
                }
                send_all(&broker_sock, &packet)?;
            }
        }
        if broker {
            let more = receive(&broker_sock, &mut from_broker)?;
            while let Some(packet) = first_packet(&mut from_broker)? {
                if matches!(packet[0] >> 4, PUBACK | PUBREC) {
                    if passed >= pass {
                        kept += 1;
                        continue; // the broker has answered, and the client will not know
                    }
                    passed += 1;
                }
                send_all(&client_sock, &packet)?;
            }
            if !more {
                return Ok(false); // as after DISCONNECT
            }
        }
    }
    // First the broker learns of it, so that it knows of no old connection when the client comes again.
    let _ = broker_sock.shutdown(std::net::Shutdown::Write); // ENOTCONN: it was faster
    while receive(&broker_sock, &mut from_broker).is_ok_and(|more| more) {}
    Ok(true)
}

/// The second connection: every byte goes its way, until either end closes.
fn forward(listen_sock: &Socket, broker_addr: SocketAddr) -> Result<()> {
    let client_sock = accepted(listen_sock)?;
    let broker_sock = connected(broker_addr)?;
    let mut bytes = Vec::new();
    loop {
        let [client, broker] = readable([&client_sock, &broker_sock])?;
        for (ready, from, to) in [(client, &client_sock, &broker_sock), (broker, &broker_sock, &client_sock)] {
            if ready && !receive(from, &mut bytes)? {
                return Ok(());
            }
            send_all(to, &bytes)?;
            bytes.clear();
        }
    }
}

/// Takes the first packet out of the bytes that came, if it is whole: MQTT 3.1.1, 2.2. One byte of type and flags; the
/// length of the rest, seven bits a byte, at most four bytes; the rest.
pub fn first_packet(bytes: &mut Vec<u8>) -> Result<Option<Vec<u8>>> {
    let mut length = 0;
    for at in 1..=4 {
        let Some(byte) = bytes.get(at) else { return Ok(None) };
        length |= usize::from(byte & 0x7f) << (7 * (at - 1));
        if byte & 0x80 == 0 {
            let whole = 1 + at + length;
            return Ok((bytes.len() >= whole).then(|| bytes.drain(..whole).collect()));
        }
    }
    bail!("a length of more than four bytes: this is not MQTT")
}

fn connected(broker_addr: SocketAddr) -> Result<Socket> {
    let broker_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", broker_addr)?;
    broker_sock.connect(&broker_addr.into()).at("connect", broker_addr)?;
    Ok(broker_sock)
}

/// Waits until one of the two has bytes, or its end.
fn readable(socks: [&Socket; 2]) -> Result<[bool; 2]> {
    let mut patience = Patience::new(LIMIT);
    while !patience.is_over() {
        let mut fds = socks.map(|sock| PollFd::new(sock.as_fd(), PollFlags::POLLIN));
        match poll(&mut fds, PollTimeout::try_from(patience.step())?) {
            Ok(0) | Err(Errno::EINTR) => {}
            ready => return ready.at("poll", "").map(|_| fds.map(|fd| fd.any() == Some(true))).map_err(Into::into),
        }
    }
    bail!("not seen within {LIMIT:?}: more bytes")
}

/// Appends what has come; false at the end of the stream.
fn receive(sock: &Socket, bytes: &mut Vec<u8>) -> Result<bool> {
    let mut buffer = [0; 65536];
    loop {
        match recv(sock.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Err(Errno::EINTR) => {}
            Err(Errno::ECONNRESET) | Ok(0) => return Ok(false),
            bytes_read => {
                bytes.extend(&buffer[..bytes_read.at("recv", "")?]);
                return Ok(true);
            }
        }
    }
}

fn send_all(sock: &Socket, bytes: &[u8]) -> Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match send(sock.as_raw_fd(), rest, MsgFlags::MSG_NOSIGNAL) {
            Err(Errno::EINTR) => {}
            bytes_sent => rest = &rest[bytes_sent.at("send", "")?..],
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::first_packet;

    /// A packet with so many bytes behind its length.
    fn packet(kind: u8, rest: &[u8]) -> Vec<u8> {
        let (mut packet, mut length) = (vec![kind], rest.len());
        loop {
            let more = if length > 0x7f { 0x80 } else { 0 };
            packet.push((length & 0x7f) as u8 | more);
            length >>= 7;
            if length == 0 {
                packet.extend(rest);
                return packet;
            }
        }
    }

    proptest! {
        #[test]
        fn packets_come_out_as_they_went_in_wherever_the_stream_is_cut(
            packets in vec((any::<u8>(), vec(any::<u8>(), 0..300)), 1..20),
            piece in 1..70_usize,
        ) {
            let sent: Vec<Vec<u8>> = packets.iter().map(|(kind, rest)| packet(*kind, rest)).collect();
            let (mut came, mut out) = (Vec::new(), Vec::new());
            for bytes in sent.concat().chunks(piece) {
                came.extend(bytes);
                while let Some(packet) = first_packet(&mut came).unwrap() {
                    out.push(packet);
                }
            }
            prop_assert!(came.is_empty());
            prop_assert_eq!(out, sent);
        }

        #[test]
        fn no_bytes_at_all_make_it_panic(bytes in vec(any::<u8>(), 0..2000)) {
            let mut bytes = bytes;
            while let Ok(Some(_)) = first_packet(&mut bytes) {}
        }
    }

    #[test]
    fn a_length_of_five_bytes_is_refused() {
        assert!(first_packet(&mut vec![0x30, 0xff, 0xff, 0xff, 0xff, 1]).is_err());
        assert_eq!(first_packet(&mut vec![0x30, 0xff, 0xff]).unwrap(), None);
    }
}
