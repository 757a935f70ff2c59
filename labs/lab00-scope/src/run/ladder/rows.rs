//! What is drawn: rows that know nothing of columns.

use std::time::Duration;

use super::flows::Side;

/// In a heading, between a program and its number; a blank will do where there is little room.
pub const PROCESS: &str = ", process ";

/// What is shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shown {
    /// Of all calls only those that act on IP sockets.
    pub brief: bool,
    /// A long transfer to its end; otherwise its first rounds are drawn, and the rest is counted.
    pub whole: bool,
    /// How long each step is held, which is no pause of the program.
    pub slow: Duration,
}

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// How long nothing happened before it, if that was long.
    pub stamp: Option<Duration>,
    pub shape: Shape,
}

/// What a row shows.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// A connection begins: who is at its two ends, and their addresses.
    Heading { protocol: &'static str, who: [String; 2], ends: [String; 2] },
    /// From here on another connection: its two addresses.
    Turn { ends: [String; 2] },
    /// What belongs to no connection: a call, what a program printed, what is to be said. `lead` stands before each line.
    Across { lead: String, text: String, told: Told },
    /// A call at an end.
    Call { side: Side, text: String },
    /// A segment or datagram, drawn towards `to`; its label is broken only between the parts. The first bytes of what it
    /// carries are shown where there is room.
    Arrow { to: Side, parts: Vec<String>, marks: Vec<String>, data: String, lost: bool },
    /// The states, each at its end, if it is another one now.
    States { ends: [Option<String>; 2] },
}

/// By whom something is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It is a call.
    Call,
    /// A program printed it.
    Program,
    /// The tracer says it.
    Scope,
}

impl Row {
    /// What a class looks for.
    pub fn is_loud(&self) -> bool {
        match &self.shape {
            Shape::Heading { .. } | Shape::States { .. } => true,
            Shape::Arrow { marks, .. } => !marks.is_empty(),
            _ => false,
        }
    }
}
