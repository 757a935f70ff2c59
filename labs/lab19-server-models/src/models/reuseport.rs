//! SO_REUSEPORT: a fixed number of threads, each with a listening socket of its own on the same port. The kernel chooses
//! the socket by a hash of the client's address and port, whoever has time.

use std::{os::fd::AsRawFd, thread};

use anyhow::{Context, Result};
use shared::{At, Pause, Screen};
use socket2::Socket;

use super::{NO_THREAD, listening, told_of_panics};
use crate::serve::{Serving, accept, handle_client};

pub fn serve(listen_sock: Socket, serving: &Serving, pause: &mut Pause) -> Result<()> {
    let mut args = serving.args.clone();
    args.address = listen_sock.local_addr().at("getsockname", args.address)?.as_socket().context("no IP socket")?;
    let mut listen_socks = vec![listen_sock];
    while listen_socks.len() < serving.args.workers {
        listen_socks.push(listening(&args, pause)?);
    }
    pause.before(&mut Screen::new(), format_args!("accept({}), and each thread", listen_socks[0].as_raw_fd()));
    thread::scope(|scope| {
        let mut workers = Vec::new();
        for (number, listen_sock) in (1..).zip(listen_socks) {
            let thread = thread::Builder::new().name(format!("Thread-{number}"));
            let work = move || {
                while let Some((client_sock, client_addr)) = accept(&listen_sock, serving)? {
                    handle_client(client_sock, client_addr, serving);
                }
                drop(listen_sock); // close(2)
                anyhow::Ok(())
            };
            workers.push(thread.spawn_scoped(scope, work).context(NO_THREAD)?);
        }
        told_of_panics(workers, serving)
    })
}
