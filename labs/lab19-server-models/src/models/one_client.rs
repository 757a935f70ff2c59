//! Figure 4.3: one thread, and one client in all. Whoever else connects waits in the kernel until the listener closes.

use std::io::stdin;
use std::os::fd::AsFd;

use anyhow::Result;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shared::Pause;
use socket2::Socket;

use super::before_accept;
use crate::serve::{Serving, accept, handle_client};

pub fn serve(listen_sock: Socket, serving: &Serving, pause: &mut Pause) -> Result<()> {
    before_accept(&listen_sock, serving, pause);
    let Some((client_sock, client_addr)) = accept(&listen_sock, serving)? else { return Ok(()) };
    handle_client(client_sock, client_addr, serving);

    serving.log.always("Press Enter to terminate ...");
    let input = stdin();
    let mut fds = [serving.stop.as_fd(), input.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    while poll(&mut fds, PollTimeout::NONE).is_err() {} // EINTR
    drop(listen_sock); // close(2)
    Ok(())
}
