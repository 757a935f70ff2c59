//! Terminal 1: the chat's server. It serves one object to everybody, and calls the objects of its clients.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use remoc::{codec, rtc::ServerShared};
use shared::{At, Pause, Screen, Stop, escaped};
use socket2::{Domain, Socket, Type};
use tokio::runtime::Builder;

use crate::{
    ServerArgs,
    bell::{Bell, bell},
    chat::{Entrance, REQUESTS, Room},
    connection::offer,
    group::{answer, joined, uri_of},
    objects::{ChatClient, ChatServerShared},
};

/// Connections that wait for accept.
const BACKLOG: i32 = 128;
/// How long accept rests where no descriptor is left, in ms.
const NO_DESCRIPTOR: u16 = 200;

/// Serves until Ctrl-C.
pub fn run(args: &ServerArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();
    let addr = args.address;

    let family = if addr.is_ipv6() { "AF_INET6" } else { "AF_INET" };
    pause.before(&mut screen, format_args!("socket({family}, SOCK_STREAM, 0)"));
    let listen_sock = Socket::new(Domain::for_address(addr), Type::STREAM, None).at("socket", addr)?;
    let listen_fd = listen_sock.as_raw_fd();

    pause.before(&mut screen, format_args!("setsockopt({listen_fd}, SOL_SOCKET, SO_REUSEADDR, 1)"));
    listen_sock.set_reuse_address(true).at("setsockopt SO_REUSEADDR", addr)?;

    pause.before(&mut screen, format_args!("bind({listen_fd}, {addr})"));
    listen_sock.bind(&addr.into()).at("bind", addr)?;

    pause.before(&mut screen, format_args!("listen({listen_fd}, {BACKLOG})"));
    listen_sock.listen(BACKLOG).at("listen", addr)?;
    listen_sock.set_nonblocking(true).at("fcntl", addr)?; // the client may be gone before accept
    let uri = uri_of(&listen_sock)?;

    let group_sock = joined(args.group, &mut pause, &mut screen);
    if let Err(error) = &group_sock {
        screen.line(format_args!("Nobody finds this server by asking {}: {error:#}", args.group));
    }
    let (events, ear) = bell()?;
    // Remote calls run in a thread of their own; this one waits for connections, questions and Ctrl-C.
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    screen.line(format_args!("Process {} serves the chat, and is in the group {}", std::process::id(), args.group));
    screen.line(format_args!("The chat URI is: {uri}"));

    let room = Room::new(events.clone(), args.overwrite);
    let silence = (args.timeout > 0).then(|| Duration::from_secs(args.timeout.into()));
    let mut full = false;
    loop {
        let accepting = if full { PollFlags::empty() } else { PollFlags::POLLIN };
        let mut fds = vec![
            PollFd::new(stop.as_fd(), PollFlags::POLLIN),
            PollFd::new(listen_sock.as_fd(), accepting),
            PollFd::new(ear.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(group_sock.iter().map(|sock| PollFd::new(sock.as_fd(), PollFlags::POLLIN)));
        let limit = if full { PollTimeout::from(NO_DESCRIPTOR) } else { PollTimeout::NONE };
        match poll(&mut fds, limit) {
            Err(Errno::EINTR) => continue,
            result => result.at("poll", "")?,
        };
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any() == Some(true)).collect();
        if ready[0] {
            break;
        }
        if ready[1] || full {
            pause.before(&mut screen, format_args!("accept({listen_fd})"));
            match listen_sock.accept() {
                Ok((conn_sock, peer_addr)) => {
                    full = false;
                    let Some(peer_addr) = peer_addr.as_socket() else { continue };
                    screen.line(format_args!("{peer_addr} connected"));
                    runtime.spawn(welcome(conn_sock, peer_addr, room.clone(), silence, events.clone()));
                }
                Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EAGAIN | Errno::EINTR | Errno::ECONNABORTED) => full = false,
                    Some(Errno::EMFILE | Errno::ENFILE) => {
                        if !std::mem::replace(&mut full, true) {
                            screen.line("accept: EMFILE; who connects now waits until another one leaves");
                        }
                    }
                    _ => Err(error).at("accept", addr)?,
                },
            }
        }
        if ready[2] {
            ear.heard().iter().for_each(|event| screen.line(escaped(event.as_bytes())));
        }
        if let (Some(true), Ok(sock)) = (ready.get(3), &group_sock) {
            pause.before(&mut screen, format_args!("recvfrom({}, 128)", sock.as_raw_fd()));
            if let Ok(Some(peer_addr)) = answer(sock, uri) {
                screen.line(format_args!("{peer_addr} asked the group, and got the URI"));
            }
        }
    }
    drop(runtime); // no more calls; close(2) of every connection
    ear.heard().iter().for_each(|event| screen.line(escaped(event.as_bytes())));
    screen.line(format_args!("The chat had {} messages", room.posted()));
    Ok(())
}

/// Gives a new client the reference to the chat, and serves the calls of that reference.
async fn welcome(
    conn_sock: Socket,
    peer_addr: SocketAddr,
    room: Arc<Room>,
    silence: Option<Duration>,
    events: Bell<String>,
) {
    let entrance = Arc::new(Entrance(room));
    let (server, chat): (_, ChatClient) = ChatServerShared::<_, codec::Default>::new(entrance, REQUESTS);
    if let Err(error) = offer(conn_sock, chat, silence).await {
        events.ring(format!("{peer_addr} is no client: {error:#}"));
        return;
    }
    let _ = server.serve(true).await; // until the client has dropped the reference, or is gone
    events.ring(format!("{peer_addr} has no reference to the chat any more"));
}
