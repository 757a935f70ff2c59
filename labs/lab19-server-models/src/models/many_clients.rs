//! Figure 4.4: one thread. The next client is accepted when the one before it has left.

use anyhow::Result;
use shared::Pause;
use socket2::Socket;

use super::before_accept;
use crate::serve::{Serving, accept, handle_client};

pub fn serve(listen_sock: Socket, serving: &Serving, pause: &mut Pause) -> Result<()> {
    loop {
        before_accept(&listen_sock, serving, pause);
        let Some((client_sock, client_addr)) = accept(&listen_sock, serving)? else { break };
        handle_client(client_sock, client_addr, serving);
    }
    drop(listen_sock); // close(2)
    Ok(())
}
