//! Who it is about: the processes, and the connection that is drawn.

use std::time::Duration;

use super::fold::Counted;
use super::rows::{PROCESS, Row, Shape, Told};
use super::{Ladder, Process};
use crate::run::wrap::plain;

/// A pause between two rows longer than this carries a stamp.
const STAMP_FROM: Duration = Duration::from_millis(150);

impl Ladder {
    pub(super) fn started(
        &mut self,
        rows: &mut Vec<Row>,
        process: u32,
        parent: Option<u32>,
        program: &str,
        at: Duration,
    ) {
        let known = self.processes.get(&process);
        let (again, introduced) = (known.is_some(), known.is_some_and(|known| known.introduced));
        let parent = known.map_or(parent, |known| known.parent);
        self.processes.insert(process, Process { program: plain(program), parent, introduced });
        if parent.is_none() && !again {
            self.commands += 1;
            self.introduce(rows, process, at);
        } else if introduced {
            self.say(rows, format!("process {process} is now {program}"), at);
        }
    }

    /// The first row of a process says who it is.
    pub(super) fn introduce(&mut self, rows: &mut Vec<Row>, number: u32, at: Duration) {
        let Some(process) = self.processes.get_mut(&number) else { return };
        if !std::mem::replace(&mut process.introduced, true) {
            let child = process.parent.map(|parent| format!(", a child of {parent}")).unwrap_or_default();
            let text = format!("{}, process {number}{child}", process.program);
            self.say(rows, text, at);
        }
    }

    pub(super) fn name(&self, number: u32) -> String {
        self.processes.get(&number).map_or(number.to_string(), |process| format!("{} {number}", process.program))
    }

    /// Before a call that belongs to no connection: who called, where there is more than one.
    pub(super) fn lead(&self, process: u32) -> String {
        if self.processes.len() > 1 { format!("{} ", self.name(process)) } else { String::new() }
    }

    pub(super) fn say(&mut self, rows: &mut Vec<Row>, text: String, at: Duration) {
        self.across(rows, "-- ".into(), text, Told::Scope, at);
    }

    pub(super) fn across(&mut self, rows: &mut Vec<Row>, lead: String, text: String, told: Told, at: Duration) {
        self.tell_counted(rows);
        self.push(rows, Shape::Across { lead, text, told }, at);
    }

    /// From here on rows are about this connection.
    pub(super) fn turn_to(&mut self, rows: &mut Vec<Row>, number: usize) {
        if self.current == Some(number) {
            return;
        }
        let Some(flow) = self.flows.get(number) else { return };
        let (addrs, protocol) = (flow.ends, flow.protocol);
        let ends = addrs.map(|addr| if addr.port() == 0 { addr.ip().to_string() } else { addr.to_string() });
        self.current = Some(number);
        self.headed.resize(self.flows.count().max(self.headed.len()), false);
        let shape = if std::mem::replace(&mut self.headed[number], true) {
            Shape::Turn { ends }
        } else {
            let who = addrs.map(|addr| match self.flows.owner(addr) {
                Some(number) => {
                    let program = self.processes.get(&number).map_or("", |process| process.program.as_str());
                    format!("{program}{PROCESS}{number}").trim_start_matches(", ").into()
                }
                None => String::new(),
            });
            Shape::Heading { protocol, who, ends }
        };
        rows.push(Row { stamp: None, shape });
    }

    pub(super) fn tell_counted(&mut self, rows: &mut Vec<Row>) {
        match self.fold.counted() {
            Counted::Nothing => {}
            Counted::Few(few) => {
                for (flow, shape) in few {
                    if let Some(flow) = flow {
                        self.turn_to(rows, flow);
                    }
                    rows.push(Row { stamp: None, shape });
                }
            }
            Counted::Many(text) => {
                rows.push(Row { stamp: None, shape: Shape::Across { lead: String::new(), text, told: Told::Scope } });
            }
        }
    }

    pub(super) fn push(&mut self, rows: &mut Vec<Row>, shape: Shape, at: Duration) {
        // When a line was printed is not known as exactly.
        if let Shape::Across { told: Told::Program, .. } = shape {
            return rows.push(Row { stamp: None, shape });
        }
        let pause = at.saturating_sub(self.last);
        self.last = self.last.max(at);
        if let Shape::Across { told: Told::Scope, .. } = shape {
            return rows.push(Row { stamp: None, shape });
        }
        rows.push(Row { stamp: (pause > STAMP_FROM + self.shown.slow).then_some(pause), shape });
    }
}
