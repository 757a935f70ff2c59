//! The lecture's singlethreaded_server_heavy_request: one thread, which also does the work of a request.

use anyhow::Result;
use shared::Pause;
use socket2::Socket;

use super::before_accept;
use crate::serve::{Serving, accept, handle_request, receive_request, send_response, tell_end};

pub fn serve(listen_sock: Socket, serving: &Serving, pause: &mut Pause) -> Result<()> {
    loop {
        before_accept(&listen_sock, serving, pause);
        let Some((client_sock, client_addr)) = accept(&listen_sock, serving)? else { break }; // step 1 of Table 4.1
        let served = receive_request(&client_sock, client_addr, serving).and_then(|request| {
            let Some(request) = request else { return Ok(()) }; // Ctrl-C
            let Some(response) = handle_request(&request, serving) else { return Ok(()) };
            send_response(&client_sock, client_addr, &response, serving)
        });
        drop(client_sock); // close(2)
        tell_end(served, client_addr, serving);
    }
    drop(listen_sock); // close(2)
    Ok(())
}
