//! Terminals 2, 3 ...: a client of the chat. Its window is an object that the server calls.

use std::{io::stdin, os::fd::AsFd, process::ExitCode, sync::Arc};

use anyhow::Result;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use remoc::{
    codec,
    rtc::{CallError, Client, ServerShared, async_trait},
};
use shared::{At, Pause, Screen, Stop};
use socket2::Socket;
use tokio::{runtime::Builder, sync::oneshot};

use crate::{
    ClientArgs,
    bell::{Bell, bell},
    connection::{connected, first_reference},
    group::asked,
    objects::{Chat, ChatClient, Message, UserClient, Window, WindowServerShared},
    talk::{Event, Talk},
};

/// The object that the server calls. It lives here, and here its method runs.
struct Frame(Bell<Event>);

#[async_trait]
impl Window for Frame {
    async fn show(&self, message: Message) -> Result<u32, CallError> {
        let (done, shown) = oneshot::channel();
        self.0.ring(Event::Show(message, done));
        shown.await.map_err(|_| CallError::Dropped)?; // the client ends: it was not shown
        Ok(std::process::id())
    }
}

/// Chats until /quit, end of input, Ctrl-C, or the end of the server.
pub fn run(args: &ClientArgs) -> Result<ExitCode> {
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();
    let found = match args.uri {
        Some(uri) => Some(uri),
        None => asked(args.group, &stop, &mut pause, &mut screen)?,
    };
    let Some(uri) = found else { return Ok(ExitCode::SUCCESS) };
    let Some(sock) = connected(uri.0, &stop, &mut pause, &mut screen)? else { return Ok(ExitCode::SUCCESS) };

    let (events, ear) = bell()?;
    // Remote calls run in a thread of their own; this one waits for what is typed, what is told, and Ctrl-C.
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.spawn(enter(sock, args.name.clone(), !args.poll, events.clone()));
    let mut talk = Talk::new(screen, runtime, events, args.poll);
    loop {
        talk.screen.settle();
        let input = stdin();
        let mut fds = vec![PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(ear.as_fd(), PollFlags::POLLIN)];
        if talk.wants_input() {
            fds.push(PollFd::new(input.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            result => result.at("poll", "")?,
        };
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any() == Some(true)).collect();
        if ready[0] {
            return Ok(ExitCode::SUCCESS); // close(2): the kernel ends the connection, and the server notices
        }
        if ready[1] {
            for event in ear.heard() {
                if let Some(status) = talk.hear(event, args, uri)? {
                    return Ok(status);
                }
            }
        }
        if ready.get(2) == Some(&true) {
            talk.read();
        }
        if talk.is_over() {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// Takes the reference to the chat, registers, and tells when the own object in the server is gone.
async fn enter(sock: Socket, name: String, with_window: bool, events: Bell<Event>) {
    let entered = async {
        let chat: ChatClient = first_reference(sock).await?;
        let (server, window) = WindowServerShared::<_, codec::Default>::new(Arc::new(Frame(events.clone())), 1);
        if with_window {
            tokio::spawn(server.serve(true));
        }
        let me: UserClient = chat.register(name, with_window.then_some(window)).await?;
        anyhow::Ok((chat, me))
    };
    match entered.await {
        Ok((chat, me)) => {
            let closed = me.closed();
            events.ring(Event::In(chat, me));
            closed.await;
            events.ring(Event::Gone);
        }
        Err(error) => drop(events.ring(Event::NotIn(error))),
    }
}
