//! Delegation, Figure 4.13: the main thread accepts, and a new thread handles each client.

use std::thread;

use anyhow::Result;
use shared::Pause;
use socket2::Socket;

use super::{NO_THREAD, before_accept};
use crate::serve::{Serving, accept, handle_client};

pub fn serve(listen_sock: Socket, serving: &Serving, pause: &mut Pause) -> Result<()> {
    thread::scope(|scope| {
        for number in 1.. {
            before_accept(&listen_sock, serving, pause);
            let Some((client_sock, client_addr)) = accept(&listen_sock, serving)? else { break };
            let thread = thread::Builder::new().name(format!("Thread-{number}"));
            let started = thread.spawn_scoped(scope, move || handle_client(client_sock, client_addr, serving));
            if started.is_err() {
                // EAGAIN. The closure is dropped, and with it the client's socket: close(2).
                serving.log.always(format_args!("Client {client_addr} is turned away: {NO_THREAD}"));
            }
        }
        drop(listen_sock); // close(2)
        Ok(())
    }) // here each thread is joined: Ctrl-C reaches all of them
}
