//! Two requests over one connection, and each segment that passed: a packet socket needs CAP_NET_RAW, so this runs as a
//! child of the demo. It prints the segments; the demo reads them.

use std::{os::fd::AsRawFd, time::Duration};

use anyhow::{Result, ensure};
use kernel::{Capture, Packet, Pair, wait_until};
use nix::sys::socket::{MsgFlags, recv, send};
use shared::{At, Screen};

use crate::experiments::{accepted, connected, listening};

pub const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: page\r\n\r\n";
pub const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nHello";
const LIMIT: Duration = Duration::from_secs(5);

/// Plays the two requests and prints, for each, the segments up to its answer.
pub fn run() -> Result<()> {
    let capture = Capture::start()?;
    let mut screen = Screen::new();
    let (listen_sock, server_addr) = listening()?;
    let client_sock = connected(server_addr)?;
    let conn_sock = accepted(&listen_sock)?;
    let pair = Pair::of(&client_sock)?;
    let mut buffer = [0; 1024];
    for number in 1..=2 {
        send(client_sock.as_raw_fd(), REQUEST, MsgFlags::empty()).at("send", server_addr)?;
        let bytes_read = recv(conn_sock.as_raw_fd(), &mut buffer, MsgFlags::empty()).at("recv", server_addr)?;
        ensure!(&buffer[..bytes_read] == REQUEST, "another request came");
        send(conn_sock.as_raw_fd(), ANSWER, MsgFlags::empty()).at("send", pair.local)?;
        let bytes_read = recv(client_sock.as_raw_fd(), &mut buffer, MsgFlags::empty()).at("recv", pair.local)?;
        ensure!(&buffer[..bytes_read] == ANSWER, "another answer came");
        wait_until("the captured answer", LIMIT, || {
            let packets = capture.packets(pair)?;
            packets.iter().for_each(|packet| screen.line(format_args!("{number} {}", shown(packet))));
            let answered = packets.iter().any(|packet| !packet.from_local && packet.bytes.ends_with(ANSWER));
            Ok(answered.then_some(()))
        })?;
    }
    screen.line("end of the scene");
    Ok(())
}

/// Who sent it, its flags, and how many bytes are in it: `server SYN ACK`, `client 29 bytes`.
fn shown(packet: &Packet) -> String {
    let who = if packet.from_local { "client" } else { "server" };
    let segment = packet.split().map(|(_, segment)| segment).unwrap_or_default();
    let (header_bytes, flags) = match segment {
        [_, _, _, _, _, _, _, _, _, _, _, _, offset, flags, ..] => (usize::from(offset >> 4) * 4, *flags),
        _ => (0, 0),
    };
    match (segment.len().saturating_sub(header_bytes), flags) {
        (bytes @ 1.., _) => format!("{who} {bytes} bytes"),
        (0, flags) if flags & 0x12 == 0x12 => format!("{who} SYN ACK"),
        (0, flags) if flags & 0x02 != 0 => format!("{who} SYN"),
        (0, _) => format!("{who} ACK"),
    }
}
