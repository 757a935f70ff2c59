//! The picture without its columns: what happened becomes rows, each at an end of a connection, between the two, or
//! across. Text and SVG draw them.

mod flows;
mod fold;
mod label;
mod rows;
mod steps;
mod who;

use std::collections::HashMap;
use std::time::Duration;

use flows::{Flows, Place};
use fold::Fold;

pub use flows::Side;
pub use rows::{PROCESS, Row, Shape, Shown, Told};

use super::model::{Call, Cause, Event, State, StateChange, What};

/// What is known of a process.
struct Process {
    program: String,
    parent: Option<u32>,
    introduced: bool,
}

/// Makes rows of events. What it keeps grows with the connections and the processes, not with the events.
pub struct Ladder {
    shown: Shown,
    flows: Flows,
    fold: Fold,
    processes: HashMap<u32, Process>,
    commands: usize,
    /// The connection that was drawn last.
    current: Option<usize>,
    headed: Vec<bool>,
    /// A call whose place the next segment may tell.
    held: Option<(Call, Duration)>,
    /// The states of both ends, until it is known that no more come.
    states: Option<(usize, [Option<String>; 2], Duration)>,
    /// Where a call stands that waits.
    waiting: HashMap<u64, Option<Place>>,
    last: Duration,
}

impl Ladder {
    pub fn new(shown: Shown) -> Ladder {
        Ladder {
            shown,
            flows: Flows::default(),
            fold: Fold::default(),
            processes: HashMap::new(),
            commands: 0,
            current: None,
            headed: Vec::new(),
            held: None,
            states: None,
            waiting: HashMap::new(),
            last: Duration::ZERO,
        }
    }

    /// The rows that this event completes.
    pub fn event(&mut self, event: &Event) -> Vec<Row> {
        let mut rows = Vec::new();
        let at = event.at;
        if let What::Segment(segment) = &event.what {
            let place = self.flows.of_segment(segment);
            if let Some((call, since)) = self.held.take_if(|(call, _)| segment.cause == Cause::Call(call.number)) {
                self.flows.learn(&call, place);
                self.call(&mut rows, &call, Some(place), since);
            }
            self.settle(&mut rows);
            self.segment(&mut rows, segment, place, at);
            return rows;
        }
        if let What::State(state) = &event.what {
            self.settle_call(&mut rows);
            self.state(&mut rows, state, at);
            return rows;
        }
        self.settle(&mut rows);
        match &event.what {
            What::Call(call) => self.called(&mut rows, call, at),
            What::Started { process, parent, program } => self.started(&mut rows, *process, *parent, program, at),
            What::Output { process, line, .. } => {
                let lead = match (self.commands, self.shown.brief) {
                    (..=1, true) => String::new(), // as the program prints it
                    (..=1, false) => "> ".into(),
                    _ => format!("{} > ", self.name(*process)),
                };
                self.across(&mut rows, lead, line.clone(), Told::Program, at);
            }
            What::Ended { process, how } => {
                if self.processes.get(process).is_some_and(|process| process.introduced) {
                    let text = format!("{} {how}", self.name(*process));
                    self.say(&mut rows, text, at);
                }
            }
            What::Lost { packets } => {
                self.say(&mut rows, format!("{packets} packets passed that the capture could not keep"), at);
            }
            What::Note { process, text } => {
                let who = process.map(|process| format!("{}: ", self.name(process))).unwrap_or_default();
                self.say(&mut rows, format!("{who}{text}"), at);
            }
            What::Segment(_) | What::State(_) => {}
        }
        rows
    }

    /// The step is over: what was kept back.
    pub fn step(&mut self) -> Vec<Row> {
        let mut rows = Vec::new();
        self.settle(&mut rows);
        rows
    }

    /// The run is over: what was kept back or counted.
    pub fn end(&mut self) -> Vec<Row> {
        let mut rows = self.step();
        self.tell_counted(&mut rows);
        rows
    }

    fn settle(&mut self, rows: &mut Vec<Row>) {
        self.settle_call(rows);
        if let Some((flow, ends, at)) = self.states.take() {
            self.fold.forget(Some(flow));
            self.tell_counted(rows);
            self.turn_to(rows, flow);
            self.push(rows, Shape::States { ends }, at);
        }
    }

    fn settle_call(&mut self, rows: &mut Vec<Row>) {
        if let Some((call, at)) = self.held.take() {
            let place = self.flows.of_call(&call);
            self.call(rows, &call, place, at);
        }
    }

    fn state(&mut self, rows: &mut Vec<Row>, state: &StateChange, at: Duration) {
        let Some((flow, side)) = self.flows.of_state(state) else {
            self.settle(rows);
            // An end without a connection: a listener, or what never was connected.
            let text = match (state.before, state.state) {
                (_, State::Listen) => format!("the listener {} is in LISTEN", state.local),
                (Some(State::Listen), State::Closed) => format!("the listener {} is gone", state.local),
                (_, now) => format!("{} is in {now}", state.local),
            };
            self.across(rows, String::new(), text, Told::Scope, at);
            return;
        };
        // Of two changes of one end the last stands: the segments behind which they stand have all come.
        if self.states.as_ref().is_some_and(|(known, ..)| *known != flow) {
            self.settle(rows);
        }
        let (_, ends, _) = self.states.get_or_insert((flow, [None, None], at));
        ends[side as usize] = Some(state.state.to_string());
    }
}
