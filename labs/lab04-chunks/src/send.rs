//! Terminal 2: cuts the message into blocks and sends each in a datagram of its own.

use std::{
    os::fd::{AsFd, AsRawFd},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, poll},
    sys::socket::{MsgFlags, SockaddrStorage, sendto},
};
use shared::{At, Pause, Screen, Stop};
use socket2::{Domain, Socket, Type};

use crate::{
    SendArgs, input,
    message::{BLOCK_LEN, TERMINATOR, shown},
    numbered::{self, HEADER_LEN},
};

/// Between two copies: time for the receiver to name the missing blocks.
const COPY_GAP_MS: u16 = 500;

/// Sends the message, or stops at Ctrl-C.
pub fn run(args: &SendArgs) -> Result<()> {
    let addr = args.addr();
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();
    let family = if addr.is_ipv6() { "AF_INET6" } else { "AF_INET" };
    let Some(mut message) = input::message(args.file.as_deref(), &stop)? else {
        return Ok(()); // Ctrl-C
    };
    if !args.numbered && !message.ends_with(&[TERMINATOR]) {
        message.push(TERMINATOR);
    }

    pause.before(&mut screen, format_args!("socket({family}, SOCK_DGRAM, 0)"));
    let sock = Socket::new(Domain::for_address(addr), Type::DGRAM, None).at("socket", addr)?;
    let fd = sock.as_raw_fd();

    pause.before(&mut screen, format_args!("bind({fd}, {addr})"));
    sock.bind(&addr.into()).at("bind", addr)?;
    let local_addr = sock.local_addr().at("getsockname", addr)?.as_socket().context("not an IP socket")?;
    screen.line(format_args!("Socket is bound to {local_addr}"));

    // The clock in milliseconds gives each message another number.
    let number = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u32;
    let (blocks, header_len) = match args.numbered {
        false => (message.chunks(BLOCK_LEN).map(<[u8]>::to_vec).collect(), 0),
        true => (numbered::cut(&message, number), HEADER_LEN),
    };
    for copy in 0..args.copies {
        if copy > 0 {
            let _ = poll(&mut [PollFd::new(stop.as_fd(), PollFlags::POLLIN)], COPY_GAP_MS);
        }
        let mut sent = 0;
        for (at, block) in blocks.iter().enumerate() {
            pause.before(&mut screen, format_args!("sendto({fd}, {}, {})", block.len(), args.to));
            let bytes_sent = loop {
                match sendto(fd, block, &SockaddrStorage::from(args.to), MsgFlags::empty()) {
                    Err(Errno::EINTR) => {}
                    result => break result.at("sendto", args.to)?,
                }
            };
            sent += bytes_sent - header_len;
            match at {
                _ if at < 2 || at + 1 == blocks.len() || args.gap > 0 || args.pause => {
                    screen.line(format_args!("Sent {sent} bytes of {} ...", message.len()));
                }
                2 => screen.line("..."),
                _ => {}
            }
            let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut fds, args.gap); // the gap, unless Ctrl-C ends it
            if stop.requested() {
                screen.line(format_args!("Interrupted after {sent} bytes of {}", message.len()));
                return Ok(());
            }
        }
        // A sender knows only that the kernel took each block. No call tells it whether a block arrived.
        screen.line(format_args!("Sent message to {} in {} parts", args.to, blocks.len()));
    }
    screen.line(format_args!("Payload length {} bytes: [{}]", message.len(), shown(&message)));
    drop(sock); // close(2)
    Ok(())
}
