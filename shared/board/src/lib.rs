//! The message board: what is published, and how it is asked for. No socket call stands here.
//!
//! - [`Board`]: publish, the last N, get; in memory, or with a [`Journal`] (crate `journal`, beside this one)
//! - [`Request`], [`Code`]: the lecture's protocol as bytes, the server's side and the client's side
//!
//! A server is `board.answer(&request_bytes, author, time)` between a receive and a send. Over UDP a request and its
//! answer are a datagram each; over TCP all bytes up to the end of stream.

mod memory;
mod protocol;

pub use self::{
    memory::{Board, FIRST_ID, Journal, Message, REMEMBERED, now},
    protocol::{Code, Refusal, Request, ids, message, messages, reply, reply_to_get},
};
