//! Terminal 2, the lecture's simulating_many_requests: clients with one request each, who leave if no response comes.

use std::{
    fs,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    process::ExitCode,
    time::Duration,
};

use anyhow::Result;
use nix::{
    errno::Errno,
    poll::PollFlags,
    sys::socket::{MsgFlags, recv, send},
};
use shared::{Screen, Stop};

use crate::{
    RequestsArgs,
    connections::two_decimals,
    serve::{REQUEST_BYTES, Request, padded, text},
    simulator::{self, Client, End, Phase},
};

/// The kernel makes a random id of 36 bytes each time this is read.
const RANDOM_ID: &str = "/proc/sys/kernel/random/uuid";

pub fn run(args: &RequestsArgs) -> Result<ExitCode> {
    let stop = Stop::on_signals()?;
    let mut screen = Screen::new();
    let timeout = args.timeout.div_f64(args.simulator.speed);
    let (clients, addr) = (args.simulator.clients, args.simulator.address);
    screen.line("(MainThread) INFO Application start");
    screen.line(format_args!("(MainThread) INFO {clients} clients will connect to {addr} ..."));
    screen.line(format_args!("(MainThread) DEBUG Connection timeout {} sec", two_decimals(timeout)));
    simulator::run(&args.simulator, &stop, |client| {
        let id = || fs::read_to_string(RANDOM_ID).unwrap_or_else(|_| format!("client {}", client.number));
        let request = args.factor.map_or_else(|| padded(id().trim()), padded);
        ask(client, addr, timeout, &request, args.factor.is_none())
    })?;
    Ok(ExitCode::SUCCESS)
}

/// One client: connects, sends its request, waits for a response; an id must come back unchanged.
fn ask(
    client: &mut Client,
    server_addr: SocketAddr,
    timeout: Duration,
    request: &Request,
    comes_back: bool,
) -> Result<(), End> {
    let sock = client.connect(server_addr, timeout)?;
    let sock_fd = sock.as_raw_fd();
    client.say("INFO", format_args!("Connected, sending request: {}", text(request)));

    // 36 bytes find room in the buffer of a new connection.
    send(sock_fd, request, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT)
        .map_err(|errno| End::Failed("send", errno))?;
    let (mut response, mut filled) = ([0; REQUEST_BYTES], 0);
    while filled < REQUEST_BYTES {
        client.wait(sock.as_fd(), PollFlags::POLLIN, timeout)?;
        match recv(sock_fd, &mut response[filled..], MsgFlags::MSG_DONTWAIT) {
            Ok(0) => return Err(End::Closed),
            Ok(bytes_read) => filled += bytes_read,
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => return Err(End::Failed("recv", errno)),
        }
    }
    client.begins(Phase::Served);
    client.say("INFO", format_args!("Received response: {}", text(&response)));
    if comes_back && response != *request {
        return Err(End::Failed("recv", Errno::EBADMSG));
    }
    Ok(())
}
