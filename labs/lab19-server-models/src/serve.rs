//! What all models do with a client, so that they differ only in who does it: Table 4.1 of the lecture, step by step.

use std::{
    fmt::Display,
    net::{Shutdown, SocketAddr},
    os::fd::{AsFd, AsRawFd},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use kernel::Patience;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv, send},
};
use shared::{At, Stop};
use socket2::{SockAddr, Socket};

use crate::{ServerArgs, Service, log::Log};

/// The lecture's requests and responses: the text of a UUID.
pub const REQUEST_BYTES: usize = 36;
/// A request whose end does not come within this time holds its thread no longer.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// Without a free descriptor, accept is tried again after this time.
pub const ACCEPT_AGAIN_MS: u16 = 100;
/// Between two looks at Ctrl-C, a factor is searched among so many numbers.
const TRIALS: u64 = 1 << 20;

/// The lecture's global variable: with `--global-address` each accept overwrites it.
static CLIENT_ADDR: Mutex<Option<SocketAddr>> = Mutex::new(None);

/// A request on its way through a server.
pub type Request = [u8; REQUEST_BYTES];

/// What each model gets: what to offer, when to stop, where to log.
pub struct Serving<'a> {
    pub args: &'a ServerArgs,
    pub service: Service,
    pub stop: &'a Stop,
    pub log: &'a Log,
}

impl Serving<'_> {
    /// The client's address, or with `--global-address` the one of whoever came last.
    fn client(&self, client_addr: SocketAddr) -> SocketAddr {
        let global = CLIENT_ADDR.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or(client_addr);
        if self.args.global_address { global } else { client_addr }
    }
}

/// What one call of accept brought.
pub enum Accepted {
    Client(Socket, SocketAddr),
    /// Another process or thread was faster, or the client is gone.
    Nobody,
    /// No descriptor is free: who waits goes on waiting, and the listener stays readable.
    NoDescriptor,
}

/// Step 1: waits for a client and accepts it; `None` after Ctrl-C.
pub fn accept(listen_sock: &Socket, serving: &Serving) -> Result<Option<(Socket, SocketAddr)>> {
    let mut told = false; // once, not ten times a second
    loop {
        let mut fds = [serving.stop.as_fd(), listen_sock.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let _ = poll(&mut fds, PollTimeout::NONE); // after EINTR accept says what is there
        if serving.stop.requested() {
            return Ok(None);
        }
        match accept_now(listen_sock, serving, &mut told)? {
            Accepted::Client(client_sock, client_addr) => return Ok(Some((client_sock, client_addr))),
            Accepted::Nobody => {}
            Accepted::NoDescriptor => {
                // Without this pause the loop would keep a processor busy.
                let mut fds = [PollFd::new(serving.stop.as_fd(), PollFlags::POLLIN)];
                let _ = poll(&mut fds, PollTimeout::from(ACCEPT_AGAIN_MS));
            }
        }
    }
}

/// One call of accept, which does not wait: the listener is nonblocking.
pub fn accept_now(listen_sock: &Socket, serving: &Serving, told: &mut bool) -> Result<Accepted> {
    match listen_sock.accept() {
        Ok((client_sock, client_addr)) => Ok(Accepted::Client(client_sock, accepted(&client_addr)?)),
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EAGAIN | Errno::EINTR | Errno::ECONNABORTED) => Ok(Accepted::Nobody),
            Some(errno @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)) => {
                if !std::mem::replace(told, true) {
                    serving.log.always(format_args!("accept: {errno:?} ({}): clients wait", errno.desc()));
                }
                Ok(Accepted::NoDescriptor)
            }
            _ => Ok(Err(error).at("accept", serving.args.address)?),
        },
    }
}

fn accepted(client_addr: &SockAddr) -> Result<SocketAddr> {
    let client_addr = client_addr.as_socket().context("not an IP socket")?;
    *CLIENT_ADDR.lock().unwrap_or_else(PoisonError::into_inner) = Some(client_addr);
    Ok(client_addr)
}

/// Steps 2 to 5, in the thread that calls.
pub fn handle_client(client_sock: Socket, client_addr: SocketAddr, serving: &Serving) {
    let served = match serving.service {
        Service::Connections => offer_service(&client_sock, client_addr, serving),
        Service::Requests => receive_request(&client_sock, client_addr, serving).and_then(|request| {
            let Some(response) = request.and_then(|request| handle_request(&request, serving)) else { return Ok(()) };
            send_response(&client_sock, client_addr, &response, serving)
        }),
    };
    drop(client_sock); // step 5: close(2)
    tell_end(served, client_addr, serving);
}

/// The last lines on a client.
pub fn tell_end(served: nix::Result<()>, client_addr: SocketAddr, serving: &Serving) {
    let client = serving.client(client_addr);
    match served {
        Ok(()) => {}
        // The client's kernel has answered our bytes with a reset.
        Err(Errno::ENOTCONN | Errno::ECONNRESET | Errno::EPIPE) => {
            serving.log.line(format_args!("Client {client} left before server could handle it"));
        }
        Err(errno) => serving.log.line(format_args!("Error: {client}: {errno:?} ({})", errno.desc())),
    }
    serving.log.line(format_args!("Client {client} disconnected"));
}

/// Figure 4.4: one byte tells the client that it is being served; it leaves when it likes.
fn offer_service(client_sock: &Socket, client_addr: SocketAddr, serving: &Serving) -> nix::Result<()> {
    begin_service(client_sock, client_addr, serving)?;
    if !readable(client_sock, serving.stop, None) {
        return Ok(());
    }
    end_service(client_sock, client_addr, serving)
}

/// What is done as soon as somebody has time for the client.
pub fn begin_service(client_sock: &Socket, client_addr: SocketAddr, serving: &Serving) -> nix::Result<()> {
    greet(client_sock, client_addr, serving);
    send(client_sock.as_raw_fd(), b"1", MsgFlags::MSG_NOSIGNAL)?;
    client_sock.shutdown(Shutdown::Write).map_err(errno)?; // ENOTCONN: a reset was the answer to that byte
    serving.log.line(format_args!("Service offered, client {} is using a service ...", serving.client(client_addr)));
    Ok(())
}

/// The client has closed its sending side, or sent something.
pub fn end_service(client_sock: &Socket, client_addr: SocketAddr, serving: &Serving) -> nix::Result<()> {
    recv(client_sock.as_raw_fd(), &mut [0; 1], MsgFlags::MSG_DONTWAIT)?;
    serving.log.line(format_args!("Client {} finished using service", serving.client(client_addr)));
    Ok(())
}

pub fn greet(client_sock: &Socket, client_addr: SocketAddr, serving: &Serving) {
    serving.log.line(format_args!("New client connected from {}", serving.client(client_addr)));
    if let Some(local_addr) = client_sock.local_addr().ok().and_then(|addr| addr.as_socket()) {
        serving.log.line(format_args!("Local end-point socket bound on: {local_addr}"));
    }
}

/// Step 2: the whole request; `None` after Ctrl-C.
pub fn receive_request(
    client_sock: &Socket,
    client_addr: SocketAddr,
    serving: &Serving,
) -> nix::Result<Option<Request>> {
    greet(client_sock, client_addr, serving);
    let (mut request, mut filled) = ([0; REQUEST_BYTES], 0);
    let mut patience = Patience::new(REQUEST_LIMIT);
    while filled < REQUEST_BYTES {
        match recv(client_sock.as_raw_fd(), &mut request[filled..], MsgFlags::MSG_DONTWAIT) {
            Ok(0) => return Err(Errno::ECONNRESET), // end of stream in the middle of a request
            Ok(bytes_read) => filled += bytes_read,
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) if readable(client_sock, serving.stop, Some(&mut patience)) => {}
            Err(Errno::EAGAIN) if serving.stop.requested() => return Ok(None),
            Err(Errno::EAGAIN) => return Err(Errno::ETIMEDOUT),
            Err(errno) => return Err(errno),
        }
    }
    serving.log.line(format_args!("Received request of {}: {}", serving.client(client_addr), text(&request)));
    Ok(Some(request))
}

/// Step 3: the lecture waits; with `--factor` there is work to do. `None` after Ctrl-C.
pub fn handle_request(request: &Request, serving: &Serving) -> Option<Request> {
    if serving.args.panic_on.as_ref().is_some_and(|bug| request.starts_with(bug.as_bytes())) {
        panic!("the request begins with the text that --panic-on names");
    }
    if serving.args.factor {
        return factors(request, serving.stop);
    }
    let until = Instant::now() + delay(serving.args);
    while Instant::now() < until {
        let left = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1); // poll counts milliseconds
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let _ = poll(&mut [PollFd::new(serving.stop.as_fd(), PollFlags::POLLIN)], timeout);
        if serving.stop.requested() {
            return None;
        }
    }
    Some(*request)
}

/// How long a request is worked on.
pub fn delay(args: &ServerArgs) -> Duration {
    args.delay.div_f64(args.speed)
}

/// Step 4. 36 bytes find room in the buffer of a new connection, so this does not wait.
pub fn send_response(
    client_sock: &Socket,
    client_addr: SocketAddr,
    response: &Request,
    serving: &Serving,
) -> nix::Result<()> {
    send(client_sock.as_raw_fd(), response, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT)?;
    serving.log.line(format_args!("Sent response to {}: {}", serving.client(client_addr), text(response)));
    Ok(())
}

/// Waits until `sock` has something to read; false at Ctrl-C, or where the patience, if there is one, is over.
pub fn readable(sock: &Socket, stop: &Stop, mut patience: Option<&mut Patience>) -> bool {
    loop {
        let step = patience.as_ref().map(|patience| patience.step() + Duration::from_millis(1)); // poll counts milliseconds
        let timeout = step.map_or(PollTimeout::NONE, |step| PollTimeout::try_from(step).unwrap_or(PollTimeout::MAX));
        let mut fds = [stop.as_fd(), sock.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        if poll(&mut fds, timeout).is_ok_and(|ready| ready > 0) {
            return fds[0].any() != Some(true);
        }
        if patience.as_mut().is_some_and(|patience| patience.is_over()) {
            return false;
        }
    }
}

/// The prime factors of a number written in decimal, by trial division.
fn factors(request: &Request, stop: &Stop) -> Option<Request> {
    let Ok(mut rest) = text(request).trim().parse::<u64>() else { return Some(padded("not an integer")) };
    let mut found = Vec::new();
    let mut trial = 2;
    while trial <= rest / trial {
        if rest.is_multiple_of(trial) {
            found.push(trial);
            rest /= trial;
        } else {
            trial += 1 + trial % 2; // 2, 3, 5, 7, 9 ...
        }
        if trial % TRIALS == 1 && stop.requested() {
            return None;
        }
    }
    found.push(rest);
    Some(padded(found.iter().map(u64::to_string).collect::<Vec<_>>().join(" ")))
}

/// A text as a request: filled up with blanks, or cut.
pub fn padded(text: impl Display) -> Request {
    let mut request = [b' '; REQUEST_BYTES];
    request.iter_mut().zip(text.to_string().bytes()).for_each(|(place, byte)| *place = byte);
    request
}

/// A request as it may be shown.
pub fn text(request: &Request) -> String {
    shared::escaped(request).trim_end().into()
}

pub fn errno(error: std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_factors_of_an_integer_are_primes_whose_product_it_is() {
        let stop = Stop::on_signals().unwrap();
        for (integer, expected) in [
            ("1", "1"),
            ("2", "2"),
            ("97", "97"),
            ("360", "2 2 2 3 3 5"),
            ("10403", "101 103"),
            ("18446744073709551615", "3 5 17 257 641 65537 6700417"),
            ("-1", "not an integer"),
            ("x", "not an integer"),
        ] {
            assert_eq!(text(&factors(&padded(integer), &stop).unwrap()), expected);
        }
        // 2 to the power of 63 has 63 factors: more than fit into a response.
        assert_eq!(factors(&padded(1u64 << 63), &stop).unwrap().len(), REQUEST_BYTES);
    }
}
