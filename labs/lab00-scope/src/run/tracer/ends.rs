//! A process becomes another program, or ends.

use std::time::Duration;

use super::super::threads::{Place, Thread, program};
use super::{Report, Tracer};

impl Tracer {
    /// A process runs another program: its other threads are gone, and the one that called has the process's number.
    pub(super) fn executed(&mut self, id: i32) {
        self.threads.retain(|_, thread| thread.process != id || thread.id == id);
        self.set(id, Place::Runs);
        if let Some(process) = self.processes.get_mut(&id) {
            process.program = program(id);
            process.began = true;
            self.reports.push(Report::Began(id));
        }
        self.go_on(id, None);
    }

    /// The last thread of a process waits for its turn: its end closes the descriptors.
    pub(super) fn exits(&mut self, id: i32) {
        let process = self.threads.get(&id).map_or(id, |thread| thread.process);
        let others = |thread: &&Thread| thread.process == process && thread.id != id;
        let alone = self.threads.values().filter(others).all(|thread| matches!(thread.place, Place::Ends));
        if alone && self.processes.get(&process).is_some_and(|process| process.began) {
            self.set(id, Place::AsksToEnd);
        } else {
            self.set(id, Place::Ends);
            self.go_on(id, None);
        }
    }

    pub(super) fn gone(&mut self, id: i32, how: String, status: i32) {
        self.stands_still_no_more(id);
        self.lived += self.threads.remove(&id).map_or(Duration::ZERO, |thread| thread.seen_since.elapsed());
        // The number of a process is that of its first thread, whose end is told when all others are gone.
        if let Some(of) = self.processes.remove(&id) {
            self.threads.retain(|_, thread| thread.process != id);
            self.reports.push(Report::Ended { process: id, of, how, status });
        }
    }
}
