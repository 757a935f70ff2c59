//! Terminal 2: cuts the message into blocks and sends each in a datagram of its own.

use std::{
    fs::OpenOptions,
    io::stdin,
    net::SocketAddr,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::fs::OpenOptionsExt,
    },
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use nix::{
    errno::Errno,
    libc::O_NONBLOCK,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, SockaddrStorage, sendto},
    unistd::read,
};
use shared::{At, Pause, Screen, Stop};
use socket2::{Domain, Socket, Type};

use crate::{
    SendArgs,
    message::{BLOCK_LEN, LENGTH_LIMIT, TERMINATOR, lecture_message, shown},
    numbered::{self, HEADER_LEN},
};

/// Sends the message, or stops at Ctrl-C.
pub fn run(args: &SendArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();
    let addr = SocketAddr::new(args.bind, args.port);
    let Some(mut message) = message(args, &stop)? else {
        return Ok(()); // Ctrl-C
    };
    if !args.numbered && !message.ends_with(&[TERMINATOR]) {
        message.push(TERMINATOR);
    }

    pause.before(&mut screen, "socket(AF_INET, SOCK_DGRAM, 0)");
    let sock = Socket::new(Domain::for_address(addr), Type::DGRAM, None).at("socket", addr)?;
    let fd = sock.as_raw_fd();

    pause.before(&mut screen, format_args!("bind({fd}, {addr})"));
    sock.bind(&addr.into()).at("bind", addr)?;
    let local_addr = sock.local_addr().at("getsockname", addr)?.as_socket().context("not an IP socket")?;
    screen.line(format_args!("Socket is bound to {local_addr}"));

    // The clock in milliseconds is a number that the next message does not have.
    let number = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u32;
    let (blocks, header_len) = match args.numbered {
        false => (message.chunks(BLOCK_LEN).map(<[u8]>::to_vec).collect(), 0),
        true => (numbered::cut(&message, number), HEADER_LEN),
    };
    for _ in 0..args.copies {
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
        // That is all a sender knows: each block was handed to the kernel. Nobody says whether one arrived.
        screen.line(format_args!("Sent message to {} in {} parts", args.to, blocks.len()));
    }
    screen.line(format_args!("Payload length {} bytes: [{}]", message.len(), shown(&message)));
    drop(sock); // close(2)
    Ok(())
}

/// The lecture's message, or what the file or standard input holds; `None` after Ctrl-C.
fn message(args: &SendArgs, stop: &Stop) -> Result<Option<Vec<u8>>> {
    let Some(path) = &args.file else { return Ok(Some(lecture_message())) };
    if path.as_os_str() == "-" {
        return read_all(stdin().as_fd(), "standard input", stop);
    }
    let name = path.display().to_string();
    // O_NONBLOCK: a named pipe without a writer is waited for below, where Ctrl-C is heard.
    let file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path).at("open", &name)?;
    read_all(file.as_fd(), &name, stop)
}

fn read_all(file: BorrowedFd, name: &str, stop: &Stop) -> Result<Option<Vec<u8>>> {
    let mut message = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(file, PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            result => result.at("poll", name)?,
        };
        if stop.requested() {
            return Ok(None);
        }
        match read(file, &mut buffer) {
            Err(Errno::EINTR | Errno::EAGAIN) => continue,
            Ok(0) => return Ok(Some(message)),
            result => message.extend(&buffer[..result.at("read", name)?]),
        }
        ensure!(message.len() < LENGTH_LIMIT, "{name}: longer than {} bytes", LENGTH_LIMIT - 1);
    }
}
