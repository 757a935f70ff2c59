//! A group of members: who is there, repair, order. No socket in here, and no clock.
//!
//! A program hands in what came and what time it is; it gets back what to send and what to show. So the same code runs over
//! a real socket (`member`) and over the simulated network (`simulate`).
//!
//! - [`wire`]: the kinds of datagram
//! - [`Streams`]: each member's texts by number, and what is missing: repair by negative acknowledgement
//! - [`Presence`]: heartbeats, and who is declared dead
//! - [`Sequence`]: one order for all: a sequencer, and its replacement
//! - [`Member`]: one member; the orders none, fifo and causal stand here

mod member;
mod presence;
mod sequence;
mod streams;
pub mod wire;

use std::{rc::Rc, time::Duration};

pub use self::{
    member::Member,
    presence::Presence,
    sequence::Sequence,
    streams::Streams,
    wire::{Alive, Datagram, Item},
};

/// A member; one that comes back from the dead has a new one.
pub type Id = u32;
/// A text: who said it, and the how manyth of its sender it is, counted from 1.
pub type ItemId = (Id, u32);

/// In which order a member delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Order {
    /// As the texts arrive.
    None,
    /// Each sender's texts in the order in which they were said.
    Fifo,
    /// As fifo, and no answer before its question: vector clocks.
    Causal,
    /// One order for all members: a sequencer numbers the texts.
    Total,
}

/// What makes the protocol whole. A part that is left out is a broken protocol, and the simulation finds it.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// In which order to deliver.
    pub order: Order,
    /// Ask for what is missing.
    pub repair: bool,
    /// Send with a text what its sender has delivered of the others.
    pub merge_clock: bool,
    /// Before a new sequencer begins, all its members deliver what one of them has delivered.
    pub flush: bool,
    /// Between two heartbeats.
    pub heartbeat: Duration,
    /// After silence of so many heartbeats a member is declared dead.
    pub limit: u32,
}

impl Settings {
    /// The whole protocol.
    pub fn new(order: Order, heartbeat: Duration) -> Settings {
        Settings { order, repair: true, merge_clock: true, flush: true, heartbeat, limit: 5 }
    }

    /// How often to call [`Member::tick`].
    pub fn tick(&self) -> Duration {
        self.heartbeat / 4
    }

    /// Silence as long as this is death.
    fn silence(&self) -> Duration {
        self.heartbeat * self.limit
    }
}

/// What a member has to tell.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The next text of its log.
    Delivered(Rc<Item>),
    /// Somebody is there.
    Here(Id),
    /// Somebody was silent for so many heartbeats, or others say so (0).
    Dead(Id, u32),
    /// Somebody said goodbye.
    Left(Id),
    /// Order total: a view with this sequencer and so many members begins.
    View(Id, usize),
    /// The others have declared this member dead. Nothing follows: it may come back with a new [`Id`].
    Excluded,
}
