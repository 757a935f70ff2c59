//! A message board that outlives its program: messages in a redb database, each on disk before it is confirmed.
//!
//! A crate of its own, so that only a lab with `--journal` builds the database.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use board::{Board, Journal, Message, REMEMBERED, message, reply_to_get};
use redb::{Database, Durability, ReadableTable, ReadableTableMetadata, TableDefinition};

/// Id of a message to the answer to "get" that it has on the wire, without its code.
const MESSAGES: TableDefinition<u64, &[u8]> = TableDefinition::new("messages");
/// Id of a message to the request that published it: the client's address as text, and its request id.
const REQUESTS: TableDefinition<u64, (&str, u64)> = TableDefinition::new("requests");

struct File {
    database: Database,
}

/// The board that this file keeps; the file is made if it is missing.
///
/// # Errors
/// The file cannot be opened, is no journal, or another process has it open.
pub fn open(path: &Path) -> Result<Board> {
    let database = Database::create(path).with_context(|| format!("open the journal {}", path.display()))?;
    let transaction = database.begin_write()?;
    transaction.open_table(MESSAGES)?;
    transaction.open_table(REQUESTS)?;
    transaction.commit()?;
    let file = File { database };
    let (messages, done) = file.read()?;
    Ok(Board::kept(messages, done, Box::new(file)))
}

/// The messages, and the requests with an id that were done; both in the order in which they came.
type Kept = (Vec<Message>, Vec<(IpAddr, u64)>);

impl File {
    fn read(&self) -> Result<Kept> {
        let transaction = self.database.begin_write()?; // a reader; as a writer it needs no trait of its own
        let (mut messages, mut requests) = (Vec::new(), Vec::new());
        for row in transaction.open_table(MESSAGES)?.iter()? {
            let (id, answer) = row?;
            messages.push(message(id.value(), answer.value())?);
        }
        for row in transaction.open_table(REQUESTS)?.iter()? {
            let (_, request) = row?;
            let (address, request_id) = request.value();
            requests
                .push((address.parse().map_err(|_| anyhow!("{address} in the journal is no address"))?, request_id));
        }
        transaction.abort()?;
        Ok((messages, requests))
    }
}

impl Journal for File {
    /// redb calls fdatasync(2) before it returns.
    fn append(&self, message: &Message, request: Option<(IpAddr, u64)>) -> Result<()> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate);
        {
            let answer = reply_to_get(message);
            transaction.open_table(MESSAGES)?.insert(message.id, &answer[2..])?; // without "0:"
            if let Some((address, request_id)) = request {
                let mut requests = transaction.open_table(REQUESTS)?;
                requests.insert(message.id, (address.to_string().as_str(), request_id))?;
                while requests.len()? > REMEMBERED as u64 {
                    requests.pop_first()?;
                }
            }
        }
        transaction.commit().context("write the journal")
    }
}

#[cfg(test)]
mod tests {
    use std::{env, fs, path::PathBuf, process};

    use board::{FIRST_ID, now};

    use super::open;

    struct Temporary(PathBuf);

    impl Drop for Temporary {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    #[test]
    fn a_journal_brings_back_messages_request_ids_and_the_next_id() {
        let file = Temporary(env::temp_dir().join(format!("board-{}.redb", process::id())));
        let author = "[::1]:7777".parse().unwrap();
        let mut board = open(&file.0).unwrap();
        board.publish(author, now(), b"a:b\xff\n").unwrap();
        board.publish_once(author, now(), 9973, b"once").unwrap();
        let before = board.last(0).to_vec();
        assert!(open(&file.0).is_err(), "two processes must not write one journal");
        drop(board);

        let mut board = open(&file.0).unwrap();
        assert_eq!(board.last(0), before);
        assert!(board.publish_once(author, now(), 9973, b"once").unwrap().is_none());
        assert_eq!(board.publish(author, now(), b"next").unwrap(), FIRST_ID + 2);
    }

    #[test]
    fn a_file_that_is_no_journal_is_refused_and_kept() {
        let file = Temporary(env::temp_dir().join(format!("board-{}.txt", process::id())));
        fs::write(&file.0, "no journal\n").unwrap();
        assert!(open(&file.0).is_err());
        assert_eq!(fs::read_to_string(&file.0).unwrap(), "no journal\n");
    }
}
