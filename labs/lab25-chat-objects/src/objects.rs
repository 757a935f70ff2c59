//! The interfaces of the objects, and what travels between them.
//!
//! `#[remote]` makes of each trait a reference (`ChatClient`: it can be sent) and what serves the object
//! (`ChatServerShared`). A call on the reference becomes bytes, and runs where the object lives.

use std::fmt;

use remoc::rtc::{CallError, remote};
use serde::{Deserialize, Serialize};

use crate::lines::LINE_LIMIT;

/// A name is at most so long, in bytes.
const NAME_LIMIT: usize = 32;
/// A text is at most as long as a line, in bytes.
pub const TEXT_LIMIT: usize = LINE_LIMIT;

/// Lives in the server; the first reference that a client gets.
#[remote]
pub trait Chat {
    /// Lets a user in. The user's own object stays in the server, `window` stays in the client.
    async fn register(&self, name: String, window: Option<WindowClient>) -> Result<UserClient, ChatError>;
    /// Who is in.
    async fn get_users(&self) -> Result<Vec<String>, ChatError>;
    /// The reference to a user's window, handed on.
    async fn window_of(&self, name: String) -> Result<WindowClient, ChatError>;
}

/// Lives in the server, one for each user. Its user is in as long as a reference to it exists.
#[remote]
pub trait User {
    /// Says something to all.
    async fn post(&self, text: String) -> Result<(), ChatError>;
    /// Says something to one.
    async fn post_private(&self, text: String, to: String) -> Result<(), ChatError>;
    /// What this user was not shown yet.
    async fn get(&self) -> Result<Vec<Message>, ChatError>;
}

/// Lives in the client; the server calls it.
#[remote]
pub trait Window {
    /// Shows a message, then returns the id of the process that has shown it.
    async fn show(&self, message: Message) -> Result<u32, CallError>;
}

/// Travels by value: whoever receives it has a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub from: String,
    /// For one user only.
    pub private: bool,
    pub text: String,
}

/// As in the lecture: `From ann : hello`.
impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let to_you = if self.private { " to you" } else { "" };
        write!(f, "From {}{to_you} : {}", self.from, self.text)
    }
}

/// Why a call was refused; it travels to the caller as a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChatError {
    NameTaken {
        name: String,
        users: usize,
    },
    BadName,
    NoSuchUser {
        name: String,
    },
    NoWindow {
        name: String,
    },
    TooLong {
        bytes: usize,
    },
    Full {
        users: usize,
    },
    /// The call itself failed: the other process, or the connection, is gone.
    Call {
        why: String,
    },
}

impl From<CallError> for ChatError {
    fn from(error: CallError) -> Self {
        ChatError::Call { why: error.to_string() }
    }
}

impl std::error::Error for ChatError {}

impl fmt::Display for ChatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChatError::NameTaken { name, users } => write!(f, "the name {name} is taken; {users} users are in"),
            ChatError::BadName => write!(f, "a name has 1 to {NAME_LIMIT} bytes: letters, digits, - and _"),
            ChatError::NoSuchUser { name } => write!(f, "no user {name} is in"),
            ChatError::NoWindow { name } => write!(f, "{name} has no window"),
            ChatError::TooLong { bytes } => write!(f, "a text of {bytes} bytes; at most {TEXT_LIMIT} are taken"),
            ChatError::Full { users } => write!(f, "{users} users are in; that is the limit"),
            ChatError::Call { why } => write!(f, "the remote call failed: {why}"),
        }
    }
}

/// A name that can be shown on any terminal and typed behind /private.
pub fn checked_name(name: &str) -> Result<String, ChatError> {
    let named = name.chars().all(|character| character.is_alphanumeric() || "-_".contains(character));
    if named && (1..=NAME_LIMIT).contains(&name.len()) { Ok(name.into()) } else { Err(ChatError::BadName) }
}
