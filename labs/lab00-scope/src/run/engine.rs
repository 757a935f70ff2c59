//! One step after the other: who is let into its call next, and what came of it.
//!
//! No more than one thread runs inside a socket call at a time, so that the segments that come are that call's. A
//! thread that sleeps in its call makes room; whoever wakes it is shown first, as it is the cause.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::calls::socket_inode;
use super::commands::Command;
use super::model::{Call, Cause, Event, Mark, Phase, Protocol, Segment, Sink, Socket, StateChange, What};
use super::networks::Networks;
use super::segments::Segments;
use super::signals::Signals;
use super::states::States;
use super::threads::{Inside, Place};
use super::tracer::{Report, Tracer};
use super::wire::Wire;

/// A thread that computes is waited for as long after each of its calls, so that the same run has the same order.
const PATIENCE: Duration = Duration::from_millis(200);
/// The kernel delays an acknowledgement for no longer: include/net/tcp.h, TCP_DELACK_MAX.
const LONGEST_DELAY: Duration = Duration::from_millis(250);
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

    /// Whether everybody waits in a call, sleeps, or has waited long enough for the others.
    fn all_settled(&mut self) -> bool {
        self.tracer.threads.values_mut().all(|thread| match thread.place {
            // Whoever was seen asleep and has been woken is on its way back to us.
            Place::Inside(_) => thread.asleep() || self.last_step.elapsed() > LONGEST_STEP,
            Place::Runs | Place::Ends => thread.free_since.elapsed() > PATIENCE || thread.settled(),
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
        self.last_step = Instant::now();
        let place = std::mem::replace(&mut thread.place, Place::Ends);
        match place {
            Place::Asks(call) => {
                self.calls += 1;
                let socket = call.socket_inode(id).map(|inode| self.states.socket(inode));
                let inside = Inside { number: self.calls, call: *call, since: Instant::now(), waits: false, socket };
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

    /// A thread sleeps in its call: the call is shown, and what it has sent already.
    fn waits(&mut self, id: i32) -> Result<()> {
        let Some(thread) = self.tracer.threads.get_mut(&id) else { return Ok(()) };
        let process = thread.process;
        let Place::Inside(inside) = &mut thread.place else { return Ok(()) };
        inside.waits = true;
        let inside = inside.clone();
        if let Some(command) = self.command_of(process) {
            command.ready = true;
        }
        let (segments, changes) = self.look(&inside)?;
        let mut call = call(id, process, &inside, None);
        call.phase = Phase::Waits;
        self.show(call, segments, changes)
    }

    /// A thread is stopped at the end of its call: the step is shown, then it goes on.
    fn ended(&mut self, id: i32) -> Result<()> {
        let Some(thread) = self.tracer.threads.get_mut(&id) else { return Ok(()) };
        let process = thread.process;
        let (inside, result) = match std::mem::replace(&mut thread.place, Place::Runs) {
            Place::Back(inside, result) => (inside, result),
            place => {
                thread.place = place;
                return Ok(());
            }
        };
        self.last_step = Instant::now();
        if inside.call.spec.name == "listen"
            && result == 0
            && let Some(command) = self.command_of(process)
        {
            command.listens = true;
        }
        self.states.learn_from(&inside.call, id, result);
        for inode in [inside.call.socket_inode(id), i32::try_from(result).ok().and_then(|fd| socket_inode(id, fd))] {
            inode.into_iter().for_each(|inode| self.states.own(inode, process as u32));
        }
        let (segments, changes) = self.look(&inside)?;
        let mut call = call(id, process, &inside, Some(result));
        let known = |inode: Option<u64>| inode.map(|inode| self.states.socket(inode));
        if result >= 0 && call.name.starts_with("accept") {
            call.accepted = known(socket_inode(id, result as i32));
        }
        let made = if call.name == "socket" { socket_inode(id, result as i32) } else { None };
        let now = known(made.or(inside.call.socket_inode(id)));
        call.socket = now.or(call.socket);
        if let Some(socket) = call.socket.iter().find(|socket| socket.protocol == "NETLINK" && !self.shows_all) {
            self.tracer.unseen.insert(socket.inode);
        }
        self.show(call, segments, changes)?;
        self.pause()?;
        if let Some(thread) = self.tracer.threads.get_mut(&id) {
            thread.free_since = Instant::now();
        }
        self.tracer.go_on(id, None);
        Ok(())
    }

    /// What the wire and the table have to say after a call.
    fn look(&mut self, inside: &Inside) -> Result<(Vec<Segment>, Vec<StateChange>)> {
        let first = inside.socket.as_ref().and_then(|socket| socket.local);
        let mut segments = self.take_segments(Cause::Unknown)?;
        let mut changes = Vec::new();
        while inside.call.may_change_a_state() || !segments.is_empty() {
            let now = self.states.changes(&self.networks, first)?;
            if now.is_empty() {
                break;
            }
            // A timer may act between the two looks: the segment that explains a state is looked for once more.
            changes.extend(now);
            segments.extend(self.take_segments(Cause::Unknown)?);
        }
        let socket = inside.socket.as_ref().map(|socket| self.states.socket(socket.inode));
        for segment in &mut segments {
            if segment.cause == Cause::Unknown {
                let causes = inside.call.may_send() && touches(socket.as_ref(), segment);
                segment.cause = if causes { Cause::Call(inside.number) } else { Cause::Timer };
            }
        }
        Ok((segments, changes))
    }

    fn show(&mut self, call: Call, segments: Vec<Segment>, changes: Vec<StateChange>) -> Result<()> {
        if self.is_shown(&call) {
            self.told(call.process as i32)?;
            self.emit(What::Call(call))?;
        }
        let sent = !segments.is_empty();
        self.show_wire(segments, changes)?;
        if self.settles && sent {
            self.settle()?;
        }
        Ok(())
    }

    /// Calls that tell a class nothing are left out: the kernel's own tables, a descriptor's flags, waits in vain.
    fn is_shown(&mut self, call: &Call) -> bool {
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
        (self.shows_all || !dull) && (self.shows)(call.name)
    }

    /// Waits until what was sent is acknowledged, and shows what comes.
    fn settle(&mut self) -> Result<()> {
        let began = Instant::now();
        while self.segments.in_flight() && began.elapsed() < LONGEST_DELAY {
            self.signals.sleep(Duration::from_millis(1))?;
            let segments = self.take_segments(Cause::Timer)?;
            if !segments.is_empty() {
                let changes = self.states.changes(&self.networks, None)?;
                self.show_wire(segments, changes)?;
            }
        }
        Ok(())
    }

    fn show_wire(&mut self, segments: Vec<Segment>, changes: Vec<StateChange>) -> Result<()> {
        for segment in segments {
            self.emit(What::Segment(segment))?;
        }
        let lost = self.wire.as_ref().map_or(Ok(0), Wire::lost)?;
        if lost > 0 {
            self.emit(What::Lost { packets: lost })?;
        }
        for change in changes {
            self.emit(What::State(change))?;
        }
        self.sinks.iter_mut().try_for_each(|sink| sink.step())
    }

    /// The segments since the last look; a call that was let in before and sends now is told from the one of this step.
    fn take_segments(&mut self, cause: Cause) -> Result<Vec<Segment>> {
        let Some(wire) = &mut self.wire else { return Ok(Vec::new()) };
        let mut segments = Vec::new();
        for packet in wire.take()? {
            segments.extend(self.segments.read(packet));
        }
        let all = self.shows_all;
        segments.retain(|segment| self.states.is_ours(segment.source, segment.destination));
        segments.retain(|segment| all || !segment.is_housekeeping());
        for segment in &mut segments {
            segment.cause = self.sender(segment).map_or(cause, Cause::Call);
        }
        Ok(segments)
    }

    /// A call that has waited for room and sends: data leave its own end, and the step is somebody else's.
    fn sender(&self, segment: &Segment) -> Option<u64> {
        let again = segment.marks.contains(&Mark::Retransmission);
        if again || segment.payload == 0 || !matches!(segment.protocol, Protocol::Tcp(_)) {
            return None;
        }
        self.tracer.threads.values().find_map(|thread| match &thread.place {
            Place::Inside(inside) | Place::Back(inside, _) => {
                let sends = inside.waits && inside.call.sends();
                let from = inside.socket.as_ref().and_then(|socket| socket.local);
                (sends && from == Some(segment.source)).then_some(inside.number)
            }
            _ => None,
        })
    }

    /// What happened without a call: timers, and programs outside. `timers`: a state may have changed without a segment.
    ///
    /// # Errors
    /// What the instruments and the sinks fail with.
    pub fn between_steps(&mut self, timers: bool) -> Result<()> {
        let cause = if self.idle() { Cause::Timer } else { Cause::Unknown };
        let segments = self.take_segments(cause)?;
        if timers || !segments.is_empty() {
            let changes = self.states.changes(&self.networks, None)?;
            self.show_wire(segments, changes)?;
        }
        Ok(())
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

    fn tell_reports(&mut self) -> Result<()> {
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
                    let segments = self.take_segments(Cause::End(process as u32))?;
                    let changes = self.states.changes(&self.networks, None)?;
                    self.show_wire(segments, changes)?;
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
    fn told(&mut self, process: i32) -> Result<()> {
        let known = self.tracer.processes.get(&process);
        if known.is_some_and(|known| !known.told && known.began) { self.tell_start(process) } else { Ok(()) }
    }

    fn tell_start(&mut self, process: i32) -> Result<()> {
        let Some(known) = self.tracer.processes.get_mut(&process) else { return Ok(()) };
        known.told = true;
        let (program, parent) = (known.program.clone(), known.parent.map(|parent| parent as u32));
        self.emit(What::Started { process: process as u32, parent, program })
    }

    fn command_of(&mut self, process: i32) -> Option<&mut Command> {
        let command = self.tracer.processes.get(&process)?.command;
        self.commands.get_mut(command)
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

    fn emit(&mut self, what: What) -> Result<()> {
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

    /// For `--slow`; Ctrl-C cuts it short.
    fn pause(&mut self) -> Result<()> {
        self.signals.sleep(self.slow)
    }

    /// How long the run has taken so far.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }
}

/// What is shown of a call.
fn call(id: i32, process: i32, inside: &Inside, result: Option<i64>) -> Call {
    Call {
        number: inside.number,
        process: process as u32,
        thread: id as u32,
        text: result.map_or_else(|| inside.call.waiting(), |result| inside.call.ended(id, result)),
        short: inside.call.short(id, result),
        name: inside.call.spec.name,
        fd: inside.call.fd(),
        result,
        socket: inside.socket.clone(),
        accepted: None,
        phase: if inside.waits { Phase::Returned } else { Phase::Ended },
        took: result.map_or(Duration::ZERO, |_| inside.since.elapsed()),
    }
}

/// Whether a call waits for many sockets; 0 then says that nothing came in time.
fn is_poll(name: &str) -> bool {
    name.contains("poll") || name.contains("select")
}

/// Whether a segment can be a call's on this socket: an acknowledgement for another connection is a timer's.
fn touches(socket: Option<&Socket>, segment: &Segment) -> bool {
    let ends = [segment.source, segment.destination];
    let Some(socket) = socket else { return true };
    let local = socket.local.is_none_or(|local| ends.iter().any(|end| end.port() == local.port()));
    let peer = socket.peer.is_none_or(|peer| ends.iter().any(|end| end.port() == peer.port()));
    (local && peer) || !matches!(segment.protocol, Protocol::Tcp(_))
}
