//! One thread for all clients: poll(2) says which of them has something to read, and no call waits for one client.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant},
};

use anyhow::Result;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv},
};
use shared::Pause;
use socket2::Socket;

use super::before_accept;
use crate::{
    Service,
    serve::{
        ACCEPT_AGAIN_MS, Accepted, REQUEST_BYTES, Request, Serving, accept_now, begin_service, delay, end_service,
        greet, handle_request, send_response, tell_end,
    },
};

/// A client, and what it waits for.
struct Client {
    sock: Socket,
    addr: SocketAddr,
    step: Step,
}

enum Step {
    /// It uses the service until it closes.
    Using,
    /// So much of its request has come.
    Receiving(Request, usize),
    /// Its request is worked on until then. Nobody waits in a call meanwhile.
    Handling(Request, Instant),
}

pub fn serve(listen_sock: Socket, serving: &Serving, pause: &mut Pause) -> Result<()> {
    let mut clients: Vec<Client> = Vec::new();
    let (mut full, mut told) = (false, false); // no descriptor is free, and that was said
    before_accept(&listen_sock, serving, pause);
    loop {
        let next = clients.iter().filter_map(|client| match client.step {
            Step::Handling(_, until) => Some(until),
            _ => None,
        });
        let again = full.then(|| Instant::now() + Duration::from_millis(ACCEPT_AGAIN_MS.into()));
        let timeout = next.chain(again).min().map_or(PollTimeout::NONE, |until| {
            let left = until.saturating_duration_since(Instant::now());
            let rounded_up = if left.is_zero() { left } else { left + Duration::from_millis(1) }; // poll counts milliseconds
            PollTimeout::try_from(rounded_up).unwrap_or(PollTimeout::MAX)
        });
        let mut fds = vec![PollFd::new(serving.stop.as_fd(), PollFlags::POLLIN)];
        // While no descriptor is free, the listener would only be readable again and again.
        fds.push(PollFd::new(listen_sock.as_fd(), if full { PollFlags::empty() } else { PollFlags::POLLIN }));
        fds.extend(clients.iter().map(|client| {
            let waits = !matches!(client.step, Step::Handling(..));
            PollFd::new(client.sock.as_fd(), if waits { PollFlags::POLLIN } else { PollFlags::empty() })
        }));
        if poll(&mut fds, timeout) == Err(Errno::EINTR) {
            continue;
        }
        if serving.stop.requested() {
            break;
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any() == Some(true)).collect();
        let mut at = 0;
        for ready in &ready[2..] {
            match step(&mut clients[at], *ready, serving) {
                Ok(true) => at += 1,
                ended => {
                    let Client { sock, addr, .. } = clients.remove(at);
                    drop(sock); // close(2)
                    tell_end(ended.map(drop), addr, serving);
                }
            }
        }
        full = false;
        if ready[1] {
            match accept_now(&listen_sock, serving, &mut told)? {
                Accepted::Client(sock, addr) => {
                    match begin(&sock, addr, serving) {
                        Ok(step) => clients.push(Client { sock, addr, step }),
                        Err(errno) => tell_end(Err(errno), addr, serving),
                    }
                    told = false;
                    before_accept(&listen_sock, serving, pause);
                }
                Accepted::Nobody => {}
                Accepted::NoDescriptor => full = true,
            }
        }
    }
    drop(listen_sock); // close(2)
    Ok(())
}

/// A new client's first step.
fn begin(sock: &Socket, addr: SocketAddr, serving: &Serving) -> nix::Result<Step> {
    match serving.service {
        Service::Connections => begin_service(sock, addr, serving).map(|()| Step::Using),
        Service::Requests => {
            greet(sock, addr, serving);
            Ok(Step::Receiving([0; REQUEST_BYTES], 0))
        }
    }
}

/// What can be done for this client now; false once it has all it wanted.
fn step(client: &mut Client, ready: bool, serving: &Serving) -> nix::Result<bool> {
    match &mut client.step {
        Step::Handling(request, until) if Instant::now() >= *until => {
            send_response(&client.sock, client.addr, request, serving)?;
            Ok(false)
        }
        _ if !ready => Ok(true),
        Step::Handling(..) => Err(Errno::ECONNRESET), // POLLHUP or POLLERR: it is gone
        Step::Using => end_service(&client.sock, client.addr, serving).map(|()| false),
        Step::Receiving(request, filled) => {
            match recv(client.sock.as_raw_fd(), &mut request[*filled..], MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return Err(Errno::ECONNRESET), // end of stream in the middle of a request
                Ok(bytes_read) => *filled += bytes_read,
                Err(Errno::EINTR | Errno::EAGAIN) => return Ok(true),
                Err(errno) => return Err(errno),
            }
            if *filled == REQUEST_BYTES && serving.args.factor {
                // The one thread computes: meanwhile nobody else is served.
                let Some(response) = handle_request(request, serving) else { return Ok(false) };
                client.step = Step::Handling(response, Instant::now());
            } else if *filled == REQUEST_BYTES {
                client.step = Step::Handling(*request, Instant::now() + delay(serving.args));
            }
            Ok(true)
        }
    }
}
