//! What is published.

use std::collections::{HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;

use crate::protocol::{self, Code, Request};

/// The id of the first message: the lecture's example of an id, ten digits long.
pub const FIRST_ID: u64 = 4_325_204_352;
/// So many request ids are remembered; the oldest is forgotten first.
pub const REMEMBERED: usize = 10_000;
/// Times are kept in steps of 100 ns: as many digits as Python shows of time.time().
const STEP_NS: u32 = 100;

/// One message, as it was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Unique on its board; a later message has a larger one.
    pub id: u64,
    /// When it was published: time since 1970-01-01 00:00 UTC, in steps of 100 ns.
    pub time: Duration,
    /// The socket it came from.
    pub author: SocketAddr,
    /// Any bytes; text is UTF-8 by agreement of the clients.
    pub text: Vec<u8>,
}

/// Keeps messages beyond the program's end.
pub trait Journal {
    /// Returns once the message is on disk, and with it the request that published it, if that has an id.
    ///
    /// # Errors
    /// It is not on disk.
    fn append(&self, message: &Message, request: Option<(IpAddr, u64)>) -> Result<()>;
}

/// The time since 1970-01-01 00:00 UTC; zero if the clock stands before it.
pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// All messages, the oldest first.
pub struct Board {
    messages: Vec<Message>,
    next_id: u64,
    /// Which requests with an id were done, and in which order they came.
    done: HashSet<(IpAddr, u64)>,
    done_in_order: VecDeque<(IpAddr, u64)>,
    journal: Option<Box<dyn Journal + Send>>,
}

impl Default for Board {
    fn default() -> Self {
        Board::starting_at(FIRST_ID)
    }
}

impl Board {
    /// An empty board in memory, whose first message gets this id.
    pub fn starting_at(first_id: u64) -> Board {
        Board {
            messages: Vec::new(),
            next_id: first_id,
            done: HashSet::new(),
            done_in_order: VecDeque::new(),
            journal: None,
        }
    }

    /// The board that a journal kept: its messages and the requests with an id that were done, each in the order in
    /// which they came. From now on a message is in the journal before it is on the board.
    pub fn kept(messages: Vec<Message>, done: Vec<(IpAddr, u64)>, journal: Box<dyn Journal + Send>) -> Board {
        let mut board = Board::starting_at(messages.last().map_or(FIRST_ID, |message| message.id + 1));
        board.messages = messages;
        done.into_iter().for_each(|request| board.remember(request));
        board.journal = Some(journal);
        board
    }

    /// Publishes and returns the message's id.
    ///
    /// # Errors
    /// The journal could not be written; then nothing is published. A board in memory has no error.
    pub fn publish(&mut self, author: SocketAddr, time: Duration, text: &[u8]) -> Result<u64> {
        self.append(author, time, text, None)
    }

    /// As [`Board::publish`], but a request that was done before is not done again: then it returns `None`.
    ///
    /// # Errors
    /// As [`Board::publish`].
    pub fn publish_once(
        &mut self,
        author: SocketAddr,
        time: Duration,
        request_id: u64,
        text: &[u8],
    ) -> Result<Option<u64>> {
        let request = (author.ip(), request_id);
        if self.done.contains(&request) {
            return Ok(None);
        }
        let id = self.append(author, time, text, Some(request))?;
        self.remember(request);
        Ok(Some(id))
    }

    /// The last `count` messages, the oldest of them first; 0 means all.
    pub fn last(&self, count: u64) -> &[Message] {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let from = if count == 0 { 0 } else { self.messages.len().saturating_sub(count) };
        &self.messages[from..]
    }

    /// The message with this id.
    pub fn get(&self, id: u64) -> Option<&Message> {
        let at = self.messages.binary_search_by_key(&id, |message| message.id).ok()?;
        self.messages.get(at)
    }

    /// What the server answers to a request from `author` that came at `time`: bytes to bytes.
    ///
    /// # Errors
    /// As [`Board::publish`]: nothing was done, and nothing may be answered as if it were.
    pub fn answer(&mut self, request: &[u8], author: SocketAddr, time: Duration) -> Result<Vec<u8>> {
        match Request::parse(request) {
            Ok(request) => self.carry_out(&request, author, time),
            Err(code) => Ok(code.reply()),
        }
    }

    /// As [`Board::answer`], for a request that is parsed already.
    ///
    /// # Errors
    /// As [`Board::publish`].
    pub fn carry_out(&mut self, request: &Request, author: SocketAddr, time: Duration) -> Result<Vec<u8>> {
        Ok(match *request {
            Request::Publish { text } => self.publish(author, time, text).map(|_| Code::Ok.reply())?,
            Request::PublishOnce { request_id, text } => {
                self.publish_once(author, time, request_id, text).map(|_| Code::Ok.reply())?
            }
            Request::Last { count } => protocol::reply_to_last(self.last(count)),
            Request::Get { id } => self.get(id).map_or_else(|| Code::NotFound.reply(), protocol::reply_to_get),
            Request::GetLast { count } => protocol::reply_to_get_last(self.last(count)),
        })
    }

    fn append(
        &mut self,
        author: SocketAddr,
        time: Duration,
        text: &[u8],
        request: Option<(IpAddr, u64)>,
    ) -> Result<u64> {
        let message = Message {
            id: self.next_id,
            time: Duration::new(time.as_secs(), time.subsec_nanos() / STEP_NS * STEP_NS),
            author: SocketAddr::new(author.ip(), author.port()), // without IPv6's scope: the wire has no place for it
            text: text.into(),
        };
        if let Some(journal) = &self.journal {
            journal.append(&message, request)?;
        }
        self.messages.push(message);
        self.next_id += 1;
        Ok(self.next_id - 1)
    }

    fn remember(&mut self, request: (IpAddr, u64)) {
        self.done.insert(request);
        self.done_in_order.push_back(request);
        if self.done_in_order.len() > REMEMBERED {
            let oldest = self.done_in_order.pop_front();
            oldest.map(|oldest| self.done.remove(&oldest));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn author() -> SocketAddr {
        "127.0.0.1:34234".parse().unwrap()
    }

    fn texts(messages: &[Message]) -> Vec<&[u8]> {
        messages.iter().map(|message| message.text.as_slice()).collect()
    }

    #[test]
    fn the_last_n_come_oldest_first_and_zero_means_all() {
        let mut board = Board::default();
        assert!(board.last(0).is_empty() && board.last(7).is_empty());
        for text in ["one", "two", "three"] {
            board.publish(author(), now(), text.as_bytes()).unwrap();
        }
        assert_eq!(texts(board.last(2)), [b"two".as_slice(), b"three"]);
        assert_eq!(board.last(0).len(), 3);
        assert_eq!(board.last(u64::MAX).len(), 3);
    }

    #[test]
    fn ids_rise_and_find_their_message() {
        let mut board = Board::default();
        let first = board.publish(author(), now(), b"one").unwrap();
        let second = board.publish(author(), now(), b"two").unwrap();
        assert_eq!((first, second), (FIRST_ID, FIRST_ID + 1));
        assert_eq!(board.get(second).unwrap().text, b"two");
        assert!(board.get(second + 1).is_none() && board.get(0).is_none());
    }

    #[test]
    fn a_request_with_an_id_is_done_once_for_each_address() {
        let mut board = Board::default();
        let elsewhere = "127.0.0.2:34234".parse().unwrap();
        let other_port = "127.0.0.1:1".parse().unwrap();
        assert!(board.publish_once(author(), now(), 9973, b"once").unwrap().is_some());
        assert!(board.publish_once(author(), now(), 9973, b"once").unwrap().is_none());
        assert!(board.publish_once(other_port, now(), 9973, b"once").unwrap().is_none());
        assert!(board.publish_once(elsewhere, now(), 9973, b"another").unwrap().is_some());
        assert_eq!(texts(board.last(0)), [b"once".as_slice(), b"another"]);
    }

    #[test]
    fn only_the_newest_request_ids_are_remembered() {
        let mut board = Board::default();
        for request_id in 0..=REMEMBERED as u64 {
            board.publish_once(author(), now(), request_id, b"").unwrap();
        }
        assert!(board.publish_once(author(), now(), 1, b"").unwrap().is_none());
        assert!(board.publish_once(author(), now(), 0, b"").unwrap().is_some());
        assert_eq!((board.done.len(), board.done_in_order.len()), (REMEMBERED, REMEMBERED));
    }
}
