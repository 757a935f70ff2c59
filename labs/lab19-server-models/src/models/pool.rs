//! Producer and consumer, the lecture's "pre-fork": the main thread accepts into a queue, a fixed number of threads take
//! from it.

use std::thread;

use anyhow::{Context, Result};
use shared::Pause;
use socket2::Socket;

use super::{NO_THREAD, before_accept, told_of_panics};
use crate::{
    queue::Queue,
    serve::{Serving, accept, handle_client},
};

pub fn serve(listen_sock: Socket, serving: &Serving, pause: &mut Pause) -> Result<()> {
    let clients = &Queue::new();
    thread::scope(|scope| {
        let mut workers = Vec::new();
        let mut serve = || -> Result<()> {
            for number in 1..=serving.args.workers {
                let thread = thread::Builder::new().name(format!("Thread-{number}"));
                let work = move || {
                    while let Some((client_sock, client_addr)) = clients.take() {
                        handle_client(client_sock, client_addr, serving);
                    }
                };
                workers.push(thread.spawn_scoped(scope, work).context(NO_THREAD)?);
            }
            loop {
                before_accept(&listen_sock, serving, pause);
                let Some((client_sock, client_addr)) = accept(&listen_sock, serving)? else { return Ok(()) };
                serving.log.line(format_args!("Added client {client_addr}"));
                clients.put((client_sock, client_addr));
            }
        };
        let served = serve();
        drop(listen_sock); // close(2)
        clients.close();
        served.and_then(|()| told_of_panics(workers, serving))
    })
}
