//! One step after the other: who is let into its call next, and what came of it.
//!
//! No more than one thread runs inside a socket call at a time, so that the segments that come are that call's. A
//! thread that sleeps in its call makes room; whoever wakes it is shown first, as it is the cause.

mod show;
mod steps;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::commands::Command;
use super::model::Sink;
use super::networks::Networks;
use super::segments::Segments;
use super::signals::Signals;
use super::states::States;
use super::threads::{Inside, Place};
use super::tracer::Tracer;
use super::wire::Wire;

/// A call that neither ends nor sleeps makes room after this long.
const LONGEST_STEP: Duration = Duration::from_secs(2);

/// The run as it is now.
pub struct Engine<'a> {
    /// The commands, in the order of the command line.
    pub commands: Vec<Command>,
    /// Their processes and threads.
    pub tracer: Tracer,
    /// The capture, if there is one.
    pub wire: Option<Wire>,
    /// What is known of sockets.
    pub states: States,
    /// Ctrl-C, and word of reports.
    pub signals: Signals,
    /// Whether a call of this name is shown.
    pub shows: Box<dyn Fn(&str) -> bool + 'a>,
    /// For `--slow`: after each step.
    pub slow: Duration,
    /// For `--settle`: acknowledgements that the kernel delays come before the next step.
    pub settles: bool,
    /// For `--all`.
    pub shows_all: bool,
    /// When something happened that is not just a wait that was in vain.
    pub last_activity: Instant,
    /// The run has failed, whatever the commands' exit statuses are.
    pub failed: bool,
    networks: Networks,
    sinks: Vec<Box<dyn Sink + 'a>>,
    segments: Segments,
    /// For each thread the call that waited for many sockets in vain last.
    in_vain: HashMap<u32, String>,
    began: Instant,
    /// Who is inside a call, awake.
    holder: Option<i32>,
    /// Of the last step; and since when nobody could be let in.
    steps: u64,
    calls: u64,
    last_step: Instant,
}

impl<'a> Engine<'a> {
    /// Nothing has happened yet.
    pub fn new(
        commands: Vec<Command>,
        wire: Option<Wire>,
        states: States,
        signals: Signals,
        networks: Networks,
        sinks: Vec<Box<dyn Sink + 'a>>,
    ) -> Engine<'a> {
        Engine {
            networks,
            in_vain: HashMap::new(),
            commands,
            tracer: Tracer::default(),
            wire,
            states,
            signals,
            shows: Box::new(|_| true),
            slow: Duration::ZERO,
            settles: false,
            shows_all: false,
            last_activity: Instant::now(),
            failed: false,
            sinks,
            segments: Segments::default(),
            began: Instant::now(),
            holder: None,
            steps: 0,
            calls: 0,
            last_step: Instant::now(),
        }
    }

    /// Goes on by one step, if one can be made now. False: something has to happen first.
    ///
    /// # Errors
    /// What the instruments and the sinks fail with.
    pub fn advance(&mut self) -> Result<bool> {
        let resumed = self.tracer.resume_tracing();
        let collected = self.tracer.collect()?;
        self.print_outputs(false)?;
        self.tell_reports()?;
        if let Some(holder) = self.holder {
            return Ok(self.follow(holder)? || collected || resumed);
        }
        if let Some(id) = self.longest_waiting(|place| matches!(place, Place::Back(..))) {
            self.ended(id)?;
            return Ok(true);
        }
        if !self.all_settled() {
            return Ok(collected || resumed);
        }
        let asks = |place: &Place| matches!(place, Place::Asks(_) | Place::AsksToEnd);
        let Some(id) = self.longest_waiting(asks) else { return Ok(collected || resumed) };
        self.between_steps(false)?;
        self.tap(id)?;
        self.let_in(id);
        Ok(true)
    }

    /// Whether nothing can happen before a timer, a signal or somebody outside acts.
    pub fn idle(&mut self) -> bool {
        let stopped =
            |place: &Place| matches!(place, Place::Asks(_) | Place::AsksToEnd | Place::Back(..) | Place::Ends);
        self.holder.is_none()
            && self.tracer.threads.values_mut().all(|thread| !stopped(&thread.place) && thread.settled())
    }

    /// Whether somebody is inside a call, awake: what is sent now is that call's.
    pub fn in_a_step(&self) -> bool {
        self.holder.is_some()
    }

    /// Whether everybody waits in a call, sleeps, or has made the others wait long enough.
    pub fn all_settled(&mut self) -> bool {
        self.tracer.threads.values_mut().all(|thread| match thread.place {
            // Whoever was seen asleep and has been woken is on its way back to us.
            Place::Inside(_) => thread.makes_room(self.last_step.elapsed() > LONGEST_STEP),
            Place::Runs | Place::Ends => thread.lets_others_go(),
            _ => true,
        })
    }

    /// The thread at such a place that was let in longest ago.
    fn longest_waiting(&self, at: impl Fn(&Place) -> bool) -> Option<i32> {
        let threads = self.tracer.threads.values().filter(|thread| at(&thread.place));
        threads.min_by_key(|thread| (thread.let_in, thread.id)).map(|thread| thread.id)
    }

    /// A new socket may be in a network that is not captured yet.
    fn tap(&mut self, id: i32) -> Result<()> {
        let asks = |place: &Place| matches!(place, Place::Asks(call) if call.spec.name.starts_with("socket"));
        let Some(wire) = &mut self.wire else { return Ok(()) };
        if !self.tracer.threads.get(&id).is_some_and(|thread| asks(&thread.place)) {
            return Ok(());
        }
        if self.networks.add(id).is_ok_and(|new| new) {
            wire.add(self.networks.in_newest(Wire::tap)?);
        }
        Ok(())
    }

    fn let_in(&mut self, id: i32) {
        let Some(thread) = self.tracer.threads.get_mut(&id) else { return };
        self.steps += 1;
        thread.let_in = self.steps;
        thread.moved();
        thread.set_free();
        self.last_step = Instant::now();
        let place = std::mem::replace(&mut thread.place, Place::Ends);
        match place {
            Place::Asks(call) => {
                self.calls += 1;
                let socket = call.socket_inode(id).map(|inode| self.states.socket(inode));
                let inside = Inside {
                    number: self.calls,
                    call: *call,
                    since: Instant::now(),
                    waits: false,
                    wait_shown: false,
                    socket,
                };
                thread.place = Place::Inside(Box::new(inside));
            }
            place => thread.place = if matches!(place, Place::AsksToEnd) { Place::Ends } else { place },
        }
        self.holder = Some(id);
        self.tracer.go_on(id, None);
    }

    /// Looks after the thread that is inside a call. Whether something came of it.
    fn follow(&mut self, id: i32) -> Result<bool> {
        let over = self.last_step.elapsed() > LONGEST_STEP;
        let Some(thread) = self.tracer.threads.get_mut(&id) else {
            self.holder = None; // it ended; the report was told
            return Ok(true);
        };
        let settled = thread.settled();
        let over = over && thread.makes_room(true);
        match &thread.place {
            Place::Back(..) => {
                self.holder = None;
                self.ended(id)?;
            }
            Place::Inside(_) if over || settled && self.wire.as_ref().is_none_or(Wire::is_still) => {
                self.holder = None;
                self.waits(id)?;
            }
            Place::Inside(_) => return Ok(false),
            Place::Ends if !over => return Ok(false),
            _ => self.holder = None,
        }
        Ok(true)
    }

    fn command_of(&mut self, process: i32) -> Option<&mut Command> {
        let command = self.tracer.processes.get(&process)?.command;
        self.commands.get_mut(command)
    }

    /// How long the run has taken so far.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }
}
