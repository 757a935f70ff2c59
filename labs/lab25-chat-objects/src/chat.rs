//! The chat as an object: users, messages, and who still has to be shown what. No socket in it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use remoc::{
    codec,
    rtc::{Client, ServerShared, async_trait},
};
use tokio::{select, sync::Notify};

use crate::{
    bell::Bell,
    objects::{
        Chat, ChatError, Message, TEXT_LIMIT, User, UserClient, UserServerShared, Window, WindowClient, checked_name,
    },
};

/// So many public messages are kept for those who come later.
const HISTORY: usize = 200;
/// A user who takes no messages is put out when more than so many wait.
const WAITING: usize = 300;
/// So many users fit in.
const USERS: usize = 200;
/// More of a message is not shown on the server's terminal.
const SHOWN: usize = 60;
/// Why a user leaves whose process has ended, or whose connection is closed.
const GONE: &str = "its references are gone";
/// Requests that wait for an object before its callers do.
pub const REQUESTS: usize = 16;

/// The object that every client gets a reference to.
pub struct Room {
    state: Mutex<State>,
    /// Hears what the server tells on its terminal.
    events: Bell<String>,
    /// As in the lecture: who registers a name that is taken gets it.
    overwrite: bool,
}

#[derive(Default)]
struct State {
    users: BTreeMap<String, Arc<Member>>,
    messages: VecDeque<Message>,
    posted: usize,
}

/// A user's object in the server.
struct Member {
    name: String,
    window: Option<WindowClient>,
    room: Arc<Room>,
    /// What was not shown yet, in order.
    unseen: Mutex<VecDeque<Message>>,
    news: Notify,
    /// The user is put out.
    out: Notify,
}

/// A panic while a lock was held leaves whole messages behind: each change below is one push, insert or remove.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Room {
    pub fn new(events: Bell<String>, overwrite: bool) -> Arc<Room> {
        Arc::new(Room { state: Mutex::default(), events, overwrite })
    }

    /// How many messages were posted.
    pub fn posted(&self) -> usize {
        locked(&self.state).posted
    }

    fn tell(&self, event: String) {
        self.events.ring(event);
    }

    /// Takes a user off the list, unless the name has another user by now.
    fn forget(&self, member: &Arc<Member>, why: &str) {
        let mut state = locked(&self.state);
        if state.users.get(&member.name).is_some_and(|user| Arc::ptr_eq(user, member)) {
            state.users.remove(&member.name);
            self.tell(format!("{} leaves: {why}", member.name));
        }
        drop(state);
        member.out.notify_one();
    }
}

/// The methods of [`Chat`], on the object that all connections share.
pub struct Entrance(pub Arc<Room>);

#[async_trait]
impl Chat for Entrance {
    async fn register(&self, name: String, window: Option<WindowClient>) -> Result<UserClient, ChatError> {
        let name = checked_name(&name)?;
        let room = &self.0;
        let has_window = window.is_some();
        let member = {
            let mut state = locked(&room.state);
            let users = state.users.len();
            if state.users.contains_key(&name) && !room.overwrite {
                return Err(ChatError::NameTaken { name, users });
            }
            if users >= USERS {
                return Err(ChatError::Full { users });
            }
            let (unseen, room) = (Mutex::new(state.messages.clone()), room.clone());
            let (news, out) = (Notify::new(), Notify::new());
            let member = Arc::new(Member { name: name.clone(), window, room, unseen, news, out });
            state.users.insert(name.clone(), member.clone());
            member
        };
        room.tell(format!("{name} is in, with{} a window", if has_window { "" } else { "out" }));
        let (server, client) = UserServerShared::<_, codec::Default>::new(member.clone(), REQUESTS);
        // Distributed garbage collection: serve ends when no reference to this object is left anywhere.
        tokio::spawn(async move {
            let shows = async {
                member.show_all().await;
                member.room.forget(&member, GONE);
            };
            select! {
                _ = server.serve(true) => member.room.forget(&member, GONE),
                () = shows => {}
                () = member.out.notified() => {}
            }
        });
        Ok(client)
    }

    async fn get_users(&self) -> Result<Vec<String>, ChatError> {
        Ok(locked(&self.0.state).users.keys().cloned().collect())
    }

    async fn window_of(&self, name: String) -> Result<WindowClient, ChatError> {
        let state = locked(&self.0.state);
        let member = state.users.get(&name).ok_or(ChatError::NoSuchUser { name: name.clone() })?;
        member.window.clone().ok_or(ChatError::NoWindow { name })
    }
}

impl Member {
    /// Queues a message; false once too many wait.
    fn queue(&self, message: Message) -> bool {
        let mut unseen = locked(&self.unseen);
        unseen.push_back(message);
        self.news.notify_one();
        unseen.len() <= WAITING
    }

    /// Calls the object in the client for each message, one after the other, until that fails.
    async fn show_all(&self) {
        let Some(window) = &self.window else { return std::future::pending().await };
        loop {
            let next = locked(&self.unseen).pop_front();
            let Some(message) = next else {
                select! {
                    () = self.news.notified() => continue,
                    () = window.closed() => return,
                }
            };
            match window.show(message.clone()).await {
                Ok(pid) => self.room.tell(format!("show ran in process {pid}, for {}: {}", self.name, shown(&message))),
                Err(_) => return,
            }
        }
    }
}

#[async_trait]
impl User for Member {
    async fn post(&self, text: String) -> Result<(), ChatError> {
        let message = Message { from: self.name.clone(), private: false, text: checked_text(text)? };
        let mut slow = Vec::new();
        {
            let mut state = locked(&self.room.state);
            state.posted += 1;
            state.messages.push_back(message.clone());
            if state.messages.len() > HISTORY {
                state.messages.pop_front();
            }
            slow.extend(state.users.values().filter(|user| !user.queue(message.clone())).cloned());
        }
        slow.iter().for_each(|user| self.room.forget(user, "it takes no messages"));
        Ok(())
    }

    async fn post_private(&self, text: String, to: String) -> Result<(), ChatError> {
        let message = Message { from: self.name.clone(), private: true, text: checked_text(text)? };
        let user = {
            let mut state = locked(&self.room.state);
            let user = state.users.get(&to).cloned().ok_or(ChatError::NoSuchUser { name: to })?;
            state.posted += 1;
            user
        };
        if !user.queue(message) {
            self.room.forget(&user, "it takes no messages");
        }
        Ok(())
    }

    async fn get(&self) -> Result<Vec<Message>, ChatError> {
        Ok(std::mem::take(&mut *locked(&self.unseen)).into())
    }
}

/// The beginning of a message, for the server's terminal.
fn shown(message: &Message) -> String {
    let text = message.to_string();
    match text.char_indices().nth(SHOWN) {
        None => text,
        Some((at, _)) => format!("{}... ({} bytes)", &text[..at], text.len()),
    }
}

fn checked_text(text: String) -> Result<String, ChatError> {
    if text.len() <= TEXT_LIMIT { Ok(text) } else { Err(ChatError::TooLong { bytes: text.len() }) }
}
