//! A process of the models pre-fork and processes. Descriptor 0 is the socket that it shares with its sisters.

use std::{
    io::{stdin, stdout},
    os::fd::{AsFd, AsRawFd},
};

use anyhow::Result;
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv, send},
};
use shared::{At, Stop};
use socket2::Socket;

use crate::{
    ServerArgs, Service,
    log::Log,
    models::Model,
    serve::{REQUEST_BYTES, Serving, accept, handle_client, handle_request, readable},
};

/// A message between the processes: the number of the connection, then the request or the response.
pub const MESSAGE_BYTES: usize = NUMBER_BYTES + REQUEST_BYTES;
pub const NUMBER_BYTES: usize = 8;

pub fn run(number: usize, args: &ServerArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    // In the model processes standard output is the queue of responses: there, no lines.
    let handles = args.model == Model::Processes;
    let log = Log::new(args.quiet || handles, Some(format!("Process-{number}")));
    let service = if handles { Service::Requests } else { args.service.unwrap_or(Service::Connections) };
    let serving = Serving { args, service, stop: &stop, log: &log };
    let sock = Socket::from(stdin().as_fd().try_clone_to_owned().at("dup", 0)?);
    if handles { handle_requests(&sock, &serving) } else { serve_clients(&sock, &serving) }
}

/// Pre-fork: the socket is the listening one.
fn serve_clients(listen_sock: &Socket, serving: &Serving) -> Result<()> {
    serving.log.line("Awaiting new clients ...");
    while let Some((client_sock, client_addr)) = accept(listen_sock, serving)? {
        handle_client(client_sock, client_addr, serving);
        serving.log.line("Awaiting new clients ...");
    }
    Ok(())
}

/// A handler of the pipeline: the socket is the queue of requests. One of the sisters gets each message.
fn handle_requests(requests: &Socket, serving: &Serving) -> Result<()> {
    let responses = stdout();
    while readable(requests, serving.stop, None) {
        let mut message = [0; MESSAGE_BYTES];
        match recv(requests.as_raw_fd(), &mut message, MsgFlags::MSG_DONTWAIT) {
            Ok(MESSAGE_BYTES) => {}
            Ok(0) => return Ok(()), // the parent has closed the queue
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => continue, // a sister was faster
            Err(errno) => return Ok(Err(errno).at("recv", "the queue of requests")?),
        }
        let (number, request) = message.split_at(NUMBER_BYTES);
        let Some(response) = handle_request(&request.try_into()?, serving) else { break };
        let message = [number, &response].concat();
        while send(responses.as_fd().as_raw_fd(), &message, MsgFlags::MSG_NOSIGNAL) == Err(Errno::EINTR) {}
    }
    Ok(())
}
