//! The message that `send` sends: the lecture's, a file, or standard input.

use std::{
    fs::OpenOptions,
    io::stdin,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::OpenOptionsExt,
    },
    path::Path,
};

use anyhow::{Result, ensure};
use nix::{
    errno::Errno,
    libc::O_NONBLOCK,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::read,
};
use shared::{At, Stop};

use crate::message::{LENGTH_LIMIT, lecture_message};

/// The lecture's message, or the content of the file or of standard input; `None` after Ctrl-C.
pub fn message(file: Option<&Path>, stop: &Stop) -> Result<Option<Vec<u8>>> {
    let Some(path) = file else { return Ok(Some(lecture_message())) };
    if path.as_os_str() == "-" {
        return read_all(stdin().as_fd(), "standard input", stop);
    }
    let name = path.display().to_string();
    // O_NONBLOCK: open(2) would wait for a writer of a named pipe. The poll below waits, and hears Ctrl-C.
    let file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path).at("open", &name)?;
    read_all(file.as_fd(), &name, stop)
}

/// Reads to the end; `None` after Ctrl-C.
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
