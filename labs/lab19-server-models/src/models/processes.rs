//! The lecture's multiprocess_server_combined_pipeline: as the pipeline, but the handlers are processes. The queues to and
//! from them are in the kernel: two pairs of unix sockets that keep messages apart.

use std::{
    collections::HashMap,
    net::Shutdown,
    os::fd::AsRawFd,
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv, send},
};
use shared::{At, Pause};
use socket2::{Domain, Socket, Type};

use super::{NO_THREAD, before_accept, told_of_panics};
use crate::{
    children::Children,
    queue::Queue,
    serve::{REQUEST_BYTES, Serving, accept, readable, receive_request, send_response, tell_end},
    work::{MESSAGE_BYTES, NUMBER_BYTES},
};

pub fn serve(listen_sock: Socket, serving: &Serving, pause: &mut Pause) -> Result<()> {
    let pair = || Socket::pair(Domain::UNIX, Type::SEQPACKET, None).at("socketpair", "AF_UNIX, SOCK_SEQPACKET");
    let (requests, handlers_requests) = pair()?;
    let (handlers_responses, responses) = pair()?;
    let mut children = Children::start(serving, &handlers_requests, Some(&handlers_responses))?;
    let (requests, responses) = (&requests, &responses);
    let connections = &Queue::new();
    // Who waits for which response: a socket cannot go through these queues, its number can.
    let waiting = &Mutex::new(HashMap::new());
    thread::scope(|scope| {
        let mut workers = Vec::new();
        let successors = || children.replace_until_ctrl_c(serving).unwrap_or_else(|error| serving.log.always(error));
        workers
            .push(thread::Builder::new().name("Children".into()).spawn_scoped(scope, successors).context(NO_THREAD)?);
        let mut serve = || -> Result<()> {
            for number in 1..=serving.args.workers {
                let receive = move || {
                    while let Some((client_sock, client_addr)) = connections.take() {
                        match receive_request(&client_sock, client_addr, serving) {
                            Ok(Some(request)) => {
                                let number = u64::from(client_sock.as_raw_fd().cast_unsigned());
                                let message = [&number.to_ne_bytes()[..], &request].concat();
                                let mut waits = waiting.lock().unwrap_or_else(PoisonError::into_inner);
                                waits.insert(number, (client_sock, client_addr));
                                drop(waits);
                                // Waits while the kernel's queue is full; the handlers empty it.
                                while send(requests.as_raw_fd(), &message, MsgFlags::MSG_NOSIGNAL) == Err(Errno::EINTR)
                                {
                                }
                            }
                            Ok(None) => break, // Ctrl-C
                            Err(errno) => tell_end(Err(errno), client_addr, serving),
                        }
                    }
                };
                let thread = thread::Builder::new().name(format!("Receiver-{number}"));
                workers.push(thread.spawn_scoped(scope, receive).context(NO_THREAD)?);
            }
            let send = move || {
                while readable(responses, serving.stop, None) {
                    let mut message = [0; MESSAGE_BYTES];
                    if recv(responses.as_raw_fd(), &mut message, MsgFlags::MSG_DONTWAIT) != Ok(MESSAGE_BYTES) {
                        continue;
                    }
                    let (mut number, mut response) = ([0; NUMBER_BYTES], [0; REQUEST_BYTES]);
                    number.copy_from_slice(&message[..NUMBER_BYTES]);
                    response.copy_from_slice(&message[NUMBER_BYTES..]);
                    let mut waits = waiting.lock().unwrap_or_else(PoisonError::into_inner);
                    let waits = waits.remove(&u64::from_ne_bytes(number));
                    let Some((client_sock, client_addr)) = waits else { continue };
                    let served = send_response(&client_sock, client_addr, &response, serving);
                    drop(client_sock); // close(2)
                    tell_end(served, client_addr, serving);
                }
            };
            workers.push(thread::Builder::new().name("Sender-1".into()).spawn_scoped(scope, send).context(NO_THREAD)?);
            loop {
                before_accept(&listen_sock, serving, pause);
                let Some((client_sock, client_addr)) = accept(&listen_sock, serving)? else { return Ok(()) };
                connections.put((client_sock, client_addr));
            }
        };
        let served = serve();
        drop(listen_sock); // close(2)
        connections.close();
        let _ = requests.shutdown(Shutdown::Both); // whoever waits for room there goes on; the handlers hear the end
        served.and_then(|()| told_of_panics(workers, serving))
    })
}
