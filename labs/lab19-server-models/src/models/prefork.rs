//! Real pre-fork, which the lecture's has no process for: a fixed number of processes share one listening socket. Each of
//! them calls accept; there is no queue but the kernel's.

use anyhow::Result;
use shared::Pause;
use socket2::Socket;

use crate::{children::Children, serve::Serving};

pub fn serve(listen_sock: Socket, serving: &Serving, _pause: &mut Pause) -> Result<()> {
    let mut children = Children::start(serving, &listen_sock, None)?;
    drop(listen_sock); // close(2): the children have descriptors of their own for the same socket
    children.replace_until_ctrl_c(serving)?;
    drop(children);
    Ok(())
}
