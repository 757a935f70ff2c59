//! The lecture's multithreaded_server_combined_pipeline: receivers, handlers and senders, a fixed number of each, and three
//! queues: connections, requests, responses.

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
        let mut workers = Vec::new();
        let mut serve = || -> Result<()> {
            for number in 1..=serving.args.workers {
                let receive = move || {
                    while let Some((client_sock, client_addr)) = connections.take() {
                        match receive_request(&client_sock, client_addr, serving) {
                            Ok(Some(request)) => requests.put((client_sock, client_addr, request)),
                            Ok(None) => break, // Ctrl-C
                            Err(errno) => tell_end(Err(errno), client_addr, serving),
                        }
                    }
                };
                let handle = move || {
                    while let Some((client_sock, client_addr, request)) = requests.take() {
                        let Some(response) = handle_request(&request, serving) else { break };
                        responses.put((client_sock, client_addr, response));
                    }
                };
                let send = move || {
                    while let Some((client_sock, client_addr, response)) = responses.take() {
                        let served = send_response(&client_sock, client_addr, &response, serving);
                        drop(client_sock); // close(2)
                        tell_end(served, client_addr, serving);
                    }
                };
                let named = |group| thread::Builder::new().name(format!("{group}-{number}"));
                workers.push(named("Receiver").spawn_scoped(scope, receive).context(NO_THREAD)?);
                workers.push(named("Handler").spawn_scoped(scope, handle).context(NO_THREAD)?);
                workers.push(named("Sender").spawn_scoped(scope, send).context(NO_THREAD)?);
            }
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
        served.and_then(|()| told_of_panics(workers, serving))
    })
}
