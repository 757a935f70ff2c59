//! A step: the call that was made, the segments that it sent, the states that it changed.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;

use super::super::calls::socket_inode;
use super::super::model::{Call, Cause, Mark, Phase, Protocol, Segment, Socket, What};
use super::super::threads::{Inside, Place};
use super::Engine;

impl Engine<'_> {
    /// A thread sleeps in its call: the call is shown, and what it has sent already.
    pub(super) fn waits(&mut self, id: i32) -> Result<()> {
        let Some(thread) = self.tracer.threads.get_mut(&id) else { return Ok(()) };
        let process = thread.process;
        let Place::Inside(inside) = &mut thread.place else { return Ok(()) };
        inside.waits = true;
        let inside = inside.clone();
        if let Some(command) = self.command_of(process) {
            command.ready = true;
        }
        let seen = self.look(&inside)?;
        let mut call = call(id, process, &inside, None);
        call.phase = Phase::Waits;
        let shown = self.show(call, seen)?;
        if let Some(Place::Inside(inside)) = self.tracer.threads.get_mut(&id).map(|thread| &mut thread.place) {
            inside.wait_shown = shown;
        }
        Ok(())
    }

    /// A thread is stopped at the end of its call: the step is shown, then it goes on.
    pub(super) fn ended(&mut self, id: i32) -> Result<()> {
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
        let seen = self.look(&inside)?;
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
        self.show(call, seen)?;
        if let Some(thread) = self.tracer.threads.get_mut(&id) {
            thread.set_free();
        }
        self.tracer.go_on(id, None);
        Ok(())
    }

    /// What the wire and the table have to say after a call.
    pub(super) fn look(&mut self, inside: &Inside) -> Result<Vec<What>> {
        let first = inside.socket.as_ref().and_then(|socket| socket.local);
        let dump = inside.call.may_change_a_state(self.wire.is_some());
        let mut seen = self.gather(Cause::Call(inside.number), first, dump)?;
        let socket = inside.socket.as_ref().map(|socket| self.states.socket(socket.inode));
        for what in &mut seen {
            let What::Segment(segment) = what else { continue };
            let own = segment.cause == Cause::Call(inside.number);
            if own && !(inside.call.may_send() && touches(socket.as_ref(), segment)) {
                segment.cause = if segment.is_timers() { Cause::Timer } else { Cause::Unknown };
            }
        }
        Ok(seen)
    }

    /// Segments, and the states behind them; `dump`: a state may have changed without a segment.
    pub(super) fn gather(&mut self, cause: Cause, first: Option<SocketAddr>, dump: bool) -> Result<Vec<What>> {
        let mut seen: Vec<What> = self.take_segments(cause)?.into_iter().map(What::Segment).collect();
        while dump || !seen.is_empty() {
            let changes = self.states.changes(&self.networks, first)?;
            let looked_at = SystemTime::now();
            if changes.is_empty() {
                break;
            }
            // A segment may have come between the two looks. If it is older than the table, so may be what it did to the
            // states: it stands before them. What it did is then told late, and never before its cause.
            let (before, after): (Vec<_>, Vec<_>) =
                self.take_segments(cause)?.into_iter().partition(|segment| segment.taken_at <= looked_at);
            seen.extend(before.into_iter().map(What::Segment));
            seen.extend(changes.into_iter().map(What::State));
            seen.extend(after.into_iter().map(What::Segment));
        }
        Ok(seen)
    }

    /// The segments since the last look; a call that was let in before and sends now is told from the one of this step.
    pub(super) fn take_segments(&mut self, cause: Cause) -> Result<Vec<Segment>> {
        let Some(wire) = &mut self.wire else { return Ok(Vec::new()) };
        let packets = wire.take()?;
        if !packets.is_empty() {
            self.states.learn_ports(&self.networks)?;
        }
        let mut segments: Vec<Segment> = packets.into_iter().filter_map(|packet| self.segments.read(packet)).collect();
        let all = self.shows_all;
        segments.retain(|segment| self.states.is_ours(segment.source, segment.destination));
        segments.retain(|segment| all || !segment.is_housekeeping());
        for segment in &mut segments {
            segment.cause = match self.sender(segment) {
                _ if segment.cause == Cause::Timer => Cause::Timer,
                Some(number) => Cause::Call(number),
                None if cause == Cause::Unknown && segment.is_timers() => Cause::Timer,
                None => cause,
            };
        }
        Ok(segments)
    }

    /// A call that has waited for room and sends: data leave its own end, and the step is somebody else's.
    pub(super) fn sender(&self, segment: &Segment) -> Option<u64> {
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
        let seen = self.gather(cause, None, timers)?;
        self.show_seen(seen)?;
        Ok(())
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
        phase: if inside.wait_shown { Phase::Returned } else { Phase::Ended },
        took: result.map_or(Duration::ZERO, |_| inside.since.elapsed()),
    }
}

/// Whether a segment can be a call's on this socket: an acknowledgement for another connection is a timer's.
fn touches(socket: Option<&Socket>, segment: &Segment) -> bool {
    let ends = [segment.source, segment.destination];
    let Some(socket) = socket else { return true };
    let local = socket.local.is_none_or(|local| ends.iter().any(|end| end.port() == local.port()));
    let peer = socket.peer.is_none_or(|peer| ends.iter().any(|end| end.port() == peer.port()));
    (local && peer) || !matches!(segment.protocol, Protocol::Tcp(_))
}
