//! The state diagram of TCP, RFC 9293 figure 5, with the number of sockets in each state. Pure drawing.
//!
//! Left out: from LISTEN to SYN-SENT by a send, which Linux does not do; from SYN-RECEIVED to FIN-WAIT-1 by a close; FIN
//! and ACK in one segment, which Linux takes one after the other; resets, which end any state.

use kernel::State::{self, *};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::model::Model;
use super::style::{Look, put};

/// One way to draw it: lines of text, and where the states stand, column and row.
pub struct Diagram {
    art: &'static [&'static str],
    places: [(State, u16, u16); 10],
}

/// The columns of both diagrams.
pub const WIDTH: u16 = 78;
/// The name in 12 columns and the count in 6, between brackets.
const CELL: usize = 20;

/// For a window with many rows: what is received and what is sent stands at each arrow.
pub const TALL: Diagram = Diagram {
    art: &[
        "                                                          CLOSED (no socket)",
        "         | rcv SYN / snd SYN+ACK                 connect / snd SYN |",
        "         v                                                         v",
        "                    <------- rcv SYN / snd SYN+ACK -------",
        "         | rcv ACK                           rcv SYN+ACK / snd ACK |",
        "         +------------------>                    <-----------------+",
        "         +-- rcv FIN / snd ACK --+           | close / snd FIN",
        "         v                                   v",
        "                                                 -rcv FIN>",
        "         | close / snd FIN            | rcv ACK                    | rcv ACK",
        "         v                            v                            v",
        "                                                 -rcv FIN>",
        "         +-> rcv ACK: CLOSED                  after 60 s: CLOSED <-+",
    ],
    places: [
        (Listen, 0, 0),
        (SynReceived, 0, 3),
        (SynSent, 58, 3),
        (Established, 29, 5),
        (CloseWait, 0, 8),
        (FinWait1, 29, 8),
        (Closing, 58, 8),
        (LastAck, 0, 11),
        (FinWait2, 29, 11),
        (TimeWait, 58, 11),
    ],
};

/// For a window with few rows: only what is received stands at the arrows, and close.
pub const LOW: Diagram = Diagram {
    art: &[
        "                    -SYN-->                    -ACK-->                    --+",
        "                    -SYN+ACK---------------------------------^     |        |",
        "       v--------------------- close / snd FIN ---------------------+        |",
        "                    -ACK-->                    -FIN-->                      |",
        "   +-- FIN --------------->                    -ACK----------^  60 s: gone  |",
        "       v------------------------ rcv FIN / snd ACK -------------------------+",
        "                    close->                    -ACK--> CLOSED (no socket)",
    ],
    places: [
        (Listen, 0, 0),
        (SynReceived, 27, 0),
        (Established, 54, 0),
        (SynSent, 0, 1),
        (FinWait1, 0, 3),
        (FinWait2, 27, 3),
        (TimeWait, 54, 3),
        (Closing, 27, 4),
        (CloseWait, 0, 6),
        (LastAck, 27, 6),
    ],
};

impl Diagram {
    pub fn rows(&self) -> u16 {
        self.art.len() as u16
    }

    /// Draws it at the top left of `area`; what does not fit is cut off.
    pub fn draw(&self, area: Rect, buffer: &mut Buffer, model: &Model, look: Look) {
        for (row, line) in (0..).zip(self.art) {
            put(buffer, area, 0, row, line, look.plain());
        }
        for (state, column, row) in self.places {
            let count = model.count(state);
            let style = match (model.is_stirred(state), count) {
                (true, _) => look.changed(),
                (false, 0) => look.plain(),
                (false, _) => look.strong(),
            };
            put(buffer, area, column, row, &cell(state, count, model.is_stirred(state)), style);
        }
    }
}

/// Such as `[ESTABLISHED     *12]`; the star: somebody came or left within the last second.
fn cell(state: State, count: usize, stirred: bool) -> String {
    let count = if count < 100_000 { count.to_string() } else { format!("{}k", count / 1000) };
    let count = format!("{}{count}", if stirred { "*" } else { "" });
    format!("[{:<12}{count:>width$}]", state.to_string(), width = CELL - 14)
}
