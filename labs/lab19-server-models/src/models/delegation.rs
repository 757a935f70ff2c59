//! The lecture's multithreaded_server_combined_delegation: four fixed threads, main and a manager for each step. Each
//! manager starts a new thread for each task.

use std::thread;

use anyhow::{Context, Result};
use shared::Pause;
use socket2::Socket;

use super::{NO_THREAD, before_accept, told_of_panics};
use crate::{
    queue::Queue,
    serve::{Serving, accept, handle_request, receive_request, send_response, tell_end},
};

pub fn serve(listen_sock: Socket, serving: &Serving, pause: &mut Pause) -> Result<()> {
    let (connections, requests, responses) = (&Queue::new(), &Queue::new(), &Queue::new());
    thread::scope(|scope| {
        let mut managers = Vec::new();
        let mut serve = || -> Result<()> {
            let manage_receivers = move || {
                for number in 1.. {
                    let Some((client_sock, client_addr)) = connections.take() else { break };
                    let receive = move || match receive_request(&client_sock, client_addr, serving) {
                        Ok(Some(request)) => requests.put((client_sock, client_addr, request)),
                        Ok(None) => {} // Ctrl-C
                        Err(errno) => tell_end(Err(errno), client_addr, serving),
                    };
                    let thread = thread::Builder::new().name(format!("Receiver-{number}"));
                    if thread.spawn_scoped(scope, receive).is_err() {
                        serving.log.always(NO_THREAD); // the closure is dropped, and with it the socket: close(2)
                    }
                }
            };
            let manage_requests = move || {
                for number in 1.. {
                    let Some((client_sock, client_addr, request)) = requests.take() else { break };
                    let handle = move || {
                        if let Some(response) = handle_request(&request, serving) {
                            responses.put((client_sock, client_addr, response));
                        }
                    };
                    let thread = thread::Builder::new().name(format!("Handler-{number}"));
                    if thread.spawn_scoped(scope, handle).is_err() {
                        serving.log.always(NO_THREAD);
                    }
                }
            };
            let manage_senders = move || {
                for number in 1.. {
                    let Some((client_sock, client_addr, response)) = responses.take() else { break };
                    let send = move || {
                        let served = send_response(&client_sock, client_addr, &response, serving);
                        drop(client_sock); // close(2)
                        tell_end(served, client_addr, serving);
                    };
                    let thread = thread::Builder::new().name(format!("Sender-{number}"));
                    if thread.spawn_scoped(scope, send).is_err() {
                        serving.log.always(NO_THREAD);
                    }
                }
            };
            let named = |group: &str| thread::Builder::new().name(format!("{group}-manager"));
            managers.push(named("Receiver").spawn_scoped(scope, manage_receivers).context(NO_THREAD)?);
            managers.push(named("Request").spawn_scoped(scope, manage_requests).context(NO_THREAD)?);
            managers.push(named("Sender").spawn_scoped(scope, manage_senders).context(NO_THREAD)?);
            loop {
                before_accept(&listen_sock, serving, pause);
                let Some((client_sock, client_addr)) = accept(&listen_sock, serving)? else { return Ok(()) };
                connections.put((client_sock, client_addr));
            }
        };
        let served = serve();
        drop(listen_sock); // close(2)
        connections.close();
        requests.close();
        responses.close();
        served.and_then(|()| told_of_panics(managers, serving))
    })
}
