//! What remote calls tell the program's own thread, which waits in poll beside its sockets.

use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
};

use anyhow::Result;
use nix::sys::eventfd::{EfdFlags, EventFd};
use shared::At;

/// Rung from any thread; clones ring the same.
pub struct Bell<T> {
    events: Sender<T>,
    fd: Arc<EventFd>,
}

/// The end that hears it.
pub struct Ear<T> {
    events: Receiver<T>,
    fd: Arc<EventFd>,
}

/// A bell and its ear.
pub fn bell<T>() -> Result<(Bell<T>, Ear<T>)> {
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    let fd = Arc::new(EventFd::from_value_and_flags(0, flags).at("eventfd", "")?);
    let (sender, receiver) = channel();
    Ok((Bell { events: sender, fd: fd.clone() }, Ear { events: receiver, fd }))
}

impl<T> Bell<T> {
    /// False where nobody hears it any more.
    pub fn ring(&self, event: T) -> bool {
        let heard = self.events.send(event).is_ok();
        let _ = self.fd.write(1); // EAGAIN: it rings already, and has not been heard for 2^64 times
        heard
    }
}

impl<T> Clone for Bell<T> {
    fn clone(&self) -> Self {
        Bell { events: self.events.clone(), fd: self.fd.clone() }
    }
}

impl<T> Ear<T> {
    /// All that was told since.
    pub fn heard(&self) -> Vec<T> {
        let _ = self.fd.read(); // EAGAIN: nothing new
        self.events.try_iter().collect()
    }
}

impl<T> AsFd for Ear<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
