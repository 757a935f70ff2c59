//! Where `--out` writes what was received: a file, or a named pipe. Ctrl-C is heard while nobody reads the pipe.

use std::{
    fs::{File, OpenOptions},
    os::{
        fd::AsFd,
        unix::fs::{FileTypeExt, OpenOptionsExt},
    },
    path::Path,
};

use anyhow::Result;
use nix::{
    errno::Errno,
    libc::{ENXIO, O_NONBLOCK},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::write,
};
use shared::{At, Stop};

/// How often a named pipe is tried again that nobody has opened for reading.
const TRY_AGAIN_MS: u8 = 50;

/// The file of `--out`, if there is one.
pub struct Out(Option<File>);

impl Out {
    /// Creates the file, or empties it; `None` after Ctrl-C.
    pub fn open(path: Option<&Path>, stop: &Stop) -> Result<Option<Out>> {
        let Some(path) = path else { return Ok(Some(Out(None))) };
        loop {
            // O_NONBLOCK: open(2) would wait for a reader of a named pipe, and write(2) for room in it.
            match OpenOptions::new().write(true).create(true).truncate(true).custom_flags(O_NONBLOCK).open(path) {
                Err(error) if error.raw_os_error() == Some(ENXIO) && is_pipe(path) => {}
                result => return Ok(Some(Out(Some(result.at("open", path.display())?)))),
            }
            let _ = poll(&mut [PollFd::new(stop.as_fd(), PollFlags::POLLIN)], TRY_AGAIN_MS);
            if stop.requested() {
                return Ok(None);
            }
        }
    }

    /// Writes all of it. After Ctrl-C a pipe gets only what it has room for.
    pub fn write_all(&self, mut bytes: &[u8], stop: &Stop) -> Result<()> {
        let Some(file) = &self.0 else { return Ok(()) };
        while !bytes.is_empty() {
            match write(file, bytes) {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) if stop.requested() => break,
                Err(Errno::EAGAIN) => {
                    let mut fds = [stop.as_fd(), file.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
                    fds[1].set_events(PollFlags::POLLOUT);
                    let _ = poll(&mut fds, PollTimeout::NONE); // EINTR: the loop looks again
                }
                result => bytes = &bytes[result.at("write", "the file of --out")?..],
            }
        }
        Ok(())
    }
}

fn is_pipe(path: &Path) -> bool {
    path.metadata().is_ok_and(|file| file.file_type().is_fifo())
}
