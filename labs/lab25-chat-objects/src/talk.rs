//! What the client says, hears and shows. No socket call: remote calls only.

use std::{collections::VecDeque, io::stdin, process::ExitCode};

use anyhow::{Error, Result};
use nix::{errno::Errno, unistd::read};
use shared::{Screen, escaped};
use tokio::{runtime::Runtime, sync::oneshot};

use crate::{
    ClientArgs,
    bell::Bell,
    group::Uri,
    lines::{LINE_LIMIT, Line, LineSplitter},
    objects::{Chat, ChatClient, ChatError, Message, User, UserClient},
};

const PROMPT: &str = "Message to send: ";
const COMMANDS: &str = "commands: /users   /private NAME TEXT   /quit";

/// What the remote calls tell this client.
pub enum Event {
    /// Registered: the references to the chat and to the own object in the server.
    In(ChatClient, UserClient),
    NotIn(Error),
    /// The server has called this client's window; it waits until the message is shown.
    Show(Message, oneshot::Sender<()>),
    /// The call that a line made has returned: what to show.
    Answer(Result<Vec<String>, ChatError>),
    /// The own object in the server is gone.
    Gone,
}

/// A client on its terminal.
pub struct Talk {
    pub screen: Screen,
    runtime: Runtime,
    events: Bell<Event>,
    poll: bool,
    references: Option<(ChatClient, UserClient)>,
    /// What the server has shown before its answer to register was here.
    early: Vec<(Message, oneshot::Sender<()>)>,
    typed: LineSplitter,
    /// Lines that wait for the call before them.
    waiting: VecDeque<Line>,
    calling: bool,
    input_ended: bool,
}

impl Talk {
    pub fn new(screen: Screen, runtime: Runtime, events: Bell<Event>, poll: bool) -> Self {
        let (typed, waiting, early) = (LineSplitter::default(), VecDeque::new(), Vec::new());
        let (references, calling, input_ended) = (None, false, false);
        Talk { screen, runtime, events, poll, references, early, typed, waiting, calling, input_ended }
    }

    /// Whether to read on: not while a line waits for its turn. Then the program that feeds this one has to wait, too.
    pub fn wants_input(&self) -> bool {
        self.references.is_some() && !self.calling && self.waiting.is_empty() && !self.input_ended
    }

    /// All that was typed is done.
    pub fn is_over(&self) -> bool {
        self.input_ended && self.waiting.is_empty() && !self.calling
    }

    /// What a remote call tells; the exit status, if that is the end.
    pub fn hear(&mut self, event: Event, args: &ClientArgs, uri: Uri) -> Result<Option<ExitCode>> {
        match event {
            Event::In(chat, me) => {
                self.screen.line(format_args!("{} is in at {uri}", args.name));
                let object = if self.poll { "no window; Enter asks for messages" } else { "the window lives" };
                self.screen.line(format_args!("{object} in process {}", std::process::id()));
                self.screen.ask(PROMPT);
                self.references = Some((chat, me));
                std::mem::take(&mut self.early).into_iter().for_each(|(message, done)| self.show(&message, done));
                if self.poll {
                    self.say(Line::Text(String::new()));
                }
            }
            Event::NotIn(error) => return Err(error),
            Event::Show(message, done) if self.references.is_none() => self.early.push((message, done)),
            Event::Show(message, done) => self.show(&message, done),
            Event::Answer(answer) => {
                self.calling = false;
                match answer {
                    Ok(lines) => lines.iter().for_each(|line| self.screen.line(escaped(line.as_bytes()))),
                    Err(error) => self.screen.line(format_args!("not done: {}", escaped(error.to_string().as_bytes()))),
                }
                self.next();
            }
            Event::Gone => {
                self.screen.ask_nothing();
                self.screen.line("The server is gone, and with it the object that stood for you");
                return Ok(Some(ExitCode::FAILURE));
            }
        }
        Ok(None)
    }

    fn show(&mut self, message: &Message, done: oneshot::Sender<()>) {
        self.screen.line(escaped(message.to_string().as_bytes()));
        let _ = done.send(()); // the server has given up waiting
    }

    /// Reads what was typed, and says it.
    pub fn read(&mut self) {
        let mut buffer = vec![0; LINE_LIMIT];
        match read(stdin(), &mut buffer) {
            Err(Errno::EINTR | Errno::EAGAIN) => return,
            Ok(0) | Err(_) => {
                self.input_ended = true;
                self.waiting.extend(self.typed.rest());
            }
            Ok(bytes_read) => {
                self.screen.typed();
                self.waiting.extend(self.typed.push(&buffer[..bytes_read]));
            }
        }
        self.next();
    }

    /// The next line that was typed, once the call before it has returned.
    fn next(&mut self) {
        while !self.calling {
            let Some(line) = self.waiting.pop_front() else { return };
            self.say(line);
        }
    }

    fn say(&mut self, line: Line) {
        let (Some((chat, me)), poll) = (self.references.clone(), self.poll) else { return };
        match line {
            Line::Text(text) if text == "/quit" => {
                self.input_ended = true;
                self.waiting.clear();
            }
            Line::Text(text) => {
                self.calling = true;
                let events = self.events.clone();
                self.runtime.spawn(async move {
                    let answer = said(text, chat, me, poll).await;
                    events.ring(Event::Answer(answer));
                });
            }
            Line::TooLong => self.screen.line(format_args!("not sent: longer than {LINE_LIMIT} bytes")),
            Line::NotUtf8(at) => self.screen.line(format_args!("not sent: not UTF-8 from byte {at} on")),
        }
    }
}

/// Does what a line says; returns what to show.
async fn said(text: String, chat: ChatClient, me: UserClient, poll: bool) -> Result<Vec<String>, ChatError> {
    let private = text.strip_prefix("/private ").and_then(|rest| rest.split_once(' '));
    match (text.as_str(), private) {
        ("", _) => {}
        ("/users", _) => return Ok(vec![format!("in: {}", chat.get_users().await?.join(", "))]),
        (_, Some((to, text))) => me.post_private(text.into(), to.into()).await?,
        (command, None) if command.starts_with('/') => return Ok(vec![COMMANDS.into()]),
        _ => me.post(text).await?,
    }
    if !poll {
        return Ok(Vec::new());
    }
    // As in the lecture: the client asks for what it was not shown yet.
    let mut lines = vec!["My messages:".to_string()];
    lines.extend(me.get().await?.iter().map(Message::to_string));
    Ok(lines)
}
