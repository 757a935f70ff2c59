//! The client's end of one session: open, request, answer, end.

use std::{fmt, time::Duration};

use super::{
    Assembly, Outgoing, Repeat, Taken, Timing,
    wire::{Datagram, Refusal},
};

/// What is known of the request when the session fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processed {
    /// Its last block was never sent.
    No,
    /// Its last block was sent, and not every block is confirmed.
    Perhaps,
    /// Every block is confirmed: the server has the whole request, and only its answer is missing.
    Yes,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The server said no.
    Refused(Refusal, Processed),
    /// So many attempts were not answered.
    Silence(u32, Processed),
    /// The answer is longer than this limit, in bytes.
    TooLong(usize, Processed),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let processed = match self {
            Failure::Refused(why, processed) => write!(f, "{why}").map(|()| processed),
            Failure::Silence(attempts, processed) => write!(f, "no answer to {attempts} attempts").map(|()| processed),
            Failure::TooLong(limit, processed) => {
                write!(f, "the answer is longer than {limit} bytes").map(|()| processed)
            }
        }?;
        f.write_str(match processed {
            Processed::No => "; the request was not carried out",
            Processed::Perhaps => "; nobody here knows whether the request was carried out",
            Processed::Yes => "; the server had the whole request",
        })
    }
}

#[derive(Debug)]
enum Phase {
    /// Asking for a session.
    Opening(Repeat),
    /// Sending the request.
    Sending,
    /// The request is confirmed; the answer comes. The repetition asks a silent server whether it is still there.
    Hearing(Repeat),
    /// The answer is whole; the server may forget the session.
    Ending(Repeat),
    Done(Result<(), Failure>),
}

/// One request and its answer.
#[derive(Debug)]
pub struct ClientEnd {
    token: u32,
    window: u32,
    timing: Timing,
    session: u32,
    phase: Phase,
    request: Outgoing,
    answer: Assembly,
    answer_limit: usize,
    outbox: Vec<Vec<u8>>,
}

impl ClientEnd {
    /// Starts now. `token` is random: a late double of an old opening must not look like this one.
    pub fn new(token: u32, request: Vec<u8>, window: u32, timing: Timing, answer_limit: usize, now: Duration) -> Self {
        ClientEnd {
            token,
            window,
            timing,
            session: 0,
            phase: Phase::Opening(Repeat::due_at(now)),
            request: Outgoing::new(request, window, timing),
            answer: Assembly::new(answer_limit),
            answer_limit,
            outbox: Vec::new(),
        }
    }

    /// Takes a datagram of the server.
    pub fn hear(&mut self, datagram: &[u8], now: Duration) {
        let Some(datagram) = Datagram::parse(datagram) else { return };
        match (datagram, &self.phase) {
            (_, Phase::Done(_)) => {}
            (Datagram::Session { token, session }, Phase::Opening(_)) if token == self.token => {
                self.session = session;
                self.phase = Phase::Sending;
            }
            (Datagram::Refused { id, why }, Phase::Opening(_)) if id == self.token => {
                self.fail(Failure::Refused(why, Processed::No));
            }
            (_, Phase::Opening(_)) => {}
            (Datagram::Confirm { session, number, next }, _) if session == self.session => {
                self.request.confirm(number, next);
                match &mut self.phase {
                    Phase::Sending if self.request.is_confirmed() => self.wait_for_answer(now),
                    Phase::Hearing(_) => self.wait_for_answer(now),
                    _ => {}
                }
            }
            (Datagram::Block { session, number, last, bytes }, _) if session == self.session => {
                match self.answer.take(number, last, bytes) {
                    Taken::New | Taken::Again => {
                        let next = self.answer.next();
                        self.outbox.push(Datagram::Confirm { session, number, next }.bytes());
                        if self.answer.is_whole() && !matches!(self.phase, Phase::Ending(_)) {
                            self.phase = Phase::Ending(Repeat::due_at(now));
                        } else if !self.answer.is_whole() {
                            self.wait_for_answer(now); // who answers has the whole request
                        }
                    }
                    Taken::Refused => {}
                    Taken::TooLong => self.fail(Failure::TooLong(self.answer_limit, Processed::Yes)),
                }
            }
            (Datagram::End { session }, Phase::Ending(_)) if session == self.session => {
                self.phase = Phase::Done(Ok(()))
            }
            (Datagram::Refused { id, why }, phase) if id == self.session => match phase {
                Phase::Ending(_) => self.phase = Phase::Done(Ok(())), // the answer is here; no session is what we want
                _ => self.fail(Failure::Refused(why, self.processed())),
            },
            _ => {}
        }
    }

    fn wait_for_answer(&mut self, now: Duration) {
        self.phase = Phase::Hearing(Repeat { at: now + self.timing.first, attempts: 0 });
    }

    fn fail(&mut self, failure: Failure) {
        self.phase = Phase::Done(Err(failure));
    }

    fn processed(&self) -> Processed {
        match self.phase {
            Phase::Hearing(_) | Phase::Ending(_) => Processed::Yes,
            _ if self.request.is_confirmed() => Processed::Yes,
            _ if self.request.is_sent() => Processed::Perhaps,
            _ => Processed::No,
        }
    }

    /// What to send now.
    pub fn due(&mut self, now: Duration) -> Vec<Vec<u8>> {
        let processed = self.processed();
        let failed = |attempts| Phase::Done(Err(Failure::Silence(attempts, processed)));
        let mut due = std::mem::take(&mut self.outbox);
        match &mut self.phase {
            Phase::Opening(repeat) => match repeat.now(now, &self.timing) {
                Some(true) => due.push(Datagram::Open { token: self.token, window: self.window }.bytes()),
                Some(false) => {}
                None => self.phase = failed(self.timing.attempts),
            },
            Phase::Sending => match self.request.due(now) {
                Some(numbers) => {
                    due.extend(numbers.into_iter().map(|number| self.request.datagram(self.session, number)));
                }
                None => self.phase = failed(self.timing.attempts),
            },
            // The last block once more: a server that lives confirms it again, a new one refuses it.
            Phase::Hearing(repeat) => match repeat.now(now, &self.timing) {
                Some(true) => due.push(self.request.datagram(self.session, self.request.blocks())),
                Some(false) => {}
                None => self.phase = failed(self.timing.attempts),
            },
            Phase::Ending(repeat) => match repeat.now(now, &self.timing) {
                Some(true) => due.push(Datagram::End { session: self.session }.bytes()),
                Some(false) => {}
                None => self.phase = Phase::Done(Ok(())), // the answer is here; the server forgets by itself
            },
            Phase::Done(_) => {}
        }
        due
    }

    /// When to call [`ClientEnd::due`] again, if nothing comes before; `None`: done.
    pub fn deadline(&self) -> Option<Duration> {
        if !self.outbox.is_empty() {
            return Some(Duration::ZERO);
        }
        match &self.phase {
            Phase::Opening(repeat) | Phase::Hearing(repeat) | Phase::Ending(repeat) => Some(repeat.at),
            Phase::Sending => Some(self.request.deadline().unwrap_or_default()),
            Phase::Done(_) => None,
        }
    }

    /// How it ended: the answer, or why there is none. `None`: not yet.
    pub fn result(&mut self) -> Option<Result<Vec<u8>, Failure>> {
        match self.phase {
            Phase::Done(Ok(())) => Some(Ok(self.answer.hand_out().unwrap_or_default())),
            Phase::Done(Err(failure)) => Some(Err(failure)),
            _ => None,
        }
    }

    /// The session's number; 0 before there is one.
    pub fn session(&self) -> u32 {
        self.session
    }

    /// Blocks of the request: how many there are, how many were sent again.
    pub fn blocks(&self) -> (u32, u32) {
        (self.request.blocks(), self.request.repeated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMING: Timing = Timing { first: Duration::from_millis(100), most: Duration::from_secs(1), attempts: 3 };

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// A client whose request, one block, is confirmed.
    fn waiting() -> ClientEnd {
        let mut client = ClientEnd::new(17, b"2:0".to_vec(), 1, TIMING, 1000, ms(0));
        assert_eq!(client.due(ms(0)), [b"O:17:1"]);
        client.hear(b"S:18:4711", ms(1)); // the answer to somebody else
        client.hear(b"S:17:4711", ms(1));
        assert_eq!(client.due(ms(1)), [b"L:4711:1:2:0"]);
        client.hear(b"C:4712:1:2", ms(2));
        client.hear(b"C:4711:1:2", ms(2));
        client
    }

    #[test]
    fn while_it_waits_for_the_answer_it_asks_whether_the_server_still_lives() {
        let mut client = waiting();
        assert!(client.due(ms(50)).is_empty());
        assert_eq!(client.due(ms(102)), [b"L:4711:1:2:0"]);
        client.hear(b"C:4711:1:2", ms(103)); // it does: the patience begins anew
        assert_eq!([150, 203, 303, 503].map(|at| client.due(ms(at)).len()), [0, 1, 1, 1]);
        assert!(client.due(ms(903)).is_empty());
        assert_eq!(client.result(), Some(Err(Failure::Silence(3, Processed::Yes))));
        let mut client = waiting();
        client.hear(b"X:4711:unknown", ms(103)); // a new server: it knows nothing
        assert_eq!(client.result(), Some(Err(Failure::Refused(Refusal::Unknown, Processed::Yes))));
    }

    #[test]
    fn the_answer_counts_even_if_nobody_confirms_the_end() {
        let mut client = waiting();
        client.hear(b"L:4711:1:0:", ms(3));
        assert_eq!(client.due(ms(3)), [b"C:4711:1:2".to_vec(), b"E:4711".to_vec()]);
        assert_eq!(client.result(), None);
        assert_eq!([103, 303, 703].map(|at| client.due(ms(at)).len()), [1, 1, 0]);
        assert_eq!((client.result(), client.deadline()), (Some(Ok(b"0:".to_vec())), None));
    }
}
