//! What is told, and to whom.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::super::model::{Call, Cause, Event, What};
use super::super::tracer::Report;
use super::super::wire::Wire;
use super::Engine;

/// The kernel delays an acknowledgement for no longer: include/net/tcp.h, TCP_DELACK_MAX.
const LONGEST_DELAY: Duration = Duration::from_millis(250);

impl Engine<'_> {
    /// Shows a step. Whether its call was shown, too.
    pub(super) fn show(&mut self, call: Call, seen: Vec<What>) -> Result<bool> {
        let (shown, any) = (self.is_shown(&call), !seen.is_empty());
        if shown || any {
            self.told(call.process as i32)?;
        }
        if shown {
            self.emit(What::Call(call))?;
        }
        self.show_seen(seen)?;
        if self.settles && any {
            self.settle()?;
        }
        if shown || any {
            self.signals.sleep(self.slow)?; // Ctrl-C cuts it short
        }
        Ok(shown)
    }

    /// Calls that tell a class nothing are left out: the kernel's own tables, a descriptor's flags, waits in vain.
    pub(super) fn is_shown(&mut self, call: &Call) -> bool {
        let given = call.text.split(" = ").next().unwrap_or_default().replace(" <unfinished ...>", ")");
        let again = self.in_vain.get(&call.thread) == Some(&given);
        if is_poll(call.name) && call.result == Some(0) {
            self.in_vain.insert(call.thread, given);
        } else if call.result.is_some() {
            self.in_vain.remove(&call.thread);
        }
        let netlink = call.socket.as_ref().is_some_and(|socket| socket.protocol == "NETLINK");
        let in_vain = again && matches!(call.result, None | Some(0));
        let dull = netlink || in_vain || call.short.contains("F_GETFD");
        let short = call.short.split('(').next().unwrap_or_default();
        (self.shows_all || !dull) && ((self.shows)(call.name) || (self.shows)(short))
    }

    /// Waits until what was sent is acknowledged, and shows what comes.
    pub(super) fn settle(&mut self) -> Result<()> {
        let began = Instant::now();
        while self.segments.in_flight() && began.elapsed() < LONGEST_DELAY {
            self.signals.sleep(Duration::from_millis(1))?;
            let seen = self.gather(Cause::Timer, None, false)?;
            self.show_seen(seen)?;
        }
        Ok(())
    }

    /// Segments and states.
    pub(super) fn show_seen(&mut self, seen: Vec<What>) -> Result<()> {
        seen.into_iter().try_for_each(|what| self.emit(what))?;
        let lost = self.wire.as_ref().map_or(Ok(0), Wire::lost)?;
        if lost > 0 {
            self.emit(What::Lost { packets: lost })?;
        }
        self.sinks.iter_mut().try_for_each(|sink| sink.step())
    }

    /// Lines that the commands printed.
    ///
    /// # Errors
    /// What the sinks fail with.
    pub fn print_outputs(&mut self, all: bool) -> Result<()> {
        for at in 0..self.commands.len() {
            let lines = self.commands[at].lines(all);
            let process = self.commands[at].process.unwrap_or(0);
            for (error, line) in lines {
                self.told(process)?;
                self.emit(What::Output { process: process as u32, error, line })?;
            }
        }
        Ok(())
    }

    pub(super) fn tell_reports(&mut self) -> Result<()> {
        for report in std::mem::take(&mut self.tracer.reports) {
            match report {
                Report::Began(process) => {
                    let Some(known) = self.tracer.processes.get(&process) else { continue };
                    self.commands[known.command].began = true;
                    if known.told {
                        self.tell_start(process)?; // another program now
                    }
                }
                Report::Ended { process, of, how, status } => {
                    if self.commands[of.command].process == Some(process) {
                        self.commands[of.command].status = Some(status);
                        self.commands[of.command].ready = true;
                    }
                    self.print_outputs(false)?;
                    if of.told {
                        self.emit(What::Ended { process: process as u32, how })?;
                    }
                    let seen = self.gather(Cause::End(process as u32), None, true)?;
                    self.show_seen(seen)?;
                }
                Report::Note(process, text) => {
                    self.told(process)?;
                    self.note(Some(process), text)?;
                }
            }
        }
        Ok(())
    }

    /// Tells of a process once it has something to show: a shell that looks for a program has not.
    pub(super) fn told(&mut self, process: i32) -> Result<()> {
        let known = self.tracer.processes.get(&process);
        if known.is_some_and(|known| !known.told && known.began) { self.tell_start(process) } else { Ok(()) }
    }

    pub(super) fn tell_start(&mut self, process: i32) -> Result<()> {
        let Some(known) = self.tracer.processes.get_mut(&process) else { return Ok(()) };
        known.told = true;
        let (program, parent) = (known.program.clone(), known.parent.map(|parent| parent as u32));
        self.emit(What::Started { process: process as u32, parent, program })
    }

    /// Something to say.
    ///
    /// # Errors
    /// What the sinks fail with.
    pub fn note(&mut self, process: Option<i32>, text: impl Into<String>) -> Result<()> {
        self.emit(What::Note { process: process.map(|process| process as u32), text: text.into() })
    }

    /// Something happened.
    pub fn active(&mut self) {
        self.last_activity = Instant::now();
    }

    pub(super) fn emit(&mut self, what: What) -> Result<()> {
        let in_vain =
            matches!(&what, What::Call(call) if call.result == Some(0) && is_poll(call.name) || call.result.is_none());
        if !in_vain && !matches!(what, What::Note { .. }) {
            self.active();
        }
        let event = Event { at: self.began.elapsed(), what };
        self.sinks.iter_mut().try_for_each(|sink| sink.event(&event))
    }

    /// The run is over.
    ///
    /// # Errors
    /// What the sinks fail with.
    pub fn end(&mut self) -> Result<()> {
        self.sinks.iter_mut().try_for_each(|sink| sink.end())
    }
}

/// Whether a call waits for many sockets; 0 then says that nothing came in time.
fn is_poll(name: &str) -> bool {
    name.contains("poll") || name.contains("select")
}
