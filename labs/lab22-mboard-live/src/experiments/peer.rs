//! A client of this process, for the experiments: the socket in sight, the frames out of the way.

use std::{net::SocketAddr, os::fd::AsRawFd};

use anyhow::{Context, Result, bail, ensure};
use board::Request;
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv},
};
use shared::At;
use socket2::Socket;

use super::{CHUNK, LIMIT, connected, send_all, waits};
use crate::{
    frames::{Frames, frame, number},
    wire::{Heard, Live, heard},
};

/// A client in this process: a connection, and the frame that has begun to arrive.
pub struct Peer {
    pub sock: Socket,
    frames: Frames,
    /// So many messages were new to it when it came.
    pub missed: u64,
}

impl Peer {
    /// Connects, and says its name.
    pub fn enter(server_addr: SocketAddr, name: &str) -> Result<Peer> {
        let mut peer = Peer { sock: connected(server_addr)?, frames: Frames::default(), missed: 0 };
        peer.say(&Live::Tell { mark: 0, name }.encode())?;
        let answer = peer.answer()?;
        peer.missed = answer.strip_prefix(b"0:").and_then(number).context("no answer to the first request")?;
        Ok(peer)
    }

    /// Sends a frame.
    pub fn say(&self, body: &[u8]) -> Result<()> {
        send_all(&self.sock, &frame(body))
    }

    /// The next frame, or `None` at the end of the stream.
    fn next(&mut self) -> Result<Option<Vec<u8>>> {
        let mut buffer = vec![0; CHUNK];
        loop {
            match self.frames.next() {
                Ok(Some(body)) => return Ok(Some(body)),
                Ok(None) => {}
                Err(bad) => bail!("the server sent no frame: {bad:?}"),
            }
            ensure!(waits(&self.sock, LIMIT)?, "not seen within {LIMIT:?}: a frame of the server");
            match recv(self.sock.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(0) => return Ok(None),
                Err(Errno::EINTR) => {}
                bytes_read => self.frames.push(&buffer[..bytes_read.at("recv", "")?]),
            }
        }
    }

    /// The next frame, which must be an answer.
    pub fn answer(&mut self) -> Result<Vec<u8>> {
        match heard(&self.next()?.context("the server has closed")?)? {
            Heard::Answer(answer) => Ok(answer),
            other => bail!("{other:?} instead of an answer"),
        }
    }

    /// The next frame, which must tell of a message: its id.
    pub fn told(&mut self) -> Result<u64> {
        match heard(&self.next()?.context("the server has closed")?)? {
            Heard::Told(message) => Ok(message.id),
            other => bail!("{other:?} instead of a message"),
        }
    }

    /// Asks for a message that is not there. What was to be told before stands in front of the answer: so many messages.
    pub fn told_so_far(&mut self) -> Result<usize> {
        self.say(b"3:1")?;
        let mut told = 0;
        loop {
            match heard(&self.next()?.context("the server has closed")?)? {
                Heard::Told(_) => told += 1,
                Heard::Answer(_) => return Ok(told),
                Heard::Replaced => bail!("replaced"),
            }
        }
    }

    /// Publishes, and waits for the confirmation.
    pub fn publish(&mut self, text: &[u8]) -> Result<()> {
        self.say(&Request::Publish { text }.encode())?;
        let answer = self.answer()?;
        ensure!(answer == b"0:", "the answer was {}", answer.escape_ascii());
        Ok(())
    }
}
