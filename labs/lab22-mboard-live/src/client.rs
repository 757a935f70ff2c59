//! Terminals 2, 3 ...: publishes the lines you type and shows what others publish, whichever comes first. It finds the
//! server again when the connection breaks.

use std::{
    io::stdin,
    os::fd::AsFd,
    process::{ExitCode, id},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use shared::{At, Pause, Screen, Stop};

use crate::{
    ClientArgs,
    connect::{connected, in_short},
    link::Link,
    pauses::{Pauses, random},
    place,
    talk::Client,
    typed::Typed,
};

const PROMPT: &str = "> ";
/// Bytes asked of one recv, and of one read.
const CHUNK: usize = 65_536;
/// With so many lines not confirmed, no more are read: whoever feeds this program has to wait, too.
const PENDING_MOST: usize = 100;
/// After the last word: how long to wait for the server's end of stream.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Whose descriptor it is that poll watches.
enum Whose {
    /// SIGINT and SIGTERM, as a descriptor.
    Signals,
    Server,
    /// Standard input.
    Keyboard,
}

/// Talks until the end of input or Ctrl-C.
pub fn run(args: &ClientArgs) -> Result<ExitCode> {
    let server_addr = place(&args.address)?;
    ensure!(server_addr.port() != 0, "nobody is at port 0: a port from 1 to 65535");
    let name = args.name.clone().unwrap_or_else(|| format!("client-{}-{:04x}", id(), random() as u16));
    let stop = Stop::on_signals()?;
    let (pause, screen) = (Pause::new(args.pause, &stop), Screen::new());
    let pending = args.publish.iter().map(|text| (random(), text.clone().into())).collect();
    let mut client = Client { name, server_addr, mark: 0, pending, gives_up: false, screen, pause };

    // Without a server at the very beginning this ends; later it tries again.
    let Some(sock) = connected(server_addr, args.keepalive, &stop, &mut client)? else { return Ok(ExitCode::SUCCESS) };
    let mut link = Some(Link::new(sock, &client));
    let (mut pauses, mut again_at) = (Pauses::default(), Instant::now());
    let mut typed = args.publish.is_none().then(Typed::default); // None once there is no more input
    let mut close_by = None; // set once this client is leaving
    let (mut interrupted, mut shown_all) = (false, false);
    let mut buffer = vec![0; CHUNK];
    'talk: loop {
        if link.is_none() && Instant::now() >= again_at {
            match connected(server_addr, args.keepalive, &stop, &mut client) {
                Ok(Some(sock)) => link = Some(Link::new(sock, &client)),
                Ok(None) => break, // Ctrl-C
                Err(error) => again_at = client.later(&mut pauses, &in_short(&error)),
            }
        }
        let mut ended = link.as_mut().and_then(|link| link.flush(&mut client).err());
        shown_all |= link.as_ref().is_some_and(|link| link.greeted && link.to_come == 0);
        let all_done = client.pending.is_empty() && shown_all;
        let parts = interrupted || typed.is_none() && all_done;
        if parts && link.is_none() {
            break; // nobody to part from
        }
        if let Some(link) = link.as_mut().filter(|link| parts && !link.shut && !link.waits()) {
            link.shut(&mut client);
            close_by.get_or_insert_with(|| Instant::now() + CLOSE_TIMEOUT);
        }
        if typed.is_some() && close_by.is_none() {
            client.screen.ask(PROMPT);
        } else {
            client.screen.ask_nothing();
        }
        client.screen.settle();

        let input = stdin();
        let mut watched = vec![(Whose::Signals, PollFd::new(stop.as_fd(), PollFlags::POLLIN))];
        if let Some(link) = &link {
            let mut events = PollFlags::POLLIN;
            events.set(PollFlags::POLLOUT, link.waits());
            watched.push((Whose::Server, PollFd::new(link.sock.as_fd(), events)));
        }
        if typed.is_some() && close_by.is_none() && client.pending.len() < PENDING_MOST {
            watched.push((Whose::Keyboard, PollFd::new(input.as_fd(), PollFlags::POLLIN)));
        }
        let (whose, mut fds): (Vec<Whose>, Vec<PollFd>) = watched.into_iter().unzip();
        let deadline = if link.is_none() { Some(again_at) } else { close_by };
        let timeout = match deadline {
            _ if ended.is_some() => PollTimeout::ZERO,
            Some(deadline) => {
                PollTimeout::try_from(deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1))?
            }
            None => PollTimeout::NONE,
        };
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => continue,
            result => result.at("poll", "")?,
        };
        let events = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        let ready: Vec<(Whose, PollFlags)> = whose.into_iter().zip(events).filter(|(_, e)| !e.is_empty()).collect();

        for (whose, events) in ready {
            match (whose, &mut link) {
                (Whose::Signals, _) => {
                    stop.take();
                    if interrupted || link.is_none() {
                        break 'talk; // a second Ctrl-C, or nobody to part from
                    }
                    interrupted = true;
                    close_by = Some(Instant::now() + CLOSE_TIMEOUT);
                }
                (Whose::Server, Some(link)) if events.intersects(!PollFlags::POLLOUT) => {
                    ended = ended.or(link.hear(&mut client, &mut buffer).err());
                    if link.greeted {
                        pauses = Pauses::default();
                    }
                }
                (Whose::Server, _) => {} // flushed above
                (Whose::Keyboard, link) => client.keyboard(&mut typed, link, &mut buffer),
            }
        }
        if let Some(why) = ended {
            let parted = link.take().is_some_and(|link| link.shut); // close(2)
            if parted || interrupted || client.gives_up {
                client.screen.line(format_args!("Closed: {why}"));
                break;
            }
            again_at = client.later(&mut pauses, &why);
        }
        if close_by.is_some_and(|close_by| Instant::now() >= close_by) {
            break; // the server keeps its end open
        }
    }
    drop(link); // close(2)
    let lost = client.pending.len();
    if lost > 0 {
        client.screen.line(format_args!("lines not confirmed: {lost}"));
    }
    client.screen.end();
    Ok(if lost > 0 || client.gives_up { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
